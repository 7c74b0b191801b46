"""Measures many jobs on the worker processes of one machine, two at a time."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from keys import body
from measuring import OURS, Figure, figures

WORKERS = 2
TINY, ROUNDS = 2_000, 7
CLOSURES, LARGE, SHORT = 200, 20, 200
REAL, REAL_ROUNDS = 12, 10
FITS = "12 fits of a LogisticRegression on two processes"
PRODUCTS = "12 times 80 products of 600 x 600 matrices on two processes"
PICKLED = "ProcessPoolExecutor, pickled per job"
PLAIN = "ProcessPoolExecutor"
RAW = "a bare write"


def _ours(function: Callable[..., Any], folder: Path) -> Any:
    import bencher_job

    return bencher_job.cached_job(executor="multiprocessing", max_workers=WORKERS, cache_dir=folder)(function)


def _remembered(function: Callable[..., Any], folder: Path) -> Any:
    import joblib

    return joblib.delayed(joblib.Memory(folder / "joblib", verbose=0).cache(function))


def seconds_per_job(
    runs: Mapping[str, Callable[[range], Any]], jobs: int, rounds: int, *, anew: bool = True
) -> dict[str, float]:
    """Let the libraries take turns with the same jobs, other ones in each round if they are to be anew.

    Give for each the median over the rounds of the time of a job. A round before them starts the workers.
    """
    times: dict[str, list[float]] = {library: [] for library in runs}
    for number in range(-1, rounds):
        first = (number + 1) * jobs if anew else 0
        for library, run in runs.items():
            start = time.perf_counter()
            run(range(first, first + jobs))
            if number >= 0:
                times[library].append((time.perf_counter() - start) / jobs)
    return {library: statistics.median(taken) for library, taken in times.items()}


def bench_tiny(folder: Path) -> Iterator[Figure]:
    """Jobs of next to no time, whose results are committed, and then found again."""
    import joblib

    ours, theirs = _ours(body, folder), _remembered(body, folder)
    with joblib.Parallel(n_jobs=WORKERS) as parallel:
        runs = {
            OURS: lambda numbers: list(ours.map(numbers)),
            "joblib": lambda numbers: parallel(map(theirs, numbers)),
        }
        yield from figures("tiny jobs on two processes, all misses", seconds_per_job(runs, TINY, ROUNDS))
        hits = seconds_per_job(runs, TINY, ROUNDS, anew=False)
        yield from figures("tiny jobs on two processes, all hits", hits)
    ours.cache.close()


def bench_closures(folder: Path) -> Iterator[Figure]:
    """Jobs of a function that closes over an array of 10 MB."""
    import cloudpickle
    import numpy as np

    table = np.arange(1_250_000, dtype=float)

    def look_up(number: int) -> float:
        return float(table[number])

    ours = _ours(look_up, folder)
    with ProcessPoolExecutor(WORKERS) as pool:

        def pickle_each(numbers: range) -> None:
            calls = [pool.submit(run_pickled, cloudpickle.dumps(look_up), number) for number in numbers]
            for call in calls:
                call.result()

        runs = {OURS: lambda numbers: list(ours.map(numbers)), PICKLED: pickle_each}
        yield from figures("jobs of a function with 10 MB", seconds_per_job(runs, CLOSURES, 3))
    ours.cache.close()


def run_pickled(blob: bytes, number: int) -> Any:
    import pickle

    return pickle.loads(blob)(number)


def large(number: int) -> Any:
    import numpy as np

    return np.full(10_000_000, float(number))  # 80 MB


def bench_large(folder: Path) -> Iterator[Figure]:
    """Jobs that return 80 MB each, which are committed; beside a bare write of as many bytes."""
    import joblib

    ours, theirs = _ours(large, folder / OURS), _remembered(large, folder)

    def forget(numbers: range) -> None:
        for number in numbers:
            (folder / f"raw.{number}").unlink(missing_ok=True)

    def write_raw(numbers: range) -> None:
        forget(numbers)
        for number in numbers:
            rest = memoryview(large(number)).cast("B")
            with open(folder / f"raw.{number}", "xb", buffering=0) as file:
                while rest:
                    rest = rest[file.write(rest) :]
        forget(numbers)

    with joblib.Parallel(n_jobs=WORKERS) as parallel:
        runs = {
            OURS: lambda numbers: [None for _ in ours.map(numbers)],
            "joblib": lambda numbers: [None for _ in parallel(map(theirs, numbers))],
            RAW: write_raw,
        }
        yield from figures("jobs that return 80 MB each", seconds_per_job(runs, LARGE, 2))
    ours.cache.close()


def spin(number: int) -> int:
    """Compute for ten milliseconds."""
    end = time.perf_counter() + 0.01
    while time.perf_counter() < end:
        number += 1
    return number


def bench_short(folder: Path) -> Iterator[Figure]:
    """Jobs of ten milliseconds, with a cache and without."""
    ours = _ours(spin, folder)
    with ProcessPoolExecutor(WORKERS) as pool:
        runs = {
            OURS: lambda numbers: list(ours.map(numbers)),
            PLAIN: lambda numbers: list(pool.map(spin, numbers)),
        }
        yield from figures("jobs of 10 ms on two processes", seconds_per_job(runs, SHORT, 5))
    ours.cache.close()


def fit(number: int) -> float:
    """Fit a model to the digits, which takes a core about 0.8 s."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore")  # it stops before it has converged, so that each fit takes as long
    digits = load_digits()
    model = LogisticRegression(C=1 + number / 1000, max_iter=1500, tol=1e-9)
    return float(model.fit(digits.data, digits.target).score(digits.data, digits.target))


def multiply(number: int) -> float:
    """Multiply matrices, which takes a core about 0.7 s."""
    import numpy as np

    factor = product = np.random.default_rng(number).random((600, 600)) / 300
    for _ in range(80):
        product = product @ factor
    return float(product[0, 0])


def bench_real(folder: Path) -> Iterator[Figure]:
    """Jobs that compute, by libraries that start threads of their own in each worker."""
    import joblib

    os.environ.pop("OMP_NUM_THREADS", None)  # how many is for those to say who start the workers
    for work, function in ((FITS, fit), (PRODUCTS, multiply)):
        ours, theirs = _ours(function, folder), joblib.delayed(function)
        with joblib.Parallel(n_jobs=WORKERS) as parallel:
            runs = {
                OURS: lambda numbers, ours=ours: list(ours.map(numbers)),
                "joblib": lambda numbers, parallel=parallel, theirs=theirs: parallel(map(theirs, numbers)),
            }
            yield from figures(work, seconds_per_job(runs, REAL, REAL_ROUNDS))
        ours.cache.close()
