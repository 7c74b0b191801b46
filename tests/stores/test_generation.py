"""The numbers that all processes share."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import Record
from bencher_job._stores import Entry, dump
from bencher_job._stores.changes import SIZE, ChangeCounter
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import MemoryTier


@contextmanager
def changing(counter: ChangeCounter) -> Iterator[None]:
    """Let another thread change entries as long as the context lasts."""
    begun, end = threading.Event(), threading.Event()

    def change() -> None:
        begun.set()
        assert end.wait(60)

    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(counter.change, change)
        changed.add_done_callback(lambda _: begun.set())
        assert begun.wait(60)
        try:
            yield
        finally:
            end.set()
            changed.result()


def test_two_who_open_a_new_one_at_once_share_it(tmp_path: Path) -> None:
    for turn in range(30):
        both = [ChangeCounter(tmp_path / f"generation-{turn}") for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(ChangeCounter.open, both))
        before = both[0].look()
        with changing(both[1]):
            assert both[0].look() == before + 1
        assert both[0].look() == before + 2
        assert before % 2 == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"generation-{turn}" for turn in range(30)}


@pytest.mark.parametrize("size", [0, 1, SIZE - 1])
def test_one_that_is_cut_off_is_trusted_by_nobody_until_the_next_change(tmp_path: Path, size: int) -> None:
    path = tmp_path / "generation"
    both = [ChangeCounter(path) for _ in range(2)]
    for generation in both:
        generation.open()
    before = [generation.changed_since(None) for generation in both]
    os.truncate(path, size)
    after = [generation.changed_since(mark) for generation, mark in zip(both, before, strict=True)]
    assert None not in after
    assert both[0].changed_since(after[0]) is not None
    both[0].change(lambda: None)
    now = [generation.changed_since(mark) for generation, mark in zip(both, after, strict=True)]
    assert not set(now) & {None, *before, *after}
    assert [generation.changed_since(mark) for generation, mark in zip(both, now, strict=True)] == [
        None,
        None,
    ]
    assert both[1].puts == both[0].puts


def test_another_size_is_another_generation(tmp_path: Path) -> None:
    generation = ChangeCounter(tmp_path / "generation")
    generation.open()
    before = generation.changed_since(None)
    os.truncate(tmp_path / "generation", 100)
    assert generation.changed_since(before) is not None
    generation.change(lambda: None)
    assert generation.look() == 102


def test_one_that_was_removed_is_made_again_by_whoever_changes_entries(tmp_path: Path) -> None:
    generation = ChangeCounter(tmp_path / "generation")
    generation.open()
    before = generation.changed_since(None)
    (tmp_path / "generation").unlink()
    with changing(generation):
        other = ChangeCounter(tmp_path / "generation")
        other.open()
        assert other.look() == generation.look() == SIZE + 1
    assert generation.changed_since(before) is not None


def test_each_commit_makes_a_number_that_never_was(tmp_path: Path) -> None:
    generation = ChangeCounter(tmp_path / "generation")
    generation.open()
    before = generation.changed_since(None)
    seen = set()
    for _ in range(1000):
        generation.committed()
        seen.add(generation.puts)
    assert len(seen) == 1000
    assert generation.changed_since(before) is None


def test_a_commit_waits_for_no_change(tmp_path: Path) -> None:
    """A commit holds the database, and the one who changes waits for it."""
    generation = ChangeCounter(tmp_path / "generation")
    generation.open()
    before = generation.puts
    committing = threading.Thread(target=generation.committed, daemon=True)
    with changing(generation):
        committing.start()
        committing.join(60)
        assert not committing.is_alive()
        assert generation.puts != before


def test_a_closed_one_is_odd_and_takes_no_commit(tmp_path: Path) -> None:
    generation = ChangeCounter(tmp_path / "generation")
    generation.committed()
    assert generation.look() % 2 == 1
    generation.open()
    generation.close()
    assert generation.look() % 2 == 1
    assert generation.puts == 0


def test_a_file_stays_open_for_those_who_still_ask_it_and_no_longer(tmp_path: Path) -> None:
    def is_open() -> bool:
        return any(link.readlink() == path for link in Path("/proc/self/fd").iterdir() if link.is_symlink())

    path = tmp_path / "generation"
    generation = ChangeCounter(path)
    generation.open()
    look = generation.look
    generation.close()
    assert look() == SIZE
    assert is_open()
    del look
    assert not is_open()


def test_when_a_change_has_come_to_its_end_nobody_trusts_what_they_saw_before(tmp_path: Path) -> None:
    tier = MemoryTier(DiskStore(tmp_path / "store", size_limit=10**9))
    tier.put_many([Entry(dump(1), Record(key="key", function="f", created=datetime.now(UTC)))])
    other = ChangeCounter(tmp_path / "store" / "generation")
    for _ in range(200):
        tier.get("key")
        assert tier.cache.find("key", False) is not None
        with changing(other):
            assert tier.cache.find("key", False) is None
            assert time.monotonic() > tier.cache.sure_until
    tier.close()


def test_nobody_waits_for_ever_for_one_who_changes(tmp_path: Path) -> None:
    generation = ChangeCounter(tmp_path / "generation", patience=0.05)
    generation.open()
    descriptor = os.open(tmp_path / "generation", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match="others have been changing"):
        generation.change(lambda: None)
    os.close(descriptor)
    generation.change(lambda: None)


def test_changes_of_threads_follow_each_other(tmp_path: Path) -> None:
    generation = ChangeCounter(tmp_path / "generation")
    inside, most = [], []
    guard = threading.Lock()

    def change() -> None:
        with guard:
            inside.append(1)
            most.append(len(inside))
        with guard:
            inside.pop()

    threads = [threading.Thread(target=generation.change, args=(change,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert generation.look() % 2 == 0


def test_one_that_can_not_be_written_is_read(tmp_path: Path) -> None:
    writer, reader = ChangeCounter(tmp_path / "generation"), ChangeCounter(tmp_path / "generation")
    reader.open(writable=False)
    assert reader.look() % 2 == 1
    writer.open()
    reader.open(writable=False)
    with changing(writer):
        assert reader.look() % 2 == 1
    assert reader.look() == writer.look()


def test_where_it_is_missing_who_only_reads_is_told_that_memory_keeps_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bencher_job")
    ChangeCounter(tmp_path / "generation").open(writable=False)
    assert "nothing is kept in memory" in caplog.text
