"""Measures this library beside its peers in one run, and prints ratios: only those carry over to another machine.

    make bench                       all
    make bench ARGS="hits imports"   some

A row gives our time, each peer's time, ours as a fraction of theirs, and the goal where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

GOALS: dict[tuple[str, str], float] = {
    ("repeated hit", "diskcache"): 0.5,
    ("import", "joblib"): 0.6,
}


class Figure(NamedTuple):
    work: str
    library: str
    seconds: float


def body(x: int, y: float = 2.0, name: str = "abc") -> dict[str, Any]:
    return {"result": x * y, "name": name}


def large(seed: int) -> Any:
    import numpy as np

    return np.full(10_000_000, float(seed))  # 80 MB


@contextlib.contextmanager
def memoizers(folder: Path, function: Callable[..., Any]) -> Iterator[dict[str, Callable[..., Any]]]:
    """Decorate one function with each library, each with a new cache in a folder of its own."""
    import checkpointer
    import diskcache
    import joblib

    import bencher_job

    disk = diskcache.Cache(str(folder / "diskcache"))
    ours = bencher_job.cached_job(cache_dir=folder / "ours")(function)
    yield {
        "bencher_job": ours,
        "diskcache": disk.memoize()(function),
        "joblib": joblib.Memory(folder / "joblib", verbose=0).cache(function),
        "checkpointer": checkpointer.checkpoint(
            root_path=folder / "checkpointer", format="pickle", verbosity=0
        )(function),
        "functools.lru_cache": functools.lru_cache(maxsize=None)(function),
    }
    ours.cache.close()
    disk.close()


def seconds_per_call(call: Callable[[int], Any], numbers: range, rounds: int) -> float:
    """Give the median over rounds of the mean time of a call."""
    times = []
    gc.disable()
    for _ in range(rounds):
        start = time.perf_counter()
        for number in numbers:
            call(number)
        times.append((time.perf_counter() - start) / len(numbers))
    gc.enable()
    return statistics.median(times)


def bench_hits(folder: Path) -> Iterator[Figure]:
    """50 distinct calls of a function of three small arguments, then the same again."""
    with memoizers(folder, body) as libraries:
        for name, call in libraries.items():
            yield Figure("miss and store", name, seconds_per_call(call, range(1000), 1))
        for name, call in libraries.items():
            yield Figure("repeated hit", name, seconds_per_call(call, range(50), 21))


def bench_arrays(folder: Path) -> Iterator[Figure]:
    """A function that returns an array of 80 MB: a miss and its store, then a hit."""
    with memoizers(folder, large) as libraries:
        del libraries["functools.lru_cache"]
        for work in ("80 MB array: fill and store", "80 MB array: hit"):
            times: dict[str, list[float]] = {name: [] for name in libraries}
            for number in range(3):
                for name, call in libraries.items():
                    times[name].append(seconds_per_call(call, range(number, number + 1), 1))
            yield from (Figure(work, name, statistics.median(taken)) for name, taken in times.items())


def bench_imports(_folder: Path) -> Iterator[Figure]:
    """A new interpreter that imports a library, over one that imports nothing; the least of 15 runs."""
    statements = {
        "bare": "pass",
        "bencher_job": "import bencher_job",
        "joblib": "import joblib",
        "diskcache": "import diskcache",
        "checkpointer": "import checkpointer",
    }
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(15):
        for name, statement in statements.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times[name].append(time.perf_counter() - start)
    bare = min(times.pop("bare"))
    yield from (Figure("import", name, min(taken) - bare) for name, taken in times.items())


BENCHES = {"hits": bench_hits, "arrays": bench_arrays, "imports": bench_imports}


def report(figures: list[Figure]) -> None:
    works = dict.fromkeys(figure.work for figure in figures)
    for work in works:
        times = {figure.library: figure.seconds for figure in figures if figure.work == work}
        ours = times.pop("bencher_job")
        print(f"\n{work}: {in_words(ours)}")
        for name, seconds in times.items():
            goal = GOALS.get((work, name))
            verdict = (
                ""
                if goal is None
                else f"   goal {goal:g}: {'reached' if ours / seconds <= goal else 'MISSED'}"
            )
            print(f"  {ours / seconds:7.3f} of {name:20} {in_words(seconds):>10}{verdict}")


def in_words(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "what", nargs="*", choices=[*BENCHES, []], help=f"some of {', '.join(BENCHES)}; by default all"
    )
    chosen = parser.parse_args().what or list(BENCHES)
    warnings.simplefilter("ignore")
    print(f"Python {sys.version.split()[0]}, {len(os.sched_getaffinity(0))} cores")
    figures: list[Figure] = []
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            figures += BENCHES[name](Path(folder))
    report(figures)


if __name__ == "__main__":
    main()
