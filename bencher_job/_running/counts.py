"""Knows what one cache has done in this process, in figures."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from .._forks import renew_after_fork

__all__ = ["MOST_HITS_KEPT", "Counts"]

MOST_HITS_KEPT: Final = 1000
"""How many hits are counted one by one before they are added up."""


class _Figures:
    def __init__(self) -> None:
        self.submitted = self.hits = self.joined = self.computed = 0
        self.retried = self.failed = self.unsaved = 0
        self.seconds_saved = 0.0


class Counts:
    """Counts what a cache does, in any thread.

    Attributes:
        seconds_of_hits: for each hit that is not added up yet, how long its function had run.
    """

    def __init__(self) -> None:
        self._figures = _Figures()
        self.seconds_of_hits: deque[float] = deque()  # to append to it takes no lock
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._reentrant = threading.RLock()

    @property
    def now(self) -> _Figures:
        """The figures; read them one by one, as they may change in between."""
        self.add_up()
        return self._figures

    def hit(self, seconds: float) -> None:
        """Count a job that was answered from the cache, and how long its function had run."""
        hits = self.seconds_of_hits
        hits.append(seconds)
        if len(hits) > MOST_HITS_KEPT:
            self.add_up()

    def add_up(self) -> None:
        """Add up the hits that were counted one by one."""
        with self._reentrant:
            self._add_up_hits()

    def _add_up_hits(self) -> None:
        hits, figures = self.seconds_of_hits, self._figures
        for _ in range(len(hits)):
            try:
                seconds = hits.popleft()
            except IndexError:  # a signal handler's hit has added up the rest
                return
            figures.seconds_saved += seconds
            figures.hits += 1
            figures.submitted += 1

    def joined(self) -> None:
        """Count a job that waits for one that is in flight."""
        with self._reentrant:
            self._figures.submitted += 1
            self._figures.joined += 1

    def computed(self, number: int) -> None:
        """Count jobs whose function is about to run."""
        with self._reentrant:
            self._figures.submitted += number
            self._figures.computed += number

    def cancelled(self) -> None:
        """Take a job back that was counted as computed, and was cancelled before its function ran."""
        with self._reentrant:
            self._figures.computed -= 1

    def retried(self) -> None:
        """Count a run that failed and is repeated."""
        with self._reentrant:
            self._figures.retried += 1

    def failed(self, *, elsewhere: bool = False) -> None:
        """Count a job that has failed; one that another process ran has not been counted as submitted yet."""
        with self._reentrant:
            self._figures.submitted += elsewhere
            self._figures.failed += 1

    def unsaved(self, number: int) -> None:
        """Count results that could not be kept."""
        with self._reentrant:
            self._figures.unsaved += number

    def clear(self) -> None:
        """Set all to zero."""
        with self._reentrant:
            self.seconds_of_hits.clear()
            self._figures = _Figures()

    def as_dict(self) -> dict[str, float]:
        """Give all figures of one moment, by name."""
        with self._reentrant:
            self._add_up_hits()
            return dict(vars(self._figures))
