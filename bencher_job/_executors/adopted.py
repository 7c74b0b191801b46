"""Run jobs on any `concurrent.futures.Executor`.

    threads: the job itself                    processes and clusters: pack -> bytes -> run_packed -> bytes

The user made the executor, so nothing here shuts it down.
"""

from __future__ import annotations

import concurrent.futures
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from .base import Outcome
from .engine import Engine, unsendable
from .entry import RunResult, open_result, run_packed
from .packing import pack
from .threads import run_in_thread

if TYPE_CHECKING:
    from .._job import Job
    from .._stores.codec import Buffer

__all__ = ["PackedEngine", "ThreadEngine"]


class _AdoptedEngine(Engine):
    """Run jobs on an executor that the user made and shuts down."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        super().__init__()
        self.name = type(executor).__name__
        self._executor = executor
        self._cancelled_by_us: weakref.WeakSet[Future[Any]] = weakref.WeakSet()

    @property
    def executor(self) -> concurrent.futures.Executor:
        """The adopted executor."""
        return self._executor

    def submit(self, job: Job) -> Future[Any]:
        """Start a job, and record when its future is cancelled through the library."""
        future = super().submit(job)
        future.cancel = _NotedCancel(future, self._cancelled_by_us)  # type: ignore[method-assign]
        return future

    def _was_asked_to_cancel(self, future: Future[Any]) -> bool:
        return future in self._cancelled_by_us

    def release(self) -> None:
        """Do nothing: the user shuts the executor down."""


class _NotedCancel:
    """A future's `cancel` that records the call, since a cancellation by the executor means that it lost the job."""

    def __init__(self, future: Future[Any], noted: weakref.WeakSet[Future[Any]]) -> None:
        self._future = weakref.ref(future)  # weak, because the future refers to this object
        self._noted = noted

    def __call__(self) -> bool:
        future = self._future()
        if future is None:
            return False
        self._noted.add(future)  # first, because callbacks run while it is being cancelled
        cancelled = type(future).cancel(future)
        if not cancelled:
            self._noted.discard(future)
        return cancelled


class ThreadEngine(_AdoptedEngine):
    """Run jobs in a thread pool of this process, without pickling."""

    ends_jobs = True
    shares_arguments = True

    def __init__(self, executor: concurrent.futures.Executor, timeout: float | None = None) -> None:
        super().__init__(executor)
        self._timeout = timeout

    def _submit(self, job: Job) -> Future[Any]:
        return self._executor.submit(run_in_thread, job, self._timeout)


_ON_THIS_MACHINE: Final = frozenset(
    {
        "concurrent.futures.process",
        "loky.process_executor",
        "joblib.externals.loky.process_executor",
    }
)
"""Modules that define executors whose workers run on this machine and can read its files."""


class PackedEngine(_AdoptedEngine):
    """Run packed jobs on an executor that pickles its calls."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        super().__init__(executor)
        self._is_local = any(base.__module__ in _ON_THIS_MACHINE for base in type(executor).__mro__)
        self._files: weakref.WeakKeyDictionary[Future[Any], object] = weakref.WeakKeyDictionary()

    def _submit(self, job: Job) -> Future[Any]:
        try:
            parcel = pack(job, local=self._is_local)
            blob = parcel.to_bytes()
        except Exception as problem:  # noqa: BLE001 - a job's own pickling can raise anything
            return unsendable(job, problem)
        future = self._send(blob)
        self._files[future] = parcel.function
        return future

    def _send(self, blob: bytes) -> Future[Any]:
        return self._executor.submit(run_packed, blob)

    def _open(self, result: Any, job: Job | None) -> Outcome:
        parts: tuple[Buffer, ...] = result
        return open_result(RunResult.of_parts(parts), job)
