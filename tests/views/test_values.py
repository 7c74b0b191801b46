"""Values are told of without unpickling them: as cells by their names, and as outlines that end."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import json
import pathlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._stores import dump
from bencher_job._views.pickles import read_pickle
from bencher_job._views.summaries import (
    MOST_ITEMS,
    MOST_NODES,
    fields_of,
    has_named_parts,
    outline_of,
    short_text,
)


@dataclass
class Score:
    accuracy: float
    model: str


@dataclass(slots=True, frozen=True)
class Slotted:
    accuracy: float


class Model(pydantic.BaseModel):
    accuracy: float


class Plain:
    def __init__(self) -> None:
        self.accuracy = 0.5


class Pair(NamedTuple):
    low: int
    high: int


class Color(enum.Enum):
    RED = 1


def read(value: object) -> object:
    payload = dump(value)
    return read_pickle(payload.stream, payload.buffers)


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.5, 0.5),
        (True, True),
        (None, None),
        ("text", "text"),
        (2**600, "<int of 601 bits>"),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int16(-3), -3),
        (np.bool_(True), True),
        (np.zeros((3, 4)), "ndarray 3x4 float64"),
        (np.zeros((300, 400), dtype="u1"), "ndarray 300x400 uint8"),
        (np.array(["a"], dtype=object), "ndarray 1 object"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 600), "2026-01-02 03:04:05.000600"),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02 00:00:00+00:00"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (decimal.Decimal("1.50"), "1.50"),
        (fractions.Fraction(1, 3), "1/3"),
        (pathlib.Path("/a/b"), "/a/b"),
        (pathlib.Path("a/b"), "a/b"),
        (1 + 2j, "1+2j"),
        (Color.RED, "Color(1)"),
        (Pair(1, 2), "Pair(1, 2)"),
        (Slotted(0.5), "Slotted(0.5)"),
        (collections.deque([1, 2]), "[1, 2]"),
        ((1,), "(1,)"),
        ({1}, "{1}"),
        (len, "<len>"),
        (pandas.DataFrame({"a": [1]}), "<DataFrame>"),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …]"),
    ],
    ids=repr,
)
def test_a_result_without_names_is_one_cell(value: object, cell: object) -> None:
    found = fields_of(read(value))
    assert found == {"result": cell}
    assert type(found["result"]) is type(cell)


@pytest.mark.parametrize(
    "value",
    [
        {"accuracy": 0.5, "model": "svm"},
        Score(0.5, "svm"),
        collections.OrderedDict(accuracy=0.5, model="svm"),
        collections.defaultdict(list, accuracy=0.5, model="svm"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_result_with_names_is_a_cell_for_each(value: object) -> None:
    assert fields_of(read(value)) == {"accuracy": 0.5, "model": "svm"}


@pytest.mark.parametrize("value", [Plain(), Model(accuracy=0.5)], ids=["plain", "pydantic"])
def test_an_object_is_told_by_its_attributes(value: object) -> None:
    assert fields_of(read(value)) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("value", "is_whole"),
    [({"a": 1}, True), (Score(0.5, "svm"), True), (Slotted(0.5), False), (pandas.DataFrame(), False)],
)
def test_it_is_known_whether_more_could_be_told(value: object, is_whole: bool) -> None:
    assert has_named_parts(read(value)) is is_whole


def test_a_long_text_is_cut() -> None:
    assert len(short_text(["x" * 100] * 20)) == 120


def test_an_outline_shows_levels_and_kinds() -> None:
    outline = outline_of(read({"score": Score(0.5, "svm"), "curve": np.arange(3.0), "seeds": [1, None]}))
    assert (outline["kind"], outline["text"], outline["more"]) == ("dict", "3 items", 0)
    score, curve, seeds = (node for _, node in outline["items"])
    assert (score["kind"], score["text"]) == ("object", f"{__name__}.Score")
    assert score["items"][0] == ["accuracy", {"kind": "number", "text": "0.5"}]
    assert curve == {"kind": "array", "text": "ndarray 3 float64", "first": [0.0, 1.0, 2.0]}
    assert seeds["items"] == [
        ["0", {"kind": "number", "text": "1"}],
        ["1", {"kind": "constant", "text": "None"}],
    ]


def nodes(outline: dict[str, Any]) -> int:
    return 1 + sum(nodes(node) for _, node in outline.get("items", []))


def test_an_outline_of_much_or_of_itself_ends() -> None:
    wide = outline_of(read([[0] * 200] * 200))
    assert nodes(wide) <= MOST_NODES + 1
    assert (len(wide["items"][0][1]["items"]), wide["items"][0][1]["more"]) == (MOST_ITEMS, 200 - MOST_ITEMS)
    itself: list[object] = []
    itself += [itself] * 50
    assert nodes(outline_of(read(itself))) <= MOST_NODES + 1


jsonable = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(jsonable)
def test_every_value_has_an_outline_and_cells_that_json_holds(value: object) -> None:
    described = read(value)
    json.dumps([outline_of(described), fields_of(described)])
