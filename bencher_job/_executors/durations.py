"""Estimate how long the jobs of a function take."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["AHEAD", "OVERDUE", "UNKNOWN", "DurationEstimates"]

AHEAD: Final = 0.025
"""Seconds of work that is sent to a worker in advance. Longer jobs are sent one at a time."""

OVERDUE: Final = 0.02
"""Seconds by which a job may exceed its estimate before the jobs behind it are withdrawn."""

OVERHEAD: Final = 5e-5
"""Seconds that a worker spends on a job besides its function."""

UNKNOWN: Final = 1.0
"""Estimate in seconds for a function that has not run yet."""

WEIGHT: Final = 0.3
"""Weight of the last job in the moving average."""

KEPT_FUNCTIONS: Final = 256


class DurationEstimates:
    """A moving average of the run times of each function, by the function's digest."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[bytes, float] = OrderedDict()

    def note(self, digest: bytes, seconds: float) -> None:
        """Add a run time."""
        taken = seconds + OVERHEAD
        known = self._seconds.get(digest, taken)
        # A longer time replaces the average at once: jobs behind the next one would wait that long.
        self._seconds[digest] = taken if taken > known else known + WEIGHT * (taken - known)
        if len(self._seconds) > KEPT_FUNCTIONS:
            self._seconds.popitem(last=False)

    def knows(self, digest: bytes) -> bool:
        """Whether the function has run."""
        return digest in self._seconds

    def of(self, digest: bytes) -> float:
        """Return the expected run time in seconds."""
        return self._seconds.get(digest, UNKNOWN)
