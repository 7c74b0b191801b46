"""Knows how jobs run on an executor of somebody else's: any `concurrent.futures.Executor`, or Dask's.

    threads: the job itself                    processes and clusters: pack -> bytes -> run_packed -> bytes

Such an executor is never shut down here.
"""

from __future__ import annotations

import concurrent.futures
import pickle
import sys
import sysconfig
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from .base import Outcome
from .engine import Engine, unsendable
from .envelope import Report, open_report, run_packed
from .pickling import by_value, dumps
from .shipping import pack
from .threads import run_in_thread

if TYPE_CHECKING:
    from .._job import Job
    from .._stores.codec import Buffer

__all__ = ["DaskEngine", "PackedEngine", "ThreadEngine"]


class _AdoptedEngine(Engine):
    """Runs jobs on an executor that stays its maker's."""

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
        """Start a job, and note it when its future is cancelled from here."""
        future = super().submit(job)
        future.cancel = _NotedCancel(future, self._cancelled_by_us)  # type: ignore[method-assign]
        return future

    def _was_asked_to_cancel(self, future: Future[Any]) -> bool:
        return future in self._cancelled_by_us

    def release(self) -> None:
        """Do nothing: what we did not make we do not end."""


class _NotedCancel:
    """A future's `cancel` that tells a cancellation by us from one by the engine, which has lost the job."""

    def __init__(self, future: Future[Any], noted: weakref.WeakSet[Future[Any]]) -> None:
        self._future = weakref.ref(future)  # the future holds this
        self._noted = noted

    def __call__(self) -> bool:
        future = self._future()
        if future is None:
            return False
        self._noted.add(future)  # first: whoever waits is told while it is being cancelled
        cancelled = type(future).cancel(future)
        if not cancelled:
            self._noted.discard(future)
        return cancelled


class ThreadEngine(_AdoptedEngine):
    """Runs jobs in a thread pool of this process, where nothing needs to be pickled."""

    def _submit(self, job: Job) -> Future[Any]:
        return self._executor.submit(run_in_thread, job)

    def _open(self, result: Any, job: Job | None) -> Outcome:  # noqa: ARG002 - it has not been packed
        outcome: Outcome = result
        return outcome


class PackedEngine(_AdoptedEngine):
    """Runs jobs on an executor that pickles what it is given."""

    def __init__(self, executor: concurrent.futures.Executor) -> None:
        super().__init__(executor)
        self._is_local = isinstance(executor, ProcessPoolExecutor)
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
        return open_report(Report.of_parts(parts), job)


class DaskEngine(PackedEngine):
    """Runs jobs on a Dask cluster, whose processes need not be able to import the caller's own module."""

    def __init__(self, client: Any) -> None:
        super().__init__(client.get_executor(pure=False))  # keys are ours, not Dask's
        self._run = _ByValue(_run_packed_there)

    def _submit(self, job: Job) -> Future[Any]:
        with by_value(_own_module(job.function)):
            return super()._submit(job)

    def _send(self, blob: bytes) -> Future[Any]:
        return self._executor.submit(self._run, blob)


def _run_packed_there(blob: bytes) -> tuple[bytes, ...]:
    from bencher_job._executors.envelope import run_packed  # runs where this module need not be imported

    return run_packed(blob)


class _ByValue:
    """A function that is pickled with its code: Dask's scheduler unpickles it, and may lack its module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        with by_value(sys.modules[function.__module__]):
            self._blob = dumps(function)
        self.__name__ = function.__name__

    def __call__(self, *_args: Any) -> Any:
        raise TypeError(f"{self.__name__} runs where it has been sent to, not here.")

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._blob,)


def _own_module(function: Any) -> ModuleType | None:
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    if file is None or any(Path(file).is_relative_to(folder) for folder in _INSTALLED):
        return None
    return module


_INSTALLED: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
