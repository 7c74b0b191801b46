"""Knows the record of an entry, as people see it and on its way into a store, and the totals of a store."""

from __future__ import annotations

import itertools
import re
import reprlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from . import _html
from ._words import seconds_text, size_text

__all__ = ["Draft", "Origin", "Record", "Records", "Totals", "short_form"]

RECORDS_SHOWN: Final = 20
"""How many records a notebook shows."""

LONGEST_SHORT_FORM: Final = 200
"""Length in characters to which the text of an argument is cut in a record."""

LARGEST_INT_BITS: Final = 600
"""Size in bits up to which a number stands in a record as it is."""

_ADDRESS: Final = r" at 0x[0-9a-f]+"
"""Where an object lies in memory, which says nothing to anybody later."""

_PLAIN: Final = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one entry besides its value."""

    key: str
    """The job key."""
    function: str
    """Module and qualified name of the function."""
    tag: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments by name: plain small values as they are, others as a short text."""
    created: datetime
    """When the function began to run, in UTC."""
    seconds: float = 0.0
    """How long the function ran, in seconds."""
    size: int = 0
    """Size of the entry and its media in bytes."""
    media: str | None = None
    """Name of the run's folder inside the store's media folder, where the job wrote files."""
    executor: str = "SERIAL"
    host: str = ""
    """The machine that ran the function."""
    pid: int = 0
    """The process that ran the function."""
    python: str = ""
    """Version of the Python that ran the function."""
    library: str = ""
    """Version of this library."""
    platform: str = ""
    """System, kernel and processor of the machine that ran the function: `Linux-6.1-x86_64`."""
    commit: str = ""
    """The git commit that the function's file was at; empty where it lies in no repository."""
    dirty: bool | None = None
    """Whether files in that repository differed from the commit; None where git didn't say."""
    fingerprint: str = ""
    """Digest of the function's code, in hexadecimal; empty where the key was given and not made."""
    version: str = ""
    """The version that the function was decorated with, as text."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))

    def __reduce__(self) -> tuple[object, ...]:
        state = {name: getattr(self, name) for name in self.__slots__}
        return _record_of, ({**state, "arguments": dict(self.arguments)},)

    def _repr_html_(self) -> str:
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "arguments"}
        arguments = _html.fact_table({name: short_form(value) for name, value in self.arguments.items()})
        facts = {"function": shown.pop("function"), "arguments": arguments, **shown}
        return _html.fact_table({name: fact for name, fact in facts.items() if fact not in {"", None}})

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.function}({arguments}), {self.seconds:.3g} s on {self.created:%Y-%m-%d %H:%M:%S} UTC"


class Records(Iterator[Record]):
    """Records one after the other; a notebook shows the first of those that are left, which it leaves there."""

    def __init__(self, records: Iterator[Record]) -> None:
        self._records = records
        self._looked_at: deque[Record] = deque()

    def __next__(self) -> Record:
        return self._looked_at.popleft() if self._looked_at else next(self._records)

    def _repr_html_(self) -> str:
        missing = RECORDS_SHOWN + 1 - len(self._looked_at)
        self._looked_at.extend(itertools.islice(self._records, max(0, missing)))
        shown = list(self._looked_at)[:RECORDS_SHOWN]
        rows = [
            (
                record.function,
                ", ".join(f"{name}={short_form(value)!r}" for name, value in record.arguments.items()),
                record.tag,
                f"{record.created:%Y-%m-%d %H:%M:%S}",
                seconds_text(record.seconds),
                size_text(record.size),
            )
            for record in shown
        ]
        parts: list[object] = [
            _html.table(["function", "arguments", "tag", "created, UTC", "time", "size"], rows)
        ]
        if len(self._looked_at) > RECORDS_SHOWN:
            parts.append(f"the first {RECORDS_SHOWN}; there are more")
        return _html.joined(*parts)


def _record_of(state: dict[str, Any]) -> Record:
    return Record(**state)


class Origin(NamedTuple):
    """What many entries have in common: how and where their functions ran, and of which commit they were."""

    executor: str
    host: str
    pid: int
    python: str
    library: str
    platform: str
    commit: str
    dirty: bool | None


_origin_of: Final = attrgetter(*Origin._fields)


class Draft(NamedTuple):
    """What will be a record once its entry is stored, in the form in which a store keeps it.

    Attributes:
        created: when the function began to run, in seconds since 1970.
    """

    key: str
    function: str
    tag: str
    arguments: Mapping[str, Any]
    created: float
    seconds: float
    media: str | None
    origin: Origin

    @classmethod
    def of(cls, record: Record) -> Draft:
        """Take a record apart."""
        return cls(
            record.key,
            record.function,
            record.tag,
            record.arguments,
            record.created.timestamp(),
            record.seconds,
            record.media,
            Origin(*_origin_of(record)),
        )

    def finished(self) -> Record:
        """Make the record, which doesn't know the size of its entry yet."""
        return Record(
            key=self.key,
            function=self.function,
            tag=self.tag,
            arguments=self.arguments,
            created=datetime.fromtimestamp(self.created, UTC),
            seconds=self.seconds,
            media=self.media,
            **self.origin._asdict(),
        )

    def __str__(self) -> str:
        return str(self.finished())


class Totals(NamedTuple):
    """What all processes that ever used a store found in it, as far as they have said so."""

    hits: int
    misses: int
    seconds_saved: float
    """How long the functions of the hits had run, in seconds."""


class _ShortText(reprlib.Repr):
    """Cuts long texts, and tells arrays by their shape, whose own text can take long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST_SHORT_FORM
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 10

    def repr_instance(self, x: object, level: int) -> str:
        shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
        if isinstance(shape, tuple) and shape:
            return f"<{type(x).__name__} {'x'.join(map(str, shape))}{'' if dtype is None else f' {dtype}'}>"
        if callable(x) and (name := getattr(x, "__qualname__", None)):
            return f"<{name}>"
        return super().repr_instance(x, level)


_short_text = _ShortText()


def short_form(value: object) -> Any:
    """Give a value as it stands in a record: plain small values themselves, a short text of anything else.

    >>> short_form(0.5), short_form([1, "a"])
    (0.5, "[1, 'a']")
    """
    if type(value) is int and value.bit_length() > LARGEST_INT_BITS:
        return f"<int of {value.bit_length()} bits>"
    if type(value) in _PLAIN and not (type(value) is str and len(value) > LONGEST_SHORT_FORM):
        return value
    try:
        return re.sub(_ADDRESS, "", _short_text.repr(value))[: 2 * LONGEST_SHORT_FORM]
    except Exception:  # noqa: BLE001 - a foreign class's own text, which is not worth a result
        return f"<{type(value).__qualname__}>"
