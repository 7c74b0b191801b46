"""Knows which entries a browser asks for, in which order, and which columns they have.

query -> row numbers in order, kept until the store changes -> one page of rows
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ..._stores.conditions import Order
from ..._stores.folder import Folder
from ..._stores.rows import (
    ARGUMENTS,
    argument_columns,
    cells_of,
    find_rows,
    in_order,
    rows_at,
)
from ..values import Cell
from .cells import to_browser
from .filters import conditions_of
from .results import Results

__all__ = ["RESULTS", "Listing", "Query"]

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
