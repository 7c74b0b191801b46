"""Folders are made although other processes make and remove the same ones all the time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import FutureCache, Job, Record, gen_path
from bencher_job._folders import make_private
from bencher_job._stores import Entry, Hit, dump
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore
from tests.environment import unmeasured

LARGE = "x" * IN_ROW_BELOW


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


def test_folders_that_another_process_removes_are_made_again(tmp_path: Path) -> None:
    with another_process(REMOVE_EMPTY, tmp_path):
        for number in range(2000):
            make_private(tmp_path / "a" / "b" / str(number % 3) / "c")


def test_two_processes_may_make_one_folder(tmp_path: Path) -> None:
    script = """
        from bencher_job._folders import make_private
        print("begun", flush=True)
        while True:
            make_private(sys.argv[1])
            try:
                os.removedirs(sys.argv[1])
            except OSError:
                pass
    """
    (tmp_path / "kept").touch()
    with another_process(script, tmp_path / "a" / "b"):
        for _ in range(2000):
            make_private(tmp_path / "a" / "b")


def test_a_file_in_the_place_of_a_folder_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_private(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_private(tmp_path / "file" / "a" / "b")


def test_all_that_are_new_are_for_the_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert make_private(tmp_path / "a" / "b")
        assert not make_private(tmp_path / "a")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")] == [0o700, 0o700]


def test_no_put_is_lost_beside_another_process_that_clears(tmp_path: Path) -> None:
    """Whose removals take the folders of value files along, when these are empty."""
    script = """
        from contextlib import closing
        from pathlib import Path
        from bencher_job._record import Selection
        from bencher_job._stores.embedded import DiskStore
        with closing(DiskStore(Path(sys.argv[1]), size_limit=10**9)) as store:
            print("begun", flush=True)
            while True:
                store.clear(Selection(function="other"))
    """
    directory = tmp_path / "cachedir" / "fcache"
    with (
        closing(DiskStore(directory, size_limit=10**9)) as store,
        another_process(script, directory),
        another_process(REMOVE_EMPTY, directory),
    ):
        for number in range(200):
            key = f"key-{number}"
            record = Record(key=key, function="f" if number % 2 else "other", created=datetime.now(UTC))
            store.put_many([Entry(dump(LARGE + key), record)])
        for number in range(1, 200, 2):
            hit = store.get(f"key-{number}")
            assert isinstance(hit, Hit)
            assert hit.load() == f"{LARGE}key-{number}"


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
