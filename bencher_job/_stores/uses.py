"""Count the uses of entries: noted in memory at each hit, written to the database in bulk.

Unpickling does that for every value. A value that can't change may be given as it is, and a flat dict, list or set of
such values is copied in a tenth of the time.

    a hit -> noted -> the next commit, the end of the process, or many entries later -> access_time, Totals

What a process that is killed has not written is lost: an entry seems to be used less recently, and nothing else.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import repeat
from pickle import loads
from typing import Any, Final, NamedTuple

from .._keys import UNCHANGEABLE
from .._processes import renew_after_fork
from .base import Hit, Hits, StoreFailure, Totals
from .changes import NEVER, Look
from .database import Database, Locked
from .folder import Folder
from .gate import operation

__all__ = ["Drained", "Kept", "Uses", "giver"]


LONGEST_STREAM: Final = 1 << 12
"""Size in bytes of the longest pickle of a value that is held besides it."""

MOST_MEMBERS: Final = 64
"""How many members a container has at most of which a copy is held."""


def giver(value: object, hit: Hit) -> Callable[[], Any]:
    """Give what makes the value of a hit anew; `value` is one, which somebody else may change later."""
    stream = hit.stream
    if hit.buffers:
        return hit.load
    if len(stream) <= LONGEST_STREAM:
        kind = type(value)
        if kind in UNCHANGEABLE:
            return repeat(value).__next__
        if kind in _COPIED and len(value) <= MOST_MEMBERS:  # type: ignore[arg-type]
            if kind is dict and not UNCHANGEABLE.issuperset(map(type, value.values())):  # type: ignore[attr-defined]
                return partial(loads, stream)
            if UNCHANGEABLE.issuperset(map(type, value)):  # type: ignore[call-overload]
                return _COPIED[kind](value)
    return partial(loads, stream)


def _as_it_is(value: object) -> Callable[[], Any]:
    return repeat(value).__next__


def _copied(value: Any) -> Callable[[], Any]:
    return value.copy().copy  # type: ignore[no-any-return]


_COPIED: Final[dict[type, Callable[[object], Callable[[], Any]]]] = {
    dict: _copied,
    list: _copied,
    set: _copied,
    frozenset: _as_it_is,
    tuple: _as_it_is,
}

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


class Kept:
    """An entry that is kept in memory, and how often it was used since that was last written.

    Attributes:
        hit: its bytes, or None once it is dropped.
        size: of its pickle in bytes.
        read: the generation in which it was read. As long as memory is of that one, the entry is.
        give: makes the value anew, in the quickest way; None as long as nobody has looked for one.
        used: when, on the clock that nobody sets.
    """

    __slots__ = (
        "expires", "give", "hit", "is_recent", "key", "read", "seconds", "size", "used", "uses",
    )  # fmt: skip

    def __init__(self, key: str, hit: Hit, read: Look) -> None:
        self.key = key
        self.hit: Hit | None = hit
        self.size = len(hit.stream)
        self.seconds = hit.seconds
        self.expires = hit.expires
        self.read = read
        self.give: Callable[[], Any] | None = None
        self.uses = 0
        self.used = 0.0
        self.is_recent = False

    def learn(self, value: object) -> None:
        """Find out how the value is made anew in the quickest way, of one that somebody else may change later."""
        hit = self.hit
        if hit is not None and self.give is None:
            self.give = giver(value, hit)

    def drop(self) -> None:
        """Count no more, and hold no bytes for those who still know of it."""
        self.read = NEVER
        self.give = self.hit = None


class Drained(NamedTuple):
    """Uses on their way into the database."""

    used: dict[str, tuple[int, float]]
    """How often each entry was used, and when for the last time."""
    totals: Totals


class Uses:
    """The uses of one store's entries that are not written yet.

    Attributes:
        kept: the entries in memory that were used since the last writing. Who uses one for the first time appends it.
        misses: how many results were computed and stored.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.kept: list[Kept] = []
        self._used: dict[str, tuple[int, float]] = {}
        self._in_bulk: list[tuple[int, float, list[str], float]] = []
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave to the parent what it has noted."""
        self._lock = threading.Lock()
        for kept in self.kept:
            kept.uses = 0
        self.kept.clear()
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
        self._note_in_bulk(1, list(hits), sum(seconds))

    def note_answer(self, key: str, seconds: float) -> None:
        """Note that an entry has answered a job which was read before, and did not count as a hit then."""
        self._add(key, 1, time.time())
        self._hits += 1
        self._seconds += seconds

    def retract(self, seconds: Mapping[str, float]) -> None:
        """Note that entries that were just read have answered no job: they count as used, but not as hits.

        It is worked out with the next writing, as that they were read.
        """
        self._note_in_bulk(-1, list(seconds), sum(seconds.values()))

    def _note_in_bulk(self, count: int, keys: list[str], seconds: float) -> None:
        self._in_bulk.append((count, time.time(), keys, seconds))
        self._number_in_bulk += len(keys)
        if self._number_in_bulk >= LARGEST_BATCH:
            with self._lock:
                self._work_out_bulks()
            if len(self._used) >= LARGEST_BATCH:
                self.write_at_once()

    def _work_out_bulks(self) -> None:
        self._number_in_bulk = 0
        while self._in_bulk:
            count, at, keys, seconds = self._in_bulk.pop()
            for key in keys:
                self._add(key, count, at)
            self._hits += count * len(keys)
            self._seconds += count * seconds

    def _add(self, key: str, count: int, at: float) -> None:
        before = self._used.get(key)
        self._used[key] = (count, at) if before is None else (count + before[0], max(at, before[1]))

    def drain(self) -> Drained:
        """Take what is noted."""
        begin = time.time() - time.monotonic()  # of the clock that nobody sets, on the one that people read
        with self._lock:
            hits, seconds = 0, 0.0
            while self.kept:
                kept = self.kept.pop()
                number, kept.uses = kept.uses, 0
                self._add(kept.key, number, begin + kept.used)
                hits += number
                seconds += number * kept.seconds
            self._work_out_bulks()
            used, self._used = self._used, {}
            totals = Totals(self._hits + hits, self.misses, self._seconds + seconds)
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
        if time.monotonic() - self._last >= WHEN_ASKED:
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
