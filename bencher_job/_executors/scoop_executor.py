"""Knows how the workers of a SCOOP program are one executor."""

from __future__ import annotations

from typing import Final

from .base import Executors
from .far import FarEngine, FarExecutor, Task
from .pump import the_pump
from .shared import SharedExecutors

__all__ = ["ScoopEngine", "ScoopExecutor"]


class ScoopExecutor(FarExecutor):
    """Runs calls in the workers of a program that `python -m scoop` started.

    A call whose worker dies ends with `WorkerLost`, and no other call does; that worker is not replaced.

    Raises:
        BencherJobError: where SCOOP can't run jobs, with how to start it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pump = the_pump.get()

    def _send(self, task: Task) -> None:
        self._pump.put(task)


class ScoopEngine(FarEngine[ScoopExecutor]):
    """Runs jobs in the workers of a SCOOP program."""

    name = str(Executors.SCOOP)

    def __init__(self, executor: ScoopExecutor | None = None) -> None:
        super().__init__(executor, _executors)

    def _key(self) -> str:
        return self.name  # a program has one SCOOP

    def _make(self) -> ScoopExecutor:
        return ScoopExecutor()


_executors: Final[SharedExecutors[ScoopExecutor]] = SharedExecutors()
