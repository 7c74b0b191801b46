"""Knows how entries of a store are written to an archive."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO, Final

from ..._errors import BencherJobError, UntrustedCache, warn_caller
from ..._names import NameOf, path_of
from ..._processes import PROCESS_NAME, may_live, process_name
from ..._record import Record
from ..._selection import EVERYTHING, Selection
from ..base import StoreFailure
from ..disk import DiskStore
from ..entries.arrival import Arrival
from ..entries.codec import Buffer, DamagedEntry, UnreadableEntry, resealed
from ..entries.frame import check_ours
from ..entries.signature import SECRET_VARIABLE, UNSIGNED
from ..tables import LIVE, SELECT_RECORD, past_edition_of, record_of
from .archive import (
    ARCHIVE_VERSION,
    FORMAT,
    HEAD,
    HEAD_SIZE,
    Unwhole,
    copy_member,
    is_too_long,
    write_end,
    write_member,
)
from .descriptions import bound_to_text, edition_to_dict, expires_from, record_to_dict, to_json

__all__ = ["export"]

ENTRIES_AT_ONCE: Final = 100

_SELECT: Final = (
    SELECT_RECORD.replace("SELECT ", "SELECT bound, edition, expire_time, mode, filename, value, ", 1)
    + f" WHERE raw = 1 AND {LIVE} AND "
)
_KEY: Final = 6
"""The column of the key among them."""
_SELECT_EDITION: Final = (
    "SELECT prefix, key_version, fingerprint, version, parameters, manifest, sources, function FROM Edition"
    " WHERE prefix = ?"
)

_BYTES: Final = {bytes, NoneType}

OPEN_FILES: Final = "/proc/self/fd"
"""The folder in which the system shows the open files of this process."""

_log = logging.getLogger(__name__)


def export(
    store: DiskStore,
    path: str | os.PathLike[str],
    selection: Selection = EVERYTHING,
    *,
    keys: Iterable[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Write entries with their records, editions and media to one file, and give how many there are.

    Chosen are those of a selection and, where `keys` are given, of these keys only; what has expired is not. The file
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
            descriptor, has_name = _new_file(part)
            with open(descriptor, "w+b") as file:
                exporter = _Exporter(store, file)
                exporter.write(selection, keys)
                file.flush()
                os.fsync(descriptor)
                if not has_name:  # `src_dir_fd` has the link followed, and is not used otherwise
                    os.link(f"{OPEN_FILES}/{descriptor}", part, src_dir_fd=descriptor)
            _refuse_overwriting(target, overwrite)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreFailure(f"{target} can't be written: {error}") from error
    if exporter.left_out:
        warn_caller(
            f"{exporter.left_out} entries of {store.directory} are damaged or incomplete, or can't be verified with "
            f"this {SECRET_VARIABLE}, and are not in {target}. verify() tells which."
        )
    return exporter.count


def _new_file(part: Path) -> tuple[int, bool]:
    """Make a file without a name, of which a kill leaves nothing, or where that can't be one with a name.

    Returns its descriptor, and whether it has the name.
    """
    flags = os.O_RDWR | os.O_CLOEXEC
    if os.path.exists(OPEN_FILES):
        try:
            return os.open(part.parent, flags | os.O_TMPFILE, 0o600), False
        except (AttributeError, OSError):  # the system or the file system doesn't know such files
            pass
    return os.open(part, flags | os.O_CREAT | os.O_EXCL, 0o600), True


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
    """Give the rows of the chosen entries, some at once, in the order of their keys."""
    condition, values = selection.condition()
    among = "" if keys is None else " AND key IN (SELECT value FROM json_each(?))"
    statement = (
        f"{_SELECT}({condition}){among} AND key > ? AND typeof(key) = 'text'"
        f" ORDER BY key LIMIT {ENTRIES_AT_ONCE}"
    )
    wanted = None if keys is None else sorted(set(keys))
    for start in range(0, 1 if wanted is None else len(wanted), ENTRIES_AT_ONCE):
        last = ""
        named = [] if wanted is None else [json.dumps(wanted[start : start + ENTRIES_AT_ONCE])]
        while rows := store.folder.query(statement, (time.time(), *values, *named, last)):
            yield rows
            last = rows[-1][_KEY]


class _Exporter:
    """Writes an archive to an empty file.

    Attributes:
        count: how many entries are written.
        left_out: how many are damaged or incomplete, and are not.
    """

    def __init__(self, store: DiskStore, file: BinaryIO) -> None:
        self._store = store
        self._file = file
        self._editions: set[bytes] = set()
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
                now = self._store.folder.query(f"{_SELECT}key = ?", (time.time(), key))
                if now and now[0] == row:
                    self.left_out += 1
                    _log.warning("%s: the entry %s is not exported: %s", self._store.directory, key, error)
                elif now:  # it was replaced meanwhile
                    row = now[0]
                    continue
            return

    def _entry(self, label: str, row: tuple[Any, ...], selection: Selection) -> bool:
        """Write an entry if it is chosen; whether it is."""
        bound, prefix, expires, mode, filename, content, *of_record = row
        record = _record(tuple(of_record))
        if type(bound) not in _BYTES or type(prefix) not in _BYTES:
            raise Unwhole("its encoded arguments, or what its key begins with, are damaged")
        if not selection.matches(record):
            return False
        value = self._value(record.key, mode, filename, content)
        if prefix is not None and prefix not in self._editions:
            self._edition(prefix)
        write_member(self._file, label + "value", value)
        body = {
            "record": record_to_dict(record),
            "bound": bound_to_text(bound),
            "edition": None if prefix is None else prefix.hex(),
            "expires": expires_from(expires),
            "value": {"size": len(value), "digest": UNSIGNED.hasher(value).hexdigest()},
            "media": [] if record.media is None else list(self._media(label, record.media)),
        }
        write_member(self._file, label + "entry.json", to_json(body))
        if prefix is not None:
            self._editions.add(prefix)
        return True

    def _value(self, key: str, mode: int, filename: str | None, content: Buffer) -> Buffer:
        """Read and verify an entry's bytes."""
        opened = self._store.folder.open()
        try:
            sealed = opened.database.fetch(mode, filename, content)
            check_ours(sealed, key, signature=opened.signature)
        except (DamagedEntry, UnreadableEntry, UntrustedCache, OSError) as error:
            raise Unwhole(str(error)) from error
        value = sealed.memory if isinstance(sealed, Arrival) else sealed
        # Nobody else has this user's own key, and who hands an archive over vouches for it.
        return bytes(resealed(value, UNSIGNED)) if opened.signature.is_personal else value

    def _edition(self, prefix: bytes) -> None:
        for row in self._store.folder.query(_SELECT_EDITION, (prefix,)):
            try:
                past = past_edition_of(row, row[-1])
            except ValueError as error:  # its entries are whole without it
                _log.warning("%s: %s", self._store.directory, error)
                continue
            write_member(self._file, f"editions/{prefix.hex()}.json", to_json(edition_to_dict(past)))

    def _media(self, label: str, media: str) -> Iterator[dict[str, object]]:
        """Write the regular files of a run's folder, and tell where each lies in the archive and in the folder."""
        folder = path_of(self._store.directory, NameOf.RUN_FOLDER, media)
        if folder.is_symlink() or not folder.is_dir():
            raise Unwhole("its media are missing")
        for number, path in enumerate(sorted(folder.rglob("*"))):
            if path.is_symlink() or not path.is_file():
                continue
            name = path.relative_to(folder).as_posix()
            part = f"media/{name}"
            if is_too_long(label + part):
                part = f"media-{number}"
            try:
                source = path.open("rb")
            except OSError as error:
                raise Unwhole(str(error)) from error
            with source:
                size = os.fstat(source.fileno()).st_size
                digest = copy_member(self._file, label + part, source, size)
            yield {"path": name, "part": part, "size": size, "digest": digest}


def _record(row: tuple[Any, ...]) -> Record:
    try:
        return record_of(row)
    except (ValueError, TypeError) as error:
        raise Unwhole(f"its record is damaged: {error}") from error
