"""Knows how the value of an entry in memory is made anew at each hit, so that no two callers share what can change.

Unpickling does that for every value. A value that can't change may be given as it is, and a flat dict, list or set of
such values is copied in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import repeat
from pickle import loads
from typing import Any, Final

from .._keys import UNCHANGEABLE
from .base import Hit

__all__ = ["giver"]

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
