"""Knows how a pool of slots is one executor: jobs of this machine, each alone in a process.

    submit -> queue -> a slot's thread -> its worker process
                       a slot's thread -> its worker process

Slots are started as jobs come, up to `max_workers`. Each thread sends a job, waits for its end and resolves
its future, so that a worker that dies, hangs or is killed concerns one slot and one job. Users with the same
settings share a pool.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from .._alarms import alarms
from .._errors import BencherJobError, JobTimeout
from .base import Executors, end_at_exit
from .engine import unsendable
from .envelope import Kind, Report, time_is_over, unpack_value
from .settings import PoolSettings
from .shared import SharedEngine, SharedExecutors
from .shipping import Parcel, pack, pack_call
from .slot import Slot

if TYPE_CHECKING:
    from .._job import Job

__all__ = ["PoolEngine", "SlotPool"]


@dataclass(frozen=True, slots=True)
class _Task:
    """A packed job, what it is called in errors, and what its future gets of its report."""

    future: Future[Any]
    parcel: Parcel
    label: object
    open: Callable[[Report, object], Any]
    timeout: float | None = None


_Tasks = queue.SimpleQueue[_Task | None]


class SlotPool(concurrent.futures.Executor):
    """Runs calls in processes of this machine.

    Anything that cloudpickle can pickle may be submitted, from a script without a `__main__` guard too. A
    call whose process dies ends with `WorkerLost`, and no other call does. A worker whose modules are older than the
    submitter's, so that it can't load a call, is replaced by a new one. A worker keeps the functions that
    it ran last with all that they hold, so a function that changes its own state finds it changed in that
    worker's next call.
    """

    def __init__(self, max_workers: int | None = None, *, max_tasks_per_worker: int | None = None) -> None:
        self._settings = PoolSettings(max_workers, max_tasks_per_worker)
        self.max_workers = self._settings.size
        self._lock = threading.Lock()
        self._tasks: _Tasks = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._slots: list[Slot] = []
        self._threads: list[threading.Thread] = []
        self._is_shut_down = False
        self.pid = os.getpid()
        """The process that this pool belongs to: a forked child can't use it."""
        weakref.finalize(self, _dismiss, self.pid, self._tasks, self._threads).atexit = False

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut_down else f"{len(self._slots)} of {self.max_workers} workers"
        return f"<{type(self).__name__}: {state}>"

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
        return self._start(_Task(Future(), parcel, fn, unpack_value))

    def submit_parcel(self, parcel: Parcel, job: Job, timeout: float | None = None) -> Future[Report]:
        """Start a packed job, whose future gets the report as it came.

        It ends with a `JobTimeout` when it has run for as many seconds as the timeout says.
        """
        if timeout is not None:
            alarms.start()
        return self._start(_Task(Future(), parcel, job, _as_it_came, timeout))

    def _start(self, task: _Task) -> Future[Any]:
        self._check()
        with self._lock:
            self._check()
            self._tasks.put(task)
            if len(self._slots) < self.max_workers and not self._idle.acquire(blocking=False):
                self._add_slot()
        return task.future

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                "This pool belongs to the parent of this process. Make a new one after a fork."
            )
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _add_slot(self) -> None:
        slot = Slot(self._settings)
        thread = threading.Thread(
            target=_work, args=(slot, self._tasks, self._idle), name="bencher_job-slot", daemon=True
        )
        _slots.add(slot)
        self._slots.append(slot)
        self._threads.append(thread)
        thread.start()

    def kill(self, future: Future[Any], verdict: BaseException | None = None) -> bool:
        """End a call, by killing its process and all that it started where it runs already.

        Its future ends with the verdict, a `CancelledError` by default. False when it is done,
        and in a forked child: the call is its parent's.
        """
        if self.pid != os.getpid():
            return False
        if future.cancel():
            return True
        end_with = CancelledError() if verdict is None else verdict
        return any(slot.kill(future, end_with) for slot in list(self._slots))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; finish or cancel those that wait, then end the processes."""
        if self.pid != os.getpid():
            return
        with self._lock:
            if not self._is_shut_down:
                self._is_shut_down = True
                _dismiss(self.pid, self._tasks, self._threads)
            if cancel_futures:
                _cancel_waiting(self._tasks)
                _dismiss(self.pid, self._tasks, self._threads)
        if wait:
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join()


def _work(slot: Slot, tasks: _Tasks, idle: threading.Semaphore) -> None:
    while True:
        try:
            task = tasks.get_nowait()
        except queue.Empty:
            idle.release()
            task = tasks.get()
        if task is None:
            break
        if task.future.set_running_or_notify_cancel():
            _run(task, slot)
        del task  # while this thread waits, nothing that has been sent or received is kept
    slot.leave()


def _run(task: _Task, slot: Slot) -> None:
    try:
        if task.timeout is not None:
            _end_in_time(weakref.ref(task.future), slot, time_is_over(task.label, task.timeout), task.timeout)
        report = _report_of(task, slot)
        if report.kind is Kind.NOT_LOADED and slot.replace_used():
            report = _report_of(task, slot)
        result = task.open(report, task.label)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this job's alone
        task.future.set_exception(error)
    else:
        task.future.set_result(result)


def _report_of(task: _Task, slot: Slot) -> Report:
    return Report.of_parts(slot.run(task.future, task.parcel.parts(), task.label))


def _end_in_time(future: weakref.ref[Future[Any]], slot: Slot, verdict: JobTimeout, timeout: float) -> None:
    def end() -> None:
        if (running := future()) is not None:
            slot.kill(running, verdict)

    alarms.add(timeout, end)


def _as_it_came(report: Report, _label: object) -> Report:
    return report


def _dismiss(pid: int, tasks: _Tasks, threads: list[threading.Thread]) -> None:
    if pid == os.getpid():
        for _ in threads:
            tasks.put(None)


def _cancel_waiting(tasks: _Tasks) -> None:
    try:
        while True:
            task = tasks.get_nowait()
            if task is not None and task.future.cancel():
                task.future.set_running_or_notify_cancel()
    except queue.Empty:
        pass


class PoolEngine(SharedEngine[SlotPool]):
    """Runs jobs on the shared pool of this process, or on a pool that its user made and keeps."""

    name = str(Executors.MULTIPROCESSING)
    ends_jobs = True
    _own_errors = (BencherJobError, CancelledError)  # the latter where `kill` ended a job that ran

    def __init__(
        self, pool: SlotPool | None = None, settings: PoolSettings | None = None, timeout: float | None = None
    ) -> None:
        settings = settings or PoolSettings()
        self._pool_settings = replace(settings, max_workers=settings.size)
        self._timeout = timeout
        super().__init__(pool, self._pool_settings, _pools)

    def _make(self) -> SlotPool:
        return SlotPool(**self._pool_settings.given())

    def _submit(self, job: Job) -> Future[Any]:
        try:
            parcel = pack(job)
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(job, problem)
        return self.executor.submit_parcel(parcel, job, self._timeout)

    def end(self, future: Future[Any]) -> bool:
        """End a job, by killing its process where it runs already."""
        return self.executor.kill(future)


_pools: Final[SharedExecutors[SlotPool]] = SharedExecutors()
_slots: Final[weakref.WeakSet[Slot]] = weakref.WeakSet()


def _close_down() -> None:
    for slot in list(_slots):
        slot.close_down()


end_at_exit(_close_down)
