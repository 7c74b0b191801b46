"""Knows how to tell people which process computes a key, and whether it is stopped."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from ..._processes import Process, is_stopped

__all__ = ["Owner", "Wait"]

STOPPED_PATIENCE: Final = 10.0
"""Seconds for which an owner is seen stopped before its claim is taken over."""

LOOK_EVERY: Final = 0.1
"""Seconds between two looks at an owner's state."""

LONGEST_GAP: Final = 2.0
"""Seconds that count at most between two looks: a waiter that was stopped itself has seen nothing meanwhile."""


class Owner(NamedTuple):
    """Tells people who computes a key.

    Attributes:
        number: the fencing number of its claim.
        since: when it claimed the key, in seconds since 1970.
    """

    process: Process
    number: int
    since: float


class Wait:
    """Knows for how long one waiter has seen an owner stopped.

    wait = Wait()
    while owner := claims.owner(key):
        if wait.is_overdue(owner):
            claim = claims.take_over(key, owner.number)
    """

    def __init__(self) -> None:
        self._number = 0
        self._stopped = False
        self._looked = 0.0
        self._seconds = 0.0

    def is_overdue(self, owner: Owner) -> bool:
        """Whether the owner was stopped at each look for `STOPPED_PATIENCE` seconds. It costs little at every poll."""
        now = time.monotonic()
        if owner.number != self._number:
            self._number, self._stopped, self._seconds = owner.number, False, 0.0
        elif now - self._looked < LOOK_EVERY:
            return self._seconds >= STOPPED_PATIENCE
        before, self._stopped = self._stopped, is_stopped(owner.process)
        if not self._stopped:
            self._seconds = 0.0
        elif before:
            self._seconds += min(now - self._looked, LONGEST_GAP)
        self._looked = now
        return self._seconds >= STOPPED_PATIENCE
