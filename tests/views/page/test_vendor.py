"""The libraries of the page are those that were fetched, with their licences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
VENDOR = ROOT / "bencher_job" / "_page" / "static" / "vendor"


def test_the_files_are_those_that_were_fetched() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "vendor.py", "--check"], check=True, timeout=60)


def test_each_library_has_its_licence() -> None:
    scripts = list(VENDOR.glob("*.js"))
    assert len(scripts) == 3
    for library in scripts:
        assert "ermission" in library.with_suffix(".LICENSE.txt").read_text()
