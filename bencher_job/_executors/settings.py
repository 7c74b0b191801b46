"""How the workers of this machine are set up. Users with the same settings share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from .._cores import InnerThreads, cores

__all__ = ["PoolSettings", "StartMethod"]


StartMethod = Literal["spawn", "forkserver", "fork"]
_START_METHODS: Final = get_args(StartMethod)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many workers there are, and how each of them is.

    Attributes:
        max_workers: how many run at a time; None for one per core that this process may use.
        max_tasks_per_worker: after how many jobs a worker is replaced by a new one; None for never.
        initializer: what is called in each new worker before its first job, with `initargs`.
        start_method: how a worker is started; None for "spawn".
        inner_threads: how many threads each library in a worker may start; None for the worker's share of the cores.

    Raises:
        TypeError: when one of them is not what it should be.
        ValueError: when a number is below 1, or there is no such start method.
    """

    max_workers: int | None = None
    max_tasks_per_worker: int | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    start_method: StartMethod | None = None
    inner_threads: int | None = None

    def __post_init__(self) -> None:
        _check_number("max_workers", self.max_workers, "starts no worker", "None for all cores")
        _check_number(
            "max_tasks_per_worker", self.max_tasks_per_worker, "leaves a worker no job", "None for no limit"
        )
        _check_number(
            "inner_threads",
            self.inner_threads,
            "leaves a worker no thread",
            "None for its share of the cores",
        )
        if self.initializer is not None and not callable(self.initializer):
            raise TypeError(f"initializer={self.initializer!r} can't be called. Give a function.")
        if self.initializer is None and self.initargs:
            raise TypeError(
                f"initargs={self.initargs!r} has no initializer to go to. Give one, or leave it out."
            )
        if self.start_method is not None and self.start_method not in _START_METHODS:
            raise ValueError(
                f"start_method={self.start_method!r} is no way to start a worker. Use one of "
                f"{', '.join(map(repr, _START_METHODS))}."
            )

    @property
    def size(self) -> int:
        """How many workers there are at most."""
        return self.max_workers or cores()

    def inner(self) -> InnerThreads:
        """Say how many threads the libraries in a worker that is started now may start."""
        return InnerThreads.of(self.size, self.inner_threads)

    def given(self) -> dict[str, Any]:
        """Give the settings that are not left open, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != ()}


def _check_number(option: str, number: object, consequence: str, otherwise: str) -> None:
    if number is None:
        return
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{option}={number!r} is no whole number. Give 1 or more, or {otherwise}.")
    if number < 1:
        raise ValueError(f"{option}={number} {consequence}. Give 1 or more, or {otherwise}.")
