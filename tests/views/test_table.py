"""Entries as a table: which columns there are, in which order, of which types, and what becomes of clashes."""

from __future__ import annotations

import enum
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job import BencherJobError, Record
from bencher_job._stores import MISS
from bencher_job._views import table
from bencher_job._views.table import rows_to_dataframe, to_dataframe

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KNOWN = [
    *(
        "function",
        "tag",
        "created",
        "seconds",
        "size",
        "executor",
        "host",
        "platform",
        "python",
        "commit",
        "dirty",
    ),
    *("version", "fingerprint", "key"),
]


def record(number: int, arguments: Mapping[str, Any], **fields: Any) -> Record:
    known = {"key": str(number), "function": "study.score", "created": NOON + timedelta(seconds=number)}
    return Record(**{**known, **fields}, arguments=arguments)


def table_of(*results: object) -> pandas.DataFrame:
    """A table of one argument and these results."""
    return rows_to_dataframe(({"x": number}, result) for number, result in enumerate(results))


def test_each_entry_is_a_row_of_arguments_results_and_what_the_record_knows() -> None:
    records = [
        record(0, {"model": "svm", "c": 0.1}, tag="nightly", seconds=1.5, size=20, commit="a1", dirty=True),
        record(1, {"model": "rf", "c": 1.0}, host="server", version="2", fingerprint="f0"),
    ]
    values = {"0": {"accuracy": 0.5, "epochs": 3}, "1": {"accuracy": 0.75, "epochs": 4}}
    frame = to_dataframe(records, lambda keys: {key: values[key] for key in keys})
    assert list(frame) == ["model", "c", "accuracy", "epochs", *KNOWN]
    assert list(frame.index) == [0, 1]
    first = frame.iloc[0]
    expected = ["svm", 0.1, 0.5, 3, "study.score", "nightly", NOON, 1.5, 20, "a1", True, "0"]
    shown = [
        "model",
        "c",
        "accuracy",
        "epochs",
        "function",
        "tag",
        "created",
        "seconds",
        "size",
        "commit",
        "dirty",
        "key",
    ]
    assert [first[name] for name in shown] == expected
    assert (frame["host"][1], frame["version"][1], frame["fingerprint"][1]) == ("server", "2", "f0")
    assert pandas.isna(frame["dirty"][1])


def test_without_values_there_are_arguments_and_what_the_record_knows() -> None:
    assert list(to_dataframe([record(0, {"c": 1})])) == ["c", *KNOWN]


@pytest.mark.parametrize("records", [[], [record(0, {"c": 1}, dirty=False)]], ids=["empty", "not empty"])
def test_types_of_what_the_record_knows_do_not_depend_on_the_entries(records: list[Record]) -> None:
    frame = to_dataframe(iter(records), lambda keys: {})
    assert list(frame)[-len(KNOWN) :] == KNOWN
    text = pandas.Series(["a"]).dtype
    others = {"created": "datetime64[us, UTC]", "seconds": "float64", "size": "int64", "dirty": "boolean"}
    assert {name: frame[name].dtype for name in KNOWN} == {name: others.get(name, text) for name in KNOWN}


def test_an_empty_table_has_the_columns_of_a_record() -> None:
    assert (list(to_dataframe([])), len(to_dataframe([]))) == (KNOWN, 0)
    assert rows_to_dataframe([]).shape == (0, 0)


@dataclass
class Score:
    accuracy: float
    model: str


class Pair(NamedTuple):
    low: int
    high: int


@pytest.mark.parametrize(
    ("result", "columns"),
    [
        ({"accuracy": 0.5, "model": "svm"}, ["accuracy", "model"]),
        (Score(0.5, "svm"), ["accuracy", "model"]),
        (Pair(1, 2), ["low", "high"]),
        ({}, []),
        (0.5, ["result"]),
        (None, ["result"]),
        ((1, 2), ["result"]),
        ({1: 2}, ["result"]),
        (Score, ["result"]),
        (MISS, []),
    ],
)
def test_a_result_is_told_by_its_fields(result: object, columns: list[str]) -> None:
    assert list(table_of(result)) == ["x", *columns]


def test_results_of_several_kinds_leave_gaps() -> None:
    frame = table_of({"accuracy": 0.5}, 7.0, MISS, {"loss": 2.0})
    assert list(frame) == ["x", "accuracy", "result", "loss"]
    expected = [[0.5, None, None, None], [None, 7.0, None, None], [None, None, None, 2.0]]
    for name, cells in zip(["accuracy", "result", "loss"], expected, strict=True):
        assert [None if pandas.isna(cell) else cell for cell in frame[name]] == cells


def test_an_argument_that_some_entries_lack_leaves_gaps() -> None:
    frame = to_dataframe([record(0, {"a": 1}), record(1, {"b": "x"}), record(2, {"a": 3})])
    assert list(frame)[:2] == ["a", "b"]
    assert frame["a"].isna().tolist() == [False, True, False]
    assert frame["b"].isna().tolist() == [True, False, True]


def test_a_name_that_is_taken_is_prefixed() -> None:
    records = [record(0, {"c": 1, "size": 2, "result.loss": 3}), record(1, {"loss": 4})]
    values = {"0": {"c": 5, "seconds": 6}, "1": {"loss": 7, "job.seconds": 8}}
    frame = to_dataframe(records, lambda keys: values)
    assert list(frame)[:8] == [
        *("c", "size", "result.loss", "loss"),
        *("result.c", "seconds", "result.result.loss", "job.seconds"),
    ]
    assert list(frame)[8:] == [
        {"size": "job.size", "seconds": "job.job.seconds"}.get(name, name) for name in KNOWN
    ]
    assert (frame["c"][0], frame["result.c"][0], frame["size"][0], frame["job.size"][0]) == (1, 5, 2, 0)


@pytest.mark.parametrize(
    ("cells", "dtype"),
    [
        ([1, 2], "int64"),
        ([1, None], "Int64"),
        ([np.int64(1), np.int64(2)], "int64"),
        ([True, False], "bool"),
        ([True, None], "boolean"),
        ([1.5, 2.5], "float64"),
        ([1.5, None], "float64"),
        ([1, 2.5], "float64"),
        ([NOON, NOON], "datetime64[us, UTC]"),
        ([1, "a"], "object"),
        ([1, True], "object"),
        ([None, None], "object"),
        ([b"a", b"b"], "object"),
        ([2**70, None], "object"),
        (["\ud800", "a"], "object"),
    ],
)
def test_numbers_stay_numbers(cells: list[object], dtype: str) -> None:
    if dtype.startswith("datetime") and pandas.__version__ < "3":
        dtype = dtype.replace("us", "ns")
    column = table_of(*({"cell": cell} for cell in cells))["cell"]
    assert str(column.dtype) == dtype
    assert [None if pandas.isna(cell) else cell for cell in column] == cells


def test_large_whole_numbers_keep_all_digits_beside_gaps() -> None:
    assert table_of({"seed": 2**62 + 1}, {})["seed"][0] == 2**62 + 1


def test_a_name_that_is_no_unicode_names_a_column() -> None:
    assert list(table_of({"\udcff": 1})) == ["x", "\udcff"]


class Color(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "cell",
    [
        np.zeros(3),
        np.zeros((2, 2)),
        np.zeros(0),
        np.array(1.5),
        [1, 2],
        (1, 2),
        {"a": 1},
        {1, 2},
        Color.RED,
        Score(0.5, "svm"),
        pandas.Series([1, 2]),
        pandas.DataFrame({"a": [1]}),
        range(3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_what_is_no_number_text_or_time_stands_in_its_cell_as_it_is(cell: object, rows: int) -> None:
    frame = table_of(*[{"cell": cell}] * rows)
    assert frame.shape == (rows, 2)
    assert all(frame["cell"].iloc[row] is cell for row in range(rows))


def test_values_are_looked_up_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "VALUES_AT_ONCE", 3)
    asked: list[Sequence[str]] = []

    def values_of(keys: Sequence[str]) -> dict[str, object]:
        asked.append(list(keys))
        return {key: int(key) for key in keys if key != "4"}

    frame = to_dataframe((record(number, {"x": number}) for number in range(7)), values_of)
    assert asked == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [None if pandas.isna(cell) else cell for cell in frame["result"]] == [0, 1, 2, 3, None, 5, 6]


def test_without_pandas_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for make in (to_dataframe, rows_to_dataframe):
        with pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[table\]'"):
            make([])


def test_importing_imports_no_pandas() -> None:
    code = "import sys, bencher_job._views.table; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


plain = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
)
names = st.sampled_from(["a", "b", "size", "result", "result.a", "job.size", "key"])
row = st.tuples(st.dictionaries(names, plain, max_size=4), plain | st.dictionaries(names, plain, max_size=4))


@given(st.lists(row, max_size=6))
def test_every_cell_is_where_its_name_says(rows: list[tuple[dict[str, Any], Any]]) -> None:
    records = [record(number, arguments) for number, (arguments, _) in enumerate(rows)]
    frame = to_dataframe(records, lambda keys: {key: rows[int(key)][1] for key in keys})
    assert len(frame) == len(rows)
    assert frame.columns.is_unique
    for number, (arguments, _) in enumerate(rows):
        for name, value in arguments.items():
            cell = frame[name].iloc[number]
            assert pandas.isna(cell) if is_missing(value) else cell == value or math.isclose(cell, value)
    results = list(frame)[len({name for arguments, _ in rows for name in arguments}) : -len(KNOWN)]
    fields = {name for _, value in rows for name in (value if isinstance(value, dict) else ["result"])}
    assert len(results) == len(fields)
    assert [name.replace("job.", "") for name in list(frame)[-len(KNOWN) :]] == KNOWN
    assert list(frame.iloc[:, -1]) == [str(number) for number in range(len(rows))]


def is_missing(value: object) -> bool:
    return value is None or value != value
