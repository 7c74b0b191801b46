"""Knows how long a grid's jobs may take, by how long some of them have taken.

A job is expected to take as long as other repeats of its combination have. Where there are none each of its values
makes it take so many times longer or shorter, whatever the other values are.
"""

from __future__ import annotations

import math
import random
import statistics
from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

from .grid import Grid

__all__ = ["Durations"]

SHORTEST: Final = 1e-6
"""Seconds that a job counts for at least, so that it has a logarithm."""

ROUNDS: Final = 12
"""How many times the factors are made to fit each other: few combinations may have run, and not evenly."""

MOST_FITTED: Final = 1000
"""How many durations the factors are fitted to at most."""


class Durations:
    """How long combinations of a grid have taken, in seconds, and what that says of the others.

    >>> durations = Durations(Grid({"model": ["svm", "forest"], "n": [10, 100]}))
    >>> for number, seconds in ((0, 1.0), (1, 10.0), (2, 3.0)):
    ...     durations.add(number, seconds)
    >>> [round(durations.expected(number), 1) for number in range(4)]
    [1.0, 10.0, 3.0, 30.0]
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._numbers = array("q")
        self._seconds = array("d")

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def add(self, number: int, seconds: float) -> None:
        """Take in how long one repeat of a combination took; all come before anything is expected."""
        self._numbers.append(number)
        self._seconds.append(seconds)

    def expected(self, number: int) -> float:
        """Say how long a combination may take, where any has been added."""
        own = self._means.get(number)
        return self._fitted.at(self._grid.place(number)) if own is None else own

    @cached_property
    def _means(self) -> dict[int, float]:
        """The mean of each combination that has run."""
        known: dict[int, tuple[float, int]] = {}
        for number, seconds in zip(self._numbers, self._seconds, strict=True):
            total, count = known.get(number, (0.0, 0))
            known[number] = total + seconds, count + 1
        return {number: total / count for number, (total, count) in known.items()}

    @cached_property
    def _fitted(self) -> _Factors:
        some = list(self._means.items())
        if len(some) > MOST_FITTED:
            some = random.Random(0).sample(some, MOST_FITTED)  # noqa: S311 - the same ones each time, evenly strewn
        sizes = list(map(len, self._grid.axes.values()))
        return _Factors.fitted([(self._grid.place(number), seconds) for number, seconds in some], sizes)


class _Factors:
    """What each value of each axis multiplies a duration by, as logarithms."""

    def __init__(self, level: float, sizes: Iterable[int]) -> None:
        self._level = level
        self._effects = [[0.0] * size for size in sizes]

    def at(self, place: Sequence[int]) -> float:
        return math.exp(self._logarithm(place))

    def _logarithm(self, place: Sequence[int]) -> float:
        return self._level + math.fsum(effect[at] for effect, at in zip(self._effects, place, strict=True))

    @classmethod
    def fitted(cls, known: Sequence[tuple[Sequence[int], float]], sizes: Iterable[int]) -> _Factors:
        """Fit the factors to durations by their places, one axis after the other.

        A value that has not run gets the mean of those that have.
        """
        logarithms = [(place, math.log(max(seconds, SHORTEST))) for place, seconds in known]
        factors = cls(statistics.fmean(logarithm for _, logarithm in logarithms), sizes)
        for _ in range(ROUNDS):
            for axis, effect in enumerate(factors._effects):
                rest: dict[int, list[float]] = {}
                for place, logarithm in logarithms:
                    rest.setdefault(place[axis], []).append(logarithm - factors._logarithm(place))
                for at, differences in rest.items():
                    effect[at] += statistics.fmean(differences)
        for axis, effect in enumerate(factors._effects):
            seen = [effect[place[axis]] for place, _ in logarithms]
            unseen = set(range(len(effect))).difference(place[axis] for place, _ in logarithms)
            mean = math.log(statistics.fmean(map(math.exp, seen)))
            for at in unseen:
                effect[at] = mean
        # The mean of logarithms is below the logarithm of the mean: what has run is met on the whole.
        fitted = math.fsum(factors.at(place) for place, _ in known)
        factors._level += math.log(math.fsum(max(seconds, SHORTEST) for _, seconds in known) / fitted)
        return factors
