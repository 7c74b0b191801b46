"""Functions with other options of their calls, and results that are read or stored without a run."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from bencher_job import CachedFunction, CacheWarning, UnkeyableArgument, cached_job
from bencher_job.testing import CallCounter


@pytest.fixture
def value(counter: CallCounter) -> CachedFunction[[int], int]:
    @cached_job(tag="day")
    def value(x: int) -> int:
        counter.tick()
        return x

    return value


def test_other_options_share_results_and_counts(
    value: CachedFunction[[int], int], counter: CallCounter
) -> None:
    nightly = value.with_options(tag="night", executor="multiprocessing", max_workers=1)
    assert [nightly(1), value(1), value(2), nightly.submit(2).result(), *nightly.map([1, 2, 3])] == [
        1, 1, 2, 2, 1, 2, 3,
    ]  # fmt: skip
    assert counter.count == 3
    assert nightly.cache.cache is value.cache.cache
    assert (value.cache.info().hits, value.cache.info().computed) == (4, 3)
    assert value.cache.info() == nightly.cache.info()
    records = {record.arguments["x"]: (record.tag, record.executor) for record in value.cache.records()}
    assert records == {1: ("night", "MULTIPROCESSING"), 2: ("day", "SERIAL"), 3: ("night", "MULTIPROCESSING")}


def test_the_function_itself_stays_as_it_was(value: CachedFunction[[int], int]) -> None:
    value.with_options(executor="threads", tag="night")(1)
    value.with_options(overwrite=True)(1)
    assert (value.cache.executor_type, value.cache.tag, value.cache.overwrite) == ("SERIAL", "day", False)
    assert value.cache.info().computed == 2


def test_options_add_up_and_none_takes_one_away(
    value: CachedFunction[[int], int], counter: CallCounter
) -> None:
    always = value.with_options(ttl=1e-9).with_options(tag="night")
    always(1), always(1)
    assert counter.count == 2
    always.with_options(ttl=None)(1)
    assert counter.count == 2
    assert {record.tag for record in value.cache.records()} == {"night"}


def test_a_closed_store_opens_for_all(value: CachedFunction[[int], int], counter: CallCounter) -> None:
    other = value.with_options(tag="night")
    for function in (value, other, value, other):
        function(1)
        function.cache.close()
    assert counter.count == 1


def test_to_wait_or_close_is_for_jobs_with_any_options(value: CachedFunction[[int], int]) -> None:
    for end in (value.cache.wait, value.cache.close, value.with_options(tag="night").cache.wait):
        value.cache.clear_cache()
        future = value.with_options(executor="multiprocessing", max_workers=1).submit(1)
        end()
        assert future.done()
        assert value.is_cached(1)


def test_methods_of_all_kinds_take_other_options(counter: CallCounter) -> None:
    class Model:
        @cached_job
        def score(self, x: int) -> int:
            counter.tick()
            return x

        @cached_job
        @classmethod
        def of_class(cls, x: int) -> int:
            counter.tick()
            return x

        @cached_job
        @staticmethod
        def of_none(x: int) -> int:
            counter.tick()
            return x

    model = Model()
    for number, method in enumerate([model.score, Model.of_class, model.of_class, Model.of_none], 1):
        other = method.with_options(tag="night")
        assert [other(number), method(number), other.submit(number).result()] == [number] * 3
        assert counter.count == number
    assert Model.score.with_options(tag="night")(model, 1) == 1
    assert counter.count == 4
    assert {record.tag for record in Model.of_none.cache.records()} == {"night"}


def test_a_coroutine_function_takes_other_options(counter: CallCounter) -> None:
    @cached_job
    async def value(x: int) -> int:
        counter.tick()
        return x

    async def ask() -> None:
        other = value.with_options(executor="threads")
        assert [await other(1), await value(1), await value.with_options(overwrite=True)(1)] == [1, 1, 1]
        assert counter.count == 2
        assert value.peek(1) == 1
        value.remember(20, 2)
        assert await value(2) == 20

    asyncio.run(ask())


def test_a_function_with_other_options_pickles(
    value: CachedFunction[[int], int], counter: CallCounter
) -> None:
    value(1)
    other = pickle.loads(pickle.dumps(value.with_options(tag="night", ttl=3600)))
    assert (other(1), other.cache.tag, counter.count) == (1, "night", 1)


class Base:
    @cached_job(tag="day")
    def score(self, x: int) -> str:
        return f"base {x}"


class Derived(Base):
    @cached_job(tag="day")
    def score(self, x: int) -> str:
        return f"derived {x}"

    def inherited(self) -> Any:
        return super().score


def test_a_bound_method_pickles_as_what_it_is() -> None:
    """With its options, and not as what overrides it."""
    derived = Derived()
    for method in (derived.score, derived.inherited()):
        other = pickle.loads(pickle.dumps(method.with_options(tag="night")))
        assert (other(1), other.cache.tag) == (method(1), "night")
        other = pickle.loads(pickle.dumps(method))
        assert (other(1), other.cache.tag) == (method(1), "day")


@pytest.mark.parametrize("name", ["version", "cache_dir", "ignore", "keys", "size_limit", "nothing"])
def test_options_of_keys_and_places_are_refused(value: CachedFunction[[int], int], name: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        value.with_options(**{name: 1})  # type: ignore[misc]


def test_values_are_checked_at_once(value: CachedFunction[[int], int]) -> None:
    with pytest.raises(ValueError, match="ttl=0 is not above 0"):
        value.with_options(ttl=0)
    with pytest.raises(TypeError, match="tag must be a str, not int"):
        value.with_options(tag=3)  # type: ignore[arg-type]


def test_peek_gives_what_is_stored_and_runs_nothing(
    value: CachedFunction[[int], int], counter: CallCounter, cache_folder: Any
) -> None:
    assert value.peek(1) is None
    assert not [*cache_folder.iterdir()], "nothing is made for a question"
    assert value.peek(1, default=-1) == -1
    value(1)
    assert value.peek(x=1, default=-1) == 1
    assert (counter.count, value.cache.info().hits) == (1, 1)
    with pytest.raises(TypeError, match="missing"):
        value.peek()


def test_peek_gives_none_as_a_result() -> None:
    @cached_job
    def nothing(x: int) -> None: ...

    nothing(1)
    assert nothing.peek(1, default="default") is None
    assert nothing.peek(2, default="default") == "default"


def test_remember_stores_what_was_not_run(value: CachedFunction[[int], int], counter: CallCounter) -> None:
    value.remember(10, 1)
    value.remember(20, x=2)
    assert (value(1), value(2), list(value.map([1, 2])), counter.count) == (10, 20, [10, 20], 0)
    assert value.explain(1).is_hit
    value(3)
    assert [value(3) for _ in range(4)] == [3] * 4  # it is a known call
    value.remember(30, 3)
    assert value(3) == 30
    assert {record.tag for record in value.cache.records()} == {"day"}


def test_what_is_remembered_is_treated_like_a_result(value: CachedFunction[[int], int]) -> None:
    value.with_options(keep=lambda result: result > 1).remember(0, 1)
    assert not value.is_cached(1)
    assert value.cache.info().unkept == 1
    with pytest.warns(CacheWarning, match="can't be pickled"):
        value.remember(lambda: 1, 1)
    with pytest.raises(UnkeyableArgument):
        value.remember(1, (x for x in ()))  # type: ignore[arg-type]
