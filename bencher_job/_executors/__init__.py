"""Executors: where jobs run.

engine_for(Executors.SERIAL | THREADS | MULTIPROCESSING | SCOOP | an executor | a Dask client or address) -> Engine

job -> Engine.submit -> pack -> Scheduler, or the executor's own queue ~~> worker: execute ~~> Engine.receive -> Outcome

The pool, SCOOP and Dask have the same scheduler. Threads and adopted executors have queues of their own.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from importlib import import_module
from typing import Any, Final

from .._options import MAKERS, Executors, PoolOptions
from .engine import (
    LARGEST_SENT,
    CallFuture,
    Engine,
    EngineSpec,
    Outcome,
    SharedExecutor,
    describe,
    error_text,
    inside_worker,
    is_submitter,
    run_here,
    run_inline,
    submit_jobs,
    write_files,
)

__all__ = [
    "LARGEST_SENT",
    "CallFuture",
    "Engine",
    "Executors",
    "Outcome",
    "check_limits",
    "describe",
    "engine_for",
    "error_text",
    "executor_name",
    "inside_worker",
    "is_submitter",
    "run_inline",
    "write_files",
]


_CLASSES: Final = {
    Executors.THREADS: ".threads:ThreadPool",
    Executors.MULTIPROCESSING: ".pool:SlotPool",
    Executors.SCOOP: ".scoop:ScoopExecutor",
    Executors.RAY: ".ray:Ray",
    Executors.SLURM: ".slurm:Slurm",
}
"""The classes of executors, and of engines with options of their own."""

_CLUSTERS: Final = {Executors.RAY, Executors.SLURM}


def _new(name: str) -> Any:
    module, _, title = _CLASSES[Executors(name)].partition(":")
    return getattr(import_module(module, __name__), title)()


def _new_executor(name: str) -> concurrent.futures.Executor:
    made: Any = _new(name)
    executor: concurrent.futures.Executor = made.new_executor(None) if isinstance(made, EngineSpec) else made
    return executor


MAKERS.update({name: partial(_new_executor, name) for name in _CLASSES})


def executor_name(spec: Executors | str | concurrent.futures.Executor | object) -> str:
    """Return the name of `executor=`: a member of `Executors`, or the class name of an executor.

    Raises:
        TypeError: if it is not a member of `Executors`, its name, an executor, or a Dask client or its address.
        ValueError: if a string is neither the name of a member nor an address.
    """
    if isinstance(spec, str):
        return _CLIENT if _is_address(spec) else _member(spec)
    if _dask_client(spec) is not None:
        return _CLIENT
    if isinstance(spec, EngineSpec):
        return spec.name
    if isinstance(spec, concurrent.futures.Executor):
        return type(spec).__name__
    raise TypeError(f"executor must be {_ALLOWED}, not {type(spec).__name__}")


_CLIENT: Final = "Client"
_ALLOWED: Final = (
    "a member of Executors, its name, Slurm(...), Ray(...), a concurrent.futures.Executor, a dask.distributed.Client, "
    "or the address of a Dask scheduler such as 'tcp://127.0.0.1:8786'"
)


def _is_address(text: str) -> bool:
    """Whether a string is the address of a Dask scheduler."""
    return "://" in text and not isinstance(text, Executors)


def _dask_client(spec: object) -> Any:
    """Return the Dask client, also from the executor that `Client.get_executor` made, else None."""
    if not any(base.__module__.startswith("distributed.") for base in type(spec).__mro__):
        return None
    if isinstance(spec, concurrent.futures.Executor):
        return getattr(spec, "_client", None)
    return spec if callable(getattr(spec, "get_executor", None)) else None


def _member(name: str) -> Executors:
    try:
        return Executors(name)
    except ValueError:
        raise ValueError(
            f"executor={name!r} is neither an executor's name nor an address. Use one of {', '.join(Executors)}, the "
            f"address of a Dask scheduler such as 'tcp://127.0.0.1:8786', or a concurrent.futures.Executor."
        ) from None


def check_limits(
    spec: Executors | str | concurrent.futures.Executor | object,
    settings: PoolOptions,
    timeout: float | None,
    patience: float | None = None,
    *,
    of_coroutines: bool = False,
) -> None:
    """Check that an executor supports the settings and limits, without importing or starting anything.

    A coroutine can be cancelled on any executor, a plain function in this process cannot. SERIAL accepts all
    settings, because code that passes on its caller's executor cannot know whether there will be workers.

    Raises:
        TypeError: if `spec` is not an executor.
        ValueError: if the executor does not support a setting, or cannot end a job after its timeout.
    """
    name = executor_name(spec)
    serving = _SERVED_BY.get(name, frozenset()) if isinstance(name, Executors) else frozenset()
    for option, value in settings.given().items():
        if option not in serving and name != Executors.SERIAL:
            able = " or ".join(
                f"executor={each.lower()!r}" for each, options in _SERVED_BY.items() if option in options
            )
            raise ValueError(
                f"{option}={value!r} has no effect on executor={name}. Use it with {able}, or set up the executor "
                f"that you pass yourself."
            )
    if patience is not None and name not in {*_CLUSTERS, _CLIENT, Executors.SERIAL}:
        raise ValueError(
            f"patience={patience:g} has no effect on executor={name}: its jobs wait for no queue of a cluster that "
            f"reports whether it has workers. Leave it out, or use executor='slurm', 'ray' or a Dask client."
        )
    if timeout is None or of_coroutines:
        return
    if name in {Executors.SERIAL, Executors.THREADS} or isinstance(
        spec, concurrent.futures.ThreadPoolExecutor
    ):
        raise ValueError(
            f"timeout={timeout:g} can't be kept by executor={name}: nothing ends a plain function that runs in this "
            f"process. Use executor='multiprocessing', make it a coroutine function, or leave the timeout out."
        )


_SERVED_BY: Final = {
    Executors.MULTIPROCESSING: frozenset(field.name for field in fields(PoolOptions)),
    Executors.THREADS: frozenset({"max_workers", "inner_threads"}),
    Executors.SCOOP: frozenset({"inner_threads"}),
}
"""The settings that each executor supports."""


def engine_for(
    spec: Executors | str | concurrent.futures.Executor | object,
    settings: PoolOptions | None = None,
    timeout: float | None = None,
    patience: float | None = None,
) -> Engine:
    """Make the engine for `executor=`. No process starts before the first job.

    An engine whose `ends_jobs` is true ends a job that runs for longer than `timeout` seconds. On a cluster on which no
    worker can run them, jobs wait for `patience` seconds.

    Raises:
        TypeError: if it is not a member of `Executors`, its name, an executor, or a Dask client or its address.
        ValueError: if a string is neither the name of a member nor an address.
    """
    name, start = executor_name(spec), submit_jobs(timeout)
    if name == _CLIENT:
        return _dask_engine(spec, timeout, patience)
    if not isinstance(name, Executors):
        return _adopted_engine(spec, name, timeout)
    if name in _CLUSTERS:
        cluster: EngineSpec = spec if isinstance(spec, EngineSpec) else _new(name)
        source = SharedExecutor(lambda: (cluster, patience), partial(cluster.new_executor, patience))
        return Engine(name, start, source, ends_jobs=cluster.ends_jobs)
    return _own_engine(name, settings or PoolOptions(), start)


def _own_engine(name: Executors, settings: PoolOptions, start: Callable[..., Any]) -> Engine:
    size, inner = settings.size, settings.inner_threads
    if name is Executors.SERIAL:
        return Engine(name, run_here)
    if name is Executors.THREADS:
        from .threads import ThreadPool

        source = SharedExecutor(lambda: (name, size, inner), partial(ThreadPool, size, inner_threads=inner))
        return Engine(name, start, source, ends_jobs=True, shares_arguments=True, asks_to_begin=True)
    if name is Executors.MULTIPROCESSING:
        from .pool import SlotPool, pool_key

        settings = replace(settings, max_workers=size)
        source = SharedExecutor(partial(pool_key, settings), partial(SlotPool, **settings.given()))
        return Engine(name, start, source, ends_jobs=True, asks_to_begin=True)
    from .scoop import ScoopExecutor

    source = SharedExecutor(lambda: (name, inner), partial(ScoopExecutor, inner_threads=inner))
    return Engine(name, start, source, asks_to_begin=True)


def _dask_engine(spec: Any, timeout: float | None, patience: float | None) -> Engine:
    from .dask import DaskExecutor

    cluster = spec if isinstance(spec, str) else _dask_client(spec)
    options = vars(spec).get("_kwargs") if isinstance(spec, concurrent.futures.Executor) else None
    tells_begin = timeout is not None
    key = cluster if isinstance(cluster, str) else id(cluster), repr(options), tells_begin, patience
    make = partial(DaskExecutor, cluster, options, tells_begin=tells_begin, patience=patience)
    return Engine(_CLIENT, submit_jobs(None), SharedExecutor(lambda: key, make))


def _adopted_engine(executor: Any, name: str, timeout: float | None) -> Engine:
    from .adopted import engine_on
    from .scheduler import ScheduledExecutor
    from .threads import ThreadPool

    start = submit_jobs(timeout)
    if isinstance(executor, ThreadPool):
        return Engine(name, start, executor, ends_jobs=True, shares_arguments=True, asks_to_begin=True)
    if isinstance(executor, ScheduledExecutor):
        ends_jobs, asks = executor.ends_jobs, executor.is_asked_to_begin
        return Engine(name, start, executor, ends_jobs=ends_jobs, asks_to_begin=asks)
    return engine_on(executor, name, timeout)
