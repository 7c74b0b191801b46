"""Knows `cached_job` and the wrapt wrapper that it makes of a function."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

import wrapt

from ._executors import Executors
from ._function_cache import JobFunctionCache
from ._future import JobFuture
from ._keys import CodeScope, Identity
from ._settings import DEFAULT_CACHE_NAME, cache_directory
from ._sweep import Sweep, stream

if TYPE_CHECKING:
    from ._explanation import Explanation

__all__ = ["CachedFunction", "cached_job"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)  # noqa: PLC0105 - named as everybody names it
S = TypeVar("S")


class _CachedCalls(Generic[P, R]):
    """What can be asked of a cached function, bound or not; it adds what a bound one brings before the arguments."""

    __slots__ = ()
    _bencher_job_cached = True
    _self_cache: JobFunctionCache

    def _with_bound(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args

    @property
    def cache(self) -> JobFunctionCache:
        """The cache of this function."""
        return self._self_cache

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._self_cache.value(self._with_bound(args), kwargs)  # type: ignore[no-any-return]

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]:
        """Ask for a call's value without waiting for it, where the executor runs jobs elsewhere."""
        return self._self_cache.submit_call(self._with_bound(args), kwargs)

    def map(self, *iterables: Iterable[Any]) -> Iterator[R]:
        """Give the values for the arguments that the iterables bring, in order, as `concurrent.futures.Executor.map`.

        The iterables are read as values are taken, a bounded number of jobs ahead, so they may be endless.
        """
        return stream(self._self_cache, (self._with_bound(args) for args in zip(*iterables, strict=False)))

    def sweep(self, grid: Mapping[str, Iterable[Any]], /, *, repeats: int = 1, **constants: Any) -> Sweep:
        """Make the sweep over all combinations of the grid's values; it runs nothing yet.

        Raises:
            TypeError: when the grid or the constants don't fit the function.
            ValueError: when a parameter of the grid has no values, or repeats is below 1.
        """
        return Sweep(self._self_cache, self._with_bound(()), grid, repeats, constants)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute a call anew, replace what was remembered, and give the value."""
        return self._self_cache.refresh(self._with_bound(args), kwargs)  # type: ignore[no-any-return]

    def forget(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Drop what is remembered of a call; whether there was anything."""
        return self._self_cache.cache.forget(self.key(*args, **kwargs))

    def is_cached(self, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether a call is remembered; nothing is computed and nothing read but the index."""
        return self._self_cache.cache.has(self.key(*args, **kwargs))

    def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Say whether a call is remembered, or why it would run: what differs from the nearest entry.

        Nothing is computed and nothing changed.
        """
        return self._self_cache.explain(self._with_bound(args), kwargs)

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Make the job key of a call.

        Raises:
            UnkeyableArgument: when no key can be made of an argument.
            TypeError: when the arguments don't fit the function.
        """
        return self._identity(args, kwargs)[0]

    def _identity(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Identity:
        return self._self_cache.keys.identity(self._with_bound(args), kwargs)


class BoundCachedFunction(_CachedCalls[P, R], wrapt.BoundFunctionWrapper):  # type: ignore[misc]
    """A cached function as an instance or a class gives it."""

    @property
    def _self_cache(self) -> JobFunctionCache:  # type: ignore[override]
        return self._self_parent.cache  # type: ignore[no-any-return]

    def _with_bound(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        bound = getattr(self.__wrapped__, "__self__", _UNBOUND)
        return args if bound is _UNBOUND else (bound, *args)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self._reduced() or self._self_parent.__reduce_ex__(protocol)

    def reduce_for_worker(self, *, by_value: bool) -> tuple[Any, ...]:
        """Say how it travels to a worker: as what its instance or class gives there."""
        return self._reduced() or self._self_parent.reduce_for_worker(by_value=by_value)

    def __copy__(self) -> BoundCachedFunction[P, R]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        bound = getattr(self.__wrapped__, "__self__", _UNBOUND)
        return self if bound is _UNBOUND else getattr(copy.deepcopy(bound, memo), self.__wrapped__.__name__)

    def _reduced(self) -> tuple[Any, ...] | None:
        bound = getattr(self.__wrapped__, "__self__", _UNBOUND)
        return None if bound is _UNBOUND else (getattr, (bound, self.__wrapped__.__name__))


_UNBOUND = object()


class CachedFunction(_CachedCalls[P, R], wrapt.FunctionWrapper):  # type: ignore[misc]
    """A function whose results are remembered: what `cached_job` makes.

    It is called as the function, and keeps its name, docstring and signature. `__wrapped__` is the plain function.
    It pickles by name or, where it has none, by value.
    """

    __bound_function_wrapper__ = BoundCachedFunction

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._self_cache.value(args, kwargs)  # type: ignore[no-any-return]

    def __init__(self, function: Callable[P, R], options: Mapping[str, Any]) -> None:
        super().__init__(function, _call_plain)
        self._self_options = dict(options)
        plain = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
        self._self_cache = JobFunctionCache(plain, **options)

    @overload
    def __get__(self, instance: None, owner: type) -> CachedFunction[P, R]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None
    ) -> BoundCachedFunction[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind to an instance or a class, as a function does."""
        return super().__get__(instance, owner)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if _is_found_by_name(self):
            return _find_by_name, (self.__module__, self.__qualname__)
        from ._executors.pickling import dumps  # takes long to import

        return pickle.loads, (dumps(self),)

    def reduce_for_worker(self, *, by_value: bool) -> tuple[Any, ...]:
        """Say how it travels to a worker: by name, unless the worker can't import its module."""
        if not by_value and self.__module__ != "__main__" and _is_found_by_name(self):
            return _find_by_name, (self.__module__, self.__qualname__)
        return CachedFunction, (self.__wrapped__, self._self_portable_options())

    def __copy__(self) -> CachedFunction[P, R]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CachedFunction[P, R]:
        return self

    def __repr__(self) -> str:
        return f"<CachedFunction {self._self_cache.name}>"

    __str__ = __repr__

    def _self_portable_options(self) -> dict[str, Any]:
        """Give the options for another process: the same store, and an executor that is there."""
        directory = os.fspath(cache_directory(self._self_cache.cache_dir))
        return {**self._self_options, "cache_dir": directory, "executor": Executors.SERIAL}


def _call_plain(
    wrapped: Callable[..., Any], _instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return wrapped(*args, **kwargs)


def _is_found_by_name(function: CachedFunction[..., Any]) -> bool:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module is None or name is None:
        return False
    try:
        return _find_by_name(module, name) is function
    except (AttributeError, ImportError):
        return False


def _find_by_name(module: str, qualified_name: str) -> Any:
    """Find what a module defines under a dotted name, methods as they stand in their class."""
    __import__(module)
    found: Any = sys.modules[module]
    for name in qualified_name.split("."):
        found = inspect.getattr_static(found, name)
    return found


@overload
def cached_job(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cached_job(
    *,
    executor: Executors | str | Executor | Any = ...,
    tag: str = ...,
    cache_name: str = ...,
    cache_dir: str | os.PathLike[str] | None = ...,
    size_limit: int = ...,
    overwrite: bool = ...,
    ignore: Collection[str] = ...,
    version: object = ...,
    code: CodeScope = ...,
    depends_on: Iterable[object] = ...,
    by_content: Collection[str] = ...,
    ttl: float | timedelta | None = ...,
    mmap: bool = ...,
    compression: Literal["zstd", "lz4"] | None = ...,
    trusted: bool = ...,
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]: ...
def cached_job(
    function: Callable[..., Any] | None = None,
    /,
    *,
    executor: Executors | str | Executor | Any = Executors.SERIAL,
    tag: str = "",
    cache_name: str = DEFAULT_CACHE_NAME,
    cache_dir: str | os.PathLike[str] | None = None,
    size_limit: int = int(10e9),
    overwrite: bool = False,
    ignore: Collection[str] = (),
    version: object = None,
    code: CodeScope = "deep",
    depends_on: Iterable[object] = (),
    by_content: Collection[str] = (),
    ttl: float | timedelta | None = None,
    mmap: bool = False,
    compression: Literal["zstd", "lz4"] | None = None,
    trusted: bool = False,
) -> Any:
    """Remember what a function returned: decorate it, and call it as before.

    A call whose job has run before is answered from the cache; the key of a job is made of the function, the code that
    it reaches and its arguments. Decorating opens nothing and starts nothing.

    Args:
        function: the function to decorate; options are given instead, by keyword, as in `@cached_job(tag="nightly")`.
        executor: where jobs run: a member of `Executors` or its name, any `concurrent.futures.Executor`, or a Dask
            `Client`.
        tag: a label of the entries, for `cache.clear_tag`; it is not part of the key.
        cache_name: name of the cache's folder in `cache_dir`.
        cache_dir: the folder that holds caches; by default the variable `BENCHER_JOB_CACHE_DIR`, else `cachedir` in the
            current folder at first use.
        size_limit: size in bytes beyond which the least recently stored entries are evicted.
        overwrite: compute every call anew, and replace what was remembered.
        ignore: names of parameters that don't change the result and so don't enter the key.
        version: any value that can be keyed; another version is another job.
        code: how much of the code is part of the key: "deep" for all of the user's own code that the function reaches,
            "own" for the function itself, "none" for nothing but its name.
        depends_on: what else the result depends on, and no name in the code leads to: functions, classes and modules;
            distributions by name, which count with their version; files and folders as `pathlib.Path`, by content.
        by_content: names of parameters that hold a path, or a list of paths, whose files count instead of their names.
        ttl: seconds, or a `timedelta`, after which a result is computed anew; by default it is kept for good.
        mmap: give the large arrays of a hit as read-only maps of its file, which are not read until they are used.
        compression: how large results are compressed: "zstd", "lz4", or not at all. Needs the extra `compression`.
        trusted: use a cache that another user owns or can write to; unpickling what they wrote there runs their code.

    Raises:
        TypeError: when what is decorated is a class, a coroutine function or not callable.
        ValueError: when `ignore` or `by_content` names a parameter that the function doesn't have.

    >>> @cached_job(tag="docs")
    ... def accuracy(model: str, c: float = 1.0) -> dict[str, float]:
    ...     return {"score": len(model) * c}
    >>> accuracy("svm", c=2.0)
    {'score': 6.0}
    """
    options = {
        "executor": executor,
        "tag": tag,
        "cache_name": cache_name,
        "cache_dir": cache_dir,
        "size_limit": size_limit,
        "overwrite": overwrite,
        "ignore": (ignore,) if isinstance(ignore, str) else tuple(ignore),
        "version": version,
        "code": code,
        "depends_on": (depends_on,) if isinstance(depends_on, str) else tuple(depends_on),
        "by_content": (by_content,) if isinstance(by_content, str) else tuple(by_content),
        "ttl": ttl,
        "mmap": mmap,
        "compression": compression,
        "trusted": trusted,
    }
    if function is None:
        return functools.partial(_checked, options=options)
    return _checked(function, options)


def _checked(function: Callable[..., Any], options: dict[str, Any]) -> CachedFunction[..., Any]:
    plain = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    if inspect.isclass(plain):
        raise TypeError(
            f"cached_job decorates functions, and {plain.__qualname__} is a class. Decorate its methods."
        )
    if not callable(plain):
        raise TypeError(
            f"cached_job decorates functions, and {plain!r} can't be called. Give options by keyword."
        )
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise TypeError(
            f"cached_job can't remember what the coroutine function {plain.__qualname__} returns. "
            f"Decorate a plain function that runs it, for example with asyncio.run()."
        )
    if getattr(type(function), "_bencher_job_cached", False):
        raise TypeError(f"{function!r} is cached already. Decorate it once.")
    return CachedFunction(function, options)
