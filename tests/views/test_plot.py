"""A sweep draws itself: labelled, told apart by colours that everybody sees, and nothing overlaps."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bencher_job import BencherJobError, Sweep, cached_job

mpl.use("Agg")


@cached_job(code="none")
def score(model: str = "", n: int = 1, m: int = 1, repeat_of: int = 0) -> dict[str, float]:
    if n == 100 and model == "ridge":
        raise ValueError(n)
    return {"score": len(model) + n + m / 2}


@cached_job(code="none")
def random_score(n: int) -> float:
    import random

    return n + random.random()


def drawn(sweep: Sweep, **options: Any) -> Axes:
    """Draw a sweep into a figure that is never shown, and lay it out."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = sweep.plot(ax=figure.subplots(), **options)
    figure.draw_without_rendering()
    return axes


SWEEPS = {
    "lines": ({"model": ["svm", "forest", "ridge"], "n": [1, 10, 100, 1000]}, {}),
    "bars": ({"model": ["support vector machine", "gradient boosting", "nearest neighbours", "ridge"]}, {}),
    "grouped bars": ({"model": ["svm", "forest"], "n": [1, 2]}, {"x": "model", "by": "n"}),
    "heat map": ({"n": [1, 2, 3, 4], "m": [10, 20, 30]}, {}),
    "many lines": ({"n": list(range(10)), "m": list(range(9))}, {"kind": "line"}),
    "scatter": ({"n": [1, 2, 3], "model": ["a", "b"]}, {"kind": "scatter"}),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_labels_stand_apart_and_within_the_figure(name: str) -> None:
    grid, options = SWEEPS[name]
    axes = drawn(score.sweep(grid).run(), **options)
    figure = axes.figure
    least, largest = axes.get_xlim()
    ticks = [label for label in axes.get_xticklabels() if least <= label.get_position()[0] <= largest]
    boxes = [label.get_window_extent() for label in ticks]
    if not ticks[0].get_rotation():
        for left, right in itertools.pairwise(sorted(boxes, key=lambda box: box.x0)):
            assert left.x1 <= right.x0
    texts = [axes._left_title, axes.xaxis.label, axes.yaxis.label, *ticks]
    legend = axes.get_legend()
    if legend is not None:
        texts.append(legend)
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width + 1
        assert box.y1 <= figure.bbox.height + 1


def test_axes_are_labelled_with_units_and_the_legend_tells_what_is_apart() -> None:
    sweep = score.sweep({"model": ["svm", "forest"], "n": [1, 10, 100, 1000]}).run()
    axes = drawn(sweep, labels={"n": "samples", "score": "score, %", "model": "kind of model"})
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == (
        "samples",
        "score, %",
        "score",
    )
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "kind of model"
    assert [text.get_text() for text in legend.get_texts()] == ["svm", "forest"]
    assert axes.get_xscale() == "log"


def test_lines_are_told_apart_by_colour_and_by_marker() -> None:
    axes = drawn(score.sweep({"model": ["a", "b", "c", "d"], "n": [1, 2, 3]}).run())
    assert len({line.get_color() for line in axes.lines}) == 4
    assert len({line.get_marker() for line in axes.lines}) == 4


def test_a_line_has_a_gap_where_a_job_failed() -> None:
    axes = drawn(score.sweep({"model": ["svm", "ridge"], "n": [1, 10, 100, 1000]}).run())
    gaps = [[math.isnan(value) for value in line.get_ydata()] for line in axes.lines]  # type: ignore[union-attr]
    assert gaps == [[False] * 4, [False, False, True, False]]


def test_a_band_shows_the_spread_over_repeats_and_says_so() -> None:
    axes = drawn(random_score.sweep({"n": [1, 2, 3]}, repeats=4).run())
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.texts] == ["median; band: least to largest over repeats"]


def test_a_heat_map_tells_its_values_and_leaves_out_what_failed() -> None:
    sweep = score.sweep({"n": [1, 10, 100], "m": [2, 4, 6]}, model="ridge").run()
    axes = drawn(sweep, kind="heatmap", x="n", by="m", y="score")
    assert len(axes.texts) == 6
    assert axes.images[0].get_cmap().name == "cividis"


def test_it_is_saved_in_the_format_of_its_name_and_needs_no_screen(tmp_path: Path) -> None:
    sweep = score.sweep({"n": [1, 2, 3]}).run()
    sweep.save(tmp_path / "a.png", dpi=100)
    sweep.save(str(tmp_path / "a.svg"), kind="bar")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_a_figure_of_its_own_is_pyplots() -> None:
    from matplotlib import pyplot

    axes = score.sweep({"n": [1, 2, 3]}).run().plot()
    assert pyplot.gcf() is axes.figure
    pyplot.close("all")


def test_without_matplotlib_the_error_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep = score.sweep({"n": [1, 2, 3]}).run()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for ask in (sweep.plot, lambda: sweep.save(tmp_path / "a.png")):
        with pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[plot\]'"):
            ask()


def test_a_sweep_that_is_not_drawn_imports_no_matplotlib_and_no_xarray() -> None:
    code = (
        "import sys, bencher_job\n"
        "bencher_job.cached_job(lambda x: x).sweep({'x': [1, 2]}).run(progress=False).plot\n"
        "sys.exit(bool({'matplotlib', 'xarray', 'numpy'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
