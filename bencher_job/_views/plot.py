"""Choose and draw the plot of a sweep.

exactly two numeric arguments vary -> heat map
a number along x                   -> line, with a band over whatever else varies
anything else along x              -> bars
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Literal

from .._errors import BencherJobError
from .._record import short_form
from .table import result_fields

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Kind = Literal["line", "bar", "heatmap", "scatter"]
KINDS: Final[tuple[Kind, ...]] = ("line", "bar", "heatmap", "scatter")

MOST_GROUPS: Final = 10
"""Maximum number of values of an argument that is shown by colour by default."""


@dataclass(frozen=True, slots=True)
class Point:
    """All values at one position: their median, minimum and maximum."""

    middle: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Point:
        """Summarise some values."""
        return cls(statistics.median(values), min(values), max(values), tuple(values))


@dataclass(frozen=True, slots=True)
class Picture:
    """The contents of a plot."""

    kind: Kind
    x: str
    y: str
    by: str | None
    xs: tuple[Any, ...]
    """The values along x, in order."""
    groups: tuple[Any, ...]
    """The values of `by`, in order; a single None if there is no `by`."""
    points: Mapping[tuple[int, int], Point]
    """The points by the indices of their group and of their x."""
    over: tuple[str, ...]
    """What varies within a point: repeats, and arguments that are neither x nor `by`."""

    @property
    def is_numeric(self) -> bool:
        """Whether all values along x are numbers."""
        return all(map(is_number, self.xs))


def is_number(value: object) -> bool:
    """Whether a value is a real number, not a bool."""
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
    """Choose the options that are not given, and arrange the values.

    Raises:
        ValueError: when there is nothing to draw, or a name or kind is unknown.
    """
    cells = [(row, result_fields(row["result"])) for row in rows]
    y = _field(cells, y)
    varying = {name: values for name, values in axes.items() if len(values) > 1}
    if cells and max(row["repeat"] for row, _ in cells) > 0:
        varying["repeat"] = range(1 + max(row["repeat"] for row, _ in cells))
    for option, name in (("x", x), ("by", by)):
        if name is not None and name not in axes and name != "repeat":
            raise ValueError(
                f"{option}={name!r} is not a swept argument. Use one of {', '.join([*axes, 'repeat'])}."
            )
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown. Use one of {', '.join(KINDS)}.")
    if x is not None and x == by:
        raise ValueError(f"x and by are both {x!r}. Leave one of them out.")
    x, by, kind = _chosen(axes, varying, x, by, kind)
    return _placed(cells, x, y, by, kind, tuple(name for name in varying if name not in {x, by}))


def _field(cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], y: str | None) -> str:
    """Return the chosen field of the results, by default the first that is a number."""
    names = dict.fromkeys(name for _, fields in cells for name, part in fields.items() if is_number(part))
    if y is None and names:
        return next(iter(names))
    if y is not None and y in names:
        return y
    if not cells:
        raise ValueError("There are no results to draw. Call run() first.")
    if y is None:
        raise ValueError("No field of the results is a number.")
    raise ValueError(
        f"y={y!r} is not a numeric field of the results. Use one of {', '.join(names) or '(none)'}."
    )


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
    if by is None and kind is None and is_number_line and x in varying and len(free) == 1:
        (other,) = free
        if all(map(is_number, varying[other])) and min(len(varying[x]), len(varying[other])) > 2:
            return x, other, "heatmap"
    if by is None and free:
        by = _grouping_argument(varying, free, any_size=kind == "heatmap")
    return x, by, kind or ("line" if is_number_line else "bar")


def _grouping_argument(
    varying: Mapping[str, Sequence[Any]], free: Sequence[str], *, any_size: bool
) -> str | None:
    """Return the argument with the fewest values, names before numbers; None if it has too many for colours."""
    few = [name for name in free if any_size or len(varying[name]) <= MOST_GROUPS]
    return min(few, key=lambda name: (all(map(is_number, varying[name])), len(varying[name])), default=None)


def _placed(
    cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    x: str,
    y: str,
    by: str | None,
    kind: Kind,
    over: tuple[str, ...],
) -> Picture:
    found: dict[tuple[Any, Any], list[float]] = {}
    for row, fields in cells:
        if is_number(fields.get(y)):
            group = None if by is None else _label(row[by])
            found.setdefault((group, _label(row[x])), []).append(float(fields[y]))
    groups, xs = _in_order(group for group, _ in found), _in_order(label for _, label in found)
    at_group, at_x = ({each: at for at, each in enumerate(some)} for some in (groups, xs))
    points = {(at_group[group], at_x[label]): Point.of(values) for (group, label), values in found.items()}
    return Picture(kind, x, y, by, xs, groups, points, over)


def _label(value: Any) -> Any:
    """Return the label of a value on an axis: numbers as they are, anything else as records show it."""
    return value if is_number(value) else str(short_form(value))


def _in_order(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return the distinct values: numbers sorted, names in order of occurrence."""
    once = list(dict.fromkeys(values))
    return tuple(sorted(once) if all(map(is_number, once)) else once)


COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, which is safe for colour-blind readers, without its pale yellow."""

MARKERS: Final = "osD^vPX"
MOST_NUMBERS: Final = 100
"""Maximum number of cells of a heat map that shows its values."""

MOST_TICKS: Final = 12
"""Maximum number of labels on an axis."""

WIDEST_SPAN: Final = 100.0
"""Ratio of the largest to the smallest positive number above which an axis is logarithmic."""

_GAP: Final = Point(math.nan, math.nan, math.nan, ())

SIZE: Final = (7.0, 4.2)
INK: Final = "#333333"


def new_figure(*, shown: bool) -> Figure:
    """Make a figure: one of pyplot, which a notebook shows, or one that is only saved, which needs no display.

    Raises:
        BencherJobError: when matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BencherJobError(
            "A picture needs matplotlib, which is not installed. Run: pip install 'bencher_job[plot]'"
        ) from error
    make = pyplot.figure if shown else Figure
    figure: Figure = make(figsize=SIZE, layout="constrained")
    return figure


def draw(picture: Picture, axes: Axes, title: str, labels: Mapping[str, str]) -> Axes:
    """Draw a picture into axes. `labels` are the labels of arguments and fields, including units."""
    kinds = {"line": _lines, "scatter": _scatter, "bar": _bars, "heatmap": _heat_map}
    kinds[picture.kind](picture, axes, labels)
    axes.set_title(_name(title), loc="left", fontsize=11, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    return axes


def _lines(picture: Picture, axes: Axes, labels: Mapping[str, str]) -> None:
    where = _positions(picture)
    for group, style in _styles(picture):
        # A position without a value is a gap, since a line across it would suggest values.
        points = [picture.points.get((group, place), _GAP) for place in range(len(picture.xs))]
        if any(point.low < point.high for point in points):
            low, high = [point.low for point in points], [point.high for point in points]
            axes.fill_between(where, low, high, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(where, [point.middle for point in points], markersize=5, linewidth=1.6, **style)
    _finish(picture, axes, labels)


def _scatter(picture: Picture, axes: Axes, labels: Mapping[str, str]) -> None:
    where = _positions(picture)
    for group, style in _styles(picture):
        points = {place: point for (of, place), point in picture.points.items() if of == group}
        xs = [where[place] for place, point in points.items() for _ in point.values]
        ys = [value for point in points.values() for value in point.values]
        axes.scatter(xs, ys, s=28, alpha=0.75, linewidths=0, **style)
    _finish(picture, axes, labels)


def _bars(picture: Picture, axes: Axes, labels: Mapping[str, str]) -> None:
    width = 0.8 / len(picture.groups)
    for group, style in _styles(picture):
        points = {place: point for (of, place), point in picture.points.items() if of == group}
        where = [place - 0.4 + width * (group + 0.5) for place in points]
        middles = [point.middle for point in points.values()]
        axes.bar(where, middles, 0.92 * width, color=style["color"], label=style["label"])
        low = [point.middle - point.low for point in points.values()]
        high = [point.high - point.middle for point in points.values()]
        if any([*low, *high]):
            axes.errorbar(where, middles, [low, high], fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    _finish(picture, axes, labels)


def _heat_map(picture: Picture, axes: Axes, labels: Mapping[str, str]) -> None:
    rows = [
        [picture.points.get((group, place), _GAP).middle for place in range(len(picture.xs))]
        for group in range(len(picture.groups))
    ]
    image = axes.imshow(rows, origin="lower", aspect="auto", cmap="cividis", interpolation="nearest")
    axes.set_facecolor("#DDDDDD")  # where there is no value
    bar = axes.figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(_called(picture.y, labels), color=INK, fontsize=10)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9)
    _label_places(axes.xaxis, picture.xs)
    _label_places(axes.yaxis, picture.groups)
    axes.set_xlabel(_called(picture.x, labels), color=INK)
    axes.set_ylabel(_called(picture.by or "", labels), color=INK)
    if len(picture.xs) * len(picture.groups) <= MOST_NUMBERS and len(picture.xs) <= MOST_TICKS:
        _write_numbers(picture, axes, image)


def _write_numbers(picture: Picture, axes: Axes, image: Any) -> None:
    for (group, place), point in picture.points.items():
        red, green, blue, _ = image.cmap(image.norm(point.middle))
        is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        colour = "white" if is_dark else "black"
        axes.text(place, group, f"{point.middle:.3g}", ha="center", va="center", fontsize=8, color=colour)


def _styles(picture: Picture) -> list[tuple[int, dict[str, Any]]]:
    """Assign colour, marker and label to each group: numbers from dark to light, names with distinct colours."""
    number = len(picture.groups)
    colours: Any = COLOURS
    if number > len(COLOURS) or (number > 2 and all(map(is_number, picture.groups))):
        from matplotlib import colormaps

        colours = colormaps["viridis"]([0.9 * group / max(1, number - 1) for group in range(number)])
    return [
        (
            group,
            {"color": colours[group], "marker": MARKERS[group % len(MARKERS)], "label": _name(each)},
        )
        for group, each in enumerate(picture.groups)
    ]


def _finish(picture: Picture, axes: Axes, labels: Mapping[str, str]) -> None:
    is_bar = picture.kind == "bar"
    if is_bar or not picture.is_numeric:
        _label_places(axes.xaxis, picture.xs)
    elif _is_wide(picture.xs):
        axes.set_xscale("log")
        if len(picture.xs) <= MOST_TICKS:
            axes.xaxis.set_ticks(list(picture.xs), [_name(value) for value in picture.xs])
            axes.xaxis.minorticks_off()
        else:
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    middles = [point.middle for point in picture.points.values()]
    if not is_bar and min(middles) > 0 and max(middles) / min(middles) >= 10 * WIDEST_SPAN:
        axes.set_yscale("log")
    axes.set_xlabel(_called(picture.x, labels), color=INK)
    axes.set_ylabel(_called(picture.y, labels), color=INK)
    axes.set_axisbelow(True)
    axes.grid(axis="y" if is_bar else "both", color="#E5E5E5", linewidth=0.8)
    if picture.by is not None:
        axes.legend(
            title=_called(picture.by, labels),
            alignment="left",
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            borderaxespad=0,
            frameon=False,
            fontsize=9,
            ncols=1 + len(picture.groups) // 18,
        )
    spread = any(point.low < point.high for point in picture.points.values())
    if spread and picture.kind in {"line", "bar"}:
        shape = "whiskers" if is_bar else "band"
        over = ", ".join("repeats" if name == "repeat" else name for name in picture.over)
        text = f"median; {shape}: least to largest over {over}"
        axes.annotate(
            text, (1, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", ha="right", va="bottom",
            fontsize=8, color="#777777",
        )  # fmt: skip


def _positions(picture: Picture) -> Sequence[float]:
    return picture.xs if picture.is_numeric else range(len(picture.xs))


def _label_places(axis: Any, values: Sequence[Any]) -> None:
    """Label the positions of an axis, as many as there is room for, slanted if the labels are long."""
    step = 1 + (len(values) - 1) // MOST_TICKS
    names = [_name(value) for value in values[::step]]
    is_long = axis.axis_name == "x" and len(names) * max(map(len, names), default=0) > 56
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axis.set_ticks(range(0, len(values), step), names, **turned)


def _is_wide(values: Sequence[float]) -> bool:
    """Whether positive numbers are spaced more evenly by ratio than by difference."""
    if len(values) < 3 or min(values) <= 0 or max(values) / min(values) < WIDEST_SPAN / 10:
        return False
    steps = [later - earlier for earlier, later in itertools.pairwise(values)]
    ratios = [math.log(later / earlier) for earlier, later in itertools.pairwise(values)]
    return max(steps) / min(steps) > max(ratios) / min(ratios)


def _name(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:g}" if is_number(value) and not isinstance(value, int) else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def _called(name: str, labels: Mapping[str, str]) -> str:
    return labels.get(name, name)
