"""Which results are stored, and which entries are answers: `ttl`, `valid` and `keep`."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from bencher_job import CachedFunction, CacheWarning, Executors, FutureCache, Job, Record, cached_job
from bencher_job.testing import CallCounter

OVER = 1e-9
"""A ttl that every entry has outlived."""

EXECUTORS = [Executors.SERIAL, Executors.THREADS, Executors.MULTIPROCESSING]


@pytest.fixture
def value(counter: CallCounter) -> CachedFunction[[int], int]:
    @cached_job(max_workers=1)
    def value(x: int) -> int:
        counter.tick()
        return x

    return value


ROUTES: dict[str, Callable[[CachedFunction[[int], int]], object]] = {
    "call": lambda function: function(1),
    "submit": lambda function: function.submit(1).result(),
    "map": lambda function: list(function.map([1])),
    "sweep": lambda function: function.sweep({"x": [1]}).run(),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_ttl_counts_for_older_entries_and_without_it_they_stay(
    value: CachedFunction[[int], int], counter: CallCounter, route: str, executor: Executors
) -> None:
    ask, value = ROUTES[route], value.with_options(executor=executor)
    for _ in range(5):
        ask(value)
    assert counter.count == 1
    aged = value.with_options(ttl=OVER)
    assert not aged.is_cached(1)
    assert aged.peek(1) is None
    assert aged.sweep({"x": [1]}).plan().hits == 0
    ask(aged)
    assert counter.count == 2
    ask(value.with_options(ttl=3600))
    ask(value)
    assert counter.count == 2


def test_a_known_call_ages(value: CachedFunction[[int], int], counter: CallCounter) -> None:
    young = value.with_options(ttl=0.5)
    begun = time.time()
    while counter.count < 2:
        young(1)
    assert 0.5 <= time.time() - begun < 20


def test_a_result_is_as_old_as_its_end() -> None:
    @cached_job
    def slow(x: int) -> int:
        time.sleep(2)
        return x

    slow(1)
    (record,) = slow.cache.records()
    age = time.time() - record.created.timestamp() - record.seconds
    assert slow.with_options(ttl=age + 1.9).is_cached(1)


def test_an_entry_of_a_clock_that_ran_ahead_is_not_immortal(
    value: CachedFunction[[int], int], counter: CallCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now() + 1e6)
        value(1)
    assert value.with_options(ttl=3600)(1) == 1
    assert counter.count == 2
    assert value.with_options(ttl=3600).is_cached(1)


def test_a_refused_entry_is_no_hit_in_any_figure(value: CachedFunction[[int], int]) -> None:
    value(1)
    for _ in range(3):
        value.with_options(ttl=OVER)(1)
        list(value.with_options(ttl=OVER).map([1]))
    value.cache.close()  # which writes the uses
    info = value.cache.info()
    assert (info.hits, info.total.hits, info.computed) == (0, 0, 7)


def test_a_refused_entry_is_used_last_when_it_was_used(value: CachedFunction[[int], int]) -> None:
    """That it was looked up changes neither."""
    value(1)
    value(2)
    refuses = value.with_options(ttl=OVER, keep=lambda result: False)
    for _ in range(3):
        refuses(1)
    assert value.cache.shrink(entries=2) == 0
    assert value.cache.shrink(unused_for=3600) == 0


def test_explain_says_why_an_entry_is_no_answer(value: CachedFunction[[int], int]) -> None:
    value(1)
    aged = value.with_options(ttl=OVER).explain(1)
    assert aged.headline.endswith("a miss, the entry has expired")
    assert "ttl is 1e-09 s" in str(aged)
    refused = value.with_options(valid=lambda record: record.seconds > 3600).explain(1)
    assert refused.headline.endswith("a miss, the entry is not valid")
    assert refused.record is not None
    assert value.with_options(ttl=3600, valid=lambda record: True).explain(1).is_hit


def test_tables_show_entries_of_any_age(value: CachedFunction[[int], int]) -> None:
    value(1)
    aged = value.with_options(ttl=OVER)
    assert aged.cache.to_dataframe()["result"].tolist() == [1]
    assert [record.arguments for record in aged.cache.records()] == [{"x": 1}]


def test_a_ttl_counts_for_jobs_of_a_future_cache(counter: CallCounter) -> None:
    def ask(**options: Any) -> None:
        with FutureCache(overwrite=False, **options) as cache:
            cache.submit(Job("job", counter.tick, {}, job_key="key")).result()

    ask()
    ask(ttl=3600)
    assert counter.count == 1
    ask(ttl=OVER)
    assert counter.count == 2
    ask(valid=lambda record: record.tag == "nightly")
    assert counter.count == 3


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_valid_decides_by_the_record_at_each_lookup(
    value: CachedFunction[[int], int], counter: CallCounter, route: str, executor: Executors
) -> None:
    ask, accepts, seen = ROUTES[route], [True], []

    def valid(record: Record) -> bool:
        seen.append(record)
        return accepts[0]

    checked = value.with_options(executor=executor, valid=valid)
    for _ in range(5):
        ask(checked)
    assert counter.count == 1
    assert {(record.key, record.arguments["x"]) for record in seen} == {(value.key(1), 1)}
    accepts[0] = False
    assert not checked.is_cached(1)
    assert checked.peek(1, default="none") == "none"
    ask(checked)
    ask(checked)
    assert counter.count == 3
    ask(value)
    assert counter.count == 3


def test_a_valid_that_fails_is_a_miss_with_a_warning(
    value: CachedFunction[[int], int], counter: CallCounter
) -> None:
    value(1)
    for count in (2, 3):
        with pytest.warns(CacheWarning, match="ZeroDivisionError") as warned:
            assert value.with_options(valid=lambda record: 1 / 0)(1) == 1
        assert (counter.count, len(warned)) == (count, 1)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_result_that_keep_refuses_is_returned_counted_and_not_stored(
    value: CachedFunction[[int], int], counter: CallCounter, route: str, executor: Executors
) -> None:
    ask = ROUTES[route]
    picky = value.with_options(executor=executor, keep=lambda result: result > 1)
    assert picky.submit(1).result() == 1
    ask(picky)
    assert (counter.count, picky.cache.info().unkept, len(picky.cache.cache)) == (2, 2, 0)
    assert list(picky.map([2, 2])) == [2, 2]
    assert (counter.count, picky.cache.info().unkept, len(picky.cache.cache)) == (3, 2, 1)


def test_keep_with_two_parameters_gets_the_record(value: CachedFunction[[int], int]) -> None:
    seen: list[tuple[int, Record]] = []

    def keep(result: int, record: Record) -> bool:
        seen.append((result, record))
        return record.seconds > 3600

    assert value.with_options(keep=keep, tag="nightly")(3) == 3
    ((result, record),) = seen
    assert (result, record.arguments, record.tag, record.key) == (3, {"x": 3}, "nightly", value.key(3))
    assert record.fingerprint
    assert not value.is_cached(3)


def test_parameters_with_defaults_are_not_the_record(value: CachedFunction[[int], int]) -> None:
    def above(result: int, least: int = 2) -> bool:
        return result >= least

    picky = value.with_options(keep=above)
    picky(1), picky(2)
    assert (value.is_cached(1), value.is_cached(2)) == (False, True)


def test_a_keep_that_fails_costs_no_value(value: CachedFunction[[int], int], counter: CallCounter) -> None:
    failing = value.with_options(keep=lambda result: 1 / 0)
    with pytest.warns(CacheWarning, match="keep=.*failed.*ZeroDivisionError"):
        assert failing(1) == 1
    info = value.cache.info()
    assert (info.unsaved, info.unkept) == (1, 0)
    assert not value.is_cached(1)


def test_a_refused_result_leaves_the_entry_that_was_there(value: CachedFunction[[int], int]) -> None:
    value(1)
    picky = value.with_options(keep=lambda result: False)
    assert picky.refresh(1) == 1
    assert value.is_cached(1)


def test_a_refusal_is_logged(value: CachedFunction[[int], int], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bencher_job"):
        value.with_options(keep=lambda result: False)(1)
    assert "keep refuses the result" in caplog.text


def test_a_large_result_of_a_worker_is_judged_here() -> None:
    @cached_job(executor="multiprocessing", max_workers=1, keep=lambda result: len(result) < 10**6)
    def large(size: int) -> bytes:
        return bytes(size)

    assert len(large(5_000_000)) == 5_000_000
    assert len(large(50)) == 50
    assert [record.arguments["size"] for record in large.cache.records()] == [50]
    assert large.cache.verify().is_clean


def test_a_waiter_of_another_process_gets_no_refused_result(tmp_path: Any) -> None:
    """It computes its own, and is not left waiting."""
    program = """
from bencher_job import cached_job
import sys, time
@cached_job(code="none", cache_dir=sys.argv[1], keep=lambda result: False)
def job(x):
    time.sleep(0.3)
    return x
print(job(1), job.cache.info().unkept)
"""
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [each.communicate(timeout=60)[0] for each in started] == ["1 1\n", "1 1\n"]


def test_coroutines_are_judged_as_well(counter: CallCounter) -> None:
    @cached_job(keep=lambda result: result > 1)
    async def value(x: int) -> int:
        counter.tick()
        return x

    async def ask() -> None:
        assert [await value(1), await value(1), await value(2), await value(2)] == [1, 1, 2, 2]
        assert (counter.count, value.cache.info().unkept) == (3, 2)
        for limited in (
            value.with_options(ttl=OVER),
            value.with_options(valid=lambda record: record.seconds > 60),
        ):
            before = counter.count
            assert [await limited(2), [each async for each in limited.map([2])]] == [2, [2]]
            assert counter.count == before + 2

    asyncio.run(ask())


def test_predicates_are_not_part_of_the_key(value: CachedFunction[[int], int]) -> None:
    assert value.with_options(keep=bool, valid=bool, ttl=3).key(1) == value.key(1)


async def _coroutine(result: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": 3}, "keep must be a function or None, not int"),
        ({"valid": "x"}, "valid must be a function or None, not str"),
        (
            {"keep": lambda a, b, c: True},
            "keep must be a function of the result or of the result and the record",
        ),
        ({"valid": lambda a, b: True}, "valid must be a function of the record, and it takes 2 parameters"),
        ({"keep": _coroutine}, "keep must be a plain function, not a coroutine function"),
    ],
)
def test_what_is_no_predicate_is_refused(options: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        cached_job(**options)
