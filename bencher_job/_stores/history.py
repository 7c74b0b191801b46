"""Answer questions about the entries of the embedded store: the `History` of a store, figures and queries in SQL.

Figures come from `Counted`, which has a row for each function, tag and version. No index serves the rest: each would be
a page more for every commit to write, and 1,000,000 rows take half a second.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from .._errors import UntrustedCache
from .._keys import StoredFunctionVersion
from .._query import ARGUMENTS, REPEAT, ArgumentColumn, Condition, EntryInfo, Query, in_order
from .._record import DIGITS_SHOWN, EVERYTHING, FailedJob, FunctionInfo, Selection, VersionInfo
from .base import Found, Gone, Keyed, Reason
from .folder import Folder
from .lookups import another_key, check_row
from .parts import DamagedEntry, MissignedEntry, UnreadableEntry
from .schema import (
    SELECT_ENTRY,
    SELECT_FAILED,
    SELECT_KNOWN_VERSIONS,
    SELECT_RECORD,
    SELECT_VERSIONS,
    VERSION,
    attributes_from,
    failed_job_of,
    moment,
    origin_from_json,
    record_of,
    version_of_row,
    versions_are,
)
from .signature import Signature, has_parts

_log = logging.getLogger(__name__)

_FIGURES: Final = (
    "SELECT CAST(Figures.function AS TEXT), CAST(tag AS TEXT), CAST(coalesce(fingerprint, '') AS TEXT),"
    " CAST(coalesce(version, '') AS TEXT), CAST(entries AS INTEGER), CAST(size AS INTEGER), CAST(hits AS INTEGER),"
    " CAST(saved AS REAL), CAST(seconds AS REAL), CAST(used AS REAL), CAST(first AS REAL), Origin.text FROM Figures"
    " LEFT JOIN Edition ON prefix = edition LEFT JOIN Origin ON number = origin"
)
_FAILED: Final = (
    "SELECT CAST(coalesce(function, '') AS TEXT), count(*),"
    " coalesce(max(CASE WHEN typeof(created) = 'real' THEN created END), 0) FROM Failed GROUP BY 1"
)


def functions(folder: Folder) -> list[FunctionInfo]:
    """Return the figures of each function that has entries or failed jobs, sorted by name.

    Raises:
        StoreFailure: when the store can't be read.
    """
    failed = {name: (count, last) for name, count, last in folder.query(_FAILED)}
    groups: dict[str, list[tuple[Any, ...]]] = {name: [] for name in failed}
    for name, *figures in folder.query(_FIGURES):
        groups.setdefault(name, []).append(tuple(figures))
    return [_function(name, groups[name], *failed.get(name, (0, 0.0))) for name in sorted(groups)]


def _function(name: str, rows: Sequence[tuple[Any, ...]], failed: int, last_failed: float) -> FunctionInfo:
    """Add up the figures of a function's tags and versions."""
    by_version: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for _, fingerprint, version, *figures in rows:
        by_version.setdefault((fingerprint, version), []).append(tuple(figures))
    return FunctionInfo(
        name=name,
        entries=sum(row[3] for row in rows),
        size=sum(row[4] for row in rows),
        hits=sum(row[5] for row in rows),
        seconds_saved=sum(row[6] for row in rows),
        seconds=sum(row[7] for row in rows),
        last_used=moment(max((row[8] for row in rows), default=last_failed)),
        tags=tuple(sorted({row[0] for row in rows} - {""})),
        versions=tuple(
            sorted(
                (_version(version, some) for version, some in by_version.items()),
                key=VersionInfo.recency,
                reverse=True,
            )
        ),
        failed=failed,
    )


def _version(version: tuple[str, str], rows: Sequence[tuple[Any, ...]]) -> VersionInfo:
    entries, sizes, *_, used, first, origins = zip(*rows, strict=True)
    try:
        commit = origin_from_json(origins[first.index(min(first))]).get("commit") or ""
    except (ValueError, TypeError):  # damaged
        commit = ""
    return VersionInfo(*version, sum(entries), sum(sizes), moment(min(first)), moment(max(used)), commit)


T = TypeVar("T")

_LAST: Final = "\U0010ffff"
"""The last character, which no key has."""


class DiskHistory:
    """Answers questions about the entries of one store from its tables."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._query = folder.query

    def examine(self, key: str) -> Found | Gone | None:
        """Verify the entry of a key, or say what became of it; None if nothing is known."""
        rows = self._query(SELECT_ENTRY + "= ?", (key,))
        if not rows:
            for reason, at in self._query("SELECT reason, at FROM Gone WHERE key = ?", (key,)):
                if reason in get_args(Reason) and type(at) is float:
                    return Gone(reason, moment(at))
            return None
        damage, may_be_whole = "", False
        try:
            if rows[0][0] != key:
                raise another_key()
            check_row(rows[0], self._folder.open(), mapped=True)
        except FileNotFoundError:
            damage = "its value file is missing"
        except (DamagedEntry, sqlite3.DatabaseError) as error:
            damage = str(error)
        except (UnreadableEntry, UntrustedCache, OSError) as error:
            damage, may_be_whole = str(error), True
        rows = self._query(f"{SELECT_RECORD} WHERE raw = 1 AND key = ?", (key,))
        records = self._readable(record_of, rows)
        return Found(records[0] if records else None, damage, may_be_whole)

    def infos(self, keys: Sequence[str]) -> list[EntryInfo]:
        """Return what is known about the entries of some keys, in this order; keys without one are left out."""
        statement = f"{_SELECT_INFO} WHERE raw = 1 AND key IN (SELECT value FROM json_each(?))"
        found: dict[str, EntryInfo] = {}
        for start in range(0, len(keys), ROWS_AT_ONCE):
            signature = self._folder.open().signature
            some = json.dumps(list(keys[start : start + ROWS_AT_ONCE]))
            for hits, used, expires, filename, parameters, manifest, *of_record in self._query(
                statement, (some,)
            ):
                try:
                    record = record_of(tuple(of_record), signature)
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

    def find(self, query: Query) -> list[str]:
        """Return the keys of the entries that a query selects, in its order."""
        parts = [_OF_FUNCTION]
        values: list[object] = [query.function]
        for name, condition in query.conditions:
            if (column := _column(name)) is not None:
                part, more = sql_of(condition, column)
                parts.append(part)
                values += more
        if query.versions is not None:
            part, more = versions_are(query.versions)
            parts.append(part)
            values += more
        search = query.search
        if search:
            parts.append(r"(arguments LIKE ? ESCAPE '\' OR tag LIKE ? ESCAPE '\' OR key LIKE ? ESCAPE '\')")
            in_json = escaped(json.dumps(search)[1:-1])
            values += [f"%{in_json}%", f"%{escaped(search)}%", f"{escaped(search)}%"]
        column = _column(query.order.column) or _COLUMNS["created"]
        return in_order(self._query(f"SELECT {column}, key {' AND '.join(parts)}", values), query.order)

    def columns(self, function: str) -> list[ArgumentColumn]:
        """Return the arguments that a function's entries have, in the order in which the entries name them."""
        statement = (
            "SELECT each.key, count(*), sum(each.type IN ('integer', 'real')), count(DISTINCT each.value), min(each.id)"
            f" FROM (SELECT {_JSON} AS given {_OF_FUNCTION}), json_each(given) AS each GROUP BY 1 ORDER BY 5, 1"
        )
        rows = self._query(statement, (function,))
        # What is no object has no names.
        return [ArgumentColumn(*row[:4]) for row in rows if isinstance(row[0], str)]

    def keys(self, prefix: str, limit: int, *, removed: bool = False) -> list[str]:
        """Return the first keys with a prefix, of entries or of removed ones."""
        table = "Gone WHERE" if removed else "Cache WHERE raw = 1 AND typeof(key) = 'text' AND"
        statement = f"SELECT key FROM {table} key >= ? AND key < ? ORDER BY key LIMIT ?"
        return [key for (key,) in self._query(statement, (prefix, prefix + _LAST, limit))]

    def removed(self) -> dict[str, int]:
        """Count the removed entries that are remembered, by the reason of their removal."""
        counted = self._query("SELECT reason, count(*) FROM Gone GROUP BY reason ORDER BY reason")
        return {reason: count for reason, count in counted if reason in get_args(Reason)}

    def versions(self, function: str, *, unused: bool = False) -> list[StoredFunctionVersion]:
        """Return the versions of a function that have entries, the one with the latest entry first.

        With `unused` also those without entries, in any order and without their sources; no entry is read.
        """
        rows = self._query(SELECT_KNOWN_VERSIONS if unused else SELECT_VERSIONS, (function,))
        return self._readable(version_of_row, rows)

    def of_version(
        self,
        function: str,
        *,
        prefix: bytes | None = None,
        bound: bytes | None = None,
        limit: int | None = None,
    ) -> Iterator[Keyed]:
        """Iterate over the entries of a function version, or with these encoded arguments, the latest first."""
        condition = "edition IS NOT NULL AND typeof(bound) = 'blob'"
        values: tuple[object, ...] = (function,)
        if prefix is not None:
            condition, values = f"{condition} AND edition = ?", (*values, prefix)
        if bound is not None:
            condition, values = f"{condition} AND bound = ?", (*values, bound)
        rows = self._query(
            f"{_SELECT_KEYED} WHERE Cache.function = ? AND {condition} ORDER BY created DESC LIMIT ?",
            (*values, -1 if limit is None else limit),
        )
        return iter(self._readable(_keyed, rows))

    def _readable(
        self, make: Callable[[tuple[Any, ...], Signature], T], rows: Iterable[tuple[Any, ...]]
    ) -> list[T]:
        """Make something of rows, except of damaged ones, which `verify` finds."""
        signature = (self._folder.opened or self._folder.open()).signature
        made = []
        for row in rows:
            try:
                made.append(make(row, signature))
            except (ValueError, TypeError, MissignedEntry) as error:
                _log.debug("a damaged row is left out: %s", error)
        return made

    def failures(self, selection: Selection = EVERYTHING) -> list[FailedJob]:
        """Return the selected ones of the latest failed jobs that have no entry, the latest first."""
        rows = self._query(SELECT_FAILED)
        failed = self._readable(lambda row, _: failed_job_of(row), rows)
        return [each for each in failed if selection.matches(each.record)]

    def stamp(self) -> str:
        """Return a text that differs after any change of the store by any process."""
        return ".".join([str(self._folder.changes.puts), *map(_look, self._folder.files())])


def _look(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "-"
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


_SELECT_KEYED: Final = SELECT_RECORD.replace("SELECT ", "SELECT edition, bound, attributes, ", 1)


def _keyed(row: tuple[Any, ...], signature: Signature) -> Keyed:
    prefix, bound, attributes, *of_record = row
    digests = {} if attributes is None else attributes_from(attributes)
    return Keyed(prefix, bound, digests, record_of(tuple(of_record), signature))


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
    "code": "coalesce("
    + VERSION.format(
        f"substr(fingerprint, 1, {DIGITS_SHOWN}) || iif(version = '', '', ' version ' || version)"
    )
    + ", '')",
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

_OF_FUNCTION: Final = "FROM Cache WHERE raw = 1 AND typeof(key) = 'text' AND coalesce(Cache.function, '') = ?"
_SELECT_INFO: Final = SELECT_RECORD.replace(
    "SELECT ", "SELECT access_count, access_time, expire_time, filename, parameters, manifest, ", 1
)


def _column(name: str) -> str | None:
    """Return what SQL calls a column, or None for one that it doesn't know."""
    if not name.startswith(ARGUMENTS):
        return _COLUMNS.get(name)
    label = json.dumps(name.removeprefix(ARGUMENTS))
    if '"' in label[1:-1] or "\\\\" in label:  # which SQLite's paths have no way to write
        return None
    quoted = f"$.{label}".replace("'", "''")
    cell = f"json_extract({_JSON}, '{quoted}')"
    return f"iif(json_type({_JSON}, '{quoted}') IS NULL, 0, {cell})" if name == REPEAT else cell


def _names_in(text: str | None) -> tuple[str, ...]:
    """Return the names in a JSON array, or those of an object's members; none if the text is damaged."""
    try:
        return tuple(map(str, json.loads(text or "[]")))
    except (ValueError, TypeError, RecursionError):
        return ()
