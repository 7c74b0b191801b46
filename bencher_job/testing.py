"""For those who test code that uses this library, or who write a store or an executor for it.

`temporary_cache` and `CallCounter` serve any test, `assert_stable_key` those of a class whose objects are arguments.
`StoreContract` and `ExecutorContract` are the test suites that each store and each executor must pass: subclass one in
a pytest module, and give it the fixture that it names.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ._cache import FutureCache
from ._function_cache import JobFunctionCache
from ._job import Job
from ._media import gen_path
from ._record import Record
from ._selection import Selection
from ._settings import override_cache_directory
from ._stability import assert_stable_key
from ._stores import MISS, Entry, Store, close_stores, dump

__all__ = ["CallCounter", "ExecutorContract", "StoreContract", "assert_stable_key", "temporary_cache"]


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """Let all caches lie in a folder of their own meanwhile, which is removed in the end.

    >>> from bencher_job import cached_job
    >>> @cached_job
    ... def double(x):
    ...     return 2 * x
    >>> with temporary_cache():
    ...     before, _, after = double.is_cached(4), double(4), double.is_cached(4)
    >>> before, after
    (False, True)
    """
    with (
        tempfile.TemporaryDirectory(prefix="bencher_job-") as folder,
        override_cache_directory(folder) as directory,
    ):
        try:
            yield directory
        finally:
            close_stores(directory)


class CallCounter:
    """Counts calls in all threads and processes together, by the length of a file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     counter = CallCounter(folder + "/calls")
    ...     counter.tick()
    ...     counter.count
    1
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def tick(self) -> None:
        """Count one call."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)

    @property
    def count(self) -> int:
        """How many calls there were."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0


def _entry(key: str, value: object, *, function: str = "f", tag: str = "", media: str | None = None) -> Entry:
    return Entry(
        dump(value),
        Record(key=key, function=function, tag=tag, seconds=0.5, media=media, created=datetime.now(UTC)),
    )


class StoreContract:
    """What every store must do. Give the fixture `store`, a new and empty store for each test."""

    @staticmethod
    def _value(store: Store, key: str) -> Any:
        hit = store.get(key)
        return MISS if hit is MISS else hit.load()  # type: ignore[union-attr]

    def test_a_key_that_was_never_put_is_a_miss(self, store: Store) -> None:
        """Nothing is found in an empty store."""
        assert store.get("nothing") is MISS

    def test_what_was_put_is_found_again(self, store: Store) -> None:
        """Values of all sizes come back equal, falsy ones and None too."""
        values: list[object] = [None, 0, "", [], {"a": [1, 2]}, b"x" * 100_000, "é" * 40_000]
        for number, value in enumerate(values):
            store.put_many([_entry(f"key-{number}", value)])
            assert self._value(store, f"key-{number}") == value

    def test_a_hit_knows_how_long_its_function_ran(self, store: Store) -> None:
        """The duration of the record comes with the hit."""
        store.put_many([_entry("key", 1)])
        hit = store.get("key")
        assert hit is not MISS
        assert hit.seconds == 0.5  # type: ignore[union-attr]

    def test_two_hits_share_no_object(self, store: Store) -> None:
        """What one caller does to a value, another doesn't see."""
        store.put_many([_entry("key", {"a": 1})])
        self._value(store, "key").clear()
        assert self._value(store, "key") == {"a": 1}

    def test_a_second_put_replaces_the_first(self, store: Store) -> None:
        """The last value of a key counts, and there is one entry of it."""
        for value in ("old", "new"):
            store.put_many([_entry("key", value)])
            assert self._value(store, "key") == value
        assert store.count() == 1

    def test_a_bulk_lookup_finds_what_is_there(self, store: Store) -> None:
        """Of many keys those that are there come back, each with its own value."""
        store.put_many([_entry(f"key-{number}", number) for number in range(1200)])
        found = store.get_many([*(f"key-{number}" for number in range(1200)), "absent"])
        assert {key: hit.load() for key, hit in found.items()} == {
            f"key-{number}": number for number in range(1200)
        }

    def test_a_forgotten_key_is_a_miss(self, store: Store) -> None:
        """Forget says whether there was an entry, and then there is none."""
        store.put_many([_entry("key", 1)])
        assert store.has("key")
        assert (store.forget("key"), store.forget("key")) == (True, False)
        assert store.get("key") is MISS
        assert not store.has("key")

    def test_clear_takes_what_is_chosen(self, store: Store) -> None:
        """By function, by tag, by both, or all; the count is right and the rest stays."""
        store.put_many([_entry(f"{f}{t}", 1, function=f, tag=t) for f in "fg" for t in ("", "a", "b")])
        assert store.clear(function="f", tag="a") == 1
        assert store.clear(tag="a") == 1
        assert store.clear(function="g") == 2
        assert sorted(record.key for record in store.records()) == ["f", "fb"]
        assert store.clear() == 2
        assert (store.count(), list(store.records())) == (0, [])

    def test_a_record_comes_back_as_it_was_put(self, store: Store) -> None:
        """All that a record says survives, and records can be chosen by function and tag."""
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
        """Close gives back files, and loses nothing."""
        store.put_many([_entry("key", 1)])
        store.close()
        assert self._value(store, "key") == 1

    def test_threads_may_use_it_together(self, store: Store) -> None:
        """Eight threads that put and get at once disturb nothing."""
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
        assert store.count() == 80


class ExecutorContract:
    """What every executor must do. Give the fixture `executor`: anything that `executor=` takes."""

    def test_a_job_runs_and_is_remembered(self, executor: Any, tmp_path: Path) -> None:
        """The value is the function's, and a second cache with the same store doesn't run it."""
        counter = CallCounter(tmp_path / "calls")
        for _ in range(2):
            with JobFunctionCache(_counted, executor=executor, cache_dir=tmp_path / "cache") as cache:
                assert cache.call(counter=counter, value=[1, 2]).result(60) == [1, 2]
        assert counter.count == 1

    def test_a_result_is_kept_though_nobody_reads_it(self, executor: Any, tmp_path: Path) -> None:
        """Commits happen as jobs complete."""
        with JobFunctionCache(math.sqrt, executor=executor, cache_dir=tmp_path) as cache:
            wait([cache.submit_call((number,), {}) for number in range(10)], 60)
            assert cache.cache.count() == 10

    def test_none_is_a_result(self, executor: Any, tmp_path: Path) -> None:
        """None is remembered like any other value."""
        counter = CallCounter(tmp_path / "calls")
        with JobFunctionCache(_counted, executor=executor, cache_dir=tmp_path / "cache") as cache:
            for _ in range(2):
                assert cache.call(counter=counter, value=None).result(60) is None
        assert counter.count == 1

    def test_an_exception_is_the_functions_own_and_not_remembered(
        self, executor: Any, tmp_path: Path
    ) -> None:
        """Its type, its arguments and its cause reach the caller; the next call runs the function again."""
        counter = CallCounter(tmp_path / "calls")
        with JobFunctionCache(_failing, executor=executor, cache_dir=tmp_path / "cache") as cache:
            for _ in range(2):
                error = cache.call(counter=counter).exception(60)
                assert type(error) is ZeroDivisionError
                assert error.args == ("division by zero, on purpose",)
        assert counter.count == 2

    def test_closures_and_lambdas_run(self, executor: Any, tmp_path: Path) -> None:
        """A function that no module holds reaches the worker."""
        offset = 40
        with JobFunctionCache(lambda x: x + offset, executor=executor, cache_dir=tmp_path) as cache:
            assert cache.call(x=2).result(60) == 42

    def test_the_key_is_the_same_on_every_executor(self, executor: Any, tmp_path: Path) -> None:
        """What ran on this executor is a hit for the calling thread."""
        counter = CallCounter(tmp_path / "calls")
        for runs_on in (executor, "SERIAL"):
            with JobFunctionCache(_counted, executor=runs_on, cache_dir=tmp_path / "cache") as cache:
                future = cache.call(counter=counter, value=1)
                assert future.result(60) == 1
        assert future.cached

    def test_one_key_runs_once_for_all_who_ask_at_once(self, executor: Any, tmp_path: Path) -> None:
        """Eight threads that ask for a job in flight share its one run, and no object of its value."""
        counter = CallCounter(tmp_path / "calls")
        with JobFunctionCache(_slow, executor=executor, cache_dir=tmp_path / "cache") as cache:
            values: list[Any] = []
            threads = [
                threading.Thread(target=lambda: values.append(cache.call(counter=counter).result(60)))
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert values == [{"slow": True}] * 8
        assert len({id(value) for value in values}) == 8
        assert counter.count == 1

    def test_media_lie_in_a_folder_of_the_job(self, executor: Any, tmp_path: Path) -> None:
        """A file that a job writes is there afterwards, and its entry's record knows its folder."""
        with JobFunctionCache(_writing, executor=executor, cache_dir=tmp_path) as cache:
            path = Path(cache.call(text="hello").result(60))
            (record,) = cache.records()
        assert path.read_text() == "hello"
        assert record.media is not None
        assert record.media in path.parts

    def test_a_job_without_a_cache_runs(self, executor: Any) -> None:
        """`cache_samples=False` keeps nothing and computes all."""
        with FutureCache(executor, cache_samples=False) as cache:
            assert cache.submit(Job("power", pow, {"base": 2, "exp": 5})).result(60) == 32


def _counted(counter: CallCounter, value: Any) -> Any:
    counter.tick()
    return value


def _failing(counter: CallCounter) -> None:
    counter.tick()
    raise ZeroDivisionError("division by zero, on purpose")


def _slow(counter: CallCounter) -> dict[str, bool]:
    counter.tick()
    time.sleep(0.3)
    return {"slow": True}


def _writing(text: str) -> str:
    path = gen_path("greeting", suffix=".txt")
    Path(path).write_text(text)
    return path
