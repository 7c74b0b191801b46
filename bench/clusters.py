"""Measures 2,000 tiny jobs over SCOOP and over Dask, remembered by this library, beside the bare engines."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keys import body
from measuring import OURS, Figure, figures

__all__ = ["DASK", "SCOOP", "bench_clusters"]

JOBS = 2_000
ROUNDS = 3
SCOOP = f"{JOBS:,} tiny jobs over SCOOP, a job"
DASK = f"{JOBS:,} tiny jobs over Dask, a job"


def seconds_per_job(run: Callable[[range], Any], numbers: range) -> float:
    start = time.perf_counter()
    run(numbers)
    return (time.perf_counter() - start) / len(numbers)


def bench_clusters(folder: Path) -> Iterator[Figure]:
    """Bare `scoop.futures.map` and `Client.map`, and ours with all that is committed; nothing is a hit."""
    yield from figures(SCOOP, scoop_jobs(folder))
    yield from figures(DASK, dask_jobs(folder))


def dask_jobs(folder: Path) -> dict[str, float]:
    """Let bare Dask and ours take turns on a scheduler and two workers of this machine."""
    from distributed import Client, LocalCluster

    import bencher_job

    times: dict[str, list[float]] = {OURS: [], "Client.map": []}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        ours = bencher_job.cached_job(executor=client, cache_dir=folder / "dask")(body)
        runs: dict[str, Callable[[range], Any]] = {
            OURS: lambda numbers: list(ours.map(numbers)),
            "Client.map": lambda numbers: client.gather(client.map(body, numbers, pure=False)),
        }
        for start in range(0, (ROUNDS + 1) * JOBS, JOBS):
            for library, run in runs.items():
                times[library].append(seconds_per_job(run, range(start, start + JOBS)))
        ours.cache.close()
    return {library: statistics.median(taken[1:]) for library, taken in times.items()}


def scoop_jobs(folder: Path) -> dict[str, float]:
    """Let bare SCOOP run and then ours, in several programs of a root and two workers."""
    times: dict[str, list[float]] = {OURS: [], "scoop.futures.map": []}
    for number in range(ROUNDS):
        out = folder / f"scoop-{number}.json"
        command = [sys.executable, "-m", "scoop", "-q", "-n", "3", __file__, str(out)]
        paths = [str(Path(__file__).parent), *filter(None, sys.path)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
        for library, taken in json.loads(out.read_text()).items():
            times[library] += taken
    return {library: statistics.median(taken) for library, taken in times.items()}


def within_scoop(out: str) -> None:
    """Write the seconds of a job, round by round; ours come last, since the workers are its own from then on."""
    from scoop import futures

    import bencher_job

    with tempfile.TemporaryDirectory() as folder:
        ours = bencher_job.cached_job(executor="scoop", cache_dir=folder)(body)
        runs: dict[str, Callable[[range], Any]] = {
            "scoop.futures.map": lambda numbers: list(futures.map(body, numbers)),
            OURS: lambda numbers: list(ours.map(numbers)),
        }
        times = {
            library: [
                seconds_per_job(run, range(start, start + JOBS))
                for start in range(0, (ROUNDS + 1) * JOBS, JOBS)
            ]
            for library, run in runs.items()
        }
        ours.cache.close()
    Path(out).write_text(json.dumps({library: taken[1:] for library, taken in times.items()}))


if __name__ == "__main__":
    within_scoop(sys.argv[1])
