"""Ages and moments mean what they say, and nothing else is one."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._cli.choosing import age, moment

SECONDS = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from(sorted(SECONDS))), min_size=1, max_size=5))
def test_the_parts_of_an_age_add_up(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert age(text) == timedelta(seconds=sum(number * SECONDS[unit] for number, unit in parts))
    assert moment(text) == age(text)


@given(st.text(max_size=8).filter(lambda text: not re.fullmatch(r"([0-9]+(\.[0-9]+)?[wdhms])+", text)))
def test_any_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="30d"):
        age(text)


@given(st.datetimes() | st.datetimes(timezones=st.just(UTC)))
def test_a_date_is_read_as_it_is_written(given: datetime) -> None:
    assert moment(given.isoformat()) == given


@pytest.mark.parametrize(
    "text",
    ["", "d", "30", "30 d", "-3d", "3dd", "3d ", "1e3d", "2026-13-01", "yesterday", "٣d", "9" * 400 + "w"],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        moment(text)
