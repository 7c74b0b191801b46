"""`map` gives the values of any iterable, an endless one too, with a bounded number of jobs ahead of who takes them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bencher_job import BencherJobError, CachedFunction, JobFunctionCache, UnkeyableArgument, cached_job
from bencher_job.testing import CallCounter

PATIENCE = 60.0


def doubled(x: int) -> int:
    return 2 * x


class Gate:
    """A function of threads, whose jobs tell that they have begun and wait until they may end."""

    def __init__(self, **options: Any) -> None:
        self.begun: dict[int, threading.Event] = {}
        self.may_end: dict[int, threading.Event] = {}
        for number in range(64):
            self.begun[number], self.may_end[number] = threading.Event(), threading.Event()

        @cached_job(executor="threads", code="none", **options)
        def passed(number: int) -> int:
            self.begun[number].set()
            assert self.may_end[number].wait(PATIENCE)
            return number

        self.function: CachedFunction[[int], int] = passed

    def begun_jobs(self) -> set[int]:
        return {number for number, event in self.begun.items() if event.is_set()}

    def let_end(self, *numbers: int) -> None:
        for number in numbers or self.may_end:
            self.may_end[number].set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(max_workers=2)
    yield gate
    gate.let_end()
    gate.function.cache.close()


@pytest.mark.usefixtures("shared_workers")
@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
@pytest.mark.parametrize("ordered", [True, False])
def test_it_gives_the_values_of_all_calls_hits_and_misses(executor: str, ordered: bool) -> None:
    function = cached_job(executor=executor)(doubled)
    for x in range(0, 600, 7):
        function(x)
    values = list(function.map(range(600), ordered=ordered))
    assert (values if ordered else sorted(values)) == [2 * x for x in range(600)]
    assert function.cache.info().hits == len(range(0, 600, 7))
    function.cache.close()


def test_several_iterables_give_the_arguments_and_the_shortest_ends_it() -> None:
    @cached_job
    def product(x: int, y: int) -> int:
        return x * y

    assert list(product.map([1, 2, 3], [10, 20])) == [10, 40]
    assert list(product.map([], [])) == []


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_an_endless_iterable_is_read_a_bounded_number_of_calls_ahead(executor: str) -> None:
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield number

    function = cached_job(executor=executor)(doubled)
    values = function.map(numbers(), buffersize=8)
    for taken, value in enumerate(itertools.islice(values, 100), 1):
        assert value == 2 * (taken - 1)
        assert read <= taken + 8
    function.cache.close()


def test_nothing_is_read_or_run_before_the_first_value_is_taken(counter: CallCounter) -> None:
    @cached_job
    def counted(x: int) -> int:
        counter.tick()
        return x

    read = iter([1, 2])
    values = counted.map(read)
    assert next(read) == 1
    assert list(values) == [2]
    assert counter.count == 1


def test_hits_are_looked_up_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    function = cached_job(doubled)
    list(function.map(range(1000)))
    lookups: list[int] = []
    look_up = JobFunctionCache.look_up

    def counted(self: JobFunctionCache, keys: list[str]) -> Any:
        lookups.append(len(keys))
        return look_up(self, keys)

    monkeypatch.setattr(JobFunctionCache, "look_up", counted)
    monkeypatch.setattr(JobFunctionCache, "start", lambda *_: pytest.fail("a hit was run"))
    assert list(function.map(range(1000))) == [2 * x for x in range(1000)]
    assert sum(lookups) == 1000
    assert len(lookups) < 20


def test_a_call_that_stands_twice_has_a_value_of_its_own() -> None:
    @cached_job
    def listed(x: int) -> list[int]:
        return [x]

    listed(1)
    first, second = listed.map([1, 1])
    first.append(2)
    assert second == [1]


def test_values_come_as_they_complete_where_order_does_not_matter(gate: Gate) -> None:
    values = gate.function.map(range(3), ordered=False)
    gate.let_end(1, 2)
    assert {next(values), next(values)} == {1, 2}
    gate.let_end(0)
    assert list(values) == [0]


def test_hits_come_first_where_order_does_not_matter(gate: Gate) -> None:
    gate.let_end(40)
    assert gate.function(40) == 40
    values = gate.function.map([0, 40, 1], ordered=False)
    assert next(values) == 40
    gate.let_end(0, 1)
    assert sorted(values) == [0, 1]


@pytest.mark.parametrize("ordered", [True, False])
def test_what_has_not_begun_when_the_iterator_is_closed_is_cancelled(gate: Gate, ordered: bool) -> None:
    values = gate.function.map(range(20), ordered=ordered)
    gate.let_end(0)
    assert next(values) == 0
    assert gate.begun[1].wait(PATIENCE)
    assert gate.begun[2].wait(PATIENCE)
    values.close()  # type: ignore[attr-defined]
    gate.let_end()
    gate.function.cache.wait()
    assert gate.begun_jobs() == {0, 1, 2}
    assert gate.function.is_cached(1)  # what had begun is kept


def test_an_exception_is_raised_at_its_place_and_ends_it(gate: Gate, counter: CallCounter) -> None:
    @cached_job(executor="threads", max_workers=1)
    def picky(x: int) -> int:
        counter.tick()
        if x == 2:
            raise LookupError(x)
        return x

    values = picky.map(range(100), buffersize=4)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(LookupError, match="2"):
        next(values)
    assert list(values) == []
    picky.cache.wait()
    assert counter.count <= 7
    picky.cache.close()


def test_what_the_iterable_raises_comes_after_the_values_before_it() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise OSError("the tape ended")

    function = cached_job(executor="threads")(doubled)
    values = function.map(numbers())
    assert [next(values) for _ in range(5)] == [0, 2, 4, 6, 8]
    with pytest.raises(OSError, match="the tape ended"):
        next(values)
    function.cache.close()


def test_a_call_that_has_no_key_raises_at_its_place() -> None:
    function = cached_job(lambda x: x)
    values = function.map([1, threading.Lock(), 2])
    assert next(values) == 1
    with pytest.raises(UnkeyableArgument, match=r"x has the type _thread\.lock"):
        next(values)


def test_an_object_that_is_changed_after_it_was_read_is_refused_and_not_remembered(
    counter: CallCounter,
) -> None:
    @cached_job(ignore=("counter",))
    def total(numbers: list[int], counter: CallCounter) -> int:
        counter.tick()
        return sum(numbers)

    same: list[int] = []

    def growing() -> Iterator[list[int]]:
        for number in range(10):
            same.append(number)
            yield same

    values = total.map(growing(), itertools.repeat(counter))
    assert next(values) == 0
    with pytest.raises(BencherJobError, match="has changed since the call was read"):
        list(values)
    for length in range(1, 10):
        assert not total.is_cached(list(range(length)), counter) or total(
            list(range(length)), counter
        ) == sum(range(length))


def test_code_that_changes_on_the_way_counts_for_the_calls_after_it(counter: CallCounter) -> None:
    namespace: dict[str, Any] = {"factor": 1, "counter": counter}
    exec("def scaled(x):\n    counter.tick()\n    return factor * x", namespace)
    scaled = cached_job(ignore=())(namespace["scaled"])
    values = scaled.map([1, 2, 3])
    assert next(values) == 1
    namespace["factor"] = 10
    assert list(values) == [20, 30]
    assert list(scaled.map([1, 2, 3])) == [10, 20, 30]
    assert counter.count == 4


def test_it_runs_in_line_inside_a_job_of_a_pool() -> None:
    @cached_job(executor="multiprocessing", max_workers=1)
    def inner(x: int) -> int:
        return x

    @cached_job(executor="multiprocessing", max_workers=1)
    def outer(n: int) -> int:
        return sum(inner.map(range(n)))

    assert outer(5) == 10
    outer.cache.close()
    inner.cache.close()


def test_it_runs_in_line_in_a_callback_of_a_future() -> None:
    function = cached_job(executor="threads")(doubled)
    seen: list[list[int]] = []
    future = function.submit(1)
    future.add_done_callback(lambda _: seen.append(list(function.map([2, 3]))))
    function.cache.wait()
    function.cache.close()
    assert seen == [[4, 6]]


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), ("8", TypeError)])
def test_a_buffer_without_room_is_refused_at_once(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="buffersize"):
        cached_job(doubled).map([1], buffersize=size)


def test_what_cannot_be_iterated_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        cached_job(doubled).map(3)  # type: ignore[arg-type]
