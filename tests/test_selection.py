"""A selection chooses entries by function, tag, time and argument, in SQL and by itself alike."""

from __future__ import annotations

import math
import sqlite3
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job import Record
from bencher_job._record import EVERYTHING, Selection, short_form
from bencher_job._stores.schema import arguments_to_json, condition_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(arguments: dict[str, Any] | None = None, **fields: Any) -> Record:
    shown = {name: short_form(value) for name, value in (arguments or {}).items()}
    return Record(**{"key": "k", "function": "study.score", "created": NOON, **fields}, arguments=shown)


def test_nothing_given_chooses_everything() -> None:
    assert EVERYTHING.matches(record())
    assert Selection() == EVERYTHING


@pytest.mark.parametrize(
    ("selection", "fields"),
    [
        (Selection(function="study.score"), {"function": "study.scores"}),
        (Selection(tag="nightly"), {"tag": "night"}),
        (Selection(tag=""), {"tag": "nightly"}),
        (Selection(since=NOON), {"created": NOON - timedelta(microseconds=1)}),
        (Selection(until=NOON + timedelta(microseconds=1)), {"created": NOON + timedelta(microseconds=1)}),
    ],
)
def test_each_filter_leaves_out_what_it_does_not_mean(selection: Selection, fields: dict[str, Any]) -> None:
    chosen = record(tag=selection.tag or "")
    assert (selection.matches(chosen), selection.matches(record(**fields))) == (True, False)


@pytest.mark.parametrize("given", [datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2))), NOON])
def test_times_are_kept_in_utc(given: datetime) -> None:
    assert (Selection(since=given).since, Selection(until=given).until) == (NOON, NOON)


def test_a_naive_time_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert Selection(since=datetime(2026, 3, 1, 21)).since == NOON
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_timedelta_counts_back_from_now() -> None:
    week, now = timedelta(days=7), datetime.now(UTC)
    younger, older = Selection(since=week), Selection(until=week)
    for days, is_young in ((6, True), (8, False)):
        then = record(created=now - timedelta(days=days))
        assert (younger.matches(then), older.matches(then)) == (is_young, not is_young)


@pytest.mark.parametrize(
    ("wanted", "shown", "is_chosen"),
    [
        (1, 1, True),
        (1, 1.0, False),
        (1, True, False),
        (1, "1", False),
        (0.1, 0.1, True),
        (math.nan, math.nan, True),
        (None, None, True),
        (None, "None", False),
        ("svm", "svm", True),
        ([1, "a"], [1, "a"], True),
        ([1], [2], False),
        (lambda c: c > 1, 2, True),
        (lambda c: c > 1, 1, False),
        (lambda c: None, 1, False),
        ("x" * 300, "x" * 300, True),
    ],
)
def test_an_argument_is_what_was_asked_for(wanted: object, shown: object, is_chosen: bool) -> None:
    assert Selection(where={"c": wanted}).matches(record({"c": shown})) is is_chosen


def test_an_entry_without_the_argument_is_not_chosen() -> None:
    assert not Selection(where={"c": None}).matches(record())
    assert not Selection(where={"c": lambda c: True}).matches(record())


def test_all_filters_must_hold() -> None:
    selection = Selection(where={"c": 1, "model": "svm"})
    assert selection.matches(record({"c": 1, "model": "svm"}))
    assert not selection.matches(record({"c": 1, "model": "rf"}))


@pytest.mark.parametrize(
    ("text", "shown", "is_chosen"),
    [
        ("c=0.1", 0.1, True),
        ("c = 1e-1", 0.1, True),
        ("c=0.1", "0.1", True),
        ("c=1", 1, True),
        ("c=1", 1.0, True),
        ("c=1", "1", True),
        ("c=1", True, False),
        ("c=True", True, True),
        ("c=True", 1, False),
        ("c=None", None, True),
        ("c=nan", math.nan, True),
        ("c=svm", "svm", True),
        ("c='svm'", "svm", True),
        ("c=sv", "svm", False),
        ("c=", "", True),
        ("c=a=b", "a=b", True),
        ("c=[1,2]", [1, 2], True),
        ("c=[1,3]", [1, 2], False),
        ("c=(" + "(" * 5000, "x", False),
    ],
)
def test_a_filter_on_a_command_line_means_what_is_written_so(
    text: str, shown: object, is_chosen: bool
) -> None:
    assert Selection(where=Selection.parse_where(text)).matches(record({"c": shown})) is is_chosen


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_what_a_record_shows_can_be_typed(value: object) -> None:
    """As `str` or as `repr`; a value that begins like `==` or ends in blanks only as `repr`."""
    shown = record({"c": value})
    assert Selection(where={"c": value}).matches(shown)
    assert Selection(where=Selection.parse_where(f"c={shown.arguments['c']!r}")).matches(shown)


@pytest.mark.parametrize("text", ["c", "", "=1", "c==1", "c>1", "1c=2", "a b=1"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a filter\. Write name=value"):
        Selection.parse_where(text)


def test_two_filters_for_one_argument_are_refused() -> None:
    with pytest.raises(ValueError, match="two filters for c"):
        Selection.parse_where("c=1", "d=1", "c=2")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"function": len}, TypeError, "function must be a str, not builtin_function_or_method"),
        ({"tag": 1}, TypeError, "tag must be a str, not int"),
        ({"since": "yesterday"}, TypeError, "since must be a datetime or a timedelta, not str"),
        ({"since": NOON.date()}, TypeError, "since must be a datetime or a timedelta, not date"),
        ({"until": 3}, TypeError, "until must be a datetime or a timedelta, not int"),
        ({"since": timedelta(days=-1)}, ValueError, "is in the future"),
        ({"since": timedelta.max}, ValueError, "is before the year 1"),
        (
            {"since": datetime.min.replace(tzinfo=timezone(timedelta(hours=2)))},
            ValueError,
            "is outside the years 1 to 9999",
        ),
        ({"since": NOON, "until": NOON}, ValueError, "is not before until"),
        ({"since": timedelta(days=1), "until": timedelta(days=2)}, ValueError, "so no entry could match"),
        ({"where": "c=1"}, TypeError, "where must be a mapping of arguments, not str"),
        ({"where": {1: 2}}, TypeError, "where must have str keys, not int"),
        ({"where": {"c": float}}, TypeError, "is the class float"),
    ],
)
def test_nonsense_is_refused_with_a_remedy(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Selection(**options)


def test_a_filter_that_raises_says_for_which_entry() -> None:
    with pytest.raises(TypeError, match="not supported between") as caught:
        Selection(where={"c": lambda c: c > 1}).matches(record({"c": "auto"}))
    assert caught.value.__notes__ == [f"where['c'] was called with 'auto', of {record({'c': 'auto'})}"]


def test_what_is_given_can_change_later_without_changing_the_selection() -> None:
    where = {"c": 1}
    selection = Selection(where=where)
    where["c"] = 2
    assert selection.matches(record({"c": 1}))


moments = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
near = st.sampled_from([NOON + timedelta(microseconds=offset) for offset in range(-2, 3)])
names = st.sampled_from(["study.score", "study.scores", ""])


shown = st.deferred(
    lambda: (
        st.none()
        | st.booleans()
        | st.integers()
        | st.sampled_from([2**62, 2**64 + 1, -(2**63), 1, 0, 10**16 + 1])
        | st.floats()
        | st.sampled_from([1.0, 0.1, 1e300, -0.0])
        | st.text(max_size=3)
        | st.sampled_from(["1", "1.0", "True", "None", "it's", "\0", "\ud800", "nan"])
        | st.lists(shown, max_size=2)
        | st.dictionaries(st.sampled_from("ab"), shown, max_size=2)
        | st.complex_numbers()
        | st.binary(max_size=2)
    )
)
arguments = st.dictionaries(st.sampled_from(["c", "it's", 'a"b', "größe", "a.b"]), shown, max_size=2)


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    since, until = draw(st.none() | moments | near), draw(st.none() | moments | near)
    if since is not None and until is not None and since >= until:
        until = None
    where: dict[str, Any] = draw(arguments)
    if draw(st.booleans()):
        written = [f"{name}={draw(st.sampled_from([str, repr]))(value)}" for name, value in where.items()]
        where = Selection.parse_where(*(text for text in written if text.partition("=")[0].isidentifier()))
    return Selection(
        function=draw(st.none() | names), tag=draw(st.none() | names), since=since, until=until, where=where
    )


@given(
    selections(),
    st.lists(st.builds(record, arguments, function=names, tag=names, created=moments | near), max_size=8),
    st.booleans(),
)
def test_sql_misses_nothing_that_is_chosen_and_finds_little_else(
    selection: Selection, records: list[Record], asks_for_one: bool
) -> None:
    if asks_for_one and records:  # else arguments that are asked for seldom are there
        selection = Selection(where=records[0].arguments)
    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE TABLE Cache (number INTEGER, tag TEXT, function TEXT, created REAL, arguments TEXT)"
    )
    for number, each in enumerate(records):
        row = (
            number,
            each.tag or None,
            each.function,
            each.created.timestamp(),
            arguments_to_json(each.arguments),
        )
        database.execute("INSERT INTO Cache VALUES (?, ?, ?, ?, ?)", row)
    condition, values = condition_of(selection)
    found = {number for (number,) in database.execute(f"SELECT number FROM Cache WHERE {condition}", values)}
    database.close()
    expected = {number for number, each in enumerate(records) if selection.matches(each)}
    assert expected <= found
    if not selection.where:
        assert found == expected


def test_sql_compares_plain_arguments() -> None:
    database = sqlite3.connect(":memory:")
    for wanted, others in ((5, ["5", 6, None]), ("svm", ["SVM", "svm ", None]), (None, [0, "", False])):
        condition, values = condition_of(Selection(where={"x": wanted}))
        rows = [(arguments_to_json({"x": each}),) for each in (wanted, *others)]
        query = f"SELECT ({condition}) FROM (SELECT ? AS arguments)"
        chosen = [bool(database.execute(query, (*values, *row)).fetchone()[0]) for row in rows]
        assert chosen == [True, False, False, False]
    database.close()
