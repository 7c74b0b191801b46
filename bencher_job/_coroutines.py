"""Knows how the calls of a cached coroutine function are awaited: nothing that takes long is done in the event loop.

    await f(x): key -> in memory: the value
                    └> a thread: look up, join or run -> a task of this loop, or the executor -> commit -> the value

Who is cancelled leaves the others waiting. The last of them takes the run along, and waits until it has ended.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

from ._function_cache import JobFunctionCache
from ._future import JobFuture
from ._loops import Caller, caller
from ._recall import Unanswered
from ._stores import MISS

__all__ = ["coroutine_of"]


def coroutine_of(
    cache: JobFunctionCache, args: tuple[Any, ...], kwargs: dict[str, Any], *, fresh: bool = False
) -> Coroutine[Any, Any, Any]:
    """Make the coroutine of a call; a fresh one is computed anew and replaces what was remembered.

    Raises:
        TypeError: when the arguments don't fit the function, unless its code has not been read yet.
    """
    if cache.keys.is_ready:
        cache.keys.binder.bind(*args, **kwargs)
    return _awaited(cache, args, kwargs, fresh=fresh)


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
    """Await a future; who is cancelled and was the last to wait for its run waits until that has ended as well."""
    import asyncio  # takes long to import, and is imported where loops run

    try:
        await future.until_done()
    except asyncio.CancelledError:
        await future.end()
        raise
    return await future
