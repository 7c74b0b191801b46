"""What is committed under a lease, what a waiter is told, and what expires."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import Record
from bencher_job._stores import (
    MISS,
    Entry,
    Hit,
    Lease,
    NullStore,
    StoreFailure,
    database,
    dump,
    open_store,
)
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import MemoryTier
from tests.leasing import acquired, taken_over


def entry(key: str, value: object, **given: object) -> Entry:
    return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC)))._replace(**given)


def acquire(store: DiskStore | MemoryTier | NullStore, key: str) -> Lease:
    lease = Lease(key)
    assert acquired(store, lease)
    return lease


def value_of(store: DiskStore | MemoryTier, key: str) -> object:
    hit = store.get(key)
    return hit.load() if isinstance(hit, Hit) else MISS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryTier]:
    store = MemoryTier(DiskStore(tmp_path / "store", size_limit=10**9))
    yield store
    store.close()


def elsewhere(script: str, store: MemoryTier, *arguments: str) -> subprocess.Popen[str]:
    """Run a script in a process of its own, with the store opened."""
    opening = """
        import sys, time
        from datetime import UTC, datetime
        from pathlib import Path
        from bencher_job import Record
        from bencher_job._stores import Lease, Entry, dump, open_store
        store = open_store(Path(sys.argv[1]), size_limit=10**9)
        def acquire(store, key):
            lease = Lease(key)
            store.leases.acquire([lease])
            return lease if lease.held else None
        def entry(key, value, lease=None):
            return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC)), lease=lease)
    """
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(opening) + textwrap.dedent(script),
            store.directory,
            *arguments,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_commit_releases_its_lease(store: MemoryTier) -> None:
    lease = acquire(store, "key")
    assert store.put_many([entry("key", 1, lease=lease)]) == {}
    assert store.leases.owner_of("key") is None
    assert value_of(store, "key") == 1


def test_a_lease_that_was_lost_keeps_its_entry_out_and_the_others_go_in(store: MemoryTier) -> None:
    mine, other = acquire(store, "mine"), acquire(store, "other")
    assert taken_over(store, Lease("mine"), mine.number)
    large = "x" * IN_ROW_BELOW
    entries = [entry("mine", large, lease=mine), entry("other", 2, lease=other), entry("without", 3)]
    assert store.put_many(entries) == {"mine": MISS}
    assert [value_of(store, key) for key in ("mine", "other", "without")] == [MISS, 2, 3]
    assert list(store.directory.glob("*/*/*.val")) == []
    assert store.leases.owner_of("mine") is not None
    assert store.leases.owner_of("other") is None


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_of_two_entries_of_one_key_that_goes_in_whose_lease_is_held(
    store: MemoryTier, is_there: bool, order: int
) -> None:
    """As of a run that was abandoned, and of the one that came after it."""
    if is_there:
        store.put_many([entry("key", "before")])
    abandoned = acquire(store, "key")
    store.leases.release([abandoned])
    held = acquire(store, "key")
    large = "x" * IN_ROW_BELOW
    entries = [entry("key", f"old {large}", lease=abandoned), entry("key", f"new {large}", lease=held)]
    assert store.put_many(entries[::order]) == {"key": MISS}
    assert value_of(store, "key") == f"new {large}"
    assert len(list(store.directory.glob("*/*/*.val"))) == 1
    assert store.leases.owner_of("key") is None


def test_an_owner_that_was_stopped_can_not_overwrite_its_successor(store: MemoryTier) -> None:
    script = """
        lease = acquire(store, "key")
        print("acquired", flush=True)
        sys.stdin.readline()
        print(*store.put_many([entry("key", "late", lease)]), flush=True)
    """
    with elsewhere(script, store) as owner:
        assert owner.stdout.readline() == "acquired\n"
        os.kill(owner.pid, signal.SIGSTOP)
        known = store.leases.owner_of("key")
        lease = Lease("key")
        assert taken_over(store, lease, known.number)
        store.put_many([entry("key", "successor's", lease=lease)])
        os.kill(owner.pid, signal.SIGCONT)
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert owner.stdout.readline() == "key\n"
    assert value_of(store, "key") == "successor's"


def test_an_entry_that_can_not_be_written_keeps_its_lease(
    store: MemoryTier,
) -> None:
    lease = acquire(store, "key")

    def refuse(action: int, what: str | None, *_: object) -> int:
        is_commit = action == sqlite3.SQLITE_TRANSACTION and what == "COMMIT"
        return sqlite3.SQLITE_DENY if is_commit else sqlite3.SQLITE_OK

    connection = store.behind.open()._con
    connection.set_authorizer(refuse)
    with pytest.raises(StoreFailure, match="not authorized"):
        store.put_many([entry("key", 1, lease=lease)])
    connection.set_authorizer(None)
    assert store.leases.owner_of("key") is not None
    store.leases.release([lease])


def test_the_lease_that_a_commit_has_released_tells_of_its_entry(store: MemoryTier) -> None:
    """A result that another process stores between a miss and the lease is found, so its job doesn't run again."""
    script = """
        lease = acquire(store, "key")
        print("acquired", flush=True)
        sys.stdin.readline()
        store.put_many([entry("key", 1, lease)])
    """
    with elsewhere(script, store) as owner:
        assert owner.stdout.readline() == "acquired\n"
        assert not store.get("key")
        lease = Lease("key")
        assert not acquired(store, lease)
        owner.stdin.write("\n")
        owner.stdin.flush()
        while not acquired(store, lease):
            pass
        assert lease.has_entry
    assert value_of(store, "key") == 1
    assert not acquire(store, "other").has_entry


def test_processes_that_commit_the_same_keys_lose_none(store: MemoryTier) -> None:
    """Four processes put and replace entries under leases at once: all are there and counted, and no lease is left."""
    script = """
        me = int(sys.argv[2])
        sys.stdin.readline()
        for number in range(60):
            key = f"key-{number}"
            lease = acquire(store, key)
            store.put_many([entry(key, number, lease), entry(f"own-{me}-{number}", me)])
            store.get(key)
    """
    processes = [elsewhere(script, store, str(number)) for number in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 4
    for process in processes:
        process.stdout.close()
    assert len(store) == 60 + 4 * 60
    assert {value_of(store, f"key-{number}") == number for number in range(60)} == {True}
    assert {store.leases.owner_of(f"key-{number}") for number in range(60)} == {None}


def test_a_process_that_is_killed_before_its_commit_leaves_nothing(store: MemoryTier) -> None:
    script = """
        import os, signal
        def kill(statement):
            if statement == "COMMIT":
                os.kill(os.getpid(), signal.SIGKILL)
        lease = acquire(store, "key")
        store.behind.open()._con.set_trace_callback(kill)
        store.put_many([entry("key", "x" * 100_000, lease)])
    """
    store.put_many([entry("other", 1)])
    with elsewhere(script, store) as killed:
        assert killed.wait(60) == -signal.SIGKILL
    assert not store.get("key")
    assert store.leases.owner_of("key") is None
    assert store.put_many([entry("key", 2, lease=acquire(store, "key"))]) == {}
    assert value_of(store, "key") == 2
    assert len(store) == 2


def test_a_failure_reaches_who_waits_and_releases_the_lease(store: MemoryTier) -> None:
    lease = acquire(store, "key")
    with elsewhere(
        """
        number = int(sys.argv[2])
        store.leases.tell_of_waiter("key", number)
        print("waits", flush=True)
        while store.leases.owner_of("key") is not None:
            time.sleep(0.001)
        print(store.leases.failure("key", number), store.leases.failure("key", number + 1), flush=True)
        """,
        store,
        str(lease.number),
    ) as waiter:
        assert waiter.stdout.readline() == "waits\n"
        store.leases.fail(lease, lambda: b"pickled")
        assert waiter.stdout.readline() == "b'pickled' None\n"


def test_a_failure_that_nobody_waits_for_is_not_kept(store: MemoryTier) -> None:
    lease = acquire(store, "key")
    store.leases.fail(lease, lambda: b"pickled")
    assert store.leases.failure("key", lease.number) is None
    assert store.leases.owner_of("key") is None


def test_a_failure_is_verified_and_goes_after_a_minute(store: MemoryTier) -> None:
    published = []
    for key in ("damaged", "moved", "old"):
        lease = acquire(store, key)
        store.leases.tell_of_waiter(key, lease.number)
        store.leases.fail(lease, lambda: b"pickled")
        published.append(lease)
        assert store.leases.failure(key, lease.number) == b"pickled"
    with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as database:
        database.execute("UPDATE Failure SET error = substr(error, 1, 50) WHERE key = 'damaged'")
        database.execute("UPDATE Failure SET number = number + 1000 WHERE key = 'moved'")
        database.execute("UPDATE Failure SET at = at - 61 WHERE key = 'old'")
    assert store.leases.failure("damaged", published[0].number) is None
    assert store.leases.failure("moved", published[1].number + 1000) is None
    lease = acquire(store, "new")
    store.leases.tell_of_waiter("new", lease.number)
    store.leases.fail(lease, lambda: b"pickled")
    assert store.leases.failure("old", published[2].number) is None
    assert store.leases.failure("new", lease.number) == b"pickled"


def test_the_null_store_grants_every_lease() -> None:
    store = NullStore()
    first, second = acquire(store, "key"), acquire(store, "key")
    assert (first.held, second.held) == (True, True)
    assert store.leases.wait(first).look() == "free"
    store.leases.fail(first, lambda: b"error")
    assert not first.held


def test_a_closed_store_gives_leases_again(store: MemoryTier) -> None:
    store.close()
    lease = acquire(store, "key")
    store.put_many([entry("key", 1, lease=lease)])
    assert value_of(store, "key") == 1


def test_beyond_the_size_limit_what_has_expired_goes_first(store: MemoryTier) -> None:
    soon = time.time() + 0.5
    store.put_many(
        [entry("kept", 1), *(entry(key, 1, expires=soon) for key in ("replaced", "removed", "used"))]
    )
    store.put_many([entry("replaced", 2, expires=time.time() + 60)])
    store.behind._evict()
    assert len(store) == 4, "there is room for all of them"
    time.sleep(max(0.0, soon - time.time()))
    assert value_of(store, "used") == 1
    store.behind.size_limit = 4 * 512
    store.history
    store.behind._evict()
    assert {record.key for record in store.records()} == {"kept", "replaced", "used"}
    assert (store.tally.expired, store.tally.evicted) == (1, 0)
    assert store.history.examine("removed").reason == "expired"


def test_a_clock_that_was_very_wrong_stops_nothing(store: MemoryTier) -> None:
    store.put_many([entry("key", 1, expires=1e300), entry("other", 2, expires=-1e300)])
    with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as database:
        database.execute("UPDATE Cache SET access_time = 1e300")
    assert (value_of(store, "key"), value_of(store, "other")) == (1, 2)
    store.behind._evict()
    assert len(list(store.records())) == 2


def test_open_stores_share_their_leases(tmp_path: Path) -> None:
    stores = [open_store(tmp_path / "store", size_limit=10**9) for _ in range(2)]
    assert stores[0].leases is stores[1].leases
    stores[0].close()


def test_a_thread_whose_turn_never_ends_stops_nobody(
    store: MemoryTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt at the wrong moment may leave the turn taken; the database's own lock is what counts."""
    monkeypatch.setattr("bencher_job._stores.database.LONGEST_TURN", 0.05)
    store.behind.open().turn.acquire()
    store.put_many([entry("key", 1)])
    assert value_of(store, "key") == 1
    assert not store.behind.open().turn.locked()


def test_an_interrupt_while_a_commit_waits_leaves_the_database_to_others(store: MemoryTier) -> None:
    """Python raises it when SQLite has begun the transaction, so there is one to undo."""
    store.put_many([entry("kept", 1)])
    begun: queue.SimpleQueue[str] = queue.SimpleQueue()
    path = store.directory / "cache.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def interrupt() -> None:
            while begun.get(timeout=60) != "BEGIN IMMEDIATE":
                pass
            os.kill(os.getpid(), signal.SIGINT)
            other.rollback()

        store.behind.open()._con.set_trace_callback(begun.put)
        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            store.put_many([entry("interrupted", 2)])
        interrupter.join()
        other.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        other.rollback()
    store.put_many([entry("later", 3)])
    assert value_of(store, "interrupted") is MISS
    assert value_of(store, "later") == 3


def test_a_transaction_that_an_interrupt_has_left_open_is_undone_by_the_next(
    store: MemoryTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second interrupt may come while the first is handled."""
    monkeypatch.setattr(database, "LONGEST_TURN", 0.5)
    store.put_many([entry("kept", 1)])
    store.behind.open().execute("BEGIN IMMEDIATE")
    store.put_many([entry("later", 2)])
    assert value_of(store, "later") == 2
