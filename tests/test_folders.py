"""Folders are made although other processes make and remove the same ones all the time."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bencher_job import FutureCache, Job, JobFunctionCache, gen_path
from tests.environment import unmeasured

LARGE = "x" * 100_000


@contextmanager
def another_process(script: str, *arguments: object) -> Iterator[None]:
    """Run a loop in another process, from its first turn on until the end of the context."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import os, sys\n" + textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**unmeasured(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


REMOVE_EMPTY = """
    begun = False
    while True:
        for path, folders, _ in os.walk(sys.argv[1], topdown=False):
            for name in folders:
                try:
                    os.rmdir(os.path.join(path, name))
                except OSError:
                    pass
        if not begun:
            print("begun", flush=True)
            begun = True
"""


def kept(number: int) -> str:
    return f"{LARGE}{number}"


def other(number: int) -> str:
    return f"{LARGE}{number}"


@pytest.mark.given_folders
def test_no_put_is_lost_beside_another_process_that_clears(tmp_path: Path) -> None:
    """Whose removals take the folders of value files along, when these are empty."""
    script = """
        from bencher_job import JobFunctionCache
        from tests.test_folders import other
        cache = JobFunctionCache(other, cache_dir=sys.argv[1])
        print("begun", flush=True)
        while True:
            cache.clear_cache()
    """
    directory = tmp_path / "cachedir"
    with (
        FutureCache(cache_dir=directory, overwrite=False) as cache,
        JobFunctionCache(other, cache_dir=directory) as others,
    ):
        others.call(number=-1).result()
        with another_process(script, directory), another_process(REMOVE_EMPTY, directory / "fcache"):
            for number in range(100):
                cache.submit(Job("kept", kept, {"number": number}, job_key=f"key-{number}")).result()
                others.call(number=number).result()
        for number in range(100):
            future = cache.submit(Job("kept", kept, {"number": number}, job_key=f"key-{number}"))
            assert (future.cached, future.result()) == (True, f"{LARGE}{number}")


def test_a_job_gets_a_folder_for_its_files_beside_a_process_that_removes_empty_ones(
    cache_folder: Path,
) -> None:
    def write(number: int) -> str:
        path = gen_path(f"file{number}", "some/folder")
        while True:
            try:
                Path(path).write_text(str(number))
            except FileNotFoundError:  # the folder was empty until now, so it may be gone
                path = gen_path(f"file{number}", "some/folder")
            else:
                return path

    with another_process(REMOVE_EMPTY, cache_folder), FutureCache() as cache:
        for number in range(300):
            job = Job(f"write {number}", write, {"number": number}, job_key=f"write-{number}")
            assert Path(cache.submit(job).result()).read_text() == str(number)
