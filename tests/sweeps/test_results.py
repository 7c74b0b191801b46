"""What came of a sweep is shown as rows and as a table of failures, in a terminal and in a notebook."""

from __future__ import annotations

import pandas
import pytest

from bencher_job import Sweep, cached_job


def ratio(x: object, y: int = 1) -> object:
    if x == "<b>":
        raise ValueError(f"no number: {x}")
    return x


@pytest.fixture
def sweep() -> Sweep:
    return cached_job(ratio).sweep({"x": [1, "<b>", 3]}, repeats=2, y=7).run()


def test_rows_are_a_sequence_of_dicts(sweep: Sweep) -> None:
    expected = [
        {"x": 1, "repeat": 0, "result": 1},
        {"x": 1, "repeat": 1, "result": 1},
        {"x": 3, "repeat": 0, "result": 3},
        {"x": 3, "repeat": 1, "result": 3},
    ]
    assert sweep.results == expected
    assert list(sweep.results) == expected
    assert sweep.results[1:3] == expected[1:3]
    assert sweep.results[-1] == expected[-1]
    assert len(sweep.results) == 4
    assert sweep.results != expected[:3]
    assert pandas.DataFrame(sweep.results).to_dict("records") == expected
    assert repr(sweep.results) == "<4 rows of x, repeat, result>"


def test_before_it_has_run_there_are_none() -> None:
    made = cached_job(ratio).sweep({"x": [1]})
    assert (made.results, made.failures) == ([], [])


def test_a_failure_tells_the_exception_and_where_it_was_raised(sweep: Sweep) -> None:
    failure = sweep.failures[0]
    assert failure.exception == "ValueError: no number: <b>"
    assert "Traceback" in failure.traceback
    assert 'raise ValueError(f"no number' in failure.traceback
    assert str(failure) == "y=7, x='<b>', repeat 0: ValueError: no number: <b>"


def test_failures_are_a_list_that_prints_a_line_each(sweep: Sweep) -> None:
    assert repr(sweep.failures) == "<2 failures>"
    assert str(sweep.failures).splitlines() == [str(failure) for failure in sweep.failures]
    assert str(cached_job(ratio).sweep({"x": [1]}).run().failures) == "no failures"


def test_failures_make_a_data_frame(sweep: Sweep) -> None:
    frame = sweep.failures.to_dataframe()
    assert list(frame) == ["y", "x", "repeat", "exception", "traceback"]
    assert list(frame["repeat"]) == [0, 1]
    assert list(frame["exception"]) == ["ValueError: no number: <b>"] * 2


def test_in_a_notebook_all_that_comes_from_elsewhere_is_escaped(sweep: Sweep) -> None:
    for shown in (sweep.failures._repr_html_(), sweep.results._repr_html_()):
        assert "<table>" in shown
        assert "<b>" not in shown
    assert "&lt;b&gt;" in sweep.failures._repr_html_()
    evil = cached_job(ratio).sweep({"x": ["<script>alert(1)</script>"]}).run()
    assert "<script>" not in evil.results._repr_html_()


def test_a_notebook_shows_the_first_rows_only() -> None:
    ran = cached_job(ratio).sweep({"x": range(500)}).run()
    assert ran.results._repr_html_().count("<tr>") == 11
    assert "the first 10 of 500 rows" in ran.results._repr_html_()
