"""The file format of archives, and exporting entries to it.

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
import itertools
import json
import logging
import os
import re
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from hmac import compare_digest
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from .._errors import BencherJobError, UntrustedCache, warn_caller
from .._folders import ForeignName, owner_only
from .._keys import StoredFunctionVersion
from .._processes import PROCESS_NAME, may_live, process_name
from .._record import EVERYTHING, Record, Selection
from .._text import counted
from .base import StoreDamaged, StoreFailure
from .codec import check, resealed
from .embedded import DiskStore
from .media import StoredFile, check_contents
from .parts import Buffer, DamagedEntry, MissignedEntry, StreamingRead, UnreadableEntry
from .schema import SELECT_RECORD, SELECT_VERSION, condition_of, record_of, version_of_row
from .signature import SECRET_VARIABLE, UNSIGNED, Signature, check_hit

ARCHIVE_VERSION: Final = 1
FORMAT: Final = "bencher_job archive"
HEAD: Final = "bencher_job.json"
HEAD_SIZE: Final = 512

VERSION_MEMBER: Final = re.compile(r"editions/([0-9a-f]{2,128})\.json", re.ASCII)
PIECE: Final = 1 << 20

_ENTRY: Final = re.compile(r"entries/([0-9]{1,15})/(.+)", re.ASCII)
_BLOCK: Final = tarfile.BLOCKSIZE
_LONGEST_LABEL: Final = 100
"""Length in bytes of the longest name that one block of a tar file holds."""


class Unwhole(Exception):
    """A part of an archive, or an entry on its way into one, that is not whole; its message says how."""


class Missigned(Unwhole):
    """A part that was made with another secret, or with none."""


@dataclass(frozen=True, slots=True)
class Member:
    """A part of an archive: its name, and where its bytes are."""

    name: str
    start: int
    size: int


def write_member(file: BinaryIO, label: str, content: Buffer) -> None:
    """Write a part whose bytes are in memory."""
    file.write(_header(label, len(content)))
    file.write(content)
    file.write(bytes(-len(content) % _BLOCK))


def copy_member(file: BinaryIO, label: str, source: BinaryIO, size: int) -> str:
    """Write a part that is in another file; give its digest.

    Raises:
        Unwhole: when the other file can't be read, or has become shorter.
    """
    file.write(_header(label, size))
    hasher = UNSIGNED.hasher(b"")
    for piece in pieces(source, size):
        hasher.update(piece)
        file.write(piece)
    file.write(bytes(-size % _BLOCK))
    return hasher.hexdigest()


def write_end(file: BinaryIO, head: bytes) -> None:
    """End an archive, and write its first part again, which has the same size."""
    file.write(bytes(2 * _BLOCK))
    file.seek(_BLOCK)
    file.write(head)


def is_too_long(label: str) -> bool:
    """Whether a name is longer than that of a part may be."""
    return len(os.fsencode(label)) > _LONGEST_LABEL


def _header(label: str, size: int) -> bytes:
    info = tarfile.TarInfo(label)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Read so many bytes.

    Raises:
        Unwhole: when they are not there.
    """
    while size:
        try:
            piece = file.read(min(size, PIECE))
        except OSError as error:
            raise Unwhole(str(error)) from error
        if not piece:
            raise Unwhole("a file ends too early")
        size -= len(piece)
        yield piece


def members(file: BinaryIO, end: int) -> Iterator[Member]:
    """Yield the whole members of a tar file. After a damaged one, the next one is searched."""
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
            yield Member(info.name, at, info.size)
            at += info.size + -info.size % _BLOCK


def groups(found: Iterable[Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield our members: those of one entry together, by their names within it."""
    for name, group in itertools.groupby(found, lambda member: _group_of(member.name)):
        if name:
            yield name, {member.name.removeprefix(name + "/"): member for member in group}


def _group_of(name: str) -> str:
    if entry := _ENTRY.fullmatch(name):
        return f"entries/{entry[1]}"
    return name if name == HEAD or VERSION_MEMBER.fullmatch(name) else ""


T = TypeVar("T")

_PLAIN: Final = (str, int, float, NoneType)
_ACCEPTED: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "float": (float, int),
    "bool | None": (bool, NoneType),
    "datetime": (str,),
    "Mapping[str, Any]": (dict,),
}
"""What stands for a field of a record, by its annotation; `_PLAIN` for others."""

_FIELDS: Final = tuple((each.name, _ACCEPTED.get(str(each.type), _PLAIN)) for each in fields(Record))


def to_json(body: dict[str, Any], signature: Signature = UNSIGNED) -> bytes:
    """Write a JSON object that ends with a digest of the rest of it."""
    signed = {"signed": True} if signature.kind else {}
    return json.dumps({**body, **signed, "digest": _digest_of(body, signature)}).encode()


def _digest_of(body: dict[str, Any], signature: Signature) -> str:
    return signature.hasher(json.dumps(body, sort_keys=True).encode()).hexdigest()


def from_json(text: bytes, signature: Signature = UNSIGNED) -> dict[str, Any]:
    """Read what `to_json` has written with this signature.

    Raises:
        Missigned: when it was made with another secret, or none.
        Unwhole: when it is something else.
    """
    try:
        body = json.loads(text)
        if isinstance(body, dict):
            digest, is_signed = str(body.pop("digest", None)), body.pop("signed", False)
            if compare_digest(digest.encode(), _digest_of(body, signature).encode()):
                return body
            if not is_signed and compare_digest(digest.encode(), _digest_of(body, UNSIGNED).encode()):
                raise Missigned(f"it is not signed, and {SECRET_VARIABLE} is set")
            if is_signed and not signature.kind:
                raise Missigned(f"it is signed, and {SECRET_VARIABLE} is not set")
            if is_signed:
                raise Missigned("it doesn't match its signature: it is damaged, or made with another secret")
    except (ValueError, RecursionError):
        pass
    raise Unwhole("its description doesn't match its digest")


def record_to_dict(record: Record) -> dict[str, Any]:
    """Return a record as plain values for JSON."""
    plain = {each.name: getattr(record, each.name) for each in fields(Record)}
    return plain | {"arguments": dict(record.arguments), "created": record.created.isoformat()}


def record_from(given: Mapping[str, Any]) -> Record:
    """Make the record of an entry, from the fields that a record has in this or another version.

    Raises:
        Unwhole: when they are none of a record.
    """
    known: dict[str, Any] = {}
    try:
        for name, accepted in _FIELDS:
            if name in given:
                known[name] = value = given[name]
                kind = type(value)
                if kind not in accepted or (kind is int and value.bit_length() > 63):
                    raise TypeError(f"{name} can't be {value!a:.100}")  # noqa: TRY301 - as `_moment` does
                if kind is str and not value.isascii():
                    value.encode()
        known["created"] = _moment(known["created"])
        return Record(**known)
    except (KeyError, TypeError, ValueError) as error:
        raise Unwhole(f"its record is damaged: {error!r}") from error


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"the time {text} is without a zone")
    return moment


def bound_to_text(bound: bytes | None) -> str | None:
    """Write encoded arguments as text."""
    return None if bound is None else base64.b64encode(bound).decode()


def bound_from(text: str | None) -> bytes:
    """Read encoded arguments.

    Raises:
        ValueError: when the text is something else.
        TypeError: when it is not a text.
    """
    return b"" if text is None else base64.b64decode(text, validate=True)


def expires_from(seconds: object) -> float | None:
    """Read the time when an entry becomes a miss.

    Raises:
        Unwhole: when it is none.
    """
    if seconds is None or (type(seconds) in {int, float} and abs(seconds) < 1e300):  # type: ignore[arg-type]
        return seconds  # type: ignore[return-value]
    raise Unwhole(f"it expires at {seconds!r}, which is not a time")


def version_to_dict(past: StoredFunctionVersion) -> dict[str, Any]:
    """Return a function version without its prefix, as plain values for JSON."""
    plain = {name: value for name, value in past._asdict().items() if name != "prefix"}
    return plain | {"manifest": dict(past.manifest), "sources": dict(past.sources)}


def version_from(body: Mapping[str, Any], prefix: bytes) -> StoredFunctionVersion:
    """Make a function version of what `version_to_dict` gave.

    Raises:
        Unwhole: when it is something else.
    """
    try:
        manifest, sources = (_of_type(dict, body[name]) for name in ("manifest", "sources"))
        return StoredFunctionVersion(
            prefix,
            _of_type(str, body["function"]),
            _of_type(int, body["key_version"]),
            _of_type(str, body["fingerprint"]),
            _of_type(str, body["version"]),
            tuple(_of_type(str, name) for name in _of_type(list, body["parameters"])),
            {name: _of_type(str, text) for name, text in manifest.items()},
            {name: _of_type(str, text) for name, text in sources.items()},
        )
    except (KeyError, TypeError) as error:
        raise Unwhole(f"its function version is damaged: {error!r}") from error


def _of_type(wanted: type[T], given: object) -> T:
    """Return a value of the wanted type.

    Raises:
        TypeError: when it is of another.
    """
    if type(given) is not wanted:
        raise TypeError(f"{given!r} is a {type(given).__name__}, and should be a {wanted.__name__}")
    return given


ENTRIES_AT_ONCE: Final = 100

_SELECT: Final = (
    SELECT_RECORD.replace(
        "SELECT ", "SELECT bound, edition, expire_time, mode, filename, value, files, Cache.mac, ", 1
    )
    + " WHERE raw = 1 AND "
)
_KEY: Final = 8
"""The column of the key among them."""
_BYTES: Final = {bytes, NoneType}

_log = logging.getLogger(__name__)


def export(
    store: DiskStore,
    path: str | os.PathLike[str],
    selection: Selection = EVERYTHING,
    *,
    keys: Iterable[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Write entries with their records, function versions and media to one file, and give how many there are.

    Chosen are those of a selection and, where `keys` are given, of these keys only. The file
    appears when it is complete, for its owner only. A damaged entry and one of another secret are
    left out, with one `CacheWarning` for all of them. The entries of a store with a secret stay signed: who imports
    them needs the secret.

    Raises:
        BencherJobError: when the file is there and `overwrite` is False.
        StoreFailure: when it can't be written, or the store can't be read.
    """
    target = Path(path)
    _refuse_overwriting(target, overwrite)
    store.open()
    try:
        _remove_left_parts(target)
        part = target.with_name(f".{target.name}.{process_name()}.{os.urandom(8).hex()}.part")
        try:
            with open(part, "x+b", opener=owner_only) as file:
                exporter = _Exporter(store, file)
                exporter.write(selection, keys)
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
            f"{counted(exporter.left_out, 'entry')} of {store.folder} left out of {target}: damaged, incomplete, or "
            f"not verifiable with this {SECRET_VARIABLE}. verify() tells which."
        )
    return exporter.count


def _remove_left_parts(target: Path) -> None:
    """Remove what processes have left that were killed while they wrote to the same target."""
    name = re.compile(rf"\.{re.escape(target.name)}\.(?P<process>{PROCESS_NAME})\.[0-9a-f]+\.part", re.ASCII)
    for path in target.parent.iterdir():
        found = name.fullmatch(path.name)
        if found is not None and not may_live(found["process"]):
            path.unlink(missing_ok=True)


def _refuse_overwriting(target: Path, overwrite: bool) -> None:
    if not overwrite and os.path.lexists(target):
        raise BencherJobError(f"{target} is there already. Choose another path, or pass overwrite=True.")


def _selected(
    store: DiskStore, selection: Selection, keys: Iterable[str] | None
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of the chosen entries, some at once, in the order of their keys."""
    condition, values = condition_of(selection)
    among = "" if keys is None else " AND key IN (SELECT value FROM json_each(?))"
    statement = (
        f"{_SELECT}({condition}){among} AND key > ? AND typeof(key) = 'text'"
        f" ORDER BY key LIMIT {ENTRIES_AT_ONCE}"
    )
    wanted = None if keys is None else sorted(set(keys))
    for start in range(0, 1 if wanted is None else len(wanted), ENTRIES_AT_ONCE):
        last = ""
        named = [] if wanted is None else [json.dumps(wanted[start : start + ENTRIES_AT_ONCE])]
        while rows := store.files.query(statement, (*values, *named, last)):
            yield rows
            if rows[-1][_KEY] <= last:
                raise StoreDamaged(f"the index of keys of {store.folder} is out of order")
            last = rows[-1][_KEY]


class StoredEntry(NamedTuple):
    """An entry of a store, verified, and nothing of it unpickled."""

    record: Record
    bound: bytes | None
    prefix: bytes | None
    expires: float | None
    value: Buffer
    media: list[tuple[StoredFile, Path]]
    """What its job wrote, and where that is here."""


def entries_of(store: DiskStore, keys: Iterable[str]) -> Iterator[StoredEntry]:
    """Iterate over the entries of some keys, without those that are damaged.

    Raises:
        StoreFailure: when the store can't be read.
    """
    for rows in _selected(store, EVERYTHING, keys):
        for row in rows:
            try:
                yield stored_entry(store, row)
            except Unwhole as error:
                _log.warning("%s: the entry %s is damaged: %s", store.folder, row[_KEY], error)


def stored_entry(store: DiskStore, row: tuple[Any, ...]) -> StoredEntry:
    """Read and verify the entry of a row.

    Raises:
        Unwhole: when it is damaged, or can't be verified.
    """
    bound, prefix, expires, mode, filename, content, files, mac, *of_record = row
    opened = store.files.open()
    record = _record(tuple(of_record), opened.signature)
    if type(bound) not in _BYTES or type(prefix) not in _BYTES:
        raise Unwhole("its encoded arguments, or what its key begins with, are damaged")
    try:
        sealed = opened.database.fetch(mode, filename, content)
        check(sealed, record.key, signature=opened.signature)
        check_hit(
            mac, sealed, record.key, record.seconds, of_record[3], record.media, files, opened.signature
        )
        media = [] if record.media is None else check_contents(store.folder, record.media, files)
    except (DamagedEntry, UnreadableEntry, UntrustedCache, ForeignName, OSError) as error:
        raise Unwhole(str(error)) from error
    value = sealed.memory if isinstance(sealed, StreamingRead) else sealed
    return StoredEntry(record, bound, prefix, expires_from(expires), value, media)


def stored_version(store: DiskStore, prefix: bytes) -> StoredFunctionVersion | None:
    """Read a function version with its sources; None if it is missing or damaged.

    Raises:
        StoreFailure: when the store can't be read.
    """
    for row in store.files.query(SELECT_VERSION, (prefix,)):
        try:
            return version_of_row(row, store.files.open().signature)
        except (ValueError, MissignedEntry) as error:  # its entries are whole without it
            _log.warning("%s: %s", store.folder, error)
    return None


class _Exporter:
    """Writes an archive to an empty file.

    Attributes:
        count: how many entries are written.
        left_out: how many are damaged or incomplete, and are not.
    """

    def __init__(self, store: DiskStore, file: BinaryIO) -> None:
        self._store = store
        self._file = file
        self._versions: set[bytes] = set()
        signature = store.files.open().signature
        # Nobody else has this user's own key, and the one who hands an archive over vouches for it.
        self._is_resealed = signature.is_personal
        self._signature = UNSIGNED if signature.is_personal else signature
        self.count = 0
        self.left_out = 0

    def write(self, selection: Selection, keys: Iterable[str] | None) -> None:
        """Write the chosen entries, and how many there are."""
        write_member(self._file, HEAD, self._head())
        for rows in _selected(self._store, selection, keys):
            for row in rows:
                self._take(row, selection)
        write_end(self._file, self._head())

    def _head(self) -> bytes:
        body = {"format": FORMAT, "version": ARCHIVE_VERSION, "entries": self.count}
        return to_json(body).ljust(HEAD_SIZE)

    def _take(self, row: tuple[Any, ...], selection: Selection) -> None:
        """Write an entry if it is chosen, or nothing of it."""
        key, start = row[_KEY], self._file.tell()
        while True:
            try:
                self.count += self._entry(f"entries/{self.count + 1}/", row, selection)
            except Unwhole as error:
                self._file.seek(start)
                self._file.truncate()
                now = self._store.files.query(f"{_SELECT}key = ?", (key,))
                if now and now[0] == row:
                    self.left_out += 1
                    _log.warning("%s: the entry %s is not exported: %s", self._store.folder, key, error)
                elif now:  # it was replaced in between
                    row = now[0]
                    continue
            return

    def _entry(self, label: str, row: tuple[Any, ...], selection: Selection) -> bool:
        """Write an entry if it is chosen; whether it is."""
        if not selection.matches(_record(row[_KEY:], self._store.files.open().signature)):
            return False
        record, bound, prefix, expires, value, media = stored_entry(self._store, row)
        if self._is_resealed:
            value = bytes(resealed(value, UNSIGNED))
        if prefix is not None and prefix not in self._versions:
            self._write_version(prefix)
        write_member(self._file, label + "value", value)
        body = {
            "record": record_to_dict(record),
            "bound": bound_to_text(bound),
            "edition": None if prefix is None else prefix.hex(),
            "expires": expires_from(expires),
            "value": {"size": len(value), "digest": UNSIGNED.hasher(value).hexdigest()},
            "media": list(self._media(label, media)),
        }
        write_member(self._file, label + "entry.json", to_json(body, self._signature))
        if prefix is not None:
            self._versions.add(prefix)
        return True

    def _write_version(self, prefix: bytes) -> None:
        past = stored_version(self._store, prefix)
        if past is not None:
            content = to_json(version_to_dict(past), self._signature)
            write_member(self._file, f"editions/{prefix.hex()}.json", content)

    def _media(self, label: str, media: Iterable[tuple[StoredFile, Path]]) -> Iterator[dict[str, object]]:
        """Write the files of an entry, and tell where each lies in the archive and in the folder."""
        for number, ((name, size, digest), path) in enumerate(media):
            part = f"media/{name}"
            if is_too_long(label + part):
                part = f"media-{number}"
            try:
                source = path.open("rb")
            except OSError as error:
                raise Unwhole(str(error)) from error
            with source:
                if copy_member(self._file, label + part, source, size) != digest:
                    raise Unwhole(f"its media were altered: {name}")
            yield {"path": name, "part": part, "size": size, "digest": digest}


def _record(row: tuple[Any, ...], signature: Signature) -> Record:
    try:
        return record_of(row, signature)
    except (ValueError, TypeError, MissignedEntry) as error:
        raise Unwhole(f"its record is damaged: {error}") from error
