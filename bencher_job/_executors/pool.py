"""Run jobs in worker processes of this machine.

    submit -> pack -> Task -> PoolScheduler -> workers -> the task's future

Workers start as jobs come, up to `max_workers`. The death of a worker costs only the job that it ran. Caches with the
same settings share a pool.
"""

from __future__ import annotations

import concurrent.futures
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from .._cores import check_threads_can_be_limited
from .._errors import BencherJobError
from .._light_future import LightFuture
from .._options import Executors, PoolOptions
from .base import Outcome, end_at_exit
from .engine import SharedEngine, SharedExecutors, unsendable
from .entry import RunResult, open_result, unpack_value
from .packing import Parcel, pack_call, pack_many
from .pickling import CallPickler, dumps
from .scheduler import PoolScheduler
from .slot import Task

if TYPE_CHECKING:
    from .._job import Job

__all__ = ["PoolEngine", "SlotPool"]


class _CallFuture(LightFuture[Any]):
    """The future of a call, with the scheduler that runs it and the call's job."""

    def __init__(self, scheduler: PoolScheduler, job: Job | None = None) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.job = job


class SlotPool(concurrent.futures.Executor):
    """Run calls in worker processes of this machine.

    Anything that cloudpickle can pickle may be submitted, and a script needs no `__main__` guard. A call whose process
    dies ends with `WorkerLost`; other calls are not affected. A worker that cannot load a call, because its modules are
    older than the submitter's, is replaced. A worker caches the functions that it ran last, so a function that changes
    its own state finds the change in the next call in that worker.

    Each new worker calls `initializer(*initargs)`. `start_method` is "spawn", "forkserver" or "fork". `inner_threads`
    is how many threads BLAS, OpenMP and similar libraries may start in each worker, by default its share of the cores.
    """

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        settings = PoolOptions(max_workers=max_workers, **options)
        if settings.start_method == "fork":
            check_threads_can_be_limited(settings.inner_threads, "in forked workers")
        settings = replace(settings, max_workers=settings.size)
        self.max_workers = settings.size
        self.pid = os.getpid()
        """The process that made this pool. A forked child cannot use it."""
        self._is_shut_down = False
        self._scheduler = PoolScheduler(settings, _pickled_initializer(settings))
        _schedulers.add(self._scheduler)
        weakref.finalize(self, self._scheduler.dismiss).atexit = False

    def __repr__(self) -> str:
        workers = f"{len(self._scheduler.slots)} of {self.max_workers} workers"
        return f"<{type(self).__name__}: {'shut down' if self._is_shut_down else workers}>"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker.

        Raises:
            RuntimeError: after `shutdown`, or in a forked child of the process that made the pool.
        """
        self._check()
        try:
            parcel = pack_call(fn, args, kwargs)
        except Exception as problem:  # noqa: BLE001 - a class's pickling can raise anything
            return unsendable(fn, problem)
        task = Task(_CallFuture(self._scheduler), parcel.of_its_own(), fn, unpack_value)
        self._check()
        self._scheduler.add([task])
        return task.future

    def submit_parcels(
        self, packed: Iterable[tuple[Parcel, Job]], timeout: float | None = None
    ) -> list[Future[RunResult]]:
        """Start packed jobs, whose futures get `RunResult`s.

        A job that runs for more than `timeout` seconds ends with `JobTimeout`.
        """
        self._check()
        scheduler = self._scheduler
        tasks = [
            Task(_CallFuture(scheduler, job), parcel.of_its_own(), job, None, timeout, job.start)
            for parcel, job in packed
        ]
        scheduler.add(tasks)
        return [task.future for task in tasks]

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                "This pool belongs to the parent of this process. Make a new one after a fork."
            )
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def kill(self, future: Future[Any], verdict: BaseException | None = None) -> bool:
        """Cancel a call, or kill its process and all child processes if it runs.

        Its future ends with `verdict`, by default a `CancelledError`. False if the call is done, the future is not of
        this pool, or this process is a forked child.
        """
        is_ours = isinstance(future, _CallFuture) and future.scheduler is self._scheduler
        if self.pid != os.getpid() or not is_ours:
            return False
        if future.cancel():
            return True
        return self._scheduler.end(future, CancelledError() if verdict is None else verdict)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls, finish or cancel the waiting ones, then end the processes."""
        if self.pid != os.getpid():
            return
        self._is_shut_down = True
        if cancel_futures:
            self._scheduler.cancel_waiting()
        self._scheduler.dismiss()
        if wait:
            self._scheduler.join()


def _pickled_initializer(settings: PoolOptions) -> bytes | None:
    """Pickle the initializer and its arguments.

    Raises:
        BencherJobError: if they cannot be pickled.
    """
    if settings.initializer is None:
        return None
    try:
        return dumps((settings.initializer, settings.initargs), pickler=CallPickler)
    except Exception as problem:
        raise BencherJobError(
            f"initializer={settings.initializer!r} with initargs={settings.initargs!r} can't be sent to a worker: "
            f"{problem}. Create what can't be pickled in the initializer."
        ) from problem


class PoolEngine(SharedEngine[SlotPool]):
    """Run jobs on the shared pool of this process, or on a pool that the user made and keeps."""

    name = str(Executors.MULTIPROCESSING)
    ends_jobs = True
    asks_to_begin = True
    _own_errors = (BencherJobError, CancelledError)  # `kill` ends a running job with CancelledError

    def __init__(
        self, pool: SlotPool | None = None, settings: PoolOptions | None = None, timeout: float | None = None
    ) -> None:
        settings = settings or PoolOptions()
        self._pool_settings = replace(settings, max_workers=settings.size)
        self._timeout = timeout
        super().__init__(pool, _pools)

    def _make(self) -> SlotPool:
        return SlotPool(**self._pool_settings.given())

    def _key(self) -> object:
        settings = self._pool_settings
        start = settings.start_method or "spawn"
        initialize = _pickled_initializer(settings)
        return replace(settings, start_method=start, initializer=None, initargs=()), initialize

    def _submit(self, job: Job) -> Future[Any]:
        return self._submit_many([job])[0]

    def submit_many(self, jobs: Sequence[Job]) -> list[Future[Any]]:
        """Start several jobs. If it raises, no job has started.

        Raises:
            WorkerLost: if the pool has failed.
            BencherJobError: if the pool was shut down.
        """
        try:
            return self._submit_many(jobs)
        except RuntimeError as refusal:
            raise self._refused(refusal) from refusal

    def _note_label(self, future: Future[Any], job: Job) -> None:
        """Do nothing: the future has a reference to its job."""

    def _label_of(self, future: Future[Any]) -> Job | None:
        return future.job if isinstance(future, _CallFuture) else None

    def receive(self, future: Future[Any]) -> Outcome:
        """Return the outcome of a done future: from its run result if there is one."""
        run_result = future.peek() if isinstance(future, _CallFuture) else None
        return super().receive(future) if run_result is None else open_result(run_result, future.job)  # type: ignore[attr-defined]

    def _submit_many(self, jobs: Sequence[Job]) -> list[Future[Any]]:
        packed = list(zip(pack_many(jobs), jobs, strict=True))
        good = [(parcel, job) for parcel, job in packed if isinstance(parcel, Parcel)]
        started = iter(self.executor.submit_parcels(good, self._timeout))
        return [
            next(started) if isinstance(parcel, Parcel) else unsendable(job, parcel) for parcel, job in packed
        ]

    def end(self, future: Future[Any]) -> bool:
        """Cancel a job, or kill its process if it runs."""
        return self.executor.kill(future)


_pools: Final[SharedExecutors[SlotPool]] = SharedExecutors(end_unasked=True)
_schedulers: Final[weakref.WeakSet[PoolScheduler]] = weakref.WeakSet()


def _close_down() -> None:
    for scheduler in list(_schedulers):
        scheduler.close_down()


end_at_exit(_close_down)
