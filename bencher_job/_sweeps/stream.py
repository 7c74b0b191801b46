"""Knows a stream of calls of one function: their values in order or as they complete, as `fn.map` gives them."""

from __future__ import annotations

import itertools
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, closing
from typing import Any

from .._function_cache import JobFunctionCache
from .._loops import caller
from .bulk import Bulk, answers, answers_in_loop
from .calls import Call

__all__ = ["stream", "stream_in_loop"]


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


def stream_in_loop(
    cache: JobFunctionCache,
    iterables: Sequence[Iterable[Any] | AsyncIterable[Any]],
    completed: Callable[[tuple[Any, ...]], tuple[Any, ...]],
    *,
    ordered: bool = True,
    buffersize: int | None = None,
) -> AsyncIterator[Any]:
    """Give the values of the calls of a coroutine function, whose arguments come from iterables of either kind.

    `completed` adds to a call's arguments what comes before them.

    Raises:
        TypeError: when the buffer's size is no whole number, or something can't be iterated.
        ValueError: when it is below 1.
    """
    room = _checked(buffersize)
    each: list[Any] = [
        iterable.__aiter__() if isinstance(iterable, AsyncIterable) else iter(iterable)
        for iterable in iterables
    ]
    return _values_in_loop(cache, each, completed, ordered, room)


async def _values_in_loop(
    cache: JobFunctionCache,
    iterators: Sequence[Any],
    completed: Callable[[tuple[Any, ...]], tuple[Any, ...]],
    ordered: bool,
    room: int,
) -> AsyncGenerator[Any, None]:
    bulk = Bulk(cache, ordered=ordered, room=room, asker=caller())
    calls: Any
    if any(isinstance(iterator, AsyncIterator) for iterator in iterators):
        calls = _zipped(iterators, completed)
    else:
        calls = enumerate(Call(completed(args), {}) for args in zip(*iterators, strict=False))
    async with aclosing(answers_in_loop(bulk, calls)) as given:
        async for answer in given:
            yield answer.value()


async def _zipped(
    iterators: Sequence[Any], completed: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> AsyncGenerator[tuple[int, Call], None]:
    """Make calls of a value of each iterator at a time, until the first has no more."""
    for number in itertools.count():
        values = []
        for iterator in iterators:
            try:
                values.append(
                    await anext(iterator) if isinstance(iterator, AsyncIterator) else next(iterator)
                )
            except (StopIteration, StopAsyncIteration):
                return
        yield number, Call(completed(tuple(values)), {})


def _checked(buffersize: int | None) -> int:
    if buffersize is None:
        return 0
    if not isinstance(buffersize, int):
        raise TypeError(
            f"buffersize={buffersize!r} is no whole number. Give how many calls may be under way."
        )
    if buffersize < 1:
        raise ValueError(f"buffersize={buffersize} leaves no room for a call. Give 1 or more, or None.")
    return buffersize
