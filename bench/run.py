"""Measures this library beside its peers in one run, and prints ratios: only those carry over to another machine.

    make bench                       all
    make bench ARGS="hits imports"   some
    make figures                     all, and write the documentation's page of figures anew

Each of these is measured in a process of its own, so that none works in memory that another has filled.
A row gives our time, each peer's time, ours as a fraction of theirs, and the goal where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from clusters import CLUSTERS, SCOOP, bench_clusters, short, tiny
from executing import (
    FITS,
    PICKLED,
    PLAIN,
    PRODUCTS,
    bench_closures,
    bench_large,
    bench_real,
    bench_short,
    bench_tiny,
)
from keys import bench_keys
from measuring import OURS, Figure, figures, in_words
from memoizing import FEW, LIMIT, MANY, bench_arrays, bench_hits, bench_many, bench_processes
from sharing import BULK, ENGINES, WITHOUT, bench_shared
from waiting import WORK as WAITING
from waiting import bench_waiting

os.environ.setdefault("OMP_NUM_THREADS", "1")

GOALS: dict[tuple[str, str], float] = {
    ("key of three small arguments", "joblib"): 0.05,
    ("key of an 80 MB float array", "joblib"): 0.2,
    ("key of a frame of 100,000 rows, text as object", "joblib"): 0.5,
    ("key of a frame of 100,000 rows, text as str", "joblib"): 0.5,
    ("key of a list of 100,000 ints", "joblib"): 0.5,
    ("repeated hit", "diskcache"): 0.125,
    ("repeated hit", "joblib"): 0.033,
    ("repeated hit", "functools.lru_cache"): 10,
    ("miss and store", "diskcache"): 1.0,
    ("miss and store", "joblib"): 0.4,
    ("80 MB array: store", "joblib"): 0.5,
    ("80 MB array: hit", "joblib"): 1.0,
    ("first hit of each key in a new process", "diskcache"): 0.6,
    ("bulk lookup of 20,000 keys, a key", "diskcache"): 0.5,
    ("80 MB array: mapped hit", "joblib"): 0.75,
    (f"miss at {MANY:,} entries", f"one at {FEW:,}"): 1.5,
    (f"info() at {MANY:,} entries", LIMIT): 1.0,
    (f"stats() at {MANY:,} entries", LIMIT): 1.0,
    ("longest hit while 100,000 entries are cleared", LIMIT): 1.0,
    (WAITING, LIMIT): 1.0,
    **{(f"hit of a shared store, {engine}", "cachier"): 1 / 3 for engine in ENGINES},
    (BULK, LIMIT): 1.0,
    ("local hit before a shared store", WITHOUT): 1.05,
    ("tiny jobs on two processes, all misses", "joblib"): 1 / 3,
    ("tiny jobs on two processes, all hits", "joblib"): 0.1,
    ("jobs of a function with 10 MB", PICKLED): 0.2,
    ("jobs that return 80 MB each", "joblib"): 0.5,
    ("jobs of 10 ms on two processes", PLAIN): 1.05,
    (FITS, "joblib"): 1.10,
    (PRODUCTS, "joblib"): 1.10,
    (SCOOP, "scoop.futures.map"): 1 / 0.7,
    **{(tiny(engine), peer): 1 / 0.7 for engine, (peer, _) in CLUSTERS.items()},
    **{(short(engine), peer): 1.1 for engine, (peer, _) in CLUSTERS.items()},
    ("import", "joblib"): 0.35,
}


def bench_imports(_folder: Path) -> Iterator[Figure]:
    """A new interpreter that imports a library, over one that imports nothing; the least of 15 runs."""
    statements = {"bare": "pass"} | {
        name: f"import {name}" for name in (OURS, "joblib", "diskcache", "checkpointer")
    }
    times: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(15):
        for name, statement in statements.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            times[name].append(time.perf_counter() - start)
    bare = min(times.pop("bare"))
    yield from figures("import", {name: min(taken) - bare for name, taken in times.items()})


BENCHES = {
    "keys": bench_keys,
    "hits": bench_hits,
    "arrays": bench_arrays,
    "processes": bench_processes,
    "many": bench_many,
    "waiting": bench_waiting,
    "shared": bench_shared,
    "tiny": bench_tiny,
    "closures": bench_closures,
    "large": bench_large,
    "short": bench_short,
    "real": bench_real,
    "clusters": bench_clusters,
    "imports": bench_imports,
}


def measured_apart(name: str, saved: Path) -> Iterator[Figure]:
    """Measure one of the benches in a new process, when the disk has taken in what the one before has written."""
    os.sync()
    command = [sys.executable, __file__, name, "--save", str(saved)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for figure in json.loads(saved.read_text())["measured"]:
        yield Figure(**figure)


def report(measured: list[Figure]) -> None:
    """Print each work with our time, and below it the peers'."""
    for work in dict.fromkeys(figure.work for figure in measured):
        times = {figure.library: figure.seconds for figure in measured if figure.work == work}
        ours = times.pop(OURS)
        print(f"\n{work}: {in_words(ours)}")
        for name, seconds in times.items():
            ratio, goal = ours / seconds, GOALS.get((work, name))
            reached = "reached" if goal is None or ratio <= goal else "MISSED"
            verdict = "" if goal is None else f"   goal {goal:g}: {reached}"
            print(f"  {ratio:7.3f} of {name:20} {in_words(seconds):>10}{verdict}")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "what", nargs="*", choices=[*BENCHES, []], help=f"some of {', '.join(BENCHES)}; by default all"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write what was measured to a file, as JSON"
    )
    options = parser.parse_args()
    chosen = options.what or list(BENCHES)
    warnings.simplefilter("ignore")
    conditions = {
        "python": sys.version.split()[0],
        "cores": len(os.sched_getaffinity(0)),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": {library: version(library) for library in ("joblib", "diskcache", "checkpointer")},
    }
    print(f"Python {conditions['python']}, {conditions['cores']} cores")
    with tempfile.TemporaryDirectory() as folder:
        if len(chosen) == 1:
            measured = list(BENCHES[chosen[0]](Path(folder)))
        else:
            measured = [figure for name in chosen for figure in measured_apart(name, Path(folder, "saved"))]
    report(measured)
    if options.save:
        saved = {"conditions": conditions, "measured": [figure._asdict() for figure in measured]}
        options.save.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
