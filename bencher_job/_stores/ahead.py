"""Knows what is likely to be asked for next: entries are, mostly, in the order in which they were stored.

    disk, in order:     1   2   3 4 5 ... 10   11 ... 26   27 ...
    one query each:     1 | 2 | 3 ..... 10   | 11 ... 26 | 27 ...     twice as many each time

Two entries in a row make the beginning. What is read ahead is verified when it is asked for, so that what is not costs
little, and an entry that is asked for out of the order ends it.
"""

from __future__ import annotations

from typing import Any, Final

from .base import Hit
from .generation import NEVER, Look
from .lookups import Lookups

__all__ = ["ReadAhead"]

FEWEST: Final = 8
"""How many entries are read ahead at first."""

MOST: Final = 256
"""How many entries are read ahead at most."""

NEAR: Final = 16
"""How many entries may lie between two that are in a row: those of other functions, or those that are gone."""


class ReadAhead:
    """Entries of one store that were read before anybody has asked for them."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._held: tuple[Look, dict[str, tuple[Any, ...]]] = NEVER, {}
        self._next = 0
        self._size = 0

    def take(self, key: str, now: Look) -> Hit | None:
        """Give an entry, verified, if it was read ahead in this generation; None as well where anything is amiss."""
        read, rows = self._held
        row = rows.pop(key, None) if read is now else None
        return None if row is None else self._lookups.opened(row)

    def go_on(self, place: int, now: Look) -> None:
        """Read ahead, where an entry that was read alone, at a place, goes on with the order."""
        gap = place - self._next
        if -self._size <= gap < 0:  # among those that were read ahead, yet it was none of them
            return
        if gap > NEAR or gap < 0:
            self._next, self._size = place + 1, 0
            return
        self._size = min(max(2 * self._size, FEWEST), MOST)
        self._next = place + self._size + 1
        self._held = now, {row[0]: row for row in self._lookups.after(place, self._size)}
