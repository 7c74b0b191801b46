"""Knows how arguments are held as they are, for a job that begins later: what can change in place is copied.

numbers, texts, functions, ...                     themselves
lists, dicts, sets, arrays, and tuples of such     copies, unless they are large
what else there is                                 themselves, and to be looked at again
"""

from __future__ import annotations

import datetime
import pathlib
import sys
import types
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Any, Final

__all__ = ["Held", "can_not_change"]

MOST_ITEMS: Final = 10_000
"""How many items are copied for one job at most: copying them takes about a millisecond."""

LARGEST: Final = 1 << 20
"""How many bytes of arrays are copied for one job at most, since many jobs may wait."""

DEEPEST: Final = 100

_UNCHANGING: Final = frozenset(
    {
        bool, bytes, complex, float, int, str, type(None), range, slice, type(...), type(NotImplemented),
        datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone,
        pathlib.PosixPath, pathlib.PurePosixPath,
    }
)  # fmt: skip
_UNCHANGING_TOO: Final = {"decimal": "Decimal", "fractions": "Fraction", "uuid": "UUID"}
"""Classes by their modules, which take long to import."""

_NAMED: Final = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, Enum)
"""What is the same thing however often it is looked at; code that changes is seen otherwise."""


def can_not_change(values: Sequence[object]) -> bool:
    """Whether all values are of types that nobody can change in place, as most arguments are."""
    kinds = set(map(type, values))
    return _UNCHANGING.issuperset(kinds) or all(map(_is_unchanging, kinds))


def _is_unchanging(kind: type) -> bool:
    if kind in _UNCHANGING:
        return True
    name = _UNCHANGING_TOO.get(kind.__module__)
    return name is not None and getattr(sys.modules.get(kind.__module__), name, None) is kind


class Held:
    """Copies the arguments of one job; what stands in several places is copied once.

    Attributes:
        is_whole: whether all that can change was copied.
    """

    def __init__(self) -> None:
        self.is_whole = True
        self._items = MOST_ITEMS
        self._nbytes = LARGEST
        self._depth = 0
        self._made: dict[int, tuple[object, object]] = {}

    def call(
        self, positional: Sequence[Any], named: Mapping[str, Any], left: Collection[str]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copy the arguments of a call but for those whose names are left as they are.

        Where there are such names, nothing that comes by position is copied, since its name is not known here.
        """
        if left and positional:
            self.is_whole = False
            args = tuple(positional)
        else:
            args = tuple(map(self.copy, positional))
        return args, self.named(named, left)

    def named(self, values: Mapping[str, Any], left: Collection[str]) -> dict[str, Any]:
        """Copy values by their names but for those that are left as they are."""
        return {name: value if name in left else self.copy(value) for name, value in values.items()}

    def copy(self, value: Any) -> Any:
        """Give a copy, or the value itself where it can't change or be copied."""
        if _is_unchanging(type(value)) or isinstance(value, _NAMED):
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        self._items -= 1
        if self._items < 0 or self._depth > DEEPEST:
            return self._itself(value)
        self._depth += 1
        try:
            return self._copied(value)
        finally:
            self._depth -= 1

    def _copied(self, value: Any) -> Any:
        kind = type(value)
        if kind is list:
            made: Any = self._note(value, [])
            made.extend(map(self.copy, value))
        elif kind is dict:
            made = self._note(value, {})
            made.update((self.copy(key), self.copy(item)) for key, item in value.items())
        elif kind is tuple:
            items = tuple(map(self.copy, value))
            is_same = all(item is before for item, before in zip(items, value, strict=True))
            made = self._note(value, value if is_same else items)
        elif kind is set or kind is frozenset:
            made = self._note(value, kind(map(self.copy, value)))
        elif kind is bytearray:
            made = self._bytes(value, len(value))
        else:
            made = self._array(value)
        return made

    def _array(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
            return self._itself(value)
        if isinstance(value, numpy.generic):
            return value
        if type(value) is not numpy.ndarray or value.dtype.hasobject:
            return self._itself(value)
        if value.flags.owndata and not value.flags.writeable:
            return value
        return self._bytes(value, value.nbytes)

    def _bytes(self, value: Any, size: int) -> Any:
        if size > self._nbytes:
            return self._itself(value)
        self._nbytes -= size
        return self._note(value, value.copy())

    def _itself(self, value: Any) -> Any:
        self.is_whole = False
        return self._note(value, value)

    def _note(self, value: Any, made: Any) -> Any:
        self._made[id(value)] = value, made  # it lives on, so that its id stays its own
        return made
