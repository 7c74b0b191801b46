"""What is typed into the head of a column means what it looks like."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._page.listing import FilterError, conditions_of
from bencher_job._query import Condition

NOW = datetime(2026, 3, 1, 12).astimezone()
DAY = datetime(2026, 2, 1).timestamp()


@pytest.mark.parametrize(
    ("column", "text", "conditions"),
    [
        ("arguments.model", "svm", [("has", "svm")]),
        ("arguments.model", "=svm", [("=", "svm")]),
        ("arguments.model", "!svm", [("!=", "svm")]),
        ("arguments.model", "a..b", None),
        ("arguments.c", "1", [("=", 1)]),
        ("arguments.c", " > 0.5 ", [(">", 0.5)]),
        ("arguments.c", "<=-1e-3", [("<=", -1e-3)]),
        ("arguments.c", "0.1..1", [(">=", 0.1), ("<=", 1)]),
        ("arguments.c", "none", [("=", None)]),
        ("arguments.c", "!None", [("!=", None)]),
        ("arguments.c", "True", [("=", 1)]),
        ("arguments.c", "nan", [("has", "nan")]),
        ("arguments.c", ">", None),
        ("arguments.c", "1MB", [("has", "1MB")]),
        ("size", ">1.5MB", [(">", 1.5e6)]),
        ("size", "1kB..2 MiB", [(">=", 1e3), ("<=", 2 * 2**20)]),
        ("seconds", "<5min", [("<", 300)]),
        ("seconds", ">10ms", [(">", 0.01)]),
        ("created", "2026-02-01", [(">=", DAY), ("<", DAY + 86400)]),
        ("created", ">2026-02-01", [(">=", DAY + 86400)]),
        ("created", "<2026-02-01 12:00", [("<", DAY + 43200)]),
        ("created", "<=2026-02-01 12:00", [("<", DAY + 43260)]),
        ("created", "2026-02-01..2026-02-02", [(">=", DAY), ("<", DAY + 2 * 86400)]),
        ("created", "2h", [(">=", (NOW - timedelta(hours=2)).timestamp())]),
        ("created", "<2h", [(">=", (NOW - timedelta(hours=2)).timestamp())]),
        ("created", ">7d", [("<", (NOW - timedelta(days=7)).timestamp())]),
        ("created", "yesterday", None),
        ("created", "!=2026-02-01", None),
        ("created", "1e300d", None),
        ("created", "0001-01-01", None),
    ],
)
def test_a_filter_means(column: str, text: str, conditions: list[tuple[str, object]] | None) -> None:
    if conditions is None:
        with pytest.raises(FilterError):
            conditions_of(column, text, NOW)
    else:
        expected = [Condition(operator, value) for operator, value in conditions]  # type: ignore[arg-type]
        assert conditions_of(column, text, NOW) == expected


@given(st.sampled_from(["created", "size", "seconds", "arguments.x"]), st.text(min_size=1))
def test_any_text_is_a_filter_or_says_that_it_is_none(column: str, text: str) -> None:
    with contextlib.suppress(FilterError):
        assert conditions_of(column, text, NOW)
