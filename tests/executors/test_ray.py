"""Runs the tests of Ray in a process of their own.

Ray's driver leaves threads behind, beside which no later test can fork safely, and takes away the handlers of fatal
signals, so that a crash of a later test would print nothing.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

INSIDE = Path(__file__).with_name("ray_inside.py")


@pytest.mark.timeout(0)  # each test inside has its own
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
def test_ray_passes_its_tests():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(INSIDE)]
    ran = subprocess.run(command, cwd=INSIDE.parents[2], capture_output=True, text=True, timeout=1200)

    assert ran.returncode == 0, ran.stdout + ran.stderr
