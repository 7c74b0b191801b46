"""Count the uses of entries, and remove entries: on request, expired, damaged, or the least recently used.

    a hit -> noted -> the next commit, the end of the process, or many entries later -> access_time, Totals

What a process that is killed has not written is lost: an entry seems to be used less recently, and nothing else.

An entry that is removed takes its record with it in one transaction, its file and its media after that, and leaves a
note of why it went.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Final, NamedTuple

from .. import _media
from .._errors import warn_caller
from .._folders import ForeignName, NameOf, path_of
from .._options import Limits
from .._processes import renew_after_fork
from .._record import Totals
from .base import Hits, Reason, StoreFailure, Use
from .database import Database, Execute, Locked, fork_guard
from .folder import Folder
from .recovery import Quarantine
from .schema import ENTRY_OVERHEAD, NOTE_GONE, SELECT_FIGURES, TRIM_GONE

REMOVED_AT_ONCE: Final = 1000
"""How many entries are looked for together, to be removed."""

REMOVED_TOGETHER: Final = 250
"""How many entries one transaction removes at most: 30 ms where each fills its row, so that leases don't wait long."""

PAGES_AT_ONCE: Final = 1000
"""How many free pages of the database are given back in one transaction."""

ASK_FROM: Final = 0.9
"""The part of the size limit from which other processes are asked what they use."""

_OF_KEYS: Final = (
    "SELECT rowid, filename FROM Cache WHERE raw = 1 AND key IN (SELECT value FROM json_each(?))"
)

LARGEST_BATCH: Final = 50_000
"""How many entries are noted at most before they are written."""

_EXPIRED: Final = "expire_time <= ? AND access_time < expire_time"
"""The condition for entries whose time is over. One that was used later stays: its user has a longer ttl, or none."""

_EXCESS: Final = (
    "SELECT rowid, filename, size + 0 FROM"
    " (SELECT rowid, filename, size, access_time, row_number() OVER latest AS place,"
    f" total(size + {ENTRY_OVERHEAD}) OVER latest AS so_far FROM Cache WHERE raw = 1 AND (? IS NULL OR function = ?)"
    " AND key NOT IN (SELECT key FROM Outbox) WINDOW latest AS (ORDER BY access_time DESC, rowid DESC))"
    " WHERE place > ? OR so_far > ? OR access_time < ?"
)

MISSES_PER_BATCH: Final = 64
"""How many misses are noted before a commit writes them."""

WITH_COMMITS: Final = 1.0
"""Seconds after which a commit writes the uses as well."""

WHEN_ASKED: Final = 0.05
"""Seconds between two times that uses are written because the store has changed."""

USED: Final = (
    "UPDATE Cache SET access_time = coalesce(nullif(?, 0), access_time), access_count = access_count + ?"
    " WHERE raw = 1 AND key = ?"
)
COUNTED: Final = "UPDATE Totals SET hits = hits + ?, misses = misses + ?, seconds = seconds + ?"

_Row = tuple[int, str | None]
"""The number of an entry's row, and the name of its file if it has one."""

_log = logging.getLogger(__name__)


class Drained(NamedTuple):
    """Uses on their way into the database."""

    used: dict[str, tuple[int, float]]
    """How often each entry was used, and when for the last time."""
    totals: Totals


class Uses:
    """The uses of one store's entries that are not written yet.

    Attributes:
        misses: how many results were computed and stored.
        due: when the next commit writes the uses as well, on the monotonic clock.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._used: dict[str, tuple[int, float]] = {}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave to the parent what it has noted."""
        self._lock = threading.Lock()
        self._used.clear()
        self._hits = 0
        self.misses = 0
        self._seconds = 0.0
        self._last = time.monotonic()
        self.due = self._last + WITH_COMMITS

    def note(self, key: str, seconds: float) -> None:
        """Count the use of an entry that was read from the disk, and the seconds that its function had run."""
        before = self._used.get(key)
        self._used[key] = (1 if before is None else before[0] + 1), time.time()
        self._hits += 1
        self._seconds += seconds
        if len(self._used) >= LARGEST_BATCH:
            self.write_at_once()

    def note_many(self, hits: Hits) -> None:
        """Count one use of each entry that was read from the disk."""
        now, seconds = time.time(), hits.seconds()
        with self._lock:
            used = self._used
            for key in seconds:
                before = used.get(key)
                used[key] = (1 if before is None else before[0] + 1), now
            self._hits += len(seconds)
            self._seconds += sum(seconds.values())
        if len(used) >= LARGEST_BATCH:
            self.write_at_once()

    def add(self, uses: Sequence[Use]) -> None:
        """Count hits that a memory cache has answered."""
        with self._lock:
            for key, count, at, seconds in uses:
                self._add(key, count, at)
                self._hits += count
                self._seconds += count * seconds
        if len(self._used) >= LARGEST_BATCH:
            self.write_at_once()

    def _add(self, key: str, count: int, at: float) -> None:
        before = self._used.get(key)
        self._used[key] = (count, at) if before is None else (count + before[0], max(at, before[1]))

    def drain(self) -> Drained:
        """Take what is noted."""
        with self._lock:
            used, self._used = self._used, {}
            totals = Totals(self._hits, self.misses, self._seconds)
            self._hits, self.misses, self._seconds, self._last = 0, 0, 0.0, time.monotonic()
            self.due = self._last + WITH_COMMITS
        return Drained(used, totals)

    def restore(self, drained: Drained) -> None:
        """Keep what could not be written for the next attempt."""
        with self._lock:
            for key, (number, at) in drained.used.items():
                self._add(key, number, at)
            self._hits += drained.totals.hits
            self.misses += drained.totals.misses
            self._seconds += drained.totals.seconds_saved

    @staticmethod
    def write(database: Database, drained: Drained) -> None:
        """Write uses, inside of a transaction."""
        if drained.used:
            used = [(at, number, key) for key, (number, at) in drained.used.items()]
            database._con.executemany(USED, used)
        if any(drained.totals):
            database.execute(COUNTED, drained.totals)

    def write_now_and_then(self) -> None:
        """Write what is noted if that is some time ago."""
        if self._used and time.monotonic() - self._last >= WHEN_ASKED:
            self.write_at_once()

    def write_at_once(self, *, waits: bool = False) -> None:
        """Write what is noted; where others write just now it stays noted, unless `waits`."""
        opened = self._folder.opened
        if opened is None or not opened.is_writable:
            return
        drained = self.drain()
        if not drained.used and not any(drained.totals):
            return
        try:
            with fork_guard():
                opened.database.transact(lambda _: self.write(opened.database, drained), None if waits else 0)
        except (Locked, sqlite3.Error, StoreFailure):
            self.restore(drained)  # no hit fails for it; it is written with the next commit


class Removals:
    """Removes entries of one store."""

    def __init__(self, folder: Folder, uses: Uses) -> None:
        self._folder = folder
        self._uses = uses
        self._quarantine = Quarantine(folder.directory)

    def remove(self, condition: str, values: Sequence[object], reason: str) -> int:
        """Remove the entries that a condition is true of, with their media; how many there were.

        Raises:
            StoreFailure: when the store can't be written.
        """
        statement = f"SELECT rowid, filename FROM Cache WHERE raw = 1 AND ({condition})"
        return self._folder.changed(
            lambda database: self._remove_all(database, database.read(statement, values), reason)
        )

    def remove_keys(self, keys: Iterable[str], reason: Reason) -> int:
        """Remove the entries of keys with their media, or their failed jobs, and return how many entries there were.

        Raises:
            StoreFailure: when the store can't be written.
        """
        named = (json.dumps(list(keys)),)

        def remove(database: Database) -> int:
            database.execute("DELETE FROM Failed WHERE key IN (SELECT value FROM json_each(?))", named)
            return self._remove_all(database, database.read(_OF_KEYS, named), reason)

        return self._folder.changed(remove)

    def _remove_all(self, database: Database, rows: Sequence[_Row], reason: str) -> int:
        """Remove entries and their media, so that no memory hands them out any more."""
        removed = self._folder.changes.change(lambda: self._remove(database, rows, reason))
        self.remove_discarded(database)
        if removed >= REMOVED_AT_ONCE:
            self._shrink(database)
        return removed

    def _remove(self, database: Database, rows: Sequence[_Row], reason: str, at: float | None = None) -> int:
        """Remove entries with their records and files, some in each transaction; how many there still were."""
        removed = 0
        for start in range(0, len(rows), REMOVED_TOGETHER):
            some = rows[start : start + REMOVED_TOGETHER]
            these = f"({','.join(str(rowid) for rowid, _ in some)})"

            def remove(execute: Execute, these: str = these) -> int:
                execute(NOTE_GONE + these, (reason, time.time() if at is None else at))
                return execute(f"DELETE FROM Cache WHERE rowid IN {these}").rowcount

            removed += database.transact(remove)
            for _, filename in some:
                if filename is not None:
                    self._folder.remove_file(database, filename)
        return removed

    @staticmethod
    def _shrink(database: Database) -> None:
        """Forget the oldest notes, and shrink the file of a database that has become much smaller."""
        try:
            database.execute(TRIM_GONE)
            while True:
                ((free,),) = database.execute("PRAGMA freelist_count").fetchall()
                ((pages,),) = database.execute("PRAGMA page_count").fetchall()
                if free * 4 < pages or free < PAGES_AT_ONCE:
                    break
                database.vacuum(PAGES_AT_ONCE)
            database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:  # the next removal gives them back
            _log.info("the free pages of a database are kept: %s", error)

    def remove_discarded(self, database: Database) -> None:
        """Remove the media of entries that are gone; what a kill or a failure leaves is removed by the next call."""
        try:
            self._remove_discarded(database)
        except (sqlite3.Error, OSError) as error:  # the entries are gone all the same
            _log.warning("media of removed entries in %s stay: %s", self._folder.directory, error)

    def _remove_discarded(self, database: Database) -> None:
        for name, in_hex in database.read("SELECT media, hex(media) FROM Discarded"):
            try:
                _media.discard(path_of(self._folder.directory, NameOf.RUN_FOLDER, name))
                database.execute("DELETE FROM Discarded WHERE media = ?", (name,))
            except ForeignName as error:
                # By its bytes: it may not be a text, or not UTF-8.
                database.execute("DELETE FROM Discarded WHERE hex(media) = ?", (in_hex,))
                self._folder.report_foreign(error)

    def set_aside(self, key: str, reason: str) -> None:
        """Move the bytes of a damaged entry out of the way, and drop its row."""
        folder = self._folder
        folder.tally.damaged += 1
        _log.warning("the entry %s in %s is damaged: %s", key, folder.directory, reason)
        if not folder.only_looks:
            self._move_aside(key)
        warn_caller(f"The entry {key} in {folder.directory} is damaged: {reason}. The job runs again.")

    def _move_aside(self, key: str) -> None:
        folder = self._folder
        try:
            rows: list[_Row] = []
            for number, filename, value in folder.query(
                "SELECT rowid, filename, value FROM Cache WHERE raw = 1 AND key = ?", (key,)
            ):
                if filename is None:
                    self._quarantine.keep_bytes(
                        key, value if isinstance(value, bytes) else repr(value).encode()
                    )
                    rows.append((number, None))
                elif NameOf.VALUE_FILE.match(filename):
                    self._quarantine.keep_file(key, path_of(folder.directory, NameOf.VALUE_FILE, filename))
                    rows.append((number, filename))
                else:  # the damage that is reported
                    rows.append((number, None))
            folder.changed(lambda database: self._remove_all(database, rows, "damaged"))
        except (sqlite3.Error, OSError, StoreFailure) as error:
            _log.warning("the damaged entry %s can't be set aside: %s", key, error)

    def size(self, database: Database) -> int:
        """Return the size of all entries in bytes, in constant time."""
        ((entries, size),) = database.read(SELECT_FIGURES)
        return int(size + entries * ENTRY_OVERHEAD)

    def keep_within(self, size_limit: int) -> None:
        """Beyond a size in bytes, remove what has expired, and then the least recently used entries.

        It happens after a commit, which is done, so a failure is only logged.
        """
        try:
            self._folder.changed(lambda database: self._keep_within(database, size_limit))
        except StoreFailure as error:
            _log.warning("%s can't be kept within its size limit: %s", self._folder.directory, error)

    def _keep_within(self, database: Database, size_limit: int) -> None:
        if self.size(database) <= size_limit * ASK_FROM:
            return
        self._uses.write_at_once(waits=True)
        if self.size(database) > size_limit:
            self._remove_expired(database)
        evicted = 0
        while (excess := self.size(database) - size_limit) > 0:
            removed = self._remove_least_used(database, excess)
            if not removed:
                break
            evicted += removed
        # Processes with entries in memory now count their uses, before the next eviction.
        self._folder.changes.change(lambda: None)
        if evicted:
            self._folder.tally.evicted += evicted
            _log.warning(
                "evicted %s entries of %s to stay within %s bytes",
                evicted,
                self._folder.directory,
                size_limit,
            )
            if evicted >= REMOVED_AT_ONCE:
                self._shrink(database)

    def count_expired(self) -> int:
        """Count the entries whose time is over, and that are still there.

        Raises:
            StoreFailure: when the store can't be read.
        """
        rows = self._folder.query(f"SELECT count(*) FROM Cache WHERE {_EXPIRED}", (time.time(),))
        return int(rows[0][0])

    def remove_expired(self) -> int:
        """Remove the entries whose time is over, with their media; how many there were.

        Raises:
            StoreFailure: when the store can't be written.
        """
        return self._folder.changed(self._remove_expired)

    def _remove_expired(self, database: Database) -> int:
        removed = 0
        while rows := database.read(
            f"SELECT rowid, filename, expire_time FROM Cache WHERE {_EXPIRED}"
            f" ORDER BY expire_time LIMIT {REMOVED_AT_ONCE}",
            (time.time(),),
        ):
            at = rows[-1][2]
            removed += self._remove(database, [(rowid, name) for rowid, name, _ in rows], "expired", at)
        if removed:
            self.remove_discarded(database)
            self._folder.tally.expired += removed
            _log.info("removed %s entries of %s that had expired", removed, self._folder.directory)
        return removed

    def excess(self, limits: Limits, function: str | None = None) -> list[tuple[int, str | None, int]]:
        """Return the entries beyond limits, of a function or of all, with their files and sizes.

        Raises:
            StoreFailure: when the store can't be read.
        """
        size, entries, age = (math.inf if each is None else each for each in astuple(limits))
        values = function, function, entries, size, time.time() - age
        return [(rowid, name, int(size)) for rowid, name, size in self._folder.query(_EXCESS, values)]

    def shrink(self, limits: Limits, function: str | None = None) -> int:
        """Remove the entries beyond limits, of a function or of all, and return how many there were.

        Raises:
            StoreFailure: when the store can't be written.
        """
        self._uses.write_at_once(waits=True)
        rows = [(rowid, name) for rowid, name, _ in self.excess(limits, function)]
        removed: int = self._folder.changed(lambda database: self._remove_all(database, rows, "evicted"))
        _log.info("removed %s entries of %s beyond %s", removed, self._folder.directory, limits)
        return removed

    def _remove_least_used(self, database: Database, excess: int) -> int:
        """Remove the least recently used entries that take as many bytes, or some of them; how many."""
        oldest = database.read(
            "SELECT rowid, filename, size, media FROM Cache WHERE key NOT IN (SELECT key FROM Outbox)"
            " ORDER BY access_time, rowid LIMIT ?",
            (REMOVED_AT_ONCE,),
        )
        sizes = itertools.accumulate(size + ENTRY_OVERHEAD for _, _, size, _ in oldest)
        enough = 1 + sum(1 for size_so_far in sizes if size_so_far < excess)
        chosen = [(rowid, filename) for rowid, filename, _, _ in oldest[:enough]]
        if any(media for _, _, _, media in oldest[:enough]):  # whose paths no memory may hand out any more
            removed = self._folder.changes.change(lambda: self._remove(database, chosen, "evicted"))
        else:
            removed = self._remove(database, chosen, "evicted")
        self.remove_discarded(database)
        return removed
