"""Arguments that are changed after a job was submitted and before it ran: nothing wrong is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bencher_job import CachedFunction, CacheWarning, Executors, FutureCache, Job, cached_job

Submit = Callable[..., Any]


class Basket:
    """Something that can change and that nobody copies, since it has a lock."""

    def __init__(self, *items: int) -> None:
        self.items = list(items)
        self.lock = threading.Lock()

    def __job_key__(self) -> object:
        return self.items


def total(values: Any) -> int:
    return int(sum(values.items if isinstance(values, Basket) else values))


@contextmanager
def busy(executor: Any) -> Iterator[None]:
    """Keep the only thread of an executor busy, so that jobs wait."""
    release = threading.Event()
    waiting = executor.submit(release.wait)
    try:
        yield
    finally:
        release.set()
        waiting.result()


@pytest.fixture(params=["adopted", "threads"])
def one_thread(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """What to give as `executor`, and the executor with its one thread."""
    if request.param == "adopted":
        with ThreadPoolExecutor(1) as pool:
            yield pool, pool
    else:
        cache = FutureCache(Executors.THREADS, max_workers=1)
        yield Executors.THREADS, cache.executor
        cache.close()


def decorated(
    function: Callable[..., Any], executor: Any, folder: Path, **options: Any
) -> CachedFunction[Any, Any]:
    if executor is Executors.THREADS:
        options["max_workers"] = 1
    return cached_job(executor=executor, cache_dir=folder, **options)(function)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: [1, 2], lambda values: values.append(10)),
        (lambda: {1, 2}, lambda values: values.add(10)),
        (lambda: {1: 1, 2: 2}, lambda values: values.update({10: 10})),
        (lambda: bytearray(b"\1\2"), lambda values: values.append(10)),
        (lambda: np.array([1, 2]), lambda values: values.__setitem__(0, 11)),
        (lambda: ([1], [2]), None),
    ],
    ids=["list", "set", "dict", "bytearray", "array", "tuple of lists"],
)
def test_a_job_runs_with_what_was_submitted(
    one_thread: tuple[Any, Any],
    tmp_path: Path,
    make: Callable[[], Any],
    change: Callable[[Any], object] | None,
) -> None:
    executor, pool = one_thread

    def flat(values: Any) -> int:
        return sum(sum(part) if isinstance(part, list) else int(part) for part in values)

    function = decorated(flat, executor, tmp_path)
    values = make()
    with busy(pool):
        future = function.submit(values)
        (change or (lambda values: values[0].append(10)))(values)
    assert future.result() == 3
    assert function(make()) == 3
    assert function(values) == 13
    (record, _) = sorted(function.cache.records(), key=lambda record: record.created)
    assert record.arguments != {"values": repr(values)}
    function.cache.close()


def test_a_change_while_the_job_runs_does_not_reach_it(tmp_path: Path) -> None:
    begun, changed = threading.Event(), threading.Event()

    def late(values: list[int]) -> int:
        begun.set()
        changed.wait()
        return sum(values)

    function = decorated(late, Executors.THREADS, tmp_path, code="none")
    values = [1, 2]
    future = function.submit(values)
    begun.wait()
    values.append(10)
    changed.set()
    assert future.result() == 3
    function.cache.close()


def changed_in_the_queue(function: CachedFunction[Any, Any], pool: Any, values: Any) -> int:
    """Submit a call, change its argument while the job waits, and give the value when all is over."""
    with busy(pool):
        future = function.submit(values)
        (values.items if isinstance(values, Basket) else values)[0] = 11
    value: int = future.result()
    function.cache.close()
    return value


@pytest.mark.parametrize(
    "make", [lambda: Basket(1, 2), lambda: np.ones(1 << 18)], ids=["object", "large array"]
)
def test_the_result_of_what_is_not_copied_is_not_kept_under_another_key(
    one_thread: tuple[Any, Any], tmp_path: Path, make: Callable[[], Any]
) -> None:
    """Its value arrives with a warning; the old value is computed when it is asked for."""
    executor, pool = one_thread
    function, values = decorated(total, executor, tmp_path), make()
    with pytest.warns(CacheWarning, match="was changed after the call and before the job began"):
        assert changed_in_the_queue(function, pool, values) == total(make()) + 10
    assert list(function.cache.records()) == []
    assert function(make()) == total(make())
    assert function(values) == total(make()) + 10
    assert function.cache.info().entries == 2
    function.cache.close()


def test_what_is_not_copied_and_not_changed_is_kept(one_thread: tuple[Any, Any], tmp_path: Path) -> None:
    executor, _ = one_thread
    function = decorated(total, executor, tmp_path)
    assert function(Basket(1, 2)) == 3
    assert function.is_cached(Basket(1, 2))
    assert [len(list(function.cache.records())), *function.map([Basket(1, 2), Basket(5)])] == [1, 3, 5]
    assert [future.result() for future in function.sweep({"values": [Basket(7)]}, repeats=2)] == [7, 7]
    assert function.cache.info().entries == 4
    function.cache.close()


def test_an_argument_that_is_ignored_stays_the_callers_own(
    one_thread: tuple[Any, Any], tmp_path: Path
) -> None:
    executor, _ = one_thread

    def collect(value: int, sink: list[int]) -> int:
        sink.append(value)
        return value

    sink: list[int] = []
    function = decorated(collect, executor, tmp_path, ignore=("sink",))
    assert [function(3, sink), function(value=4, sink=sink)] == [3, 4]
    assert sink == [3, 4]
    function.cache.close()


def test_a_job_whose_key_was_given_runs_with_the_very_objects(
    one_thread: tuple[Any, Any], tmp_path: Path
) -> None:
    executor, _ = one_thread
    values = [1]
    with FutureCache(executor, cache_dir=tmp_path) as cache:
        future = cache.submit(Job("same", lambda given: given is values, {"given": values}, job_key="key"))
        assert future.result() is True


def test_each_attempt_begins_with_what_was_submitted(one_thread: tuple[Any, Any], tmp_path: Path) -> None:
    executor, _ = one_thread
    seen = []

    def use_up(values: list[int]) -> int:
        seen.append(list(values))
        values.pop()
        if len(seen) < 3:
            raise OSError
        return len(values)

    function = decorated(use_up, executor, tmp_path, retries=2, retry_on=OSError, code="none")
    assert function([1, 2, 3]) == 2
    assert seen == [[1, 2, 3]] * 3
    assert function.is_cached([1, 2, 3])
    function.cache.close()


def test_in_line_a_repeated_run_that_finds_other_arguments_is_not_kept(tmp_path: Path) -> None:
    seen = []

    @cached_job(cache_dir=tmp_path, retries=1, retry_on=OSError, code="none")
    def use_up(values: list[int]) -> int:
        seen.append(values.pop())
        if len(seen) < 2:
            raise OSError
        return len(values)

    with pytest.warns(CacheWarning, match="was changed after the call"):
        assert use_up([1, 2, 3]) == 1
    assert not use_up.is_cached([1, 2, 3])


def test_a_function_may_change_its_own_arguments(one_thread: tuple[Any, Any], tmp_path: Path) -> None:
    """The key is that of what it was given."""
    executor, _ = one_thread

    def use_up(values: list[int]) -> int:
        return sum(values.pop() for _ in range(len(values)))

    for place in (executor, Executors.SERIAL):
        function = decorated(use_up, place, tmp_path / str(place is executor))
        assert function([1, 2]) == 3
        assert function.is_cached([1, 2])
        function.cache.close()


@pytest.mark.parametrize("of_coroutines", [False, True])
def test_in_an_event_loop_a_job_runs_with_what_was_submitted(tmp_path: Path, of_coroutines: bool) -> None:
    async def total_later(values: Any) -> int:
        return total(values)

    function = cached_job(cache_dir=tmp_path)(total_later if of_coroutines else total)

    async def ask() -> list[int]:
        values, array = [1, 2], np.array([1, 2])
        futures = [function.submit(values), function.submit(array)]
        values.append(10)
        array[0] = 11
        return [await future for future in futures]

    assert asyncio.run(ask()) == [3, 3]
    assert [function.is_cached([1, 2]), function.is_cached([1, 2, 10])] == [True, False]
