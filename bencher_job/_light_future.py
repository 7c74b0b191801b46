"""A `concurrent.futures.Future` that is made in a fraction of the time.

Python's own makes ten objects, eight of them a condition that is notified whether anybody waits or not. Here the
condition is one object as long as nobody waits.
"""

from __future__ import annotations

from _thread import RLock
from concurrent.futures import Future
from concurrent.futures._base import PENDING
from threading import Condition
from typing import Any, Generic, TypeVar

__all__ = ["LightFuture"]


R = TypeVar("R")


class _LightCondition(RLock):  # type: ignore[misc]  # which is final for type checkers only
    """A lock that is a condition, of which those who wait make a real one while they hold it."""

    _waited_for: Condition | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified."""
        if self._waited_for is None:
            self._waited_for = Condition(self)
        return self._waited_for.wait(timeout)

    def notify_all(self) -> None:
        """Wake all who wait."""
        if self._waited_for is not None:
            self._waited_for.notify_all()


class LightFuture(Future[R], Generic[R]):
    """A future like any other, made in fewer steps."""

    _result: R | None

    def __init__(self) -> None:
        self._condition = _LightCondition()  # type: ignore[assignment]  # as far as `Future` uses one
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    def peek(self) -> R | None:
        """Give the result of one that has ended with one, in one step; None as long as there is none."""
        return self._result
