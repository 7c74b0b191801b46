"""A sweep runs all combinations, once each, and only what is missing."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bencher_job import BencherJobError, CachedFunction, Plan, Sweep, UnkeyableArgument, cached_job
from bencher_job.testing import CallCounter
from tests.programs import Programs, until


def noted(x: int, note: str = "") -> int:
    return x


def scaled(counter: CallCounter, x: int, y: int = 1, fail: int = -1) -> int:
    counter.tick()
    if x == fail:
        raise LookupError(x)
    return x * y


@pytest.fixture
def counter_and_sweep(counter: CallCounter) -> tuple[CallCounter, Any]:
    function = cached_job(scaled)

    def sweep(grid: dict[str, Any], **options: Any) -> Sweep:
        return function.sweep(grid, counter=counter, **options)

    sweep.function = function  # type: ignore[attr-defined]
    return counter, sweep


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


@pytest.mark.parametrize(
    ("grid", "repeats", "fact"),
    [
        ([("x", [1])], 1, "grid must be a mapping of parameters to values, not list"),
        ({"x": 5}, 1, r"grid\['x'\] must be an iterable, not int"),
        ({1: [5]}, 1, "grid must have str keys, not int"),
        ({"x": [1]}, "2", "repeats must be an int, not str"),
        (
            {"x": "svm"},
            1,
            r"grid\['x'\] must be a list of values, not str\. Write \['svm'\], or pass it as a constant",
        ),
        ({"x": b"svm"}, 1, r"grid\['x'\] must be a list of values, not bytes"),
    ],
)
def test_what_is_no_grid_is_told(counter_and_sweep, grid: Any, repeats: Any, fact: str) -> None:
    _, sweep = counter_and_sweep
    with pytest.raises(TypeError, match=fact):
        sweep(grid, repeats=repeats)


def test_a_sweep_without_a_grid_says_how_to_write_it() -> None:
    function = cached_job(noted)
    with pytest.raises(TypeError, match=r"Write sweep\(\{'x': \[1, 2\]\}, note='a'\)"):
        function.sweep(x=[1, 2], note="a")
    with pytest.raises(TypeError, match=r"Write sweep\(\{'x': \[1, 2\]\}\)"):
        function.sweep()


@pytest.mark.parametrize("executor", ["serial", "threads"])
@pytest.mark.parametrize(
    ("order", "expected"),
    [("points", [1, 1, 1, 2, 2, 2, 3, 3, 3]), ("repeats", [1, 2, 3, 1, 2, 3, 1, 2, 3])],
)
def test_all_points_run_once_before_the_second_repeat(executor: Any, order: Any, expected: list[int]) -> None:
    ran: list[int] = []

    @cached_job(executor=executor, max_workers=1, code="none")
    def noting(x: int) -> int:
        ran.append(x)
        return x

    sweep = noting.sweep({"x": [1, 2, 3, 3]}, repeats=3, order=order).run()
    assert ran == expected
    assert [(row["x"], row["repeat"]) for row in sweep.results][:4] == [(1, 0), (1, 1), (1, 2), (2, 0)]
    assert len(sweep.results) == 12
    assert noting.sweep({"x": [1, 2, 3]}, repeats=3).plan().misses == 0
    noting.cache.close()


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"order='random' is unknown\. Use 'points' or 'repeats'\."):
        cached_job(noted).sweep({"x": [1]}, order="random")  # type: ignore[arg-type]


def test_before_it_runs_the_results_are_those_that_are_remembered(
    counter_and_sweep, cache_folder: Path
) -> None:
    counter, sweep = counter_and_sweep
    grid = {"x": [1, 2, 2, 3], "y": [10, 20]}
    empty = sweep(grid)
    assert list(empty.results) == []
    assert "has not run; 8 rows when it has" in repr(empty.results)
    assert list(cache_folder.iterdir()) == []
    sweep({"x": [2]}, y=20).run()
    assert counter.count == 1
    remembered = sweep(grid)
    assert [(row["x"], row["y"], row["result"]) for row in remembered.results] == [(2, 20, 40), (2, 20, 40)]
    assert (
        repr(remembered.results)
        == "<2 rows of x, y, repeat, result; the sweep has not run; 8 rows when it has>"
    )
    assert "has not run" in remembered.results._repr_html_()
    assert remembered.to_dataframe()["result"].tolist() == [40, 40]
    assert remembered.to_xarray()["result"].count().item() == 2
    assert sweep.function.cache.info().hits == 0
    assert counter.count == 1
    ran = remembered.run()
    assert repr(ran.results) == "<8 rows of x, y, repeat, result>"


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
    assert (plan.hits, plan.misses, plan.workers) == (1, 2, 1)
    (record,) = sweep.function.cache.records()
    assert plan.seconds == pytest.approx(2 * record.seconds)
    assert counter.count == 1


def test_a_plan_expects_what_earlier_code_took_where_nothing_else_is_known(tmp_path: Path) -> None:
    def made(body: str) -> CachedFunction[..., Any]:
        namespace: dict[str, Any] = {"__name__": "study"}
        exec(f"import time\ndef slow(x):\n    time.sleep(0.02)\n    return {body}", namespace)
        return cached_job(namespace["slow"])

    made("x").sweep({"x": [1, 2]}).run()
    plan = made("x + 1").sweep({"x": range(10)}).plan()
    assert (plan.hits, plan.misses) == (0, 10)
    assert plan.seconds is not None
    assert plan.seconds >= 0.2


def test_a_plan_counts_each_job_once_and_tells_the_workers() -> None:
    function = cached_job(executor="multiprocessing", max_workers=3, ignore=("note",))(noted)
    sweep = function.sweep({"x": [1, 2, 2], "note": ["a", "b"]}, repeats=2)
    assert len(sweep) == 12
    assert sweep.plan() == Plan(hits=0, misses=4, seconds=None, workers=3)
    function.cache.close()


def test_with_overwrite_all_is_planned_to_run() -> None:
    function = cached_job(overwrite=True)(noted)
    function.sweep({"x": [1, 2]}).run()
    plan = function.sweep({"x": [1, 2, 3]}).plan()
    assert (plan.hits, plan.misses) == (0, 3)
    assert plan.seconds is not None


def test_a_duplicate_of_a_job_that_fails_fails_with_it(counter_and_sweep) -> None:
    counter, sweep = counter_and_sweep
    ran = sweep({"x": [3, 4, 3]}, fail=3).run()
    assert counter.count == 2
    assert [failure.arguments["x"] for failure in ran.failures] == [3, 3]
    assert [row["x"] for row in ran.results] == [4]


def test_combinations_that_differ_in_what_is_ignored_are_one_job(counter: CallCounter) -> None:
    @cached_job(ignore=("note", "counter"))
    def counted(counter: CallCounter, x: int, note: str) -> int:
        counter.tick()
        return x

    ran = counted.sweep({"x": [1, 2], "note": ["a", "b"]}, repeats=2, counter=counter).run()
    assert counter.count == 4
    assert [(row["x"], row["note"], row["repeat"]) for row in ran.results] == [
        (x, note, repeat) for x in (1, 2) for note in "ab" for repeat in (0, 1)
    ]


def test_where_nothing_is_remembered_duplicates_run_once_all_the_same(
    counter_and_sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHER_JOB", "off")
    counter, sweep = counter_and_sweep
    assert [row["result"] for row in sweep({"x": [3, 4, 3]}).run().results] == [3, 4, 3]
    assert counter.count == 2


def test_failures_are_kept_while_the_rest_goes_on(counter_and_sweep) -> None:
    _, sweep = counter_and_sweep
    ran = sweep({"x": [1, 2, 3]}, fail=2).run()
    assert [row["x"] for row in ran.results] == [1, 3]
    (failure,) = ran.failures
    assert (failure.arguments["x"], type(failure.error)) == (2, LookupError)


def test_a_run_without_a_bar_says_how_many_jobs_failed(
    counter_and_sweep, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    _, sweep = counter_and_sweep
    told = f"1 of 3 jobs of {__name__}.scaled failed"
    sweep({"x": [1, 2]}, fail=3).run()
    assert (caplog.messages, capsys.readouterr().err) == ([], "")
    sweep({"x": [1, 2, 3]}, fail=2).run()
    assert capsys.readouterr().err == f"{told}; the sweep's `failures` has the errors\n"
    sweep({"x": [1, 2, 3]}, fail=2).run(progress=False)
    assert (caplog.messages, capsys.readouterr().err) == ([told] * 2, "")


def test_on_error_raise_stops_at_the_first(counter_and_sweep) -> None:
    counter, sweep = counter_and_sweep
    with pytest.raises(LookupError):
        sweep({"x": [1, 2, 3]}, fail=1).run(on_error="raise")
    assert counter.count == 1


def test_after_on_error_raise_the_results_until_then_are_there(counter_and_sweep) -> None:
    _, sweep = counter_and_sweep
    made = sweep({"x": [1, 2, 3, 4]}, fail=3)
    with pytest.raises(LookupError):
        made.run(on_error="raise")
    assert [row["result"] for row in made.results] == [1, 2]
    assert [failure.arguments["x"] for failure in made.failures] == [3]


def test_iteration_gives_the_futures_of_hits_and_of_jobs_that_ran(counter_and_sweep) -> None:
    _, sweep = counter_and_sweep
    sweep({"x": [2]}).run()
    futures = {future.job.arguments["x"]: future for future in sweep({"x": [1, 2, 3]}, repeats=1)}
    assert {x: future.result() for x, future in futures.items()} == {1: 1, 2: 2, 3: 3}
    assert {x: future.cached for x, future in futures.items()} == {1: False, 2: True, 3: False}


def test_iteration_gives_failures_as_futures_and_duplicates_twice(counter_and_sweep) -> None:
    counter, sweep = counter_and_sweep
    futures = list(sweep({"x": [1, 2, 2]}, fail=2))
    assert [type(future.exception()) for future in futures] == [type(None), LookupError, LookupError]
    assert counter.count == 2


def test_iteration_gives_futures_as_they_complete() -> None:
    last_may_end = threading.Event()

    @cached_job(executor="threads", max_workers=2, code="none")
    def waits_for_the_others(x: int) -> int:
        assert x != 0 or last_may_end.wait(60)
        return x

    seen = []
    for future in waits_for_the_others.sweep({"x": range(4)}):
        seen.append(future.result())
        if len(seen) == 3:
            last_may_end.set()
    assert (sorted(seen[:3]), seen[3]) == ([1, 2, 3], 0)
    waits_for_the_others.cache.close()


def test_a_point_without_a_key_is_a_failure_and_the_rest_runs() -> None:
    function = cached_job(noted)
    ran = function.sweep({"x": [1, threading.Lock(), 2]}).run()
    assert [row["result"] for row in ran.results] == [1, 2]
    (failure,) = ran.failures
    assert isinstance(failure.error, UnkeyableArgument)


def test_a_job_that_changes_a_constant_spoils_nothing_that_is_remembered() -> None:
    @cached_job
    def greedy(x: int, basket: list[int]) -> int:
        basket.append(x)
        return len(basket)

    ran = greedy.sweep({"x": range(8)}, basket=[]).run()
    assert any("has changed since the call was read" in failure.exception for failure in ran.failures)
    assert [greedy(x, []) for x in range(8)] == [1] * 8


def test_a_large_constant_is_read_once_a_lookup_and_not_once_a_point() -> None:
    read = []

    class Large:
        def __job_key__(self) -> int:
            read.append(1)
            return 3

    sweep = cached_job(lambda x, data: x).sweep({"x": range(200)}, data=Large())
    sweep.plan()
    assert len(read) == 1
    sweep.run()
    read.clear()
    sweep.run()
    assert len(read) < 12


def test_a_large_grid_is_lean() -> None:
    function = cached_job(lambda x, y, scale: x * y * scale)
    function.key(1, 2, 3)
    tracemalloc.start()
    sweep = function.sweep({"x": range(200), "y": range(200)}, scale=2.0)
    plan = sweep.plan()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.misses == 40_000
    assert peak < 10e6


@pytest.mark.parametrize(
    ("grid", "options", "error", "message"),
    [
        ({"x": []}, {}, ValueError, "no values for x"),
        ({"x": [1]}, {"repeats": 0}, ValueError, "repeats=0"),
        ({"result": [1]}, {}, ValueError, "A parameter called result can't be swept"),
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


@pytest.mark.usefixtures("shared_workers")
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


KILLED = """
    @cached_job(executor="multiprocessing", max_workers=2, code="none")
    def step(n, repeat_of_run=0):
        count("runs")
        if n == 30 and not (HERE / "go_on").exists():
            count("stuck")
            time.sleep(600)
        return n

    sweep = step.sweep({"n": range(50)}, repeats=2)
    print(sweep.plan().hits)
    for _ in sweep:
        count("kept")
    sweep.run()
    print(len(sweep.results), len(sweep.failures))
"""


def test_a_sweep_that_is_killed_and_started_again_runs_only_what_is_missing(tmp_path: Path) -> None:
    programs = Programs(tmp_path)
    try:
        first = programs.start("first", KILLED)
        assert until(lambda: programs.count("stuck") == 2), programs.errors()
        assert until(lambda: programs.count("kept") == programs.count("runs") - 2), programs.errors()
        programs.kill(first)
        began = programs.count("runs")
        programs.tell("go_on")
        hits, ran = programs.output(programs.start("second", KILLED)).splitlines()
    finally:
        programs.end()
    assert began >= 50
    assert int(hits) == began - 2  # all but the two that ran
    assert ran == "100 0"
    assert programs.count("runs") - began == 100 - int(hits)
