"""Quarantine damaged files, and replace a damaged database by a new one with all rows that can still be read.

    cache.db, damaged -> every row that can be read -> damaged/<time>/new/cache.db
    cache.db          -> damaged/<time>/cache.db
                         damaged/<time>/new/cache.db -> cache.db

The bytes of an entry carry their own digest, so a row that is saved but wrong is a miss when it is looked up.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from operator import gt, lt
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from .. import _media
from .._folders import DAMAGED_FOLDER, NameOf, make_private, owner_only, path_of
from .database import DATABASE_NAME, Database, Execute
from .schema import SELECT_ENTRY, SELECT_RECORD, STORE_VERSION, count, is_text

_log = logging.getLogger(__name__)

ROWS_AT_ONCE: Final = 200

WIDTH_PER_STEP: Final = 32
"""A damaged place is crossed row by row at first, and then in steps of a 32nd of what was crossed so far."""

_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DAMAGE_IN_USE: Final = {*_DAMAGE, sqlite3.SQLITE_CONSTRAINT}
"""What our statements meet in a database that was whole when it was opened: no figures of ours break a constraint."""

_PRIMARY: Final = 0xFF
"""The bits of SQLite's error codes that say what is wrong in general."""

_TABLES: Final = (
    ("Owner", "number"),
    ("Lease", "key"),
    ("Origin", "number"),
    ("Edition", "prefix"),
    ("Gone", "key"),
    ("Failed", "key"),
    ("Outbox", "address"),
    ("Cache", "rowid"),
)
"""What is saved, and the primary key of each table."""

_NUMBERS: Final = {"rowid", "number"}
"""Those of them that are numbers."""

PROBES: Final = (
    f"{SELECT_ENTRY} IS NULL AND 0",
    f"{SELECT_RECORD} WHERE 0",
    "SELECT 1 FROM Discarded, Gone, Failure, Failed, Lease, Owner, Figures WHERE 0",
)
"""Statements that fail where a table or a column is missing."""


class Recovered(NamedTuple):
    """Where a damaged database lies now, and how many entries were saved from it."""

    aside: Path
    entries: int


UNREADABLE: Final = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What a database raises that can't be read. Its message may hold damaged bytes, which are not UTF-8."""


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says so of a damaged database, or of one that lacks a table."""
    return _code(error) in _DAMAGE or str(error).startswith("no such table")


def is_damage_in_use(error: BaseException, *, surely: bool = False) -> bool:
    """Whether SQLite says so of a database that was damaged while it was open, or in a place that is met now.

    Unless `surely`, that is also where a table or a column may be missing.
    """
    return _code(error) in _DAMAGE_IN_USE or (_code(error) == sqlite3.SQLITE_ERROR and not surely)


def _code(error: BaseException) -> int:
    if isinstance(error, UnicodeDecodeError):  # SQLite's message has the name of a part that is damaged
        return sqlite3.SQLITE_CORRUPT
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & _PRIMARY


def is_whole(directory: Path, patience: float) -> bool:
    """Whether a database has all tables, and no damage that a full check finds.

    Raises:
        sqlite3.OperationalError: when it is locked, or can't be read.
    """
    with closing(_connect(directory, patience)) as database:
        try:
            ((version,),) = database.execute("PRAGMA user_version").fetchall()
            if version > STORE_VERSION:  # a later version of this library has brought it up to date
                return True
            for probe in PROBES:
                database.execute(probe)
            is_counted = database.execute("SELECT counted FROM Totals").fetchone() is not None
            ((found,),) = database.execute("PRAGMA integrity_check(1)").fetchall()
        except UNREADABLE as error:
            if is_damage_in_use(error):
                return False
            raise
    return bool(version == STORE_VERSION and is_counted and found == "ok")


def recover(directory: Path, make: Callable[[Path], Database], patience: float) -> Recovered:
    """Replace a damaged database by a new one, while the caller keeps others from doing the same.

    `make` makes an empty one in a folder. A kill before the end leaves the damaged one in its place.

    Raises:
        OSError: when the new one can't be written.
        sqlite3.Error: when the new one can't be written.
    """
    aside = Quarantine(directory)
    folder = aside.new_folder()
    new = folder / "new"
    new.mkdir(mode=0o700)
    try:
        fresh = make(new)
        try:
            with closing(_connect(directory, patience)) as damaged:
                entries = _save(damaged, fresh)
                fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                fresh.close_all()
                # While the damaged one is locked, so that nobody commits to it in between. The log goes after the
                # database: nobody may find a database without its log, or a new one with an old log.
                aside.move(sorted(directory.glob(f"{DATABASE_NAME}*")), folder)
                os.rename(new / DATABASE_NAME, directory / DATABASE_NAME)
        finally:
            fresh.close_all()
    finally:
        for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm"):
            (new / name).unlink(missing_ok=True)
        new.rmdir()
        with suppress(OSError):  # it holds the damaged one, if all went well
            folder.rmdir()
    return Recovered(folder, entries)


def _connect(directory: Path, patience: float) -> sqlite3.Connection:
    path = os.path.abspath(directory / DATABASE_NAME)
    database = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode=rw", timeout=patience, isolation_level=None, uri=True
    )
    database.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return database


def _save(damaged: sqlite3.Connection, fresh: Database) -> int:
    """Copy all rows that can be read; how many entries there are."""
    with suppress(*UNREADABLE):  # so that nobody commits to it any more; where that fails, nobody can
        damaged.execute("BEGIN IMMEDIATE")

    def save(execute: Execute) -> int:
        for table, key in _TABLES:
            columns = [name for _, name, *_ in fresh.execute(f"PRAGMA table_info({table})")]
            into = (
                f"INSERT OR IGNORE INTO {table} ({', '.join(columns)})"
                f" VALUES ({', '.join('?' * len(columns))})"
            )
            for _, *values in _readable(damaged, f"SELECT {key}, {', '.join(columns)} FROM {table}", key):
                if _is_sound(dict(zip(columns, values, strict=True))):
                    execute(into, values)
        _save_totals(damaged, fresh)
        count(execute, all_again=True)
        ((entries,),) = execute("SELECT count(*) FROM Cache").fetchall()
        return int(entries)

    return fresh.transact(save)


def _is_sound(row: dict[str, Any]) -> bool:
    """Whether a row holds text that can be read and, where it is an entry, what statements rely on."""
    if not is_text(*row.values()):
        return False
    return "raw" not in row or (
        isinstance(row["key"], str)
        and row["raw"] == 1
        and all(isinstance(row[name], int) for name in ("size", "mode", "access_count"))
        and all(isinstance(row[name], int | float) for name in ("store_time", "access_time"))
        and all(isinstance(row[name], int | float | None) for name in ("expire_time", "created", "seconds"))
        and all(isinstance(row[name], str | None) for name in ("filename", "media", "function", "tag"))
    )


def _save_totals(damaged: sqlite3.Connection, fresh: Database) -> None:
    with suppress(*UNREADABLE):
        for row in damaged.execute("SELECT hits, misses, seconds FROM Totals LIMIT 1"):
            if all(isinstance(number, int | float) for number in row):
                fresh.execute("UPDATE Totals SET hits = ?, misses = ?, seconds = ?", row)


def _readable(damaged: sqlite3.Connection, select: str, key: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table, each beginning with its key, before, behind and between holes; some come twice.

    A hole takes a few hundred attempts at most, so all takes as long as there are rows and holes.
    """
    upwards, downwards = _Reader(damaged, select, key, ">"), _Reader(damaged, select, key, "<")
    yield from upwards
    if upwards.is_complete:
        return
    yield from downwards
    if key not in _NUMBERS:
        return
    hole, end = upwards.last or 0, sys.maxsize if downwards.last is None else downwards.last
    at = hole + 1
    while at < end:
        behind = _Reader(damaged, select, key, ">", at - 1)
        rows = iter(behind)
        first = next(rows, None)
        if first is None:
            at += 1 + (at - hole) // WIDTH_PER_STEP
            continue
        yield first
        for row in _Reader(damaged, select, key, "<", first[0]):  # what a step has passed over
            if row[0] <= hole:
                break
            yield row
        yield from rows
        if behind.is_complete:
            return
        hole, at = behind.last, behind.last + 1


class _Reader:
    """Reads rows of one table in the order of their keys, up (`>`) or down (`<`), until one can't be read.

    Attributes:
        last: the key of the last row that was read, at first that behind which it begins; None for the outermost.
        is_complete: whether all rows were read.
    """

    def __init__(
        self, damaged: sqlite3.Connection, select: str, key: str, direction: str, last: Any = None
    ) -> None:
        self._damaged = damaged
        self._is_beyond = gt if direction == ">" else lt
        order = "ASC" if direction == ">" else "DESC"
        self._first = f"{select} ORDER BY {key} {order} LIMIT ?"
        self._next = f"{select} WHERE {key} {direction} ? ORDER BY {key} {order} LIMIT ?"
        self.last = last
        self.is_complete = False

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        limit = ROWS_AT_ONCE
        while not self.is_complete:
            try:
                if self.last is None:
                    rows = self._damaged.execute(self._first, (limit,)).fetchall()
                else:
                    rows = self._damaged.execute(self._next, (self.last, limit)).fetchall()
            except UNREADABLE:
                if limit == 1:
                    return
                limit = 1  # the rows before the damaged place
                continue
            self.is_complete = len(rows) < limit
            rows = [row for row in rows if row[0] is not None]  # damaged: no key of ours is NULL
            if not rows:
                return
            if type(rows[-1][0]) is type(self.last) and not self._is_beyond(rows[-1][0], self.last):
                self.is_complete = False
                return  # damaged pages may lead back to where they were
            self.last = rows[-1][0]
            yield from rows


MOST_KEPT: Final = 1 << 30
"""Bytes that are kept of what was set aside; of that, the latest is kept however large it is."""

OVERHEAD: Final = 1 << 13
"""Bytes that a folder with a small file takes on the disk."""

LONGEST_NAME: Final = 100


class Quarantine:
    """Keeps the damaged files of one store, out of the way.

    They lie in `damaged/<time>/`. The latest are kept, up to a size in bytes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._folder = directory / DAMAGED_FOLDER
        self._added = MOST_KEPT  # bytes since the last look at how much there is: the first time looks

    def keep_bytes(self, name: str, content: bytes) -> None:
        """Keep bytes.

        Raises:
            OSError: when they can't be written.
        """
        with open(self.new_folder() / _plain(name), "xb", opener=owner_only) as file:
            file.write(content)
        self._count(len(content))

    def keep_file(self, name: str, path: Path) -> None:
        """Keep a file, which stays where it is as well; one that is gone, or no regular file, is left.

        Raises:
            OSError: when it can't be linked.
        """
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISREG(status.st_mode):
            os.link(path, self.new_folder() / _plain(name), follow_symlinks=False)
            self._count(status.st_size)

    def move(self, paths: list[Path], folder: Path) -> None:
        """Move files into a folder that `new_folder` has made; one that is gone is no error.

        Raises:
            OSError: when they can't be moved.
        """
        for path in paths:
            with suppress(FileNotFoundError):
                path.rename(folder / path.name)
        self._count(_media.size_of(folder))

    def new_folder(self) -> Path:
        """Make a folder for what is set aside together.

        Raises:
            OSError: when it can't be made.
        """
        folder = path_of(self._directory, NameOf.QUARANTINE, f"{time.time_ns()}")
        make_private(folder)
        return folder

    def _count(self, size: int) -> None:
        self._added += size + OVERHEAD
        if self._added >= MOST_KEPT // 8:
            self._added = 0
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        folders = sorted(each for each in self._folder.iterdir() if NameOf.QUARANTINE.match(each.name))
        sizes = [_media.size_of(folder) + OVERHEAD for folder in folders]
        excess = sum(sizes) - MOST_KEPT
        for folder, size in zip(folders[:-1], sizes, strict=False):
            if excess <= 0:
                break
            _media.discard(folder)
            excess -= size
            _log.warning(
                "removed %s, which takes %s bytes, since more than %s bytes were set aside",
                folder,
                size,
                MOST_KEPT,
            )


def _plain(name: str) -> str:
    """Return a valid file name for a key: the key, or its digest if the user chose the key."""
    if len(name) <= LONGEST_NAME and name.isascii() and name.replace("-", "").replace("_", "").isalnum():
        return name
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
