"""A row whose columns hold what nobody wrote there is a miss or is left out, and never an exception."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bencher_job import BencherJobError, CacheWarning, cached_job
from bencher_job._query import Condition, Order, Query
from bencher_job._stores import find_orphans
from bencher_job._stores.embedded import DiskStore

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


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, all_of in COLUMNS.items() for column in all_of.split()]
)
def test_what_a_column_holds_that_nobody_wrote_raises_nothing(
    cache_folder: Path, table: str, column: str, harm: str
) -> None:
    calls = []

    @cached_job(code="none")
    def job(x: int) -> dict[str, int]:
        calls.append(x)
        return {"x": x}

    for x in range(4):
        job(x)
    list(job.map(range(100, 170)))  # so many that entries are counted
    job.cache.clear_tag("none")
    directory = cache_folder / "fcache"
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        keys = [record.key for record in store.records()]
        name = store.functions()[0].name
        store.remove([keys[3]])
    job.cache.close()
    with closing(sqlite3.connect(directory / "cache.db")) as database, database:
        try:
            which = "" if table != "Cache" else " WHERE rowid = (SELECT min(rowid) FROM Cache)"
            database.execute(f"UPDATE {table} SET {column} = {harm}{which}")
        except sqlite3.IntegrityError:
            pytest.skip("SQLite takes no such thing here")
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
