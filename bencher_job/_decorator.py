"""`cached_job` and its options."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypeVar, overload

from ._cached_function import CachedFunction
from ._coroutines import CachedCoroutineFunction
from ._executors import Executors, StartMethod
from ._keys import CodeScope
from ._loops import is_coroutine_function
from ._options import DEFAULT_CACHE_NAME, RetryOn, libraries_of, names_of, tuple_of

__all__ = ["cached_job"]


P = ParamSpec("P")
R = TypeVar("R")


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
    libraries: bool | Collection[str] = ...,
    ttl: float | timedelta | None = ...,
    mmap: bool = ...,
    compression: Literal["zstd", "lz4"] | None = ...,
    trusted: bool = ...,
    retries: int = ...,
    retry_on: RetryOn = ...,
    timeout: float | timedelta | None = ...,
    max_workers: int | None = ...,
    max_tasks_per_worker: int | None = ...,
    initializer: Callable[..., object] | None = ...,
    initargs: Sequence[Any] = ...,
    start_method: StartMethod | None = ...,
    inner_threads: int | None = ...,
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
    libraries: bool | Collection[str] = True,
    ttl: float | timedelta | None = None,
    mmap: bool = False,
    compression: Literal["zstd", "lz4"] | None = None,
    trusted: bool = False,
    retries: int = 0,
    retry_on: RetryOn = Exception,
    timeout: float | timedelta | None = None,
    max_workers: int | None = None,
    max_tasks_per_worker: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Sequence[Any] = (),
    start_method: StartMethod | None = None,
    inner_threads: int | None = None,
) -> Any:
    """Remember what a function returned: decorate it, and call it as before.

    A call whose job has run before is answered from the cache; the key of a job is made of the function, the code that
    it reaches and its arguments. Decorating opens nothing and starts nothing.

    Args:
        function: the function to decorate; options are given instead, by keyword, as in `@cached_job(tag="nightly")`.
        executor: where jobs run: a member of `Executors` or its name, any `concurrent.futures.Executor`, a Dask
            `Client`, or the address of a Dask scheduler.
        tag: a label of the entries, for `cache.clear_tag`; it is not part of the key.
        cache_name: name of the cache's folder in `cache_dir`.
        cache_dir: the folder that holds caches; by default the variable `BENCHER_JOB_CACHE_DIR`, else `cachedir` in the
            current folder at first use.
        size_limit: size in bytes beyond which the least recently used entries are evicted.
        overwrite: compute every call anew, and replace what was remembered.
        ignore: names of parameters that don't change the result and so don't enter the key.
        version: any value that can be keyed; another version is another job.
        code: how much of the code is part of the key: "deep" for all of the user's own code that the function reaches,
            "own" for the function itself, "none" for nothing but its name.
        depends_on: what else the result depends on, and no name in the code leads to: functions, classes and modules;
            distributions by name, which count with their version; files and folders as `pathlib.Path`, by content.
        by_content: names of parameters that hold a path, or a list of paths, whose files count instead of their names.
        libraries: whether name and version of each installed distribution that the code names are part of the key; or
            the names of those that are, whether the code names them or not.
        ttl: seconds, or a `timedelta`, after which a result is computed anew; by default it is kept for good.
        mmap: give the large arrays of a hit as read-only maps of its file, which are not read until they are used.
        compression: how large results are compressed: "zstd", "lz4", or not at all. Needs the extra `compression`.
        trusted: use a cache that another user owns or can write to; unpickling what they wrote there runs their code.
        retries: how many times a job runs again that has failed, or whose worker was lost.
        retry_on: the exceptions after which it does: a type, a tuple of types, or a function that takes the exception.
            By default all that the function raises; a lost worker always.
        timeout: seconds, or a `timedelta`, that a run may take, from its begin. Then the job ends with `JobTimeout`.
            So does one whose arguments or result can't be unpickled in time, or whose worker does not get ready.
        max_workers: how many processes (or threads) of this machine run jobs at most; by default one per core.
            Functions with the same settings share them.
        max_tasks_per_worker: after how many jobs a process is replaced by a new one; by default never.
        initializer: what each new process calls before its first job, with `initargs`: to load a model, say.
        initargs: the arguments of the initializer.
        start_method: how a process is started: "spawn", the default, "forkserver" or "fork".
        inner_threads: how many threads BLAS, OpenMP and the like may start in each worker; by default its share of the
            cores, so that all workers together have as many as there are cores.

    Raises:
        TypeError: when what is decorated is a class, an asynchronous generator or not callable, or when an option is
            not of its kind.
        ValueError: when `ignore` or `by_content` names a parameter that the function doesn't have, or when the executor
            can't do what an option asks of it.

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
        "ignore": names_of("ignore", ignore),
        "version": version,
        "code": code,
        "depends_on": tuple_of("depends_on", depends_on),
        "by_content": names_of("by_content", by_content),
        "libraries": libraries_of(libraries),
        "ttl": ttl,
        "mmap": mmap,
        "compression": compression,
        "trusted": trusted,
        "retries": retries,
        "retry_on": retry_on,
        "timeout": timeout,
        "max_workers": max_workers,
        "max_tasks_per_worker": max_tasks_per_worker,
        "initializer": initializer,
        "initargs": tuple_of("initargs", initargs),
        "start_method": start_method,
        "inner_threads": inner_threads,
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
    if inspect.isasyncgenfunction(plain):
        raise TypeError(
            f"cached_job can't remember what the asynchronous generator {plain.__qualname__} gives, one value after "
            f"the other. Decorate a coroutine function that returns them in a list."
        )
    if getattr(type(function), "_bencher_job_cached", False):
        raise TypeError(f"{function!r} is cached already. Decorate it once.")
    if is_coroutine_function(plain):
        return CachedCoroutineFunction(function, options)
    return CachedFunction(function, options)
