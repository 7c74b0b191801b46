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
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from .. import _text
from .._errors import UnkeyableArgument
from .._keys import digest
from .._record import short_form, shown_arguments
from .._text import counted

if TYPE_CHECKING:
    import pandas

_Item = TypeVar("_Item")


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
        self.axes: dict[str, Sequence[Any]] = {
            name: values if isinstance(values, range) else list(values) for name, values in axes.items()
        }
        self._ignored = ignored
        sizes = list(map(len, self.axes.values()))
        self._length = math.prod(sizes)
        self._strides = [(math.prod(sizes[axis + 1 :]), size) for axis, size in enumerate(sizes)]

    @cached_property
    def _firsts(self) -> list[Sequence[int]]:
        return [
            [0] * len(values) if name.partition(".")[0] in self._ignored else _firsts_of(values)
            for name, values in self.axes.items()
        ]

    @cached_property
    def has_twins(self) -> bool:
        """Whether some combinations are the same job, because a value repeats or its parameter is ignored."""
        return any(first != place for firsts in self._firsts for place, first in enumerate(firsts))

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
        return _combinations([*self.axes.items()])

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


def _combinations(axes: Sequence[tuple[str, Sequence[Any]]]) -> Iterator[dict[str, Any]]:
    if not axes:
        yield {}
        return
    *others, (name, values) = axes
    for point in _combinations(others):
        for value in values:
            yield {**point, name: value}


def _firsts_of(values: Sequence[Any]) -> Sequence[int]:
    """Return for each value the index of the first value with the same key."""
    if isinstance(values, range):
        return range(len(values))
    seen: dict[object, int] = {}
    firsts = []
    for place, value in enumerate(values):
        try:
            is_its_own = type(value) is int or type(value) is str
            firsts.append(seen.setdefault(value if is_its_own else digest(value), place))
        except UnkeyableArgument:  # its job will report it
            firsts.append(place)
    return firsts


SHORTEST: Final = 1e-6
"""Minimum duration of a job in seconds, so that a factor is never 0."""

ROUNDS: Final = 12
"""Iterations of the fit. More than one is needed where few combinations have run, unevenly."""

MOST_KNOWN: Final = 100_000
"""Maximum number of combinations whose durations are kept."""

MOST_SAMPLED: Final = 1000
"""Maximum number of durations that the factors are fitted to, and of those that a total is estimated from."""


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
        self._known: dict[int, tuple[float, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, number: int, seconds: float) -> None:
        """Add the duration of one repeat of a combination. Call this before any `expected`."""
        mean, count = self._known.get(number, (0.0, 0))
        if count or len(self._known) < MOST_KNOWN:
            self._known[number] = mean + (seconds - mean) / (count + 1), count + 1

    def total(self, numbers: Sequence[int]) -> float:
        """Estimate the total duration of some combinations. Needs at least one duration."""
        some = _sampled(numbers)
        return len(numbers) * statistics.fmean(map(self.expected, some)) if some else 0.0

    def expected(self, number: int) -> float:
        """Estimate the duration of a combination. Needs at least one duration."""
        own = self._known.get(number)
        return _product(self._factors, (0, *self._grid.place(number))) if own is None else own[0]

    @cached_property
    def _factors(self) -> list[defaultdict[int, float]]:
        """A factor for all combinations, and one for each value of each axis, fitted one axis after the other."""
        known = [
            ((0, *self._grid.place(number)), max(seconds, SHORTEST))
            for number, (seconds, _) in _sampled([*self._known.items()])
        ]
        factors = [defaultdict[int, float](lambda: 1.0) for _ in known[0][0]]
        for _ in range(ROUNDS):
            for axis, factor in enumerate(factors):
                ratios = defaultdict[int, list[float]](list)
                for place, seconds in known:
                    ratios[place[axis]].append(seconds / _product(factors, place))
                for value, some in ratios.items():
                    factor[value] *= statistics.geometric_mean(some)
        for axis, factor in enumerate(
            factors
        ):  # a value that has not run is like the mean of those that have
            mean = statistics.fmean([factor[place[axis]] for place, _ in known])
            factor.default_factory = partial(float, mean)
        # The geometric mean is below the mean, so scale to the total of the durations.
        fitted = sum(_product(factors, place) for place, _ in known)
        factors[0][0] *= sum(seconds for _, seconds in known) / fitted
        return factors


def _sampled(items: Sequence[_Item]) -> Sequence[_Item]:
    return items if len(items) <= MOST_SAMPLED else random.Random(0).sample(items, MOST_SAMPLED)  # noqa: S311 - reproducible


def _product(factors: Sequence[Mapping[int, float]], place: Iterable[int]) -> float:
    return math.prod(factor[value] for factor, value in zip(factors, place, strict=True))


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
