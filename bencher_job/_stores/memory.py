"""The memory cache: it answers before the store behind it.

kept        asked for one by one: each with its uses
unasked     read in bulk, and not asked for one by one yet
mapped      with arrays that are maps of files

    disk, in order:     1   2   3 4 5 ... 10   11 ... 26   27 ...
    one query each:     1 | 2 | 3 ..... 10   | 11 ... 26 | 27 ...     twice as many each time

Two entries in a row make the beginning. What is read ahead is verified when it is asked for, so that what is not costs
little, and an entry that is asked for out of the order ends it.

get(key) -> nothing has changed since -> on the shelf, or read ahead -> Hit
                      |                             |
            drop all that is there          ask the store behind, keep what is small
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from .._inside import is_inside
from .._processes import renew_after_fork
from .._record import EVERYTHING, Record, Selection
from .base import Entry, History, Hit, Hits, Items, Miss, Small, Tally, Totals
from .blobs import Depository
from .changes import NEVER, SURE_FOR, Generation, Look
from .codec import Payload
from .embedded import DiskStore
from .uses import LARGEST_BATCH, Kept, Uses

if TYPE_CHECKING:
    from .._record import FunctionInfo
    from .leases import Lease, Leases

__all__ = ["LARGEST", "MemoryTier", "Shelf"]


LARGEST: Final = 64 << 10
"""Size in bytes of the largest entry that is held, the maps of its file not counted."""

MOST_MAPPED: Final = 128
"""How many entries with maps are held: as long as they are, the disk has their files, removed or not."""

OVERHEAD: Final = 500
"""Bytes that an entry takes in memory besides its own."""


class Shelf:
    """Entries in memory; all go at once when any entry of the store is replaced or removed.

    Attributes:
        read: the generation in which all that is here was read.
        sure_until: when it has to be looked at again, on the clock that nobody sets.
        note_first: call it with an entry that is used for the first time since uses were written.
    """

    def __init__(self, generation: Generation, uses: Uses, limit: int) -> None:
        self._generation = generation
        self._uses = uses
        self.note_first = uses.kept.append
        self._limit = limit
        self.read = NEVER
        self.sure_until = 0.0
        self._entries: dict[str, Kept] = {}
        self._unasked: dict[str, Small] = {}
        self._mapped: dict[str, Kept] = {}
        self._bytes = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._lock = threading.RLock()

    def is_sure(self) -> bool:
        """Whether nothing has changed since what is here was read; then that is sure for a while."""
        now = monotonic()
        if now < self.sure_until:
            return True
        look, generation = self.read
        if look is not self._generation.look or look() != generation:
            return False
        self.sure_until = now + SURE_FOR
        return True

    def begin(self, read: Look) -> None:
        """Drop all, and hold from now on what is read in another generation."""
        with self._lock:
            for kept in (*self._entries.values(), *self._mapped.values()):
                kept.drop()
            self._entries.clear()
            self._unasked.clear()
            self._mapped.clear()
            self._bytes = 0
            self.read, self.sure_until = read, 0.0

    def find(self, key: str, mapped: bool) -> Kept | None:
        """Give an entry that is asked for, unless it has expired. Be sure of what is here before."""
        kept = self._entries.get(key)
        if kept is None and key in self._unasked:
            kept = self._asked(key)
        if kept is None and mapped:
            kept = self._mapped.get(key)
        return kept if kept is None or kept.expires is None or kept.expires > time() else None

    def kept(self, key: str) -> Kept | None:
        """Give an entry that was asked for before, expired or not."""
        return self._entries.get(key)

    def _asked(self, key: str) -> Kept | None:
        """Keep one by one what was read in bulk."""
        with self._lock:
            small = self._unasked.pop(key, None)
            if small is None:
                return self._entries.get(key)
            stream, seconds, expires = small
            kept = self._entries[key] = Kept(key, Hit(stream, (), seconds, expires), self.read)
        return kept

    def use(self, kept: Kept) -> None:
        """Note that an entry is used."""
        kept.uses += 1
        kept.used = monotonic()
        kept.is_recent = True
        if kept.uses == 1:
            self.note_first(kept)

    def keep(self, key: str, hit: Hit, read: Look) -> Kept | None:
        """Hold an entry that was read in a generation, if it is still that one and the entry is small."""
        buffers = hit.buffers
        if len(hit.stream) > LARGEST:
            return None
        if len(self._uses.kept) >= LARGEST_BATCH and not is_inside():
            self._uses.write_at_once()
        if type(hit.stream) is not bytes:
            hit = Hit(bytes(hit.stream), buffers, hit.seconds, hit.expires)
        with self._lock:
            if read is not self.read:  # changed while the disk was read
                return None
            if not buffers:
                if key in self._entries or key in self._unasked:
                    self._forget(key)
                kept = self._entries[key] = Kept(key, hit, read)
                self._bytes += kept.size + OVERHEAD
                while self._bytes > self._limit:
                    self._drop_one()
                return kept
            if all(memoryview(buffer).readonly for buffer in buffers):
                return self._keep_mapped(key, hit)
        return None

    def _keep_mapped(self, key: str, hit: Hit) -> Kept:
        before = self._mapped.pop(key, None)
        if before is not None:
            before.drop()
        kept = self._mapped[key] = Kept(key, hit, self.read)
        if len(self._mapped) > MOST_MAPPED:
            self._mapped.pop(next(iter(self._mapped))).drop()
        return kept

    def keep_many(self, hits: Hits, read: Look) -> None:
        """Hold entries that were read together, those that are not too large."""
        small = hits.small
        sizes = [len(stream) for stream, _, _ in small.values()]
        if sizes and max(sizes) > LARGEST:
            small = {key: each for key, each in small.items() if len(each[0]) <= LARGEST}
            sizes = [len(stream) for stream, _, _ in small.values()]
        with self._lock:
            if read is not self.read:
                return
            kept, unasked = self._entries, self._unasked
            for key in [key for key in small if key in unasked or key in kept]:
                self._forget(key)
            unasked.update(small)
            self._bytes += sum(sizes) + len(small) * OVERHEAD
            while self._bytes > self._limit:
                self._drop_one()
        for key, hit in hits.others.items():
            self.keep(key, hit, read)

    def _forget(self, key: str) -> None:
        kept, small = self._entries.pop(key, None), self._unasked.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size + OVERHEAD
            kept.drop()
        if small is not None:
            self._bytes -= len(small[0]) + OVERHEAD

    def _drop_one(self) -> None:
        """Drop the first entry that was not used since it came or was last passed over."""
        if self._unasked:
            self._forget(next(iter(self._unasked)))
            return
        while True:
            key, kept = next(iter(self._entries.items()))
            if not kept.is_recent:
                self._forget(key)
                return
            kept.is_recent = False
            self._entries[key] = self._entries.pop(key)

    def find_many(self, keys: Iterable[str], mapped: bool) -> tuple[Hits, list[str]]:
        """Give the entries that are here, each used once more, and the keys of those that are not."""
        found = Hits()
        missing: list[str] = []
        asked, unasked, maps = self._entries, self._unasked, self._mapped
        for key in keys:
            if key not in asked and key not in unasked and key not in maps:
                missing.append(key)
                continue
            kept = self.find(key, mapped)
            hit = None if kept is None else kept.hit
            if kept is None or hit is None:
                missing.append(key)
            else:
                self.use(kept)
                found.others[key] = hit
        return found, missing


LIMIT: Final = 64 << 20
"""Bytes that memory holds at most."""


class MemoryTier(Items):
    """A store that answers from memory where it can, and from the store behind it otherwise.

    Attributes:
        shelf: what is in memory.
        directory: the folder of the store behind.
    """

    keeps = True

    def __init__(self, store: DiskStore, limit: int = LIMIT) -> None:
        self._store = store
        self._uses = store.uses
        self._generation = store.generation
        self.directory: Path = store.directory
        self.shelf = Shelf(store.generation, store.uses, limit)

    @property
    def behind(self) -> DiskStore:
        """The store behind."""
        return self._store

    @property
    def tally(self) -> Tally:
        """What the store behind set aside, evicted and let expire."""
        return self._store.tally

    @property
    def leases(self) -> Leases:
        """The leases of the store behind."""
        return self._store.leases

    @property
    def puts(self) -> int:
        """A number that is another one whenever any process has put entries."""
        return self._generation.puts

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up, in memory first."""
        shelf = self.shelf
        is_sure = shelf.is_sure()
        if is_sure:
            kept = shelf.find(key, mapped)
            hit = None if kept is None else kept.hit
            if hit is not None:
                shelf.use(kept)  # type: ignore[arg-type]
                return hit
        read = shelf.read if is_sure else self._renew()
        found = self._store.lookups.find(key, mapped=mapped)
        if isinstance(found, Miss):
            return found
        kept = shelf.keep(key, found, read)
        if kept is None:
            self._uses.note(key, found.seconds)
        else:
            shelf.use(kept)
        return found

    def at_hand(self, key: str, mapped: bool = False) -> Kept | None:
        """Give an entry that is in memory, used once more; None of one that has to be looked up."""
        shelf = self.shelf
        kept = shelf.find(key, mapped) if shelf.is_sure() else None
        if kept is not None:
            shelf.use(kept)
        return kept

    def get_many(self, keys: Iterable[str], mapped: bool = False) -> Hits:
        """Look entries up in bulk, in memory first."""
        read = self.shelf.read if self.shelf.is_sure() else self._renew()
        if read is self.shelf.read:
            found, missing = self.shelf.find_many(keys, mapped)
        else:
            found, missing = Hits(), list(keys)
        if missing:
            behind = self._store.get_many(missing, mapped)
            self.shelf.keep_many(behind, read)
            if not found:
                return behind
            found.update(behind)
        return found

    def _renew(self) -> Look:
        """Drop what is out of date and give the generation from which the disk is read now."""
        now = self._generation.read()
        if now == self.shelf.read:
            return self.shelf.read
        if not now[1] & 1:
            self.shelf.begin(now)
            self._uses.write_now_and_then()
        return now

    def retract(self, seconds: Mapping[str, float]) -> None:
        """Note that entries that were just looked up have answered no job."""
        self._store.retract(seconds)

    def note_answer(self, key: str, seconds: float) -> None:
        """Note that an entry that was looked up before has answered a job."""
        self._store.note_answer(key, seconds)

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Ask the store behind."""
        return self._store.durations(keys)

    def put_many(self, entries: Sequence[Entry]) -> frozenset[str]:
        """Commit entries to the store behind, and hold those that are small."""
        shelf = self.shelf
        read = shelf.read if shelf.is_sure() else self._renew()
        lost = self._store.put_many(entries)
        for entry in entries:
            payload, record = entry.payload, entry.record
            if isinstance(payload, Payload) and not payload.buffers and record.key not in lost:
                shelf.keep(record.key, Hit(payload.stream, (), record.seconds, entry.expires), read)
        return lost

    def depository(self, compression: str | None) -> Depository | None:
        """Have workers write to the store behind."""
        return self._store.depository(compression)

    def publish_failure(self, lease: Lease, error: bytes) -> None:
        """Let the store behind keep an exception for those who wait."""
        self._store.publish_failure(lease, error)

    def failure(self, key: str, number: int) -> bytes | None:
        """Ask the store behind."""
        return self._store.failure(key, number)

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

    def records(self, selection: Selection = EVERYTHING) -> Iterator[Record]:
        """Give the records of the store behind."""
        return self._store.records(selection)

    def functions(self) -> list[FunctionInfo]:
        """Give the figures of the functions in the store behind."""
        return self._store.functions()

    def count(self) -> int:
        """Count the entries of the store behind."""
        return self._store.count()

    def size(self) -> int:
        """Give the size of the store behind."""
        return self._store.size()

    def totals(self) -> Totals:
        """Give what was found over the life of the store behind."""
        return self._store.totals()

    def close(self) -> None:
        """Drop what is in memory and close the store behind."""
        self.shelf.begin(NEVER)
        self._store.close()
