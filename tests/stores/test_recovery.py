"""A database that is damaged behind its first page is set aside once, and what can be read of it is kept."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import CacheWarning, FutureCache, Job, Record
from bencher_job._stores import MISS, Entry, Hit, dump, replace_database
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.leases import Lease
from bencher_job._stores.recovery import _readable
from tests.environment import unmeasured
from tests.leasing import acquired

PAGE = 4096
LARGE = "x" * IN_ROW_BELOW
KEYS = [f"key-{number}" for number in range(400)]


def value_for(key: str) -> str:
    """Give a value of which one of a row alone, and one of a file, are many."""
    return key + (LARGE if key.endswith("7") else key * 20)


def entry(key: str) -> Entry:
    record = Record(key=key, function="tests.job", arguments={"x": key}, created=datetime.now(UTC))
    return Entry(dump(value_for(key)), record)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    """A closed store with entries, all of which lie in the database's own file."""
    store = DiskStore(tmp_path / "cachedir" / "fcache", size_limit=10**9)
    for start in range(0, len(KEYS), 50):
        store.put_many([entry(key) for key in KEYS[start : start + 50]])
    store.files.query("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    yield store
    store.close()


def leaves(directory: Path) -> list[int]:
    """Give the pages that hold rows of the table of entries."""
    with closing(sqlite3.connect(directory / "cache.db")) as database:
        try:
            found = database.execute(
                "SELECT pageno FROM dbstat WHERE name = 'Cache' AND pagetype = 'leaf' ORDER BY pageno"
            )
            return [page for (page,) in found]
        except sqlite3.OperationalError:
            pytest.skip("this SQLite doesn't say which pages are a table's")


def destroy(directory: Path, *pages: int) -> None:
    with open(directory / "cache.db", "r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(b"\xff" * PAGE)


def looked_up(store: DiskStore) -> dict[str, str]:
    """Look all keys up; what is found is right."""
    found = {}
    for key in KEYS:
        hit = store.get(key)
        if hit is not MISS:
            assert isinstance(hit, Hit)
            found[key] = hit.load()
            assert found[key] == value_for(key)
    return found


def set_aside(directory: Path) -> list[Path]:
    return list(directory.glob("damaged/*/cache.db"))


@pytest.mark.parametrize("which", [0, 5, -1])
def test_all_rows_but_those_of_a_lost_page_are_kept(store: DiskStore, which: int) -> None:
    pages = leaves(store.directory)
    destroy(store.directory, pages[which])
    with pytest.warns(
        CacheWarning, match="is damaged .* set aside in .* can still be read were kept"
    ) as told:
        found = looked_up(store)
    assert len(told) == 1
    assert len(KEYS) - 2 * len(KEYS) / len(pages) < len(found) < len(KEYS)
    assert len(set_aside(store.directory)) == 1
    assert store.tally.damaged == 1
    assert (len(store), len(list(store.records()))) == (len(found), len(found))
    store.put_many([entry(key) for key in KEYS])
    store.close()
    assert len(looked_up(store)) == len(KEYS)


def test_rows_between_two_lost_pages_are_kept(store: DiskStore) -> None:
    pages = leaves(store.directory)
    destroy(store.directory, pages[3], pages[-4])
    with pytest.warns(CacheWarning, match="is damaged"):
        found = looked_up(store)
    assert len(found) > len(KEYS) * (1 - 4 / len(pages))


def test_where_nothing_can_be_read_few_attempts_are_made(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They follow what is there, not the largest number that a row may have."""

    class Counting(sqlite3.Connection):
        attempts = 0

        def execute(self, *given: object) -> sqlite3.Cursor:
            Counting.attempts += 1
            return super().execute(*given)  # type: ignore[arg-type]

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *given, **options: connect(*given, **options, factory=Counting)
    )
    whole = (store.directory / "cache.db").stat().st_size // PAGE
    destroy(store.directory, *range(1, whole + 1))
    with pytest.warns(CacheWarning, match="0 entries that can still be read were kept"):
        assert len(store) == 0
    assert Counting.attempts < 10_000
    store.put_many([entry("key-0")])
    assert store.get("key-0")


@pytest.mark.parametrize("use", ["get", "get_many", "put_many", "clear", "forget"])
def test_whatever_first_meets_the_damage_mends_it(store: DiskStore, use: str) -> None:
    destroy(store.directory, *leaves(store.directory)[::3])
    uses = {
        "get": lambda: [store.get(key) for key in KEYS],
        "get_many": lambda: store.get_many(KEYS),
        "put_many": lambda: store.put_many([entry(key) for key in KEYS]),
        "clear": store.clear,
        "forget": lambda: [store.remove([key]) for key in KEYS],
    }
    with pytest.warns(CacheWarning, match="is damaged") as told:
        uses[use]()
    assert len(told) == 1
    store.put_many([entry("key-1")])
    assert store.get("key-1")
    assert len(set_aside(store.directory)) == 1


@pytest.mark.parametrize("seed", range(8))
def test_random_damage_is_never_a_wrong_value_nor_an_error_and_heals(store: DiskStore, seed: int) -> None:
    chance = random.Random(seed)
    size = (store.directory / "cache.db").stat().st_size
    with open(store.directory / "cache.db", "r+b") as file:
        for _ in range(chance.choice([1, 10, 200])):
            file.seek(chance.randrange(PAGE, size))
            file.write(chance.randbytes(chance.choice([1, 16, 600])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        looked_up(store)
        store.put_many([entry(key) for key in KEYS])
        store.close()
        found = looked_up(store)
        store.put_many([entry(key) for key in KEYS if key not in found])
    store.close()
    assert looked_up(store).keys() == set(KEYS)
    assert len(set_aside(store.directory)) <= 2


def test_damage_that_sqlite_can_not_name_in_utf_8_is_mended(store: DiskStore) -> None:
    path = store.directory / "cache.db"
    path.write_bytes(path.read_bytes().replace(b"ON Cache (expire_time)", b"ON Cac\x98e (expire_time)"))
    with pytest.warns(CacheWarning, match="is damaged"):
        store.put_many([entry("key-1")])
    assert store.get("key-1")
    assert len(set_aside(store.directory)) == 1


def test_several_processes_that_find_the_damage_at_once_replace_it_once(store: DiskStore) -> None:
    destroy(store.directory, *leaves(store.directory)[::2])
    script = f"""
        import sys, warnings
        from pathlib import Path
        from bencher_job._stores.embedded import DiskStore
        warnings.simplefilter("ignore")
        store = DiskStore(Path({str(store.directory)!r}), size_limit=10**9)
        store.open()
        print("ready", flush=True)
        sys.stdin.readline()
        keys = [f"key-{{number}}" for number in range({len(KEYS)})]
        print(len(store.get_many(keys)), flush=True)
    """
    together = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**unmeasured(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        for _ in range(3)
    ]
    for each in together:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in together:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    found = [int(each.communicate(timeout=60)[0]) for each in together]
    assert found[0] > 0
    assert found == [found[0]] * 3
    assert len(set_aside(store.directory)) == 1


def test_several_threads_that_find_the_damage_at_once_replace_it_once(store: DiskStore) -> None:
    destroy(store.directory, *leaves(store.directory)[::2])
    store.open()
    begin = threading.Barrier(4)
    found: list[int] = []

    def look() -> None:
        begin.wait()
        found.append(len(store.get_many(KEYS)))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found[0] > 0
    assert found == [found[0]] * 4
    assert len(told) == 1
    assert len(set_aside(store.directory)) == 1


def test_a_kill_while_the_new_database_is_made_loses_nothing_more(store: DiskStore) -> None:
    destroy(store.directory, leaves(store.directory)[2])
    script = f"""
        import os, signal
        from pathlib import Path
        from bencher_job._stores import recovery
        from bencher_job._stores.embedded import DiskStore
        recovery._save_totals = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        DiskStore(Path({str(store.directory)!r}), size_limit=10**9).get_many(["key-0", "key-399", "key-20"])
        DiskStore(Path({str(store.directory)!r}), size_limit=10**9).clear()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=False,
        env={**unmeasured(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert ended.returncode < 0
    with pytest.warns(CacheWarning, match="is damaged"):
        assert len(looked_up(store)) > len(KEYS) * 0.8


def test_a_database_that_is_whole_is_not_replaced(store: DiskStore) -> None:
    assert not replace_database(store, "a single statement failed")
    assert (len(looked_up(store)), set_aside(store.directory), store.tally.damaged) == (len(KEYS), [], 0)


def test_a_lease_outlives_the_replacement_of_the_database(store: DiskStore) -> None:
    lease = Lease("leased")
    assert acquired(store, lease)
    destroy(store.directory, *leaves(store.directory)[::3])
    with pytest.warns(CacheWarning, match="is damaged"):
        looked_up(store)
    with closing(DiskStore(store.directory, size_limit=10**9)) as other:
        assert not acquired(other, Lease("leased"))
    assert store.put_many([entry("leased")._replace(lease=lease)]) == {}


def test_jobs_whose_rows_are_lost_run_once_more_and_then_none_does(cache_folder: Path) -> None:
    def run() -> int:
        with FutureCache(overwrite=False) as cache:
            futures = [cache.submit(Job(key, value_for, {"key": key}, job_key=key)) for key in KEYS]
            assert [future.result() for future in futures] == [value_for(key) for key in KEYS]
            return cache.worker_fn_call_count

    assert run() == len(KEYS)
    directory = cache_folder / "fcache"
    with closing(sqlite3.connect(directory / "cache.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = leaves(directory)
    destroy(directory, *pages[::4])
    with pytest.warns(CacheWarning, match="is damaged") as told:
        again = run()
    assert len(told) == 1
    assert 0 < again < len(KEYS) / 2
    assert run() == 0


@pytest.mark.parametrize("is_open", [False, True])
def test_a_database_that_was_emptied_is_told_once(store: DiskStore, is_open: bool) -> None:
    if is_open:
        store.open()
    os.truncate(store.directory / "cache.db", 0)
    with pytest.warns(CacheWarning, match="emptied|damaged") as told:
        found = looked_up(store)
    assert found == {}
    store.put_many([entry("key-1")])
    assert len(told) == 1
    assert store.tally.damaged == 1
    store.close()
    assert looked_up(store).keys() == {"key-1"}


def test_a_new_database_is_not_taken_for_an_emptied_one(tmp_path: Path) -> None:
    with closing(DiskStore(tmp_path / "fcache", size_limit=10**9)) as store:
        store.put_many([entry("key-1")])
        (store.directory / "cache.db").unlink()
        store.put_many([entry("key-2")])
        assert store.get("key-2")


@pytest.mark.parametrize(
    "part", ["TABLE Cache", "TABLE Counted", "TABLE Totals", "VIEW Figures", "TABLE Failed"]
)
def test_a_database_that_lacks_a_table_is_mended_by_whoever_opens_it(store: DiskStore, part: str) -> None:
    with closing(sqlite3.connect(store.folder / "cache.db")) as database:
        database.execute(f"DROP {part}")
    with pytest.warns(CacheWarning, match="no such table"):
        figures = store.figures()
    assert figures.entries == (0 if part == "TABLE Cache" else len(KEYS))
    assert sum(function.entries for function in store.functions()) == figures.entries


def test_rows_between_damaged_places_that_are_far_apart_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    numbers = [block * 10**6 + number for block in range(3) for number in range(1000)]
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE Rows (number INTEGER PRIMARY KEY, text TEXT)")
        rows = ((number, f"row {number}." + "x" * 100) for number in numbers)
        database.executemany("INSERT INTO Rows VALUES (?, ?)", rows)
        database.commit()
    content = bytearray(path.read_bytes())
    for number in (500, 2_000_500):
        page = content.index(f"row {number}.".encode()) // 4096 * 4096
        content[page : page + 4096] = b"\xff" * 4096
    path.write_bytes(content)

    with closing(sqlite3.connect(path)) as database:
        read = {row[0] for row in _readable(database, "SELECT number, text FROM Rows", "number")}
    lost = sorted({*numbers} - read)
    assert 0 < len(lost) < 100
    assert all(abs(number % 1_000_000 - 500) < 50 for number in lost)
