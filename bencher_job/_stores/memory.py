"""Knows the tier before the disk: verified bytes of recent small entries, and when they are out of date.

    get(key) -> the generation is the one seen -> here -> Hit
                        |                           |
                   drop all that is here       ask the store behind, keep what is small

A counter in a file that all processes map, the generation, says whether bytes in memory are still those on disk. It is
odd while an entry is replaced or removed, and greater afterwards. A process that is killed in between leaves it odd,
and then everybody asks the disk until the next change makes it even.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .._forks import renew_after_fork
from .._record import Record
from .base import MISS, Entry, History, Hit, Miss, Store, Tally
from .codec import Payload

__all__ = ["Generation", "MemoryTier"]

TIER_LIMIT: Final = 64 << 20
"""Bytes that one tier holds at most."""

LARGEST: Final = 64 << 10
"""Size in bytes of the largest entry that is kept in memory."""

OVERHEAD: Final = 300
"""Bytes that an entry takes in memory besides its own."""

_CLOSED: Final = memoryview(b"\1" * 8).cast("Q")
"""Stands for a generation that is not mapped: an odd number."""


class Generation:
    """A number that all processes with one store share, and that changes with each replacement and removal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.number: memoryview = _CLOSED
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._lock = threading.RLock()

    def open(self) -> None:
        """Map the file, made if it isn't there.

        Raises:
            OSError: when it can't be made or mapped.
        """
        with self._lock:
            if self.number is not _CLOSED:
                return
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < 8:
                    # Written, not made longer: a hole is filled at the first look, which kills on a full disk.
                    # And never a number that another file in this place has had.
                    os.pwrite(descriptor, (time.time_ns() & ~1).to_bytes(8, sys.byteorder), 0)
                self.number = memoryview(mmap.mmap(descriptor, 8)).cast("Q")
            finally:
                os.close(descriptor)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep every process from trusting its memory while entries are replaced or removed, and tell it after.

        It is taken before the database's own write lock, never inside it.
        """
        self.open()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with self._lock:
                number = self.number
                number[0] |= 1
                try:
                    yield
                finally:
                    number[0] += 1
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmap the file."""
        with self._lock:
            self.number = _CLOSED  # the map goes with its last view


class MemoryTier:
    """A store that answers from memory where it can, and from the store behind it otherwise."""

    def __init__(self, store: Store, generation: Generation, limit: int = TIER_LIMIT) -> None:
        self._store = store
        self._generation = generation
        self._limit = limit
        self._seen = 0
        self._hits: OrderedDict[str, Hit] = OrderedDict()
        self._bytes = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._lock = threading.Lock()

    @property
    def directory(self) -> Path | None:
        """The folder of the store behind."""
        return self._store.directory

    @property
    def tally(self) -> Tally:
        """What the store behind set aside and evicted."""
        return self._store.tally

    @property
    def puts(self) -> int:
        """The store behind counts."""
        return self._store.puts

    def get(self, key: str) -> Hit | Miss:
        """Look an entry up, in memory first."""
        if self._generation.number[0] == self._seen:
            hit = self._hits.get(key)
            if hit is not None:
                try:
                    self._hits.move_to_end(key)
                except KeyError:  # another thread has just dropped it
                    pass
                return hit
        generation = self._renew()
        found = self._store.get(key)
        if found is not MISS:
            self._keep({key: found}, generation)  # type: ignore[dict-item]
        return found

    def get_many(self, keys: Iterable[str]) -> dict[str, Hit]:
        """Look entries up in bulk, in memory first."""
        generation = self._renew()
        found, missing = {}, []
        for key in keys:
            hit = self._hits.get(key) if generation == self._seen else None
            if hit is None:
                missing.append(key)
            else:
                found[key] = hit
        if missing:
            behind = self._store.get_many(missing)
            self._keep(behind, generation)
            found.update(behind)
        return found

    def _renew(self) -> int:
        """Drop what is out of date and give the generation from which the disk is read now."""
        generation = int(self._generation.number[0])
        if generation != self._seen and not generation & 1:
            with self._lock:
                self._hits.clear()
                self._bytes = 0
                self._seen = generation
        return generation

    def _keep(self, hits: dict[str, Hit], generation: int) -> None:
        small = {
            key: hit for key, hit in hits.items() if hit.payload.nbytes <= LARGEST and not hit.payload.buffers
        }
        with self._lock:
            if generation != self._seen:  # changed while the disk was read
                return
            for key, hit in small.items():
                if key not in self._hits:
                    self._hits[key] = Hit(Payload(bytes(hit.payload.stream)), hit.seconds)
                    self._bytes += hit.payload.nbytes + OVERHEAD
            while self._bytes > self._limit:
                _, dropped = self._hits.popitem(last=False)
                self._bytes -= dropped.payload.nbytes + OVERHEAD

    def put_many(self, entries: Sequence[Entry]) -> None:
        """Commit entries to the store behind; memory takes them in when they are asked for."""
        self._store.put_many(entries)

    def has(self, key: str) -> bool:
        """Ask the store behind."""
        return self._store.has(key)

    def forget(self, key: str) -> bool:
        """Let the store behind forget it; its generation tells everybody's memory."""
        return self._store.forget(key)

    def clear(self, *, function: str | None = None, tag: str | None = None) -> int:
        """Clear the store behind; its generation tells everybody's memory."""
        return self._store.clear(function=function, tag=tag)

    @property
    def history(self) -> History:
        """What the store behind can tell."""
        return self._store.history

    def records(self, *, function: str | None = None, tag: str | None = None) -> Iterator[Record]:
        """Give the records of the store behind."""
        return self._store.records(function=function, tag=tag)

    def count(self) -> int:
        """Count the entries of the store behind."""
        return self._store.count()

    def size(self) -> int:
        """Give the size of the store behind."""
        return self._store.size()

    def close(self) -> None:
        """Drop what is in memory and close the store behind."""
        with self._lock:
            self._hits.clear()
            self._bytes = 0
        self._store.close()
