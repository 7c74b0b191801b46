"""The contract of stores."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from .._keys import StoredFunctionVersion
from .._query import Condition, Order, Query
from .._record import EVERYTHING, FailedJob, Record, Selection, code_label, short_form
from .._stores import MISS, Entry, Found, Gone, Lease, Miss, Store, Use, dump
from .._stores.blobs import write_blob

__all__ = ["StoreContract"]


_VERSION: Final = StoredFunctionVersion(
    b"prefix", "f", 1, "fingerprint", "2", ("c",), {"f": "digest"}, {"f": "code"}
)


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


def _version(number: int, version: str = "") -> StoredFunctionVersion:
    fingerprint = f"{number:064x}"
    prefix = sha256(f"{fingerprint} {version}".encode()).digest()
    return StoredFunctionVersion(prefix, "f", 1, fingerprint, version, ("c",), {"f": f"{number:016x}"}, {})


def _failed(key: str, created: datetime) -> FailedJob:
    arguments = {"key": key}
    record = Record(key=key, function="f", arguments=arguments, created=created, seconds=0.5, host="atlas")
    return FailedJob(record, "ValueError: no", "Traceback\nValueError: no\n")


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

    def test_a_key_that_was_never_put_is_a_miss(self, store: Store) -> None:
        """Nothing is found in an empty store."""
        assert not store.get("nothing")

    def test_what_was_put_is_found_again(self, store: Store) -> None:
        """Values of all sizes come back equal, including falsy ones and None."""
        values: list[object] = [None, 0, "", [], {"a": [1, 2]}, b"x" * 100_000, "é" * 40_000]
        for number, value in enumerate(values):
            store.put_many([_entry(f"key-{number}", value)])
            assert self._value(store, f"key-{number}") == value

    def test_a_hit_knows_how_long_its_function_ran(self, store: Store) -> None:
        """The duration of the record comes with the hit."""
        store.put_many([_entry("key", 1)])
        hit = store.get("key")
        assert hit
        assert hit.seconds == 0.5  # type: ignore[union-attr]

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
        store.remove(["one"])
        assert ("one" in store, len(store)) == (False, 2)

    def test_a_record_comes_back_as_it_was_put(self, store: Store) -> None:
        """All fields of a record survive, and records can be selected by function and tag."""
        entry = _entry("key", 1, function="module.f", tag="nightly")
        store.put_many([entry, _entry("other", 1)])
        (record,) = store.records(Selection(function="module.f", tag="nightly"))
        assert (record.key, record.tag, record.seconds, record.created) == (
            "key",
            "nightly",
            0.5,
            entry.record.created,
        )

    def test_a_closed_store_opens_again_by_itself(self, store: Store) -> None:
        """Close releases files, and loses nothing."""
        store.put_many([_entry("key", 1)])
        store.close()
        assert self._value(store, "key") == 1

    def test_threads_may_use_it_together(self, store: Store) -> None:
        """Eight threads can put and get at once."""
        failures = []

        def use(number: int) -> None:
            try:
                for turn in range(10):
                    store.put_many([_entry(f"key-{number}-{turn}", (number, turn))])
                    assert self._value(store, f"key-{number}-{turn}") == (number, turn)
            except BaseException as error:  # noqa: BLE001 - reported below
                failures.append(error)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(store) == 80

    def test_a_large_value_comes_back_whole(self, store: Store) -> None:
        """A value of some megabytes, also as a read-only map where the store has one."""
        value = [bytes([number]) * 1_000_000 for number in range(4)]
        store.put_many([_entry("key", value)])
        for mapped in (False, True):
            hit = store.get("key", mapped)
            assert hit
            assert hit.load() == value  # type: ignore[union-attr]

    def test_large_entries_are_left_out_of_a_bulk_lookup(self, store: Store) -> None:
        """With `largest`, which counts bytes."""
        store.put_many([_entry("small", 1), _entry("large", os.urandom(1_000_000))])
        assert set(store.get_many(["small", "large"], largest=500_000, counts=False)) == {"small"}

    def test_a_hit_says_when_its_job_began(self, store: Store) -> None:
        """Callers judge its age: an entry stays until it is removed, whatever its end."""
        entry = _entry("old", 1, expires=time.time() - 1)
        store.put_many([entry])
        for hit in (store.get("old"), store.get("old"), store.get_many(["old"])["old"]):
            assert not isinstance(hit, Miss)
            assert hit.created == entry.created
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

    def test_functions_have_figures(self, store: Store) -> None:
        """Of their entries, sorted by name."""
        store.put_many([_entry("a", 1, function="g", tag="t"), _entry("b", 1), _entry("c", 1)])
        store.get("a")
        first, second = store.functions()
        assert [(each.name, each.entries, each.hits, each.tags) for each in (first, second)] == [
            ("f", 2, 0, ()),
            ("g", 1, 1, ("t",)),
        ]
        assert second.seconds_saved == 0.5

    def test_entries_are_selected_by_versions_of_the_code(self, store: Store) -> None:
        """By pairs of a fingerprint and a version; those whose key was given have neither."""
        one, two, again = _version(1), _version(2), _version(1, "2")
        for number, version in enumerate((one, one, two, again, None)):
            store.put_many([_entry(f"k{number}", 1, function_version=version)])
        chosen = {(one.fingerprint, ""), ("", "")}
        selection, query = Selection(function="f", versions=chosen), Query("f", versions=chosen)
        assert {record.key for record in store.records(selection)} == {"k0", "k1", "k4"}
        assert set(store.history.find(query)) == {"k0", "k1", "k4"}
        label = code_label(again.fingerprint, again.version)
        assert store.history.find(Query("f", (("code", Condition("=", label)),))) == ["k3"]
        (function,) = store.functions()
        found = {(each.fingerprint, each.version): each.entries for each in function.versions}
        assert found == {
            (one.fingerprint, ""): 2,
            (two.fingerprint, ""): 1,
            (one.fingerprint, "2"): 1,
            ("", ""): 1,
        }
        assert store.clear(selection) == 3
        assert sorted(store) == ["k2", "k3"]

    def test_the_version_that_was_used_last_is_the_latest(self, store: Store) -> None:
        """Stored or hit, whichever its age; a lookup that is not to be counted uses nothing."""
        one, two = _version(1), _version(2)
        noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        store.put_many([_entry("k1", 1, function_version=one, created=noon)])
        later = noon + timedelta(hours=1)
        store.put_many([_entry("k2", 1, function_version=two, created=later)])
        store.get_many(["k1"], counts=False)
        assert [each.fingerprint for each in store.functions()[0].versions] == [
            two.fingerprint,
            one.fingerprint,
        ]
        store.get("k1")
        latest, other = store.functions()[0].versions
        assert (latest.fingerprint, latest.first_seen) == (one.fingerprint, noon)
        assert (other.fingerprint, other.first_seen) == (two.fingerprint, later)
        assert store.functions()[0].latest() == {(one.fingerprint, ""), ("", "")}

    def test_the_latest_records_come_oldest_first(self, store: Store) -> None:
        """`latest` limits the number of the selected records."""
        noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        times = [noon + timedelta(minutes=minutes) for minutes in (3, 1, 2)]
        store.put_many([_entry(f"k{n}", 1, created=at, arguments={"n": n}) for n, at in enumerate(times)])
        assert [record.key for record in store.records()] == ["k1", "k2", "k0"]
        assert [record.key for record in store.records(latest=2)] == ["k2", "k0"]
        selection = Selection(where={"n": lambda n: n > 0})
        assert [record.key for record in store.records(selection, latest=1)] == ["k2"]
        assert store.clear(selection) == 2
        assert [*store] == ["k0"]

    def test_a_record_keeps_arguments_in_short_form(self, store: Store) -> None:
        """Large values become a short text, so that no store keeps them."""
        given = {"text": "x" * 1000, "c": 1, "list": [1, 2], "cfg": {"lr": 0.1, "layers": [8]}}
        store.put_many([_entry("key", 1, arguments=given)])
        (record,) = store.records()
        kept = {"text": short_form("x" * 1000), "c": 1, "list": "[1, 2]", "cfg.lr": 0.1, "cfg.layers": "[8]"}
        assert dict(record.arguments) == kept

    def test_a_selection_is_evaluated_as_its_predicate_says(self, store: Store) -> None:
        """A selection is by function, tag, time and arguments."""
        noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        store.put_many(
            [
                _entry(
                    f"{number}",
                    1,
                    tag="ab"[number % 2],
                    created=noon + timedelta(hours=number),
                    arguments=given,
                )
                for number, given in enumerate(
                    [{"c": 1}, {"c": 1.0}, {"c": True}, {"c": "1"}, {}, {"c": None}, {"c": {"lr": 1}}]
                )
            ]
        )
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

    def test_a_query_selects_and_sorts(self, store: Store) -> None:
        """By conditions on columns and a search, as its plain form does."""
        given: list[dict[str, Any]] = [{"c": 2}, {"c": 0.5}, {"c": "b"}, {"c": "ab"}, {}]
        store.put_many([_entry(f"k{n}", 1, arguments=each, tag=f"t{n}") for n, each in enumerate(given)])
        infos = store.history.infos([f"k{n}" for n in range(len(given))])
        assert [info.record.tag for info in infos] == ["t0", "t1", "t2", "t3", "t4"]
        for query in (
            Query("f", order=Order("arguments.c", is_descending=False)),
            Query("f", order=Order("key")),
            Query("f", (("arguments.c", Condition(">", 1)),)),
            Query("f", (("arguments.c", Condition("has", "B")),), order=Order("key")),
            Query("f", (("arguments.c", Condition("!=", None)),), order=Order("key")),
            Query("f", (("tag", Condition("=", "t1")),)),
            Query("f", search="T3"),
            Query("f", search="k2"),
            Query("g"),
        ):
            assert store.history.find(query) == query.select(infos)
        (column,) = store.history.columns("f")
        assert (column.name, column.rows, column.numbers, column.distinct) == ("c", 4, 2, 4)

    def test_what_is_known_about_an_entry(self, store: Store) -> None:
        """Its hits, last use, end, and what its key was made of."""
        end = time.time() + 60
        store.put_many([_entry("key", 1, function_version=_VERSION, expires=end)])
        store.get("key")
        store.figures()
        (info,) = store.history.infos(["absent", "key"])
        assert (info.hits, info.expires, info.parameters, info.parts) == (1, end, ("c",), ("f",))
        assert abs(info.used - time.time()) < 60
        assert (info.record.fingerprint, info.record.version) == ("fingerprint", "2")

    def test_the_history_tells_what_became_of_a_key(self, store: Store) -> None:
        """Found, removed and why, or unknown."""
        store.put_many([_entry(key, 1) for key in ("here", "forgotten", "cleared")])
        store.remove(["forgotten"])
        store.remove(["cleared"], "cleared")
        history = store.history
        found = history.examine("here")
        assert isinstance(found, Found)
        assert (found.damage, found.record and found.record.key) == ("", "here")
        for key in ("forgotten", "cleared"):
            gone = history.examine(key)
            assert isinstance(gone, Gone)
            assert gone.reason == key
        assert history.examine("absent") is None
        assert history.removed() == {"cleared": 1, "forgotten": 1}
        assert history.keys("h", 5) == ["here"]
        assert (history.keys("f", 5), history.keys("f", 5, removed=True)) == ([], ["forgotten"])

    def test_versions_and_their_entries_are_known(self, store: Store) -> None:
        """Versions with entries come, the latest first, and on demand those without."""
        now = datetime.now(UTC)
        for number, prefix in enumerate((b"old", b"new")):
            version = _VERSION._replace(prefix=prefix, fingerprint=prefix.decode())
            store.put_many(
                [
                    _entry(
                        f"{prefix!r} {bound!r}",
                        1,
                        function_version=version,
                        bound=bound,
                        created=now + timedelta(seconds=number),
                        attributes={"model.rate": b"digest"},
                    )
                    for bound in (b"1", b"2")
                ]
            )
        history = store.history
        assert [version.fingerprint for version in history.versions("f")] == ["new", "old"]
        assert history.versions("f")[0].sources == {"f": "code"}
        assert {keyed.bound for keyed in history.of_version("f", prefix=b"new")} == {b"1", b"2"}
        assert [keyed.prefix for keyed in history.of_version("f", bound=b"1")] == [b"new", b"old"]
        (keyed,) = history.of_version("f", limit=1)
        assert (keyed.prefix, keyed.attributes) == (b"new", {"model.rate": b"digest"})
        store.remove([keyed.record.key for keyed in history.of_version("f", prefix=b"old")])
        assert [version.prefix for version in history.versions("f")] == [b"new"]
        assert {version.prefix for version in history.versions("f", unused=True)} == {b"new", b"old"}
        assert history.versions("g") == []

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

        def acquire(lease: Lease) -> None:
            start.wait()
            store.leases.acquire([lease])

        threads = [threading.Thread(target=acquire, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
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

    def test_a_failed_job_is_listed_until_its_result_is_stored(self, store: Store) -> None:
        """The latest first. It is cleared by its key, or as selected, and a job with an entry is none."""
        noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        for number in range(4):
            lease = Lease(f"k{number}", "f")
            store.leases.acquire([lease])
            store.leases.fail(lease, self._unwanted, _failed(f"k{number}", noon + timedelta(hours=number)))
            assert not lease.held

        def keys(selection: Selection = EVERYTHING) -> list[str]:
            return [each.record.key for each in store.history.failures(selection)]

        assert store.history.failures()[0] == _failed("k3", noon + timedelta(hours=3))
        assert (keys(), keys(Selection(where={"key": "k1"}))) == (["k3", "k2", "k1", "k0"], ["k1"])
        assert [(each.name, each.entries, each.failed) for each in store.functions()] == [("f", 0, 4)]
        store.put_many([_entry("k3", 1)])
        store.put_many([_entry("k3", 2)])
        assert keys() == ["k2", "k1", "k0"]
        assert store.remove(["k2"]) == 0
        assert keys() == ["k1", "k0"]
        store.leases.fail(Lease("k3", "f"), None, _failed("k3", noon))
        assert (keys(), self._value(store, "k3")) == (["k1", "k0"], 2)
        assert store.clear(Selection(where={"key": "k1"})) == 0
        assert keys() == ["k0"]
        assert store.clear() == 1
        assert keys() == []

    def test_a_blob_is_committed_like_any_other_value(self, store: Store) -> None:
        """Where workers can write values themselves."""
        writer = store.blob_writer(None)
        if writer is None:
            return
        value = os.urandom(3_000_000)
        blob = write_blob(writer.terms, dump(value), "key")
        assert blob is not None
        assert writer.has(blob)
        store.put_many([_entry("key", 1)._replace(payload=blob)])
        assert self._value(store, "key") == value
        other = write_blob(writer.terms, dump(value), "other")
        assert other is not None
        writer.discard(other)
        assert not writer.has(other)

    def test_it_says_what_it_can_do(self, store: Store) -> None:
        """As data."""
        assert store.keeps
        assert store.folder is None or store.folder.is_absolute()
        assert store.tally.damaged == 0
