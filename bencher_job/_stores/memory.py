"""Knows the tier before the disk: what is in memory answers, else the disk, from which memory learns.

get(key) -> nothing has changed since -> on the shelf, or read ahead -> Hit
                      |                             |
            drop all that is there          ask the store behind, keep what is small
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .._record import Record
from .._selection import EVERYTHING, Selection
from .ahead import ReadAhead
from .base import Entry, History, Hit, Hits, Items, Miss, Tally, Totals
from .claims.claims import Claim, Claims
from .disk import DiskStore
from .entries.deposits import Depository
from .generation import NEVER, Look
from .shelf import Shelf
from .uses import Kept

if TYPE_CHECKING:
    from .._info import FunctionInfo

__all__ = ["MemoryTier"]

LIMIT: Final = 64 << 20
"""Bytes that memory holds at most."""


class MemoryTier(Items):
    """A store that answers from memory where it can, and from the store behind it otherwise.

    Attributes:
        shelf: what is in memory.
        directory: the folder of the store behind.
    """

    def __init__(self, store: DiskStore, limit: int = LIMIT) -> None:
        self._store = store
        self._uses = store.uses
        self._generation = store.generation
        self.directory: Path = store.directory
        self.shelf = Shelf(store.generation, store.uses, limit)
        self._ahead = ReadAhead(store.lookups)

    @property
    def behind(self) -> DiskStore:
        """The store behind."""
        return self._store

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
        kept = self.at_hand(key, mapped)
        hit = None if kept is None else kept.hit
        return self.look_up(key, mapped) if hit is None else hit

    def look_up(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up on the disk."""
        shelf = self.shelf
        read = shelf.read if shelf.is_sure() else self._renew()
        hit, place = self._store.lookups.find(key, mapped=mapped)
        if isinstance(hit, Miss):
            return hit
        kept = shelf.keep(key, hit, read)
        if kept is None:
            self._uses.note(key, hit.seconds)
        else:
            shelf.use(kept)
        self._ahead.go_on(place, read)
        return hit

    def at_hand(self, key: str, mapped: bool = False) -> Kept | None:
        """Give an entry that is in memory, or was read ahead, used once more; None of one that has to be looked up."""
        shelf = self.shelf
        if not shelf.is_sure():
            return None
        kept = shelf.find(key, mapped)
        if kept is None:
            read = shelf.read
            ahead = self._ahead.take(key, read)
            if ahead is None or (kept := shelf.keep(key, ahead, read)) is None:
                return None
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
        """Commit entries to the store behind; memory takes them in when they are asked for."""
        return self._store.put_many(entries)

    def depository(self, compression: str | None) -> Depository | None:
        """Have workers write to the store behind."""
        return self._store.depository(compression)

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
        self.shelf.begin(NEVER)
        self._store.close()
