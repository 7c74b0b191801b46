"""List entries as rows of the page: filtered, sorted, with columns.

query -> keys in order, cached until the store changes -> one page of rows
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import re
import statistics
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from starlette.responses import Response

from .._fields import of_configs
from .._query import (
    ARGUMENTS,
    LATEST_FIRST,
    ArgumentColumn,
    Condition,
    Operator,
    Order,
    Query,
    cell_of,
    in_order,
)
from .._record import FailedJob, FunctionInfo, Selection, short_form
from .._stores import Hit, Store
from .._views.pickles import Cell, Unreadable, read_pickle
from .._views.summaries import fields_of, has_named_parts
from .._views.table import result_fields

LARGEST_EXACT: Final = 2**53


def to_browser(cell: object) -> Any:
    """Convert a cell to JSON data.

    A number that JavaScript can't hold exactly becomes an object with its text as `t`, and so does a whole float, which
    JavaScript can't tell from an int, with its value as `n`.

    >>> to_browser(0.5), to_browser(1.0), to_browser(2**60), to_browser(float("nan"))
    (0.5, {'t': '1.0', 'n': 1.0}, {'t': '1152921504606846976'}, {'t': 'nan'})
    """
    if isinstance(cell, bool | str) or cell is None:
        return cell
    if isinstance(cell, int):
        return cell if abs(cell) <= LARGEST_EXACT else {"t": str(cell)}
    if isinstance(cell, float):
        if cell.is_integer():
            return {"t": str(cell), "n": cell}
        return cell if math.isfinite(cell) else {"t": str(cell)}
    return {"t": str(cell)}


class JsonResponse(Response):
    """JSON in ASCII, so that lone surrogates pass too."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the content."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


LARGEST_READ: Final = 1 << 18
"""Maximum size in bytes of an entry whose fields are listed. A larger one is only read on its own page."""

READ_AT_ONCE: Final = 1000
"""Number of entries that are read together."""

MOST_STEPS: Final = 20_000
"""Maximum number of opcodes of a pickle that are read for its fields."""

MOST_KEPT: Final = 400_000
"""Maximum number of entries whose fields are cached."""

MOST_FIELDS: Final = 40
"""Maximum number of fields of a result that are cached."""

_log = logging.getLogger(__name__)
_Fields = Mapping[str, Cell]
_Made = TypeVar("_Made")


class Results:
    """The fields of the results in one store. With `unpickles`, results that can't be described are unpickled."""

    def __init__(self, store: Store, *, unpickles: bool) -> None:
        self._store = store
        self._unpickles = unpickles
        self._mark: object = None
        self._kept: dict[str, _Fields] = {}
        self._lock = threading.Lock()

    def of(self, keys: Sequence[str]) -> dict[str, _Fields]:
        """Return the fields of the results of some keys; empty for one that is large, damaged or gone.

        Raises:
            StoreFailure: when the store can't be read.
        """
        with self._lock:
            mark = self._store.changed_since(self._mark)
            if mark is not None or len(self._kept) > MOST_KEPT:
                self._mark = self._mark if mark is None else mark
                self._kept.clear()
            new = [key for key in keys if key not in self._kept]
            for start in range(0, len(new), READ_AT_ONCE):
                some = new[start : start + READ_AT_ONCE]
                found = self._store.get_many(some, mapped=True, largest=LARGEST_READ, counts=False)
                self._kept.update((key, self._fields(found[key]) if key in found else {}) for key in some)
            return {key: self._kept[key] for key in keys}

    def _fields(self, hit: Hit) -> _Fields:
        try:
            described = read_pickle(hit.payload.stream, hit.payload.buffers, most_steps=MOST_STEPS)
        except Unreadable:
            return {}
        is_opened = self._unpickles and not has_named_parts(described)
        fields = unpickled_fields(hit) if is_opened else fields_of(described)
        return dict(list(fields.items())[:MOST_FIELDS])


def unpickled_fields(hit: Hit) -> dict[str, Cell]:
    """Unpickle a value, which runs code that it names, and return its fields."""
    try:
        return {name: _as_cell(part) for name, part in result_fields(hit.load()).items()}
    except Exception as error:  # noqa: BLE001 - a missing or changed class can raise anything
        _log.info("a value can't be unpickled here: %r", error)
        return {}


def _as_cell(value: object) -> Cell:
    """Convert a part of a value to a plain number if it is a numpy scalar, or to its form in a record."""
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
"""The largest integer that SQLite can store."""

_AGES: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class FilterError(ValueError):
    """A text is not a valid filter of its column."""


def conditions_of(column: str, text: str, now: datetime) -> list[Condition]:
    """Parse a filter.

    `svm` matches part of a text, and `1` the number or part of a text; `=svm` matches the whole text. `>0.5`,
    `<=1e-3`, `!=svm` and `0.1..1` compare; `none` matches a gap. Times are local: `2026-11-27`, `>2026-11-27 18:00`, or
    an age: `2h` for the last two hours. Sizes and durations may have units: `>1MB`, `<5min`.

    Raises:
        FilterError: when the text is not a filter.

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
            raise FilterError(f"{text!r} is not a range. Write two numbers, as in 0.1..1.")
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
    return text  # type: ignore[return-value]  # the pattern matches operators only


def _number(column: str, text: str) -> float | None:
    """Parse a number, with a unit if the column has units."""
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
        # "<2h" and "2h" mean younger than two hours, so started later.
        try:
            moment = now - timedelta(seconds=float(age[1]) * unit)
        except OverflowError:
            raise FilterError(f"{text!r} lies before all time. Write an age, as in 2h.") from None
        return [Condition("<" if operator in {">", ">="} else ">=", moment.timestamp())]
    if operator == "!=" or not rest:
        raise FilterError(f"{text!r} is not a time. Write <, <=, > or >= before it, or nothing.")
    begin, end = _span(rest)
    return {
        "<": [Condition("<", begin)],
        "<=": [Condition("<", end)],
        ">": [Condition(">=", end)],
        ">=": [Condition(">=", begin)],
    }.get(operator, [Condition(">=", begin), Condition("<", end)])


def _span(text: str) -> tuple[float, float]:
    """Return the start and the end of a day, a minute or a second, in seconds since the epoch."""
    try:
        begin = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise FilterError(
            f"{text!r} is not a time. Write a day, as in 2026-01-31, or an age, as in 2h."
        ) from None
    return begin, begin + (86400 if _DAY.fullmatch(text) else 1 if text.count(":") > 1 else 60)


RESULTS: Final = "results."
"""Prefix of the names of columns of results."""

ALL: Final = "all"
"""Stands for all versions of the code."""

MOST_ANSWERS: Final = 48
"""Maximum number of lists of keys, columns and functions that are kept until the store changes."""

SAMPLED: Final = 50
"""Number of latest entries, those that a table shows first, from which the columns of results are taken."""

MOST_COLUMNS: Final = 60
MOST_POINTS: Final = 20_000
"""Maximum number of entries in a plot."""

LARGEST_AVERAGED: Final = 1e150
"""Magnitude from which on the square of a number may overflow."""

MOST_GROUPS: Final = 2_000
ROWS_AT_ONCE: Final = 2_000

_OF_RECORDS: Final = {
    "created": "time",
    "seconds": "number",
    "size": "number",
    "hits": "number",
    "tag": "text",
    "code": "text",
}


def _most_telling(columns: Sequence[ArgumentColumn]) -> list[ArgumentColumn]:
    """Return as many arguments as a table shows, those that vary before others, in their own order."""
    chosen = sorted(columns, key=lambda column: column.distinct < 2)[:MOST_COLUMNS]
    return [column for column in columns if column in chosen]


@dataclass(frozen=True, slots=True)
class TableQuery:
    """The rows of a table: the entries of a function that match all filters, in order."""

    function: str
    filters: tuple[tuple[str, str], ...] = ()
    """The filters by column, as typed."""
    search: str = ""
    order: Order = LATEST_FIRST
    code: str = ""
    """The version of the code, by its label: empty for the one that was used last, `ALL` for all."""


class Listing:
    """Lists the entries of one store for tables and plots. Lists are kept until the store changes.

    All methods raise a StoreFailure when the store can't be read.

    Attributes:
        store: the store, opened read-only.
    """

    def __init__(self, store: Store, *, unpickles: bool) -> None:
        self.store = store
        self._results = Results(store, unpickles=unpickles)
        self._kept: dict[object, Any] = {}
        self._stamp = ""
        self._lock = threading.Lock()

    def stamp(self) -> str:
        """Return a text that differs after any change in the store. Reads no database."""
        return self.store.history.stamp()

    def _once(self, what: Hashable, make: Callable[[], _Made]) -> _Made:
        """Return what was made before, unless the store has changed since."""
        stamp = self.stamp()
        with self._lock:
            if stamp != self._stamp:
                self._stamp, self._kept = stamp, {}
            kept = self._kept
        if what not in kept:
            made = make()
            with self._lock:
                while len(kept) >= MOST_ANSWERS:
                    kept.pop(next(iter(kept)))
                kept[what] = made
            return made
        found: _Made = kept[what]
        return found

    def keys(self, query: TableQuery) -> list[str]:
        """Return the keys of all rows of a query.

        Raises:
            FilterError: when a filter is invalid.
        """
        if any(name == "created" for name, _ in query.filters):  # an age is another one a moment later
            return self._find(query)
        return self._once(query, lambda: self._find(query))

    def functions(self) -> list[FunctionInfo]:
        """Return the figures of all functions."""
        return self._once("functions", self.store.functions)

    def _versions(
        self, function: str, code: str, failed: Sequence[FailedJob] = ()
    ) -> Collection[tuple[str, str]] | None:
        """Return the chosen versions of a function's code, for a query."""
        if code == ALL:
            return None
        for each in self.functions():
            if each.name == function:
                named = {version[:2] for version in each.versions if version.label == code}
                return named if code else each.latest(failed)
        return ()

    def failed(self, function: str, code: str = "") -> list[FailedJob]:
        """Return the failed jobs of a function and version of its code, the latest first."""
        failed = self.store.history.failures(Selection(function=function))
        selection = Selection(versions=self._versions(function, code, failed))
        return [each for each in failed if selection.matches(each.record)]

    def _find(self, query: TableQuery) -> list[str]:
        now = datetime.now().astimezone()
        conditions = [
            (name, condition) for name, text in query.filters for condition in conditions_of(name, text, now)
        ]
        versions = self._versions(query.function, query.code)
        found = self.store.history.find(
            Query(query.function, tuple(conditions), query.search, query.order, versions)
        )
        of_results = [(name, each) for name, each in conditions if name.startswith(RESULTS)]
        by_result = query.order.column.startswith(RESULTS)
        if not (of_results or by_result):
            return found
        fields = self._results.of(found)

        def cell(key: str, column: str) -> Cell:
            return fields[key].get(column.removeprefix(RESULTS))

        passing = [key for key in found if all(each.holds(cell(key, name)) for name, each in of_results)]
        if by_result:
            return in_order([(cell(key, query.order.column), key) for key in passing], query.order)
        return passing

    def columns(self, function: str) -> list[dict[str, Any]]:
        """Return the columns of a function's entries: `id`, `label`, `group`, `kind`, `distinct`."""
        return self._once(("columns", function), lambda: self._columns(function))

    def _columns(self, function: str) -> list[dict[str, Any]]:
        found = self.store.history.find(Query(function))
        results: dict[str, list[Cell]] = {}
        for fields in self._results.of(found[:SAMPLED]).values():
            for name, cell in fields.items():
                results.setdefault(name, []).append(cell)
        columns: list[tuple[str, str, str, str, int]] = []
        constants = columns[:]
        arguments = _most_telling(self.store.history.columns(function))
        configs = {*of_configs(each.name for each in arguments)}
        for each in arguments:
            is_constant = each.name in configs and each.distinct == 1 < each.rows == len(found)
            kind = "number" if 2 * each.numbers > each.rows else "text"
            group = "constant" if is_constant else "argument"
            (constants if is_constant else columns).append((ARGUMENTS, group, each.name, kind, each.distinct))
        columns += [
            (RESULTS, "result", name, "number" if any(map(_is_number, cells)) else "text", len({*cells}))
            for name, cells in list(results.items())[:MOST_COLUMNS]
        ]
        columns += [("", "record", name, kind, 0) for name, kind in _OF_RECORDS.items()]
        columns += constants  # fields of configs that are the same everywhere
        return [
            {"id": prefix + name, "label": name, "group": group, "kind": kind, "distinct": distinct}
            for prefix, group, name, kind, distinct in columns
        ]

    def page(self, keys: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return some rows with the cells of some columns."""
        return [
            {"key": key, "cells": [*map(to_browser, cells)], "media": media is not None}
            for key, (*cells, media) in self.cells(keys, [*columns, "media"]).items()
        ]

    def points(self, keys: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
        """Return the cells of some columns, by column, for a limited number of evenly spaced rows."""
        step = max(1, -(-len(keys) // MOST_POINTS))
        cells = self.cells(keys[::step], columns, by_run=True)
        given = [[to_browser(row[place]) for row in cells.values()] for place in range(len(columns))]
        return {"cells": given, "keys": list(cells), "total": len(keys), "every": step}

    def groups(self, keys: Sequence[str], by: Sequence[str], value: str) -> dict[str, Any]:
        """Group rows by the cells of some columns: `cells`, `count`, and of a value `mean`, `sd`, `low` and `high`.

        The spread `sd` is the sample standard deviation. Rows whose value isn't a finite number only count in `count`.
        """
        found: dict[tuple[tuple[type, Cell], ...], list[Cell]] = {}
        for *cells, cell in self.cells(keys, [*by, value]).values():
            found.setdefault(tuple((type(cell), cell) for cell in cells), []).append(cell)
        groups = [
            {"cells": [to_browser(cell) for _, cell in group], "count": len(cells), **_figures(cells)}
            for group, cells in list(found.items())[:MOST_GROUPS]
        ]
        return {"groups": groups, "total": len(found), "entries": len(keys)}

    def csv(self, keys: Sequence[str], columns: Sequence[str]) -> Iterator[bytes]:
        """Write rows as CSV with a head, some at a time; gaps are empty."""
        text = io.StringIO()
        writer = csv.writer(text)
        names = [name.removeprefix(ARGUMENTS).removeprefix(RESULTS) for name in columns]
        writer.writerow(
            name if names.count(name) == 1 else column for name, column in zip(names, columns, strict=True)
        )
        for first in range(0, max(len(keys), 1), ROWS_AT_ONCE):
            writer.writerows(self.cells(keys[first : first + ROWS_AT_ONCE], columns).values())
            yield text.getvalue().encode(errors="backslashreplace")  # half of a surrogate pair
            text.seek(0)
            text.truncate()

    def cells(
        self, keys: Sequence[str], columns: Sequence[str], *, by_run: bool = False
    ) -> dict[str, tuple[Any, ...]]:
        """Return the cells of some columns by key, in the order of keys or of runs; without what is gone or damaged."""
        infos = self.store.history.infos(keys)
        if by_run:
            infos.sort(key=lambda info: info.record.created)
        of_results = [name.removeprefix(RESULTS) if name.startswith(RESULTS) else None for name in columns]
        fields = self._results.of([info.record.key for info in infos]) if any(of_results) else {}
        return {
            info.record.key: tuple(
                cell_of(info, name) if field is None else fields[info.record.key].get(field)
                for name, field in zip(columns, of_results, strict=True)
            )
            for info in infos
        }


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _figures(cells: Sequence[Cell]) -> dict[str, float | None]:
    numbers = [
        float(cell) for cell in cells if isinstance(cell, int | float) and abs(cell) < LARGEST_AVERAGED
    ]
    if not numbers:
        return dict.fromkeys(("mean", "sd", "low", "high"))
    sd = statistics.stdev(numbers) if numbers[1:] else None
    return {"mean": statistics.fmean(numbers), "sd": sd, "low": min(numbers), "high": max(numbers)}
