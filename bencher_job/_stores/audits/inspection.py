"""Knows how a store is looked at: every entry's bytes, and that rows, value files, media and figures belong together.

    database, entries, rows, files, media, figures -> findings

Others may use the store meanwhile. Each question is one short statement, and what looks wrong is looked at again: what
a put, a clear or an eviction is at in this moment is right at the second look.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ... import _media
from ..._errors import UntrustedCache
from ..._names import MEDIA_FOLDER, ForeignName, NameOf, path_of
from ..._processes import may_live
from ..base import StoreFailure
from ..database import DATABASE_NAME
from ..entries.faults import DamagedEntry, MissignedEntry, UnreadableEntry
from ..folder import Folder
from ..lookups import check_row
from ..tables import LIVE, SELECT_ENTRY, SELECT_FIGURES, SELECT_RECORD, TRUE_FIGURES, is_text, record_of
from .findings import LISTED, Fault, Finding

__all__ = ["Inspection", "Wrong", "wrong_with"]

UNDER_WAY: Final = 600.0
"""Seconds for which a value file without an entry may be that of a put that is under way, if its process lives.

A put waits a minute for the database at most, and writes files of many entries before it commits them together."""

GRACE: Final = 2.0
"""Seconds for which what is about to be removed may stay while nothing else goes."""

ENTRIES_AT_ONCE: Final = 100
ROWS_AT_ONCE: Final = 2_000
NAMES_AT_ONCE: Final = 10_000

_FOLDER: Final = re.compile(r"[0-9a-f]{2}", re.ASCII)
_ENTRIES: Final = (
    f"{SELECT_ENTRY}> CAST(? AS TEXT) AND typeof(key) = 'text' AND {LIVE}"
    f" ORDER BY key LIMIT {ENTRIES_AT_ONCE}"
)
_RECORDS: Final = (
    f"{SELECT_RECORD} WHERE raw = 1 AND key > CAST(? AS TEXT) AND typeof(key) = 'text' AND {LIVE}"
    f" ORDER BY key LIMIT {ROWS_AT_ONCE}"
)
_FOREIGN: Final = "SELECT rowid FROM Cache WHERE NOT (raw = 1 AND typeof(key) = 'text') ORDER BY rowid"
_WITH_ROWS: Final = "SELECT filename FROM Cache WHERE filename IN (SELECT value FROM json_each(?))"
_OWNED_MEDIA: Final = (
    "SELECT media FROM Cache WHERE media IN (SELECT value FROM json_each(?))"
    " UNION SELECT media FROM Discarded WHERE media IN (SELECT value FROM json_each(?))"
)
_FIGURES: Final = f"SELECT * FROM ({SELECT_FIGURES}), ({TRUE_FIGURES})"


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong with an entry's bytes."""

    fault: Fault
    detail: str = ""
    is_missigned: bool = False
    """Whether it is signed, and only its signature is not what this secret makes, or none."""


class Inspection:
    """One look at all of a store.

    Attributes:
        entries: how many had their bytes read.
        good: how many of them are right.
        missigned: how many of them may be right with another secret.
        under_way: value files without an entry, so new that a put may be at them.
        foreign: what is not the store's own.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.findings: list[Finding] = []
        self.foreign: list[str] = []
        self.entries = 0
        self.good = 0
        self.missigned = 0
        self.under_way = 0

    def run(self) -> None:
        """Look at everything, as far as the database can be read."""
        self._run(self._database, self._entries, self._records, self._files, self._media, self._figures)

    def run_for_orphans(self) -> None:
        """Look for files and folders that no entry owns, which is quick: no entry's bytes are read."""
        self._run(self._files, self._media)

    def _run(self, *looks: Callable[[], None]) -> None:
        for look in looks:
            try:
                look()
            except StoreFailure as error:
                self._find(Fault.DATABASE, DATABASE_NAME, str(error))

    def _find(self, fault: Fault, name: str, detail: str = "") -> None:
        self.findings.append(Finding(fault, name, detail))

    def _database(self) -> None:
        for (message,) in self._folder.query(f"PRAGMA quick_check({LISTED})"):
            if message != "ok":
                self._find(Fault.DATABASE, DATABASE_NAME, message)

    def _entries(self) -> None:
        for row in _in_steps(self._folder, _ENTRIES):
            if not is_text(row[0]):
                self.foreign.append(f"the entry of the key {row[0]!a} in {DATABASE_NAME}")
                continue
            self.entries += 1
            wrong = _wrong_with_row(self._folder, row)
            if wrong is None:
                self.good += 1
            else:
                self.missigned += wrong.is_missigned
                self._find(wrong.fault, row[0], wrong.detail)

    def _records(self) -> None:
        for row in _in_steps(self._folder, _RECORDS):
            if not is_text(row[0]):
                continue
            try:
                record = record_of(row)
            except (ValueError, TypeError) as error:
                self._find(Fault.RECORD_DAMAGED, row[0], str(error))
                continue
            if record.media is not None and _is_lost(self._folder, record.key, record.media):
                self._find(Fault.MEDIA_MISSING, record.key, record.media)
        self.foreign += [f"row {rowid} of {DATABASE_NAME}" for (rowid,) in self._folder.query(_FOREIGN)]

    def _files(self) -> None:
        suspects: list[str] = []
        files = self._value_files()
        while some := list(itertools.islice(files, NAMES_AT_ONCE)):
            new = {name for name, is_new in some if is_new}
            stray = _without_rows(self._folder, [name for name, _ in some])
            self.under_way += sum(name in new for name in stray)
            suspects += [name for name in stray if name not in new]
        for name in _lasting(suspects, lambda: _without_rows(self._folder, suspects)):
            self._find(Fault.STRAY_FILE, name)

    def _value_files(self) -> Iterator[tuple[str, bool]]:
        """Give the paths in the store, and whether a put may be at them."""
        for name, entry in self._in_value_folders():
            parts = NameOf.VALUE_FILE.match(name)
            if parts is None or not entry.is_file(follow_symlinks=False):
                self.foreign.append(name)
                continue
            try:
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:
                continue
            writes = parts["process"] is None or may_live(parts["process"])
            # One that is far in the future was written by another clock.
            yield name, writes and abs(age) < UNDER_WAY

    def _in_value_folders(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Give what lies in folders as `ab/cd`, or beside them in `ab`, by its path in the store."""
        for outer in _in_folder(self._folder.directory):
            if not (_FOLDER.fullmatch(outer.name) and outer.is_dir(follow_symlinks=False)):
                continue
            for inner in _in_folder(outer.path):
                if not (_FOLDER.fullmatch(inner.name) and inner.is_dir(follow_symlinks=False)):
                    self.foreign.append(f"{outer.name}/{inner.name}")
                    continue
                for file in _in_folder(inner.path):
                    yield f"{outer.name}/{inner.name}/{file.name}", file

    def _media(self) -> None:
        folders = _in_folder(self._folder.directory / MEDIA_FOLDER)
        while some := [entry.name for entry in itertools.islice(folders, NAMES_AT_ONCE)]:
            names = json.dumps(some)
            owned = {media for (media,) in self._folder.query(_OWNED_MEDIA, (names, names))}
            for name in some:
                if name not in owned:
                    self._unowned_media(name)
        for name in _lasting(_discarded(self._folder), lambda: _discarded(self._folder)):
            try:
                path = path_of(self._folder.directory, NameOf.RUN_FOLDER, name)
            except ForeignName as error:
                self._find(Fault.DISCARDED_MEDIA, "row of Discarded", str(error))
            else:
                self._find(Fault.DISCARDED_MEDIA, str(path.relative_to(self._folder.directory)))

    def _unowned_media(self, name: str) -> None:
        folder = self._folder.directory / MEDIA_FOLDER / name
        if not os.path.lexists(folder):
            return
        if folder.is_symlink() or not folder.is_dir() or not _media.is_run_folder(name):
            self.foreign.append(f"{MEDIA_FOLDER}/{name}")
        elif not _media.may_be_running(name):
            self._find(Fault.STRAY_MEDIA, f"{MEDIA_FOLDER}/{name}")

    def _figures(self) -> None:
        ((count, size, true_count, true_size),) = self._folder.query(_FIGURES)
        if count != true_count:
            self._find(Fault.MISCOUNTED, "entries", f"{count} are counted, and there are {true_count}")
        if size != true_size:
            self._find(Fault.MISCOUNTED, "size", f"{size} bytes are counted, and there are {true_size}")


def _in_steps(folder: Folder, statement: str) -> Iterator[tuple[Any, ...]]:
    """Give the rows of live entries in the order of their keys, by statements that each give some after a key."""
    before = b""
    while rows := folder.query(statement, (before, time.time())):
        yield from rows
        before = os.fsencode(rows[-1][0])


def _in_folder(path: str | Path) -> Iterator[os.DirEntry[str]]:
    """Give what is in a folder, if it is there."""
    try:
        with os.scandir(path) as entries:
            yield from entries
    except FileNotFoundError:
        pass


def wrong_with(folder: Folder, key: str) -> Wrong | None:
    """Say what is wrong with the bytes of a key's entry; None of one that is right, or isn't there."""
    rows = folder.query(SELECT_ENTRY + "= ?", (key,))
    return _wrong_with_row(folder, rows[0]) if rows else None


def _wrong_with_row(folder: Folder, row: tuple[Any, ...]) -> Wrong | None:
    """Say what is wrong with an entry, if it still is the one of this row of `SELECT_ENTRY`."""
    while True:
        opened = folder.open()
        try:
            check_row(row, opened)
        except FileNotFoundError:
            wrong = Wrong(Fault.FILE_MISSING)
        except DamagedEntry as error:
            wrong = Wrong(Fault.DAMAGED, str(error))
        except MissignedEntry as error:
            wrong = Wrong(Fault.UNREADABLE, str(error), is_missigned=error.is_signed)
        except (UnreadableEntry, UntrustedCache, OSError) as error:
            wrong = Wrong(Fault.UNREADABLE, str(error))
        else:
            return None
        rows = folder.query(SELECT_ENTRY + "= ?", (row[0],))
        if not rows:
            return None
        if rows[0] == row:  # a file is removed after its row only, so this is no removal that is under way
            return wrong
        row = rows[0]


def _is_lost(folder: Folder, key: str, media: str) -> bool:
    """Whether an entry owns media that are not there."""
    path = path_of(folder.directory, NameOf.RUN_FOLDER, media)
    if path.is_dir() and not path.is_symlink():
        return False
    return bool(folder.query("SELECT 1 FROM Cache WHERE raw = 1 AND key = ? AND media = ?", (key, media)))


def _without_rows(folder: Folder, names: Sequence[str]) -> list[str]:
    """Give those of the value files that are there and that no row names."""
    named = {filename for (filename,) in folder.query(_WITH_ROWS, (json.dumps(names),))}
    return [name for name in names if name not in named and os.path.lexists(folder.directory / name)]


def _discarded(folder: Folder) -> list[str]:
    return [name for (name,) in folder.query("SELECT media FROM Discarded")]


def _lasting(suspects: list[str], look: Callable[[], list[str]]) -> list[str]:
    """Give the suspects that stay when nobody is at them: those that go one after the other are being removed."""
    left = suspects
    patience = time.monotonic() + GRACE
    while left and time.monotonic() < patience:
        time.sleep(GRACE / 20)
        still = set(look())
        if any(name not in still for name in left):
            left = [name for name in left if name in still]
            patience = time.monotonic() + GRACE
    return left
