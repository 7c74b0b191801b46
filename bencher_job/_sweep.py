"""Knows many jobs of one function: a stream of calls in order, and a grid of calls that runs what is missing."""

from __future__ import annotations

import itertools
import queue
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ._cache import Prefetched
from ._function_cache import JobFunctionCache
from ._future import JobFuture
from ._job import Job
from ._views.progress import Progress, progress_bar

__all__ = ["Plan", "Sweep", "SweepFailure", "stream"]

LARGEST_LOOKUP: Final = 256
"""How many keys are looked up together at most."""

IN_FLIGHT: Final = 1024
"""How many jobs wait for an executor at most, so that an endless stream takes bounded memory."""


def stream(cache: JobFunctionCache, calls: Iterator[tuple[Any, ...]]) -> Iterator[Any]:
    """Give the values of calls in order; lookups are in bulk, and a bounded number of jobs runs ahead.

    A job that fails raises at its place and ends the stream; jobs that have not begun are then cancelled.
    """
    in_line = cache.executor_type == "SERIAL"
    waiting: deque[JobFuture[Any]] = deque()
    size = 1
    try:
        while group := list(itertools.islice(calls, size)):
            size = min(2 * size, LARGEST_LOOKUP)  # small at first: the first value comes soon
            identities = [cache.keys.identity(args, {}) for args in group]
            found = Prefetched() if cache.overwrite else cache.prefetch(key for key, _, _ in identities)
            for args, identity in zip(group, identities, strict=True):
                waiting.append(cache.submit(cache.job(args, {}, identity), found))
                while in_line and waiting:
                    yield waiting.popleft().result()
            while len(waiting) > IN_FLIGHT or (waiting and waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep is about to do."""

    hits: int
    """Jobs that are remembered."""
    misses: int
    """Jobs that will run."""
    seconds: float | None
    """Expected running time of the misses on one core in seconds, by the recorded ones; None where there are none."""

    def __str__(self) -> str:
        expected = (
            "" if self.seconds is None or not self.misses else f", about {self.seconds:.1f} s on one core"
        )
        return f"{self.hits} hits, {self.misses} to run{expected}"


@dataclass(frozen=True, slots=True)
class SweepFailure:
    """A job of a sweep that raised."""

    arguments: Mapping[str, Any]
    """Swept arguments and constants, by name."""
    repeat: int
    """Which of the repeats it was, from 0."""
    error: BaseException
    """What the function raised, or what befell its worker."""


class Sweep:
    """All combinations of a grid's values, each `repeats` times: what is remembered is looked up, the rest runs.

    Iterate to get each job's future as it completes, or call `run()`. A sweep that was killed and is made again runs
    only what is missing. The first repeat of a combination is the same job as a plain call.

    Attributes:
        points: the combinations, as keyword arguments.
        repeats: how many times each of them runs.
        results: rows of a sweep that has run: the swept arguments, `repeat`, and the value under `result`.
        failures: jobs that raised.

    Raises:
        TypeError: when the grid or the constants don't fit the function.
        ValueError: when a parameter of the grid has no values, or repeats is below 1.
    """

    def __init__(
        self,
        cache: JobFunctionCache,
        bound: Sequence[Any],
        grid: Mapping[str, Iterable[Any]],
        repeats: int,
        constants: Mapping[str, Any],
    ) -> None:
        if repeats < 1:
            raise ValueError(f"repeats={repeats} would run nothing. Give 1 or more.")
        if twice := sorted(grid.keys() & constants.keys()):
            raise TypeError(
                f"{', '.join(twice)} stands both in the grid and among the constants. Give it once."
            )
        if taken := sorted(grid.keys() & {"repeat", "result"}):
            raise ValueError(
                f"{taken[0]} is a column of a sweep's own, so a parameter of that name can't be swept."
            )
        axes = {name: list(values) for name, values in grid.items()}
        if empty := [name for name, values in axes.items() if not values]:
            raise ValueError(
                f"The grid has no values for {', '.join(empty)}. Give at least one value, or leave it out."
            )
        self.points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        cache.keys.binder.arguments(
            tuple(bound), {**constants, **self.points[0]}
        )  # a TypeError comes now, not at run()
        self.repeats = repeats
        self.results: list[dict[str, Any]] = []
        self.failures: list[SweepFailure] = []
        self._cache = cache
        self._bound = tuple(bound)
        self._constants = dict(constants)
        self._jobs: list[tuple[Job, dict[str, Any], int]] | None = None

    def __len__(self) -> int:
        return len(self.points) * self.repeats

    def __repr__(self) -> str:
        return f"<Sweep of {self._cache.name}: {len(self.points)} points, {self.repeats} repeats>"

    def _made(self) -> list[tuple[Job, dict[str, Any], int]]:
        """Make the jobs, once, each with its point and its repeat."""
        if self._jobs is None:
            self._jobs = list(itertools.chain.from_iterable(self._repeated(point) for point in self.points))
        return self._jobs

    def _repeated(self, point: dict[str, Any]) -> Iterator[tuple[Job, dict[str, Any], int]]:
        job = self._cache.job(self._bound, {**self._constants, **point})
        yield job, point, 0
        for repeat in range(1, self.repeats):
            identity = job.job_key, job.bound, job.edition
            arguments = {"repeat": repeat, **job.arguments}
            yield (
                Job(
                    f"{job.job_id}-{repeat}",
                    job.function,
                    job.job_args,
                    tag=job.tag,
                    positional=job.positional,
                    arguments=arguments,
                    identity=self._cache.keys.repeated(identity, repeat),
                ),
                point,
                repeat,
            )

    def plan(self) -> Plan:
        """Say what is remembered, what would run, and how long that may take. Nothing runs."""
        keys = {job.job_key for job, _, _ in self._made()}
        found = {} if self._cache.overwrite else self._cache.cache.durations(keys)
        durations = list(found.values())
        misses = len(keys) - len(found)
        return Plan(len(found), misses, misses * sum(durations) / len(durations) if durations else None)

    def run(self, *, progress: bool | None = None, on_error: Literal["keep", "raise"] = "keep") -> Sweep:
        """Run what is missing and fill `results` and `failures`, in the order of the grid.

        Args:
            progress: whether to show a bar; by default where somebody watches (a terminal or a notebook).
            on_error: "keep" lists a job that raises in `failures` and goes on; "raise" cancels the rest and raises.

        Raises:
            BencherJobError: when `progress=True` and the library that draws the bar is not installed.
        """
        if on_error not in {"keep", "raise"}:
            raise ValueError(f"on_error={on_error!r} is neither 'keep' nor 'raise'.")
        ended: dict[int, JobFuture[Any]] = {}
        with progress_bar(self._cache.name, len(self), show=progress) as bar:
            for number, future in self._completed(bar):
                ended[number] = future
                if on_error == "raise":
                    future.result()
        self.results, self.failures = [], []
        for number, (_, point, repeat) in enumerate(self._made()):
            error = ended[number].exception()
            if error is None:
                self.results.append({**point, "repeat": repeat, "result": ended[number].result()})
            else:
                self.failures.append(SweepFailure({**self._constants, **point}, repeat, error))
        return self

    def __iter__(self) -> Iterator[JobFuture[Any]]:
        """Give the future of each job as it completes."""
        with progress_bar(self._cache.name, len(self), show=False) as bar:
            yield from (future for _, future in self._completed(bar))

    def _completed(self, bar: Progress) -> Iterator[tuple[int, JobFuture[Any]]]:
        jobs = self._made()
        done: queue.SimpleQueue[tuple[int, JobFuture[Any]]] = queue.SimpleQueue()
        pending: dict[int, JobFuture[Any]] = {}
        try:
            for start in range(0, len(jobs), LARGEST_LOOKUP):
                group = [job for job, _, _ in jobs[start : start + LARGEST_LOOKUP]]
                found = (
                    Prefetched()
                    if self._cache.overwrite
                    else self._cache.prefetch(job.job_key for job in group)
                )
                for number, job in enumerate(group, start):
                    future = pending[number] = self._cache.submit(job, found)
                    future.add_done_callback(lambda future, number=number: done.put((number, future)))  # type: ignore[misc]
                    while not done.empty() or len(pending) > IN_FLIGHT:
                        yield self._next_done(done, pending, bar)
            while pending:
                yield self._next_done(done, pending, bar)
        finally:
            for future in pending.values():
                future.cancel()

    @staticmethod
    def _next_done(
        done: queue.SimpleQueue[tuple[int, JobFuture[Any]]], pending: dict[int, JobFuture[Any]], bar: Progress
    ) -> tuple[int, JobFuture[Any]]:
        number, future = done.get()
        del pending[number]
        bar.advance(hit=future.cached, failed=future.cancelled() or future.exception() is not None)
        return number, future
