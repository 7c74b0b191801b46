"""Entries as rows of the page: filtered, sorted, with columns.

query -> row numbers in order, kept until the store changes -> one page of rows
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.responses import Response

from .._record import short_form
from .._stores.base import Hit
from .._stores.folder import Folder
from .._stores.rows import (
    ARGUMENTS,
    Condition,
    Operator,
    Order,
    argument_columns,
    cells_of,
    find_rows,
    hits_at,
    in_order,
    rows_at,
    stored_at,
)
from .._views.pickles import Unreadable, read_pickle
from .._views.summaries import Cell, fields_of, is_told
from .._views.table import result_fields

__all__ = ["RESULTS", "Answer", "FilterError", "Listing", "Query", "Results", "conditions_of", "to_browser"]


LARGEST_EXACT: Final = 2**53


def to_browser(cell: object) -> Any:
    """Give a cell as JSON can hold it: what is no exact number there becomes a text under the name `t`.

    >>> to_browser(0.5), to_browser(2**60), to_browser(float("nan"))
    (0.5, {'t': '1152921504606846976'}, {'t': 'nan'})
    """
    if isinstance(cell, bool | str) or cell is None:
        return cell
    if isinstance(cell, int):
        return cell if abs(cell) <= LARGEST_EXACT else {"t": str(cell)}
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else {"t": str(cell)}
    return {"t": str(cell)}


class Answer(Response):
    """JSON in ASCII, so that texts which are no Unicode pass as well."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write it."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


LARGEST_READ: Final = 1 << 18
"""Bytes up to which an entry is read for its fields; a larger one is read only when it is looked at by itself."""

MOST_STEPS: Final = 20_000
"""How many steps of a pickle are read for its fields."""

MOST_KEPT: Final = 400_000
"""How many entries' fields are kept."""

MOST_FIELDS: Final = 40
"""How many fields of a result are kept."""

_log = logging.getLogger(__name__)
_Fields = Mapping[str, Cell]


class Results:
    """The fields of the results in one store. With `unpickles` those are unpickled that can't be told of without it."""

    def __init__(self, folder: Folder, *, unpickles: bool) -> None:
        self._folder = folder
        self._unpickles = unpickles
        self._kept: dict[int, tuple[float, _Fields]] = {}
        self._lock = threading.Lock()

    def at(self, numbers: Sequence[int]) -> dict[int, _Fields]:
        """Give the fields of the results in some rows; none for one that is large, damaged or gone.

        Raises:
            StoreFailure: when the store can't be read.
        """
        with self._lock:
            if len(self._kept) > MOST_KEPT:
                self._kept.clear()
            now = stored_at(self._folder, numbers)
            new = [number for number, at in now.items() if self._kept.get(number, (None,))[0] != at]
            for number, at, hit in hits_at(self._folder, new, LARGEST_READ):
                self._kept[number] = at, self._fields(hit) if isinstance(hit, Hit) else {}
            return {number: self._kept[number][1] for number in now if number in self._kept}

    def _fields(self, hit: Hit) -> _Fields:
        try:
            described = read_pickle(hit.payload.stream, hit.payload.buffers, most_steps=MOST_STEPS)
        except Unreadable:
            return {}
        is_opened = self._unpickles and not is_told(described)
        fields = unpickled_fields(hit) if is_opened else fields_of(described)
        return dict(list(fields.items())[:MOST_FIELDS])


def unpickled_fields(hit: Hit) -> dict[str, Cell]:
    """Unpickle a value, which runs what it says, and name its fields."""
    try:
        return {name: _as_cell(part) for name, part in result_fields(hit.load()).items()}
    except Exception as error:  # noqa: BLE001 - a class that is gone or has changed raises what it likes
        _log.info("a value can't be unpickled here: %r", error)
        return {}


def _as_cell(value: object) -> Cell:
    """Give a part of a value as a number, if it is one of numpy's, or as a record would show it."""
    item = getattr(value, "item", None)
    plain = item() if callable(item) and getattr(value, "ndim", None) == 0 else value
    cell: Cell = short_form(plain)
    return cell


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


RESULTS: Final = "results."
"""What the name of a column of results begins with."""

LISTS_KEPT: Final = 16
SAMPLED: Final = 50
"""How many of the latest entries tell which fields results have: those that a table shows at first."""

MOST_COLUMNS: Final = 60
MOST_POINTS: Final = 20_000
"""How many entries a plot shows."""

NEWEST_FIRST: Final = Order()

_OF_RECORDS: Final = {
    "created": "time",
    "seconds": "number",
    "size": "number",
    "hits": "number",
    "tag": "text",
}


@dataclass(frozen=True, slots=True)
class Query:
    """What a table shows: the entries of a function that pass all filters, in an order."""

    function: str
    filters: tuple[tuple[str, str], ...] = ()
    """Columns, and what was typed into the head of each."""
    search: str = ""
    order: Order = NEWEST_FIRST


class Listing:
    """The entries of one store as tables and plots."""

    def __init__(self, folder: Folder, *, unpickles: bool) -> None:
        self._folder = folder
        self._results = Results(folder, unpickles=unpickles)
        self._lists: OrderedDict[Query, tuple[str, array[int]]] = OrderedDict()
        self._columns: dict[str, tuple[str, list[dict[str, Any]]]] = {}
        self._lock = threading.Lock()

    def numbers(self, query: Query, stamp: str) -> array[int]:
        """Give the numbers of all rows that are asked for, as the store was at a stamp or later.

        Raises:
            FilterError: when a filter is none.
            StoreFailure: when the store can't be read.
        """
        is_lasting = not any(
            name == "created" for name, _ in query.filters
        )  # an age is another one a moment later
        with self._lock:
            kept = self._lists.get(query)
        if kept is not None and kept[0] == stamp and is_lasting:
            return kept[1]
        found = self._find(query)
        with self._lock:
            self._lists[query] = stamp, found
            self._lists.move_to_end(query)
            while len(self._lists) > LISTS_KEPT:
                self._lists.popitem(last=False)
        return found

    def _find(self, query: Query) -> array[int]:
        now = datetime.now().astimezone()
        conditions = [
            (name, condition) for name, text in query.filters for condition in conditions_of(name, text, now)
        ]
        found = find_rows(self._folder, query.function, conditions, query.search, query.order)
        of_results = [(name, each) for name, each in conditions if name.startswith(RESULTS)]
        by_result = query.order.column.startswith(RESULTS)
        if not (of_results or by_result):
            return found
        fields = self._results.at(found)

        def cell(number: int, column: str) -> Cell:
            return fields.get(number, {}).get(column.removeprefix(RESULTS))

        passing = [
            number for number in found if all(each.holds(cell(number, name)) for name, each in of_results)
        ]
        if by_result:
            return in_order([(cell(number, query.order.column), number) for number in passing], query.order)
        return array("q", passing)

    def columns(self, function: str, stamp: str) -> list[dict[str, Any]]:
        """Give the columns that entries of a function have: `id`, `label`, `group`, `kind`, `distinct`.

        Raises:
            StoreFailure: when the store can't be read.
        """
        kept = self._columns.get(function)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        columns = [
            {
                "id": ARGUMENTS + column.name,
                "label": column.name,
                "group": "argument",
                "kind": "number" if 2 * column.numbers > column.rows else "text",
                "distinct": column.distinct,
            }
            for column in argument_columns(self._folder, function)
        ]
        columns = columns[:MOST_COLUMNS] + self._result_columns(function)
        columns += [
            {"id": name, "label": name, "group": "record", "kind": kind} for name, kind in _OF_RECORDS.items()
        ]
        self._columns[function] = stamp, columns
        return columns

    def _result_columns(self, function: str) -> list[dict[str, Any]]:
        latest = find_rows(self._folder, function)[:SAMPLED]
        kinds: dict[str, set[str]] = {}
        distinct: dict[str, set[Cell]] = {}
        for fields in self._results.at(latest).values():
            for name, cell in fields.items():
                is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
                kinds.setdefault(name, set()).add("number" if is_number else "text")
                distinct.setdefault(name, set()).add(cell)
        return [
            {
                "id": RESULTS + name,
                "label": name,
                "group": "result",
                "kind": "number" if "number" in found else "text",
                "distinct": len(distinct[name]),
            }
            for name, found in list(kinds.items())[:MOST_COLUMNS]
        ]

    def page(self, numbers: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Give some rows with the cells of some columns.

        Raises:
            StoreFailure: when the store can't be read.
        """
        rows = rows_at(self._folder, numbers)
        fields = self._results.at([row.number for row in rows])
        page = []
        for row in rows:
            record = row.record
            known = {
                "created": record.created.timestamp(),
                "seconds": record.seconds,
                "size": record.size,
                "tag": record.tag,
                "hits": row.hits,
                **{ARGUMENTS + name: value for name, value in record.arguments.items()},
                **{RESULTS + name: value for name, value in fields.get(row.number, {}).items()},
            }
            cells = [to_browser(known.get(name)) for name in columns]
            page.append({"key": record.key, "cells": cells, "media": record.media is not None})
        return page

    def points(self, numbers: Sequence[int], columns: Sequence[str]) -> dict[str, Any]:
        """Give the cells of some columns of at most so many rows, spread evenly over all, column by column.

        Raises:
            StoreFailure: when the store can't be read.
        """
        step = max(1, -(-len(numbers) // MOST_POINTS))
        chosen = sorted(numbers)[::step]
        cells = cells_of(self._folder, chosen, columns)
        is_result = [name.startswith(RESULTS) for name in columns]
        fields = self._results.at(chosen) if any(is_result) else {}
        given: list[list[Any]] = [[] for _ in columns]
        there = [number for number in chosen if number in cells]
        for number in there:
            of_result = fields.get(number, {})
            for place, name in enumerate(columns):
                cell = of_result.get(name.removeprefix(RESULTS)) if is_result[place] else cells[number][place]
                given[place].append(to_browser(cell))
        return {"cells": given, "rows": there, "total": len(numbers), "every": step}
