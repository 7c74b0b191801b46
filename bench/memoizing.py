"""Measures decorated functions: a miss, a hit, in this process and in a new one."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keys import body
from measuring import OURS, Figure, figures, seconds_in_new_processes, seconds_per_call

FIRST_HITS = 2_000
LOOKUPS = 20_000
FEW, MANY = 1_000, 200_000
ARRAY_ROUNDS = 9
RAW = "a bare write"
LIMIT = "the limit"
"""Stands in the place of a peer where a goal is a time and no ratio."""


@functools.cache
def array(seed: int) -> Any:
    import numpy as np

    return np.full(10_000_000, float(seed))  # 80 MB


def large(seed: int) -> Any:
    return array(seed)  # made before: to fill it takes as long as to store it


@contextlib.contextmanager
def memoizers(folder: Path, function: Callable[..., Any]) -> Iterator[dict[str, Callable[..., Any]]]:
    """Decorate one function with each library, each with a cache in a folder of its own."""
    import checkpointer
    import diskcache
    import joblib

    import bencher_job

    disk = diskcache.Cache(str(folder / "diskcache"))
    ours = bencher_job.cached_job(cache_dir=folder / OURS)(function)
    yield {
        OURS: ours,
        "diskcache": disk.memoize()(function),
        "joblib": joblib.Memory(folder / "joblib", verbose=0).cache(function),
        "checkpointer": checkpointer.checkpoint(
            root_path=folder / "checkpointer", format="pickle", verbosity=0
        )(function),
        "functools.lru_cache": functools.lru_cache(maxsize=None)(function),
    }
    ours.cache.close()
    disk.close()


def bench_hits(folder: Path) -> Iterator[Figure]:
    """Distinct calls of a function of three small arguments, then 50 of them again and again."""
    with memoizers(folder, body) as libraries:
        misses = [range(start, start + 50) for start in range(0, 1000, 50)]
        yield from figures("miss and store", seconds_per_call(libraries, misses))
        yield from figures("repeated hit", seconds_per_call(libraries, [range(50)] * 41))


def bench_arrays(folder: Path) -> Iterator[Figure]:
    """A function that returns an array of 80 MB: a miss and its store, then a hit, copied and mapped."""
    import joblib

    import bencher_job

    rounds = [[number] for number in range(3)]
    with memoizers(folder, large) as libraries:
        del libraries["functools.lru_cache"]
        yield from figures("80 MB array: store", seconds_per_store(folder / "stores"))
        for library in libraries.values():
            for (number,) in rounds:
                library(number)
        yield from figures("80 MB array: hit", seconds_per_call(libraries, 3 * rounds))
    mapping = {
        OURS: bencher_job.cached_job(cache_dir=folder / OURS, mmap=True)(large),
        "joblib": joblib.Memory(folder / "joblib", verbose=0).cache(large),
        "joblib, mapped": joblib.Memory(folder / "joblib", verbose=0, mmap_mode="r").cache(large),
    }
    yield from figures("80 MB array: mapped hit", seconds_per_call(mapping, 3 * rounds))
    mapping[OURS].cache.close()


def seconds_per_store(folder: Path) -> dict[str, float]:
    """Let the libraries, and a bare write of the same bytes to a new file, take turns; give the median over rounds.

    What was stored is removed again after each turn. So all write to memory that the system has at hand: how long it
    takes to get more, which on a virtual machine can be most of the time, is no library's doing.
    """
    times: dict[str, list[float]] = {}
    for number in range(ARRAY_ROUNDS):
        array(number % 3)
        for library in (OURS, "diskcache", "joblib", "checkpointer", RAW):
            with memoizers(folder, large) as libraries:
                libraries[OURS].is_cached(0)  # opens the store
                call = (libraries | {RAW: functools.partial(write_raw, folder)})[library]
                start = time.perf_counter()
                call(number % 3)
                times.setdefault(library, []).append(time.perf_counter() - start)
            shutil.rmtree(folder)
    return {library: statistics.median(taken) for library, taken in times.items()}


def write_raw(folder: Path, number: int) -> None:
    """Write an array's bytes to a new file, and nothing else."""
    with memoryview(array(number)).cast("B") as content, open(folder / "raw", "xb", buffering=0) as file:
        written = 0
        while written < len(content):
            written += file.write(content[written:])


def bench_processes(folder: Path) -> Iterator[Figure]:
    """A new process over a cache that another has filled: calls one by one, then a lookup in bulk."""
    _fill(folder)
    for work, measure in (
        ("first hit of each key in a new process", first_hits),
        (f"bulk lookup of {LOOKUPS:,} keys, a key", bulk_lookup),
    ):
        programs = {
            library: f"import memoizing; memoizing.{measure.__name__}({str(folder)!r}, {library!r})"
            for library in (OURS, "diskcache")
        }
        yield from figures(work, seconds_in_new_processes(programs, rounds=5))


def _fill(folder: Path) -> None:
    """Fill the caches in a process that ends: what it has in memory is gone."""
    seconds_in_new_processes({OURS: f"import memoizing; memoizing.fill({str(folder)!r})"}, rounds=1)


def fill(folder: str) -> None:
    """Fill the caches."""
    import diskcache

    from bencher_job import FutureCache, Job

    with memoizers(Path(folder), body) as libraries:
        for number in range(FIRST_HITS):
            for library in (OURS, "diskcache"):
                libraries[library](number)
    with FutureCache(overwrite=False, cache_name="bulk", cache_dir=folder) as cache:
        for number, key in enumerate(_keys()):
            cache.submit(Job(key, body, {"x": number}, key))
    with diskcache.Cache(str(Path(folder, "bulk of diskcache"))) as disk, disk.transact():
        for number, key in enumerate(_keys()):
            disk[key] = body(number)
    print(0)


def first_hits(folder: str, library: str) -> None:
    """Print the seconds that a hit takes in this process, which has seen none of the keys yet."""
    with memoizers(Path(folder), body) as libraries:
        call = libraries[library]
        call(0)  # opens the store
        start = time.perf_counter()
        for number in range(1, FIRST_HITS):
            call(number)
        print((time.perf_counter() - start) / (FIRST_HITS - 1))


def bulk_lookup(folder: str, library: str) -> None:
    """Print the seconds that a key takes when all are looked up."""
    import diskcache

    from bencher_job import FutureCache

    if library == OURS:
        cache = FutureCache(overwrite=False, cache_name="bulk", cache_dir=folder)
        look_up: Callable[[list[str]], Any] = cache.prefetch
    else:
        disk = diskcache.Cache(str(Path(folder, "bulk of diskcache")))
        look_up = functools.partial(_get_each, disk)
    look_up(_keys()[:1])
    start = time.perf_counter()
    found = look_up(_keys())
    print((time.perf_counter() - start) / LOOKUPS)
    if len(found) != LOOKUPS:
        sys.exit(f"{library} has found {len(found)} of {LOOKUPS} keys")


def _get_each(disk: Any, keys: list[str]) -> dict[str, Any]:
    return {key: disk[key] for key in keys}


def bench_many(folder: Path) -> Iterator[Figure]:
    """A store of 200,000 entries: a miss, its figures, and a hit of another process while half of it is cleared."""
    import bencher_job
    from bencher_job._record import Selection

    ours = bencher_job.cached_job(cache_dir=folder)(body)
    store = ours.cache.cache
    _put(store, range(FEW))
    few = seconds_per_call({"": ours}, [range(start, start + 50) for start in range(0, 1000, 50)])[""]
    _put(store, range(FEW, MANY))
    many = seconds_per_call({"": ours}, [range(start, start + 50) for start in range(1000, 2000, 50)])[""]
    yield from figures(f"miss at {MANY:,} entries", {OURS: many, f"one at {FEW:,}": few})
    for name in ("info", "stats"):
        figure = getattr(ours.cache, name)
        taken = seconds_per_call({OURS: lambda _, figure=figure: figure()}, [range(1)] * 11)
        yield from figures(f"{name}() at {MANY:,} entries", taken | {LIMIT: 0.020})
    program = f"import memoizing; memoizing.longest_hit({str(folder)!r})"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    ) as user:
        user.stdout.readline()
        cleared = store.clear(Selection(tag="odd"))
        longest, _ = user.communicate("cleared\n")
    yield from figures(
        f"longest hit while {cleared:,} entries are cleared", {OURS: float(longest), LIMIT: 0.1}
    )
    ours.cache.close()


def _put(store: Any, numbers: range) -> None:
    """Store entries, every second one with a tag."""
    from bencher_job import Record
    from bencher_job._stores import Entry, dump

    made = datetime.now(UTC)
    for start in range(numbers.start, numbers.stop, 1000):
        entries = [
            Entry(
                dump(body(number)),
                Record(key=_key(number), function="f", tag="odd" if number % 2 else "", created=made),
            )
            for number in range(start, start + 1000)
        ]
        store.put_many(entries)


def longest_hit(folder: str) -> None:
    """Print the seconds that the longest of many hits takes, until a line comes in."""
    import bencher_job

    ours = bencher_job.cached_job(cache_dir=folder)(body)
    print(ours(0), flush=True)
    longest = 0.0
    while not select.select([sys.stdin], [], [], 0.0005)[0]:
        for number in range(50):
            start = time.perf_counter()
            ours(number)
            longest = max(longest, time.perf_counter() - start)
    print(longest)


def _keys() -> list[str]:
    return [_key(number) for number in range(LOOKUPS)]


def _key(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()
