"""Knows how often a job runs before it is given up, and for how long.

a run fails -> was it the last one? is it a failure that passes? -> wait, each time twice as long -> run again
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from .._errors import BencherJobError, JobTimeout, WorkerLost

__all__ = ["Attempts", "RetryOn", "seconds_of"]

FIRST_PAUSE: Final = 0.1
"""Seconds before the second run; each further pause is twice as long."""

LONGEST_PAUSE: Final = 10.0
"""Seconds that a pause is never longer than."""

RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often and how long the jobs of a cache may run.

    Attributes:
        retries: how many times a job runs again at most.
        retry_on: the exceptions after which it does; a lost worker is always one.
        timeout: seconds that a run may take; None for as long as it takes.

    Raises:
        TypeError: when one of them is not what it should be.
        ValueError: when one of them is below its least value.
    """

    retries: int = 0
    retry_on: RetryOn = Exception
    timeout: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.retries, int) or isinstance(self.retries, bool):
            raise TypeError(
                f"retries={self.retries!r} is no whole number. Give how many times a job runs again."
            )
        if self.retries < 0:
            raise ValueError(f"retries={self.retries} is less than none. Give 0 or more.")
        if not _is_choice(self.retry_on):
            raise TypeError(
                f"retry_on={self.retry_on!r} chooses no exceptions. Give an exception type, a tuple of them, or a "
                f"function that takes an exception and says whether the job should run again."
            )

    def pause(self, error: BaseException | None, attempt: int) -> float | None:
        """Give the seconds to wait before the next run, after an attempt (from 1) has failed; None for no next run.

        Each pause is a random part, half of it at least, of 0.1, 0.2, 0.4 seconds and so on, up to 10: jobs that failed
        together don't come back together.
        """
        if attempt > self.retries or not isinstance(error, Exception) or not self._passes(error):
            return None
        import random  # takes long to import, and few runs fail

        longest = min(FIRST_PAUSE * 2.0 ** min(attempt - 1, 64), LONGEST_PAUSE)
        return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing depends on its being secret

    def _passes(self, error: Exception) -> bool:
        """Whether another run may end better."""
        if isinstance(error, WorkerLost):
            return True
        if isinstance(error, CancelledError):
            return False
        if isinstance(error, BencherJobError) and not isinstance(error, JobTimeout):
            return False  # what can't be sent or read today can't be in a second
        if isinstance(self.retry_on, type | tuple):
            return isinstance(error, self.retry_on)
        try:
            return bool(self.retry_on(error))
        except BaseException:  # noqa: BLE001 - the job's own error is what the caller must get
            _log.exception("retry_on=%r failed on %r, which is therefore final", self.retry_on, error)
            return False


def _is_choice(retry_on: Any) -> bool:
    types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    are_exceptions = all(isinstance(each, type) and issubclass(each, Exception) for each in types)
    return are_exceptions or (callable(retry_on) and not isinstance(retry_on, type))


def seconds_of(option: str, value: float | timedelta | None, remedy: str) -> float | None:
    """Give an option that is a time in seconds; the remedy says what may be given instead.

    Raises:
        TypeError: when it is no time.
        ValueError: when it is not above 0.
    """
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"{option}={value!r} is no time. Give seconds, a timedelta, or {remedy}.")
    if not seconds > 0:
        raise ValueError(f"{option}={value!r} is no time that passes. Give more than 0 seconds, or {remedy}.")
    return None if seconds == math.inf else float(seconds)
