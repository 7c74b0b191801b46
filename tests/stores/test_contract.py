"""Each store keeps the contract, alone and behind the memory cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from bencher_job._keys import StoredFunctionVersion
from bencher_job._query import Condition, Order, Query
from bencher_job._record import EVERYTHING, FailedJob, Record, Selection, code_label, short_form
from bencher_job._stores import Found, Gone, Lease, NullStore, Store, dump
from bencher_job._stores.blobs import write_blob
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.memory import MemoryTier
from bencher_job.testing import StoreContract
from bencher_job.testing.stores import _entry
from tests.dict_store import DictStore

_VERSION: Final = StoredFunctionVersion(
    b"prefix", "f", 1, "fingerprint", "2", ("c",), {"f": "digest"}, {"f": "code"}
)


def _version(number: int, version: str = "") -> StoredFunctionVersion:
    fingerprint = f"{number:064x}"
    prefix = sha256(f"{fingerprint} {version}".encode()).digest()
    return StoredFunctionVersion(prefix, "f", 1, fingerprint, version, ("c",), {"f": f"{number:016x}"}, {})


def _failed(key: str, created: datetime) -> FailedJob:
    arguments = {"key": key}
    record = Record(key=key, function="f", arguments=arguments, created=created, seconds=0.5, host="atlas")
    return FailedJob(record, "ValueError: no", "Traceback\nValueError: no\n")


class Contract(StoreContract):
    """What explanations, tables, the command line and the page ask of a store as well."""

    def test_large_entries_are_left_out_of_a_bulk_lookup(self, store: Store) -> None:
        """With `largest`, which counts bytes."""
        store.put_many([_entry("small", 1), _entry("large", os.urandom(1_000_000))])
        assert set(store.get_many(["small", "large"], largest=500_000, counts=False)) == {"small"}

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
        store.put_many([_entry("small", 1)])  # which opens it
        writer = store.blob_writer(None)
        if writer is None:
            assert store.folder is None
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


class TestDiskStore(Contract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = DiskStore(tmp_path / "store", size_limit=10**9)
        yield store
        store.close()


class TestMemoryTier(Contract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        disk = DiskStore(tmp_path / "store", size_limit=10**9)
        store = MemoryTier(disk)
        yield store
        store.close()


class TestDictStore(Contract):
    @pytest.fixture
    def store(self) -> Store:
        return DictStore()


class TestMemoryTierOverDict(Contract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryTier(DictStore())


def test_the_null_store_answers_as_an_empty_store_does(tmp_path: Path) -> None:
    with closing(DiskStore(tmp_path / "store", size_limit=10**9)) as empty:
        null = NullStore()
        assert (null.keeps, null.folder, null.blob_writer(None)) == (False, None, None)
        assert isinstance(null.history.stamp(), str)
        for ask in _QUESTIONS:
            assert ask(null) == ask(empty)


_QUESTIONS: Final[list[Callable[[Store], object]]] = [
    lambda store: (len(store), list(store), store.has("a"), store.remove(["a"]), store.clear()),
    lambda store: (store.get("a"), dict(store.get_many(["a"])), store.put_many([]), store.durations(["a"])),
    lambda store: (list(store.records()), store.functions(), store.figures(), store.count_uses([])),
    lambda store: (store.history.examine("a"), store.history.infos(["a"]), store.history.find(Query("f"))),
    lambda store: (store.history.columns("f"), store.history.keys("", 5), store.history.removed()),
    lambda store: (
        store.history.versions("f"),
        list(store.history.of_version("f")),
        store.history.failures(),
    ),
    lambda store: (store.leases.taken(["a"]), store.leases.running(), store.leases.wait(Lease("a")).look()),
]
