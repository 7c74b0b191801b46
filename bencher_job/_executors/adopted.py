"""Run jobs on any `concurrent.futures.Executor`.

    threads: the job itself                    processes and clusters: pack -> bytes -> run_packed -> bytes

The user made the executor, so nothing here shuts it down. It has a queue of its own, which replaces the
scheduler.
"""

from __future__ import annotations

import concurrent.futures
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from .connections import StartListener
from .engine import Engine, failed, unsendable
from .entry import RunResult, run_packed
from .packing import pack
from .threads import run_in_thread

if TYPE_CHECKING:
    from .._job import Job


def engine_on(executor: concurrent.futures.Executor, name: str, timeout: float | None) -> Engine:
    """Make an engine of an executor: without pickling in threads, else with packed jobs."""
    if isinstance(executor, concurrent.futures.ThreadPoolExecutor):
        start = partial(_submit_each, lambda job: _in_thread(executor, job, timeout))
        return Engine(name, start, executor, ends_jobs=True, shares_arguments=True)
    starts = None if timeout is None else StartListener()
    start = partial(_submit_each, lambda job: _packed(executor, job, starts))
    return Engine(name, start, executor, opens=lambda parts, job: RunResult.of_parts(parts).open(job))


def _submit_each(
    submit: Callable[[Job], Future[Any]], _executor: Any, jobs: Sequence[Job]
) -> list[Future[Any]]:
    futures = [submit(job) for job in jobs[:1]]
    for job in jobs[1:]:
        try:
            futures.append(submit(job))
        except RuntimeError as error:  # the executor broke after it took the first job
            futures.append(failed(error))
    return futures


def _in_thread(executor: Any, job: Job, timeout: float | None) -> Future[Any]:
    return _observed(executor.submit(run_in_thread, job, timeout))


def _packed(executor: Any, job: Job, starts: StartListener | None) -> Future[Any]:
    try:
        parcel = pack(job, local=False)
    except Exception as problem:  # noqa: BLE001 - a job's own pickling can raise anything
        return unsendable(job, problem)
    packed = run_packed, parcel.body.stream, tuple(parcel.function.payload)
    if starts is None:
        return _observed(executor.submit(*packed))
    report = starts.new_report()
    return _observed(executor.submit(*packed, report), partial(starts.has_begun, report.number))


class _Observed:
    """What a future of the user's executor does not say. Its methods replace those of the future.

    Attributes:
        was_called: whether the library has cancelled the future. Otherwise the executor has lost the job.
    """

    def __init__(self, future: Future[Any], has_begun: Callable[[], bool]) -> None:
        self._future = weakref.ref(future)  # weak, because the future refers to this object
        self._has_begun = has_begun
        self.was_called = False
        future.running = self.running  # type: ignore[method-assign]
        future.cancel = self  # type: ignore[method-assign]

    def running(self) -> bool:
        """Whether it runs, as the executor or the worker has reported, which some executors do not."""
        future = self._future()
        return (
            future is not None and not future.done() and (type(future).running(future) or self._has_begun())
        )

    def __call__(self) -> bool:
        """Cancel the future."""
        future = self._future()
        if future is None:
            return False
        self.was_called = True  # first, because callbacks run while it is being cancelled
        try:
            self.was_called = bool(type(future).cancel(future))
        except Exception:  # noqa: BLE001 - Parsl's raises NotImplementedError, which must not hide a job's exception
            self.was_called = False
        return self.was_called


def _observed(future: Future[Any], has_begun: Callable[[], bool] = bool) -> Future[Any]:
    _Observed(future, has_begun)
    return future
