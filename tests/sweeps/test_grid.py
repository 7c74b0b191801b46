"""A grid gives each combination by its number, and knows which are the same job."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._sweeps.grid import Grid

values = st.lists(st.sampled_from([1, 1.0, True, "1", None, (1,), float("nan")]), min_size=1, max_size=4)
axes = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@given(axes)
def test_it_is_the_sequence_of_all_combinations(axes: dict[str, list[Any]]) -> None:
    grid = Grid(axes)
    expected = [
        dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())
    ]
    assert list(map(repr, grid)) == list(map(repr, expected))  # NaN is not equal to itself
    assert [repr(grid[number]) for number in range(len(grid))] == list(map(repr, expected))
    assert repr(grid[1:-1]) == repr(expected[1:-1])
    assert repr(grid[-1]) == repr(expected[-1])


@given(axes, st.sets(st.sampled_from("abc")))
def test_originals_and_their_twins_are_all_there_is(axes: dict[str, list[Any]], ignored: set[str]) -> None:
    grid = Grid(axes, ignored)
    originals = {number for number in range(len(grid)) if grid.original(number) == number}
    twins = [twin for original in originals for twin in grid.twins(original)]
    assert sorted(twins) == list(range(len(grid)))
    for original in originals:
        assert all(grid.original(twin) == original <= twin for twin in grid.twins(original))
    assert grid.has_twins == (len(originals) < len(grid))


def test_values_are_the_same_where_their_keys_are() -> None:
    grid = Grid({"x": [1, 1.0, True, 1, [1], [1], float("nan"), -float("nan")]})
    assert [grid.original(number) for number in range(8)] == [0, 1, 2, 0, 4, 4, 6, 6]


def test_a_value_without_a_key_is_like_no_other() -> None:
    lock = threading.Lock()
    assert [Grid({"x": [lock, lock]}).original(number) for number in (0, 1)] == [0, 1]


def test_a_number_that_is_none_raises_an_index_error() -> None:
    for number in (4, -5):
        with pytest.raises(IndexError, match="the grid has 4 combinations"):
            Grid({"x": [1, 2], "y": [1, 2]})[number]


def test_a_grid_of_nothing_has_one_combination() -> None:
    assert list(Grid({})) == [{}]
