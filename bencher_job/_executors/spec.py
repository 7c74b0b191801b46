"""Engines with options of their own: `executor=Slurm(...)`, `executor=Ray(...)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

from .._options import Executors
from .engine import SharedExecutors

__all__ = ["EngineSpec", "refuse_unknown"]


class EngineSpec(ABC):
    """An engine and its options. Equal ones share their workers; making one starts nothing.

    Attributes:
        name: the member of `Executors`.
        ends_jobs: whether it ends a job that exceeds its timeout.
        shared: its executors by their spec.
        options: the options that were given.
    """

    name: ClassVar[Executors]
    ends_jobs: ClassVar[bool] = False
    shared: ClassVar[SharedExecutors[Any]]

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"
        )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    @abstractmethod
    def new_executor(self, patience: float | None) -> Any:
        """Make an executor, which is shut down with its last user."""


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str], more: str = "") -> None:
    """Refuse options that do not exist.

    Raises:
        TypeError: if there are any. It lists those that exist.
    """
    for name in set(given).difference(known):
        raise TypeError(f"{owner} has no option {name!r}. Use {', '.join(known)}{more}.")
