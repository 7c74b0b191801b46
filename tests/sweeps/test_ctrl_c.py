"""Ctrl-C ends a sweep with one line, which says what is kept."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.programs import Programs, until

STUDY = """
    import asyncio

    kind, patience = sys.argv[2], float(sys.argv[3])

    def slow(x):
        count("runs")
        if x >= 6:
            time.sleep(patience)
        return x

    async def slowly(x):
        count("runs")
        if x >= 6:
            await asyncio.sleep(patience)
        return x

    options = {} if kind == "coroutine" else {"executor": kind, "max_workers": 2}
    f = cached_job(code="none", **options)(slowly if kind == "coroutine" else slow)
    sweep = f.sweep({"x": range(18)}, repeats=3, order="repeats")
    sweep.run(progress=False)
"""


def runs(folder: Path) -> int:
    path = folder / "count.runs"
    return len(path.read_bytes()) if path.exists() else 0


@pytest.mark.parametrize("kind", ["serial", "threads", "multiprocessing", "coroutine"])
def test_an_interrupted_sweep_ends_with_one_line(programs: Programs, tmp_path: Path, kind: str) -> None:
    program = programs.start("first", STUDY, kind, "60" if kind in {"serial", "coroutine"} else "1")
    assert until(lambda: runs(tmp_path) >= 7)
    os.killpg(program.pid, signal.SIGINT)
    _, complaint = program.communicate(timeout=60)
    found = re.fullmatch(r"(\d+) of 54 kept; run again to go on\n", complaint)
    assert found is not None, complaint
    assert program.returncode == -signal.SIGINT
    kept = int(found[1])
    before = runs(tmp_path)
    again = programs.start("second", STUDY, kind, "0")
    assert again.communicate(timeout=60) == ("", "")
    ran = runs(tmp_path) - before
    if kind == "serial":
        assert (kept, ran) == (6, 48)
    elif kind == "coroutine":  # they run side by side, so later repeats of the quick ones may be done
        assert ran == 54 - kept
        assert kept >= 6
    else:  # more results may come while the program ends
        assert ran <= 54 - kept


def starting_workers(pid: int) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(pid).children()
        if any("spawn_main" in word for word in child.cmdline())
    ]


def test_workers_that_still_start_add_no_line(programs: Programs) -> None:
    program = programs.start("first", STUDY, "multiprocessing", "1")
    assert until(lambda: bool(starting_workers(program.pid)))
    os.killpg(program.pid, signal.SIGINT)
    _, complaint = program.communicate(timeout=60)
    assert re.fullmatch(r"\d+ of 54 kept; run again to go on\n", complaint), complaint
