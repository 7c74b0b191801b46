"""Knows all combinations of a grid's values by number, and which of them are the same job."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

from .._errors import UnkeyableArgument
from .._keys import digest

__all__ = ["Grid"]


class Grid(Sequence[dict[str, Any]]):
    """All combinations of the values of some parameters, each as keyword arguments; the last parameter varies fastest.

    A combination is made when it is asked for, so that a grid takes no more memory than its values.

    Attributes:
        axes: the parameters, and the values of each.

    >>> grid = Grid({"model": ["svm", "forest"], "c": [0.1, 1.0, 1.0]})
    >>> len(grid), grid[3], grid.place(3)
    (6, {'model': 'forest', 'c': 0.1}, (1, 0))
    >>> grid.original(5), list(grid.twins(4))
    (4, [4, 5])
    """

    def __init__(self, axes: Mapping[str, Iterable[Any]], ignored: Collection[str] = ()) -> None:
        self.axes = {name: list(values) for name, values in axes.items()}
        self._ignored = ignored
        self._length = math.prod(map(len, self.axes.values()))

    @cached_property
    def _firsts(self) -> list[list[int]]:
        return [
            [0] * len(values) if name in self._ignored else _firsts_of(values)
            for name, values in self.axes.items()
        ]

    @cached_property
    def has_twins(self) -> bool:
        """Whether some combinations are the same job, as a value stands twice or its parameter is in no key."""
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
            raise IndexError(f"{number} is no number of a combination: there are {self._length}.")
        places = self.place(number % self._length)
        return {name: values[place] for (name, values), place in zip(self.axes.items(), places, strict=True)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {len(values)}" for name, values in self.axes.items())
        return f"<Grid of {self._length} combinations, {sizes or 'of nothing'}>"

    def place(self, number: int) -> tuple[int, ...]:
        """Say where a combination's values stand in their axes."""
        places = []
        for values in reversed(self.axes.values()):
            number, place = divmod(number, len(values))
            places.append(place)
        return tuple(reversed(places))

    def original(self, number: int) -> int:
        """Give the number of the first combination that is the same job."""
        if not self.has_twins:
            return number
        return self._number_of(
            [first[place] for first, place in zip(self._firsts, self.place(number), strict=True)]
        )

    def twins(self, original: int) -> Iterator[int]:
        """Give the numbers of all combinations that are the same job as the first of them, that one included."""
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
    """Say for each value where the first one stands that has the same key."""
    seen: dict[bytes, int] = {}
    firsts = []
    for place, value in enumerate(values):
        try:
            firsts.append(seen.setdefault(digest(value), place))
        except UnkeyableArgument:  # its job will say so
            firsts.append(place)
    return firsts
