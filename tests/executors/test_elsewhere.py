"""Workers that have another disk than the submitter under the same path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.environment import unmeasured

PROGRAM = """
import os, subprocess, sys, time, warnings
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from bencher_job import *

HERE = Path(os.environ["TEST_FOLDER"])

def hide_the_disk():
    '''Make this worker one of another host: under the same path it finds another disk.'''
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0, os.strerror(ctypes.get_errno())
    for args in (["--make-rprivate", "/"], ["-t", "tmpfs", "none", str(HERE)]):
        subprocess.run(["mount", *args], check=True)
    (HERE / "input.txt").write_text("of the worker")
    os.chdir(HERE)

class Cluster(Executor):
    def __init__(self, *args, **kwargs):
        self.pool = ProcessPoolExecutor(*args, **kwargs)

    def submit(self, function, /, *args, **kwargs):
        return self.pool.submit(function, *args, **kwargs)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.pool.shutdown(wait, cancel_futures=cancel_futures)

def cached(function, **options):
    from bencher_job import cached_job
    executor = Cluster(1, mp_context=get_context("spawn"), initializer=hide_the_disk)
    return cached_job(version="1", cache_dir=HERE / "cachedir", executor=executor, **options)(function)

def draw(size):
    path = gen_path("picture", suffix=".bin")
    Path(path).write_bytes(b"x" * size)
    return path

def read(path):
    return Path(path).read_text()
"""


def may_mount() -> bool:
    """Whether this process may change mounts unseen by others. In a chroot whose root is no mount it can't."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return os.geteuid() == 0 and shutil.which("mount") is not None and "/" in points


pytestmark = pytest.mark.skipif(not may_mount(), reason="it takes root, and a root folder that is a mount")


def run(folder: Path, source: str) -> str:
    program = folder.parent / "program.py"
    program.write_text(
        PROGRAM + "\nif __name__ == '__main__':\n" + textwrap.indent(textwrap.dedent(source), "    ")
    )
    environment = {
        **unmeasured(),
        "TEST_FOLDER": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.mkdir()
    return made


def test_files_travel_back_with_the_result(folder: Path) -> None:
    source = """
    f = cached(draw)
    path = f.submit(1000).result()
    assert Path(path).read_bytes() == b"x" * 1000
    assert Path(f.submit(1000).result()).read_bytes() == b"x" * 1000
    (record,) = f.cache.records()
    assert record.media and record.size > 1000
    print(f.cache.info().computed)
    """
    assert run(folder, source) == "1"


def test_a_result_whose_files_are_too_large_is_returned_and_not_kept(folder: Path) -> None:
    source = """
    f = cached(draw)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert f.submit(9_000_000).result().endswith(".bin")
        f.cache.close()
    print([str(each.message) for each in caught])
    assert not list(f.cache.records())
    """
    assert "can't see" in run(folder, source)


def test_a_worker_with_other_content_refuses(folder: Path) -> None:
    (folder / "input.txt").write_text("of the submitter")
    source = """
    f = cached(read, by_content=["path"])
    try:
        f.submit(HERE / "input.txt").result()
    except CodeMismatch as error:
        print(error)
    assert not list(f.cache.records())
    (HERE / "input.txt").write_text("of the worker")
    assert f.submit(HERE / "input.txt").result() == "of the worker"
    """
    assert "other content" in run(folder, source)
