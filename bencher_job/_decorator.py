"""`cached_job` and its options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from ._cached_function import CachedCoroutineFunction, CachedFunction
from ._loops import is_coroutine_function
from ._options import DecoratorArguments, accept, checked, shows_options

P = ParamSpec("P")
R = TypeVar("R")


@overload
def cached_job(function: Callable[P, R], /) -> CachedFunction[P, R]: ...
@overload
def cached_job(
    **options: Unpack[DecoratorArguments],
) -> Callable[[Callable[P, R]], CachedFunction[P, R]]: ...
@shows_options(DecoratorArguments)
def cached_job(function: Callable[..., Any] | None = None, /, **options: Unpack[DecoratorArguments]) -> Any:
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
        shared: the store that machines share, behind the local one: the path of a folder that all mount, or a URL
            that begins with `postgresql://`, `s3://`, `gs://` or `az://`. By default `BENCHER_JOB_SHARED`, if set.
        size_limit: size in bytes beyond which the least recently used entries are evicted.
        overwrite: compute every call again, and replace the remembered result.
        ignore: names of parameters that don't change the result and so don't enter the key.
        version: any value that can be keyed; another version is another job.
        code: how much of the code is part of the key: "deep" for all of the user's own code that the function reaches,
            "own" for the function itself, "none" for its name only.
        depends_on: what else the result depends on that no name in the code leads to: functions, classes and modules;
            distributions by name, which count with their version; files and folders as `pathlib.Path`, by content.
        keys: functions by the names of parameters, as in `{"model": lambda model: model.version}`. What a function
            returns stands for the argument in the key, and so does the function's own code.
        by_content: names of parameters that hold a path, or a list of paths, whose files count instead of their names.
        libraries: whether name and version of each installed distribution that the code names are part of the key; or
            the names of those that are, whether the code names them or not.
        ttl: seconds, or a `timedelta`, after which a result is computed again, counted at the call from the end of its
            run. By default a result of any age will do.
        keep: a function of the result, or of the result and its `Record`, that says whether the result is stored. The
            caller gets it in any case.
        valid: a function of the `Record` that says at each lookup whether an entry will do, or its job runs again.
        mmap: give the large arrays of a hit as read-only maps of its file, which are not read until they are used.
        compression: how large results are compressed: "zstd", "lz4", or not at all. Needs the extra `compression`.
        trusted: use a cache that another user owns or can write to; unpickling what they wrote there runs their code.
        retries: how many times a job runs again that has failed, or whose worker was lost.
        retry_on: the exceptions after which it does: a type, a tuple of types, or a function that takes the exception.
            By default all that the function raises; a lost worker always.
        timeout: seconds, or a `timedelta`, that a run may take from its start. Then the job ends with `JobTimeout`.
            So does one whose arguments or result can't be unpickled in time, or whose worker does not get ready.
        patience: seconds, or a `timedelta`, that jobs wait on a cluster (Dask, Slurm or Ray) on which no worker can run
            them. Then they end with `WorkerLost`. By default they wait without limit, and two minutes if the connection
            to Dask's scheduler is lost. Executors other than these and SERIAL refuse it.
        max_workers: how many processes (or threads) of this machine run jobs at most; by default one per core.
            Functions with the same settings share them.
        max_tasks_per_worker: number of jobs after which a process is replaced by a new one; by default never.
        initializer: what each new process calls before its first job, with `initargs`: to load a model, say.
        initargs: the arguments of the initializer.
        start_method: how a process is started: "spawn", the default, "forkserver" or "fork".
        inner_threads: how many threads BLAS, OpenMP and the like may start in each worker; by default its share of the
            cores, so that all workers together have as many as there are cores.
        gpus: the GPUs that the processes share: a number, or a list of ids. Each process sees one, in turn, by
            `CUDA_VISIBLE_DEVICES`, and by default there is one process per GPU.

    Raises:
        TypeError: when what is decorated is a class, an asynchronous generator or not callable, when there is no such
            option, or when its value has the wrong type.
        ValueError: when a value can't be used, as when `ignore` or `by_content` names a parameter that the function
            doesn't have, or when the executor can't do what an option asks of it.

    >>> @cached_job(tag="docs")
    ... def accuracy(model: str, c: float = 1.0) -> dict[str, float]:
    ...     return {"score": len(model) * c}
    >>> accuracy("svm", c=2.0)
    {'score': 6.0}
    """
    accept(cached_job, options)
    given = checked(options)
    if function is None:
        return functools.partial(_cached, options=given)
    return _cached(function, given)


def _cached(function: Callable[..., Any], options: dict[str, Any]) -> CachedFunction[..., Any]:
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
            f"cached_job can't remember the values that the asynchronous generator {plain.__qualname__} yields. "
            f"Decorate a coroutine function that returns them in a list."
        )
    if getattr(type(function), "_bencher_job_cached", False):
        raise TypeError(f"{function!r} is already cached. Decorate it once.")
    if is_coroutine_function(plain):
        return CachedCoroutineFunction(function, options)
    return CachedFunction(function, options)
