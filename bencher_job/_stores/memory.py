"""The memory cache: it answers before the store behind it, whatever that is.

entries     asked for one by one: each with its uses
unasked     read in bulk, and not asked for one by one yet
mapped      with arrays that are maps of files

    get(key) -> nothing has changed since -> in memory -> Hit
                          |                    |
                drop all entries        ask the store behind, keep what is small

Unpickling makes a new value for each hit. A value that can't change is returned as it is, and a flat dict, list or set
of such values is copied, in a tenth of the time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from pickle import loads
from time import monotonic, time
from typing import Any, Final

from .._context import is_inside
from .._keys import UNCHANGEABLE
from .._media import holds_paths
from .._processes import renew_after_fork
from .base import (
    SURE_FOR,
    Entry,
    History,
    Hit,
    Hits,
    Leases,
    Miss,
    Passing,
    Small,
    Store,
    Tally,
    Use,
)
from .codec import Payload

NEVER: Final = object()
"""A mark that no store returns."""

LARGEST_BATCH: Final = 50_000
"""Maximum number of used entries before the store counts their uses."""

LARGEST: Final = 64 << 10
"""Size in bytes of the largest entry that is held, the maps of its file not counted."""

MOST_MAPPED: Final = 128
"""How many entries with maps are held: as long as they are, the disk has their files, removed or not."""

OVERHEAD: Final = 500
"""Bytes that an entry takes in memory besides its own."""


LONGEST_STREAM: Final = 1 << 12
"""Size in bytes of the longest pickle of a value that is held besides it."""

MOST_MEMBERS: Final = 64
"""How many members a container has at most of which a copy is held."""


def copier(value: Any, hit: Hit) -> Callable[[], Any]:
    """Return a function that makes a new value of a hit. `value` is one, which its user may change later."""
    kind = type(value)
    if hit.buffers:
        return hit.load
    if len(hit.stream) <= LONGEST_STREAM:
        if kind in UNCHANGEABLE or (kind in {tuple, frozenset} and _is_flat(value)):
            return repeat(value).__next__
        if kind in {list, set, dict} and _is_flat(value) and (kind is not dict or _is_flat(value.values())):
            return value.copy().copy  # type: ignore[no-any-return]
    return partial(loads, hit.stream)


def _is_flat(members: Collection[object]) -> bool:
    return len(members) <= MOST_MEMBERS and UNCHANGEABLE.issuperset(map(type, members))


class MemoryEntry:
    """An entry in memory, and how often it was used since its uses were last written.

    Attributes:
        hit: its bytes, or None once it is dropped.
        size: size of its pickle in bytes.
        read: the mark of the store when it was read; the entry is valid while the memory cache has this mark.
        ended: when its function had returned, in seconds since 1970.
        copy: returns a new value, in the quickest way that is known for it; None until `learn` was called.
        used: when it was last used, on the monotonic clock.
    """

    __slots__ = (
        "copy",
        "ended",
        "hit",
        "is_recent",
        "key",
        "read",
        "seconds",
        "size",
        "used",
        "uses",
    )  # fmt: skip

    def __init__(self, key: str, hit: Hit, read: object) -> None:
        self.key = key
        self.hit: Hit | None = hit
        self.size = len(hit.stream)
        self.seconds = hit.seconds
        self.ended = hit.created + hit.seconds
        self.read = read
        self.copy: Callable[[], Any] | None = None
        self.uses = 0
        self.used = 0.0
        self.is_recent = False

    def learn(self, value: object) -> None:
        """Find the quickest way to copy its value, given a value that its user may change later."""
        hit = self.hit
        if hit is not None and self.copy is None:
            self.copy = copier(value, hit)

    def drop(self) -> None:
        """Release the bytes, even if a known call still refers to the entry."""
        self.read = NEVER
        self.copy = self.hit = None


class MemoryCache:
    """Entries in memory. All are dropped when any entry of the store is replaced or removed.

    Attributes:
        entries: the entries that were asked for, by key.
        read: the mark of the store when everything here was read.
        sure_until: when the mark must be compared again, on the monotonic clock.
        changed_since: compares it, as the store's own does.
        used: the entries that were used since the store last counted uses.
        note_first: call it with an entry that is used for the first time since then.
    """

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self.changed_since = store.changed_since
        self.used: list[MemoryEntry] = []
        self.note_first = self.used.append
        self._limit = limit
        self.read: object = NEVER
        self.sure_until = 0.0
        # The first key of a dict whose first keys were removed takes long to find.
        self.entries = OrderedDict[str, MemoryEntry]()
        self._unasked = OrderedDict[str, Small]()
        self._mapped: dict[str, MemoryEntry] = {}
        self._bytes = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make a new lock in a forked child, and leave the uses so far to its parent."""
        self._lock = threading.RLock()
        for kept in self.used:
            kept.uses = 0
        self.used.clear()

    def begin(self, read: object) -> None:
        """Drop all entries, and hold those that are read after a new mark."""
        with self._lock:
            for kept in (*self.entries.values(), *self._mapped.values()):
                kept.drop()
            self.entries.clear()
            self._unasked.clear()
            self._mapped.clear()
            self._bytes = 0
            self.read, self.sure_until = read, 0.0

    def find(self, key: str, mapped: bool) -> MemoryEntry | None:
        """Return an entry, unless an entry of the store was replaced or removed; it is asked every `SURE_FOR`."""
        now = monotonic()
        if now >= self.sure_until:
            if self.changed_since(self.read) is not None:
                return None
            self.sure_until = now + SURE_FOR
        return self._held(key, mapped)

    def _held(self, key: str, mapped: bool) -> MemoryEntry | None:
        kept = self.entries.get(key)
        if kept is None and key in self._unasked:
            kept = self._asked(key)
        if kept is None and mapped:
            kept = self._mapped.get(key)
        return kept

    def _asked(self, key: str) -> MemoryEntry | None:
        """Make the entry of a key that was read in bulk."""
        with self._lock:
            small = self._unasked.pop(key, None)
            if small is None:
                return self.entries.get(key)
            stream, seconds, created = small
            kept = self.entries[key] = MemoryEntry(key, Hit(stream, (), seconds, created), self.read)
        return kept

    def use(self, kept: MemoryEntry) -> None:
        """Count a use of an entry."""
        kept.uses += 1
        kept.used = monotonic()
        kept.is_recent = True
        if kept.uses == 1:
            self.note_first(kept)

    def count_uses(self) -> None:
        """Have the store count the uses; now and then it writes its own as well."""
        begin = time() - monotonic()
        uses: list[Use] = []
        while self.used:
            kept = self.used.pop()
            count, kept.uses = kept.uses, 0
            uses.append(Use(kept.key, count, begin + kept.used, kept.seconds))
        self._store.count_uses(uses)

    def keep(self, key: str, hit: Hit, read: object) -> MemoryEntry | None:
        """Hold a small entry that was read after a mark, if the mark is still the same."""
        buffers = hit.buffers
        if len(hit.stream) > LARGEST or hit.find_media is not None:  # whose files may be gone the next time
            return None
        if len(self.used) >= LARGEST_BATCH and not is_inside():
            self.count_uses()
        if type(hit.stream) is not bytes:
            hit = Hit(bytes(hit.stream), buffers, hit.seconds, hit.created)
        with self._lock:
            if read is not self.read:  # changed while the disk was read
                return None
            if not buffers:
                if key in self.entries or key in self._unasked:
                    self._forget(key)
                kept = self.entries[key] = MemoryEntry(key, hit, read)
                self._bytes += kept.size + OVERHEAD
                while self._bytes > self._limit:
                    self._drop_one()
                return kept
            if all(memoryview(buffer).readonly for buffer in buffers):
                return self._keep_mapped(key, hit)
        return None

    def _keep_mapped(self, key: str, hit: Hit) -> MemoryEntry:
        before = self._mapped.pop(key, None)
        if before is not None:
            before.drop()
        kept = self._mapped[key] = MemoryEntry(key, hit, self.read)
        if len(self._mapped) > MOST_MAPPED:
            self._mapped.pop(next(iter(self._mapped))).drop()
        return kept

    def keep_many(self, hits: Hits, read: object) -> None:
        """Hold those entries that are small, of several that were read together."""
        small = hits.small
        sizes = [len(stream) for stream, _, _ in small.values()]
        if sizes and max(sizes) > LARGEST:
            small = {key: each for key, each in small.items() if len(each[0]) <= LARGEST}
            sizes = [len(stream) for stream, _, _ in small.values()]
        with self._lock:
            if read is not self.read:
                return
            kept, unasked = self.entries, self._unasked
            for key in [key for key in small if key in unasked or key in kept]:
                self._forget(key)
            unasked.update(small)
            self._bytes += sum(sizes) + len(small) * OVERHEAD
            while self._bytes > self._limit:
                self._drop_one()
        for key, hit in hits.others.items():
            self.keep(key, hit, read)

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the entries of keys."""
        with self._lock:
            for key in keys:
                self._forget(key)
                self._mapped.pop(key, None)

    def _forget(self, key: str) -> None:
        kept, small = self.entries.pop(key, None), self._unasked.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size + OVERHEAD
            kept.drop()
        if small is not None:
            self._bytes -= len(small[0]) + OVERHEAD

    def _drop_one(self) -> None:
        """Drop the oldest entry that was not used since it was added or last passed over."""
        if self._unasked:
            self._forget(next(iter(self._unasked)))
            return
        while True:
            key, kept = next(iter(self.entries.items()))
            if not kept.is_recent:
                self._forget(key)
                return
            kept.is_recent = False
            self.entries[key] = self.entries.pop(key)

    def find_many(self, keys: Iterable[str], mapped: bool) -> tuple[Hits, list[str]]:
        """Return the entries that are here, counting a use of each, and the keys of the others."""
        found = Hits()
        missing: list[str] = []
        for key in keys:
            kept = self._held(key, mapped)
            if kept is None or (hit := kept.hit) is None:
                missing.append(key)
            else:
                self.use(kept)
                found.others[key] = hit
        return found, missing


LIMIT: Final = 64 << 20
"""Bytes that memory holds at most."""


class MemoryTier(Passing):
    """A store that answers from memory if it can, and from the store behind it otherwise.

    Attributes:
        cache: the entries in memory.
        keeps, folder, tally, leases, changed_since: those of the store behind.
    """

    def __init__(self, store: Store, limit: int = LIMIT) -> None:
        self._store = store
        self.cache = MemoryCache(store, limit)
        self.keeps: bool = store.keeps
        self.folder: Path | None = store.folder
        self.tally: Tally = store.tally
        self.leases: Leases = store.leases
        self.changed_since = store.changed_since

    @property
    def behind(self) -> Store:
        """The store behind, after all uses were counted there."""
        if self.cache.used:
            self.cache.count_uses()
        return self._store

    @property
    def history(self) -> History:
        """The history of the store behind; to ask it writes no uses."""
        return self._store.history

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up, in memory first."""
        cache = self.cache
        kept = cache.find(key, mapped)
        if kept is not None and (hit := kept.hit) is not None:
            cache.use(kept)
            return hit
        read = cache.read if monotonic() < cache.sure_until else self._renew()
        found = self._store.get(key, mapped)
        if isinstance(found, Hit):
            cache.keep(key, found, read)
        return found

    def fetch(self, function: str, keys: Iterable[str]) -> int:
        """Have the store behind fetch entries, in place of those in memory."""
        keys = list(keys)
        fetched = self.behind.fetch(function, keys)
        if fetched:
            self.cache.forget(keys)
        return fetched

    def at_hand(self, key: str, mapped: bool, ttl: float | None) -> MemoryEntry | None:
        """Return an entry that is in memory, used once more; None if it is too old, or has to be looked up."""
        cache = self.cache
        kept = cache.find(key, mapped)
        if kept is not None and ttl is not None and not abs(time() - kept.ended) < ttl:
            return None
        if kept is not None:
            cache.use(kept)
        return kept

    def get_many(
        self, keys: Iterable[str], mapped: bool = False, *, largest: int | None = None, counts: bool = True
    ) -> Hits:
        """Look entries up in bulk, in memory first."""
        if largest is not None or not counts:
            return self._store.get_many(keys, mapped, largest=largest, counts=counts)
        read = self.cache.read if monotonic() < self.cache.sure_until else self._renew()
        found, missing = self.cache.find_many(keys, mapped)
        if missing:
            behind = self._store.get_many(missing, mapped)
            self.cache.keep_many(behind, read)
            if not found:
                return behind
            found.update(behind)
        return found

    def _renew(self) -> object:
        """Drop entries that are out of date, and return the mark of those that are read now."""
        mark = self._store.changed_since(self.cache.read)
        if mark is not None:
            self.cache.count_uses()
            self.cache.begin(mark)
        return self.cache.read

    def put_many(self, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
        """Commit entries to the store behind, and hold those that are small."""
        cache = self.cache
        read = self._renew() if cache.read is NEVER else cache.read
        if cache.used:
            cache.count_uses()
        lost = self._store.put_many(entries)
        for entry in entries:
            payload, record = entry.payload, entry.record
            if (
                isinstance(payload, Payload)
                and not payload.buffers
                and record.key not in lost
                and record.media is None
                and not holds_paths(payload.stream)
            ):
                cache.keep(record.key, Hit(payload.stream, (), record.seconds, entry.created), read)
        return lost

    def close(self) -> None:
        """Drop what is in memory and close the store behind."""
        self.cache.count_uses()
        self.cache.begin(NEVER)
        self._store.close()
