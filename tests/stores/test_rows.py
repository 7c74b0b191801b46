"""Rows of a function: which there are, in which order, and what is known of each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job import Record
from bencher_job._query import Condition, Operator, Order, Query, cell_of, in_order
from bencher_job._stores import Entry, Hit, dump
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.history import sql_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    store = DiskStore(tmp_path / "cachedir" / "fcache", size_limit=10**9)
    store.open()
    yield store
    store.close()


def put(store: DiskStore, *given: Mapping[str, Any], function: str = "f", **fields: Any) -> None:
    """Put an entry for each of these arguments; its key is its number, and it is a minute later than the one before."""
    first = len(store)
    for number, arguments in enumerate(given, first):
        record = Record(
            key=f"k{number}", function=function, created=NOON + timedelta(minutes=number), arguments=arguments
        )
        store.put_many([Entry(dump({"number": number}), replace(record, **fields))])


def found(store: DiskStore, *conditions: tuple[str, Condition], **asked: Any) -> list[str]:
    return [
        info.record.key for info in store.history.infos(store.history.find(Query("f", conditions, **asked)))
    ]


def test_the_rows_of_a_function_come_latest_first(store: DiskStore) -> None:
    put(store, {"c": 1}, {"c": 2})
    put(store, {"c": 3}, function="g")
    assert found(store) == ["k1", "k0"]


@pytest.mark.parametrize(
    ("order", "keys"),
    [
        (Order("arguments.c", is_descending=False), ["k1", "k0", "k3", "k2", "k4"]),
        (Order("arguments.c", is_descending=True), ["k2", "k3", "k0", "k1", "k4"]),
        (Order("key", is_descending=False), ["k0", "k1", "k2", "k3", "k4"]),
        (Order("arguments.absent"), ["k0", "k1", "k2", "k3", "k4"]),
    ],
)
def test_numbers_come_before_texts_and_gaps_come_last(
    store: DiskStore, order: Order, keys: list[str]
) -> None:
    put(store, {"c": 2}, {"c": 0.5}, {"c": "b"}, {"c": "a"}, {})
    assert found(store, order=order) == keys


@pytest.mark.parametrize(
    ("column", "condition", "keys"),
    [
        ("arguments.model", Condition("has", "VM"), ["k0"]),
        ("arguments.model", Condition("=", "svm"), ["k0"]),
        ("arguments.model", Condition("=", "sv"), []),
        ("arguments.model", Condition("has", "100%"), ["k2"]),
        ("arguments.model", Condition("has", "s_m"), []),
        ("arguments.c", Condition(">", 0.5), ["k1"]),
        ("arguments.c", Condition("!=", 1), ["k2", "k0"]),
        ("arguments.c", Condition("=", None), ["k2"]),
        ("arguments.c", Condition("!=", None), ["k1", "k0"]),
        ("arguments.no such", Condition("=", 1), []),
        ("created", Condition(">=", (NOON + timedelta(minutes=1)).timestamp()), ["k2", "k1"]),
        ("tag", Condition("=", ""), ["k2", "k1", "k0"]),
        ("unknown", Condition("=", 1), ["k2", "k1", "k0"]),
    ],
)
def test_a_condition_chooses(store: DiskStore, column: str, condition: Condition, keys: list[str]) -> None:
    put(store, {"model": "svm", "c": 0.5}, {"model": "rf", "c": 1}, {"model": "100% pure"})
    assert found(store, (column, condition)) == keys


def test_a_search_finds_arguments_tags_and_the_beginning_of_keys(store: DiskStore) -> None:
    put(store, {"model": "größer"}, {"model": "b"})
    put(store, {"model": "c"}, tag="nightly")
    assert found(store, search="größ") == ["k0"]
    assert found(store, search="NIGHT") == ["k2"]
    assert found(store, search="k1") == ["k1"]
    assert found(store, search="%") == []


def test_names_of_any_alphabet_and_numbers_that_are_none_are_sorted_and_filtered(store: DiskStore) -> None:
    put(
        store,
        {"β": 2, "x": float("nan")},
        {"β": 1, "x": float("inf")},
        {"β": 3, "x": float("-inf")},
        {"β": 0, "x": 1},
    )
    assert found(store, order=Order("arguments.β", is_descending=False)) == ["k3", "k1", "k0", "k2"]
    assert found(store, ("arguments.β", Condition(">", 1))) == ["k2", "k0"]
    assert found(store, order=Order("arguments.x", is_descending=False)) == ["k2", "k3", "k1", "k0"]


def test_a_name_that_no_path_can_write_is_neither_sorted_nor_filtered_by(store: DiskStore) -> None:
    put(store, {'a"b': 1}, {"a\\b": 2}, {"a'b": 3})
    for name in ('a"b', "a\\b"):
        assert found(store, (f"arguments.{name}", Condition("=", 9)), order=Order(f"arguments.{name}")) == [
            "k2",
            "k1",
            "k0",
        ]
    assert found(store, ("arguments.a'b", Condition("=", 3))) == ["k2"]


def test_a_damaged_record_is_left_out(store: DiskStore) -> None:
    put(store, {"c": 1}, {"c": 2})
    with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as database:
        database.execute("UPDATE Cache SET arguments = '{broken' WHERE key = 'k0'")
    assert found(store, order=Order("arguments.c")) == ["k1"]
    assert [column.name for column in store.history.columns("f")] == ["c"]


def test_arguments_are_known_by_name_kind_and_number_of_values(store: DiskStore) -> None:
    put(store, {"model": "svm", "c": 1}, {"model": "rf", "c": 1}, {"model": "rf", "c": 2, "depth": None})
    assert [(each.name, each.rows, each.numbers, each.distinct) for each in store.history.columns("f")] == [
        ("model", 3, 0, 2),
        ("c", 3, 3, 2),
        ("depth", 1, 0, 0),
    ]


def test_bytes_come_by_key_unless_they_are_too_many(store: DiskStore) -> None:
    put(store, {"c": 1}, {"c": 2}, seconds=3.0)
    store.put_many([Entry(dump("x" * IN_ROW_BELOW), Record(key="large", function="f", created=NOON))])
    keys = store.history.find(Query("f", order=Order("key", is_descending=False)))
    assert keys == ["k0", "k1", "large"]
    hits = store.get_many(keys, mapped=True, largest=1000)
    assert {key: hit.load() for key, hit in hits.items()} == {"k0": {"number": 0}, "k1": {"number": 1}}
    assert isinstance(store.get_many(keys, largest=10**6)["large"], Hit)


def test_cells_of_arguments_are_as_records_show_them(store: DiskStore) -> None:
    put(store, {"x": True}, {"x": 1}, {"x": float("inf")}, {"x": None})
    infos = store.history.infos(["k0", "k1", "k2", "k3"])
    assert [repr(cell_of(info, "arguments.x")) for info in infos] == ["True", "1", "inf", "None"]


def test_bytes_that_are_damaged_or_gone_are_left_out_and_stay_as_they_are(store: DiskStore) -> None:
    put(store, {"c": 1})
    store.put_many([Entry(dump("x" * IN_ROW_BELOW), Record(key="large", function="f", created=NOON))])
    with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as database:
        database.execute("UPDATE Cache SET value = x'00' WHERE key = 'k0'")
    next(store.directory.glob("??/??/*.val")).unlink()
    assert not store.get_many(["k0", "large"], mapped=True, largest=10**6)
    assert len(store) == 2


def test_gaps_and_numbers_that_are_none_are_sorted_last() -> None:
    pairs = [(None, "1"), (float("nan"), "2"), ("b", "3"), (2.0, "4"), (True, "5"), ("a", "6")]
    assert in_order(pairs, Order("x", is_descending=False)) == ["5", "4", "6", "3", "1", "2"]
    assert in_order(pairs, Order("x", is_descending=True)) == ["3", "6", "4", "5", "1", "2"]


operators: list[Operator] = ["=", "!=", "<", "<=", ">", ">="]
cells = st.none() | st.integers(-3, 3) | st.floats(-2, 2, width=16) | st.sampled_from(["", "a", "b", "ab"])


@given(st.sampled_from(operators), cells, cells)
def test_a_condition_holds_where_sql_says_so(operator: Operator, value: Any, cell: Any) -> None:
    if value is None and operator not in {"=", "!="}:
        return
    condition = Condition(operator, value)
    expression, values = sql_of(condition, "cell")
    with closing(sqlite3.connect(":memory:")) as database:
        ((said,),) = database.execute(
            f"SELECT {expression} FROM (SELECT ? AS cell)", (*values, cell)
        ).fetchall()
    assert bool(said) is condition.holds(cell)
