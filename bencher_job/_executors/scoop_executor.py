"""Knows how the workers of a SCOOP program are one executor."""

from __future__ import annotations

from typing import Final

from .._cores import check_threads_can_be_limited
from .base import Executors
from .far import FarEngine, FarExecutor, Task
from .pump import the_pump
from .settings import PoolSettings
from .shared import SharedExecutors

__all__ = ["ScoopEngine", "ScoopExecutor"]


class ScoopExecutor(FarExecutor):
    """Runs calls in the workers of a program that `python -m scoop` started.

    A call whose worker dies ends with `WorkerLost`, and no other call does; that worker is not replaced.
    `inner_threads` is how many threads BLAS, OpenMP and the like may start in each worker: by default its share of the
    cores of its machine.

    Raises:
        BencherJobError: where SCOOP can't run jobs, with how to start it.
    """

    def __init__(self, *, inner_threads: int | None = None) -> None:
        super().__init__()
        self._pump = the_pump.get()
        check_threads_can_be_limited(inner_threads, "in SCOOP's workers")
        self._inner_threads = inner_threads

    def _send(self, task: Task) -> None:
        task.inner_threads = self._inner_threads
        self._pump.put(task)


class ScoopEngine(FarEngine[ScoopExecutor]):
    """Runs jobs in the workers of a SCOOP program."""

    name = str(Executors.SCOOP)

    def __init__(self, executor: ScoopExecutor | None = None, settings: PoolSettings | None = None) -> None:
        self._inner_threads = None if settings is None else settings.inner_threads
        super().__init__(executor, _executors)

    def _key(self) -> int | None:
        return self._inner_threads  # a program has one SCOOP

    def _make(self) -> ScoopExecutor:
        return ScoopExecutor(inner_threads=self._inner_threads)


_executors: Final[SharedExecutors[ScoopExecutor]] = SharedExecutors()
