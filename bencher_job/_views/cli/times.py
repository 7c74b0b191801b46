"""Knows how ages and moments are typed: `30d`, `1d12h`, `2026-01-31`, `2026-01-31T12:00`."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from datetime import datetime, timedelta
from typing import Final

__all__ = ["age", "moment"]

_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_AGE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([wdhms])", re.ASCII)


def age(text: str) -> timedelta:
    """Read how long ago something was: numbers, each with `w`, `d`, `h`, `m` or `s`.

    Raises:
        ArgumentTypeError: when the text is something else.

    >>> age("1d12h"), age("1.5m")
    (datetime.timedelta(days=1, seconds=43200), datetime.timedelta(seconds=90))
    """
    parts = _AGE.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ArgumentTypeError(f"{text!r} is no age. Write it as 30d, 12h or 1h30m: weeks, days, h, m, s.")
    try:
        return sum((timedelta(seconds=float(number) * _UNITS[unit]) for number, unit in parts), timedelta())
    except OverflowError:
        raise ArgumentTypeError(f"{text!r} is longer than all time") from None


def moment(text: str) -> datetime | timedelta:
    """Read a time: an age, or a date with or without the time of day, local unless it ends with a zone.

    Raises:
        ArgumentTypeError: when the text is something else.

    >>> moment("2026-01-31"), moment("7d")
    (datetime.datetime(2026, 1, 31, 0, 0), datetime.timedelta(days=7))
    """
    if _AGE.match(text):
        return age(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no time. Write an age as 30d or 12h, or a date as 2026-01-31 or 2026-01-31T12:00."
        ) from None
