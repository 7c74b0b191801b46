"""Import the entries of an archive."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from .. import _media
from .._errors import BencherJobError, UntrustedCache
from .._folders import MEDIA_FOLDER, NameOf, make_private, owner_only, path_of
from .._job import check_key
from .._keys import StoredFunctionVersion
from .._record import Record
from .._text import visible
from .archive import (
    ARCHIVE_VERSION,
    FORMAT,
    HEAD,
    HEAD_SIZE,
    VERSION_MEMBER,
    Member,
    Missigned,
    Unwhole,
    bound_from,
    expires_from,
    from_json,
    groups,
    members,
    pieces,
    record_from,
    version_from,
)
from .base import Entry, Found, StoreFailure
from .blobs import exposure
from .codec import SealedEntry, check, frame_of, resealed
from .embedded import DiskStore
from .parts import Buffer, DamagedEntry, UnreadableEntry
from .signature import UNSIGNED, Signature

ENTRIES_AT_ONCE: Final = 100
BYTES_AT_ONCE: Final = 1 << 25
"""Bytes of entries that are committed together at most, and one entry more."""

LARGEST_JSON: Final = 1 << 26
PROBLEMS_TOLD: Final = 100

_NAME_FAULTS: Final = {
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.EINVAL,
    errno.EILSEQ,
}
"""What the system says of a file name that it can't take."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of an archive's entries."""

    added: int = 0
    replaced: int = 0
    """Entries that were there damaged, or of another secret, and are whole now."""
    skipped: int = 0
    """Entries that were there already, and stayed as they were."""
    damaged: int = 0
    """Entries that are not whole in the archive."""
    refused: int = 0
    """Entries that are whole and that this store can't take, for the most part made with another secret."""
    problems: tuple[str, ...] = ()
    """Why entries are damaged or refused, of the first hundred."""

    def __str__(self) -> str:
        names = ("added", "replaced", "skipped", "damaged", "refused")
        counts = (f"{getattr(self, name)} {name}" for name in names)
        return "\n  ".join([", ".join(counts), *map(visible, self.problems)])


class Refused(Exception):
    """A whole entry that this store can't take; its message says why."""


def import_(store: DiskStore, path: str | os.PathLike[str], *, trusted: bool = False) -> Imported:
    """Take the entries of an archive into a store, and say what became of each.

    Each is verified as a lookup would before it is stored, and none is unpickled. An entry whose key the store has
    stays as it is there, unless it is damaged there or was made with another secret. What is damaged in the archive
    or cut off it is counted, and the rest is taken. Where `BENCHER_JOB_SECRET` is set, entries that were not made
    with this secret are refused, and so are signed entries where it is not set. Media get a folder of this store's
    own, and a path that `gen_path` returned leads there; texts that were made of one stay as they are.

    A later hit unpickles what was imported, so an archive runs the code of whoever wrote it. Pass `trusted=True` for
    one that another user owns or could write to, if you trust all of them.

    Raises:
        UntrustedCache: when another user owns the archive or can write to it, and `trusted` is False.
        BencherJobError: when it can't be read, is not an archive, or was written by a later version.
        StoreFailure: when the store can't be written; the entries taken before are kept.
    """
    store.open()
    with _opened(Path(path), trusted) as (file, size), contextlib.closing(_Importer(store, file)) as importer:
        found = False
        entries = 0
        for name, parts in groups(members(file, size)):
            found = True
            if name == HEAD:
                entries = importer.head(parts[HEAD], path)
            elif member := VERSION_MEMBER.fullmatch(name):
                importer.versions[member[1]] = parts[name]
            else:
                importer.take(name, parts)
        if not found:
            raise BencherJobError(
                f"{path} is not an archive. Give the path of a file that export() has written."
            )
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
            raise BencherJobError(f"{path} is not a file. Give the path of a file that export() has written.")
        reason = exposure(status)
        if reason and not trusted:
            raise UntrustedCache(
                os.fspath(path), reason, "If you trust all who could write to it, pass trusted=True."
            )
        yield stack.enter_context(open(descriptor, "rb", closefd=False)), status.st_size


class _Importer:
    """Takes entries into a store, some at once."""

    def __init__(self, store: DiskStore, file: BinaryIO) -> None:
        self._store = store
        self._file = file
        signature = store.files.open().signature
        self._signature = UNSIGNED if signature.is_personal else signature
        self.versions: dict[str, Member] = {}
        self._function_version = functools.lru_cache(maxsize=64)(self._read_version)
        self._pending: dict[str, Entry] = {}
        self._bytes = 0
        self._replaced: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._problems: list[str] = []

    def head(self, member: Member, path: str | os.PathLike[str]) -> int:
        """Return the number of entries that an archive says it has, 0 if that part is damaged."""
        try:
            body = from_json(self._read(member, HEAD_SIZE))
        except Unwhole:
            return 0
        if body.get("format") != FORMAT or body.get("version") != ARCHIVE_VERSION:
            raise BencherJobError(
                f"{path} was written by a later version of this library (version {body.get('version')} of the format, "
                f"and this library reads {ARCHIVE_VERSION}). Upgrade bencher_job."
            )
        entries = body.get("entries")
        return entries if isinstance(entries, int) else 0

    def take(self, name: str, parts: Mapping[str, Member]) -> None:
        """Take one entry, if it is whole and isn't there."""
        try:
            body = from_json(self._read(_part(parts, "entry.json"), LARGEST_JSON), self._signature)
            record = record_from(body["record"])
            check_key(record.key)
            if self._is_there(record.key):
                self._counts["skipped"] += 1
                return
            entry = self._entry(record, body, parts)
        except Missigned as error:
            self._refuse("refused", f"{name} is refused: {error}")
        except (Unwhole, KeyError, TypeError, ValueError) as error:
            self._refuse("damaged", f"{name} is damaged: {error}")
        except Refused as error:
            self._refuse("refused", f"{name}, the key {record.key}, is refused: {error}")
        else:
            self._pending[record.key] = entry
            self._bytes += entry.payload.nbytes
            if len(self._pending) >= ENTRIES_AT_ONCE or self._bytes >= BYTES_AT_ONCE:
                self.commit()

    def _entry(self, record: Record, body: Mapping[str, Any], parts: Mapping[str, Member]) -> Entry:
        """Verify an entry; its media are written last, when all else is right."""
        expires = expires_from(body.get("expires"))
        sealed = self._sealed(record.key, body, parts)
        bound = bound_from(body["bound"])
        function_version = None if body["edition"] is None else self._function_version(body["edition"])
        media = None
        if record.media is not None:
            media = write_media(self._store, record.key, self._media_of(body, parts))
        return Entry(
            sealed,
            replace(record, media=media),
            bound,
            function_version,
            expires=expires,
            is_copy=True,
        )

    def commit(self) -> None:
        """Commit what was taken so far."""
        if not self._pending:
            return
        self._store.put_many(list(self._pending.values()))
        replaced = len(self._replaced & self._pending.keys())
        self._counts["replaced"] += replaced
        self._counts["added"] += len(self._pending) - replaced
        self._pending, self._bytes = {}, 0

    def close(self) -> None:
        """Remove the media of entries that could not be committed."""
        for entry in self._pending.values():
            if entry.record.media is not None:
                _media.discard(self._store.folder / MEDIA_FOLDER / entry.record.media)

    def outcome(self, entries: int) -> Imported:
        """Return what became of the entries of an archive, given the number that it says it has."""
        known = self._counts.total() - self._counts["damaged"]
        self._counts["damaged"] = max(self._counts["damaged"], entries - known)
        result = Imported(**self._counts, problems=tuple(self._problems[:PROBLEMS_TOLD]))
        if result.damaged or result.refused:
            _log.warning("%s: imported %s", self._store.folder, result)
        return result

    def _refuse(self, what: str, problem: str) -> None:
        self._counts[what] += 1
        self._problems.append(problem)

    def _read(self, member: Member, most: int) -> bytes:
        if member.size > most:
            raise Unwhole(f"{member.name} is of {member.size} bytes")
        self._file.seek(member.start)
        return b"".join(pieces(self._file, member.size))

    def _is_there(self, key: str) -> bool:
        if key in self._pending:
            return True
        known = self._store.history.examine(key)
        if not isinstance(known, Found):
            return False
        is_whole = not known.damage and known.record is not None
        if not is_whole:
            self._replaced.add(key)
        return is_whole

    def _sealed(self, key: str, body: Mapping[str, Any], parts: Mapping[str, Member]) -> SealedEntry:
        """Verify an entry's bytes; nothing is expanded that would be kept."""
        member = _part(parts, "value", body["value"]["size"])
        value = self._read(member, member.size)
        if UNSIGNED.hasher(value).hexdigest() != body["value"]["digest"]:
            raise Unwhole("its value doesn't match its digest")
        return sealed_for(self._store, key, value, self._signature)

    def _read_version(self, prefix: str) -> StoredFunctionVersion | None:
        try:
            body = from_json(self._read(_part(self.versions, prefix), LARGEST_JSON), self._signature)
            return version_from(body, bytes.fromhex(prefix))
        except (Unwhole, ValueError) as error:
            _log.warning("the code of imported entries is not known: %s", error)
            return None

    def _media_of(
        self, body: Mapping[str, Any], parts: Mapping[str, Member]
    ) -> Iterator[tuple[str, str, Iterable[Buffer]]]:
        for each in body["media"]:
            member = _part(parts, each["part"], each["size"])
            self._file.seek(member.start)
            yield each["path"], each["digest"], pieces(self._file, member.size)


def write_media(store: DiskStore, key: str, files: Iterable[tuple[str, str, Iterable[Buffer]]]) -> str:
    """Write the files of an entry, each with its digest, to a new folder of a store, and return the folder's name.

    Raises:
        Unwhole: when a file is damaged, or no file can have its name.
        StoreFailure: when they can't be written.
    """
    folder = Path(_media.run_folder(store.folder, key))
    try:
        make_private(folder)
        for name, digest, content in files:
            path = path_of(folder, NameOf.RUN_FILE, name)
            make_private(path.parent)
            hasher = UNSIGNED.hasher(b"")
            with open(path, "xb", opener=owner_only) as file:
                for piece in content:
                    hasher.update(piece)
                    file.write(piece)
            if hasher.hexdigest() != digest:
                raise Unwhole(f"its file {name} doesn't match its digest")  # noqa: TRY301 - as the others
    except OSError as error:
        _media.discard(folder)
        if error.errno in _NAME_FAULTS:
            raise Unwhole(str(error)) from error
        raise StoreFailure(f"{type(error).__name__}: {error}") from error
    except BaseException:
        _media.discard(folder)
        raise
    return folder.name


def sealed_for(store: DiskStore, key: str, value: bytes, signature: Signature) -> SealedEntry:
    """Verify the bytes of an entry, sealed with a signature, and sign them as the store does. Nothing is expanded.

    Raises:
        Refused: when the store can't take them: they are too large, damaged or of another secret.
    """
    try:
        expanded = frame_of(value, key).expanded
        if expanded > store.size_limit:
            raise Refused(
                f"its value takes {expanded} bytes, more than the whole store may ({store.size_limit})"
            )
        check(value, key, signature=signature)
    except (DamagedEntry, UnreadableEntry) as error:
        raise Refused(str(error)) from error
    return resealed(value, store.files.open().signature)


def _part(parts: Mapping[str, Member], name: str, size: int | None = None) -> Member:
    """Return a part by its name, and check its size in bytes if that is known."""
    member = parts.get(name)
    if member is None:
        raise Unwhole(f"it has no {name}")
    if size is not None and member.size != size:
        raise Unwhole(f"{name} is of {member.size} bytes, and should be of {size}")
    return member
