"""Knows the tier before the disk: verified bytes of recent small entries, and when they are out of date.

get(key) -> the generation is the one seen -> here -> Hit
|                           |
drop all that is here       ask the store behind, keep what is small
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, time
from typing import Final

from .._forks import renew_after_fork
from .._record import FunctionInfo, Record
from .._selection import EVERYTHING, Selection
from .base import Entry, History, Hit, Miss, Tally, Totals
from .claims import Claim, Claims
from .codec import Payload
from .disk import DiskStore
from .generation import NEVER, SURE_FOR, Look
from .uses import Kept

__all__ = ["MemoryTier"]

TIER_LIMIT: Final = 64 << 20
"""Bytes that one tier holds at most."""

LARGEST: Final = 64 << 10
"""Size in bytes of the largest entry that is kept in memory, the maps of its file not counted."""

MOST_MAPPED: Final = 128
"""How many entries with maps are kept: as long as they are, the disk has their files, removed or not."""

OVERHEAD: Final = 500
"""Bytes that an entry takes in memory besides its own."""


class MemoryTier:
    """A store that answers from memory where it can, and from the store behind it otherwise.

    Attributes:
        read: the generation in which all that is in memory was read.
        sure_until: when it has to be looked at again, on the clock that nobody sets.
        note_first: is told when an entry in memory is used for the first time since uses were written.
    """

    def __init__(self, store: DiskStore, limit: int = TIER_LIMIT) -> None:
        self._store = store
        self._generation = store.generation
        self._uses = store.uses
        self.note_first = store.uses.note_first
        self._limit = limit
        self.read = NEVER
        self.sure_until = 0.0
        self._kept: dict[str, Kept] = {}
        self._mapped: dict[str, Kept] = {}
        self._bytes = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._lock = threading.Lock()

    @property
    def behind(self) -> DiskStore:
        """The store behind."""
        return self._store

    @property
    def directory(self) -> Path:
        """The folder of the store behind."""
        return self._store.directory

    @property
    def tally(self) -> Tally:
        """What the store behind set aside, evicted and let expire."""
        return self._store.tally

    @property
    def claims(self) -> Claims:
        """The claims of the store behind."""
        return self._store.claims

    @property
    def puts(self) -> int:
        """A number that is another one whenever any process has put entries."""
        return self._generation.puts

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up, in memory first."""
        kept = self.kept(key, mapped)
        if kept is not None:
            hit = kept.hit
            if hit is not None:
                self.use(kept)
                return hit
        read = self._renew()
        found = self._store.get(key, mapped)
        if found.__class__ is Hit:
            self._keep(((key, found),), read)
        return found

    def kept(self, key: str, mapped: bool = False) -> Kept | None:
        """Give what memory has of a key, unless it is out of date."""
        return self._here(key, mapped) if monotonic() < self.sure_until or self.is_sure() else None

    def is_sure(self) -> bool:
        """Whether nothing has changed since what is in memory was read; then that is sure for a while."""
        now = monotonic()
        look, generation = self.read
        if look is not self._generation.look or look() != generation:
            return False
        self.sure_until = now + SURE_FOR
        return True

    def _here(self, key: str, mapped: bool) -> Kept | None:
        kept = self._kept.get(key)
        if kept is None and mapped:
            kept = self._mapped.get(key)
        return kept if kept is None or kept.expires is None or kept.expires > time() else None

    def use(self, kept: Kept) -> None:
        """Note that an entry in memory is used."""
        kept.uses += 1
        kept.used = monotonic()
        kept.is_recent = True
        if kept.uses == 1:
            self.note_first(kept)

    def get_many(self, keys: Iterable[str], mapped: bool = False) -> dict[str, Hit]:
        """Look entries up in bulk, in memory first."""
        read = self._renew()
        found, missing = {}, []
        is_recent = read == self.read
        for key in keys:
            kept = self._here(key, mapped) if is_recent else None
            hit = None if kept is None else kept.hit
            if kept is None or hit is None:
                missing.append(key)
            else:
                self.use(kept)
                found[key] = hit
        if missing:
            behind = self._store.get_many(missing, mapped)
            self._keep(behind.items(), read)
            found.update(behind)
        return found

    def _renew(self) -> Look:
        """Drop what is out of date and give the generation from which the disk is read now."""
        now = self._generation.read()
        if now != self.read and not now[1] & 1:
            with self._lock:
                self._drop()
                self.read, self.sure_until = now, 0.0
            self._uses.write_now_and_then()
        return now

    def _drop(self) -> None:
        for kept in (*self._kept.values(), *self._mapped.values()):
            kept.drop()
        self._kept.clear()
        self._mapped.clear()
        self._bytes = 0

    def _keep(self, hits: Iterable[tuple[str, Hit]], read: Look) -> None:
        with self._lock:
            if read != self.read:  # changed while the disk was read
                return
            for key, hit in hits:
                payload = hit.payload
                stream, buffers = payload.stream, payload.buffers
                if len(stream) > LARGEST:
                    continue
                if type(stream) is not bytes:
                    hit = Hit(Payload(bytes(stream), buffers), hit.seconds, hit.expires)  # noqa: PLW2901
                if not buffers:
                    self._drop_key(self._kept, key)
                    kept = self._kept[key] = Kept(key, hit, self.read)
                    self._bytes += kept.size + OVERHEAD
                elif all(memoryview(buffer).readonly for buffer in buffers):
                    self._drop_key(self._mapped, key)
                    self._mapped[key] = Kept(key, hit, self.read)
                    if len(self._mapped) > MOST_MAPPED:
                        self._drop_key(self._mapped, next(iter(self._mapped)))
            while self._bytes > self._limit:
                self._drop_one()

    def _drop_key(self, where: dict[str, Kept], key: str) -> None:
        kept = where.pop(key, None)
        if kept is not None:
            if where is self._kept:
                self._bytes -= kept.size + OVERHEAD
            kept.drop()

    def _drop_one(self) -> None:
        """Drop the first entry that was not used since it came or was last passed over."""
        while True:
            key, kept = next(iter(self._kept.items()))
            if not kept.is_recent:
                self._drop_key(self._kept, key)
                return
            kept.is_recent = False
            self._kept[key] = self._kept.pop(key)

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
        """Commit entries to the store behind; memory takes them in when they are asked for."""
        return self._store.put_many(entries)

    def publish_failure(self, claim: Claim, error: bytes) -> None:
        """Let the store behind keep an exception for those who wait."""
        self._store.publish_failure(claim, error)

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
        with self._lock:
            self._drop()
            self.read, self.sure_until = NEVER, 0.0
        self._store.close()
