"""A circuit breaker: ask nothing of a shared store that has just failed.

    closed --failed--> open for 1, 2, 4 ... 30 s --pause is over--> half open --worked--> closed
                          ^------------------------failed-------------'

While it isn't closed, no caller makes a request: the courier's thread makes the one that finds out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from .._errors import warn_caller
from .._processes import renew_after_fork
from .base import Remote, Unreachable, entry_address

__all__ = ["COURIER", "Breaker"]

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0

COURIER: Final = "bencher_job courier"
"""The name of the thread that ends, rather than ask, once a store is being closed."""

T = TypeVar("T")


class Breaker:
    """The way to a remote, as long as it answers.

    Attributes:
        remote: the remote itself.
        reason: what the last failure said; empty while the remote answers.
        is_closing: whether nothing is asked any more.
    """

    def __init__(self, remote: Remote, wake: Callable[[], None]) -> None:
        """`wake` is called when the remote is to be tried again after a while."""
        self.remote = remote
        self._wake = wake
        self._until = 0.0
        self._pause = 0.0
        self._has_warned = False
        self.reason = ""
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock in a forked child."""
        self._lock = threading.Lock()
        self.is_closing = False

    @property
    def is_closed(self) -> bool:
        """Whether requests are made."""
        return not self.reason

    def ask(self, work: Callable[[Remote], T]) -> T | None:
        """Make a request; return None if the remote doesn't answer."""
        if self._is_over():
            return None
        if self.reason:
            self._wake()
            return None
        try:
            result = work(self.remote)
        except Unreachable as error:
            if not self.is_closing:  # which ends requests
                self._failed(error)
                self._wake()
            return None
        self._worked()
        return None if self._is_over() else result

    def probe(self) -> float:
        """Try an unreachable remote again, once its pause is over. Return the seconds until then; 0 if it answers."""
        if self.reason and time.monotonic() >= self._until:
            try:
                self.remote.get_many([entry_address("", "")])
            except Unreachable as error:
                self._failed(error)
            else:
                self._worked()
        return max(0.0, self._until - time.monotonic()) if self.reason else 0.0

    def _is_over(self) -> bool:
        """Whether the store is being closed. The courier's thread ends then, so that it isn't in the database."""
        if self.is_closing and threading.current_thread().name == COURIER:
            raise SystemExit
        return self.is_closing

    def _failed(self, error: Exception) -> None:
        """Make no requests for a while, and warn once."""
        with self._lock:
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
            self._until = time.monotonic() + self._pause
            self.reason = str(error) or type(error).__name__
            warns, self._has_warned = not self._has_warned, True
        if warns:
            warn_caller(
                f"the shared store {self.remote.place} can't be reached ({self.reason}). Results are kept on this "
                "machine, and pushed when it answers again."
            )

    def _worked(self) -> None:
        """Make requests again."""
        if self._pause:
            with self._lock:
                self.reason, self._pause = "", 0.0
