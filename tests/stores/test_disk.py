"""The store on disk: set up safely, never a wrong value, and nothing lost that was committed."""

from __future__ import annotations

import logging
import os
import pickle
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import diskcache
import numpy as np
import pytest

from bencher_job import CacheWarning, Record, UntrustedCache, _media, cached_job
from bencher_job._folders import make_private
from bencher_job._options import Limits
from bencher_job._stores import (
    MISS,
    Entry,
    Hit,
    Lease,
    StoreFailure,
    dump,
    export,
    import_,
    recovery,
    remove_expired,
    shrink,
    verify,
)
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.schema import STORE_VERSION
from bencher_job._stores.signature import SECRET_VARIABLE

LARGE = "x" * IN_ROW_BELOW


def entry(key: str, value: object, media: str | None = None) -> Entry:
    return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC), media=media))


def value_of(store: DiskStore, key: str) -> object:
    hit = store.get(key)
    return hit.load() if isinstance(hit, Hit) else MISS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    store = DiskStore(tmp_path / "cachedir" / "fcache", size_limit=10**9)
    yield store
    store.close()


def test_nothing_is_on_disk_before_the_first_use(tmp_path: Path) -> None:
    DiskStore(tmp_path / "store", size_limit=1)
    assert list(tmp_path.iterdir()) == []


def test_a_new_cache_directory_is_owner_only_and_marked(store: DiskStore) -> None:
    store.open()
    parent = store.directory.parent
    for folder in (parent, store.directory):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (parent / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert (parent / ".gitignore").read_text().splitlines()[-1] == "*"


@pytest.mark.parametrize("name", ["$HOME", "${HOME}", "~", "~root", "%40", "a b?c#d", "é"])
def test_the_path_of_a_store_is_used_as_it_is_given(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name / name
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        store.put_many([entry("key", 1), entry("large", LARGE)])
    assert list(tmp_path.rglob("cache.db*")) == [directory / "cache.db"]
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        assert (value_of(store, "key"), value_of(store, "large")) == (1, LARGE)
        store.clear()
        assert not list(directory.rglob("*.val"))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777 - 0o700])
def test_new_files_are_for_the_owner_only(tmp_path: Path, umask: int) -> None:
    """The marks, the database and its log, value files, what is set aside, archives and what they bring."""
    before = os.umask(umask)
    try:
        store = DiskStore(tmp_path / "cachedir" / "fcache", size_limit=10**9)
        store.open()
        media = _media.run_folder(store.directory, "media")
        make_private(media)
        Path(media, "plot.png").write_bytes(b"png")
        store.put_many([entry("key", 1), entry("large", LARGE), entry("media", 2, media=Path(media).name)])
        export(store, tmp_path / "archive.tar")
        _media.discard(media)
        store.remove(["media"])
        import_(store, tmp_path / "archive.tar")
        with closing(sqlite3.connect(store.directory / "cache.db")) as database, database:
            database.execute("UPDATE Cache SET value = X'00' WHERE key = 'key'")
        with pytest.warns(CacheWarning, match="damaged"):
            assert not store.get("key")
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
        store.close()
    finally:
        os.umask(before)
    assert {path.name for path in modes} >= {
        "cache.db",
        "cache.db-wal",
        "CACHEDIR.TAG",
        "generation",
        "plot.png",
    }
    assert {path: oct(mode) for path, mode in modes.items() if path.is_file() and mode != 0o600} == {}
    assert {path: oct(mode) for path, mode in modes.items() if path.is_dir() and mode != 0o700} == {}


def test_a_folder_that_was_there_is_not_marked(tmp_path: Path) -> None:
    """A .gitignore in a user's own folder would hide the user's own files."""
    store = DiskStore(tmp_path / "fcache", size_limit=10**9)
    store.open()
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["fcache"]
    assert (tmp_path / "fcache" / "CACHEDIR.TAG").exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_store_that_others_can_write_to_is_refused(store: DiskStore, mode: int) -> None:
    store.open()
    store.close()
    store.directory.chmod(mode)
    with pytest.raises(UntrustedCache, match="chmod -R go-w"):
        store.open()


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal"])
@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o666), (0o750, 0o660), (0o711, 0o602)])
def test_a_database_that_others_can_write_to_is_refused(
    store: DiskStore, name: str, folder: int, file: int
) -> None:
    store.open()
    store.close()
    store.directory.chmod(folder)
    (store.directory / name).touch()
    (store.directory / name).chmod(file)
    with pytest.raises(UntrustedCache, match=f"{name} can be written to by others .*chmod -R go-w"):
        store.open()


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o666), (0o755, 0o644), (0o750, 0o602), (0o705, 0o620)])
def test_a_database_that_others_can_not_write_to_may_have_any_mode(
    store: DiskStore, folder: int, file: int
) -> None:
    store.open()
    store.close()
    store.directory.chmod(folder)
    (store.directory / "cache.db").chmod(file)
    store.open()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("name", ["", "cache.db"])
def test_a_store_of_another_user_is_refused(store: DiskStore, name: str) -> None:
    store.open()
    store.close()
    os.chown(store.directory / name, 12345, -1)
    with pytest.raises(UntrustedCache, match="belongs to the user number 12345"):
        store.open()


@pytest.mark.parametrize("value", ["small", LARGE])
def test_a_flipped_bit_is_a_miss_with_one_warning(store: DiskStore, value: str) -> None:
    store.put_many([entry("key", value)])
    with sqlite3.connect(store.directory / "cache.db") as database:
        ((filename, row),) = database.execute("SELECT filename, value FROM Cache")
        if filename is None:
            database.execute("UPDATE Cache SET value = ?", (row[:-1] + bytes([row[-1] ^ 1]),))
        else:
            path = store.directory / filename
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
    database.close()
    with pytest.warns(CacheWarning, match="entry key .* is damaged: its bytes don't match") as warned:
        assert not store.get("key")
    assert len(warned) == 1
    assert not store.get("key")  # and no second warning
    assert store.tally.damaged == 1
    assert [path.name for path in (store.directory / "damaged").glob("*/*")] == ["key"]


def test_a_database_that_others_keep_locked_delays_one_put_and_not_each(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "fcache", size_limit=10**9, patience=3.0)
    store.put_many([entry("before", 0)])
    with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailure, match="locked"):
            store.put_many([entry("first", 0)])
        began = time.monotonic()
        for number in range(5):
            with pytest.raises(StoreFailure, match="locked"):
                store.put_many([entry(f"next {number}", 0)])
        assert time.monotonic() - began < 10  # five times their patience are 15
        other.execute("ROLLBACK")
    store.put_many([entry("after", 0)])
    assert [store.has(key) for key in ("before", "first", "after")] == [True, False, True]
    store.close()


@pytest.mark.parametrize("length", [0, 4096, 20000])
def test_a_database_that_is_cut_off_while_it_is_open_ends_no_program(tmp_path: Path, length: int) -> None:
    script = f"""
        import os
        from bencher_job import cached_job
        @cached_job(cache_dir={str(tmp_path)!r})
        def double(x):
            return 2 * x
        double(1)
        double.cache.close()
        double(2)
        os.truncate(double.cache.directory / "cache.db", {length})
        print(*double.cache.verify().findings)
        assert double(2) == 4
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    if length:
        assert "damaged" in ended.stdout
    else:  # noticed before it is verified
        assert "was emptied by another program" in ended.stderr


def test_a_missing_value_file_is_a_miss_with_a_warning(store: DiskStore) -> None:
    store.put_many([entry("key", LARGE)])
    (path,) = store.directory.glob("*/*/*.val")
    path.unlink()
    with pytest.warns(CacheWarning, match="its value file is missing"):
        assert not store.get("key")
    store.put_many([entry("key", LARGE)])
    assert value_of(store, "key") == LARGE


def test_a_row_that_asks_to_be_unpickled_is_not(store: DiskStore, tmp_path: Path) -> None:
    """diskcache's own rows of mode 4 are pickles; a planted one must not run."""

    class Planted:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "planted"),)

    store.put_many([entry("key", 1)])
    with sqlite3.connect(store.directory / "cache.db") as database:
        database.execute("UPDATE Cache SET mode = 4, value = ?", (pickle.dumps(Planted()),))
    database.close()
    with pytest.warns(CacheWarning, match="of the mode 4"):
        assert not store.get("key")
    assert not (tmp_path / "planted").exists()


def test_a_damaged_entry_is_left_out_of_a_bulk_lookup(store: DiskStore) -> None:
    store.put_many([entry("good", 1), entry("bad", 2)])
    with sqlite3.connect(store.directory / "cache.db") as database:
        database.execute("UPDATE Cache SET value = X'00' WHERE key = 'bad'")
    database.close()
    with pytest.warns(CacheWarning, match="entry bad"):
        assert store.get_many(["good", "bad"]).keys() == {"good"}


def test_a_database_that_is_none_is_set_aside(store: DiskStore) -> None:
    store.put_many([entry("key", 1)])
    store.close()
    for path in store.directory.glob("cache.db-*"):
        path.unlink()
    (store.directory / "cache.db").write_bytes(b"no database at all" * 1000)
    with pytest.warns(CacheWarning, match="is damaged .* set aside in"):
        assert not store.get("key")
    store.put_many([entry("key", 2)])
    assert value_of(store, "key") == 2
    assert list((store.directory / "damaged").glob("*/cache.db"))


def test_a_store_of_a_later_version_is_left_alone(store: DiskStore) -> None:
    store.open()
    store.close()
    with sqlite3.connect(store.directory / "cache.db") as database:
        database.execute(f"PRAGMA user_version = {STORE_VERSION + 1}")
    database.close()
    with pytest.raises(StoreFailure, match="Upgrade bencher_job"):
        store.open()


@pytest.mark.given_folders
def test_a_diskcache_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with diskcache.Cache(tmp_path / "fcache") as theirs:
        theirs.set("key", "their value")
    function = cached_job(cache_dir=tmp_path)(len)
    with pytest.warns(CacheWarning, match="holds a diskcache of another program. Use another cache_name"):
        assert function("four") == 4
    with diskcache.Cache(tmp_path / "fcache") as theirs:
        assert theirs.get("key") == "their value"


def test_a_folder_removed_under_an_open_store_is_made_anew(store: DiskStore) -> None:
    store.put_many([entry("key", 1)])
    subprocess.run(["rm", "-r", store.directory], check=True)
    store.put_many([entry("key", 2)])
    assert value_of(store, "key") == 2


def test_a_removed_folder_is_noticed_by_a_lookup_too(store: DiskStore) -> None:
    store.put_many([entry("key", 1)])
    subprocess.run(["rm", "-r", store.directory], check=True)
    until = time.monotonic() + 10  # it is looked at every few milliseconds
    while store.has("key"):
        assert time.monotonic() < until
    assert not store.get("key")
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700


def test_a_damaged_record_is_left_out_with_a_warning(store: DiskStore) -> None:
    store.put_many([entry("good", 1), entry("bad", 2)])
    with sqlite3.connect(store.directory / "cache.db") as database:
        database.execute("UPDATE Cache SET arguments = '{' WHERE rowid = 2")
    database.close()
    with pytest.warns(CacheWarning, match="The record of bad .* is damaged"):
        assert [record.key for record in store.records()] == ["good"]


def undecodable(store: DiskStore, column: str, key: str = "bad") -> None:
    """Make a text of an entry one that is not UTF-8."""
    with sqlite3.connect(store.directory / "cache.db") as database:
        database.execute(f"UPDATE Cache SET {column} = CAST(X'61FF62' AS TEXT) WHERE key = ?", (key,))
    database.close()


def test_an_entry_whose_file_has_an_undecodable_name_is_set_aside(store: DiskStore) -> None:
    store.put_many([entry("bad", LARGE), entry("good", LARGE)])
    undecodable(store, "filename")
    with pytest.warns(
        CacheWarning, match="The entry bad .* is damaged: its row holds a text that is not UTF-8"
    ):
        assert not store.get("bad")
    assert not store.get("bad")  # and no second warning
    assert store.tally.damaged == 1
    assert value_of(store, "good") == LARGE
    store.put_many([entry("bad", 1)])
    assert value_of(store, "bad") == 1


def test_a_bulk_lookup_passes_over_an_undecodable_text(store: DiskStore) -> None:
    store.put_many([entry("bad", LARGE), entry("good", 1)])
    undecodable(store, "filename")
    with pytest.warns(CacheWarning, match="entry bad"):
        assert store.get_many(["bad", "good"]).keys() == {"good"}


@pytest.mark.parametrize("column", ["function", "tag", "arguments", "media"])
def test_a_record_with_an_undecodable_text_is_left_out_and_can_be_replaced(
    store: DiskStore, column: str
) -> None:
    store.put_many([entry("bad", LARGE), entry("good", 1)])
    undecodable(store, column)
    with pytest.warns(CacheWarning, match="The record of bad .* is damaged and left out: .* not UTF-8"):
        assert [record.key for record in store.records()] == ["good"]
    if column == "media":  # on which a hit depends
        with pytest.warns(CacheWarning, match="bad .* is damaged"):
            assert store.get("bad") is MISS
    else:
        assert value_of(store, "bad") == LARGE
    store.put_many([entry("bad", 2)])
    assert {record.key for record in store.records()} == {"good", "bad"}


def test_an_undecodable_key_disturbs_nothing(store: DiskStore) -> None:
    store.put_many([entry("bad", 1), entry("good", 1)])
    undecodable(store, "key")
    with pytest.warns(CacheWarning, match="is damaged and left out"):
        assert [record.key for record in store.records()] == ["good"]
    assert value_of(store, "good") == 1
    assert store.clear() == 2
    assert len(store) == 0


def test_what_is_set_aside_goes_by_a_name_that_a_file_can_have(store: DiskStore) -> None:
    key = "../a key of somebody's own/" + "x" * 300
    store.put_many([entry(key, 1)])
    with sqlite3.connect(store.directory / "cache.db") as database:
        database.execute("UPDATE Cache SET value = X'00'")
    database.close()
    with pytest.warns(CacheWarning, match="is damaged"):
        assert not store.get(key)
    (kept,) = (store.directory / "damaged").glob("*/*")
    assert kept.read_bytes() == b"\0"
    assert not store.has(key)


def test_of_what_is_set_aside_the_latest_is_kept(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to a size in bytes; what is removed is told of in the log."""
    monkeypatch.setattr(recovery, "MOST_KEPT", 3 * (10_000 + recovery.OVERHEAD))
    for number in range(5):
        store.put_many([entry(f"key-{number}", bytes(9_800))])
        with sqlite3.connect(store.directory / "cache.db") as database:
            database.execute("UPDATE Cache SET value = zeroblob(10000)")
        database.close()
        with pytest.warns(CacheWarning, match="is damaged"):
            assert not store.get(f"key-{number}")
    kept = sorted(path.name for path in (store.directory / "damaged").glob("*/*"))
    assert kept == ["key-2", "key-3", "key-4"]
    removed = [record.getMessage() for record in caplog.records if "were set aside" in record.getMessage()]
    assert len(removed) == 2


def sql(store: DiskStore, statement: str) -> None:
    with closing(sqlite3.connect(store.directory / "cache.db")) as database, database:
        database.execute(statement)


def lose_a_lease(store: DiskStore) -> None:
    lost = Lease("late")
    store.leases.acquire([lost])
    store.leases.release([lost])
    store.put_many([entry("late", 1)._replace(lease=lost)])


def expire(store: DiskStore) -> None:
    sql(store, "UPDATE Cache SET access_time = 0, expire_time = 1.0")
    remove_expired(store)


def damage(store: DiskStore) -> None:
    sql(store, "UPDATE Cache SET value = X'00'")
    store.get("key")


def damage_in_the_way_of_its_quarantine(store: DiskStore) -> None:
    (store.directory / "damaged").touch()
    damage(store)


def ask_about_damage(store: DiskStore) -> None:
    sql(store, "UPDATE Cache SET arguments = '{'")
    store.history.examine("key")


def mend(store: DiskStore) -> None:
    sql(store, "UPDATE Cache SET arguments = '{'")
    verify(store, repair=True)


def remove_folder(store: DiskStore) -> None:
    shutil.rmtree(store.directory)
    store.put_many([entry("key", 1)])


def empty_database(store: DiskStore) -> None:
    store.close()
    os.truncate(store.directory / "cache.db", 0)
    store.open()


def export_damaged(store: DiskStore) -> None:
    sql(store, "UPDATE Cache SET value = X'00'")
    export(store, store.directory.parent / "archive.tar")


def import_cut_off(store: DiskStore) -> None:
    path = store.directory.parent / "archive.tar"
    export(store, path)
    os.truncate(path, path.stat().st_size - 2048)
    import_(store, path)


def look_with_another_secret(store: DiskStore) -> None:
    other = DiskStore(store.directory, size_limit=10**9)
    with mock.patch.dict(os.environ, {SECRET_VARIABLE: "another"}), closing(other):
        other.get("key")


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (lose_a_lease, "another one has the key late now"),
        (expire, "removed 1 entries of .* that had expired"),
        (lambda store: shrink(store, Limits(entries=0)), "removed 1 entries of .* beyond"),
        (damage, "the entry key in .* is damaged"),
        (damage_in_the_way_of_its_quarantine, "the damaged entry key can't be set aside"),
        (ask_about_damage, "a damaged row is left out"),
        (mend, "entry whose record is damaged: key: .* is mended"),
        (export_damaged, "the entry key is not exported"),
        (import_cut_off, "imported 0 added, .* 1 damaged"),
        (look_with_another_secret, "the entry key in .* is a miss here, and left"),
        (remove_folder, "was removed while it was open; a new cache begins there"),
        (empty_database, "was emptied: what it held is lost"),
    ],
)
@pytest.mark.filterwarnings("ignore::bencher_job.CacheWarning")
def test_what_vanishes_is_logged(
    store: DiskStore, event: Callable[[DiskStore], object], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "bencher_job")
    store.put_many([entry("key", 1)])
    caplog.clear()
    event(store)
    assert [bool(re.search(told, each.getMessage())) for each in caplog.records].count(True) == 1


def test_the_latest_is_kept_aside_however_large(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "MOST_KEPT", 1000)
    for key in ("first", "second"):
        store.put_many([entry(key, LARGE)])
        (path,) = store.directory.glob("*/*/*.val")
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        with pytest.warns(CacheWarning, match="is damaged"):
            assert not store.get(key)
    assert [path.name for path in (store.directory / "damaged").glob("*/*")] == ["second"]


def test_memory_gives_no_path_of_media_that_were_evicted(tmp_path: Path) -> None:
    from bencher_job._stores import open_store

    tier = open_store(tmp_path / "store", size_limit=1_000_000)
    run = Path(_media.run_folder(tmp_path / "store", "film"))
    run.mkdir(parents=True)
    (run / "film").write_bytes(bytes(200_000))
    tier.put_many([entry("film", "path", media=run.name)])
    for _ in range(3):
        assert tier.get("film").load() == "path"
    for number in range(10):
        tier.put_many([entry(f"key-{number}", bytes(100_000))])
    assert not run.exists()
    assert not tier.get("film")


def test_a_disk_that_is_full_fails_clearly_and_leaves_nothing(store: DiskStore) -> None:
    store.put_many([entry("small", 1)])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreFailure, match="OSError"):
            store.put_many([entry("large", "x" * 200_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(store.directory.glob("*/*/*.val")) == []
    assert (value_of(store, "small"), store.get("large")) == (1, MISS)


def test_an_overwritten_value_file_and_its_media_go_when_the_new_ones_are_there(store: DiskStore) -> None:
    for _ in range(2):
        run = Path(_media.run_folder(store.directory, "key"))
        run.mkdir(parents=True)
        (run / "film").write_bytes(b"x" * 1000)
        store.put_many([entry("key", LARGE, media=run.name)])
    assert list((store.directory / "media").iterdir()) == [run]
    assert len(list(store.directory.glob("*/*/*.val"))) == 1
    (record,) = store.records()
    assert record.size > IN_ROW_BELOW + 1000


def test_media_go_with_their_entry(store: DiskStore) -> None:
    runs = {key: Path(_media.run_folder(store.directory, key)) for key in ("forgotten", "tagged", "kept")}
    for key, run in runs.items():
        run.mkdir(parents=True)
        store.put_many([entry(key, 1, media=run.name)])
    store.remove(["forgotten"])
    assert {*(store.directory / "media").iterdir()} == {runs["kept"], runs["tagged"]}
    store.clear()
    assert list((store.directory / "media").iterdir()) == []


def test_entries_beyond_the_size_limit_are_evicted_oldest_first_and_counted(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "store", size_limit=1_000_000)
    for number in range(20):
        store.put_many([entry(f"key-{number}", np.full(12_500, float(number)))])  # 100 kB each
    found = [number for number in range(20) if store.has(f"key-{number}")]
    assert found == list(range(20 - len(found), 20))
    assert 5 <= len(found) < 10
    assert store.tally.evicted == 20 - len(found) == 20 - len(store)
    assert store.figures().size <= 1_000_000
    assert len(list(store.records())) == len(found)
    store.close()


def test_a_replaced_entry_is_not_served_from_another_process_memory(tmp_path: Path) -> None:
    """What one process overwrites or clears, the memory of another knows at the very next lookup."""
    from bencher_job._stores import open_store

    here = open_store(tmp_path / "store", size_limit=10**9)
    here.put_many([entry("key", "old"), entry("other", 1)])
    assert here.get("key").load() == here.get("key").load() == "old"
    script = """
        import sys
        from datetime import UTC, datetime
        from pathlib import Path
        from bencher_job import Record
        from bencher_job._stores import Entry, dump, open_store
        store = open_store(Path(sys.argv[1]), size_limit=10**9)
        if sys.argv[2] == "replace":
            store.put_many([Entry(dump("new"), Record(key="key", function="f", created=datetime.now(UTC)))])
        else:
            store.clear()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "store")]
    subprocess.run([*command, "replace"], check=True)
    assert here.get("key").load() == "new"
    subprocess.run([*command, "clear"], check=True)
    assert not here.get("key")
    here.close()


def test_memory_is_not_trusted_while_a_change_goes_on_or_has_died(tmp_path: Path) -> None:
    """A process killed in the middle of a change leaves the generation odd: then the disk is asked."""
    from bencher_job._stores import open_store

    store = open_store(tmp_path / "store", size_limit=10**9)
    store.put_many([entry("key", 1)])
    store.get("key")
    script = f"""
        import os, signal
        from pathlib import Path
        from bencher_job._stores.changes import ChangeCounter
        generation = ChangeCounter(Path({str(tmp_path / "store" / "generation")!r}))
        generation.change(lambda: os.kill(os.getpid(), signal.SIGKILL))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with sqlite3.connect(tmp_path / "store" / "cache.db") as database:
        database.execute("DELETE FROM Cache")
    database.close()
    assert not store.get("key")
    store.put_many([entry("key", 2)])
    store.remove(["other"])
    assert store.get("key").load() == 2
    store.close()


def test_eight_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    script = """
        import sys
        from datetime import UTC, datetime
        from pathlib import Path
        from bencher_job import Record
        from bencher_job._stores import Entry, dump
        from bencher_job._stores.embedded import DiskStore
        store = DiskStore(Path(sys.argv[1]), size_limit=10**9)
        sys.stdin.read(1)
        store.put_many([Entry(dump(1), Record(key=sys.argv[2], function="f", created=datetime.now(UTC)))])
        store.close()
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), str(tmp_path / "a" / "b")]
    processes = [subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE) for number in range(8)]
    for process in processes:
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 8
    store = DiskStore(tmp_path / "a" / "b", size_limit=10**9)
    assert len(store) == 8
    store.close()


def test_a_forked_child_may_use_the_store_while_a_thread_of_the_parent_writes(store: DiskStore) -> None:
    import threading

    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            store.put_many([entry(f"parent-{number}", number)])
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for turn in range(5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of a fork beside threads
                pid = os.fork()
            if pid == 0:
                try:
                    store.put_many([entry(f"child-{turn}", turn)])
                    os._exit(0 if value_of(store, f"child-{turn}") == turn else 1)
                except BaseException:
                    os._exit(2)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        writer.join()
    assert [value_of(store, f"child-{turn}") for turn in range(5)] == list(range(5))


def test_removing_many_large_entries_lets_others_write_in_between(store: DiskStore) -> None:
    """A lease is given up for lost after 0.2 s."""
    for start in range(0, 1500, 250):
        store.put_many([entry(f"{number}", "x" * 30_000) for number in range(start, start + 250)])
    statements: list[str] = []
    database = store.open()
    database._con.set_trace_callback(statements.append)
    assert store.clear() == 1500
    database._con.set_trace_callback(None)
    # A statement is traced again for each row that a trigger changes.
    deleted = [text.count(",") + 1 for text in set(statements) if text.startswith("DELETE FROM Cache")]
    assert sum(deleted) == 1500
    assert max(deleted) <= 250
    assert database.execute("PRAGMA freelist_count").fetchone()[0] < 1000
    vacuumed = [text for text in statements if "incremental_vacuum" in text]
    assert 0 < len(vacuumed) < 50, "each gives back many pages"
