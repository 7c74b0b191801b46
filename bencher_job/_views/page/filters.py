"""Knows what somebody means who types into the head of a column: a part of a text, a number, a range, a comparison."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import Final

from ..._stores.conditions import Condition, Operator

__all__ = ["FilterError", "conditions_of"]

_COMPARISON: Final = re.compile(r"(<=|>=|!=|<|>|=|!)\s*(.*)", re.DOTALL)
_WITH_UNIT: Final = re.compile(r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Zµ]+)")
_UNITS: Final = {
    "size": {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30},
    "seconds": {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400},
}
LARGEST_WHOLE: Final = (1 << 63) - 1
"""The largest whole number that SQLite takes as one."""

_AGES: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class FilterError(ValueError):
    """A text is no filter of its column."""


def conditions_of(column: str, text: str, now: datetime) -> list[Condition]:
    """Read a filter.

    `svm` is a part of a text, and `1` the number or a part of a text; `=svm` is the whole text. `>0.5`, `<=1e-3`,
    `!=svm` and `0.1..1` compare; `none` is a gap. Times are local: `2026-11-27`, `>2026-11-27 18:00`, or an age: `2h`
    for the last two hours. Sizes and durations may have units: `>1MB`, `<5min`.

    Raises:
        FilterError: when it is none.

    >>> conditions_of("arguments.c", "0.1..1", datetime.now())
    [Condition(operator='>=', value=0.1), Condition(operator='<=', value=1)]
    """
    text = text.strip()
    if column == "created":
        return _time_conditions(text, now)
    low, dots, high = text.partition("..")
    if dots and low and high:
        bounds = [_number(column, low), _number(column, high)]
        if None in bounds:
            raise FilterError(f"{text!r} is no range. Write two numbers, as in 0.1..1.")
        return [Condition(">=", bounds[0]), Condition("<=", bounds[1])]
    match = _COMPARISON.fullmatch(text)
    operator, rest = match.groups() if match else ("", text)
    if operator and not rest:
        raise FilterError(f"{text!r} has nothing to compare with. Write a value behind it, as in >0.5.")
    operator = "!=" if operator == "!" else operator
    if rest.lower() in {"none", "null"}:
        return [Condition("!=" if operator == "!=" else "=", None)]
    number = _number(column, rest)
    if number is None:
        return [Condition(_as_operator(operator or "has"), rest)]
    return [Condition(_as_operator(operator or "="), number)]


def _as_operator(text: str) -> Operator:
    return text  # type: ignore[return-value]  # the pattern has no other


def _number(column: str, text: str) -> float | None:
    """Read a number, with a unit where the column has units."""
    text = text.strip()
    if text.lower() in {"true", "false"}:
        return int(text.lower() == "true")
    match = _WITH_UNIT.fullmatch(text)
    if match and (unit := _UNITS.get(column, {}).get(match[2].lower())) is not None:
        return float(match[1]) * unit
    try:
        number: float = int(text)
        if abs(number) <= LARGEST_WHOLE:
            return number
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _time_conditions(text: str, now: datetime) -> list[Condition]:
    low, dots, high = text.partition("..")
    if dots:
        return [*_time_conditions(f">={low}", now), *_time_conditions(f"<={high}", now)]
    match = _COMPARISON.fullmatch(text)
    operator, rest = (match[1], match[2].strip()) if match else ("", text)
    age = _WITH_UNIT.fullmatch(rest)
    if age and (unit := _AGES.get(age[2].lower())) is not None:
        # "<2h" and "2h" are younger than two hours, so they began later.
        try:
            moment = now - timedelta(seconds=float(age[1]) * unit)
        except OverflowError:
            raise FilterError(f"{text!r} lies before all time. Write an age, as in 2h.") from None
        return [Condition("<" if operator in {">", ">="} else ">=", moment.timestamp())]
    if operator == "!=" or not rest:
        raise FilterError(f"{text!r} is no time. Write <, <=, > or >= before it, or nothing.")
    begin, end = _span(rest)
    return {
        "<": [Condition("<", begin)],
        "<=": [Condition("<", end)],
        ">": [Condition(">=", end)],
        ">=": [Condition(">=", begin)],
    }.get(operator, [Condition(">=", begin), Condition("<", end)])


def _span(text: str) -> tuple[float, float]:
    """Give the begin and the end of a day, a minute or a second, in seconds since 1970."""
    try:
        begin = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise FilterError(
            f"{text!r} is no time. Write a day, as in 2026-01-31, or an age, as in 2h."
        ) from None
    return begin, begin + (86400 if _DAY.fullmatch(text) else 1 if text.count(":") > 1 else 60)
