"""Answer queries in SQL: filter and sort entries, list them, and list their arguments.

No index serves this: each would be a page more for every commit to write, and 100,000 rows take 0.05 to 0.2 seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import reduce
from typing import Final

from .._query import ARGUMENTS, REPEAT, ArgumentColumn, Condition, EntryInfo, Query, in_order
from .codec import MissignedEntry
from .folder import Folder
from .macs import has_parts
from .schema import LIVE, SELECT_RECORD, record_of

__all__ = ["columns_of", "escaped", "find_keys", "infos_of", "sql_of"]


def sql_of(condition: Condition, column: str) -> tuple[str, tuple[object, ...]]:
    """Return the SQL of a condition on a column, and its values."""
    operator, value = condition.operator, condition.value
    if value is None:
        return f"{column} IS {'NOT ' if operator == '!=' else ''}NULL", ()
    if operator == "has":
        return f"CAST({column} AS TEXT) LIKE ? ESCAPE '\\'", (f"%{escaped(str(value))}%",)
    if operator == "!=":
        return f"({column} IS NULL OR {column} != ?)", (value,)
    kind = (
        f"typeof({column}) = 'text'" if isinstance(value, str) else f"typeof({column}) IN ('integer', 'real')"
    )
    return f"({kind} AND {column} {operator} ?)", (value,)


def escaped(text: str) -> str:
    """Write a text so that LIKE takes each character of it for itself."""
    return text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")


_COLUMNS: Final = {
    "created": "created",
    "seconds": "seconds",
    "size": "size",
    "tag": "coalesce(tag, '')",
    "hits": "access_count",
    "key": "key",
}
"""What SQL calls the columns that are not arguments."""

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

_OF_FUNCTION: Final = (
    f"FROM Cache WHERE raw = 1 AND typeof(key) = 'text' AND coalesce(Cache.function, '') = ? AND {LIVE}"
)
_SELECT_INFO: Final = SELECT_RECORD.replace(
    "SELECT ", "SELECT access_count, access_time, expire_time, filename, parameters, manifest, ", 1
)


def find_keys(folder: Folder, query: Query) -> list[str]:
    """Return the keys of the entries that a query selects, in its order.

    Raises:
        StoreFailure: when the store can't be read.
    """
    parts = [_OF_FUNCTION]
    values: list[object] = [query.function, time.time()]
    for name, condition in query.conditions:
        if (column := _column(name)) is not None:
            part, more = sql_of(condition, column)
            parts.append(part)
            values += more
    search = query.search
    if search:
        parts.append(r"(arguments LIKE ? ESCAPE '\' OR tag LIKE ? ESCAPE '\' OR key LIKE ? ESCAPE '\')")
        in_json = escaped(json.dumps(search)[1:-1])
        values += [f"%{in_json}%", f"%{escaped(search)}%", f"{escaped(search)}%"]
    column = _column(query.order.column) or _COLUMNS["created"]
    return in_order(folder.query(f"SELECT {column}, key {' AND '.join(parts)}", values), query.order)


def _column(name: str) -> str | None:
    """Give what SQL calls a column, or None for one that it doesn't know."""
    if not name.startswith(ARGUMENTS):
        return _COLUMNS.get(name)
    label = json.dumps(name.removeprefix(ARGUMENTS))
    if '"' in label[1:-1] or "\\\\" in label:  # which SQLite's paths have no way to write
        return None
    quoted = f"$.{label}".replace("'", "''")
    cell = f"json_extract({_JSON}, '{quoted}')"
    return f"iif(json_type({_JSON}, '{quoted}') IS NULL, 0, {cell})" if name == REPEAT else cell


def infos_of(folder: Folder, keys: Sequence[str]) -> list[EntryInfo]:
    """Return what is known about the entries of some keys, in this order; those that are gone or damaged are left out.

    Raises:
        StoreFailure: when the store can't be read.
    """
    statement = f"{_SELECT_INFO} WHERE raw = 1 AND {LIVE} AND key IN (SELECT value FROM json_each(?))"
    found: dict[str, EntryInfo] = {}
    for start in range(0, len(keys), ROWS_AT_ONCE):
        some = json.dumps(list(keys[start : start + ROWS_AT_ONCE]))
        for hits, used, expires, filename, parameters, manifest, *of_record in folder.query(
            statement, (time.time(), some)
        ):
            try:
                record = record_of(tuple(of_record), folder.open().signature)
            except (ValueError, TypeError, MissignedEntry):  # `verify` reports it
                continue
            version_mac = of_record[-1]
            if version_mac is not None and not has_parts(version_mac, parameters, manifest):
                continue
            if type(hits) is int and type(used) is float:
                found[record.key] = EntryInfo(
                    record=record,
                    hits=hits,
                    used=used,
                    expires=expires,
                    file=filename,
                    parameters=_names_in(parameters),
                    parts=_names_in(manifest),
                )
    return [found[key] for key in keys if key in found]


def _names_in(text: str | None) -> tuple[str, ...]:
    """Return the names in a JSON array, or those of an object's members; none if the text is damaged."""
    try:
        return tuple(map(str, json.loads(text or "[]")))
    except (ValueError, TypeError, RecursionError):
        return ()


def columns_of(folder: Folder, function: str) -> list[ArgumentColumn]:
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
