"""Verify and repair a store.

    database, entries, rows, files, media, figures -> findings

Others may use the store at the same time. Each query is one short statement, and what looks wrong is looked at again,
because a put, a clear or an eviction may just be changing it.

verify -> Inspection -> findings -> mended, if asked -> Audit
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final

from .. import _media, _options
from .._errors import BencherJobError, CacheWarning, UntrustedCache
from .._folders import DAMAGED_FOLDER, MEDIA_FOLDER, ForeignName, NameOf, path_of
from .._processes import may_live
from .._record import Record
from .._text import counted, size_text, visible
from .base import StoreDamaged, StoreFailure
from .database import DATABASE_NAME
from .embedded import DiskStore
from .folder import Folder
from .lookups import check_row
from .media import check_contents, check_sizes
from .parts import DamagedEntry, MissignedEntry, UnreadableEntry
from .schema import (
    SELECT_FIGURES,
    SELECT_RECORD,
    TRUE_FIGURES,
    count,
    is_text,
    record_of,
)
from .signature import SECRET_VARIABLE

LISTED: Final = 20
"""Findings of one kind that the text of an audit tells one by one."""


class Fault(Enum):
    """What can be wrong in a store, in words."""

    DATABASE = "the database is damaged"
    DAMAGED = "damaged entry"
    UNREADABLE = "entry that can't be read here"
    FILE_MISSING = "entry whose value file is missing"
    MEDIA_MISSING = "entry whose media are missing"
    MEDIA_ALTERED = "entry whose media were altered"
    RECORD_DAMAGED = "entry whose record is damaged"
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
        detail = f": {visible(self.detail)}" if self.detail else ""
        return f"{self.fault.value}: {visible(self.name)}{detail}{' (mended)' if self.mended else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What `verify` found in a store."""

    directory: Path
    entries: int
    """Entries whose bytes were read and verified, whether they are right or not."""
    findings: tuple[Finding, ...] = ()
    """What is wrong, or was before it was repaired."""
    under_way: int = 0
    """Value files without an entry that are so new that a put may still write them."""
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
        return f"{self.directory}: {counted(self.entries, 'entry')} verified, {state}"

    def _lines(self) -> Iterator[str]:
        for fault in Fault:
            of_fault = [finding for finding in self.findings if finding.fault is fault]
            yield from map(str, of_fault[:LISTED])
            if len(of_fault) > LISTED:
                yield f"{fault.value}: {len(of_fault) - LISTED} more"
        if any(finding.fault is Fault.DATABASE and not finding.mended for finding in self.findings):
            yield "verify --repair sets a damaged database aside, and keeps what can be read"
        if self.under_way:
            yield f"new value files that a put may be at: {self.under_way}"
        for name in self.foreign[:LISTED]:
            yield f"not the store's own, and left: {visible(name)}"
        if len(self.foreign) > LISTED:
            yield f"not the store's own, and left: {len(self.foreign) - LISTED} more"
        if self.set_aside:
            yield f"set aside in damaged/: {counted(self.set_aside, 'file')} of {size_text(self.set_aside_bytes)}"


_BLOCK: Final = 512
"""Bytes of the blocks that `stat` counts, whatever the file system's own are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What lies in a store's folder, each in bytes that it takes on the disk."""

    directory: Path
    database: int = 0
    """The table of entries, with the small ones in it, and SQLite's log."""
    values: int = 0
    """The files of large entries."""
    media: int = 0
    """The files that jobs wrote."""
    damaged: int = 0
    """What was set aside."""
    other: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.database + self.values + self.media + self.damaged + self.other


def footprint_of(directory: Path) -> Footprint:
    """Measure a store's folder. Files that others remove at the same time may count or not.

    Raises:
        OSError: when a folder can't be read.
    """
    kinds = dict.fromkeys(("database", "values", "media", "damaged", "other"), 0)
    for path in files_under(directory):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        kinds[_kind(path.relative_to(directory))] += status.st_blocks * _BLOCK
    return Footprint(directory=directory, **kinds)


def _kind(path: Path) -> str:
    top = path.parts[0]
    if len(path.parts) == 1:
        return "database" if top.startswith(DATABASE_NAME) else "other"
    if top in {MEDIA_FOLDER, DAMAGED_FOLDER}:
        return "media" if top == MEDIA_FOLDER else "damaged"
    return "values" if path.suffix == ".val" else "other"


def bytes_of(path: Path) -> int:
    """Add up the sizes of a file, or of all files in a folder, in bytes; 0 where there is neither."""
    total = 0
    for file in files_under(path) if path.is_dir() and not path.is_symlink() else (path,):
        try:
            total += file.lstat().st_size
        except FileNotFoundError:
            continue
    return total


def media_files(directory: Path, record: Record) -> dict[Path, int]:
    """Return the files that the run of a record has written, with their sizes in bytes."""
    if record.media is None:
        return {}
    folder = path_of(directory, NameOf.RUN_FOLDER, record.media)
    return {} if folder.is_symlink() else {path: bytes_of(path) for path in sorted(files_under(folder))}


def files_under(directory: Path) -> Iterator[Path]:
    """Yield everything but folders in a folder and below it; links are not followed."""
    for folder, _, names in os.walk(directory, onerror=_raise_unless_gone):
        yield from (Path(folder, name) for name in names)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def clean_orphaned_media(
    cache_dir: str | os.PathLike[str] | None = None, dry_run: bool = True
) -> dict[Path, int]:
    """Find the media folders that no entry of any cache owns, with their sizes in bytes.

    Only a run that was killed leaves such a folder. The folder of a job that may still run is never among them: one
    whose process lives on this machine, or that another machine has made. Nor is one that somebody else has put there,
    which has no run's name. Nothing is removed unless `dry_run` is False.

    holobench's function of this name returns a pair: `list(orphans), sum(orphans.values())` of this one's dict.

    Raises:
        UntrustedCache: when another user owns a cache or can write to it.
    """
    orphans = {}
    for database in sorted(_options.cache_directory(cache_dir).glob(f"*/{DATABASE_NAME}")):
        store = DiskStore(database.parent, size_limit=sys.maxsize)
        inspection = Inspection(store.files)
        inspection.look_at_media()
        store.close()
        for folder in (database.parent / each.name for each in inspection.findings):
            orphans[folder] = bytes_of(folder)
            if not dry_run:
                _media.discard(folder)
    return orphans


clean_orphaned_media.__module__ = "bencher_job"  # the package imports it on first use


UNDER_WAY: Final = 600.0
"""Seconds for which a value file without an entry may be that of a put that is under way, if its process lives.

A put waits a minute for the database at most, and writes files of many entries before it commits them together."""

GRACE: Final = 2.0
"""Seconds for which what is about to be removed may stay: a removal takes 250 rows, and then what belongs to them."""

ENTRIES_AT_ONCE: Final = 100
NAMES_AT_ONCE: Final = 10_000

_FOLDER: Final = re.compile(r"[0-9a-f]{2}", re.ASCII)
_OF_VALUE: Final = "key, mode, filename, value, seconds, created, media, files, Cache.mac, Cache.rowid"
"""The columns that `check_row` takes; those of a record follow."""

_RECORD_AT: Final = len(_OF_VALUE.split())
_FILES_AT: Final = _OF_VALUE.split(", ").index("files")
_ENTRY: Final = f"{SELECT_RECORD.replace('SELECT', f'SELECT {_OF_VALUE},', 1)} WHERE raw = 1 AND key "
_ENTRIES: Final = f"{_ENTRY}> CAST(? AS TEXT) AND typeof(key) = 'text' ORDER BY key LIMIT {ENTRIES_AT_ONCE}"
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
        self._run(
            self._database, self._entries, self._files, self.look_at_media, self._discarded, self._figures
        )

    def run_for_orphans(self) -> None:
        """Look for files and folders that no entry owns, which is quick: no entry's bytes are read."""
        self._run(self._files, self.look_at_media, self._discarded)

    def _run(self, *looks: Callable[[], None]) -> None:
        for look in looks:
            try:
                look()
            except StoreFailure as error:
                self._find(Fault.DATABASE, DATABASE_NAME, str(error))

    def _find(self, fault: Fault, name: str, detail: str = "") -> None:
        self.findings.append(Finding(fault, name, detail))

    def _database(self) -> None:
        for (message,) in self._folder.query(f"PRAGMA integrity_check({LISTED})"):
            if message != "ok":
                self._find(Fault.DATABASE, DATABASE_NAME, message)

    def _entries(self) -> None:
        before = b""
        while rows := self._folder.query(_ENTRIES, (before,)):
            for row in rows:
                self._entry(row)
            last = os.fsencode(rows[-1][0])
            if last <= before:
                raise StoreDamaged(f"the index of keys of {self._folder.directory} is out of order")
            before = last
        self.foreign += [f"row {rowid} of {DATABASE_NAME}" for (rowid,) in self._folder.query(_FOREIGN)]

    def _entry(self, row: tuple[Any, ...]) -> None:
        if not is_text(row[0]):
            self.foreign.append(f"the entry of the key {row[0]!a} in {DATABASE_NAME}")
            return
        self.entries += 1
        wrong = _wrong_with(self._folder, row)
        if wrong is None:
            self.good += 1
        else:
            self.missigned += wrong.is_missigned
            self._find(wrong.fault, row[0], wrong.detail)

    def _files(self) -> None:
        suspects: list[str] = []
        files = self._value_files()
        while some := dict(itertools.islice(files, NAMES_AT_ONCE)):
            stray = _without_rows(self._folder, [*some])
            self.under_way += sum(some[name] for name in stray)
            suspects += [name for name in stray if not some[name]]
        for name in _lasting(suspects, lambda: _without_rows(self._folder, suspects)):
            self._find(Fault.STRAY_FILE, name)

    def _value_files(self) -> Iterator[tuple[str, bool]]:
        """Yield the paths in the store, and whether a put may still write them."""
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
        """Yield what is in folders such as `ab/cd`, or beside them in `ab`, by its path in the store."""
        for outer in _in_folder(self._folder.directory):
            if not (_FOLDER.fullmatch(outer.name) and outer.is_dir(follow_symlinks=False)):
                continue
            for inner in _in_folder(outer.path):
                if not (_FOLDER.fullmatch(inner.name) and inner.is_dir(follow_symlinks=False)):
                    self.foreign.append(f"{outer.name}/{inner.name}")
                    continue
                for file in _in_folder(inner.path):
                    yield f"{outer.name}/{inner.name}/{file.name}", file

    def look_at_media(self) -> None:
        """Look for folders of runs that no entry owns, not even a damaged one, and no process can be at."""
        folders = _in_folder(self._folder.directory / MEDIA_FOLDER)
        while some := {entry.name: entry for entry in itertools.islice(folders, NAMES_AT_ONCE)}:
            names = json.dumps([*some])
            for (media,) in self._folder.query(_OWNED_MEDIA, (names, names)):
                some.pop(media, None)
            for name, entry in some.items():
                if not os.path.lexists(entry.path):
                    continue
                if not entry.is_dir(follow_symlinks=False) or not _media.is_run_folder(name):
                    self.foreign.append(f"{MEDIA_FOLDER}/{name}")
                elif not _media.may_be_running(name):
                    self._find(Fault.STRAY_MEDIA, f"{MEDIA_FOLDER}/{name}")

    def _discarded(self) -> None:
        for name in _lasting(_discarded(self._folder), lambda: _discarded(self._folder)):
            try:
                path = path_of(self._folder.directory, NameOf.RUN_FOLDER, name)
            except ForeignName as error:
                self._find(Fault.DISCARDED_MEDIA, "row of Discarded", str(error))
            else:
                self._find(Fault.DISCARDED_MEDIA, str(path.relative_to(self._folder.directory)))

    def _figures(self) -> None:
        ((count, size, true_count, true_size),) = self._folder.query(_FIGURES)
        if count != true_count:
            self._find(Fault.MISCOUNTED, "entries", f"{count} are counted, and there are {true_count}")
        if size != true_size:
            self._find(Fault.MISCOUNTED, "size", f"{size} bytes are counted, and there are {true_size}")


def _in_folder(path: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield the contents of a folder, if it exists."""
    try:
        with os.scandir(path) as entries:
            yield from entries
    except FileNotFoundError:
        pass


def _wrong_with(folder: Folder, row: tuple[Any, ...]) -> Wrong | None:
    """Return what is wrong with an entry, if this row of `_ENTRY` is still its row."""
    while True:
        wrong = _wrong_with_row(folder, row)
        rows = [] if wrong is None else folder.query(_ENTRY + "= ?", (row[0],))
        if not rows:
            return None
        if rows[0] == row:  # a file is removed after its row only, so this is no removal that is under way
            return wrong
        row = rows[0]


def _wrong_with_row(folder: Folder, row: tuple[Any, ...]) -> Wrong | None:
    opened = folder.open()
    try:
        check_row(row[:_RECORD_AT], opened)
    except FileNotFoundError:
        return Wrong(Fault.FILE_MISSING, "its value file is missing")
    except DamagedEntry as error:
        return Wrong(Fault.DAMAGED, str(error))
    except (UnreadableEntry, UntrustedCache, OSError) as error:
        is_signed = isinstance(error, MissignedEntry) and error.is_signed
        return Wrong(Fault.UNREADABLE, str(error), is_missigned=is_signed)
    try:
        media = record_of(row[_RECORD_AT:], opened.signature).media
    except (ValueError, TypeError, MissignedEntry) as error:
        return Wrong(Fault.RECORD_DAMAGED, f"its record is damaged: {error}")
    fault, files = Fault.MEDIA_MISSING, row[_FILES_AT]
    try:
        if media is not None:
            check_sizes(folder.directory, media, files)
            fault = Fault.MEDIA_ALTERED
            check_contents(folder.directory, media, files)
    except (DamagedEntry, ForeignName) as error:
        return Wrong(fault, str(error))
    return None


def _without_rows(folder: Folder, names: Sequence[str]) -> list[str]:
    """Return those of the value files that exist and that no row names."""
    named = {filename for (filename,) in folder.query(_WITH_ROWS, (json.dumps(names),))}
    return [name for name in names if name not in named and os.path.lexists(folder.directory / name)]


def _discarded(folder: Folder) -> list[str]:
    return [name for (name,) in folder.query("SELECT media FROM Discarded")]


def _lasting(suspects: list[str], look: Callable[[], list[str]]) -> list[str]:
    """Return the suspects that last. The others are being removed by a process."""
    if not suspects:
        return []
    time.sleep(GRACE)
    still = set(look())
    return [name for name in suspects if name in still]


_log = logging.getLogger(__name__)


def verify(store: DiskStore, *, repair: bool = False) -> Audit:
    """Read and verify all that a store holds, without unpickling anything; other processes may use it at the same time.

    With `repair` a damaged entry is set aside as a lookup does it, and so is an entry whose file or media are missing
    or whose record is damaged; what killed processes have left is removed. All of it is logged, and the job of an
    entry that was set aside runs again. A damaged database is set aside, and a new one has all that can be read of
    it. An entry that can't be read here is left as it is.

    Raises:
        BencherJobError: when it shall be repaired, and more signed entries don't match this process's
            `BENCHER_JOB_SECRET` than entries are right. Then the secret is wrong, and nothing is changed.
        UntrustedCache: when another user owns the store or can write to it.
        StoreFailure: when the store can't be opened.
    """
    store.open()
    inspection = Inspection(store.files)
    inspection.run()
    findings = inspection.findings
    if repair:
        damage = [finding for finding in findings if finding.fault is Fault.DATABASE]
        if damage and _is_replaced(store, damage[0]):
            inspection = Inspection(store.files)
            inspection.run()
            findings = [replace(finding, mended=True) for finding in damage] + inspection.findings
        if not any(finding.fault is Fault.DATABASE for finding in inspection.findings):
            _refuse_wrong_secret(store, inspection)
            findings = [finding if finding.mended else _mended(store, finding) for finding in findings]
    aside = [path.lstat().st_size for path in files_under(store.folder / DAMAGED_FOLDER)]
    return Audit(
        directory=store.folder,
        entries=inspection.entries,
        findings=tuple(findings),
        under_way=inspection.under_way,
        foreign=tuple(inspection.foreign),
        set_aside=len(aside),
        set_aside_bytes=sum(aside),
    )


def find_orphans(store: DiskStore) -> dict[Finding, int]:
    """Find the files and folders in a store that no entry owns, with their sizes in bytes; none is removed.

    What may belong to a put or a job that is under way is not among them.

    Raises:
        StoreFailure: when the store can't be read.
    """
    store.open()
    inspection = Inspection(store.files)
    inspection.run_for_orphans()
    return {
        finding: bytes_of(store.folder / finding.name)
        for finding in inspection.findings
        if finding.fault is not Fault.DATABASE
    }


def remove_orphans(store: DiskStore, findings: Iterable[Finding]) -> list[Finding]:
    """Remove what `find_orphans` has found; give each as mended, if it is gone."""
    return [_mended(store, finding) for finding in findings]


def _is_replaced(store: DiskStore, damage: Finding) -> bool:
    """Replace a damaged database by a new one with all that can be read; whether that was done."""
    try:
        return store.files.replace_database(damage.detail)
    except StoreFailure as error:
        _log.warning("%s: %s is not mended: %s", store.folder, damage, error)
        return False
    except CacheWarning:  # where warnings are errors: an audit tells all of it itself
        return True


def _refuse_wrong_secret(store: DiskStore, inspection: Inspection) -> None:
    """Refuse to take a cache for damaged whose signatures this process can't verify."""
    signature = store.files.open().signature
    if inspection.missigned > inspection.good:
        raise BencherJobError(
            f"{inspection.missigned} of {inspection.entries} entries of {store.folder} are signed, and can't be "
            f"verified with {signature.source}. Nothing is repaired. Set {SECRET_VARIABLE} to "
            f"the secret that they were made with, or clear the cache if nobody knows it any more."
        )


def _mended(store: DiskStore, finding: Finding) -> Finding:
    try:
        mended = _mend(store, finding)
    except (OSError, StoreFailure, sqlite3.Error) as error:
        _log.warning("%s: %s is not mended: %s", store.folder, finding, error)
        return finding
    if mended:
        _log.warning("%s: %s is mended", store.folder, finding)
    return replace(finding, mended=mended)


def _mend(store: DiskStore, finding: Finding) -> bool:
    """Mend what was found; whether it is right now."""
    name, is_right = finding.name, True
    match finding.fault:
        case Fault.STRAY_FILE:
            store.open().disk.remove(name)
            is_right = not os.path.lexists(store.folder / name)
        case Fault.STRAY_MEDIA:
            _media.discard(store.folder / name)
        case Fault.DISCARDED_MEDIA:
            store.files.changed(store.removals.remove_discarded)
        case Fault.MISCOUNTED:
            store.files.changed(lambda database: database.transact(partial(count, all_again=True)))
        case Fault.DATABASE | Fault.UNREADABLE:
            is_right = False
        case _:
            is_right = _mend_entry(store, finding)
    return is_right


def _mend_entry(store: DiskStore, finding: Finding) -> bool:
    """Set an entry aside if it still is what it was found to be; whether nothing is wrong with it now."""
    rows = store.files.query(_ENTRY + "= ?", (finding.name,))
    wrong = _wrong_with(store.files, rows[0]) if rows else None
    if wrong is None:
        return True
    if wrong.fault is finding.fault:
        with suppress(CacheWarning):  # where warnings are errors: an audit tells all of it itself
            store.removals.set_aside(finding.name, wrong.detail)
    return not store.has(finding.name)
