"""What is copied of a job's arguments, and what is not."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from bencher_job import Executors
from bencher_job._job import DEEPEST, LARGEST, MOST_ITEMS, ArgumentSnapshot


def test_copies_are_equal_and_share_nothing_that_changes() -> None:
    inner = [1]
    values = {"a": inner, "b": (inner, "text"), "c": {1}, "d": np.arange(3), "e": frozenset({2})}
    snapshot = ArgumentSnapshot()
    copy = snapshot.copy(values)
    assert snapshot.is_whole
    assert copy["a"] == inner
    assert copy["a"] is not inner
    assert copy["b"][0] is copy["a"]  # what stands in two places is one object still
    assert copy["d"] is not values["d"]
    assert list(copy) == list(values)


def test_what_can_not_change_is_given_as_it_is() -> None:
    array = np.arange(3)
    array.setflags(write=False)
    for value in (1, "text", (1, ("a", None)), len, ArgumentSnapshot, Executors.SERIAL, np.float64(1), array):
        snapshot = ArgumentSnapshot()
        assert snapshot.copy(value) is value
        assert snapshot.is_whole


@pytest.mark.parametrize(
    "value",
    [
        object(),
        np.array([object()]),
        np.zeros(LARGEST + 1, np.uint8),
        [[] for _ in range(MOST_ITEMS + 1)],
        [threading.Lock()],
        np.ma.array([1]),
    ],
    ids=["object", "array of objects", "large", "long", "lock", "masked"],
)
def test_what_is_not_copied_is_told(value: object) -> None:
    snapshot = ArgumentSnapshot()
    snapshot.copy(value)
    assert not snapshot.is_whole


def test_a_cycle_and_a_deep_nesting_end() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    copy = ArgumentSnapshot().copy(cycle)
    assert copy[1] is copy
    assert copy is not cycle
    deep: list[Any] = []
    for _ in range(10 * DEEPEST):
        deep = [deep]
    snapshot = ArgumentSnapshot()
    snapshot.copy(deep)
    assert not snapshot.is_whole
