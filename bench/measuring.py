"""Knows how to time several libraries side by side, so that what disturbs one disturbs all."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["OURS", "Figure", "figures", "in_words", "seconds_in_new_processes", "seconds_per_call"]

OURS = "bencher_job"


class Figure(NamedTuple):
    """How long one library takes for one call, or one key, of some work."""

    work: str
    library: str
    seconds: float


def figures(work: str, seconds: Mapping[str, float]) -> list[Figure]:
    return [Figure(work, library, taken) for library, taken in seconds.items()]


def in_words(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def seconds_per_call(
    calls: Mapping[str, Callable[[int], Any]], rounds: Iterable[Sequence[int]]
) -> dict[str, float]:
    """Let the libraries take turns; give for each the median over its rounds of the mean time of a call.

    In each round each library is called once with every number.
    """
    times: dict[str, list[float]] = {library: [] for library in calls}
    gc.disable()
    for numbers in rounds:
        for library, call in calls.items():
            start = time.perf_counter()
            for number in numbers:
                call(number)
            times[library].append((time.perf_counter() - start) / len(numbers))
    gc.enable()
    return {library: statistics.median(taken) for library, taken in times.items()}


def seconds_in_new_processes(programs: Mapping[str, str], *, rounds: int) -> dict[str, float]:
    """Let programs of the libraries take turns; each prints seconds. Give the median over the rounds."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    times: dict[str, list[float]] = {library: [] for library in programs}
    for _ in range(rounds):
        for library, program in programs.items():
            run = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program],
                check=True,
                stdout=subprocess.PIPE,
                env=environment,
            )
            times[library].append(float(run.stdout))
    return {library: statistics.median(taken) for library, taken in times.items()}
