"""What is committed under a claim, what a waiter is told, and what expires."""

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
    Claim,
    ClaimsUnavailable,
    Entry,
    Gone,
    Hit,
    NullStore,
    StoreFailure,
    dump,
    open_store,
)
from bencher_job._stores.database import IN_ROW_BELOW, Transaction
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import MemoryTier


def entry(key: str, value: object, **given: object) -> Entry:
    return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC)))._replace(**given)


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
        from bencher_job._stores import Claim, Entry, dump, open_store
        store = open_store(Path(sys.argv[1]), size_limit=10**9)
        def entry(key, value, claim=None):
            return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC)), claim=claim)
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


def test_a_commit_releases_its_claim(store: MemoryTier) -> None:
    claim = store.claims.claim("key")
    assert store.put_many([entry("key", 1, claim=claim)]) == frozenset()
    assert store.claims.owner("key") is None
    assert value_of(store, "key") == 1


def test_a_claim_that_was_lost_keeps_its_entry_out_and_the_others_go_in(store: MemoryTier) -> None:
    mine, other = store.claims.claim("mine"), store.claims.claim("other")
    assert mine is not None
    assert store.claims.take_over("mine", mine.number) is not None
    large = "x" * IN_ROW_BELOW
    entries = [entry("mine", large, claim=mine), entry("other", 2, claim=other), entry("unclaimed", 3)]
    assert store.put_many(entries) == {"mine"}
    assert [value_of(store, key) for key in ("mine", "other", "unclaimed")] == [MISS, 2, 3]
    assert list(store.directory.glob("*/*/*.val")) == []
    assert store.claims.owner("mine") is not None
    assert store.claims.owner("other") is None


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_of_two_entries_of_one_key_that_goes_in_whose_claim_is_held(
    store: MemoryTier, is_there: bool, order: int
) -> None:
    """As of a run that was abandoned, and of the one that came after it."""
    if is_there:
        store.put_many([entry("key", "before")])
    abandoned = store.claims.claim("key")
    assert abandoned is not None
    store.claims.release([abandoned])
    held = store.claims.claim("key")
    large = "x" * IN_ROW_BELOW
    entries = [entry("key", f"old {large}", claim=abandoned), entry("key", f"new {large}", claim=held)]
    assert store.put_many(entries[::order]) == {"key"}
    assert value_of(store, "key") == f"new {large}"
    assert len(list(store.directory.glob("*/*/*.val"))) == 1
    assert store.claims.owner("key") is None


def test_an_owner_that_was_stopped_can_not_overwrite_its_successor(store: MemoryTier) -> None:
    script = """
        claim = store.claims.claim("key")
        print("claimed", flush=True)
        sys.stdin.readline()
        print(*store.put_many([entry("key", "late", claim)]), flush=True)
    """
    with elsewhere(script, store) as owner:
        assert owner.stdout.readline() == "claimed\n"
        os.kill(owner.pid, signal.SIGSTOP)
        known = store.claims.owner("key")
        claim = store.claims.take_over("key", known.number)
        store.put_many([entry("key", "successor's", claim=claim)])
        os.kill(owner.pid, signal.SIGCONT)
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert owner.stdout.readline() == "key\n"
    assert value_of(store, "key") == "successor's"


@pytest.mark.parametrize("when", ["before", "after"])
def test_claims_that_fail_around_the_commit_stop_no_result(
    store: MemoryTier, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    claim = store.claims.claim("key")

    def fail(*_: object) -> None:
        raise ClaimsUnavailable("on purpose")

    if when == "before":
        monkeypatch.setattr("bencher_job._stores.leases.Held", fail)
    else:
        monkeypatch.setattr("bencher_job._stores.leases.Held.release", fail)
    assert store.put_many([entry("key", 1, claim=claim)]) == frozenset()
    monkeypatch.undo()
    assert value_of(store, "key") == 1
    assert store.count() == 1


def test_an_entry_that_can_not_be_written_keeps_its_claim(
    store: MemoryTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = store.claims.claim("key")

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Transaction, "commit", fail)
    with pytest.raises(StoreFailure, match="full"):
        store.put_many([entry("key", 1, claim=claim)])
    assert store.claims.owner("key") is not None
    store.claims.release([claim])


def test_a_commit_of_another_process_changes_puts_before_its_claim_is_released(store: MemoryTier) -> None:
    store.put_many([entry("first", 1)])
    before = store.puts
    script = """
        claim = store.claims.claim("key")
        print("claimed", flush=True)
        sys.stdin.readline()
        store.put_many([entry("key", 1, claim)])
    """
    with elsewhere(script, store) as owner:
        assert owner.stdout.readline() == "claimed\n"
        assert not store.get("key")
        assert store.puts == before
        owner.stdin.write("\n")
        owner.stdin.flush()
        while store.claims.owner("key") is not None:
            time.sleep(0.001)
        assert store.puts != before
    assert value_of(store, "key") == 1


def test_processes_that_commit_the_same_keys_lose_none(store: MemoryTier) -> None:
    """Four processes put, replace and claim at once: all entries are there, counted right, and no claim is left."""
    script = """
        me = int(sys.argv[2])
        sys.stdin.readline()
        for number in range(60):
            key = f"key-{number}"
            claim = store.claims.claim(key)
            store.put_many([entry(key, number, claim), entry(f"own-{me}-{number}", me)])
            store.get(key)
    """
    processes = [elsewhere(script, store, str(number)) for number in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 4
    for process in processes:
        process.stdout.close()
    assert store.count() == 60 + 4 * 60
    assert {value_of(store, f"key-{number}") == number for number in range(60)} == {True}
    assert {store.claims.owner(f"key-{number}") for number in range(60)} == {None}


def test_a_process_that_is_killed_before_its_commit_leaves_nothing(store: MemoryTier) -> None:
    script = """
        import os, signal
        from bencher_job._stores.database import Transaction
        Transaction.commit = lambda self: os.kill(os.getpid(), signal.SIGKILL)
        claim = store.claims.claim("key")
        store.put_many([entry("key", "x" * 100_000, claim)])
    """
    store.put_many([entry("other", 1)])
    with elsewhere(script, store) as killed:
        assert killed.wait(30) == -signal.SIGKILL
    assert not store.get("key")
    assert store.claims.owner("key") is None
    assert store.put_many([entry("key", 2, claim=store.claims.claim("key"))]) == frozenset()
    assert value_of(store, "key") == 2
    assert store.count() == 2


def test_a_failure_reaches_who_waits_and_releases_the_claim(store: MemoryTier) -> None:
    claim = store.claims.claim("key")
    with elsewhere(
        """
        number = int(sys.argv[2])
        assert store.claims.wait_for("key", number)
        print("waits", flush=True)
        while store.claims.owner("key") is not None:
            time.sleep(0.001)
        print(store.failure("key", number), store.failure("key", number + 1), flush=True)
        """,
        store,
        str(claim.number),
    ) as waiter:
        assert waiter.stdout.readline() == "waits\n"
        store.publish_failure(claim, b"pickled")
        assert waiter.stdout.readline() == "b'pickled' None\n"


def test_a_failure_that_nobody_waits_for_is_not_kept(store: MemoryTier) -> None:
    claim = store.claims.claim("key")
    store.publish_failure(claim, b"pickled")
    assert store.failure("key", claim.number) is None
    assert store.claims.owner("key") is None


def test_a_failure_is_verified_and_goes_after_a_minute(store: MemoryTier) -> None:
    published = []
    for key in ("damaged", "moved", "old"):
        claim = store.claims.claim(key)
        store.claims.wait_for(key, claim.number)
        store.publish_failure(claim, b"pickled")
        published.append(claim)
        assert store.failure(key, claim.number) == b"pickled"
    with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as database:
        database.execute("UPDATE Failure SET error = substr(error, 1, 50) WHERE key = 'damaged'")
        database.execute("UPDATE Failure SET number = number + 1000 WHERE key = 'moved'")
        database.execute("UPDATE Failure SET at = at - 61 WHERE key = 'old'")
    assert store.failure("damaged", published[0].number) is None
    assert store.failure("moved", published[1].number + 1000) is None
    claim = store.claims.claim("new")
    store.claims.wait_for("new", claim.number)
    store.publish_failure(claim, b"pickled")
    assert store.failure("old", published[2].number) is None
    assert store.failure("new", claim.number) == b"pickled"


def test_the_null_store_grants_every_claim() -> None:
    store = NullStore()
    claim = store.claims.claim("key")
    assert claim == store.claims.claim("key") == Claim("key", 0)
    assert store.claims.owner("key") is None
    with store.claims.turn, store.claims.holding([claim]) as held:
        assert held.keys == {"key"}
        held.release()
    store.publish_failure(claim, b"error")
    assert store.failure("key", 0) is None
    assert store.put_many([entry("key", 1, claim=claim)]) == frozenset()


def test_a_closed_store_claims_again(store: MemoryTier) -> None:
    store.close()
    claim = store.claims.claim("key")
    store.put_many([entry("key", 1, claim=claim)])
    assert value_of(store, "key") == 1


@pytest.mark.parametrize("number", [1, 2, 1000])
def test_an_expired_entry_is_a_miss_everywhere(store: MemoryTier, number: int) -> None:
    lifetime, soon = 0.3, 0.0
    while time.time() >= soon:  # on a busy machine they may expire while they are written
        soon = time.time() + lifetime
        store.put_many([entry(f"key-{each}", each, expires=soon) for each in range(number)])
        values = value_of(store, "key-0"), value_of(store, "key-0")  # the second one from memory
        lifetime *= 2
    assert values == (0, 0)
    time.sleep(max(0.0, soon - time.time()) + 0.01)
    assert not store.get("key-0")
    assert store.get_many(["key-0"]) == {}
    assert store.durations(["key-0"]) == {}
    assert not store.has("key-0")
    assert list(store.records()) == []
    gone = store.history.examine("key-0")
    assert isinstance(gone, Gone)
    assert (gone.reason, gone.at.timestamp()) == ("expired", pytest.approx(soon))


def test_an_expired_entry_is_replaced_or_removed_by_the_next_look(store: MemoryTier) -> None:
    past = time.time() - 1
    store.put_many([entry("kept", 1)])
    store.put_many([entry("replaced", 1, expires=past), entry("removed", 1, expires=past)])
    assert store.count() == 3
    store.put_many([entry("replaced", 2, expires=time.time() + 60)])
    assert value_of(store, "replaced") == 2
    store._store._evict()
    assert store.count() == 2
    assert store.tally.expired == 1
    assert store.history.examine("removed").reason == "expired"


def test_a_clock_that_was_very_wrong_stops_nothing(store: MemoryTier) -> None:
    store.put_many([entry("key", 1, expires=1e300), entry("other", 2, expires=-1e300)])
    with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as database:
        database.execute("UPDATE Cache SET access_time = 1e300, store_time = -5, created = 0")
    assert value_of(store, "key") == 1
    assert not store.get("other")
    assert store.history.examine("other").reason == "expired"
    store._store._evict()
    assert len(list(store.records())) == 1


def test_open_stores_share_their_claims(tmp_path: Path) -> None:
    stores = [open_store(tmp_path / "store", size_limit=10**9) for _ in range(2)]
    assert stores[0].claims is stores[1].claims
    stores[0].close()


def test_a_thread_whose_turn_never_ends_stops_nobody(
    store: MemoryTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt at the wrong moment may leave the turn taken; the database's own lock is what counts."""
    monkeypatch.setattr("bencher_job._stores.database.LONGEST_TURN", 0.05)
    store._store.open().turn.acquire()
    store.put_many([entry("key", 1)])
    assert value_of(store, "key") == 1
    assert not store._store.open().turn.locked()


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

        store._store.open()._con.set_trace_callback(begun.put)
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


def test_a_transaction_that_an_interrupt_has_left_open_is_undone_by_the_next(store: MemoryTier) -> None:
    """An interrupt may come before the first step of a transaction's end."""
    store.put_many([entry("kept", 1)])
    store._store.open().transaction().__enter__()
    store.put_many([entry("later", 2)])
    assert value_of(store, "later") == 2
