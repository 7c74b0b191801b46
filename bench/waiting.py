"""Measures what it costs to wait for a job that another process runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measuring import OURS, Figure, figures, seconds_in_new_processes
from memoizing import LIMIT

WAITERS = 50
BEGUN, MEASURED = 1.0, 5.0
"""Seconds after which all wait, and for which they are measured then."""

WORK = f"{WAITERS} processes that wait for one key, processor time a second"


def bench_waiting(folder: Path) -> Iterator[Figure]:
    """Fifty processes that ask for what another one computes: the time that all of them take a processor meanwhile."""
    program = f"import waiting; waiting.waiters({str(folder)!r})"
    yield from figures(WORK, seconds_in_new_processes({OURS: program}, rounds=3) | {LIMIT: 0.05})


def waiters(folder: str) -> None:
    """Print the seconds of processor time that the waiting processes take in a second."""
    import bencher_job

    number = f"{time.time_ns()}"

    def long(_: str) -> None:
        time.sleep(BEGUN + MEASURED + 1)

    job = bencher_job.cached_job(cache_dir=folder, code="none")(long)
    owner = _Child(lambda: job(number) or 0.0)
    while not job.cache.cache.leases.owner_of(job.key(number)):
        time.sleep(0.01)
    job.cache.close()
    children = [_Child(lambda: _processor_time_of(job, number)) for _ in range(WAITERS)]
    print(sum(child.said() for child in children) / MEASURED)
    owner.said()


def _processor_time_of(job: Callable[[str], object], number: str) -> float:
    """Wait for a job, and give the processor time that this process takes in some seconds of it."""
    threading.Thread(target=job, args=(number,), daemon=True).start()
    time.sleep(BEGUN)
    start = time.process_time()
    time.sleep(MEASURED)
    return time.process_time() - start


class _Child:
    """A forked child that works something out."""

    def __init__(self, work: Callable[[], float]) -> None:
        self._read, write = os.pipe()
        if os.fork() == 0:
            try:
                os.write(write, repr(work()).encode())
            finally:
                os._exit(0)
        os.close(write)

    def said(self) -> float:
        """Wait for what it has worked out."""
        with os.fdopen(self._read, "rb") as file:
            return float(file.read())
