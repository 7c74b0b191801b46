"""Questions about many entries: which ones, in which order, and what is known about each.

A store answers them in its own way. `Query.select` is the plain form, and states what the answer is.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, Literal

from ._record import Record, code_label


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryInfo:
    """Everything known about one entry, except its value: its record, and what the store adds to it."""

    record: Record
    hits: int = 0
    used: float
    """When the entry was last stored or answered a job, in seconds since the epoch."""
    expires: float | None = None
    """From when on `gc` and eviction may remove it unless it is used, in seconds since the epoch; None for never."""
    file: str | None = None
    """Path of the file with its bytes in the store's folder; None if it has none of its own."""
    parameters: tuple[str, ...] = ()
    """Names of the parameters that are in the key."""
    parts: tuple[str, ...] = ()
    """Names of the functions, classes and globals whose code or value is in the fingerprint."""


ARGUMENTS: Final = "arguments."
"""Prefix of the columns of arguments, as `arguments.c`."""

REPEAT: Final = ARGUMENTS + "repeat"
"""The column of the number of a repeat. The first repeat of a sweep is a plain call, whose record has none: it is 0."""

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
    """What a cell must be. A number is compared with numbers and a text with texts; `has` finds part of a text."""

    operator: Operator
    value: str | float | None

    def holds(self, cell: object) -> bool:
        """Whether a cell is so."""
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
    """The column by which entries are sorted: numbers, then texts; entries without the cell come last."""

    column: str = "created"
    is_descending: bool = True


def in_order(pairs: Iterable[tuple[object, str]], order: Order) -> list[str]:
    """Return keys in the order of the cells that they are paired with. It takes half as long as in SQLite."""
    numbers: list[tuple[Any, str]] = []
    texts: list[tuple[Any, str]] = []
    gaps: list[str] = []
    for cell, key in pairs:
        if isinstance(cell, int | float) and cell == cell:  # noqa: PLR0124 - not NaN
            numbers.append((cell, key))
        elif isinstance(cell, str):
            texts.append((cell, key))
        else:
            gaps.append(key)
    for part in (numbers, texts):
        if order.is_descending:  # of equal cells the later entry comes first
            part.reverse()
        part.sort(key=itemgetter(0), reverse=order.is_descending)
    found = texts + numbers if order.is_descending else numbers + texts
    return [key for _, key in found] + gaps


LATEST_FIRST: Final = Order()


@dataclass(frozen=True, slots=True)
class Query:
    """The entries of a function that meet all conditions, in an order.

    A column is a field of the record, as `seconds`, or an argument, as `arguments.c`. Conditions on other columns
    select everything.
    """

    function: str
    conditions: tuple[tuple[str, Condition], ...] = ()
    search: str = ""
    """Part of an argument or of the tag, or the beginning of the key."""
    order: Order = LATEST_FIRST
    versions: Collection[tuple[str, str]] | None = None
    """Versions of the code, as in a `Selection`."""

    def matches(self, info: EntryInfo) -> bool:
        """Whether an entry is selected."""
        record, search = info.record, self.search.lower()
        return (
            record.function == self.function
            and (self.versions is None or (record.fingerprint, record.version) in self.versions)
            and all(
                condition.holds(cell_of(info, column))
                for column, condition in self.conditions
                if column in RECORD_COLUMNS or column.startswith(ARGUMENTS)
            )
            and (
                not search
                or search in json.dumps(dict(record.arguments)).lower()
                or search in record.tag.lower()
                or record.key.startswith(search)
            )
        )

    def select(self, infos: Iterable[EntryInfo]) -> list[str]:
        """Return the keys of the selected entries in order."""
        column = self.order.column
        return in_order(
            ((cell_of(info, column), info.record.key) for info in infos if self.matches(info)), self.order
        )


RECORD_COLUMNS: Final = ("created", "seconds", "size", "tag", "code", "hits", "key")
"""The columns that are not arguments."""


def cell_of(info: EntryInfo, column: str) -> Any:
    """Return the cell of an entry in a column; None if there is none.

    >>> from datetime import UTC, datetime
    >>> record = Record(key="k", function="f", created=datetime.now(UTC), arguments={"c": 1})
    >>> info = EntryInfo(record=record, used=0.0)
    >>> cell_of(info, "arguments.c"), cell_of(info, "hits")
    (1, 0)
    """
    if column == REPEAT:
        return info.record.arguments.get("repeat", 0)
    if column.startswith(ARGUMENTS):
        return info.record.arguments.get(column.removeprefix(ARGUMENTS))
    if column == "created":
        return info.record.created.timestamp()
    if column == "code":
        return code_label(info.record.fingerprint, info.record.version)
    return info.hits if column == "hits" else getattr(info.record, column, None)


@dataclass(frozen=True, slots=True)
class ArgumentColumn:
    """An argument of a function's entries."""

    name: str
    rows: int
    """The number of entries that have it."""
    numbers: int
    """The number of entries where it is a number."""
    distinct: int
    """The number of its values."""
