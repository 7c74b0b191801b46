"""Knows entries as a table: one row each, with arguments, what came of them, and what is known of the run as columns.

Record ──> arguments ──────────┐
value ───> fields of a result ─┼─> columns of equal length ──> pandas.DataFrame
Record ──> what is known ──────┘
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from .._errors import BencherJobError
from .._record import Record
from .._stores import MISS

if TYPE_CHECKING:
    import pandas

__all__ = ["result_fields", "rows_to_dataframe", "to_dataframe"]

VALUES_AT_ONCE: Final = 1000
"""How many values are looked up in bulk."""

_RECORD_COLUMNS: Final = {
    "function": None,
    "tag": None,
    "created": "datetime64[us, UTC]",
    "seconds": "float64",
    "size": "int64",
    "executor": None,
    "host": None,
    "platform": None,
    "python": None,
    "commit": None,
    "dirty": "boolean",
    "version": None,
    "fingerprint": None,
    "key": None,
}
"""Fields of a record that become columns, and their types; a text's type is what pandas takes for texts."""

_OF_NO_KIND: Final = frozenset({"bytes", "categorical", "empty", "mixed", "mixed-integer", "unknown-array"})
_WITH_GAPS: Final = {"integer": "Int64", "boolean": "boolean"}

_known_of: Final = attrgetter(*_RECORD_COLUMNS)

Values = Callable[[Sequence[str]], Mapping[str, object]]
"""Looks values up in bulk by the keys of their entries; those that it doesn't find are left out."""


def to_dataframe(records: Iterable[Record], values_of: Values | None = None) -> pandas.DataFrame:
    """Make a table of entries, with their values where `values_of` looks them up.

    The columns are, in this order: the arguments as records show them; the fields of the results, which are the items
    of a dict with names for keys, the fields of a dataclass or a named tuple, or else `result`; and what the record
    knows: function, tag, created, seconds, size, executor, host, platform, python, commit, dirty, version, fingerprint
    and key.

    A name that is taken is prefixed: a result's field that goes by the name of an argument is `result.x`, and a
    record's that goes by either is `job.x`. Whole numbers stay so, in a column with gaps as `Int64`. What is neither
    number, text nor time, such as an array, stands in its cell as it is.

    Raises:
        BencherJobError: when pandas is not installed.

    >>> from datetime import UTC, datetime
    >>> record = Record(key="k1", function="study.score", created=datetime.now(UTC), arguments={"c": 0.1})
    >>> table = to_dataframe([record], lambda keys: {"k1": {"accuracy": 0.9, "size": 20}})
    >>> table[["c", "accuracy", "size", "function", "job.size"]]
         c  accuracy  size     function  job.size
    0  0.1       0.9    20  study.score         0
    """
    arguments, results = _Columns(), _Columns()
    known: list[tuple[Any, ...]] = []
    for record, value in _with_values(records, values_of):
        arguments.add(len(known), record.arguments)
        results.add(len(known), result_fields(value))
        known.append(_known_of(record))
    rows = len(known)
    columns = _named(rows, arguments, results)
    cells = zip(*known, strict=True) if known else ((),) * len(_RECORD_COLUMNS)
    for (name, kind), column in zip(_RECORD_COLUMNS.items(), cells, strict=True):
        columns[_free(name, "job.", columns)] = list(column), kind
    return _frame(columns, rows)


def rows_to_dataframe(rows: Iterable[tuple[Mapping[str, Any], object]]) -> pandas.DataFrame:
    """Make a table of arguments and what came of them, by the rules of `to_dataframe`.

    Raises:
        BencherJobError: when pandas is not installed.

    >>> rows_to_dataframe([({"c": 1}, {"accuracy": 0.5}), ({"c": 2}, {"accuracy": 0.75})])
       c  accuracy
    0  1      0.50
    1  2      0.75
    """
    arguments, results = _Columns(), _Columns()
    count = 0
    for given, value in rows:
        arguments.add(count, given)
        results.add(count, result_fields(value))
        count += 1
    return _frame(_named(count, arguments, results), count)


def _with_values(records: Iterable[Record], values_of: Values | None) -> Iterator[tuple[Record, object]]:
    """Pair records with their values, looked up some at a time, as all may be more than memory holds twice."""
    if values_of is None:
        yield from ((record, MISS) for record in records)
        return
    remaining = iter(records)
    while group := list(itertools.islice(remaining, VALUES_AT_ONCE)):
        values = values_of([record.key for record in group])
        yield from ((record, values.get(record.key, MISS)) for record in group)


def result_fields(value: object) -> Mapping[str, object]:
    """Name the parts of a result; a result without names is one part, and one that is missing is none."""
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [field.name for field in dataclasses.fields(value)]
        return {name: getattr(value, name) for name in parts if hasattr(value, name)}
    if isinstance(value, tuple) and isinstance(names := getattr(value, "_fields", None), tuple):
        return dict(zip(names, value, strict=False))
    return {} if value is MISS else {"result": value}


class _Columns:
    """Cells by the names of their columns, in the order in which these were met. A gap is None."""

    def __init__(self) -> None:
        self.cells: dict[str, list[Any]] = {}

    def add(self, row: int, named: Mapping[str, Any]) -> None:
        """Add the cells of a row, which comes after all before it."""
        for name, cell in named.items():
            cells = self.cells.get(name)
            if cells is None:
                cells = self.cells[name] = []
            if len(cells) < row:
                cells.extend(itertools.repeat(None, row - len(cells)))
            cells.append(cell)

    def filled(self, rows: int) -> Iterator[tuple[str, list[Any]]]:
        """Give all columns at their full length."""
        for name, cells in self.cells.items():
            cells.extend(itertools.repeat(None, rows - len(cells)))
            yield name, cells


_Named = dict[str, tuple[list[Any], str | None]]


def _named(rows: int, arguments: _Columns, results: _Columns) -> _Named:
    columns: _Named = {name: (cells, None) for name, cells in arguments.filled(rows)}
    for name, cells in results.filled(rows):
        columns[_free(name, "result.", columns)] = cells, None
    return columns


def _free(name: str, prefix: str, taken: Mapping[str, object]) -> str:
    while name in taken:
        name = prefix + name
    return name


def _frame(columns: _Named, rows: int) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise BencherJobError(
            "A table needs pandas, which is not installed. Run: pip install 'bencher_job[table]'"
        ) from error
    index = pandas.RangeIndex(rows)
    made = {name: _series(cells, kind, index) for name, (cells, kind) in columns.items()}
    frame = pandas.DataFrame(dict(enumerate(made.values())), index=index)
    try:
        frame.columns = pandas.Index(list(made), dtype="str")
    except UnicodeEncodeError:  # a name that is no Unicode, such as that of a file in another encoding
        frame.columns = pandas.Index(list(made), dtype=object)
    return frame


def _series(cells: list[Any], kind: str | None, index: pandas.Index) -> pandas.Series:
    """Make a column: numbers, texts and times of the type that pandas has for them, anything else as it is."""
    import numpy
    import pandas
    from pandas.api.types import infer_dtype

    as_they_are = numpy.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):  # one by one, or numpy would look into arrays and lists
        as_they_are[row] = cell
    if kind is None and cells:
        found = infer_dtype(as_they_are, skipna=True)
        if found in _OF_NO_KIND:
            return pandas.Series(as_they_are, index=index, dtype=object)
        kind = _WITH_GAPS.get(found) if any(cell is None for cell in cells) else None
    try:
        return pandas.Series(cells, index=index, dtype=kind or (None if cells else "str"))
    except (ValueError, TypeError, OverflowError):  # a number too large, a text that is no Unicode
        return pandas.Series(as_they_are, index=index, dtype=object)
