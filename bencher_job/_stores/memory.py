"""Knows the tier before the disk: verified bytes of recent small entries, and when they are out of date.

get(key) -> the generation is the one seen -> here -> Hit
|                           |
drop all that is here       ask the store behind, keep what is small
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import time
from typing import Final

from .._forks import renew_after_fork
from .._record import FunctionInfo, Record
from .._selection import EVERYTHING, Selection
from .base import Entry, History, Hit, Miss, Tally, Totals
from .claims import Claim, Claims
from .codec import Payload
from .disk import DiskStore
from .generation import NEVER, Look
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
    """A store that answers from memory where it can, and from the store behind it otherwise."""

    def __init__(self, store: DiskStore, limit: int = TIER_LIMIT) -> None:
        self._store = store
        self._generation = store.generation
        self._uses = store.uses
        self._limit = limit
        self._seen = NEVER
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
        look, generation = self._seen
        if look is self._generation.look and look() == generation:
            kept = self._kept.get(key)
            if kept is None and mapped:
                kept = self._mapped.get(key)
            if kept is not None and (kept.expires is None or kept.expires > time()):
                kept.uses += 1
                kept.used = time()
                kept.is_recent = True
                if kept.uses == 1:
                    self._uses.note_first(kept)
                return kept.hit
        now = self._renew()
        found = self._store.get(key, mapped)
        if found.__class__ is Hit:
            self._keep(((key, found),), now)
        return found

    def get_many(self, keys: Iterable[str], mapped: bool = False) -> dict[str, Hit]:
        """Look entries up in bulk, in memory first."""
        now = self._renew()
        found, missing, at = {}, [], time()
        for key in keys:
            kept = self._kept.get(key) or (self._mapped.get(key) if mapped else None)
            if kept is None or now != self._seen or (kept.expires is not None and kept.expires <= at):
                missing.append(key)
                continue
            kept.uses += 1
            kept.used = at
            if kept.uses == 1:
                self._uses.note_first(kept)
            found[key] = kept.hit
        if missing:
            behind = self._store.get_many(missing, mapped)
            self._keep(behind.items(), now)
            found.update(behind)
        return found

    def _renew(self) -> Look:
        """Drop what is out of date and give the generation from which the disk is read now."""
        now = self._generation.read()
        if now != self._seen and not now[1] & 1:
            with self._lock:
                self._drop()
                self._seen = now
            self._uses.write_now_and_then()
        return now

    def _drop(self) -> None:
        self._kept.clear()
        self._mapped.clear()
        self._bytes = 0

    def _keep(self, hits: Iterable[tuple[str, Hit]], now: Look) -> None:
        with self._lock:
            if now != self._seen:  # changed while the disk was read
                return
            for key, hit in hits:
                payload = hit.payload
                stream, buffers = payload.stream, payload.buffers
                if len(stream) > LARGEST:
                    continue
                if type(stream) is not bytes:
                    hit = Hit(Payload(bytes(stream), buffers), hit.seconds, hit.expires)  # noqa: PLW2901
                if buffers:
                    if all(memoryview(buffer).readonly for buffer in buffers):
                        self._keep_mapped(key, hit)
                    continue
                self._bytes += len(stream) + OVERHEAD
                before = self._kept.pop(key, None)
                if before is not None:
                    self._bytes -= len(before.hit.payload.stream) + OVERHEAD
                self._kept[key] = Kept(key, hit)
            while self._bytes > self._limit:
                self._drop_one()

    def _keep_mapped(self, key: str, hit: Hit) -> None:
        self._mapped[key] = Kept(key, hit)
        if len(self._mapped) > MOST_MAPPED:
            del self._mapped[next(iter(self._mapped))]

    def _drop_one(self) -> None:
        """Drop the first entry that was not used since it came or was last passed over."""
        while True:
            key = next(iter(self._kept))
            kept = self._kept.pop(key)
            if not kept.is_recent:
                self._bytes -= len(kept.hit.payload.stream) + OVERHEAD
                return
            kept.is_recent = False
            self._kept[key] = kept

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
        self._store.close()
