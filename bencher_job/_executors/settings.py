"""Settings of the workers on this machine. Caches with the same settings share workers."""

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
    """The number of workers and how each is set up.

    Attributes:
        max_workers: the largest number of workers; None for one per core that this process may use.
        max_tasks_per_worker: the number of jobs after which a worker is replaced; None for no limit.
        initializer: a function that each new worker calls before its first job, with `initargs`.
        start_method: how a worker is started; None for "spawn".
        inner_threads: how many threads each library in a worker may start; None for the worker's share of the cores.

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a number is below 1, or the start method does not exist.
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
            raise TypeError(f"initializer must be callable, not {type(self.initializer).__name__}")
        if self.initializer is None and self.initargs:
            raise TypeError(
                f"initargs={self.initargs!r} has no initializer. Give one, or leave initargs out."
            )
        if self.start_method is not None and self.start_method not in _START_METHODS:
            raise ValueError(
                f"start_method={self.start_method!r} does not exist. Use one of "
                f"{', '.join(map(repr, _START_METHODS))}."
            )

    @property
    def size(self) -> int:
        """The largest number of workers."""
        return self.max_workers or cores()

    def inner(self) -> InnerThreads:
        """Return how many threads the libraries may start in a worker that starts now."""
        return InnerThreads.of(self.size, self.inner_threads)

    def given(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != ()}


def _check_number(option: str, number: object, consequence: str, otherwise: str) -> None:
    if number is None:
        return
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{option} must be an int, not {type(number).__name__}")
    if number < 1:
        raise ValueError(f"{option}={number} {consequence}. Give 1 or more, or {otherwise}.")
