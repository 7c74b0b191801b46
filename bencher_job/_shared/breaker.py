"""A circuit breaker: ask nothing of a shared store that has just failed.

    closed --failed--> open for 1, 2, 4 ... 30 s --pause is over--> half open --worked--> closed
                          ^------------------------failed-------------'

While it isn't closed, no caller makes a request: a thread of the tier makes the one that finds out.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from .._errors import warn_caller
from .._processes import renew_after_fork

__all__ = ["Breaker"]

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0


class Breaker:
    """Whether a shared store is asked at present.

    Attributes:
        reason: what the last failure said; empty while the store answers.
        skipped: how many requests were not made.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._until = 0.0
        self._pause = 0.0
        self._has_warned = False
        self.reason = ""
        self.skipped = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock in a forked child."""
        self._lock = threading.Lock()

    @property
    def is_closed(self) -> bool:
        """Whether requests are made."""
        return not self.reason

    @property
    def seconds_left(self) -> float:
        """How long the pause lasts before the store is tried again; 0 if it is over, or the breaker is closed."""
        return max(0.0, self._until - time.monotonic()) if self.reason else 0.0

    def failed(self, error: Exception) -> None:
        """Make no requests for a while, and warn once."""
        with self._lock:
            self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
            self._until = time.monotonic() + self._pause
            self.reason = str(error) or type(error).__name__
            warns, self._has_warned = not self._has_warned, True
        if warns:
            warn_caller(
                f"the shared store {self._place} can't be reached ({self.reason}). Results are kept on this machine, "
                "and pushed when it answers again."
            )

    def worked(self) -> None:
        """Make requests again."""
        if self.reason or self._pause:
            with self._lock:
                self.reason, self._pause, self._until = "", 0.0, 0.0
