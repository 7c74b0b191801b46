"""The contract of stores."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from .._record import Record, Selection
from .._stores import MISS, Entry, Lease, Miss, Store, Use, dump
from .tools import in_threads

__all__ = ["StoreContract"]


def _entry(key: str, value: object, *, function: str = "f", tag: str = "", **given: Any) -> Entry:
    record = Record(
        key=key,
        function=function,
        tag=tag,
        seconds=0.5,
        arguments=given.pop("arguments", {}),
        created=given.pop("created", None) or datetime.now(UTC),
    )
    return Entry(dump(value), record)._replace(**given)


class StoreContract:
    """The tests that every store must pass. Provide the fixture `store`: a new, empty store for each test."""

    @staticmethod
    def _value(store: Store, key: str) -> Any:
        hit = store.get(key)
        return MISS if isinstance(hit, Miss) else hit.load()

    @staticmethod
    def _unwanted() -> bytes:
        raise AssertionError("nobody waits for this exception")

    @staticmethod
    def _is_refused(store: Store, key: Any) -> bool:
        try:
            store[key]
        except KeyError:
            return True
        return False

    def test_what_was_put_is_found_again(self, store: Store) -> None:
        """Values of all sizes come back equal, including falsy ones and None."""
        values: list[object] = [None, 0, "", [], {"a": [1, 2]}, b"x" * 100_000, "é" * 40_000]
        for number, value in enumerate(values):
            store.put_many([_entry(f"key-{number}", value)])
            assert self._value(store, f"key-{number}") == value

    def test_two_hits_share_no_object(self, store: Store) -> None:
        """A change that one caller makes to a value is invisible to another."""
        store.put_many([_entry("key", {"a": 1})])
        self._value(store, "key").clear()
        assert self._value(store, "key") == {"a": 1}

    def test_a_second_put_replaces_the_first(self, store: Store) -> None:
        """The last value of a key wins, and the key has one entry."""
        for value in ("old", "new"):
            store.put_many([_entry("key", value)])
            assert self._value(store, "key") == value
        assert len(store) == 1

    def test_a_bulk_lookup_finds_what_is_there(self, store: Store) -> None:
        """A lookup of many keys returns those that are stored, each with its own value."""
        store.put_many([_entry(f"key-{number}", number) for number in range(1200)])
        assert self._value(store, "key-7") == 7  # which a memory cache may have from now on
        found = store.get_many([*(f"key-{number}" for number in range(1200)), "absent"])
        assert {key: hit.load() for key, hit in found.items()} == {
            f"key-{number}": number for number in range(1200)
        }

    def test_a_removed_key_is_a_miss(self, store: Store) -> None:
        """Remove returns how many entries there were, and removes them."""
        store.put_many([_entry("key", 1)])
        assert store.has("key")
        assert (store.remove(["key", "other"]), store.remove(["key"])) == (1, 0)
        assert not store.get("key")
        assert not store.has("key")

    def test_clear_takes_what_is_chosen(self, store: Store) -> None:
        """Clear removes entries by function, tag, both, or all, and returns their number. The tag "" means none."""
        store.put_many([_entry(f"{f}{t}", 1, function=f, tag=t) for f in "fg" for t in ("", "a", "b")])
        assert store.clear(Selection(function="f", tag="a")) == 1
        assert store.clear(Selection(tag="a")) == 1
        assert store.clear(Selection(function="g")) == 2
        assert sorted(record.key for record in store.records()) == ["f", "fb"]
        assert store.clear(Selection(tag="")) == 1
        assert [record.key for record in store.records()] == ["fb"]
        assert store.clear() == 1
        assert (len(store), list(store.records())) == (0, [])

    def test_it_is_a_container_of_values_by_key(self, store: Store) -> None:
        """The store has a length, membership, item access, and lists its keys."""
        assert (len(store), list(store)) == (0, [])
        values = {"one": 1, "none": None, "many": [1, 2]}
        for key, value in values.items():
            store.put_many([_entry(key, value)])
        assert len(store) == 3
        assert list(store) == list(values)
        assert {key: store[key] for key in store} == values
        assert "one" in store
        for absent in ("two", "", 1, None, ("one",)):
            assert absent not in store
            assert self._is_refused(store, absent)

    def test_a_record_comes_back_as_it_was_put(self, store: Store) -> None:
        """All fields of a record survive, and records can be selected by function and tag."""
        entry = _entry("key", 1, function="module.f", tag="nightly")
        store.put_many([entry, _entry("other", 1)])
        (record,) = store.records(Selection(function="module.f", tag="nightly"))
        assert replace(record, size=0) == entry.record

    def test_a_closed_store_opens_again_by_itself(self, store: Store) -> None:
        """Close releases files, and loses nothing."""
        store.put_many([_entry("key", 1)])
        store.close()
        assert self._value(store, "key") == 1

    def test_threads_may_use_it_together(self, store: Store) -> None:
        """Eight threads can put and get at once."""

        def use(number: int) -> None:
            for turn in range(10):
                store.put_many([_entry(f"key-{number}-{turn}", (number, turn))])
                assert self._value(store, f"key-{number}-{turn}") == (number, turn)

        in_threads(8, use)
        assert len(store) == 80

    def test_a_large_value_comes_back_whole(self, store: Store) -> None:
        """A value of some megabytes, also as a read-only map where the store has one."""
        value = [bytes([number]) * 1_000_000 for number in range(4)]
        store.put_many([_entry("key", value)])
        for mapped in (False, True):
            hit = store.get("key", mapped)
            assert hit
            assert hit.load() == value  # type: ignore[union-attr]

    def test_a_hit_says_when_its_job_began_and_how_long_it_ran(self, store: Store) -> None:
        """Callers judge its age: an entry stays until it is removed, whatever its end."""
        entry = _entry("old", 1, expires=time.time() - 1)
        store.put_many([entry])
        for hit in (store.get("old"), store.get("old"), store.get_many(["old"])["old"]):
            assert not isinstance(hit, Miss)
            assert (hit.created, hit.seconds) == (entry.created, 0.5)
        assert store.has("old")
        assert [record.key for record in store.records()] == ["old"]

    def test_durations_are_known_without_values(self, store: Store) -> None:
        """`durations` returns those of the stored entries, without reading values."""
        store.put_many([_entry("key", 1)])
        assert store.durations(["key", "absent"]) == {"key": 0.5}

    def test_figures_count_entries_hits_and_misses(self, store: Store) -> None:
        """A lookup that is not to be counted is not, and a hit of memory is when it is reported."""
        store.put_many([_entry("key", 1), _entry("copy", 1, is_copy=True)])
        store.get("key")
        store.get_many(["key"])
        store.get_many(["key"], counts=False)
        store.count_uses([Use("key", 3, time.time(), 0.5)])
        figures = store.figures()
        assert (figures.entries, figures.total.hits, figures.total.misses) == (2, 5, 1)
        assert figures.total.seconds_saved == 2.5
        assert figures.size > 0

    def test_a_selection_is_evaluated_as_its_predicate_says(self, store: Store) -> None:
        """A selection is by function, tag, time and arguments."""
        noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        values = 1, 1.0, True, "1", None, {"lr": 1}
        for number, given in enumerate([*({"c": value} for value in values), {}]):
            began = noon + timedelta(hours=number)
            store.put_many([_entry(f"{number}", 1, tag="ab"[number % 2], created=began, arguments=given)])
        everything = list(store.records())
        for selection in (
            Selection(tag="a", since=noon + timedelta(hours=1)),
            Selection(until=noon + timedelta(hours=2)),
            Selection(where={"c": 1}),
            Selection(where={"c": None}),
            Selection(where=Selection.parse_where("c=1")),
            Selection(where=Selection.parse_where("c.lr=1")),
            Selection(where={"c": {"lr": 1}}),
            Selection(function="g"),
        ):
            chosen = [record.key for record in everything if selection.matches(record)]
            assert [record.key for record in store.records(selection)] == chosen

    def test_removals_and_replacements_change_the_mark(self, store: Store) -> None:
        """New entries don't, but they change the stamp of the history."""
        mark, stamp = store.changed_since(None), store.history.stamp()
        store.put_many([_entry("key", 1)])
        mark = store.changed_since(mark) or mark  # the store may have been opened just now
        assert store.history.stamp() != stamp
        store.put_many([_entry("other", 1)])
        assert store.changed_since(mark) is None
        for change in (
            lambda: store.put_many([_entry("key", 2)]),
            lambda: store.remove(["key"]),
            store.clear,
        ):
            stamp = store.history.stamp()
            change()
            assert store.history.stamp() != stamp
            now = store.changed_since(mark)
            assert now is not None
            assert store.changed_since(now) is None
            mark = now

    def test_a_lease_excludes_others_until_it_is_released(self, store: Store) -> None:
        """Also among the threads of a process; leases that are not held may be released."""
        first, second, other = Lease("key"), Lease("key"), Lease("other")
        store.leases.acquire([first])
        store.leases.acquire([second, other])
        assert (first.held, second.held, other.held) == (True, False, True)
        store.leases.release([second])
        store.leases.acquire([second])
        assert not second.held
        store.leases.release([first, other])
        assert (first.held, other.held) == (False, False)
        third = Lease("key")
        store.leases.acquire([third])
        assert third.held
        assert store.leases.taken(["absent"]) == set()
        store.leases.release([third])

    def test_only_one_of_many_threads_holds_a_lease(self, store: Store) -> None:
        """The first of them holds it."""
        leases = [Lease("key") for _ in range(8)]
        start = threading.Barrier(len(leases))

        def acquire(number: int) -> None:
            start.wait()
            store.leases.acquire([leases[number]])

        in_threads(len(leases), acquire)
        assert sum(lease.held for lease in leases) == 1
        store.leases.release(leases)

    def test_a_commit_releases_its_lease(self, store: Store) -> None:
        """The next lease of the key says that there is an entry."""
        lease, late = Lease("key"), Lease("key")
        store.leases.acquire([lease])
        assert (lease.held, lease.has_entry) == (True, False)
        assert not store.put_many([_entry("key", 1, lease=lease)])
        store.leases.acquire([late])
        assert (late.held, late.has_entry) == (True, True)
        store.leases.release([late])

    def test_an_entry_whose_lease_was_lost_is_not_stored(self, store: Store) -> None:
        """The others of the same commit are."""
        lost, mine = Lease("key"), Lease("key")
        store.leases.acquire([lost])
        store.leases.release([lost])
        store.leases.acquire([mine])
        stored = store.put_many([_entry("key", "late", lease=lost), _entry("other", 1)])
        assert dict(stored) == {"key": MISS}
        assert (store.has("key"), store.has("other")) == (False, True)
        store.put_many([_entry("key", "mine", lease=mine)])
        assert self._value(store, "key") == "mine"

    def test_a_waiter_sees_that_a_lease_is_released(self, store: Store) -> None:
        """And until then that its job runs, and where."""
        lease = Lease("key")
        store.leases.acquire([lease])
        wait = store.leases.wait(Lease("key"))
        assert (wait.look(), wait.look()) == ("running", "running")
        assert wait.owner is None or wait.owner.pid == os.getpid()
        store.put_many([_entry("key", 1, lease=lease)])
        assert wait.look() == "free"

    def test_a_waiter_gets_the_failure_of_a_job(self, store: Store) -> None:
        """It gets the bytes of the exception, which are made only if somebody waits. The next lease starts again."""
        lease = Lease("key")
        store.leases.acquire([lease])
        wait = store.leases.wait(Lease("key"))
        seen = [wait.look()]
        store.leases.fail(lease, lambda: b"exception")
        seen.append(wait.look())
        assert seen == ["running", b"exception"]
        again = Lease("key")
        store.leases.acquire([again])
        store.leases.fail(again, self._unwanted)
        assert store.leases.wait(Lease("key")).look() == "free"

    def test_a_running_job_says_what_it_is(self, store: Store) -> None:
        """Its function and its arguments, as records show them."""
        lease = Lease("key", "module.f", {"c": 1, "model": "svm"})
        store.leases.acquire([lease])
        (job,) = store.leases.running()
        assert (job.key, job.function, dict(job.arguments)) == ("key", "module.f", {"c": 1, "model": "svm"})
        store.leases.release([lease])
        assert store.leases.running() == []

    def test_it_says_what_it_can_do(self, store: Store) -> None:
        """As data."""
        assert store.keeps
        assert store.folder is None or store.folder.is_absolute()
        assert store.tally.damaged == 0
