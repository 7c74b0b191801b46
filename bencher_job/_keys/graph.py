"""Knows which objects were met while a value is hashed, so that sharing costs nothing and a cycle ends.

Objects are numbered as they are met. One that is met again before all that it leads to is known (it stands
above, or in the same tangle of cycles) is encoded as the distance back to it, which is the same wherever the
tangle hangs. When nothing in an object leads further back than to itself, its encoding depends on it alone,
and is kept: shared objects and equal objects then look alike. This is Tarjan's algorithm for strongly
connected components.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["Graph", "Tangled"]

_DISTANCE: Final = struct.Struct("<I")
_MOST_FORGOTTEN: Final = 100_000


class Tangled(Exception):  # nobody sees it: it becomes an UnkeyableArgument
    """Sets refer to objects that refer back in more ways than can be followed."""


class Graph:
    """The objects on the way to the one that is being hashed, and those that are done."""

    __slots__ = ("_components", "_done", "_forgotten", "_lows", "_numbers", "_open", "_starts", "_unresolved")

    def __init__(self) -> None:
        self._done: dict[int, tuple[bytes, object]] = {}
        self._numbers: dict[int, int] = {}
        self._lows: list[int] = []
        self._starts: list[int] = []
        self._unresolved: list[object] = []
        self._components: dict[int, object] = {}
        self._open: dict[object, int] = {}
        self._forgotten = 0

    def enter(self, value: object) -> bytes | None:
        """Begin an object, unless its encoding is known: then give that, and it isn't begun."""
        key = id(value)
        number = self._numbers.get(key)
        if number is not None:
            self._lows[-1] = min(self._lows[-1], number)
            return b"^" + _DISTANCE.pack(len(self._numbers) - number)
        component = self._components.get(key)
        done = self._done.get(key)
        if done is not None and not self._open.get(component):
            return done[0]
        if component is not None:
            self._open[component] = self._open.get(component, 0) + 1
        self._numbers[key] = number = len(self._numbers)
        self._lows.append(number)
        self._starts.append(len(self._unresolved))
        self._unresolved.append(value)
        return None

    def leave(self, value: object, encoding: bytes) -> bytes:
        """End the object that was entered last, with its encoding."""
        key = id(value)
        low, start, number = self._lows.pop(), self._starts.pop(), self._numbers[key]
        component = self._components.get(key)
        if component is not None:
            self._open[component] -= 1
        if low < number:
            self._lows[-1] = min(self._lows[-1], low)
            return encoding
        tangle = self._unresolved[start:]
        del self._unresolved[start:]
        for member in tangle:
            self._numbers.pop(id(member), None)
        if len(tangle) > 1:
            self._components.update(dict.fromkeys(map(id, tangle), object()))
        self._done[key] = encoding, value
        return encoding

    @property
    def depth(self) -> int:
        """How many objects are begun."""
        return len(self._numbers)

    def mark(self) -> int:
        """A place to forget back to, before a member of a container that has no order."""
        return len(self._unresolved)

    def forget(self, mark: int) -> None:
        """Hide what was met since from the next member of a container that has no order."""
        for member in self._unresolved[mark:]:
            self._forgotten += self._numbers.pop(id(member), None) is not None
        if self._forgotten > _MOST_FORGOTTEN:
            raise Tangled
