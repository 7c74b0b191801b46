"""Folders for their owner only are made although other processes make and remove the same ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bencher_job._folders import make_private

from .test_folders import REMOVE_EMPTY, another_process


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
