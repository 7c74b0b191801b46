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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from pickle import loads
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from .._inside import is_inside
from .._keys import UNCHANGEABLE
from .._media import holds_paths
from .._processes import renew_after_fork
from .._record import EVERYTHING, Record, Selection
from .base import (
    SURE_FOR,
    Entry,
    History,
    Hit,
    Hits,
    Items,
    Leases,
    Miss,
    Reason,
    Small,
    Store,
    Tally,
    Use,
)
from .codec import Payload

if TYPE_CHECKING:
    from .._record import Figures, FunctionInfo, SharedInfo
    from .blobs import BlobWriter

__all__ = ["LARGEST", "MemoryTier", "Shelf"]


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

    def __init__(self, key: str, hit: Hit, read: object) -> None:
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


class Shelf:
    """Entries in memory; all go at once when any entry of the store is replaced or removed.

    Attributes:
        read: the mark of the store when all that is here was read.
        sure_until: when the mark must be compared again, on the monotonic clock.
        used: the entries that were used since the uses were last counted by the store.
        note_first: called with an entry that is used for the first time since then.
    """

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self.used: list[Kept] = []
        self.note_first = self.used.append
        self._limit = limit
        self.read: object = NEVER
        self.sure_until = 0.0
        self._entries: dict[str, Kept] = {}
        self._unasked: dict[str, Small] = {}
        self._mapped: dict[str, Kept] = {}
        self._bytes = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make a new lock, and leave it to the parent to count what it has used."""
        self._lock = threading.RLock()
        for kept in self.used:
            kept.uses = 0
        self.used.clear()

    def is_sure(self) -> bool:
        """Whether nothing has changed since what is here was read; then that is sure for a while."""
        now = monotonic()
        if now < self.sure_until:
            return True
        if self._store.changed_since(self.read) is not None:
            return False
        self.sure_until = now + SURE_FOR
        return True

    def begin(self, read: object) -> None:
        """Drop all entries, and from now on keep those that are read after another mark."""
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

    def count_uses(self) -> None:
        """Let the store count the uses; it writes those of its own as well now and then."""
        begin = time() - monotonic()
        uses: list[Use] = []
        while self.used:
            kept = self.used.pop()
            count, kept.uses = kept.uses, 0
            uses.append(Use(kept.key, count, begin + kept.used, kept.seconds))
        self._store.count_uses(uses)

    def keep(self, key: str, hit: Hit, read: object) -> Kept | None:
        """Hold an entry that was read in a generation, if it is still that one and the entry is small."""
        buffers = hit.buffers
        if len(hit.stream) > LARGEST or hit.find_media is not None:  # whose files may be gone the next time
            return None
        if len(self.used) >= LARGEST_BATCH and not is_inside():
            self.count_uses()
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

    def keep_many(self, hits: Hits, read: object) -> None:
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
    """A store that answers from memory if it can, and from the store behind it otherwise.

    Attributes:
        behind: the store behind.
        shelf: the entries in memory.
        keeps, folder, tally, leases: those of the store behind.
    """

    def __init__(self, store: Store, limit: int = LIMIT) -> None:
        self.behind = store
        self.shelf = Shelf(store, limit)
        self.keeps: bool = store.keeps
        self.folder: Path | None = store.folder
        self.tally: Tally = store.tally
        self.leases: Leases = store.leases

    @property
    def history(self) -> History:
        """The history of the store behind."""
        self.shelf.count_uses()
        return self.behind.history

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
        found = self.behind.get(key, mapped)
        if isinstance(found, Hit):
            shelf.keep(key, found, read)
        return found

    def at_hand(self, key: str, mapped: bool = False) -> Kept | None:
        """Return an entry that is in memory, used once more; None if it has to be looked up."""
        shelf = self.shelf
        kept = shelf.find(key, mapped) if shelf.is_sure() else None
        if kept is not None:
            shelf.use(kept)
        return kept

    def get_many(
        self, keys: Iterable[str], mapped: bool = False, *, largest: int | None = None, counts: bool = True
    ) -> Hits:
        """Look entries up in bulk, in memory first."""
        if largest is not None or not counts:
            return self.behind.get_many(keys, mapped, largest=largest, counts=counts)
        read = self.shelf.read if self.shelf.is_sure() else self._renew()
        if read is self.shelf.read:
            found, missing = self.shelf.find_many(keys, mapped)
        else:
            found, missing = Hits(), list(keys)
        if missing:
            behind = self.behind.get_many(missing, mapped)
            self.shelf.keep_many(behind, read)
            if not found:
                return behind
            found.update(behind)
        return found

    def _renew(self) -> object:
        """Drop what is out of date, and return the mark of what is read now."""
        self.shelf.count_uses()
        mark = self.behind.changed_since(self.shelf.read)
        if mark is not None:
            self.shelf.begin(mark)
        return self.shelf.read

    def put_many(self, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
        """Commit entries to the store behind, and keep those that are small."""
        shelf = self.shelf
        read = shelf.read if shelf.is_sure() else self._renew()
        if shelf.used:
            shelf.count_uses()
        lost = self.behind.put_many(entries)
        for entry in entries:
            payload, record = entry.payload, entry.record
            if (
                isinstance(payload, Payload)
                and not payload.buffers
                and record.key not in lost
                and record.media is None
                and not holds_paths(payload.stream)
            ):
                shelf.keep(record.key, Hit(payload.stream, (), record.seconds, entry.expires), read)
        return lost

    def remove(self, keys: Iterable[str], reason: Reason = "forgotten") -> int:
        """Remove entries from the store behind, whose mark changes."""
        return self.behind.remove(keys, reason)

    def clear(self, selection: Selection = EVERYTHING) -> int:
        """Clear the store behind, whose mark changes."""
        return self.behind.clear(selection)

    def count_uses(self, uses: Sequence[Use]) -> None:
        """Let the store behind count hits."""
        self.behind.count_uses(uses)

    @property
    def shared(self) -> SharedInfo | None:
        """The figures of the shared store, if there is one behind."""
        return self.behind.shared

    def fetch(self, function: str, keys: Iterable[str]) -> int:
        """Have the store behind fetch entries."""
        return self.behind.fetch(function, keys)

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Ask the store behind."""
        return self.behind.durations(keys)

    def records(self, selection: Selection = EVERYTHING, latest: int | None = None) -> Iterator[Record]:
        """Iterate over the records of the store behind."""
        return self.behind.records(selection, latest)

    def functions(self) -> list[FunctionInfo]:
        """Return the figures of the functions in the store behind."""
        self.shelf.count_uses()
        return self.behind.functions()

    def figures(self) -> Figures:
        """Return the figures of the store behind."""
        self.shelf.count_uses()
        return self.behind.figures()

    def blob_writer(self, compression: str | None) -> BlobWriter | None:
        """Let workers write to the store behind."""
        return self.behind.blob_writer(compression)

    def changed_since(self, mark: object) -> object:
        """Ask the store behind."""
        return self.behind.changed_since(mark)

    def close(self) -> None:
        """Drop what is in memory and close the store behind."""
        self.shelf.count_uses()
        self.shelf.begin(NEVER)
        self.behind.close()
