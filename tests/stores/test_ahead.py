"""What is read ahead, or in bulk, is what a lookup of each entry would find, and takes fewer queries."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bencher_job import CacheWarning, Record
from bencher_job._stores import MISS, Entry, dump
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import FEWEST, MOST, OVERHEAD, MemoryTier

FAR = datetime(2100, 1, 1, tzinfo=UTC).timestamp()


def entry(key: str, value: object, function: str = "f", **given: Any) -> Entry:
    record = Record(key=key, function=function, seconds=0.5, created=datetime.now(UTC))
    return Entry(dump(value), record)._replace(**given)


def key(number: int) -> str:
    return f"{number:064x}"


def fill(store: MemoryTier, numbers: range, **given: Any) -> None:
    store.put_many([entry(key(number), {"number": number}, **given) for number in numbers])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryTier]:
    store = MemoryTier(DiskStore(tmp_path / "store", size_limit=10**9))
    yield store
    store.close()


@pytest.fixture
def other(store: MemoryTier) -> Iterator[DiskStore]:
    """The same store, as another process has it."""
    other = DiskStore(store.directory, size_limit=10**9)
    yield other
    other.close()


@pytest.fixture
def statements(store: MemoryTier) -> list[str]:
    """What the database is asked from now on."""
    seen: list[str] = []
    store.behind.open()._con.set_trace_callback(seen.append)
    return seen


def test_entries_that_are_asked_for_in_order_take_few_queries(
    store: MemoryTier, statements: list[str]
) -> None:
    fill(store, range(1000))
    statements.clear()
    assert [store.get(key(number)).load() for number in range(1000)] == [
        {"number": number} for number in range(1000)
    ]
    assert len(statements) < 30


def test_entries_that_are_asked_for_in_no_order_take_a_query_each(
    store: MemoryTier, statements: list[str]
) -> None:
    fill(store, range(3000))
    numbers = random.Random(1).sample(range(3000), 300)
    statements.clear()
    assert [store.get(key(number)).load() for number in numbers] == [{"number": number} for number in numbers]
    assert len(statements) < 310


def test_the_order_may_have_gaps_and_entries_of_others(store: MemoryTier, statements: list[str]) -> None:
    for number in range(0, 1000, 4):
        fill(store, range(number, number + 1))
        fill(store, range(number + 10_000, number + 10_003), function="g")
    statements.clear()
    assert [store.get(key(number)).load() for number in range(0, 1000, 4)] == [
        {"number": number} for number in range(0, 1000, 4)
    ]
    assert len(statements) < 40


def test_what_is_large_is_not_read_ahead_and_does_not_end_it(
    store: MemoryTier, statements: list[str]
) -> None:
    values: list[Any] = [
        bytes(8_000) if number % 50 == 20 else bytes(100_000) if number % 50 == 30 else number
        for number in range(500)
    ]
    store.put_many([entry(key(number), value) for number, value in enumerate(values)])
    statements.clear()
    assert [store.get(key(number)).load() for number in range(500)] == values
    assert len(statements) < 60


def test_what_is_held_is_bounded(store: MemoryTier) -> None:
    fill(store, range(2000))
    most = 0
    for number in range(1000):
        store.get(key(number))
        most = max(most, len(store._ahead._held[1]))
    assert FEWEST < most <= MOST


@pytest.mark.parametrize("change", ["forget", "clear", "replace"])
def test_what_is_changed_after_it_was_read_ahead_is_noticed(
    store: MemoryTier, other: DiskStore, change: str
) -> None:
    fill(store, range(100))
    for number in range(3):
        store.get(key(number))
    assert key(5) in store._ahead._held[1]
    if change == "forget":
        other.forget(key(5))
    elif change == "clear":
        other.clear()
    else:
        other.put_many([entry(key(5), "new")])
    found = store.get(key(5))
    assert found.load() == "new" if change == "replace" else found is MISS


def test_what_expires_after_it_was_read_ahead_is_a_miss(store: MemoryTier) -> None:
    expires = time.time() + 0.3
    fill(store, range(5))
    fill(store, range(5, 10), expires=expires)
    for number in range(3):
        store.get(key(number))
    assert key(5) in store._ahead._held[1]
    assert store.get(key(5)).load() == {"number": 5}
    while time.time() <= expires:
        time.sleep(0.01)
    assert store.get(key(6)) is MISS


def test_what_is_damaged_is_told_of_when_it_is_asked_for(store: MemoryTier) -> None:
    fill(store, range(100))
    with closing(sqlite3.connect(store.directory / "cache.db")) as database:
        (value,) = database.execute("SELECT value FROM Cache WHERE key = ?", (key(6),)).fetchone()
        database.execute(
            "UPDATE Cache SET value = ? WHERE key = ?", (value[:-1] + bytes([value[-1] ^ 1]), key(6))
        )
        database.commit()
    for number in range(6):
        assert store.get(key(number)).load() == {"number": number}
    with pytest.warns(CacheWarning, match="don't match its digest"):
        assert store.get(key(6)) is MISS
    assert store.tally.damaged == 1
    assert store.get(key(7)).load() == {"number": 7}


def test_a_hit_of_what_was_read_ahead_counts_once_and_as_used(store: MemoryTier, other: DiskStore) -> None:
    fill(store, range(100))
    begun = time.time()
    for _ in range(2):
        for number in range(50):
            store.get(key(number))
    assert store.totals().hits == 100
    assert store.totals().seconds_saved == 50.0
    rows = other.open().execute("SELECT key, access_count, access_time FROM Cache ORDER BY rowid").fetchall()
    assert [count for _, count, _ in rows] == [2] * 50 + [0] * 50
    assert all(used >= begun - 0.01 for _, _, used in rows[:50])


def test_threads_may_read_ahead_together(store: MemoryTier) -> None:
    fill(store, range(400))
    barrier = threading.Barrier(4)

    def read(first: int) -> bool:
        barrier.wait()
        numbers = [*range(first, 400), *range(first)]
        return all(store.get(key(number)).load() == {"number": number} for number in numbers)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, (0, 0, 100, 200)))


def mixed(store: MemoryTier) -> list[str]:
    """Fill a store with entries of all kinds, and give their keys and those of some that aren't there."""
    odd = ["", "it's", '"', "\\", "ä €", "🚀", "%", "a" * 300]
    store.put_many([entry(name, name) for name in odd])
    fill(store, range(1200))
    fill(store, range(1200, 1300), expires=1.0)
    store.put_many([entry(key(number), np.full(10_000, number)) for number in range(2000, 2004)])
    store.put_many([entry(key(number), bytes(50_000), compression="zstd") for number in range(2010, 2012)])
    return [*odd, *map(key, range(3000))]


def values(found: dict[str, Any]) -> dict[str, str]:
    return {name: repr(hit.load()) for name, hit in found.items()}


def test_a_lookup_in_bulk_finds_what_lookups_one_by_one_find(
    store: MemoryTier, other: DiskStore, statements: list[str]
) -> None:
    keys = mixed(store)
    one_by_one = {name: hit for name in keys if (hit := other.get(name)) is not MISS}
    assert len(one_by_one) == 8 + 1200 + 4 + 2
    statements.clear()
    most = store.get_many(keys)
    assert not any(" IN (" in statement for statement in statements), "all rows are passed over"
    store.shelf.begin(store.shelf.read)
    statements.clear()
    few: dict[str, Any] = {}
    for start in range(0, len(keys), 300):
        few.update(store.get_many(keys[start : start + 300]))
    assert all("ORDER BY" not in statement for statement in statements), "the rows of keys are picked"
    assert values(most) == values(few) == values(one_by_one)
    assert store.totals().hits == 2 * len(one_by_one)


@pytest.mark.parametrize("number", [300, 1400])
def test_what_is_damaged_is_left_out_of_a_bulk_and_told_of(store: MemoryTier, number: int) -> None:
    keys = mixed(store)[:number]
    with closing(sqlite3.connect(store.directory / "cache.db")) as database:
        database.execute("UPDATE Cache SET value = x'00112233' WHERE key = ?", (key(6),))
        database.commit()
    with pytest.warns(CacheWarning, match="ends after 4 bytes"):
        found = store.get_many(keys)
    assert key(6) not in found
    assert key(7) in found


def test_what_is_found_in_bulk_is_a_mapping(store: MemoryTier) -> None:
    """It tells of small and of large entries alike, whether they were read or in memory."""
    store.put_many([entry("small", 1), entry("later", 2, expires=FAR), entry("array", np.arange(100_000))])
    for _ in range(2):
        found = store.get_many(["array", "small", "absent", "later"])
        assert len(found) == 3
        assert sorted(found) == ["array", "later", "small"]
        assert (found["small"].load(), found["later"].load(), found["array"].load().sum()) == (
            1,
            2,
            4999950000,
        )
        assert (found["small"].expires, found["later"].expires) == (None, FAR)
        assert found.seconds() == {key: hit.seconds for key, hit in found.items()}
        assert "absent" not in found
        with pytest.raises(KeyError):
            found["absent"]


def test_large_rows_are_not_passed_over_for_others(store: MemoryTier, statements: list[str]) -> None:
    store.put_many([entry(key(number), bytes(20_000)) for number in range(1500)])
    statements.clear()
    assert len(store.get_many(map(key, range(1500)))) == 1500
    assert any(" IN (" in statement for statement in statements)


def test_what_was_read_in_bulk_is_in_memory(store: MemoryTier, statements: list[str]) -> None:
    fill(store, range(500))
    store.get_many(map(key, range(500)))
    statements.clear()
    again = store.get_many(map(key, range(500)))
    assert [again[key(number)].load()["number"] for number in range(500)] == list(range(500))
    assert [store.get(key(number)).load()["number"] for number in range(500)] == list(range(500))
    assert statements == []
    assert store.totals().hits == 1500


@pytest.mark.parametrize("in_bulk", [True, False])
def test_memory_holds_a_bounded_number_of_bytes(tmp_path: Path, in_bulk: bool) -> None:
    limit = 100 * (1000 + OVERHEAD)
    store = MemoryTier(DiskStore(tmp_path / "store", size_limit=10**9), limit)
    store.put_many([entry(key(number), bytes(1000)) for number in range(300)])
    if in_bulk:
        store.get_many(map(key, range(300)))
    for _ in range(2):
        for number in range(300):
            assert store.get(key(number)).load() == bytes(1000)
            assert store.at_hand(key(number)) is not None
            held = store.shelf._kept.keys() | store.shelf._unasked.keys()
            assert 90 <= len(held) <= 100 or number < 100
    store.close()
