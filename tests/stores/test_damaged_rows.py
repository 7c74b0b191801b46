"""A row whose columns hold what nobody wrote there is a miss or is left out, and never an exception."""

from __future__ import annotations

import shutil
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bencher_job import BencherJobError, CachedFunction, CacheWarning, cached_job
from bencher_job._query import Condition, Order, Query
from bencher_job._stores import embedded, find_orphans
from bencher_job._stores.embedded import DiskStore
from bencher_job.testing import kept_cache

DEEP = "[" * 100_000 + "]" * 100_000

HARMS = {
    "a text": "'abc'",
    "bytes": "X'00FF80'",
    "no UTF-8": "CAST(X'FF' AS TEXT)",
    "nothing": "NULL",
    "a large number": str((1 << 63) - 1),
    "infinity": "9e999",
    "a list": "'[1, 2]'",
    "nested too deep": f"'{DEEP}'",
}

COLUMNS = {
    "Cache": (
        "raw store_time expire_time access_time access_count tag size mode value seconds function created origin"
        " edition arguments bound attributes files mac"
    ),
    "Origin": "text",
    "Edition": "function key_version fingerprint version parameters manifest sources mac",
    "Gone": "key reason at",
    "Totals": "hits misses seconds counted",
    "Counted": "function tag edition entries size hits saved seconds used first last origin",
}


class Filled(NamedTuple):
    """A store with rows in all tables, of which each test damages a copy."""

    directory: Path
    keys: list[str]
    name: str


def job_of(calls: list[int]) -> CachedFunction[[int], dict[str, int]]:
    @cached_job(code="none")
    def job(x: int) -> dict[str, int]:
        calls.append(x)
        return {"x": x}

    return job


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    job = job_of([])
    with kept_cache(tmp_path_factory.mktemp("filled")) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "UNCOUNTED", 2)  # so that entries are counted
        for x in range(4):
            job(x)
        list(job.map(range(100, 104)))
        patch.undo()
        job(200)  # which is not counted
        job.cache.clear_tag("none")
        with closing(DiskStore(folder / "fcache", size_limit=10**9)) as store:
            keys = [record.key for record in store.records()]
            name = store.functions()[0].name
            store.remove([keys[3]])
        job.cache.close()
        return Filled(folder / "fcache", keys, name)


def test_a_copy_of_the_store_is_whole(cache_folder: Path, filled: Filled) -> None:
    shutil.copytree(filled.directory, cache_folder / "fcache")
    calls: list[int] = []
    job = job_of(calls)
    with closing(sqlite3.connect(cache_folder / "fcache" / "cache.db")) as database:
        for table in COLUMNS:
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() > (0,), table
    assert job.cache.verify().is_clean
    assert [job(x) for x in (*range(4), *range(100, 104), 200)]
    assert len(calls) == 1  # what was removed


@pytest.mark.parametrize(
    ("table", "column", "harm"),
    [
        pytest.param(table, column, text, id=f"{table}-{column}-{harm}")
        for table, all_of in COLUMNS.items()
        for column in all_of.split()
        for harm, text in HARMS.items()
        # SQLite itself lets no other column hold nothing
        if text != "NULL" or table == "Cache" or (table, column) == ("Counted", "origin")
    ],
)
def test_what_a_column_holds_that_nobody_wrote_raises_nothing(
    cache_folder: Path, filled: Filled, table: str, column: str, harm: str
) -> None:
    shutil.copytree(filled.directory, directory := cache_folder / "fcache")
    keys, name = filled.keys, filled.name
    job = job_of([])
    with closing(sqlite3.connect(directory / "cache.db")) as database, database:
        which = "" if table != "Cache" else " WHERE rowid = (SELECT min(rowid) FROM Cache)"
        database.execute(f"UPDATE {table} SET {column} = {harm}{which}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        for x in (0, 1, 3):
            explained = job.explain(x)
            str(explained)
        with closing(DiskStore(directory, size_limit=10**9)) as store:
            for read in reads_of(store, keys, name):
                try:
                    read()
                except BencherJobError:  # which says so in words
                    pass
        assert [job(x) for x in range(4)] == [{"x": x} for x in range(4)]
        assert list(job.map(range(4))) == [{"x": x} for x in range(4)]
        job.cache.verify()
        job.cache.verify(repair=True)
        try:
            job.cache.export(cache_folder / "archive.tar")
        except BencherJobError:
            pass
        assert [job(x) for x in range(4)] == [{"x": x} for x in range(4)]
        job.cache.clear_cache()
        assert [job(x) for x in range(4)] == [{"x": x} for x in range(4)]


def reads_of(store: DiskStore, keys: list[str], name: str) -> list[Callable[[], Any]]:
    """Give all that may be asked of a store."""
    history = store.history
    versions = [version.prefix for version in history.versions(name)]
    return [
        *(lambda key=key: store.has(key) for key in keys),
        lambda: store.durations(keys),
        lambda: list(store.records()),
        lambda: list(store.records(latest=2)),
        lambda: [str(each) for each in store.functions()],
        store.figures,
        history.removed,
        history.stamp,
        lambda: history.versions(name, unused=True),
        *(lambda key=key: history.examine(key) for key in keys),
        *(lambda prefix=prefix: list(history.of_version(name, prefix=prefix)) for prefix in versions),
        lambda: list(history.of_version(name, bound=b"")),
        lambda: history.infos(history.find(Query(name))),
        lambda: history.find(Query(name, (("arguments.x", Condition(">", 1)),), "x", Order("arguments.x"))),
        lambda: history.columns(name),
        lambda: find_orphans(store),
        lambda: store.get_many(keys),
        lambda: store.get_many(keys, mapped=True, largest=1000),
    ]
