"""Entries of a function as rows: filtered, sorted, and a page at a time.

    function, conditions, order -> row numbers -> records, bytes

A column is a field of the record, as `seconds`, or an argument, as `arguments.c`. No index serves this: each would be
a page more for every commit to write, and 100,000 rows take 0.05 to 0.2 seconds.
"""

from __future__ import annotations

import json
import operator
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, Literal

from .._errors import UntrustedCache
from .._names import ForeignName, NameOf, path_of
from .._record import Record
from .base import Hit
from .codec import DamagedEntry, LargeEntry, UnreadableEntry
from .folder import Folder
from .lookups import hit_of
from .schema import LIVE, SELECT_RECORD, record_of

__all__ = [
    "ARGUMENTS",
    "RECORD_COLUMNS",
    "REPEAT",
    "ArgumentColumn",
    "Condition",
    "Operator",
    "Order",
    "Row",
    "argument_columns",
    "cells_of",
    "escaped",
    "find_rows",
    "hits_at",
    "in_order",
    "keys_at",
    "row_of_key",
    "rows_at",
    "stored_at",
]


Operator = Literal["=", "!=", "<", "<=", ">", ">=", "has"]

_COMPARISONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What the cells of a column must be. A number is compared with numbers, a text with texts; `has` finds a part."""

    operator: Operator
    value: str | float | None

    def sql(self, column: str) -> tuple[str, tuple[object, ...]]:
        """Give an expression on a column, and its values."""
        if self.value is None:
            return f"{column} IS {'NOT ' if self.operator == '!=' else ''}NULL", ()
        if self.operator == "has":
            return f"CAST({column} AS TEXT) LIKE ? ESCAPE '\\'", (f"%{escaped(str(self.value))}%",)
        if self.operator == "!=":
            return f"({column} IS NULL OR {column} != ?)", (self.value,)
        kind = (
            f"typeof({column}) = 'text'"
            if isinstance(self.value, str)
            else f"typeof({column}) IN ('integer', 'real')"
        )
        return f"({kind} AND {column} {self.operator} ?)", (self.value,)

    def holds(self, cell: object) -> bool:
        """Whether a cell is so, by the rules of `sql`."""
        is_not = self.operator == "!="
        if self.value is None or cell is None:
            return (self.value is cell) != is_not if self.value is None else is_not
        if self.operator == "has":
            return str(self.value).lower() in str(cell).lower()
        if isinstance(cell, str) != isinstance(self.value, str):
            return is_not
        return bool(_COMPARISONS[self.operator](cell, self.value))


@dataclass(frozen=True, slots=True)
class Order:
    """By which column rows are sorted; rows without the cell come last."""

    column: str = "created"
    is_descending: bool = True


def escaped(text: str) -> str:
    """Write a text so that LIKE takes each character of it for itself."""
    return text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")


ARGUMENTS: Final = "arguments."
"""What the name of an argument's column begins with."""

REPEAT: Final = ARGUMENTS + "repeat"
"""The column of the number of a repeat. The first repeat of a sweep is a plain call, whose record has none: it is 0."""

RECORD_COLUMNS: Final = {
    "created": "created",
    "seconds": "seconds",
    "size": "size",
    "tag": "coalesce(tag, '')",
    "hits": "access_count",
    "key": "key",
}
"""The other columns, and what SQL calls them."""

ROWS_AT_ONCE: Final = 5_000

_NO_NUMBERS: Final = ((": NaN", ": null"), (": Infinity", ": 9e999"), (": -Infinity", ": -9e999"))
"""How Python writes numbers that JSON has no name for, and what SQLite reads."""

_MENDED: Final = reduce(
    lambda text, pair: f"replace({text}, '{pair[0]}', '{pair[1]}')", _NO_NUMBERS, "arguments"
)
_JSON: Final = (
    "CASE WHEN json_valid(arguments) THEN arguments"
    f" WHEN json_valid({_MENDED}) THEN {_MENDED} ELSE '{{}}' END"
)
"""The arguments as JSON that SQLite can read; a damaged text has none."""

_OF_FUNCTION: Final = f"FROM Cache WHERE raw = 1 AND coalesce(Cache.function, '') = ? AND {LIVE}"
_AMONG: Final = "IN (SELECT value FROM json_each(?))"
_SELECT_ROW: Final = SELECT_RECORD.replace(
    "SELECT ", "SELECT Cache.rowid, access_count, access_time, expire_time, store_time, filename, ", 1
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An entry: its record, and what only the store knows."""

    number: int
    record: Record
    hits: int
    used: float
    """When it last was stored or answered a job, in seconds since 1970."""
    expires: float | None
    stored: float
    has_file: bool
    """Whether its bytes lie in a file, as those of large entries do."""


@dataclass(frozen=True, slots=True)
class ArgumentColumn:
    """An argument of a function's entries."""

    name: str
    rows: int
    """How many entries have it."""
    numbers: int
    """In how many of them it is a number."""
    distinct: int
    """How many values it has."""


def find_rows(
    folder: Folder,
    function: str,
    conditions: Sequence[tuple[str, Condition]] = (),
    search: str = "",
    order: Order | None = None,
) -> array[int]:
    """Give the numbers of the rows of a function that all conditions hold for, in order.

    `search` is a part of the arguments, of the tag, or the beginning of the key. Columns that SQL
    doesn't know are neither filtered nor sorted by. The latest come first where no order is given.

    Raises:
        StoreFailure: when the store can't be read.
    """
    order = order or Order()
    parts = [_OF_FUNCTION]
    values: list[object] = [function, time.time()]
    for name, condition in conditions:
        if (column := _column(name)) is not None:
            part, more = condition.sql(column)
            parts.append(part)
            values += more
    if search:
        parts.append(r"(arguments LIKE ? ESCAPE '\' OR tag LIKE ? ESCAPE '\' OR key LIKE ? ESCAPE '\')")
        in_json = escaped(json.dumps(search)[1:-1])
        values += [f"%{in_json}%", f"%{escaped(search)}%", f"{escaped(search)}%"]
    column = _column(order.column) or RECORD_COLUMNS["created"]
    return in_order(folder.query(f"SELECT {column}, rowid {' AND '.join(parts)}", values), order)


def in_order(rows: list[tuple[Any, ...]], order: Order) -> array[int]:
    """Give the numbers of rows, each given behind the cell that it is sorted by: numbers, then texts, then gaps.

    It takes half as long as SQLite does it.
    """
    numbers, texts, gaps = [], [], array("q")
    for row in rows:
        cell = row[0]
        if isinstance(cell, int | float) and cell == cell:  # noqa: PLR0124 - not NaN
            numbers.append(row)
        elif isinstance(cell, str):
            texts.append(row)
        else:
            gaps.append(row[1])
    for part in (numbers, texts):
        part.sort(reverse=order.is_descending)
    found = texts + numbers if order.is_descending else numbers + texts
    return array("q", [number for _, number in found]) + gaps


def _column(name: str) -> str | None:
    """Give what SQL calls a column, or None for one that it doesn't know."""
    if not name.startswith(ARGUMENTS):
        return RECORD_COLUMNS.get(name)
    label = json.dumps(name.removeprefix(ARGUMENTS))
    if '"' in label[1:-1] or "\\\\" in label:  # which SQLite's paths have no way to write
        return None
    quoted = f"$.{label}".replace("'", "''")
    cell = f"json_extract({_JSON}, '{quoted}')"
    return f"iif(json_type({_JSON}, '{quoted}') IS NULL, 0, {cell})" if name == REPEAT else cell


def rows_at(folder: Folder, numbers: Sequence[int]) -> list[Row]:
    """Give the rows of some numbers in their order; those that are gone, or damaged, are left out.

    Raises:
        StoreFailure: when the store can't be read.
    """
    return _rows(folder, "Cache.rowid", numbers)


def row_of_key(folder: Folder, key: str) -> Row | None:
    """Give the row of a key, if there is one that is not damaged.

    Raises:
        StoreFailure: when the store can't be read.
    """
    found = _rows(folder, "key", [key])
    return found[0] if found else None


def _rows(folder: Folder, column: str, wanted: Sequence[int] | Sequence[str]) -> list[Row]:
    statement = f"{_SELECT_ROW} WHERE raw = 1 AND {LIVE} AND {column} {_AMONG}"
    found: dict[object, Row] = {}
    for number, hits, used, expires, stored, filename, *of_record in folder.query(
        statement, (time.time(), json.dumps(list(wanted)))
    ):
        try:
            record = record_of(tuple(of_record))
        except (ValueError, TypeError):  # `verify` tells of it
            continue
        if type(hits) is not int or type(used) is not float or type(stored) is not float:
            continue
        found[number if column != "key" else record.key] = Row(
            number=number,
            record=record,
            hits=hits,
            used=used,
            expires=expires,
            stored=stored,
            has_file=filename is not None,
        )
    return [found[each] for each in wanted if each in found]


def keys_at(folder: Folder, numbers: Sequence[int]) -> list[str]:
    """Give the keys of some rows.

    Raises:
        StoreFailure: when the store can't be read.
    """
    statement = f"SELECT key FROM Cache WHERE raw = 1 AND rowid {_AMONG}"
    return [key for some in _in_steps(numbers) for (key,) in folder.query(statement, (some,))]


def stored_at(folder: Folder, numbers: Sequence[int]) -> dict[int, float]:
    """Give when the entries of some rows were stored, in seconds since 1970; those that are gone are left out.

    Raises:
        StoreFailure: when the store can't be read.
    """
    statement = f"SELECT rowid, store_time FROM Cache WHERE raw = 1 AND rowid {_AMONG}"
    return dict(row for some in _in_steps(numbers) for row in folder.query(statement, (some,)))


def cells_of(folder: Folder, numbers: Sequence[int], columns: Sequence[str]) -> dict[int, tuple[Any, ...]]:
    """Give the cells of some columns by the numbers of rows, arguments as records show them.

    None stands in a column that the row doesn't have. A row whose arguments are damaged is left out.

    Raises:
        StoreFailure: when the store can't be read.
    """
    known = [name for name in columns if name in RECORD_COLUMNS]
    named = "".join(f", {RECORD_COLUMNS[name]}" for name in known)
    statement = f"SELECT rowid, arguments{named} FROM Cache WHERE raw = 1 AND rowid {_AMONG}"
    found: dict[int, tuple[Any, ...]] = {}
    for some in _in_steps(numbers):
        for number, arguments, *of_record in folder.query(statement, (some,)):
            try:
                given = dict(json.loads(arguments))
            except (ValueError, TypeError, RecursionError):  # `verify` tells of it
                continue
            cells = dict(zip(known, of_record, strict=True))
            cells |= {REPEAT: 0} | {ARGUMENTS + name: value for name, value in given.items()}
            found[number] = tuple(cells.get(name) for name in columns)
    return found


def hits_at(folder: Folder, numbers: Sequence[int], largest: int) -> Iterator[tuple[int, float, Hit | str]]:
    """Give number, time of storing and verified bytes of some rows, or why these can't be had.

    They are mapped, and nothing is unpickled. An entry is not read that has more bytes than `largest`, nor expanded
    where its compressed parts would have.

    Raises:
        StoreFailure: when the store can't be read.
    """
    statement = (
        "SELECT rowid, store_time, key, mode, filename, value, seconds, expire_time FROM Cache"
        f" WHERE raw = 1 AND typeof(key) = 'text' AND rowid {_AMONG}"
    )
    for some in _in_steps(numbers):
        for number, stored, *of_entry in folder.query(statement, (some,)):
            filename = of_entry[2]
            try:
                path = None if filename is None else path_of(folder.directory, NameOf.VALUE_FILE, filename)
                if path is not None and path.stat().st_size > largest:
                    yield number, stored, "large"
                    continue
                hit = hit_of(tuple(of_entry), folder.open(), mapped=True, most_expanded=largest)
            except LargeEntry:
                yield number, stored, "large"
            except (DamagedEntry, ForeignName, UnreadableEntry, UntrustedCache, OSError) as error:
                yield number, stored, str(error)
            else:
                yield number, stored, hit if isinstance(hit, Hit) else "expired"


def argument_columns(folder: Folder, function: str) -> list[ArgumentColumn]:
    """Give the arguments that entries of a function have, in the order in which the entries name them.

    Raises:
        StoreFailure: when the store can't be read.
    """
    statement = (
        "SELECT each.key, count(*), sum(each.type IN ('integer', 'real')), count(DISTINCT each.value), min(each.id)"
        f" FROM (SELECT {_JSON} AS given {_OF_FUNCTION}), json_each(given) AS each GROUP BY 1 ORDER BY 5, 1"
    )
    rows = folder.query(statement, (function, time.time()))
    # What is no object has no names.
    return [ArgumentColumn(*row[:4]) for row in rows if isinstance(row[0], str)]


def _in_steps(numbers: Sequence[int]) -> Iterator[str]:
    for start in range(0, len(numbers), ROWS_AT_ONCE):
        yield json.dumps(list(numbers[start : start + ROWS_AT_ONCE]))
