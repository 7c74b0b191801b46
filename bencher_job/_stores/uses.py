"""Count the uses of entries: noted in memory at each hit, written to the database in bulk.

    a hit -> noted -> the next commit, the end of the process, or many entries later -> access_time, Totals

What a process that is killed has not written is lost: an entry seems to be used less recently, and nothing else.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from .._processes import renew_after_fork
from .._record import Totals
from .base import Hits, StoreFailure, Use
from .database import Database, Locked
from .folder import Folder
from .gate import operation

__all__ = ["Drained", "Uses"]


LARGEST_BATCH: Final = 50_000
"""How many entries are noted at most before they are written."""

MISSES_PER_BATCH: Final = 64
"""How many misses are noted before a commit writes them."""

WITH_COMMITS: Final = 1.0
"""Seconds after which a commit writes the uses as well."""

WHEN_ASKED: Final = 0.05
"""Seconds between two times that uses are written because the generation has changed."""

USED: Final = "UPDATE Cache SET access_time = ?, access_count = access_count + ? WHERE raw = 1 AND key = ?"
COUNTED: Final = "UPDATE Totals SET hits = hits + ?, misses = misses + ?, seconds = seconds + ?"


class Drained(NamedTuple):
    """Uses on their way into the database."""

    used: dict[str, tuple[int, float]]
    """How often each entry was used, and when for the last time."""
    totals: Totals


class Uses:
    """The uses of one store's entries that are not written yet.

    Attributes:
        misses: how many results were computed and stored.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._used: dict[str, tuple[int, float]] = {}
        self._in_bulk: list[tuple[float, list[str], float]] = []
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave to the parent what it has noted."""
        self._lock = threading.Lock()
        self._used.clear()
        self._in_bulk.clear()
        self._number_in_bulk = 0
        self._hits = 0
        self.misses = 0
        self._seconds = 0.0
        self._last = time.monotonic()

    def note(self, key: str, seconds: float) -> None:
        """Note the use of an entry that was read from the disk, whose function had run for so long."""
        self._add(key, 1, time.time())
        self._hits += 1
        self._seconds += seconds
        if len(self._used) >= LARGEST_BATCH:
            self.write_at_once()

    def note_many(self, hits: Hits) -> None:
        """Note one use of each entry that was read from the disk.

        It is worked out with the next writing, so that who reads many waits for nothing.
        """
        seconds = [each[1] for each in hits.small.values()] + [hit.seconds for hit in hits.others.values()]
        self._in_bulk.append((time.time(), list(hits), sum(seconds)))
        self._number_in_bulk += len(hits)
        if self._number_in_bulk >= LARGEST_BATCH:
            with self._lock:
                self._work_out_bulks()
            if len(self._used) >= LARGEST_BATCH:
                self.write_at_once()

    def add(self, uses: Sequence[Use]) -> None:
        """Note hits that a memory cache has answered."""
        with self._lock:
            for key, count, at, seconds in uses:
                self._add(key, count, at)
                self._hits += count
                self._seconds += count * seconds
        if len(self._used) >= LARGEST_BATCH:
            self.write_at_once()

    def _work_out_bulks(self) -> None:
        self._number_in_bulk = 0
        while self._in_bulk:
            at, keys, seconds = self._in_bulk.pop()
            for key in keys:
                self._add(key, 1, at)
            self._hits += len(keys)
            self._seconds += seconds

    def _add(self, key: str, count: int, at: float) -> None:
        before = self._used.get(key)
        self._used[key] = (count, at) if before is None else (count + before[0], max(at, before[1]))

    def drain(self) -> Drained:
        """Take what is noted."""
        with self._lock:
            self._work_out_bulks()
            used, self._used = self._used, {}
            totals = Totals(self._hits, self.misses, self._seconds)
            self._hits, self.misses, self._seconds, self._last = 0, 0, 0.0, time.monotonic()
        return Drained(used, totals)

    def restore(self, drained: Drained) -> None:
        """Note again what could not be written."""
        with self._lock:
            for key, (number, at) in drained.used.items():
                self._add(key, number, at)
            self._hits += drained.totals.hits
            self.misses += drained.totals.misses
            self._seconds += drained.totals.seconds_saved

    def due(self) -> Drained | None:
        """Take what is noted, if it is much or was noted some time ago, so that a commit writes it as well."""
        if self.misses < MISSES_PER_BATCH and time.monotonic() - self._last < WITH_COMMITS:
            return None
        return self.drain()

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
        if (self._used or self._in_bulk) and time.monotonic() - self._last >= WHEN_ASKED:
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
            with operation, opened.database.transaction(None if waits else 0) as transaction:
                self.write(opened.database, drained)
                transaction.commit()
        except (Locked, sqlite3.Error, StoreFailure):
            self.restore(drained)  # no hit fails for it; it is written with the next commit
