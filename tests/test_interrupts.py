"""Ctrl-C at any moment leaves nothing behind that somebody would wait for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import unmeasured

PROGRAM = Path(__file__).parent / "interrupt_points.py"


@pytest.mark.parametrize(
    ("executor", "number", "step"), [("SERIAL", 1, 1), ("MULTIPROCESSING", 1, 1), ("MULTIPROCESSING", 3, 3)]
)
def test_who_asks_after_an_interrupt_at_any_call_is_answered(
    tmp_path: Path, executor: str, number: int, step: int
) -> None:
    """Neither a lock, nor a claim, nor a job in flight stays with the thread that was interrupted."""
    run = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, executor, str(number), str(step)],
        capture_output=True,
        text=True,
        env={**unmeasured(), "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=110,
        check=False,
    )
    assert (run.stdout, run.returncode) == ("", 0), run.stderr
