"""Knows what executors have in common whose workers may be on other machines: each call goes to them in two parts.

submit -> pack -> split -> Task ─> the executor's own way ~~> a worker: run_split
                    future <─ opened <─ Report <~~
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .._light_future import LightFuture
from .engine import unsendable
from .envelope import Report, describe, unpack_value
from .shared import SharedEngine
from .shipping import Parcel, pack, pack_call
from .split import SplitParcel, split

if TYPE_CHECKING:
    from .._job import Job

__all__ = ["FarEngine", "FarExecutor", "Task"]


@dataclass(slots=True, eq=False)
class Task:
    """A call that is to be run, what it is called in errors, and what its future gets of its report."""

    future: Future[Any]
    parcel: SplitParcel
    label: object
    open: Callable[[Report, object], Any]
    is_due: bool = False
    """Whether it can't be cancelled any more."""
    deaths: int = 0
    """How often it was lost without having begun."""
    sent: Any = None
    """What the executor knows it by where it runs."""
    goes_alone: bool = False
    """Whether it is not to be sent together with others."""
    is_suspect: bool = False
    """Whether it has run by itself to see whether it kills its worker."""
    inner_threads: int | None = None
    """How many threads each library may start meanwhile; None for the worker's share of the cores."""

    @property
    def digest(self) -> bytes:
        """The digest of its function."""
        return self.parcel.function.digest

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return describe(self.label)

    def end(self, report: Report) -> None:
        """Give its future what has come back."""
        try:
            result = self.open(report, self.label)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is this call's alone
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class FarExecutor(concurrent.futures.Executor):
    """Runs calls in workers that it has not started itself.

    Anything that cloudpickle can pickle may be submitted. A worker keeps the functions that it ran last with all that
    they hold, so a function that changes its own state finds it changed in that worker's next call.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        """The process that this executor belongs to: a forked child can't use it."""
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker.

        Raises:
            RuntimeError: after `shutdown`, and in a forked child of the process that made the executor.
            WorkerLost: when there is nobody left who could run it.
        """
        self._check()
        try:
            parcel = split(self.packed(fn, lambda: pack_call(fn, args, kwargs, local=False)))
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(fn, problem)
        return self._start(Task(LightFuture(), parcel, fn, unpack_value))

    def packed(self, function: Any, pack: Callable[[], Parcel]) -> Parcel:  # noqa: ARG002 - some go by it
        """Pack a call of a function as the workers need it."""
        return pack()

    def submit_parcel(self, parcel: Parcel, job: Job) -> Future[Report]:
        """Start a packed job, whose future gets the report as it came."""
        return self._start(Task(LightFuture(), split(parcel), job, _as_it_came))

    def _start(self, task: Task) -> Future[Any]:
        with self._lock:
            self._check()
            self._send(task)
            self._pending.add(task.future)
        task.future.add_done_callback(self._forget)
        return task.future

    @abstractmethod
    def _send(self, task: Task) -> None: ...

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                f"This {type(self).__name__} belongs to the parent of this process. Submit from there, or make "
                f"a new one where that is possible."
            )
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait for those that run; the workers stay."""
        if self.pid != os.getpid():
            return
        with self._lock:
            self._is_shut_down = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:  # one that was cancelled counts as done for `wait` only once somebody has taken it
            concurrent.futures.wait([future for future in pending if not future.cancelled()])


def _as_it_came(report: Report, _label: object) -> Report:
    return report


F = TypeVar("F", bound=FarExecutor)


class FarEngine(SharedEngine[F]):
    """Runs jobs on such an executor."""

    def _submit(self, job: Job) -> Future[Any]:
        executor = self.executor
        try:
            parcel = executor.packed(job.function, lambda: pack(job, local=False))
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(job, problem)
        return executor.submit_parcel(parcel, job)
