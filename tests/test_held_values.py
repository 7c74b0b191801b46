"""What memory holds of the values and the calls that it recognises is small."""

from __future__ import annotations

from functools import partial

import pytest

from bencher_job import _function_cache as module
from bencher_job import cached_job
from bencher_job._stores.memory import MOST_MEMBERS

from .test_recall import knows, make_hot


def test_no_copy_is_held_of_what_is_large() -> None:
    @cached_job(code="none")
    def make(x: int) -> dict[int, int]:
        return dict.fromkeys(range(x), 0)

    make_hot(make, 10)
    make_hot(make, MOST_MEMBERS + 1)
    few, many = (kept.give for kept in make.cache.known.calls.values())
    assert isinstance(few.__self__, dict)
    assert isinstance(many, partial)


def test_a_function_knows_a_bounded_number_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CALLS", 10)

    @cached_job(code="none")
    def value(x: int) -> int:
        return x

    for number in range(25):
        assert make_hot(value, number) == number
        assert knows(value) <= 10


def test_what_memory_has_dropped_holds_no_bytes() -> None:
    @cached_job(code="none")
    def value(x: int) -> str:
        return "x" * x

    make_hot(value, 1000)
    (kept,) = value.cache.known.calls.values()
    value.cache.clear_cache()
    value(1)
    assert kept.hit is None
    assert kept.give is None
