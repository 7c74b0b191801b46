"""A light future is one of Python's own to all who use it."""

from __future__ import annotations

import threading
from concurrent.futures import ALL_COMPLETED, CancelledError, Future, InvalidStateError, as_completed, wait

import pytest

from bencher_job._light_future import LightFuture


def test_it_holds_what_a_future_holds() -> None:
    """What Python's own sets is set, whatever the version."""
    assert vars(LightFuture()).keys() == vars(Future()).keys()


def test_whoever_waits_gets_the_value() -> None:
    future: LightFuture[int] = LightFuture()
    got: list[int] = []
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    waiting = [threading.Thread(target=lambda: got.append(future.result(60))) for _ in range(3)]
    for thread in waiting:
        thread.start()
    while len(future._condition._waited_for._waiters) < 3:
        pass
    future.set_result(4)
    for thread in waiting:
        thread.join(60)
    assert got == [4, 4, 4]
    assert future.result(timeout=0) == 4


def test_it_can_be_waited_for_among_others() -> None:
    futures: list[Future[int]] = [LightFuture(), Future(), LightFuture()]
    assert wait(futures, timeout=0).not_done == set(futures)
    for number, future in enumerate(futures):
        threading.Timer(0.01 * number, future.set_result, (number,)).start()
    assert {future.result() for future in as_completed(futures, timeout=60)} == {0, 1, 2}
    assert wait(futures, return_when=ALL_COMPLETED).done == set(futures)


def test_it_ends_once() -> None:
    future: LightFuture[int] = LightFuture()
    called: list[Future[int]] = []
    future.add_done_callback(called.append)
    assert future.set_running_or_notify_cancel()
    assert not future.cancel()
    future.set_exception(ValueError("a"))
    assert called == [future]
    assert isinstance(future.exception(), ValueError)
    with pytest.raises(InvalidStateError):
        future.set_result(1)


def test_it_can_be_cancelled() -> None:
    future: LightFuture[int] = LightFuture()
    assert future.cancel()
    assert not future.set_running_or_notify_cancel()
    with pytest.raises(CancelledError):
        future.result()


def test_its_result_can_be_looked_at_without_waiting() -> None:
    future: LightFuture[int] = LightFuture()
    assert future.peek() is None
    future.set_result(4)
    assert future.peek() == 4
