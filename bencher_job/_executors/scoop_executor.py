"""Knows how the workers of a SCOOP program are one executor."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .._forks import renew_after_fork
from .base import Executors
from .crew import Task
from .engine import Engine, unsendable
from .envelope import Report, unpack_value
from .pump import IN_CHILD, the_pump
from .shipping import Parcel, pack, pack_call
from .split import split

if TYPE_CHECKING:
    from .._job import Job

__all__ = ["ScoopEngine", "ScoopExecutor"]


class ScoopExecutor(concurrent.futures.Executor):
    """Runs calls in the workers of a program that `python -m scoop` started.

    A call whose worker dies ends with `WorkerLost`, and no other call does; that worker is not replaced. A worker keeps
    the functions that it ran last with all that they hold, as those of `SlotPool` do.

    Raises:
        BencherJobError: where SCOOP can't run jobs, with how to start it.
    """

    def __init__(self) -> None:
        self._pump = the_pump.get()
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker.

        Raises:
            RuntimeError: after `shutdown`, and in a forked child of the program.
            WorkerLost: when SCOOP has no workers left.
        """
        self._check()
        try:
            parcel = split(pack_call(fn, args, kwargs, local=False))
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(fn, problem)
        return self._start(Task(Future(), parcel, fn, unpack_value))

    def submit_parcel(self, parcel: Parcel, job: Job) -> Future[Report]:
        """Start a packed job, whose future gets the report as it came."""
        return self._start(Task(Future(), split(parcel), job, _as_it_came))

    def _start(self, task: Task) -> Future[Any]:
        with self._lock:
            self._check()
            self._pump.put(task)
            self._pending.add(task.future)
        task.future.add_done_callback(self._forget)
        return task.future

    def _check(self) -> None:
        if self._pump.pid != os.getpid():
            raise RuntimeError(IN_CHILD)
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; SCOOP's workers stay, for they are the program's."""
        if self._pump.pid != os.getpid():
            return
        with self._lock:
            self._is_shut_down = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            concurrent.futures.wait(pending)


def _as_it_came(report: Report, _label: object) -> Report:
    return report


class ScoopEngine(Engine):
    """Runs jobs in the workers of a SCOOP program."""

    name = str(Executors.SCOOP)

    def __init__(self, executor: ScoopExecutor | None = None) -> None:
        super().__init__()
        self._adopted = executor
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Be without an executor, as a forked child is: SCOOP is its parent's."""
        self._lock = threading.Lock()
        self._own: ScoopExecutor | None = None

    @property
    def executor(self) -> ScoopExecutor:
        """The executor, made when it is first asked for.

        Raises:
            BencherJobError: where SCOOP can't run jobs, with how to start it.
        """
        if self._adopted is not None:
            return self._adopted
        with self._lock:
            if self._own is None:
                self._own = ScoopExecutor()
            return self._own

    def _submit(self, job: Job) -> Future[Any]:
        executor = self.executor
        try:
            parcel = pack(job, local=False)
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(job, problem)
        return executor.submit_parcel(parcel, job)

    def release(self) -> None:
        """Take no more jobs; SCOOP's workers stay, for they are the program's."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.shutdown()
