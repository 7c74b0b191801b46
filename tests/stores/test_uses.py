"""What is used is kept, what is not goes first, and the figures of all processes add up."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bencher_job import Record, _media
from bencher_job._options import Limits
from bencher_job._stores import (
    Entry,
    Hit,
    Hits,
    count_expired,
    dump,
    excess,
    open_store,
    removals,
    remove_expired,
    shrink,
)
from bencher_job._stores import embedded as commits
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import OVERHEAD, MemoryTier
from bencher_job._stores.removals import WHEN_ASKED
from bencher_job._stores.schema import ENTRY_OVERHEAD
from tests.dict_store import DictStore

SCRIPT = """
    import sys, time
    from datetime import UTC, datetime
    from pathlib import Path
    from bencher_job import Record
    from bencher_job._stores import Entry, dump, open_store
    store = open_store(Path(sys.argv[1]), size_limit=10**9)
"""


def entry(key: str, value: object, seconds: float = 0.5, **given: object) -> Entry:
    record = Record(key=key, function="f", seconds=seconds, created=datetime.now(UTC))
    return Entry(dump(value), record)._replace(**given)


def run(store: MemoryTier, script: str) -> subprocess.Popen[str]:
    program = textwrap.dedent(SCRIPT) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", program, store.directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryTier]:
    store = MemoryTier(DiskStore(tmp_path / "store", size_limit=1_000_000))
    yield store
    store.close()


def test_the_least_recently_used_goes_first(store: MemoryTier) -> None:
    for number in range(8):
        store.put_many([entry(f"key-{number}", bytes(100_000))])
    for key in ("key-0", "key-2"):
        assert store.get(key)
    for number in range(8, 13):
        store.put_many([entry(f"key-{number}", bytes(100_000))])
    kept = {number for number in range(13) if store.has(f"key-{number}")}
    assert {0, 2, 12} <= kept
    assert not {1, 3} & kept
    assert store.tally.evicted == 13 - len(kept)


def test_what_goes_on_request_is_counted_and_what_was_used_stays(store: MemoryTier) -> None:
    store.put_many([entry("used", 1), entry("old", 2), entry("older", 3, expires=time.time() + 60)])
    with closing(sqlite3.connect(store.directory / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET access_time = 1.0")
        database.execute("UPDATE Cache SET expire_time = 2.0 WHERE key = 'older'")
    assert store.get("used")
    assert (count_expired(store), remove_expired(store), count_expired(store)) == (1, 1, 0)
    limits = Limits(entries=1)
    assert excess(store, limits)[0] == 1
    assert (shrink(store, limits), shrink(store, limits)) == (1, 0)
    assert list(store) == ["used"]


def test_a_small_entry_that_is_hit_in_memory_counts_as_used(store: MemoryTier) -> None:
    store.put_many([entry("small", 1)])
    for number in range(30):
        assert store.get("small")
        store.put_many([entry(f"key-{number}", bytes(100_000))])
    assert store.tally.evicted > 0
    assert store.get("small").load() == 1


def test_hits_in_memory_write_nothing_until_the_store_is_asked(
    store: MemoryTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals, "WHEN_ASKED", 0)
    store.put_many([entry("small", 1)])
    with closing(sqlite3.connect(store.directory / "cache.db")) as other:
        before = other.execute("PRAGMA data_version").fetchone()
        for _ in range(100):
            assert store.get_many(["small"])
        assert other.execute("PRAGMA data_version").fetchone() == before
    assert store.figures().total.hits == 100


def test_a_hit_of_another_process_counts_as_used(store: MemoryTier) -> None:
    store.put_many([entry("small", 1), entry("unused", 1)])
    script = """
        for line in sys.stdin:
            print(store.get("small").load(), flush=True)
    """
    with run(store, script) as user:
        for number in range(30):
            user.stdin.write("\n")
            user.stdin.flush()
            assert user.stdout.readline() == "1\n"
            time.sleep(2 * WHEN_ASKED)  # within which uses are written once
            store.put_many([entry(f"key-{number}", bytes(100_000))])
        user.stdin.close()
    assert store.tally.evicted > 0
    assert store.has("small")
    assert not store.has("unused")


def test_size_counts_media_and_what_an_entry_takes_in_the_database(store: MemoryTier) -> None:
    run = Path(_media.run_folder(store.directory, "film"))
    run.mkdir(parents=True)
    (run / "film").write_bytes(bytes(200_000))
    film = entry("film", 1)
    store.put_many([film._replace(record=replace(film.record, media=run.name))])
    assert 200_000 + ENTRY_OVERHEAD < store.figures().size < 201_000
    store.put_many([entry("film", 2)])
    assert ENTRY_OVERHEAD < store.figures().size < 1_000
    assert not run.exists()
    store.remove(["film"])
    assert (store.figures().size, len(store)) == (0, 0)


def numbered(key: int, length: int) -> Entry:
    """Make an entry whose function and tag differ with its number and length."""
    made = entry(f"key-{key}", bytes(100 * length))
    return made._replace(
        record=replace(made.record, function=f"f{key % 3}", tag="long" if length > 2 else "")
    )


CHANGES = st.one_of(
    st.tuples(st.sampled_from(["put", "use"]), st.lists(st.integers(0, 9), max_size=4, unique=True)),
    st.tuples(st.sampled_from(["forget", "evict"]), st.just([])),
    st.tuples(st.just("forget"), st.lists(st.integers(0, 9), min_size=1, max_size=1)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, max_size=12), at_once=st.integers(1, 6))
def test_figures_are_right_whatever_was_put_replaced_and_removed(
    store: MemoryTier, monkeypatch: pytest.MonkeyPatch, changes: list[tuple[str, list[int]]], at_once: int
) -> None:
    """Whether entries are counted already or not: they are only now and then, when they are put."""
    monkeypatch.setattr(commits, "UNCOUNTED", at_once)
    store.clear()
    for what, keys in changes:
        if what == "put":
            store.put_many([numbered(key, len(keys)) for key in keys])
        elif what == "use":
            store.behind.get_many(f"key-{key}" for key in keys)
        elif what == "evict":
            store.behind.removals.keep_within(max(1, store.figures().size - 300))
        elif keys:
            store.remove([f"key-{keys[0]}"])
        else:
            for record in list(store.records())[-1:]:  # whose row number is given again
                store.remove([record.key])
        sizes = [record.size for record in store.records()]
        assert (len(store), store.figures().size) == (len(sizes), sum(sizes) + ENTRY_OVERHEAD * len(sizes))
        functions = {function.name: function for function in store.functions()}
        infos = store.history.infos([record.key for record in store.records()])
        assert sorted(functions) == sorted({info.record.function for info in infos})
        for name, function in functions.items():
            of_function = [info for info in infos if info.record.function == name]
            assert function.entries == len(of_function)
            assert function.size == sum(info.record.size for info in of_function)
            assert function.hits == sum(info.hits for info in of_function)
            assert function.seconds_saved == 0.5 * function.hits
            assert function.seconds == 0.5 * function.entries
            assert set(function.tags) == {info.record.tag for info in of_function} - {""}
            assert function.last_used.timestamp() > max(info.used for info in of_function) - 0.001


def test_totals_survive_the_process_and_add_up(store: MemoryTier) -> None:
    store.put_many([entry("key", 1, seconds=2.0), entry("copy", 1, is_copy=True)])
    script = """
        for _ in range(1000):
            store.get("key")
        store.get_many(["key", "absent"])
        store.get("absent")
    """
    with run(store, script) as process:
        assert process.wait(60) == 0
    for _ in range(10):
        store.get("key")
    assert store.figures().total == (1011, 1, 2022.0)
    store.close()
    assert store.figures().total == (1011, 1, 2022.0)


def test_a_lookup_of_durations_uses_nothing(store: MemoryTier) -> None:
    store.put_many([entry(f"key-{number}", 1, seconds=number) for number in range(600)])
    found = store.durations([*(f"key-{number}" for number in range(600)), "absent"])
    assert found == {f"key-{number}": number for number in range(600)}
    assert store.figures().total.hits == 0


def test_so_many_uses_in_bulk_are_written_at_once(store: MemoryTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is noted of lookups in bulk takes bounded memory."""
    monkeypatch.setattr(removals, "LARGEST_BATCH", 4)
    store.put_many([entry(f"key-{number}", 1) for number in range(4)])
    for keys, written in ((["key-0"], 0), (["key-1", "key-2", "key-3"], 4), (["key-0"], 4)):
        store.behind.get_many(keys)
        counted = store.behind.files.query("SELECT sum(access_count) FROM Cache")
        assert counted == [(written,)]


def test_uses_wait_for_nobody(store: MemoryTier) -> None:
    """While another process writes, a hit is a hit at once, and its use is written later."""
    store.put_many([entry("key", 1)])
    script = """
        store.behind.open().execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        sys.stdin.readline()
    """
    with run(store, script) as writer:
        assert writer.stdout.readline() == "locked\n"
        store.get("key")
        began = time.monotonic()
        store.behind.uses.write_at_once()
        assert time.monotonic() - began < 30  # who waits does so for a minute
        writer.stdin.close()
    assert store.figures().total.hits == 1


def test_a_forked_child_leaves_the_parents_uses_to_it(store: MemoryTier) -> None:
    store.put_many([entry("key", 1)])
    for _ in range(5):
        store.get("key")
    pid = os.fork()
    if pid == 0:
        store.get("key")
        store.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.figures().total.hits == 6


def test_memory_stays_within_its_limit_and_keeps_what_is_used(tmp_path: Path) -> None:
    store = MemoryTier(DiskStore(tmp_path / "store", size_limit=10**9), limit=20_000)
    store.put_many([entry(f"key-{number}", number) for number in range(100)])
    for number in range(100):
        store.get("key-0")
        store.get(f"key-{number}")
    assert store.cache._bytes <= 20_000
    assert len(store.cache.entries) < 60
    assert "key-0" in store.cache.entries
    store.behind.close()


@pytest.mark.parametrize("has_folder", [False, True])
def test_lookups_at_once_take_the_memory_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_folder: bool
) -> None:
    keys = [f"key-{number}" for number in range(10)]
    behind = DiskStore(tmp_path / "store", size_limit=10**9) if has_folder else DictStore()
    behind.put_many([entry(key, 0) for key in keys])
    store = MemoryTier(behind, limit=len(keys) * (len(dump(0).stream) + OVERHEAD))
    look = behind.get_many

    def look_beside_another(*given: object, **options: object) -> Hits:
        monkeypatch.setattr(behind, "get_many", look)
        store.get_many(keys)
        return look(*given, **options)

    monkeypatch.setattr(behind, "get_many", look_beside_another)
    assert store.get_many(keys).keys() == set(keys)
    monkeypatch.setattr(behind, "get", None)  # which nobody has to ask
    assert [store.get(key).load() for key in keys] == [0] * len(keys)
    store.close()


def test_open_store_takes_the_largest_limit(tmp_path: Path) -> None:
    for size_limit in (10, 1000, 100):
        store = open_store(tmp_path / "store", size_limit=size_limit)
    assert store.behind.size_limit == 1000
    store.close()
    assert store.put_many([entry("key", 1)]) == {}
    assert isinstance(store.get("key"), Hit)
    store.close()
