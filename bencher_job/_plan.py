"""Knows what a sweep is about to do, in figures and in words."""

from __future__ import annotations

from dataclasses import dataclass

from . import _html
from ._words import counted, roughly

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep is about to do; `print` it for a sentence.

    >>> print(Plan(hits=412, misses=88, seconds=89_000.0, workers=8))
    412 hits, 88 to run, about 3.1 h on 8 workers
    """

    hits: int
    """Jobs that are remembered."""
    misses: int
    """Jobs that will run."""
    seconds: float | None = None
    """Expected running time of the misses one after the other, by recorded ones; None where nothing is recorded."""
    workers: int | None = None
    """How many jobs run at once; None where the executor doesn't say."""

    @property
    def duration(self) -> float | None:
        """Expected seconds until all has run, on as many workers as there are."""
        if self.seconds is None:
            return None
        return self.seconds / max(1, min(self.workers or 1, self.misses))

    def _repr_html_(self) -> str:
        return _html.joined(str(self))

    def __str__(self) -> str:
        text = f"{counted(self.hits, 'hit')}, {self.misses:,} to run"
        if self.duration is None or not self.misses:
            return text
        on = counted(self.workers, "worker") if self.workers is not None else "one worker"
        return f"{text}, about {roughly(self.duration)} on {on}"


Plan.__module__ = __package__  # the package imports it when it is asked for
