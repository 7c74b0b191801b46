"""The numbers that all processes share."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bencher_job._stores import generation as module
from bencher_job._stores.generation import SIZE, Generation


def test_two_who_open_a_new_one_at_once_share_it(tmp_path: Path) -> None:
    for turn in range(30):
        both = [Generation(tmp_path / f"generation-{turn}") for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Generation.open, both))
        before = both[0].number[0]
        with both[1].changing():
            assert both[0].number[0] == before + 1
        assert both[0].number[0] == before + 2
        assert before % 2 == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"generation-{turn}" for turn in range(30)}


def test_a_file_that_was_cut_off_is_replaced_and_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "generation"
    path.write_bytes(b"12345678")
    inode = path.stat().st_ino
    generation = Generation(path)
    generation.open()
    assert path.stat().st_size == SIZE
    assert path.stat().st_ino != inode


def test_each_commit_makes_a_number_that_never_was(tmp_path: Path) -> None:
    generation = Generation(tmp_path / "generation")
    generation.open()
    seen = set()
    for _ in range(1000):
        generation.committed()
        seen.add(generation.number[1])
    assert len(seen) == 1000


def test_a_closed_one_is_odd_and_takes_no_commit(tmp_path: Path) -> None:
    generation = Generation(tmp_path / "generation")
    generation.committed()
    assert generation.number[0] % 2 == 1
    generation.open()
    generation.close()
    assert generation.number[0] % 2 == 1


def test_nobody_waits_for_ever_for_one_who_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    generation = Generation(tmp_path / "generation")
    generation.open()
    descriptor = os.open(tmp_path / "generation", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match="others have been changing"), generation.changing():
        pass
    os.close(descriptor)
    with generation.changing():
        pass


def test_changes_of_threads_follow_each_other(tmp_path: Path) -> None:
    generation = Generation(tmp_path / "generation")
    inside, most = [], []
    guard = threading.Lock()

    def change() -> None:
        with generation.changing():
            with guard:
                inside.append(1)
                most.append(len(inside))
            with guard:
                inside.pop()

    threads = [threading.Thread(target=change) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert generation.number[0] % 2 == 0


def test_one_that_can_not_be_written_is_read(tmp_path: Path) -> None:
    writer, reader = Generation(tmp_path / "generation"), Generation(tmp_path / "generation")
    reader.open(writable=False)
    assert reader.number[0] % 2 == 1
    writer.open()
    reader.open(writable=False)
    with writer.changing():
        assert reader.number[0] % 2 == 1
    assert reader.number[0] == writer.number[0]
