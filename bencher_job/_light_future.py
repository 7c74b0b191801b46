"""A `concurrent.futures.Future` that takes a fraction of the time to create.

Python's own creates ten objects, eight of them for a condition. Here the condition is one object until a thread waits.
"""

from __future__ import annotations

from _thread import RLock
from concurrent.futures import Future
from concurrent.futures._base import LOGGER, PENDING
from threading import Condition
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class _LightCondition(RLock):  # type: ignore[misc]  # which is final for type checkers only
    """A lock that serves as a condition. The first thread that waits makes a real condition of it."""

    _waited_for: Condition | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified."""
        if self._waited_for is None:
            self._waited_for = Condition(self)
        return self._waited_for.wait(timeout)

    def notify_all(self) -> None:
        """Wake all waiting threads."""
        if self._waited_for is not None:
            self._waited_for.notify_all()


class LightFuture(Future[R], Generic[R]):
    """A future that takes fewer steps to create."""

    _result: R | None

    def __init__(self) -> None:
        self._condition = _LightCondition()  # type: ignore[assignment]  # as far as `Future` uses one
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    def wake(self) -> None:
        """Wake the waiting threads of a future that is done, and call the callbacks that have not been called.

        Ctrl-C may have interrupted the thread that set the result before it did so.
        """
        with self._condition:
            self._condition.notify_all()
        self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        while self._done_callbacks:
            try:
                callback = self._done_callbacks.pop(0)
            except IndexError:  # another thread has called the last one
                return
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - as `Future` does
                LOGGER.exception("exception calling callback for %r", self)

    def peek(self) -> R | None:
        """Return the result if there is one, else None, in one step."""
        return self._result
