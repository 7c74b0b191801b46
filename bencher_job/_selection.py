"""Knows which entries somebody means: by function, tag, time and argument."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from ._record import Record, short_form

__all__ = ["EVERYTHING", "Selection"]

_ABSENT: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What an entry must be to be chosen; what is None or empty, all entries are.

    Raises:
        TypeError: when a filter is of a type that can't be compared.
        ValueError: when no entry could be chosen.

    >>> recent = Selection(tag="nightly", since=timedelta(days=7), where={"model": "svm", "c": lambda c: c > 1})
    >>> recent.matches(Record(key="k", function="f", created=datetime.now(UTC), tag="weekly"))
    False
    """

    function: str | None = None
    """Module and qualified name, as records show it."""
    tag: str | None = None
    """The tag; `""` chooses what has none."""
    since: datetime | timedelta | None = None
    """When a run began at the earliest. A timedelta counts back from now, a naive datetime is local time. Kept as a
    moment in UTC."""
    until: datetime | timedelta | None = None
    """The time before which a run began; given as `since` is."""
    where: Mapping[str, object] = field(default_factory=dict)
    """What arguments must be, by name. A function is asked with the argument as the record shows it; anything else must
    look the same there, so `1`, `1.0` and `True` differ. An entry without the argument is not chosen."""

    def __post_init__(self) -> None:
        for name in ("function", "tag"):
            if not isinstance(given := getattr(self, name), str | None):
                raise TypeError(f"{name}={given!r} is no text. Give it as records show it.")
        now = datetime.now(UTC)
        for name in ("since", "until"):
            object.__setattr__(self, name, _moment(name, getattr(self, name), now))
        since, until = self._bounds()
        if since is not None and until is not None and since >= until:
            raise ValueError(
                f"since={since} is not before until={until}, so nothing would be chosen. Swap them."
            )
        object.__setattr__(self, "where", MappingProxyType(_checked(self.where)))

    @staticmethod
    def parse_where(*texts: str) -> dict[str, object]:
        """Read filters written as `name=value`, as on a command line, for `where`.

        A value means every argument that is written so: `1` the number and the text, `1e-3` also 0.001, `[1,2]` also
        `[1, 2]`. Numbers of different types are the same here, `1` and `1.0`, but not `True`.

        Raises:
            ValueError: when a text is no filter, or two are for the same argument.

        >>> where = Selection.parse_where("c=0.1", "model=svm")
        >>> Selection(where=where).where
        mappingproxy({'c': written('0.1'), 'model': written('svm')})
        """
        where: dict[str, object] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            name = name.strip()
            if not equals or not name.isidentifier() or value.startswith("="):
                raise ValueError(f"{text!r} is no filter. Write name=value, as in c=0.1.")
            if name in where:
                raise ValueError(
                    f"There are two filters for {name}, and an argument has one value. Give one."
                )
            where[name] = _Written(value.strip())
        return where

    def condition(self) -> tuple[str, tuple[str | float, ...]]:
        """Give what SQL can ask, an expression on `Cache.function`, `tag` and `created`, and its values.

        >>> Selection(tag="nightly").condition()
        ('tag = ?', ('nightly',))
        """
        since, until = self._bounds()
        parts: list[str] = []
        values: list[str | float] = []
        for part, value in (
            ("Cache.function = ?", self.function),
            ("tag = ?", self.tag or None),
            ("created >= ?", None if since is None else since.timestamp()),
            ("created < ?", None if until is None else until.timestamp()),
        ):
            if value is not None:
                parts.append(part)
                values.append(value)
        if self.tag == "":
            parts.append("coalesce(tag, '') = ''")
        return " AND ".join(parts) or "1 = 1", tuple(values)

    def matches(self, record: Record) -> bool:
        """Whether an entry is chosen: all filters hold, those of `condition` too.

        Raises:
            Exception: what a function in `where` raises, with a note that names the argument and the entry.
        """
        since, until = self._bounds()
        return (
            self.function in {None, record.function}
            and self.tag in {None, record.tag}
            and (since is None or record.created >= since)
            and (until is None or record.created < until)
            and all(_holds(wanted, name, record) for name, wanted in self.where.items())
        )

    def _bounds(self) -> tuple[datetime | None, datetime | None]:
        return self.since, self.until  # type: ignore[return-value]  # they became moments when they were given


class _Written(NamedTuple):
    """An argument's value as somebody types it."""

    text: str

    def __call__(self, shown: object) -> bool:
        if self.text in {str(shown), repr(shown)}:
            return True
        try:
            meant = ast.literal_eval(self.text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # it is a text and nothing else
            return False
        if _is_number(meant) and _is_number(shown):
            return bool(meant == shown)
        return _look_same(short_form(meant), shown)

    def __repr__(self) -> str:
        return f"written({self.text!r})"


def _moment(name: str, given: object, now: datetime) -> datetime | None:
    if given is None:
        return None
    if isinstance(given, timedelta):
        if given < timedelta(0):
            raise ValueError(f"{name}={given!r} lies in the future. Give how long ago, as timedelta(days=7).")
        try:
            return now - given
        except OverflowError:
            raise ValueError(f"{name}={given!r} lies before all time. Leave it out.") from None
    if isinstance(given, datetime):
        try:
            return given.astimezone(UTC)
        except (OverflowError, OSError, ValueError):
            raise ValueError(f"{name}={given!r} lies outside of all time. Leave it out.") from None
    raise TypeError(
        f"{name}={given!r} is neither a datetime nor a timedelta. Give datetime.fromisoformat('2026-01-31'), or "
        "timedelta(days=7) for a week ago."
    )


def _checked(where: object) -> dict[str, object]:
    if not isinstance(where, Mapping):
        raise TypeError(
            f"where={where!r} is no mapping. Give what arguments must be by name, as {{'c': 0.1}}."
        )
    for name, wanted in where.items():
        if not isinstance(name, str):
            raise TypeError(f"where has the key {name!r}, which is no name of an argument. Give a text.")
        if isinstance(wanted, type):
            raise TypeError(
                f"where[{name!r}] is the class {wanted.__qualname__}. Give a value, or a function that says whether "
                "an argument is wanted."
            )
    return {name: wanted if callable(wanted) else short_form(wanted) for name, wanted in where.items()}


def _holds(wanted: object | Callable[[Any], object], name: str, record: Record) -> bool:
    shown = record.arguments.get(name, _ABSENT)
    if shown is _ABSENT:
        return False
    if not callable(wanted):
        return _look_same(wanted, shown)
    try:
        return bool(wanted(shown))
    except Exception as error:
        error.add_note(f"where[{name!r}] was asked for {shown!r}, of {record}")
        raise


def _is_number(value: object) -> bool:
    return type(value) in {int, float}


def _look_same(wanted: object, shown: object) -> bool:
    """Whether two values of records are the same; NaN is NaN."""
    return type(wanted) is type(shown) and (wanted == shown or (wanted != wanted and shown != shown))  # noqa: PLR0124


EVERYTHING: Final = Selection()
"""Chooses all entries."""
