"""ty agrees with mypy and pyright, which `make lint` asks, on functions and on the names of executors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TY = shutil.which("ty", path=str(Path(sys.executable).parent))

PROGRAM = """
from typing import assert_type
from bencher_job import CachedFunction, FutureCache, JobFuture, cached_job

@cached_job(executor="threads")
def accuracy(model: str, c: float = 1.0) -> float:
    return len(model) * c

@cached_job
async def fetch(page: str) -> bytes:
    return page.encode()

async def awaited() -> None:
    assert_type(await fetch("a"), bytes)

assert_type(accuracy("svm"), float)
assert_type(accuracy.submit("svm", c=2.0), JobFuture[float])
assert_type(accuracy.is_cached("svm"), bool)
FutureCache(executor="MULTIPROCESSING")
accuracy(3)  # refused
accuracy("svm", depth=3)  # refused
cached_job(executor="treads")  # refused
cached_job(executor=3)  # refused
FutureCache(executor="treads")  # refused
"""


@pytest.mark.skipif(TY is None, reason="ty is not installed")
def test_ty_accepts_and_refuses_the_same_calls(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    run = subprocess.run(
        [str(TY), "check", "--output-format=concise", "--python", sys.prefix, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    told = {int(line) for line in re.findall(r"^program\.py:(\d+):", run.stdout, re.MULTILINE)}
    lines = PROGRAM.splitlines()
    assert told == {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}, run.stdout
