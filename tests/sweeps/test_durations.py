"""How long jobs may take is expected by those that have run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._sweeps.grid import Durations, Grid


def of(grid: Grid, seconds: dict[int, list[float]]) -> Durations:
    durations = Durations(grid)
    for number, all_of_it in seconds.items():
        for each in all_of_it:
            durations.add(number, each)
    return durations


def test_a_combination_takes_what_its_other_repeats_took() -> None:
    durations = of(Grid({"x": [1, 2]}), {0: [1.0, 3.0], 1: [10.0]})
    assert [durations.expected(0), durations.expected(1)] == [2.0, 10.0]


def test_nothing_is_known_before_anything_has_run() -> None:
    assert not Durations(Grid({"x": [1]}))


@given(
    st.lists(st.floats(0.1, 100), min_size=2, max_size=4),
    st.lists(st.floats(0.1, 100), min_size=2, max_size=4),
    st.data(),
)
def test_factors_of_the_values_are_found_where_they_can_be(
    by_row: list[float], by_column: list[float], data: st.DataObject
) -> None:
    grid = Grid({"row": range(len(by_row)), "column": range(len(by_column))})
    exact = [row * column for row in by_row for column in by_column]
    left_out = data.draw(st.integers(0, len(exact) - 1))
    durations = of(grid, {number: [exact[number]] for number in range(len(grid)) if number != left_out})
    if len(by_row) > 2 or len(by_column) > 2:
        assert durations.expected(left_out) == pytest.approx(exact[left_out], rel=0.25)


def test_a_value_that_has_not_run_is_taken_for_an_average_one() -> None:
    durations = of(Grid({"model": ["a", "b"], "n": [1, 10]}), {0: [1.0], 1: [10.0]})
    assert durations.expected(2) == pytest.approx(durations.expected(0), rel=0.1)
    assert durations.expected(3) == pytest.approx(10.0, rel=0.1)


def test_a_job_that_took_no_time_is_no_problem() -> None:
    durations = of(Grid({"x": [1, 2, 3]}), {0: [0.0], 1: [0.0]})
    assert 0 <= durations.expected(2) < 1e-5


def test_noise_does_not_bias_the_sum() -> None:
    noisy = {number: [0.1 if number % 2 else 1.9] for number in range(50)}
    durations = of(Grid({"x": range(100)}), noisy)
    assert math.fsum(durations.expected(number) for number in range(50, 100)) == pytest.approx(50, rel=0.01)


def test_many_durations_are_fitted_by_some_of_them() -> None:
    grid = Grid({"x": range(200), "y": range(50)})
    durations = of(grid, {number: [1.0 + number % 50] for number in range(9_950)})
    assert durations.expected(9_950 + 49) == pytest.approx(50.0, rel=0.05)
