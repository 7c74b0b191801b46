"""Measures tiny jobs and jobs of 10 ms over clusters, remembered by this library, beside the bare engines."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from executing import seconds_per_job, spin
from keys import body
from measuring import OURS, Figure, figures

__all__ = ["CLUSTERS", "SCOOP", "bench_clusters", "short", "tiny"]

JOBS, SHORT = 2_000, 400
ROUNDS = 3
SCOOP = f"{JOBS:,} tiny jobs over SCOOP, a job"

Bare = Callable[[Callable[..., Any], range], Any]
"""Runs a function with each of some numbers, without this library."""


def tiny(engine: str) -> str:
    return f"{JOBS:,} tiny jobs over {engine}, a job"


def short(engine: str) -> str:
    return f"{SHORT} jobs of 10 ms over {engine}, a job"


def bench_clusters(folder: Path) -> Iterator[Figure]:
    """Bare engines, and ours with all that is committed; nothing is a hit. What can't run here is left out."""
    yield from figures(SCOOP, scoop_jobs(folder))
    for engine, (peer, start) in CLUSTERS.items():
        with start(folder) as started:
            if started is not None:
                yield from beside(engine, peer, *started, folder / engine)


def beside(engine: str, peer: str, executor: Any, bare: Bare, folder: Path) -> Iterator[Figure]:
    """Let a bare engine and ours take turns on two workers."""
    import bencher_job

    for work, function, jobs in ((tiny(engine), body, JOBS), (short(engine), spin, SHORT)):
        ours = bencher_job.cached_job(executor=executor, cache_dir=folder)(function)
        runs: dict[str, Callable[[range], Any]] = {
            OURS: lambda numbers, ours=ours: list(ours.map(numbers)),
            peer: lambda numbers, function=function: bare(function, numbers),
        }
        yield from figures(work, seconds_per_job(runs, jobs, ROUNDS))
        ours.cache.close()


def _by_client(client: Any) -> Bare:
    return lambda function, numbers: client.gather(client.map(function, numbers, pure=False))


@contextmanager
def dask(_folder: Path) -> Iterator[tuple[Any, Bare] | None]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client, _by_client(client)


@contextmanager
def ray(_folder: Path) -> Iterator[tuple[Any, Bare] | None]:
    if find_spec("ray") is None:
        yield None
        return
    import ray as library

    library.init(num_cpus=2, include_dashboard=False, logging_level="error")

    def bare(function: Callable[..., Any], numbers: range) -> Any:
        remote = library.remote(function)
        return library.get([remote.remote(number) for number in numbers])

    try:
        yield "ray", bare
    finally:
        library.shutdown()


@contextmanager
def slurm(folder: Path) -> Iterator[tuple[Any, Bare] | None]:
    """Start a Slurm of two nodes on this machine, with room for two workers of each."""
    sys.path.append(str(Path(__file__).parents[1]))
    from tests.executors.slurm_lab import SlurmLab, reason_not_to_start

    if find_spec("dask_jobqueue") is None or reason_not_to_start():
        yield None
        return
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    from bencher_job import Slurm

    (folder / "lab").mkdir()
    lab = SlurmLab(folder / "lab")
    os.environ.update(lab.variables)
    try:
        with (
            SLURMCluster(
                cores=1, memory="1GB", interface="lo", walltime="1:00:00", log_directory=str(folder)
            ) as pilots,
            Client(pilots, set_as_default=False) as client,
        ):
            pilots.scale(2)
            client.wait_for_workers(2)
            yield Slurm(2, mem="1GB", interface="lo", sbatch={"output": "/dev/null"}), _by_client(client)
    finally:
        lab.end()


CLUSTERS = {
    "Dask": ("Client.map", dask),
    "Slurm's pilots": ("SLURMCluster", slurm),
    "Ray": ("ray.remote", ray),
}
"""The clusters that are measured, each with the name of its bare use."""


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


def _seconds_of(run: Callable[[range], Any], numbers: range) -> float:
    start = time.perf_counter()
    run(numbers)
    return (time.perf_counter() - start) / len(numbers)


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
                _seconds_of(run, range(start, start + JOBS)) for start in range(0, (ROUNDS + 1) * JOBS, JOBS)
            ]
            for library, run in runs.items()
        }
        ours.cache.close()
    Path(out).write_text(json.dumps({library: taken[1:] for library, taken in times.items()}))


if __name__ == "__main__":
    within_scoop(sys.argv[1])
