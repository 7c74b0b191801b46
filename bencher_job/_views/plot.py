"""Knows how a picture of a sweep is drawn by matplotlib: colours that all can tell apart, and nothing overlaps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from .._errors import BencherJobError
from .picture import Picture, Point, is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "new_axes", "new_figure"]

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which people with any kind of colour vision tell apart; the pale yellow is left out."""

MARKERS: Final = "osD^vPX"
MOST_NUMBERS: Final = 100
"""How many cells a heat map has at most whose values are written into them."""

MOST_TICKS: Final = 12
"""How many places of an axis are labelled at most."""

WIDEST_SPAN: Final = 100.0
"""By what factor positive numbers differ from which a logarithmic axis shows them better."""

_GAP: Final = Point(math.nan, math.nan, math.nan, ())

SIZE: Final = (7.0, 4.2)
INK: Final = "#333333"


def _named(library: str) -> BencherJobError:
    return BencherJobError(
        f"A picture needs {library}, which is not installed. Run: pip install 'bencher_job[plot]'"
    )


def new_axes() -> Axes:
    """Make the axes of a new figure of pyplot's, which a notebook shows.

    Raises:
        BencherJobError: when matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise _named("matplotlib") from error
    axes: Axes = pyplot.subplots(figsize=SIZE, layout="constrained")[1]
    return axes


def new_figure() -> Figure:
    """Make a figure that is saved and never shown, so that it needs no screen.

    Raises:
        BencherJobError: when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise _named("matplotlib") from error
    return Figure(figsize=SIZE, layout="constrained")


def draw(picture: Picture, axes: Axes, title: str, labels: Mapping[str, str]) -> Axes:
    """Draw a picture into axes; `labels` are what arguments and fields are called there, units included."""
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
    for group, colour, marker in _styles(picture):
        # A place without a value is a gap: a line across it would tell of values that there are not.
        points = [picture.points.get((group, place), _GAP) for place in range(len(picture.xs))]
        where = [_position(picture, place) for place in range(len(picture.xs))]
        name = _name(picture.groups[group])
        if any(point.low < point.high for point in points):
            low, high = [point.low for point in points], [point.high for point in points]
            axes.fill_between(where, low, high, color=colour, alpha=0.15, linewidth=0)
        middles = [point.middle for point in points]
        axes.plot(where, middles, color=colour, marker=marker, markersize=5, linewidth=1.6, label=name)
    _finish(picture, axes, labels, grid="both")


def _scatter(picture: Picture, axes: Axes, labels: Mapping[str, str]) -> None:
    for group, colour, marker in _styles(picture):
        pairs = [
            (_position(picture, place), value)
            for (of, place), point in picture.points.items()
            if of == group
            for value in point.values
        ]
        where, values = zip(*pairs, strict=True) if pairs else ((), ())
        name = _name(picture.groups[group])
        axes.scatter(where, values, color=colour, marker=marker, s=28, alpha=0.75, linewidths=0, label=name)
    _finish(picture, axes, labels, grid="both")


def _bars(picture: Picture, axes: Axes, labels: Mapping[str, str]) -> None:
    width = 0.8 / len(picture.groups)
    for group, colour, _ in _styles(picture):
        at = [place for place in range(len(picture.xs)) if (group, place) in picture.points]
        points = [picture.points[group, place] for place in at]
        where = [place - 0.4 + width * (group + 0.5) for place in at]
        middles = [point.middle for point in points]
        errors = [
            [point.middle - point.low for point in points],
            [point.high - point.middle for point in points],
        ]
        axes.bar(where, middles, 0.92 * width, color=colour, label=_name(picture.groups[group]))
        if any(map(any, errors)):
            axes.errorbar(where, middles, errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
    _finish(picture, axes, labels, grid="y", by_place=True)


def _heat_map(picture: Picture, axes: Axes, labels: Mapping[str, str]) -> None:
    rows = [
        [_middle(picture, group, place) for place in range(len(picture.xs))]
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


def _middle(picture: Picture, group: int, place: int) -> float:
    point = picture.points.get((group, place))
    return math.nan if point is None else point.middle


def _styles(picture: Picture) -> list[tuple[int, Any, str]]:
    """Give each group a colour and a marker: numbers go from dark to light, names have colours of their own."""
    number = len(picture.groups)
    if number > len(COLOURS) or (number > 2 and all(map(is_number, picture.groups))):
        from matplotlib import colormaps

        shades = colormaps["viridis"]
        colours: Sequence[Any] = [shades(0.9 * group / max(1, number - 1)) for group in range(number)]
    else:
        colours = COLOURS
    return [(group, colours[group], MARKERS[group % len(MARKERS)]) for group in range(number)]


def _finish(
    picture: Picture,
    axes: Axes,
    labels: Mapping[str, str],
    *,
    grid: Literal["both", "y"],
    by_place: bool = False,
) -> None:
    if by_place or not picture.is_numeric:
        _label_places(axes.xaxis, picture.xs)
    elif _is_wide(picture.xs):
        axes.set_xscale("log")
        _write_plainly(axes.xaxis, picture.xs)
    middles = [point.middle for point in picture.points.values()]
    if picture.kind != "bar" and min(middles) > 0 and max(middles) / min(middles) >= 10 * WIDEST_SPAN:
        axes.set_yscale("log")
    axes.set_xlabel(_called(picture.x, labels), color=INK)
    axes.set_ylabel(_called(picture.y, labels), color=INK)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color="#E5E5E5", linewidth=0.8)
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
        shape = "band" if picture.kind == "line" else "whiskers"
        text = f"median; {shape}: least to largest over {', '.join(map(_plural, picture.over))}"
        axes.annotate(
            text, (1, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", ha="right", va="bottom",
            fontsize=8, color="#777777",
        )  # fmt: skip


def _plural(name: str) -> str:
    return "repeats" if name == "repeat" else name


def _position(picture: Picture, place: int) -> float:
    return float(picture.xs[place]) if picture.is_numeric else float(place)


def _label_places(axis: Any, values: Sequence[Any]) -> None:
    """Label the places of an axis by what stands there, as many as there is room for, slanted where they are long."""
    step = 1 + (len(values) - 1) // MOST_TICKS
    names = [_name(value) for value in values[::step]]
    is_long = axis.axis_name == "x" and len(names) * max(map(len, names), default=0) > 56
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    axis.set_ticks(range(0, len(values), step), names, **turned)


def _write_plainly(axis: Any, values: Sequence[float]) -> None:
    """Label a logarithmic axis by the values themselves where they are few, else by plain numbers."""
    if len(values) <= 8:
        axis.set_ticks(list(values), [_name(value) for value in values])
        axis.set_minor_locator(_no_ticks())
    else:
        axis.set_major_formatter(lambda value, _: f"{value:g}")


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _is_wide(values: Sequence[float]) -> bool:
    """Whether positive numbers lie more evenly by their ratios than by their differences."""
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
