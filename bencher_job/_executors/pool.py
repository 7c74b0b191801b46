"""The worker processes of this machine as an engine.

    submit -> pack -> Task -> Dispatcher -> workers -> the task's future

Workers are started as jobs come, up to `max_workers`. A worker that dies, hangs or is killed concerns the one job that
it ran. Users with the same settings share a pool.
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
from .base import Executors, Outcome, end_at_exit
from .dispatcher import Dispatcher
from .engine import SharedEngine, SharedExecutors, unsendable
from .entry import Report, open_report, unpack_value
from .packing import Parcel, pack_call, pack_many
from .pickling import OutwardPickler, dumps
from .settings import PoolSettings, StartMethod
from .slot import Task

if TYPE_CHECKING:
    from .._job import Job

__all__ = ["PoolEngine", "SlotPool"]


class _CallFuture(LightFuture[Any]):
    """The future of a call that says whose workers it went to, and of which job it is."""

    def __init__(self, dispatcher: Dispatcher, job: Job | None = None) -> None:
        super().__init__()
        self.dispatcher = dispatcher
        self.job = job


class SlotPool(concurrent.futures.Executor):
    """Runs calls in processes of this machine.

    Anything that cloudpickle can pickle may be submitted, from a script without a `__main__` guard too. A
    call whose process dies ends with `WorkerLost`, and no other call does. A worker whose modules are older than the
    submitter's, so that it can't load a call, is replaced by a new one. A worker keeps the functions that
    it ran last with all that they hold, so a function that changes its own state finds it changed in that
    worker's next call.

    `initializer(*initargs)` is called in each new worker. `start_method` is "spawn", "forkserver" or "fork".
    `inner_threads` is how many threads BLAS, OpenMP and the like may start in each worker: its share of the cores by
    default.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        max_tasks_per_worker: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        start_method: StartMethod | None = None,
        inner_threads: int | None = None,
    ) -> None:
        settings = PoolSettings(
            max_workers, max_tasks_per_worker, initializer, tuple(initargs), start_method, inner_threads
        )
        if start_method == "fork":
            check_threads_can_be_limited(inner_threads, "in forked workers")
        settings = replace(settings, max_workers=settings.size)
        self.max_workers = settings.size
        self.pid = os.getpid()
        """The process that this pool belongs to: a forked child can't use it."""
        self._is_shut_down = False
        self._dispatcher = Dispatcher(settings, _pickled_initializer(settings))
        _dispatchers.add(self._dispatcher)
        weakref.finalize(self, self._dispatcher.dismiss).atexit = False

    def __repr__(self) -> str:
        workers = f"{len(self._dispatcher.slots)} of {self.max_workers} workers"
        return f"<{type(self).__name__}: {'shut down' if self._is_shut_down else workers}>"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker.

        Raises:
            RuntimeError: after `shutdown`, and in a forked child of the process that made the pool.
        """
        self._check()
        try:
            parcel = pack_call(fn, args, kwargs)
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(fn, problem)
        task = Task(_CallFuture(self._dispatcher), parcel.of_its_own(), fn, unpack_value)
        self._check()
        self._dispatcher.add([task])
        return task.future

    def submit_parcels(
        self, packed: Iterable[tuple[Parcel, Job]], timeout: float | None = None
    ) -> list[Future[Report]]:
        """Start packed jobs, whose futures get the reports as they come.

        Each ends with a `JobTimeout` when it has run for as many seconds as the timeout says.
        """
        self._check()
        dispatcher = self._dispatcher
        tasks = [
            Task(_CallFuture(dispatcher, job), parcel.of_its_own(), job, None, timeout, job.start)
            for parcel, job in packed
        ]
        dispatcher.add(tasks)
        return [task.future for task in tasks]

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                "This pool belongs to the parent of this process. Make a new one after a fork."
            )
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def kill(self, future: Future[Any], verdict: BaseException | None = None) -> bool:
        """End a call, by killing its process and all that it started where it runs already.

        Its future ends with the verdict, a `CancelledError` by default. False when it is done, for a future of
        something else, which is left alone, and in a forked child: the call is its parent's.
        """
        is_ours = isinstance(future, _CallFuture) and future.dispatcher is self._dispatcher
        if self.pid != os.getpid() or not is_ours:
            return False
        if future.cancel():
            return True
        return self._dispatcher.end(future, CancelledError() if verdict is None else verdict)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; finish or cancel those that wait, then end the processes."""
        if self.pid != os.getpid():
            return
        self._is_shut_down = True
        if cancel_futures:
            self._dispatcher.cancel_waiting()
        self._dispatcher.dismiss()
        if wait:
            self._dispatcher.join()


def _pickled_initializer(settings: PoolSettings) -> bytes | None:
    """Pickle what each new worker calls first.

    Raises:
        BencherJobError: when it can't be pickled.
    """
    if settings.initializer is None:
        return None
    try:
        return dumps((settings.initializer, settings.initargs), pickler=OutwardPickler)
    except Exception as problem:
        raise BencherJobError(
            f"initializer={settings.initializer!r} with initargs={settings.initargs!r} can't be sent to a worker: "
            f"{problem}. Make in the initializer what can't be pickled."
        ) from problem


class PoolEngine(SharedEngine[SlotPool]):
    """Runs jobs on the shared pool of this process, or on a pool that its user made and keeps."""

    name = str(Executors.MULTIPROCESSING)
    ends_jobs = True
    asks_to_begin = True
    _own_errors = (BencherJobError, CancelledError)  # the latter where `kill` ended a job that ran

    def __init__(
        self, pool: SlotPool | None = None, settings: PoolSettings | None = None, timeout: float | None = None
    ) -> None:
        settings = settings or PoolSettings()
        self._pool_settings = replace(settings, max_workers=settings.size)
        self._timeout = timeout
        super().__init__(pool, _pools)

    def _make(self) -> SlotPool:
        return SlotPool(**self._pool_settings.given())

    def _key(self) -> object:
        settings = self._pool_settings
        start = settings.start_method or "spawn"
        initialize = _pickled_initializer(settings)
        return settings.size, settings.max_tasks_per_worker, start, initialize, settings.inner_threads

    def _submit(self, job: Job) -> Future[Any]:
        return self._submit_many([job])[0]

    def submit_many(self, jobs: Sequence[Job]) -> list[Future[Any]]:
        """Start jobs that come together; none is started when it raises.

        Raises:
            WorkerLost: when the pool has failed.
            BencherJobError: when it was shut down.
        """
        try:
            return self._submit_many(jobs)
        except RuntimeError as refusal:
            raise self._refused(refusal) from refusal

    def _note_label(self, future: Future[Any], job: Job) -> None:
        """Note nothing: the future knows its job."""

    def _label_of(self, future: Future[Any]) -> Job | None:
        return future.job if isinstance(future, _CallFuture) else None

    def receive(self, future: Future[Any]) -> Outcome:
        """Tell how the job of a done future ended: as its report says, where there is one."""
        report = future.peek() if isinstance(future, _CallFuture) else None
        return super().receive(future) if report is None else open_report(report, future.job)  # type: ignore[attr-defined]

    def _submit_many(self, jobs: Sequence[Job]) -> list[Future[Any]]:
        packed = list(zip(pack_many(jobs), jobs, strict=True))
        good = [(parcel, job) for parcel, job in packed if isinstance(parcel, Parcel)]
        started = iter(self.executor.submit_parcels(good, self._timeout))
        return [
            next(started) if isinstance(parcel, Parcel) else unsendable(job, parcel) for parcel, job in packed
        ]

    def end(self, future: Future[Any]) -> bool:
        """End a job, by killing its process where it runs already."""
        return self.executor.kill(future)


_pools: Final[SharedExecutors[SlotPool]] = SharedExecutors(end_unasked=True)
_dispatchers: Final[weakref.WeakSet[Dispatcher]] = weakref.WeakSet()


def _close_down() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.close_down()


end_at_exit(_close_down)
