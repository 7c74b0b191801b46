"""Estimate how long the jobs of a function take."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["AHEAD", "OVERDUE", "UNKNOWN", "Pace"]


AHEAD: Final = 0.025
"""Seconds of work that a worker is given ahead, so that it needn't wait for the pool. Of longer jobs it gets one."""

OVERDUE: Final = 0.02
"""Seconds that a job may take longer than expected before what waits behind it is taken back."""

OVERHEAD: Final = 5e-5
"""Seconds that a job takes in a worker besides its function."""

UNKNOWN: Final = 1.0
"""Seconds that a job is expected to take whose function hasn't run yet."""

WEIGHT: Final = 0.3
"""How much the last job counts among those before it."""

KEPT_FUNCTIONS: Final = 256


class Pace:
    """What the last jobs of each function took."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[bytes, float] = OrderedDict()

    def note(self, digest: bytes, seconds: float) -> None:
        """Note how long the function of a digest ran."""
        taken = seconds + OVERHEAD
        known = self._seconds.get(digest, taken)
        # A longer one counts at once: what waits behind the next one waits that long.
        self._seconds[digest] = taken if taken > known else known + WEIGHT * (taken - known)
        if len(self._seconds) > KEPT_FUNCTIONS:
            self._seconds.popitem(last=False)

    def knows(self, digest: bytes) -> bool:
        """Whether the function of a digest has run already."""
        return digest in self._seconds

    def of(self, digest: bytes) -> float:
        """Say how many seconds a job of the function of a digest takes, as far as one can tell."""
        return self._seconds.get(digest, UNKNOWN)
