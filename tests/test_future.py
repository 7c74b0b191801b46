"""A JobFuture is a concurrent.futures.Future that can be awaited."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, Future

import pytest

from bencher_job import Job, JobFuture

JOB = Job("job", print, {}, job_key="key")


@pytest.mark.parametrize("result", [None, 0, [1]])
def test_a_given_result_is_there_at_once(result: object) -> None:
    future = JobFuture(JOB, res=result)
    assert (future.done(), future.cached, future.result(), future.job) == (True, True, result, JOB)


def test_either_a_result_or_a_future_is_given() -> None:
    for arguments in ({}, {"res": 1, "future": Future()}):
        with pytest.raises(TypeError, match="either a result"):
            JobFuture(JOB, **arguments)


def test_another_futures_result_is_passed_on() -> None:
    inner: Future[int] = Future()
    future = JobFuture(JOB, future=inner)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    inner.set_result(3)
    assert (future.result(), future.cached) == (3, False)


def test_another_futures_exception_is_passed_on_unchanged() -> None:
    inner: Future[int] = Future()
    error = LookupError("lost")
    inner.set_exception(error)
    assert JobFuture(JOB, future=inner).exception() is error


def test_cancelling_goes_both_ways() -> None:
    inner: Future[int] = Future()
    future = JobFuture(JOB, future=inner)
    assert future.cancel()
    assert inner.cancelled()
    with pytest.raises(CancelledError):
        future.result()
    other: Future[int] = Future()
    following = JobFuture(JOB, future=other)
    other.cancel()
    assert following.cancelled()


def test_a_running_job_is_not_cancelled() -> None:
    inner: Future[int] = Future()
    inner.set_running_or_notify_cancel()
    future = JobFuture(JOB, future=inner)
    assert not future.cancel()
    inner.set_result(1)
    assert future.result() == 1


def test_callbacks_are_called_with_the_future() -> None:
    seen: list[object] = []
    inner: Future[int] = Future()
    future = JobFuture(JOB, future=inner)
    future.add_done_callback(seen.append)
    inner.set_result(1)
    assert seen == [future]


def test_it_can_be_awaited() -> None:
    async def both() -> list[int]:
        inner: Future[int] = Future()
        asyncio.get_running_loop().call_later(0.01, inner.set_result, 2)
        return [await JobFuture(JOB, res=1), await JobFuture(JOB, future=inner)]

    assert asyncio.run(both()) == [1, 2]


def test_its_repr_shows_the_state_and_never_the_value() -> None:
    assert repr(JobFuture(JOB, res="secret")) == "<JobFuture cached of <Job 'job' of print, key key>>"
