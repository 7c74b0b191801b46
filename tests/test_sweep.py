"""A sweep runs all combinations, once each, and only what is missing."""

from __future__ import annotations

import sys

import pytest

from bencher_job import BencherJobError, Sweep, cached_job
from bencher_job.testing import CallCounter


def scaled(counter: CallCounter, x: int, y: int = 1, fail: int = -1) -> int:
    counter.tick()
    if x == fail:
        raise LookupError(x)
    return x * y


@pytest.fixture
def counter_and_sweep(counter: CallCounter):
    function = cached_job(scaled)
    return counter, lambda grid, **options: function.sweep(grid, counter=counter, **options)


def test_it_runs_each_combination_and_tells_its_results_in_the_order_of_the_grid(counter_and_sweep) -> None:
    counter, sweep = counter_and_sweep
    ran = sweep({"x": [1, 2], "y": [10, 20]}).run()
    assert isinstance(ran, Sweep)
    assert [(row["x"], row["y"], row["repeat"], row["result"]) for row in ran.results] == [
        (1, 10, 0, 10),
        (1, 20, 0, 20),
        (2, 10, 0, 20),
        (2, 20, 0, 40),
    ]
    assert (len(ran), counter.count, ran.failures) == (4, 4, [])


def test_repeats_have_keys_of_their_own_and_the_first_is_the_plain_call(counter: CallCounter) -> None:
    function = cached_job(scaled)
    assert len(function.sweep({"x": [1, 2]}, repeats=3, counter=counter).run().results) == 6
    assert counter.count == 6
    assert function.is_cached(counter, 1)
    function.sweep({"x": [1, 2]}, repeats=5, counter=counter).run()
    assert counter.count == 10


def test_duplicates_run_once(counter_and_sweep) -> None:
    counter, sweep = counter_and_sweep
    assert [row["result"] for row in sweep({"x": [3, 3, 3]}).run().results] == [3, 3, 3]
    assert counter.count == 1


def test_a_plan_runs_nothing_and_expects_by_what_is_recorded(counter_and_sweep) -> None:
    counter, sweep = counter_and_sweep
    assert str(sweep({"x": [1, 2, 3]}).plan()) == "0 hits, 3 to run"
    sweep({"x": [1]}).run()
    plan = sweep({"x": [1, 2, 3]}).plan()
    assert (plan.hits, plan.misses) == (1, 2)
    assert plan.seconds is not None
    assert counter.count == 1


def test_failures_are_kept_while_the_rest_goes_on(counter_and_sweep) -> None:
    _, sweep = counter_and_sweep
    ran = sweep({"x": [1, 2, 3]}, fail=2).run()
    assert [row["x"] for row in ran.results] == [1, 3]
    (failure,) = ran.failures
    assert (failure.arguments["x"], type(failure.error)) == (2, LookupError)


def test_on_error_raise_stops_at_the_first(counter_and_sweep) -> None:
    counter, sweep = counter_and_sweep
    with pytest.raises(LookupError):
        sweep({"x": [1, 2, 3]}, fail=1).run(on_error="raise")
    assert counter.count == 1


def test_iteration_gives_futures_as_they_complete(counter_and_sweep) -> None:
    _, sweep = counter_and_sweep
    assert sorted(future.result() for future in sweep({"x": [1, 2, 3]})) == [1, 2, 3]


@pytest.mark.parametrize(
    ("grid", "options", "error", "message"),
    [
        ({"x": []}, {}, ValueError, "no values for x"),
        ({"x": [1]}, {"repeats": 0}, ValueError, "repeats=0"),
        ({"result": [1]}, {}, ValueError, "result is a column of a sweep's own"),
        ({"x": [1]}, {"x": 2}, TypeError, "both in the grid and among the constants"),
        ({"z": [1]}, {}, TypeError, "unexpected keyword argument 'z'"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(
    counter_and_sweep,
    grid: dict[str, list[int]],
    options: dict[str, int],
    error: type[Exception],
    message: str,
) -> None:
    counter, sweep = counter_and_sweep
    with pytest.raises(error, match=message):
        sweep(grid, **options)
    assert counter.count == 0


def test_on_a_pool_results_are_the_same(counter: CallCounter) -> None:
    function = cached_job(executor="multiprocessing")(scaled)
    ran = function.sweep({"x": range(40)}, repeats=2, counter=counter).run(progress=False)
    assert [row["result"] for row in ran.results] == [x for x in range(40) for _ in range(2)]
    assert counter.count == 80
    function.cache.close()


def test_a_bar_is_drawn_when_asked_for(counter_and_sweep, capsys: pytest.CaptureFixture[str]) -> None:
    _, sweep = counter_and_sweep
    sweep({"x": [1, 2, 3]}, fail=2).run(progress=True)
    assert "3/3" in capsys.readouterr().err


def test_a_bar_without_its_library_names_the_extra(
    counter_and_sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    _, sweep = counter_and_sweep
    with pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[progress\]'"):
        sweep({"x": [1]}).run(progress=True)


def test_a_method_sweeps_with_its_instance() -> None:
    class Model:
        size = 3

        @cached_job
        def score(self, x: int) -> int:
            return self.size * x

    assert [row["result"] for row in Model().score.sweep({"x": [1, 2]}).run().results] == [3, 6]
