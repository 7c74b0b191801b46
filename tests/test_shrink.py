"""`shrink`: the least recently used entries beyond a limit are removed."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from bencher_job import CachedFunction, FutureCache, cached_job


def left(function: CachedFunction[..., Any]) -> list[int]:
    return sorted(record.arguments["x"] for record in function.cache.records())


@pytest.fixture
def value() -> CachedFunction[[int], int]:
    @cached_job
    def value(x: int) -> int:
        return x

    for x in range(6):
        value(x)
    return value


@pytest.fixture
def other() -> CachedFunction[[int], int]:
    @cached_job
    def other(x: int) -> int:
        return x

    for x in range(3):
        other(x)
    return other


def test_the_least_recently_used_entries_of_the_function_go(
    value: CachedFunction[[int], int], other: CachedFunction[[int], int]
) -> None:
    value(0), value(1)
    assert value.cache.shrink(entries=3) == 3
    assert (left(value), left(other)) == ([0, 1, 5], [0, 1, 2])
    assert value.explain(3).headline.endswith("the entry was evicted to make room")
    assert value.cache.shrink(entries=3) == 0


def test_a_cache_of_jobs_looks_at_the_whole_store(
    value: CachedFunction[[int], int], other: CachedFunction[[int], int]
) -> None:
    with FutureCache() as cache:
        size = cache.info().size
        assert cache.shrink(size=size) == 0
        assert cache.shrink(size=size // 2) == 5
        assert cache.info().size <= size // 2
    assert (left(value), left(other)) == ([5], [0, 1, 2])
    assert value.cache.verify().is_clean


def test_entries_that_were_not_used_for_long_go(value: CachedFunction[[int], int]) -> None:
    now = time.time()
    while time.time() < now + 0.2:
        time.sleep(0.01)
    value(3)
    used = time.time() - now - 0.1
    assert value.cache.shrink(unused_for=timedelta(seconds=3600)) == 0
    assert value.cache.shrink(unused_for=used) == 5
    assert left(value) == [3]


def test_limits_add_up_and_nothing_may_stay(value: CachedFunction[[int], int]) -> None:
    assert value.cache.shrink(entries=5, size=10**9, unused_for=3600) == 1
    assert value.cache.shrink(entries=0) == 5
    assert left(value) == []


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "shrink needs a limit: size=, entries= or unused_for="),
        ({"size": "1GB"}, "size must be an int or None, not str"),
        ({"entries": -1}, "entries=-1 is below 0. Give 0 or more."),
        ({"unused_for": 0}, "unused_for=0 is not above 0"),
    ],
)
def test_what_is_no_limit_is_refused(value: CachedFunction[[int], int], limits: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        value.cache.shrink(**limits)
