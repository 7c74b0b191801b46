"""Knows the wrapper that `cached_job` makes of a coroutine function: its calls are awaited."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from ._cached_function import (
    BoundCachedFunction,
    CachedCalls,
    CachedFunction,
    FunctionAnnotations,
    FunctionDoc,
)
from ._coroutines import coroutine_of

__all__ = ["CachedCoroutineFunction"]


class _Awaited(CachedCalls[..., Any]):
    """What is different for a coroutine function, bound or not."""

    __slots__ = ()

    def refresh(self, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Compute a call anew, replace what was remembered, and give the value, to be awaited."""
        return coroutine_of(self._self_cache, self._with_bound(args), kwargs, fresh=True)

    def map(self, *iterables: Any, ordered: bool = True, buffersize: int | None = None) -> Any:
        """Give the values for the arguments that the iterables bring, in an asynchronous iterator."""
        from ._sweeps.stream import stream_in_loop  # takes long to import

        return stream_in_loop(
            self._self_cache, iterables, self._with_bound, ordered=ordered, buffersize=buffersize
        )


class BoundCachedCoroutineFunction(_Awaited, BoundCachedFunction[..., Any]):
    """A cached coroutine function as an instance or a class gives it."""

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


# What `inspect.iscoroutinefunction` looks for in an object that isn't a function, from Python 3.12 on. Its name is
# private and not the same everywhere, so it is taken from a function that has been marked.
_mark = getattr(inspect, "markcoroutinefunction", None)
for _name, _value in () if _mark is None else vars(_mark(lambda: None)).items():
    setattr(_Awaited, _name, _value)
