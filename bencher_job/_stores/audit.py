"""Knows whether a store is whole: every entry's bytes, and that rows, records, value files and media belong together.

    verify -> database, entries, rows, files, media, figures -> findings -> mended, if asked -> Audit

Others may use the store meanwhile. Each question is one short statement, and what looks wrong is looked at again: what
a put, a clear or an eviction is at in this moment is right at the second look.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from .. import _media
from .._errors import CacheWarning, UntrustedCache
from .base import StoreFailure
from .database import DATABASE_NAME
from .disk import DiskStore
from .faults import DamagedEntry, UnreadableEntry
from .tables import JOINED, SELECT_ENTRY

__all__ = ["Audit", "Fault", "Finding", "verify"]

UNDER_WAY: Final = 600.0
"""Seconds for which a value file without an entry may be that of a put that is under way.

A put waits a minute for the database at most, and writes files of many entries before it commits them together."""

GRACE: Final = 2.0
"""Seconds for which what is about to be removed may stay while nothing else goes."""

ENTRIES_AT_ONCE: Final = 100
ROWS_AT_ONCE: Final = 2_000
NAMES_AT_ONCE: Final = 10_000

LISTED: Final = 20
"""Findings of one kind that the text of an audit tells one by one."""

_FOLDER: Final = re.compile(r"[0-9a-f]{2}", re.ASCII)
_VALUE_FILE: Final = re.compile(r"[\w.-]+\.val(\.part)?", re.ASCII)
_RUN_FOLDER: Final = re.compile(r".+\.[0-9a-f]{8}-[0-9]+-[0-9]+\.[0-9]+", re.ASCII)
"""The names that `files.py` and `_media.py` give."""

_ENTRIES: Final = f"{SELECT_ENTRY}> ? AND typeof(key) = 'text' ORDER BY key LIMIT {ENTRIES_AT_ONCE}"
_ROWS: Final = (
    f"SELECT Cache.rowid, key, raw, entry, media FROM {JOINED} WHERE Cache.rowid > ?"
    f" ORDER BY Cache.rowid LIMIT {ROWS_AT_ONCE}"
)
_RECORDS: Final = (
    "SELECT entry, Cache.rowid FROM Record LEFT JOIN Cache ON Cache.rowid = entry WHERE entry > ?"
    f" ORDER BY entry LIMIT {ROWS_AT_ONCE}"
)
_WITH_ROWS: Final = "SELECT filename FROM Cache WHERE filename IN (SELECT value FROM json_each(?))"
_OWNED_MEDIA: Final = (
    "SELECT media FROM Record JOIN Cache ON Cache.rowid = entry WHERE media IN (SELECT value FROM json_each(?))"
    " UNION SELECT media FROM Discarded WHERE media IN (SELECT value FROM json_each(?))"
)
_FIGURES: Final = (
    "SELECT (SELECT value FROM Settings WHERE key = 'count'), count(*),"
    " (SELECT value FROM Settings WHERE key = 'size'), coalesce(sum(size), 0) FROM Cache"
)
_COUNT_ANEW: Final = (
    "UPDATE Settings SET value = CASE key WHEN 'count' THEN (SELECT count(*) FROM Cache)"
    " ELSE (SELECT coalesce(sum(size), 0) FROM Cache) END WHERE key IN ('count', 'size')"
)
_DROP_RECORD: Final = "DELETE FROM Record WHERE entry = ? AND entry NOT IN (SELECT rowid FROM Cache)"

_log = logging.getLogger(__name__)


class Fault(Enum):
    """What can be wrong in a store, in words."""

    DATABASE = "the database is damaged"
    DAMAGED = "damaged entry"
    UNREADABLE = "entry that can't be read here"
    FILE_MISSING = "entry whose value file is missing"
    MEDIA_MISSING = "entry whose media are missing"
    NO_RECORD = "entry without a record"
    NO_ENTRY = "record without an entry"
    STRAY_FILE = "value file without an entry"
    STRAY_MEDIA = "media without an entry"
    DISCARDED_MEDIA = "media that were to be removed"
    MISCOUNTED = "wrong figure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: an entry by its key, a file or folder by its path in the store."""

    fault: Fault
    name: str
    detail: str = ""
    mended: bool = False

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.fault.value}: {self.name}{detail}{' (mended)' if self.mended else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What `verify` found in a store."""

    directory: Path
    entries: int
    """Entries whose bytes were read and verified."""
    findings: tuple[Finding, ...] = ()
    """What is wrong, or was before it was mended."""
    under_way: int = 0
    """Value files without an entry that are so new that a put may still be at them."""
    foreign: tuple[str, ...] = ()
    """What is not the store's own and lies among its files; it is left as it is."""
    set_aside: int = 0
    """Damaged things that were set aside, now or earlier."""
    set_aside_bytes: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong."""
        return not self.findings

    def names(self, fault: Fault) -> list[str]:
        """Name all that has a fault."""
        return [finding.name for finding in self.findings if finding.fault is fault]

    def __str__(self) -> str:
        return "\n  ".join([self._summary(), *self._lines()])

    def _summary(self) -> str:
        state = "clean"
        if self.findings:
            mended = sum(finding.mended for finding in self.findings)
            state = f"{len(self.findings)} found wrong{f', {mended} mended' if mended else ''}"
        return f"{self.directory}: {self.entries} entries verified, {state}"

    def _lines(self) -> Iterator[str]:
        for fault in Fault:
            of_fault = [finding for finding in self.findings if finding.fault is fault]
            yield from map(str, of_fault[:LISTED])
            if len(of_fault) > LISTED:
                yield f"{fault.value}: {len(of_fault) - LISTED} more"
        if any(finding.fault is Fault.DATABASE for finding in self.findings):
            yield "a damaged database is not mended: export what can be read, remove the folder, and import it again"
        if self.under_way:
            yield f"new value files that a put may be at: {self.under_way}"
        for name in self.foreign[:LISTED]:
            yield f"not the store's own, and left: {name}"
        if len(self.foreign) > LISTED:
            yield f"not the store's own, and left: {len(self.foreign) - LISTED} more"
        if self.set_aside:
            yield f"set aside in damaged/: {self.set_aside} files of {self.set_aside_bytes} bytes"


def verify(store: DiskStore, *, repair: bool = False) -> Audit:
    """Read and verify all that a store holds, without unpickling anything; other processes may use it meanwhile.

    With `repair` a damaged entry is set aside as a lookup does it, an entry whose file or media are missing or that
    has no record is removed, and so is what killed processes have left. All of it is logged, and the job of a removed
    entry runs again. In a damaged database nothing is repaired. An entry counts as damaged where `BENCHER_JOB_SECRET`
    is not that of its writer, so set it before a repair.

    Raises:
        UntrustedCache: when another user owns the store or can write to it.
        StoreFailure: when the store can't be opened.
    """
    store.open()
    inspection = _Inspection(store)
    inspection.run()
    findings = inspection.findings
    if repair and not any(finding.fault is Fault.DATABASE for finding in findings):
        findings = [_mended(store, finding) for finding in findings]
    aside = [path.lstat().st_size for path in (store.directory / "damaged").rglob("*") if not path.is_dir()]
    return Audit(
        directory=store.directory,
        entries=inspection.entries,
        findings=tuple(findings),
        under_way=inspection.under_way,
        foreign=tuple(inspection.foreign),
        set_aside=len(aside),
        set_aside_bytes=sum(aside),
    )


class _Inspection:
    """One look at all of a store."""

    def __init__(self, store: DiskStore) -> None:
        self._store = store
        self.findings: list[Finding] = []
        self.foreign: list[str] = []
        self.entries = 0
        self.under_way = 0

    def run(self) -> None:
        """Look at everything, as far as the database can be read."""
        for look in (self._database, self._entries, self._rows, self._files, self._media, self._figures):
            try:
                look()
            except StoreFailure as error:
                self._find(Fault.DATABASE, DATABASE_NAME, str(error))

    def _find(self, fault: Fault, name: str, detail: str = "") -> None:
        self.findings.append(Finding(fault, name, detail))

    def _database(self) -> None:
        for (message,) in self._store._query(f"PRAGMA quick_check({LISTED})", ()):
            if message != "ok":
                self._find(Fault.DATABASE, DATABASE_NAME, message)

    def _entries(self) -> None:
        for row in _in_steps(self._store, _ENTRIES, ""):
            self.entries += 1
            if wrong := _fault_of(self._store, row):
                self._find(wrong[0], row[0], wrong[1])

    def _rows(self) -> None:
        for rowid, key, raw, entry, media in _in_steps(self._store, _ROWS, -1):
            if not raw or not isinstance(key, str):
                self.foreign.append(f"row {rowid} of {DATABASE_NAME}")
            elif entry is None:
                self._find(Fault.NO_RECORD, key)
            elif media is not None and _lost_media(self._store, key, media):
                self._find(Fault.MEDIA_MISSING, key, media)
        for entry, rowid in _in_steps(self._store, _RECORDS, -1):
            if rowid is None:
                self._find(Fault.NO_ENTRY, str(entry))

    def _files(self) -> None:
        suspects: list[str] = []
        files = self._value_files()
        while some := list(itertools.islice(files, NAMES_AT_ONCE)):
            new = {name for name, is_new in some if is_new}
            stray = _without_rows(self._store, [name for name, _ in some])
            self.under_way += sum(name in new for name in stray)
            suspects += [name for name in stray if name not in new]
        for name in _lasting(suspects, lambda: _without_rows(self._store, suspects)):
            self._find(Fault.STRAY_FILE, name)

    def _value_files(self) -> Iterator[tuple[str, bool]]:
        """Give the paths in the store, and whether a put may be at them."""
        for name, entry in self._in_value_folders():
            if not (_VALUE_FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)):
                self.foreign.append(name)
                continue
            try:
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:
                continue
            yield name, abs(age) < UNDER_WAY  # one that is far in the future was written by another clock

    def _in_value_folders(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Give what lies in folders as `ab/cd`, or beside them in `ab`, by its path in the store."""
        for outer in _in_folder(self._store.directory):
            if not (_FOLDER.fullmatch(outer.name) and outer.is_dir(follow_symlinks=False)):
                continue
            for inner in _in_folder(outer.path):
                if not (_FOLDER.fullmatch(inner.name) and inner.is_dir(follow_symlinks=False)):
                    self.foreign.append(f"{outer.name}/{inner.name}")
                    continue
                for file in _in_folder(inner.path):
                    yield f"{outer.name}/{inner.name}/{file.name}", file

    def _media(self) -> None:
        folders = _in_folder(self._store.directory / _media.MEDIA_FOLDER)
        while some := [entry.name for entry in itertools.islice(folders, NAMES_AT_ONCE)]:
            owned = {
                media for (media,) in self._store._query(_OWNED_MEDIA, (json.dumps(some), json.dumps(some)))
            }
            for name in some:
                folder = self._store.directory / _media.MEDIA_FOLDER / name
                if name in owned or not os.path.lexists(folder):
                    continue
                if folder.is_symlink() or not folder.is_dir() or not _RUN_FOLDER.fullmatch(name):
                    self.foreign.append(f"{_media.MEDIA_FOLDER}/{name}")
                elif not _media.may_be_running(folder):
                    self._find(Fault.STRAY_MEDIA, f"{_media.MEDIA_FOLDER}/{name}")
        for name in _lasting(_discarded(self._store), lambda: _discarded(self._store)):
            self._find(Fault.DISCARDED_MEDIA, f"{_media.MEDIA_FOLDER}/{name}")

    def _figures(self) -> None:
        ((count, true_count, size, true_size),) = self._store._query(_FIGURES, ())
        if count != true_count:
            self._find(Fault.MISCOUNTED, "count", f"{count} entries are counted, and there are {true_count}")
        if size != true_size:
            self._find(Fault.MISCOUNTED, "size", f"{size} bytes are counted, and there are {true_size}")


def _in_steps(store: DiskStore, statement: str, before: object) -> Iterator[tuple[Any, ...]]:
    """Give rows in the order of their first column, by statements that each give some rows after a place."""
    while rows := store._query(statement, (before,)):
        yield from rows
        before = rows[-1][0]


def _in_folder(path: str | Path) -> Iterator[os.DirEntry[str]]:
    """Give what is in a folder, if it is there."""
    try:
        with os.scandir(path) as entries:
            yield from entries
    except FileNotFoundError:
        pass


def _fault_of(store: DiskStore, row: tuple[Any, ...]) -> tuple[Fault, str] | None:
    """Say what is wrong with an entry, if it still is the one of this row of `SELECT_ENTRY`."""
    while True:
        try:
            store._hit(row)
        except FileNotFoundError:
            wrong = Fault.FILE_MISSING, ""
        except DamagedEntry as error:
            wrong = Fault.DAMAGED, str(error)
        except (UnreadableEntry, UntrustedCache, OSError) as error:
            wrong = Fault.UNREADABLE, str(error)
        else:
            return None
        rows = store._query(SELECT_ENTRY + "= ?", (row[0],))
        if not rows:
            return None
        if rows[0] == row:  # a file is removed after its row only, so this is no removal that is under way
            return wrong
        row = rows[0]


def _lost_media(store: DiskStore, key: str, media: str) -> bool:
    """Whether an entry owns media that are not there."""
    if (store.directory / _media.MEDIA_FOLDER / media).is_dir():
        return False
    statement = f"SELECT 1 FROM {JOINED} WHERE raw = 1 AND key = ? AND media = ?"
    return bool(store._query(statement, (key, media)))


def _without_rows(store: DiskStore, names: Sequence[str]) -> list[str]:
    """Give those of the value files that are there and that no row names."""
    named = {filename for (filename,) in store._query(_WITH_ROWS, (json.dumps(names),))}
    return [name for name in names if name not in named and os.path.lexists(store.directory / name)]


def _discarded(store: DiskStore) -> list[str]:
    return [name for (name,) in store._query("SELECT media FROM Discarded", ())]


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


def _mended(store: DiskStore, finding: Finding) -> Finding:
    try:
        mended = _mend(store, finding)
    except (OSError, StoreFailure, sqlite3.Error) as error:
        _log.warning("%s: %s is not mended: %s", store.directory, finding, error)
        return finding
    if mended:
        _log.warning("%s: %s is mended", store.directory, finding)
    return replace(finding, mended=mended)


def _mend(store: DiskStore, finding: Finding) -> bool:
    """Mend what was found; whether it is right now."""
    name = finding.name
    match finding.fault:
        case Fault.DAMAGED | Fault.FILE_MISSING:
            _quietly(lambda: store.get(name))
            return not _is_damaged(store, name)
        case Fault.NO_RECORD:
            _quietly(lambda: store._set_aside(name, "it has no record"))
            return not store.has(name)
        case Fault.MEDIA_MISSING:
            _quietly(lambda: store._set_aside(name, "its media are missing"))
            return not store.has(name)
        case Fault.NO_ENTRY:
            store._query(_DROP_RECORD, (int(name),))
        case Fault.STRAY_FILE:
            store.open().disk.remove(name)
            return not os.path.lexists(store.directory / name)
        case Fault.STRAY_MEDIA:
            _media.discard(store.directory / name)
        case Fault.DISCARDED_MEDIA:
            store._translated(store._remove_discarded)
        case Fault.MISCOUNTED:
            store._query(_COUNT_ANEW, ())
        case Fault.DATABASE | Fault.UNREADABLE:
            return False
    return True


def _quietly(work: Callable[[], object]) -> None:
    """Do what warns, and go on where warnings are errors: an audit tells all of it itself."""
    try:
        work()
    except CacheWarning:
        pass


def _is_damaged(store: DiskStore, key: str) -> bool:
    rows = store._query(SELECT_ENTRY + "= ?", (key,))
    return bool(rows) and _fault_of(store, rows[0]) is not None
