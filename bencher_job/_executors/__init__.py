"""Answers where jobs run.

engine_for(Executors.SERIAL | MULTIPROCESSING | SCOOP | an executor | a Dask client) -> Engine

job -> Engine.submit -> pack -> bytes ~~> worker: run_packed ~~> bytes -> Engine.receive -> Outcome
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

from .base import Executors, Outcome, inside_worker, is_submitter, run_inline
from .engine import Engine, SerialEngine

__all__ = [
    "Engine",
    "Executors",
    "Outcome",
    "engine_for",
    "executor_name",
    "inside_worker",
    "is_submitter",
    "run_inline",
]


def executor_name(spec: Executors | str | concurrent.futures.Executor | object) -> str:
    """Name what a user gave as `executor=`: a member of `Executors`, or the class of an executor.

    Raises:
        TypeError: for anything but a member of `Executors`, its name, an executor or a Dask client.
        ValueError: for a name that no member has.
    """
    if isinstance(spec, str):
        return _member(spec)
    if isinstance(spec, concurrent.futures.Executor) or callable(getattr(spec, "get_executor", None)):
        return type(spec).__name__
    raise TypeError(
        f"executor={spec!r} is a {type(spec).__name__}. Use a member of Executors, its name as a string, any "
        f"concurrent.futures.Executor object, or a dask.distributed.Client."
    )


def _member(name: str) -> Executors:
    try:
        return Executors(name)
    except ValueError:
        raise ValueError(
            f"executor={name!r} is no executor's name. Use one of {', '.join(Executors)}, "
            f"or any concurrent.futures.Executor object."
        ) from None


def engine_for(spec: Executors | str | concurrent.futures.Executor | object) -> Engine:
    """Make the engine for what a user gave as `executor=`; no process is started before the first job.

    Raises:
        TypeError: for anything but a member of `Executors`, its name, an executor or a Dask client.
        ValueError: for a name that no member has.
    """
    name = executor_name(spec)
    if isinstance(name, Executors):
        return _own_engine(name)
    if isinstance(spec, concurrent.futures.Executor):
        return _adopted_engine(spec)
    from .adopt import DaskEngine

    return DaskEngine(spec)


def _own_engine(member: Executors) -> Engine:
    if member is Executors.SERIAL:
        return SerialEngine()
    if member is Executors.MULTIPROCESSING:
        from .pool import PoolEngine

        return PoolEngine()
    from .scoop import ScoopEngine

    return ScoopEngine()


def _adopted_engine(executor: Any) -> Engine:
    from .adopt import PackedEngine, ThreadEngine
    from .pool import PoolEngine, SlotPool
    from .scoop import ScoopEngine, ScoopExecutor

    if isinstance(executor, SlotPool):
        return PoolEngine(executor)
    if isinstance(executor, ScoopExecutor):
        return ScoopEngine(executor)
    if isinstance(executor, concurrent.futures.ThreadPoolExecutor):
        return ThreadEngine(executor)
    return PackedEngine(executor)
