"""Stores that are found by their folder, looked at without a trace, and opened to be changed; and their overview."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bencher_job import CacheWarning, FutureCache, Job, Record, UntrustedCache
from bencher_job._stores import (
    Entry,
    Hit,
    StoreBusy,
    StoreDamaged,
    StoreFailure,
    StoreMissing,
    dump,
    look_into,
    open_existing,
    stores_in,
    verify,
)
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore

CREATED = datetime(2026, 1, 31, 12, tzinfo=UTC)


def entry(key: str, value: object = 1, **known: object) -> Entry:
    expires = known.pop("expires", None)
    record = Record(**{"key": key, "function": "study.score", "created": CREATED, "seconds": 2.0, **known})
    return Entry(dump(value), record, expires=expires)


def fill(directory: Path, *entries: Entry) -> Path:
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        store.put_many(entries or [entry("small"), entry("large", "x" * IN_ROW_BELOW)])
    return directory


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """All that lies under a folder, with sizes and times of change."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        status = path.stat()
        found[str(path)] = status.st_size, status.st_mtime_ns
    return found


def look_at_everything(store: DiskStore) -> None:
    assert len(store) == len(list(store.records())) == 2
    assert [function.entries for function in store.functions()] == [2]
    assert store.get("large").load() == "x" * IN_ROW_BELOW
    assert store.history.examine("small")
    assert store.figures().total.hits == 0
    assert store.figures().size
    assert verify(store).is_clean


def test_a_look_leaves_no_trace(tmp_path: Path) -> None:
    directory = fill(tmp_path / "cachedir" / "fcache")
    before = snapshot(tmp_path)
    with closing(look_into(directory)) as store:
        look_at_everything(store)
    # SQLite's log is there meanwhile, so the folder itself has changed; what is in it has not.
    after = snapshot(tmp_path)
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} <= {str(directory)}


def test_a_look_beside_a_program_that_writes_sees_what_is_committed(tmp_path: Path) -> None:
    with closing(DiskStore(tmp_path / "fcache", size_limit=10**9)) as writing:
        writing.put_many([entry("first")])
        with closing(look_into(tmp_path / "fcache")) as looking:
            assert len(looking) == 1
            writing.put_many([entry("second")])
            assert len(looking) == 2


def test_a_look_counts_no_use_and_sets_nothing_aside(tmp_path: Path) -> None:
    directory = fill(tmp_path / "fcache")
    (file,) = directory.glob("??/??/*.val")
    file.write_bytes(b"garbage")
    with closing(look_into(directory)) as store:
        assert isinstance(store.get("small"), Hit)
        with pytest.warns(CacheWarning, match="is damaged"):
            assert not store.get("large")
        assert not verify(store).is_clean
    assert not (directory / "damaged").exists()
    assert file.read_bytes() == b"garbage"
    with closing(look_into(directory)) as store:
        assert len(store) == 2
        assert store.functions()[0].hits == store.figures().total.hits == 0


def test_who_only_looks_can_t_change(tmp_path: Path) -> None:
    directory = fill(tmp_path / "fcache")
    with closing(look_into(directory)) as store:
        for change in (
            lambda: store.put_many([entry("third")]),
            lambda: store.remove(["small"]),
            lambda: store.remove(["small"]),
            store.clear,
        ):
            with pytest.raises(StoreFailure, match="can be read, but not written"):
                change()
        assert len(store) == 2


@pytest.mark.parametrize("opened", [look_into, open_existing])
def test_no_store_is_made_where_there_is_none(tmp_path: Path, opened: object) -> None:
    for directory in (tmp_path / "nothing", tmp_path):
        with pytest.raises(StoreMissing, match="holds no cache"):
            opened(directory)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "cache.db").touch()
    with pytest.raises(StoreMissing, match="none of its tables"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.db"]


@pytest.mark.parametrize("harm", ["overwritten", "cut off"])
def test_a_damaged_database_is_told_and_left_by_who_looks(tmp_path: Path, harm: str) -> None:
    database = fill(tmp_path / "fcache") / "cache.db"
    if harm == "overwritten":
        database.write_bytes(b"no database" * 1000)
    else:
        os.truncate(database, 8192)
    before = database.read_bytes()
    with pytest.raises(StoreDamaged):
        look_into(tmp_path / "fcache")
    assert database.read_bytes() == before
    assert not (tmp_path / "fcache" / "damaged").exists()


@pytest.mark.parametrize("harm", ["overwritten", "cut off"])
def test_a_damaged_database_is_mended_by_who_opens_it_to_change_it(tmp_path: Path, harm: str) -> None:
    database = fill(tmp_path / "fcache") / "cache.db"
    if harm == "overwritten":
        database.write_bytes(b"no database" * 1000)
    else:
        os.truncate(database, 8192)
    with pytest.warns(CacheWarning, match="is damaged .* set aside"):
        open_existing(tmp_path / "fcache").close()
    look_into(tmp_path / "fcache").close()
    assert len(list((tmp_path / "fcache" / "damaged").glob("*/cache.db"))) == 1


def test_a_locked_database_is_told_as_busy(tmp_path: Path) -> None:
    directory = fill(tmp_path / "fcache")
    with closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = exclusive")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy, match="locked"):
            look_into(directory, patience=0.05)


@pytest.mark.parametrize("opened", [look_into, open_existing])
def test_a_store_that_others_can_write_to_is_refused_unless_it_is_trusted(
    tmp_path: Path, opened: object
) -> None:
    directory = fill(tmp_path / "fcache")
    directory.chmod(0o777)
    with pytest.raises(UntrustedCache):
        opened(directory)
    opened(directory, trusted=True).close()


def test_stores_are_found_under_a_cache_directory(tmp_path: Path) -> None:
    for name in ("b", "a"):
        fill(tmp_path / name)
    (tmp_path / "media").mkdir()
    assert stores_in(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert stores_in(tmp_path / "a") == [tmp_path / "a"]
    assert stores_in(tmp_path / "media") == []
    with pytest.raises(StoreMissing, match="not a cache directory"):
        stores_in(tmp_path / "nothing")


def test_entries_of_many_keys_are_removed_together(tmp_path: Path) -> None:
    directory = fill(tmp_path / "fcache", *(entry(f"key-{number}") for number in range(2500)))
    with closing(open_existing(directory)) as store:
        assert store.remove([*(f"key-{number}" for number in range(2400)), "nothing"], "cleared") == 2400
        assert len(store) == 100
        assert store.history.examine("key-7").reason == "cleared"


def test_functions_are_told_with_entries_sizes_tags_and_their_last_use(tmp_path: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    directory = fill(
        tmp_path / "fcache",
        entry("a", tag="nightly"),
        entry("b", tag="nightly"),
        entry("c", "x" * 1000),
        entry("d", function="study.loss", tag="weekly", seconds=0.5),
    )
    with closing(look_into(directory)) as store:
        loss, score = store.functions()
        assert (loss.name, loss.entries, loss.seconds, loss.tags) == ("study.loss", 1, 0.5, ("weekly",))
        assert (score.name, score.entries, score.seconds, score.tags) == ("study.score", 3, 6.0, ("nightly",))
        assert score.size > 1000
        assert before < score.last_used < datetime.now(UTC)


def test_the_sizes_of_functions_add_up_to_that_of_the_store(tmp_path: Path) -> None:
    directory = fill(tmp_path / "fcache", entry("a", "x" * 99_999), entry("b", function="study.loss"))
    with closing(look_into(directory)) as store:
        figures = store.figures()
        assert sum(function.size for function in store.functions()) == figures.size - 512 * figures.entries


def test_hits_of_all_processes_are_told_by_function(tmp_path: Path) -> None:
    program = """
import sys
from bencher_job import cached_job

@cached_job(cache_dir=sys.argv[1])
def slow(x):
    import time
    time.sleep(0.05)
    return x

for x in (1, 2, 1, 1):
    slow(x)
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, tmp_path], check=True)
    with FutureCache(cache_dir=tmp_path) as cache, pytest.MonkeyPatch.context() as patch:
        patch.setattr("bencher_job._options._override", None)
        (slow,) = cache.functions()
    assert (slow.name, slow.entries, slow.hits) == ("__main__.slow", 2, 6)
    assert slow.seconds_saved >= 0.3


def test_a_cache_gives_the_functions_of_its_store() -> None:
    with FutureCache(overwrite=False) as cache:
        assert cache.functions() == []
        for _ in range(2):
            cache.submit(Job("power", pow, {"base": 2, "exp": 5})).result()
        (function,) = cache.functions()
        assert (function.name, function.entries, function.hits) == ("pow", 1, 1)
    with FutureCache(cache_samples=False) as cache:
        assert cache.functions() == []
