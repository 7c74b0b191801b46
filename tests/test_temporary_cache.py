"""A temporary cache ends with its folder: for jobs that are still at it, and for workers that saw it."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from bencher_job import CacheWarning, cached_job
from bencher_job.testing import temporary_cache


def folder_here() -> str:
    """The cache directory that this process uses now."""
    probe = cached_job(code="none")(given)
    probe.refresh(1)
    return os.fspath(probe.cache.cache.directory.parent)


def given(x: int) -> int:
    return x


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_uses_the_folder_that_its_job_was_submitted_in(method: str) -> None:
    """Also one that was started, or has kept a function, in an earlier temporary cache, and after all of them."""

    @cached_job(code="none")
    def inner(x: int) -> str:
        return folder_here()

    @cached_job(executor="multiprocessing", start_method=method, max_workers=1, code="none")  # type: ignore[arg-type]
    def outer(x: int) -> tuple[int, str, str]:
        return os.getpid(), inner(x), folder_here()

    outside = outer(0)
    with temporary_cache() as first:
        in_first = outer(1)
        assert inner.is_cached(1)
    with temporary_cache() as second:
        in_second = outer(2)
        assert inner.is_cached(2)
        assert not inner.is_cached(1)
    after = outer(3)
    assert inner.is_cached(3)
    outer.cache.close()
    assert [each[1:] for each in (in_first, in_second)] == [
        (os.fspath(folder),) * 2 for folder in (first, second)
    ]
    assert outside[1:] == after[1:] == (folder_here(),) * 2
    assert len({each[0] for each in (outside, in_first, in_second, after)}) == 1


def test_a_job_that_goes_on_after_the_end_gives_its_value_and_leaves_nothing() -> None:
    begun, may_end = threading.Event(), threading.Event()

    @cached_job(executor="threads", code="none")
    def slow(x: int) -> int:
        begun.set()
        may_end.wait()
        return x

    with temporary_cache() as folder:
        future = slow.submit(1)
        begun.wait()
    with pytest.warns(CacheWarning, match="was a temporary cache, and is removed"):
        give_leave(may_end, future, slow)
    assert not folder.exists()
    assert not slow.is_cached(1)


def give_leave(may_end: threading.Event, future: Any, function: Any) -> None:
    may_end.set()
    assert future.result() == 1
    function.cache.wait()


@pytest.mark.filterwarnings("ignore:.*was a temporary cache:bencher_job.CacheWarning")
def test_results_that_are_settling_at_the_end_keep_no_folder() -> None:
    """What is being written then goes with the folder, and nothing comes after it."""

    @cached_job(executor="threads", code="none")
    def large(x: int) -> bytes:
        return bytes(100_000)

    for _ in range(20):
        with temporary_cache() as folder:
            futures = [large.submit(number) for number in range(20)]
            futures[0].result()
        assert not folder.exists()
        assert [len(future.result()) for future in futures] == [100_000] * 20
        large.cache.wait()
        assert not folder.exists()
