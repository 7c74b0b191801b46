"""The example does its job, is all hits when run again, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "compression.py"


def start(cache: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, str(EXAMPLE), "--out", str(cache / "out"), *arguments]
    environment = os.environ | {"BENCHER_JOB_CACHE_DIR": str(cache / "cache"), "COLUMNS": "100"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def run(cache: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
    process = start(cache, *arguments, launcher=launcher)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return output


def counts(output: str) -> tuple[int, int]:
    """How many jobs were remembered and how many computed."""
    remembered, computed = re.search(r"(\d+) remembered and (\d+) computed", output).groups()
    return int(remembered), int(computed)


def stored(cache: Path) -> int:
    from bencher_job._stores.disk import DiskStore

    store = DiskStore(cache / "cache" / "fcache", size_limit=10**9)
    try:
        return store.count() if store.directory.exists() else 0
    finally:
        store.close()


def test_it_runs_and_is_all_hits_when_run_again(tmp_path: Path) -> None:
    first = run(tmp_path, "--levels", "1", "--repeats", "1")
    assert counts(first) == (0, 36)
    assert "│ zlib" in first
    picture = tmp_path / "out" / "compression.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = run(tmp_path, "--levels", "1", "--repeats", "1", "--executor", "serial")
    assert counts(again) == (36, 0)
    assert re.search(r"0 computed, \d+\.\d s saved", again)


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_where_it_stopped(tmp_path: Path, blow: signal.Signals) -> None:
    options = ("--levels", "1,5,9", "--repeats", "2")
    process = start(tmp_path, *options)
    deadline = time.monotonic() + 60
    while stored(tmp_path) < 20:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(blow)
    process.communicate(timeout=20)
    assert process.returncode != 0
    kept = stored(tmp_path)
    assert kept >= 20
    assert counts(run(tmp_path, *options)) == (kept, 216 - kept)


def test_a_tag_is_cleared_and_nothing_else_is_done(tmp_path: Path) -> None:
    run(tmp_path, "--levels", "1", "--repeats", "1", "--executor", "serial")
    assert run(tmp_path, "--clear", "another").strip() == "forgot 0 results of another"
    assert run(tmp_path, "--clear", "compression").strip() == "forgot 36 results of compression"


def test_a_level_that_is_none_is_told(tmp_path: Path) -> None:
    process = start(tmp_path, "--levels", "0")
    assert "a level is a number from 1 to 9" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_it_runs_on_scoop(tmp_path: Path) -> None:
    pytest.importorskip("scoop", reason="SCOOP is not installed: pip install 'bencher_job[scoop]'")
    output = run(
        tmp_path,
        "--levels",
        "1",
        "--repeats",
        "1",
        "--executor",
        "scoop",
        launcher=("-m", "scoop", "-q", "-n", "2"),
    )
    assert counts(output) == (0, 36)
    assert counts(run(tmp_path, "--levels", "1", "--repeats", "1")) == (36, 0)


SCOOP_PROGRAM = """
import json, sys
from bencher_job import cached_job

@cached_job(executor="scoop", cache_dir=sys.argv[1])
def half(x):
    if x == 3:
        raise LookupError("no three")
    return {"half": x / 2}

if __name__ == "__main__":
    futures = [half.submit(x) for x in range(6)]
    told = {
        "values": [f.result(60) if f.exception(60) is None else repr(f.exception()) for f in futures],
        "sweep": [row["result"]["half"] for row in half.sweep({"x": [0, 2, 4]}).run().results],
        "hits": half.cache.info().hits,
        "computed": half.cache.info().computed,
    }
    open(sys.argv[2], "w").write(json.dumps(told))
"""


def test_a_cached_function_runs_on_scoop_and_remembers(tmp_path: Path) -> None:
    pytest.importorskip("scoop", reason="SCOOP is not installed: pip install 'bencher_job[scoop]'")
    program, told = tmp_path / "program.py", tmp_path / "told.json"
    program.write_text(SCOOP_PROGRAM)
    command = [
        sys.executable,
        "-m",
        "scoop",
        "-q",
        "-n",
        "2",
        str(program),
        str(tmp_path / "cache"),
        str(told),
    ]
    subprocess.run(command, check=True, timeout=100)
    seen = json.loads(told.read_text())
    assert seen["values"] == [{"half": x / 2} if x != 3 else "LookupError('no three')" for x in range(6)]
    assert seen["sweep"] == [0.0, 1.0, 2.0]
    assert (seen["hits"], seen["computed"]) == (3, 6)


def test_scoop_outside_of_scoop_says_how_to_start() -> None:
    pytest.importorskip("scoop", reason="SCOOP is not installed: pip install 'bencher_job[scoop]'")
    from bencher_job import BencherJobError, cached_job

    @cached_job(executor="scoop")
    def plain(x: int) -> int:
        return x

    with pytest.raises(BencherJobError, match=r"python -m scoop"):
        plain(1)
