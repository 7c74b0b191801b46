"""Knows what is in memory of a store: entries of one generation, as long as nothing was replaced or removed since.

kept        asked for one by one: each with its uses
unasked     read in bulk, and not asked for one by one yet
mapped      with arrays that are maps of files
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import monotonic, time
from typing import Final

from .._forks import renew_after_fork
from .base import Hit, Hits, Small
from .generation import NEVER, SURE_FOR, Generation, Look
from .uses import Kept, Uses

__all__ = ["LARGEST", "Shelf"]

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
        note_first: is told when an entry is used for the first time since uses were written.
    """

    def __init__(self, generation: Generation, uses: Uses, limit: int) -> None:
        self._generation = generation
        self.note_first = uses.note_first
        self._limit = limit
        self.read = NEVER
        self.sure_until = 0.0
        self._kept: dict[str, Kept] = {}
        self._unasked: dict[str, Small] = {}
        self._mapped: dict[str, Kept] = {}
        self._bytes = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._reentrant = threading.RLock()

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
        with self._reentrant:
            for kept in (*self._kept.values(), *self._mapped.values()):
                kept.drop()
            self._kept.clear()
            self._unasked.clear()
            self._mapped.clear()
            self._bytes = 0
            self.read, self.sure_until = read, 0.0

    def find(self, key: str, mapped: bool) -> Kept | None:
        """Give an entry that is asked for, unless it has expired. Be sure of what is here before."""
        kept = self._kept.get(key)
        if kept is None and key in self._unasked:
            kept = self._asked(key)
        if kept is None and mapped:
            kept = self._mapped.get(key)
        return kept if kept is None or kept.expires is None or kept.expires > time() else None

    def _asked(self, key: str) -> Kept | None:
        """Keep one by one what was read in bulk."""
        with self._reentrant:
            small = self._unasked.pop(key, None)
            if small is None:
                return self._kept.get(key)
            stream, seconds, expires = small
            kept = self._kept[key] = Kept(key, Hit(stream, (), seconds, expires), self.read)
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
        if type(hit.stream) is not bytes:
            hit = Hit(bytes(hit.stream), buffers, hit.seconds, hit.expires)
        with self._reentrant:
            if read is not self.read:  # changed while the disk was read
                return None
            if not buffers:
                self._forget(key)
                kept = self._kept[key] = Kept(key, hit, read)
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
        with self._reentrant:
            if read is not self.read:
                return
            kept, unasked = self._kept, self._unasked
            for key in [key for key in small if key in unasked or key in kept]:
                self._forget(key)
            unasked.update(small)
            self._bytes += sum(sizes) + len(small) * OVERHEAD
            while self._bytes > self._limit:
                self._drop_one()
        for key, hit in hits.others.items():
            self.keep(key, hit, read)

    def _forget(self, key: str) -> None:
        if key not in self._kept and key not in self._unasked:
            return
        kept, small = self._kept.pop(key, None), self._unasked.pop(key, None)
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
            key, kept = next(iter(self._kept.items()))
            if not kept.is_recent:
                self._forget(key)
                return
            kept.is_recent = False
            self._kept[key] = self._kept.pop(key)

    def find_many(self, keys: Iterable[str], mapped: bool) -> tuple[Hits, list[str]]:
        """Give the entries that are here, each used once more, and the keys of those that are not."""
        found = Hits()
        missing: list[str] = []
        asked, unasked, maps = self._kept, self._unasked, self._mapped
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
