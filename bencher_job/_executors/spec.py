"""Engines with options of their own: `executor=Slurm(...)`, `executor=Ray(...)`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from .._options import Executors

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["EngineSpec", "refuse_unknown"]


class EngineSpec(ABC):
    """An engine and its options. Equal ones share their workers; making one starts nothing.

    Attributes:
        name: the member of `Executors`.
        options: the options that were given.
    """

    name: ClassVar[Executors]

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
    def engine(self, timeout: float | None) -> Engine:
        """Make the engine. No worker starts before the first job."""


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str], more: str = "") -> None:
    """Refuse options that do not exist.

    Raises:
        TypeError: if there are any. It lists those that exist.
    """
    for name in set(given).difference(known):
        raise TypeError(f"{owner} has no option {name!r}. Use {', '.join(known)}{more}.")
