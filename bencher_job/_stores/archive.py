"""Knows archives: entries of a store in one file, and how they come into another store.

An archive is a tar file, so that other tools can look into it:

    bencher_job.json              what it is, and how many entries it has
    editions/<prefix>.json        a function as it stood, before its first entry
    entries/<number>/value        an entry's bytes as they are in the store, sealed
    entries/<number>/media/...    the files that its job wrote
    entries/<number>/entry.json   its record and encoded arguments, size and digest of its other parts

Nothing in it is believed. Each part is read where it is whole, whatever lies damaged before it; names of members never
become paths; nothing is unpickled.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import itertools
import json
import logging
import os
import re
import stat
import struct
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any, BinaryIO, Final, cast

from .. import _media
from .._errors import BencherJobError, UntrustedCache, warn_caller
from .._keys import Edition, PastEdition
from .._record import Record
from .arrival import Arrival
from .base import Entry, Found, StoreFailure
from .codec import _HEADER, _PARTS, Buffer, DamagedEntry, Payload, UnreadableEntry, unseal
from .disk import DiskStore
from .signature import UNSIGNED
from .tables import SELECT_ENTRY, SELECT_RECORD, chosen, past_edition_of, record_of

__all__ = ["Imported", "export", "import_"]

ARCHIVE_VERSION: Final = 1
FORMAT: Final = "bencher_job archive"
HEAD: Final = "bencher_job.json"

ENTRIES_AT_ONCE: Final = 100
BYTES_AT_ONCE: Final = 1 << 25
"""Bytes of entries that are committed together at most, and one entry more."""

LARGEST_JSON: Final = 1 << 26
PIECE: Final = 1 << 20
PROBLEMS_TOLD: Final = 100

_HEAD_SIZE: Final = 512
_BLOCK: Final = tarfile.BLOCKSIZE
_LONGEST_LABEL: Final = 100
"""Length in bytes of the longest name that one block of a tar file holds."""

_ENTRY: Final = re.compile(r"entries/([0-9]{1,15})/(.+)", re.ASCII)
_EDITION: Final = re.compile(r"editions/([0-9a-f]{2,128})\.json", re.ASCII)

_SELECT: Final = SELECT_RECORD.replace("SELECT ", "SELECT bound, edition, ", 1)
_SELECT_EDITION: Final = (
    "SELECT prefix, key_version, fingerprint, version, parameters, manifest, sources, function FROM Edition"
    " WHERE prefix = ?"
)

_NAME_FAULTS: Final = {
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.EINVAL,
    errno.EILSEQ,
}
"""What the system says of a file name that it can't take."""

_PLAIN: Final = (str, int, float, NoneType)
_ACCEPTED: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "datetime": (str,),
    "Mapping[str, Any]": (dict,),
}
"""What stands in an archive for a field of a record, by its annotation; `_PLAIN` for others."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of an archive's entries."""

    added: int = 0
    replaced: int = 0
    """Entries that were there damaged, and are whole now."""
    skipped: int = 0
    """Entries that were there already, and stayed as they were."""
    damaged: int = 0
    """Entries that are not whole in the archive."""
    refused: int = 0
    """Entries that are whole, and that this store can't take: made with another secret, for the most part."""
    problems: tuple[str, ...] = ()
    """Why entries are damaged or refused, of the first hundred."""

    def __str__(self) -> str:
        counts = (
            f"{getattr(self, name)} {name}" for name in ("added", "replaced", "skipped", "damaged", "refused")
        )
        return "\n  ".join([", ".join(counts), *self.problems])


class _Refused(Exception):
    """A whole entry that this store can't take; its message says why."""


class _Unwhole(Exception):
    """A part of an archive, or an entry on its way into one, that is not whole; its message says how."""


def export(
    store: DiskStore,
    path: str | os.PathLike[str],
    *,
    function: str | None = None,
    tag: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    keys: Iterable[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Write entries with their records, editions and media to one file, and give how many there are.

    Chosen are those of a function, of a tag, that began to run at `since` or later and before `until`, and of `keys`,
    all of it together. The file appears when it is complete, for its owner only. A damaged entry is left out, with one
    `CacheWarning` for all of them. The entries of a store with a secret stay signed: who imports them needs the secret.

    Raises:
        BencherJobError: when the file is there and `overwrite` is False.
        StoreFailure: when it can't be written, or the store can't be read.
    """
    target = Path(path)
    _refuse_overwriting(target, overwrite)
    store.open()
    part = target.with_name(f".{target.name}.{os.urandom(8).hex()}.part")
    try:
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w+b") as file:
                exporter = _Exporter(store, file)
                exporter.write(_selected(store, function, tag, since, until, keys))
                file.flush()
                os.fsync(file.fileno())
            _refuse_overwriting(target, overwrite)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreFailure(f"{target} can't be written: {error}") from error
    if exporter.left_out:
        warn_caller(
            f"{exporter.left_out} entries of {store.directory} are damaged or incomplete, and are not in {target}. "
            f"verify() tells which."
        )
    return exporter.count


def _refuse_overwriting(target: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(target):
        raise BencherJobError(f"{target} is there already. Choose another path, or pass overwrite=True.")


def _selected(
    store: DiskStore,
    function: str | None,
    tag: str | None,
    since: datetime | None,
    until: datetime | None,
    keys: Iterable[str] | None,
) -> Iterator[list[tuple[Any, ...]]]:
    """Give encoded arguments, edition and record of the chosen entries, some at once, in the order of their keys."""
    where, values = chosen(function, tag)
    conditions, limits = [], list[object](values)
    for condition, moment in (("created >= ?", since), ("created < ?", until)):
        if moment is not None:
            conditions.append(condition)
            limits.append(moment.timestamp())
    if keys is not None:
        conditions.append("key IN (SELECT value FROM json_each(?))")
    statement = f"{_SELECT}{where}{' AND ' if where else ' WHERE '}{' AND '.join([*conditions, 'key > ?'])}"
    wanted = None if keys is None else sorted(set(keys))
    for start in range(0, 1 if wanted is None else len(wanted), ENTRIES_AT_ONCE):
        last = ""
        named = [] if wanted is None else [json.dumps(wanted[start : start + ENTRIES_AT_ONCE])]
        while rows := store._query(
            f"{statement} ORDER BY key LIMIT {ENTRIES_AT_ONCE}", (*limits, *named, last)
        ):
            yield rows
            last = rows[-1][2]


class _Exporter:
    """Writes an archive to an empty file."""

    def __init__(self, store: DiskStore, file: BinaryIO) -> None:
        self._store = store
        self._file = file
        self._editions: set[bytes] = set()
        self.count = 0
        self.left_out = 0

    def write(self, selected: Iterable[Sequence[tuple[Any, ...]]]) -> None:
        """Write entries, and how many there are."""
        self._member(HEAD, self._head())
        for some in selected:
            keys = [row[2] for row in some]
            found = self._store._query(f"{SELECT_ENTRY} IN ({','.join('?' * len(keys))})", keys)
            rows = {row[0]: row for row in found}
            for row in some:
                if row[2] in rows:
                    self._take(rows[row[2]], row)
        self._file.write(bytes(2 * _BLOCK))
        self._file.seek(_BLOCK)
        self._file.write(self._head())

    def _head(self) -> bytes:
        body = {"format": FORMAT, "version": ARCHIVE_VERSION, "entries": self.count}
        return _to_json(body).ljust(_HEAD_SIZE)

    def _take(self, row: tuple[Any, ...], known: tuple[Any, ...]) -> None:
        """Write an entry, or nothing of it."""
        start = self._file.tell()
        try:
            self._entry(f"entries/{self.count + 1}/", row, known)
        except _Unwhole as error:
            self._file.seek(start)
            self._file.truncate()
            if self._store.has(row[0]):  # and was not removed meanwhile
                self.left_out += 1
                _log.warning("%s: the entry %s is not exported: %s", self._store.directory, row[0], error)
        else:
            self.count += 1

    def _entry(self, label: str, row: tuple[Any, ...], known: tuple[Any, ...]) -> None:
        bound, prefix, *of_record = known
        try:
            record = record_of(tuple(of_record))
        except (ValueError, TypeError) as error:
            raise _Unwhole(f"its record is damaged: {error}") from error
        value = self._value(row)
        if prefix is not None and prefix not in self._editions:
            self._edition(prefix)
        self._member(label + "value", value)
        body = {
            "record": {each.name: getattr(record, each.name) for each in fields(Record)}
            | {"arguments": dict(record.arguments), "created": record.created.isoformat()},
            "bound": None if bound is None else base64.b64encode(bound).decode(),
            "edition": None if prefix is None else prefix.hex(),
            "value": {"size": len(value), "digest": UNSIGNED.hasher(value).hexdigest()},
            "media": [] if record.media is None else list(self._media(label, record.media)),
        }
        self._member(label + "entry.json", _to_json(body))
        if prefix is not None:
            self._editions.add(prefix)

    def _value(self, row: tuple[Any, ...]) -> Buffer:
        """Read and verify an entry's bytes."""
        key, mode, filename, value, *_ = row
        try:
            sealed = self._store.open().disk.fetch(mode, filename, value, False)
            unseal(sealed, key, signature=self._store._signature)
        except (DamagedEntry, UnreadableEntry, UntrustedCache, OSError) as error:
            raise _Unwhole(str(error)) from error
        return sealed.memory if isinstance(sealed, Arrival) else sealed

    def _edition(self, prefix: bytes) -> None:
        for row in self._store._query(_SELECT_EDITION, (prefix,)):
            past = past_edition_of(row, row[-1])
            body = {each.name: getattr(past, each.name) for each in fields(PastEdition)}
            body |= {"prefix": prefix.hex(), "manifest": dict(past.manifest), "sources": dict(past.sources)}
            self._member(f"editions/{prefix.hex()}.json", _to_json(body))

    def _media(self, label: str, media: str) -> Iterator[dict[str, object]]:
        """Write the regular files of a run's folder, and tell where each lies in the archive and in the folder."""
        folder = self._store.directory / _media.MEDIA_FOLDER / media
        if not folder.is_dir():
            raise _Unwhole("its media are missing")
        for number, path in enumerate(sorted(folder.rglob("*"))):
            if path.is_symlink() or not path.is_file():
                continue
            name = path.relative_to(folder).as_posix()
            part = f"media/{name}"
            if len(os.fsencode(label + part)) > _LONGEST_LABEL:
                part = f"media-{number}"
            try:
                source = path.open("rb")
            except OSError as error:
                raise _Unwhole(str(error)) from error
            with source:
                size = os.fstat(source.fileno()).st_size
                digest = self._copy(label + part, source, size)
            yield {"path": name, "part": part, "size": size, "digest": digest}

    def _copy(self, label: str, source: BinaryIO, size: int) -> str:
        self._file.write(_header(label, size))
        hasher = UNSIGNED.hasher(b"")
        for piece in _pieces(source, size):
            hasher.update(piece)
            self._file.write(piece)
        self._file.write(bytes(-size % _BLOCK))
        return hasher.hexdigest()

    def _member(self, label: str, content: Buffer) -> None:
        self._file.write(_header(label, len(content)))
        self._file.write(content)
        self._file.write(bytes(-len(content) % _BLOCK))


def _header(label: str, size: int) -> bytes:
    info = tarfile.TarInfo(label)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Read so many bytes."""
    while size:
        try:
            piece = file.read(min(size, PIECE))
        except OSError as error:
            raise _Unwhole(str(error)) from error
        if not piece:
            raise _Unwhole("a file ends too early")
        size -= len(piece)
        yield piece


def _to_json(body: dict[str, Any]) -> bytes:
    """Write a JSON object that ends with a digest of the rest of it."""
    return json.dumps({**body, "digest": _digest_of(body)}).encode()


def _digest_of(body: dict[str, Any]) -> str:
    return UNSIGNED.hasher(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _from_json(text: bytes) -> dict[str, Any]:
    """Read what `_to_json` has written.

    Raises:
        _Unwhole: when it is something else.
    """
    try:
        body = json.loads(text)
        if isinstance(body, dict) and body.pop("digest", None) == _digest_of(body):
            return body
    except (ValueError, RecursionError):
        pass
    raise _Unwhole("what is known of it doesn't match its digest")


def import_(store: DiskStore, path: str | os.PathLike[str], *, trusted: bool = False) -> Imported:
    """Take the entries of an archive into a store, and say what became of each.

    Each is verified as a lookup would before it is stored, and none is unpickled. An entry whose key the store has
    stays as it is there. What is damaged in the archive or cut off it is counted, and the rest is taken. Where
    `BENCHER_JOB_SECRET` is set, entries that were not made with this secret are refused, and so are signed entries
    where it is not set. Media get a folder of this store's own; but a value that holds a path, as `gen_path` returns
    it, goes on holding the path that it had where it was computed.

    A later hit unpickles what was imported, so an archive runs the code of whoever wrote it. Pass `trusted=True` for
    one that another user owns or could write to, if you trust all of them.

    Raises:
        UntrustedCache: when another user owns the archive or can write to it, and `trusted` is False.
        BencherJobError: when it can't be read, is no archive, or was written by a later version.
        StoreFailure: when the store can't be written; the entries taken before are kept.
    """
    store.open()
    with _opened(Path(path), trusted) as (file, size), contextlib.closing(_Importer(store, file)) as importer:
        found = False
        entries = 0
        for name, parts in _groups(_members(file, size)):
            found = True
            if name == HEAD:
                entries = importer.head(parts[HEAD], path)
            elif edition := _EDITION.fullmatch(name):
                importer.editions[edition[1]] = parts[name]
            else:
                importer.take(name, parts)
        if not found:
            raise BencherJobError(f"{path} is no archive. Give the path of a file that export() has written.")
        importer.commit()
        return importer.outcome(entries)


@contextlib.contextmanager
def _opened(path: Path, trusted: bool) -> Iterator[tuple[BinaryIO, int]]:
    """Open an archive, and give its size in bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BencherJobError(
            f"{path} can't be read: {error.strerror}. Give the path of a file that export() has written."
        ) from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, descriptor)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BencherJobError(f"{path} is no file. Give the path of a file that export() has written.")
        reason = ""
        if status.st_uid != os.geteuid():
            reason = f"belongs to the user number {status.st_uid}"
        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            reason = f"can be written to by others (mode {stat.S_IMODE(status.st_mode):o})"
        if reason and not trusted:
            raise UntrustedCache(
                os.fspath(path), reason, "If you trust all who could write to it, pass trusted=True."
            )
        yield stack.enter_context(open(descriptor, "rb", closefd=False)), status.st_size


@dataclass(frozen=True, slots=True)
class _Member:
    """A part of an archive: its name, and where its bytes are."""

    name: str
    start: int
    size: int


def _members(file: BinaryIO, end: int) -> Iterator[_Member]:
    """Give the whole members of a tar file. Behind a damaged one the next is looked for."""
    at = 0
    while at + _BLOCK <= end:
        file.seek(at)
        block = file.read(_BLOCK)
        at += _BLOCK
        if block[257:262] != b"ustar":
            continue
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            continue
        if info.type == tarfile.REGTYPE and 0 <= info.size <= end - at:
            yield _Member(info.name, at, info.size)
            at += info.size + -info.size % _BLOCK


def _groups(members: Iterable[_Member]) -> Iterator[tuple[str, dict[str, _Member]]]:
    """Give the members that are ours, those of one entry together, by their names within it."""
    for name, group in itertools.groupby(members, lambda member: _group_of(member.name)):
        if name:
            yield name, {member.name.removeprefix(name + "/"): member for member in group}


def _group_of(name: str) -> str:
    if entry := _ENTRY.fullmatch(name):
        return f"entries/{entry[1]}"
    return name if name == HEAD or _EDITION.fullmatch(name) else ""


class _Importer:
    """Takes entries into a store, some at once."""

    def __init__(self, store: DiskStore, file: BinaryIO) -> None:
        self._store = store
        self._file = file
        self.editions: dict[str, _Member] = {}
        self._edition = functools.lru_cache(maxsize=64)(self._read_edition)
        self._pending: dict[str, Entry] = {}
        self._bytes = 0
        self._replaced: set[str] = set()
        self._result = Imported()

    def head(self, member: _Member, path: str | os.PathLike[str]) -> int:
        """Give the number of entries that an archive says it has, 0 where it is damaged there."""
        try:
            body = _from_json(self._read(member, _HEAD_SIZE))
        except _Unwhole:
            return 0
        if body.get("format") != FORMAT or body.get("version") != ARCHIVE_VERSION:
            raise BencherJobError(
                f"{path} was written by a later version of this library (version {body.get('version')} of the format, "
                f"and this library reads {ARCHIVE_VERSION}). Upgrade bencher_job."
            )
        entries = body.get("entries")
        return entries if isinstance(entries, int) else 0

    def take(self, name: str, parts: Mapping[str, _Member]) -> None:
        """Take one entry, if it is whole and isn't there."""
        try:
            body = _from_json(self._read(_part(parts, "entry.json"), LARGEST_JSON))
            record = _record_from(body)
            if self._is_there(record.key):
                self._count("skipped")
                return
            payload = self._payload(record.key, body, parts)
            media = None if record.media is None else self._take_media(record.key, body, parts)
            self._pending[record.key] = Entry(payload, replace(record, media=media), *self._identity(body))
        except (_Unwhole, KeyError, TypeError, ValueError) as error:
            self._count("damaged", f"{name} is damaged: {error}")
        except _Refused as error:
            self._count("refused", f"{name}, the key {record.key}, is refused: {error}")
        else:
            self._bytes += payload.nbytes
            if len(self._pending) >= ENTRIES_AT_ONCE or self._bytes >= BYTES_AT_ONCE:
                self.commit()

    def commit(self) -> None:
        """Commit what was taken so far."""
        if not self._pending:
            return
        self._store.put_many(list(self._pending.values()))
        replaced = len(self._replaced & self._pending.keys())
        self._count("replaced", number=replaced)
        self._count("added", number=len(self._pending) - replaced)
        self._pending, self._bytes = {}, 0

    def close(self) -> None:
        """Remove the media of entries that could not be committed."""
        for entry in self._pending.values():
            if entry.record.media is not None:
                _media.discard(self._store.directory / _media.MEDIA_FOLDER / entry.record.media)

    def outcome(self, entries: int) -> Imported:
        """Say what became of all entries, of which an archive says that it has so many."""
        result = self._result
        known = result.added + result.replaced + result.skipped + result.refused
        result = replace(result, damaged=max(result.damaged, entries - known))
        if result.damaged or result.refused:
            _log.warning("%s: imported %s", self._store.directory, result)
        return result

    def _count(self, what: str, problem: str = "", number: int = 1) -> None:
        problems = self._result.problems
        if problem and len(problems) < PROBLEMS_TOLD:
            problems = (*problems, problem)
        self._result = replace(
            self._result, problems=problems, **{what: getattr(self._result, what) + number}
        )

    def _read(self, member: _Member, most: int) -> bytes:
        if member.size > most:
            raise _Unwhole(f"{member.name} is of {member.size} bytes")
        self._file.seek(member.start)
        return b"".join(_pieces(self._file, member.size))

    def _is_there(self, key: str) -> bool:
        if key in self._pending:
            return True
        known = self._store.history.examine(key)
        if not isinstance(known, Found):
            return False
        if known.damage:
            self._replaced.add(key)
        return not known.damage

    def _payload(self, key: str, body: Mapping[str, Any], parts: Mapping[str, _Member]) -> Payload:
        member = _part(parts, "value", body["value"]["size"])
        value = self._read(member, member.size)
        if UNSIGNED.hasher(value).hexdigest() != body["value"]["digest"]:
            raise _Unwhole("its value doesn't match its digest")
        size = _expanded_size(value)
        if size > self._store.size_limit:
            raise _Refused(
                f"its value takes {size} bytes, more than the whole store may ({self._store.size_limit})"
            )
        try:
            return unseal(value, key, signature=self._store._signature)
        except (DamagedEntry, UnreadableEntry) as error:
            raise _Refused(str(error)) from error

    def _identity(self, body: Mapping[str, Any]) -> tuple[bytes, Edition | None]:
        """Give the encoded arguments of an entry, and its edition, if it is whole."""
        bound = b"" if body["bound"] is None else base64.b64decode(body["bound"], validate=True)
        return bound, None if body["edition"] is None else self._edition(body["edition"])

    def _read_edition(self, prefix: str) -> Edition | None:
        try:
            body = _from_json(self._read(_part(self.editions, prefix), LARGEST_JSON))
            past = PastEdition(
                **{**body, "prefix": bytes.fromhex(prefix), "parameters": tuple(body["parameters"])}
            )
        except (_Unwhole, KeyError, TypeError, ValueError) as error:
            _log.warning("the code of imported entries is not known: %s", error)
            return None
        return cast("Edition", past)  # a store keeps both as the same row

    def _take_media(self, key: str, body: Mapping[str, Any], parts: Mapping[str, _Member]) -> str:
        """Write an entry's media to a new folder; give the folder's name."""
        folder = _media.run_folder(self._store.directory, key)
        try:
            folder.mkdir(parents=True)
            for each in body["media"]:
                member = _part(parts, each["part"], each["size"])
                self._take_file(folder / _safe(each["path"]), member, each["digest"])
        except OSError as error:
            _media.discard(folder)
            if error.errno in _NAME_FAULTS:
                raise _Unwhole(str(error)) from error
            raise StoreFailure(f"{type(error).__name__}: {error}") from error
        except BaseException:
            _media.discard(folder)
            raise
        return folder.name

    def _take_file(self, path: Path, member: _Member, digest: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        hasher = UNSIGNED.hasher(b"")
        self._file.seek(member.start)
        with path.open("xb") as file:
            for piece in _pieces(self._file, member.size):
                hasher.update(piece)
                file.write(piece)
        if hasher.hexdigest() != digest:
            raise _Unwhole(f"{member.name} doesn't match its digest")


def _part(parts: Mapping[str, _Member], name: str, size: int | None = None) -> _Member:
    """Give a part by its name, of a size in bytes where that is known."""
    member = parts.get(name)
    if member is None:
        raise _Unwhole(f"it has no {name}")
    if size is not None and member.size != size:
        raise _Unwhole(f"{name} is of {member.size} bytes, and should be of {size}")
    return member


def _safe(path: str) -> PurePosixPath:
    """Give a path that stays in the folder that it is relative to."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or not pure.parts:
        raise _Unwhole(f"the path {path!r} leads out of its folder")
    return pure


def _expanded_size(entry: bytes) -> int:
    """Add up the lengths that the parts of an entry say they have once they are expanded, in bytes."""
    try:
        _, _, _, name_length, _ = _HEADER.unpack_from(entry)
        at = _HEADER.size + name_length
        _, count, _, size = _PARTS.unpack_from(entry, at)
        lengths = (
            struct.unpack_from(f"<{2 * count}Q", entry, at + _PARTS.size) if 16 * count < len(entry) else ()
        )
    except struct.error:
        return 0  # which is damaged, as the next step finds
    return int(size + sum(lengths[1::2]))


def _record_from(body: Mapping[str, Any]) -> Record:
    """Make the record of an entry, from the fields that a record has in this or another version."""
    try:
        given = body["record"]
        known = {each.name: given[each.name] for each in fields(Record) if each.name in given}
        for each in fields(Record):
            if each.name in known:
                _check_field(each.name, known[each.name], str(each.type))
        return Record(**{**known, "created": _moment(known["created"])})
    except (KeyError, TypeError, ValueError) as error:
        raise _Unwhole(f"its record is none: {error!r}") from error


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"the time {text} is without a zone")
    return moment


def _check_field(name: str, value: object, annotation: str) -> None:
    """Refuse what doesn't fit the column of a field."""
    if not isinstance(value, _ACCEPTED.get(annotation, _PLAIN)):
        raise TypeError(f"{name} is a {type(value).__name__}")
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(f"{name} is too large")
    if isinstance(value, str):
        value.encode()
