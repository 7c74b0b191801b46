"""Cached coroutine functions.

    await f(x): key -> in memory: the value
                    └> a thread: look up, join or run -> a task of this loop, or the executor -> commit -> the value

Cancelling one caller leaves the others waiting. Cancelling the last one cancels the run, and waits for its end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, cast

from ._cached_function import (
    BoundCachedFunction,
    CachedCalls,
    CachedFunction,
    FunctionAnnotations,
    FunctionDoc,
)
from ._function_cache import JobFunctionCache, Unanswered
from ._future import JobFuture
from ._loops import Caller, caller
from ._stores import MISS

__all__ = ["CachedCoroutineFunction", "coroutine_of"]


def coroutine_of(
    cache: JobFunctionCache, args: tuple[Any, ...], kwargs: dict[str, Any], *, fresh: bool = False
) -> Coroutine[Any, Any, Any]:
    """Make the coroutine of a call; with `fresh` the function runs again and its result replaces the stored one.

    Raises:
        TypeError: when the arguments don't fit the function, unless its code has not been read yet.
    """
    if cache.keys.is_ready:
        cache.keys.binder.bind(*args, **kwargs)
    coroutine = _awaited(cache, args, kwargs, fresh=fresh)
    coroutine.__qualname__ = cache.name  # type: ignore[attr-defined]  # for Python's warning of a missing await
    return coroutine


async def _awaited(
    cache: JobFunctionCache, args: tuple[Any, ...], kwargs: dict[str, Any], *, fresh: bool
) -> Any:
    answer = Unanswered(args, kwargs) if fresh else cache.answer(*args, **kwargs)
    if type(answer) is not Unanswered:
        return answer
    identity = None
    if cache.makes_quick_keys(args, kwargs):
        identity = cache.keys.identity(args, kwargs)
        value = MISS if fresh else cache.recall_call(identity, answer.call)
        if value is not MISS:
            return value
    else:
        args, kwargs = cache.held(args, kwargs)
    asker = cast("Caller", caller())
    future = cache.send_for(lambda: cache.job(args, kwargs, identity), asker, of_coroutine=True, fresh=fresh)
    return await _value_of(future)


async def _value_of(future: JobFuture[Any]) -> Any:
    """Await a future. If the last waiter of a run is cancelled, wait for the end of the run too."""
    import asyncio  # slow to import, and already imported where a loop runs

    try:
        await future.until_done()
    except asyncio.CancelledError:
        await future.end()
        raise
    return await future


class _Awaited(CachedCalls[..., Any]):
    """The methods that differ for coroutine functions, bound or not."""

    __slots__ = ()

    def refresh(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Compute a call again and replace the stored result. Await the value."""
        return coroutine_of(self._self_cache, self._with_bound(args), kwargs, fresh=True)

    def map(self, *iterables: Any, ordered: bool = True, buffersize: int | None = None) -> Any:
        """Return an asynchronous iterator over the values for the arguments in the iterables."""
        from ._sweeps.bulk import stream_in_loop  # slow to import

        return stream_in_loop(
            self._self_cache, iterables, self._with_bound, ordered=ordered, buffersize=buffersize
        )


class BoundCachedCoroutineFunction(_Awaited, BoundCachedFunction[..., Any]):
    """A cached coroutine function bound to an instance or a class."""

    __doc__ = FunctionDoc(__doc__)
    __annotations__ = FunctionAnnotations()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return coroutine_of(self._self_cache, self._with_bound(args), kwargs)


class CachedCoroutineFunction(_Awaited, CachedFunction[..., Any]):
    """A coroutine function whose results are remembered."""

    __doc__ = FunctionDoc(__doc__)
    __annotations__ = FunctionAnnotations()
    __bound_function_wrapper__ = BoundCachedCoroutineFunction  # type: ignore[assignment]  # P and R are any

    def _self_caller(self) -> Callable[..., Any]:
        cache = self._self_cache
        return lambda *args, **kwargs: coroutine_of(cache, args, kwargs)


# The mark that `inspect.iscoroutinefunction` looks for in objects that aren't functions, from Python 3.12 on. Its name
# is private and varies between versions, so it is copied from a marked function.
_mark = getattr(inspect, "markcoroutinefunction", None)
for _name, _value in () if _mark is None else vars(_mark(lambda: None)).items():
    setattr(_Awaited, _name, _value)
