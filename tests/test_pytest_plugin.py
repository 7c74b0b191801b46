"""The pytest plugin: the fixture `job_cache`, the option `--job-cache`, and a start of pytest that costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import unmeasured

TESTS = """
import pathlib
from bencher_job import cached_job

calls = pathlib.Path(__file__).with_name("calls")

@cached_job(cache_dir=pathlib.Path(__file__).with_name("own"))
def slow(x):
    with calls.open("a") as file:
        file.write("x")
    return x

def test_one({fixture}):
    assert [slow(1), slow(1)] == [1, 1]

def test_two({fixture}):
    assert slow(1) == 1
"""

ROOT = Path(__file__).parents[1]


def started(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder with the plugin, whether it is installed or not, and without all others."""
    return subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-q", "-p", "pytest_bencher_job", *options],
        cwd=folder,
        env=unmeasured(
            {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            }
        ),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def calls(folder: Path, *options: str) -> int:
    """How often the function has run in a run of pytest that ends well."""
    run = started(folder, *options)
    assert run.returncode == 0, run.stdout + run.stderr
    file = folder / "calls"
    try:
        return len(file.read_text()) if file.exists() else 0
    finally:
        file.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("fixture", "options", "expected"),
    [
        ("", ["--job-cache=fresh"], [2]),  # one in each test
        ("", ["--job-cache=off"], [3]),
        ("", ["--job-cache=keep"], [1, 0]),
        ("job_cache", [], [2]),
        ("job_cache", ["--job-cache=keep"], [1, 0]),
    ],
)
def test_tests_remember_what_the_option_says(
    tmp_path: Path, fixture: str, options: list[str], expected: list[int]
) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(fixture=fixture))
    assert [calls(tmp_path, *options) for _ in expected] == expected
    assert not (tmp_path / "own").exists()


def test_a_project_that_does_not_use_the_plugin_sees_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(fixture=""))
    assert [calls(tmp_path) for _ in range(2)] == [1, 0]
    assert (tmp_path / "own").exists()


def test_what_is_kept_needs_a_place(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS.format(fixture=""))
    run = started(tmp_path, "--job-cache=keep", "-p", "no:cacheprovider")
    assert run.returncode != 0
    assert "Leave out -p no:cacheprovider" in run.stdout


def test_a_start_of_pytest_does_not_import_the_package(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it(): assert not [name for name in sys.modules if name.startswith('bencher_job')]\n"
    )
    assert started(tmp_path).returncode == 0
