"""A picture that fits is chosen by what varies, and what is not said is never guessed wrong in silence."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bencher_job._views.plot import Picture, picture_of


def made(axes: dict[str, list[Any]], repeats: int = 1, result: Any = None, **options: Any) -> Picture:
    result = result or (lambda point, repeat: {"score": 1.0 * repeat, "name": "a", "loss": 2.0})
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    rows = [
        {**point, "repeat": repeat, "result": result(point, repeat)}
        for point in points
        for repeat in range(repeats)
    ]
    return picture_of(axes, rows, **options)


NUMBERS, NAMES = [1, 2, 3], ["a", "b"]


@pytest.mark.parametrize(
    ("axes", "repeats", "chosen"),
    [
        ({"n": NUMBERS}, 1, ("line", "n", None)),
        ({"n": NUMBERS}, 5, ("line", "n", None)),
        ({"model": NAMES}, 3, ("bar", "model", None)),
        ({"model": NAMES, "n": NUMBERS}, 1, ("line", "n", "model")),
        ({"n": NUMBERS, "m": NUMBERS}, 1, ("heatmap", "n", "m")),
        ({"n": NUMBERS, "m": [1, 2]}, 1, ("line", "n", "m")),
        ({"model": NAMES, "data": ["x", "y", "z"]}, 1, ("bar", "model", "data")),
        ({"n": NUMBERS, "model": NAMES, "data": ["x", "y", "z"]}, 1, ("line", "n", "model")),
        ({"n": NUMBERS, "model": ["a"]}, 1, ("line", "n", None)),
        ({"model": ["a"]}, 4, ("line", "repeat", None)),
        ({"flag": [True, False]}, 1, ("bar", "flag", None)),
        ({"n": NUMBERS, "many": [f"m{i}" for i in range(30)]}, 1, ("line", "n", None)),
    ],
)
def test_the_kind_and_the_axes_are_chosen_by_what_varies(
    axes: dict[str, list[Any]], repeats: int, chosen: tuple[str, str, str | None]
) -> None:
    picture = made(axes, repeats)
    assert (picture.kind, picture.x, picture.by) == chosen
    assert picture.y == "score"


def test_what_is_said_is_done() -> None:
    axes = {"n": NUMBERS, "m": NUMBERS, "model": NAMES}
    picture = made(axes, x="model", by="m", y="loss", kind="scatter")
    assert (picture.kind, picture.x, picture.by, picture.y) == ("scatter", "model", "m", "loss")
    assert made(axes, kind="heatmap", x="n", by="m").kind == "heatmap"


def test_points_sum_up_what_varies_besides_and_the_picture_tells_what_that_is() -> None:
    picture = made({"n": [1, 2], "file": NAMES, "model": ["x", "y", "z"]}, 3, by="model")
    assert picture.over == ("file", "repeat")
    point = picture.points[0, 0]
    assert (point.middle, point.low, point.high) == (1.0, 0.0, 2.0)
    assert len(point.values) == 6


def test_numbers_are_in_order_and_names_as_they_came() -> None:
    assert made({"n": [30, 1, 2]}).xs == (1, 2, 30)
    assert made({"model": ["svm", "forest"]}).xs == ("svm", "forest")


def test_what_failed_has_no_point() -> None:
    picture = made({"n": NUMBERS}, result=lambda point, _: None if point["n"] == 2 else 1.5)
    assert set(picture.points) == {(0, 0), (0, 1)}
    assert picture.xs == (1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "z"}, "x='z' is not a swept argument. Use one of n, repeat"),
        ({"by": "z"}, "by='z' is not a swept argument"),
        ({"y": "name"}, "y='name' is not a numeric field of the results. Use one of score, loss"),
        ({"kind": "pie"}, "kind='pie' is unknown. Use one of line, bar, heatmap, scatter"),
        ({"x": "n", "by": "n"}, "x and by are both 'n'"),
    ],
)
def test_what_is_none_is_told(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        made({"n": NUMBERS}, **options)


def test_without_numbers_there_is_no_picture() -> None:
    with pytest.raises(ValueError, match="No field of the results is a number"):
        made({"n": NUMBERS}, result=lambda *_: "text")
    with pytest.raises(ValueError, match=r"There are no results to draw\. Call run\(\) first"):
        picture_of({"n": NUMBERS}, [])
