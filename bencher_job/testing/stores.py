"""The contract of stores."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from .._record import Record, Selection
from .._stores import MISS, Entry, Miss, Store, dump

__all__ = ["StoreContract"]


def _entry(key: str, value: object, *, function: str = "f", tag: str = "", media: str | None = None) -> Entry:
    return Entry(
        dump(value),
        Record(key=key, function=function, tag=tag, seconds=0.5, media=media, created=datetime.now(UTC)),
    )


class StoreContract:
    """The tests that every store must pass. Provide the fixture `store`: a new, empty store for each test."""

    @staticmethod
    def _value(store: Store, key: str) -> Any:
        hit = store.get(key)
        return MISS if isinstance(hit, Miss) else hit.load()

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
