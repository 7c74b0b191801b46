"""Knows a stream of calls of one function: their values in order or as they complete, as `fn.map` gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from ._bulk import ROOM, Bulk, Call, answers
from ._function_cache import JobFunctionCache

__all__ = ["stream"]


def stream(
    cache: JobFunctionCache,
    calls: Iterable[tuple[Any, ...]],
    *,
    ordered: bool = True,
    buffersize: int | None = None,
) -> Iterator[Any]:
    """Give the values of calls, a bounded number of which are looked up or run ahead.

    Raises:
        TypeError: when the buffer's size is no whole number.
        ValueError: when it is below 1.
    """
    return _values(cache, calls, ordered, _checked(buffersize))


def _values(
    cache: JobFunctionCache, calls: Iterable[tuple[Any, ...]], ordered: bool, room: int
) -> Iterator[Any]:
    numbered = enumerate(Call(args, {}) for args in calls)
    with closing(answers(Bulk(cache, ordered=ordered, room=room), numbered)) as given:
        for answer in given:
            yield answer.value()


def _checked(buffersize: int | None) -> int:
    if buffersize is None:
        return ROOM
    if not isinstance(buffersize, int):
        raise TypeError(
            f"buffersize={buffersize!r} is no whole number. Give how many calls may be under way."
        )
    if buffersize < 1:
        raise ValueError(f"buffersize={buffersize} leaves no room for a call. Give 1 or more, or None.")
    return buffersize
