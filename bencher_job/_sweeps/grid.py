"""Grids of arguments, estimates of their durations, and their results.

A job is expected to take as long as other repeats of its combination took. Without any, the estimate is a product with
one factor per argument value, fitted to the recorded durations.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import traceback
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, overload

from .. import _text
from .._errors import UnkeyableArgument
from .._keys import digest
from .._record import short_form, shown_arguments
from .._text import counted

if TYPE_CHECKING:
    import pandas

__all__ = ["ABSENT", "Durations", "Failures", "Grid", "Rows", "SweepFailure"]


class Grid(Sequence[dict[str, Any]]):
    """All combinations of the values of some parameters, as keyword arguments. The last parameter varies fastest.

    Combinations are made on demand, so a grid takes no more memory than its values.

    Attributes:
        axes: the values of each parameter.

    >>> grid = Grid({"model": ["svm", "forest"], "c": [0.1, 1.0, 1.0]})
    >>> len(grid), grid[3], grid.place(3)
    (6, {'model': 'forest', 'c': 0.1}, (1, 0))
    >>> grid.original(5), list(grid.twins(4))
    (4, [4, 5])
    """

    def __init__(self, axes: Mapping[str, Iterable[Any]], ignored: Collection[str] = ()) -> None:
        self.axes = {name: list(values) for name, values in axes.items()}
        self._ignored = ignored
        sizes = list(map(len, self.axes.values()))
        self._length = math.prod(sizes)
        self._strides = [(math.prod(sizes[axis + 1 :]), size) for axis, size in enumerate(sizes)]

    @cached_property
    def _firsts(self) -> list[list[int]]:
        return [
            [0] * len(values) if name.partition(".")[0] in self._ignored else _firsts_of(values)
            for name, values in self.axes.items()
        ]

    @cached_property
    def has_twins(self) -> bool:
        """Whether some combinations are the same job, because a value repeats or its parameter is ignored."""
        return any(firsts != list(range(len(firsts))) for firsts in self._firsts)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, number: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, number: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, number: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self._length))]
        if not -self._length <= number < self._length:
            raise IndexError(f"index {number} is out of range: the grid has {self._length} combinations")
        places = self.place(number % self._length)
        return {name: values[place] for (name, values), place in zip(self.axes.items(), places, strict=True)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(values)}" for name, values in self.axes.items())
        return f"<Grid of {self._length} combinations, {sizes or 'of nothing'}>"

    def place(self, number: int) -> tuple[int, ...]:
        """Return the indices of a combination's values in their axes."""
        return tuple([number // stride % size for stride, size in self._strides])

    def original(self, number: int) -> int:
        """Return the number of the first combination that is the same job."""
        if not self.has_twins:
            return number
        return self._number_of(
            [first[place] for first, place in zip(self._firsts, self.place(number), strict=True)]
        )

    def twins(self, original: int) -> Iterator[int]:
        """Yield the numbers of all combinations that are the same job as the first of them, including it."""
        if not self.has_twins:
            yield original
            return
        choices = (
            [other for other, its_first in enumerate(firsts) if its_first == place]
            for firsts, place in zip(self._firsts, self.place(original), strict=True)
        )
        yield from map(self._number_of, itertools.product(*choices))

    def _number_of(self, places: Sequence[int]) -> int:
        number = 0
        for place, values in zip(places, self.axes.values(), strict=True):
            number = number * len(values) + place
        return number


def _firsts_of(values: Sequence[Any]) -> list[int]:
    """Return for each value the index of the first value with the same key."""
    seen: dict[bytes, int] = {}
    firsts = []
    for place, value in enumerate(values):
        try:
            firsts.append(seen.setdefault(digest(value), place))
        except UnkeyableArgument:  # its job will report it
            firsts.append(place)
    return firsts


SHORTEST: Final = 1e-6
"""Minimum duration of a job in seconds, so that it has a logarithm."""

ROUNDS: Final = 12
"""Iterations of the fit. More than one is needed where few combinations have run, unevenly."""

MOST_FITTED: Final = 1000
"""Maximum number of durations that the factors are fitted to."""


class Durations:
    """Recorded durations of a grid's combinations in seconds, and estimates for the others.

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
        """Add the duration of one repeat of a combination. Call this before any `expected`."""
        self._numbers.append(number)
        self._seconds.append(seconds)

    def expected(self, number: int) -> float:
        """Estimate the duration of a combination. Needs at least one duration."""
        own = self._means.get(number)
        return self._fitted.at(self._grid.place(number)) if own is None else own

    @cached_property
    def _means(self) -> dict[int, float]:
        """The mean duration of each combination that has run."""
        known: dict[int, tuple[float, int]] = {}
        for number, seconds in zip(self._numbers, self._seconds, strict=True):
            total, count = known.get(number, (0.0, 0))
            known[number] = total + seconds, count + 1
        return {number: total / count for number, (total, count) in known.items()}

    @cached_property
    def _fitted(self) -> _Factors:
        some = list(self._means.items())
        if len(some) > MOST_FITTED:
            some = random.Random(0).sample(some, MOST_FITTED)  # noqa: S311 - a reproducible sample
        sizes = list(map(len, self._grid.axes.values()))
        return _Factors.fitted([(self._grid.place(number), seconds) for number, seconds in some], sizes)


class _Factors:
    """The factor of each value of each axis in a duration, as logarithms."""

    def __init__(self, level: float, sizes: Iterable[int]) -> None:
        self._level = level
        self._effects = [[0.0] * size for size in sizes]

    def at(self, place: Sequence[int]) -> float:
        return math.exp(self._logarithm(place))

    def _logarithm(self, place: Sequence[int]) -> float:
        return self._level + math.fsum(effect[at] for effect, at in zip(self._effects, place, strict=True))

    @classmethod
    def fitted(cls, known: Sequence[tuple[Sequence[int], float]], sizes: Iterable[int]) -> _Factors:
        """Fit the factors to durations, one axis after the other.

        A value that has not run gets the mean factor of those that have.
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
        # The mean of logarithms is below the logarithm of the mean, so scale to the total of the durations.
        fitted = math.fsum(factors.at(place) for place, _ in known)
        factors._level += math.log(math.fsum(max(seconds, SHORTEST) for _, seconds in known) / fitted)
        return factors


ROWS_SHOWN: Final = 10
"""Maximum number of rows that a notebook shows."""

ABSENT: Final = object()
"""A sentinel for a cell without a value."""


class Rows(Sequence[dict[str, Any]]):
    """The results of a sweep as rows: the swept arguments, `repeat`, and the value as `result`.

    Rows are made on demand.
    """

    def __init__(self, grid: Grid, repeats: int, values: Sequence[Any], *, has_run: bool = True) -> None:
        self._grid = grid
        self._note = "" if has_run else f"the sweep has not run; {len(values):,} rows when it has"
        self._repeats = repeats
        self._values = values
        is_complete = not any(value is ABSENT for value in values)
        self._cells: Sequence[int] = (
            range(len(values))
            if is_complete
            else [cell for cell, value in enumerate(values) if value is not ABSENT]
        )

    def __len__(self) -> int:
        return len(self._cells)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self._row(cell) for cell in self._cells[index]]
        return self._row(self._cells[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._row, self._cells)

    def _row(self, cell: int) -> dict[str, Any]:
        number, repeat = divmod(cell, self._repeats)
        return {**self._grid[number], "repeat": repeat, "result": self._values[cell]}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # like a list

    def __repr__(self) -> str:
        names = ", ".join([*self._grid.axes, "repeat", "result"])
        return f"<{counted(len(self), 'row')} of {names}{self._note and f'; {self._note}'}>"

    def _repr_html_(self) -> str:
        shown = [[short_form(cell) for cell in row.values()] for row in self[:ROWS_SHOWN]]
        parts: list[object] = [_text.table([*self._grid.axes, "repeat", "result"], shown)]
        if len(self) > ROWS_SHOWN:
            parts.append(f"the first {ROWS_SHOWN} of {counted(len(self), 'row')}")
        if self._note:
            parts.append(self._note)
        return _text.joined(*parts)


@dataclass(frozen=True, slots=True)
class SweepFailure:
    """A job of a sweep that raised."""

    arguments: Mapping[str, Any]
    """Swept arguments and constants, by name."""
    repeat: int
    """The number of the repeat, from 0."""
    error: BaseException
    """What the function raised, or a `WorkerLost`."""

    @property
    def exception(self) -> str:
        """The exception in one line."""
        return "".join(traceback.format_exception_only(self.error)).strip()

    @property
    def traceback(self) -> str:
        """The traceback, including the worker's."""
        return "".join(traceback.format_exception(self.error))

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in shown_arguments(self.arguments).items())
        return f"{arguments}, repeat {self.repeat}: {self.exception}"


class Failures(list[SweepFailure]):
    """The jobs of a sweep that raised. `print` it for one line each, or show it in a notebook as a table."""

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table with the arguments, `repeat`, `exception` and `traceback` as columns.

        Raises:
            BencherJobError: when pandas, of the extra `table`, is not installed.
        """
        from .._views.table import rows_to_dataframe  # slow to import

        return rows_to_dataframe(
            (
                {**failure.arguments, "repeat": failure.repeat},
                {"exception": failure.exception, "traceback": failure.traceback},
            )
            for failure in self
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no failures"

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'failure')}>"

    def _repr_html_(self) -> str:
        if not self:
            return _text.joined("no failures")
        shown = [(failure, shown_arguments(failure.arguments)) for failure in self[:ROWS_SHOWN]]
        names = list(dict.fromkeys(name for _, arguments in shown for name in arguments))
        rows = [
            [
                *map(arguments.get, names),
                failure.repeat,
                _text.folded(failure.exception, failure.traceback),
            ]
            for failure, arguments in shown
        ]
        parts: list[object] = [_text.table([*names, "repeat", "exception"], rows)]
        if len(self) > ROWS_SHOWN:
            parts.append(f"the first {ROWS_SHOWN} of {counted(len(self), 'failure')}")
        return _text.joined(*parts)


SweepFailure.__module__ = "bencher_job"  # the package imports it on first use
