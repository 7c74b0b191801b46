"""Knows what picture fits the rows of a sweep: what goes along x, what up, what apart by colour, and of which kind.

two numbers that vary, nothing else -> heat map
a number along x                    -> line, with a band over what varies besides
anything else along x               -> bars
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Final, Literal

from .._record import short_form
from .table import result_fields

__all__ = ["KINDS", "Kind", "Picture", "Point", "picture_of"]

Kind = Literal["line", "bar", "heatmap", "scatter"]
KINDS: Final[tuple[Kind, ...]] = ("line", "bar", "heatmap", "scatter")

MOST_APART: Final = 10
"""How many values an argument has at most that is told apart by colour unasked."""


@dataclass(frozen=True, slots=True)
class Point:
    """All values at one place: their median, the least and the largest."""

    middle: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Point:
        """Sum up some values."""
        return cls(statistics.median(values), min(values), max(values), tuple(values))


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be drawn."""

    kind: Kind
    x: str
    y: str
    by: str | None
    xs: tuple[Any, ...]
    """The values along x, in order."""
    groups: tuple[Any, ...]
    """The values of `by`, in order; one None where nothing is told apart."""
    points: Mapping[tuple[int, int], Point]
    """By the places of their group and of their x."""
    over: tuple[str, ...]
    """What varies at one place: repeats, and arguments that are neither x nor `by`."""

    @property
    def is_numeric(self) -> bool:
        """Whether what stands along x are numbers."""
        return all(map(is_number, self.xs))


def is_number(value: object) -> bool:
    """Whether a value is a real number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def picture_of(
    axes: Mapping[str, Sequence[Any]],
    rows: Iterable[Mapping[str, Any]],
    *,
    x: str | None = None,
    y: str | None = None,
    by: str | None = None,
    kind: Kind | None = None,
) -> Picture:
    """Choose what is not said, and put the values in their places.

    Raises:
        ValueError: when there is nothing to be drawn, or a name or a kind is none.
    """
    cells = [(row, result_fields(row["result"])) for row in rows]
    y = _field(cells, y)
    varying = {name: values for name, values in axes.items() if len(values) > 1}
    if cells and max(row["repeat"] for row, _ in cells) > 0:
        varying["repeat"] = range(1 + max(row["repeat"] for row, _ in cells))
    for option, name in (("x", x), ("by", by)):
        if name is not None and name not in axes and name != "repeat":
            raise ValueError(
                f"{option}={name!r} is no swept argument. Use one of {', '.join([*axes, 'repeat'])}."
            )
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind={kind!r} is no kind of picture. Use one of {', '.join(KINDS)}.")
    if x is not None and x == by:
        raise ValueError(f"x and by are both {x!r}. Leave one of them out.")
    x, by, kind = _chosen(axes, varying, x, by, kind)
    return _placed(cells, x, y, by, kind, tuple(name for name in varying if name not in {x, by}))


def _field(cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], y: str | None) -> str:
    """Choose the first field of the results that is a number, unless one is said."""
    names = dict.fromkeys(name for _, fields in cells for name, part in fields.items() if is_number(part))
    if y is None and names:
        return next(iter(names))
    if y is not None and y in names:
        return y
    if not cells:
        raise ValueError("There are no results to draw. Call run() first.")
    asked = "No field" if y is None else f"y={y!r} is no field that"
    raise ValueError(f"{asked} of the results is a number. Those that are: {', '.join(names) or 'none'}.")


def _chosen(
    axes: Mapping[str, Sequence[Any]],
    varying: Mapping[str, Sequence[Any]],
    x: str | None,
    by: str | None,
    kind: Kind | None,
) -> tuple[str, str | None, Kind]:
    free = [name for name in varying if name not in {x, by, "repeat"}]
    numeric = [name for name in free if all(map(is_number, varying[name]))]
    if x is None:
        first = next(iter([*numeric, *free]), None)
        x = first or ("repeat" if "repeat" in varying and by != "repeat" else next(iter(axes), "repeat"))
        free = [name for name in free if name != x]
    is_number_line = all(map(is_number, varying.get(x, axes.get(x, (0,)))))
    if by is None and kind is None and is_number_line and len(free) == 1:
        (other,) = free
        if all(map(is_number, varying[other])) and min(len(varying[x]), len(varying[other])) > 2:
            return x, other, "heatmap"
    if by is None and free:
        by = _told_apart(varying, free, any_size=kind == "heatmap")
    return x, by, kind or ("line" if is_number_line else "bar")


def _told_apart(varying: Mapping[str, Sequence[Any]], free: Sequence[str], *, any_size: bool) -> str | None:
    """Choose the argument with the fewest values, names before numbers, unless it has too many for colours."""
    few = [name for name in free if any_size or len(varying[name]) <= MOST_APART]
    return min(few, key=lambda name: (all(map(is_number, varying[name])), len(varying[name])), default=None)


def _placed(
    cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    x: str,
    y: str,
    by: str | None,
    kind: Kind,
    over: tuple[str, ...],
) -> Picture:
    labelled = [
        (_label(row[x]), None if by is None else _label(row[by]), fields[y])
        for row, fields in cells
        if is_number(fields.get(y))
    ]
    xs = _in_order(label for label, _, _ in labelled)
    groups = _in_order(group for _, group, _ in labelled)
    at_x, at_group = (
        {each: place for place, each in enumerate(xs)},
        {each: i for i, each in enumerate(groups)},
    )
    found: dict[tuple[int, int], list[float]] = {}
    for label, group, value in labelled:
        found.setdefault((at_group[group], at_x[label]), []).append(float(value))
    points = {place: Point.of(values) for place, values in found.items()}
    return Picture(kind, x, y, by, xs, groups, points, over)


def _label(value: Any) -> Any:
    """Give what stands at an axis: numbers as they are, anything else as records show it."""
    return value if is_number(value) else str(short_form(value))


def _in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    """Give each once: numbers by size, names as they come."""
    once = list(dict.fromkeys(values))
    return tuple(sorted(once) if all(map(is_number, once)) else once)
