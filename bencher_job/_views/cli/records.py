"""Knows how many records are shown: as one table in a pipe, by function on a terminal, where there is less room."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ..._record import Record
from ..._words import counted, moment_text, seconds_text, size_text
from ..values import fields_of, short_text
from .tables import Column, show_heading, show_table

__all__ = ["arguments_text", "brief_moment", "result_text", "show_records"]

DIGITS_SHOWN: Final = 10
"""How many digits of a key a terminal shows."""

_COLUMNS: Final = {
    "key": Column("key", style="yellow"),
    "cache": Column("cache"),
    "function": Column("function", style="cyan", shrinks=True),
    "begun": Column("begun"),
    "took": Column("took", "right"),
    "size": Column("size", "right"),
    "tag": Column("tag", shrinks=True),
    "arguments": Column("arguments", shrinks=True),
    "result": Column("result", shrinks=True),
}


def show_records(found: Sequence[tuple[Path, Record]], results: Mapping[str, object] | None) -> None:
    """Print records, each of which comes with its store's folder; and what their results say, if that is given."""
    names = [name for name in _COLUMNS if name != "result" or results is not None]
    if not found:
        return
    if not sys.stdout.isatty():
        _show(found, results or {}, names)
        return
    groups: dict[tuple[Path, str], list[tuple[Path, Record]]] = {}
    for directory, record in found:
        groups.setdefault((directory, record.function), []).append((directory, record))
    has_several_caches = len({directory for directory, _ in groups}) > 1
    for number, ((directory, function), group) in enumerate(groups.items()):
        if number:
            print()
        tags = {record.tag for _, record in group}
        facts = [function or "(no function)", counted(len(group), "entry", "entries")]
        if has_several_caches:
            facts.append(f"in {directory.name}")
        if len(tags) == 1 and tags != {""}:
            facts.append(f"tag {min(tags)}")
        show_heading(", ".join(facts))
        left_out = {"cache", "function"} | ({"tag"} if len(tags) == 1 else set())
        _show(group, results or {}, [name for name in names if name not in left_out])


def _show(found: Sequence[tuple[Path, Record]], results: Mapping[str, object], names: Sequence[str]) -> None:
    rows = [
        _cells(directory, record)
        | {"result": result_text(results[record.key]) if record.key in results else ""}
        for directory, record in found
    ]
    show_table([_COLUMNS[name] for name in names], [[row[name] for name in names] for row in rows])


def _cells(directory: Path, record: Record) -> dict[str, str]:
    return {
        "key": record.key[:DIGITS_SHOWN] if sys.stdout.isatty() else record.key,
        "cache": directory.name,
        "function": record.function or "(no function)",
        "begun": brief_moment(record.created),
        "took": seconds_text(record.seconds),
        "size": size_text(record.size),
        "tag": record.tag,
        "arguments": arguments_text(record.arguments),
    }


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Write arguments as in a call."""
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())


def result_text(described: object) -> str:
    """Write a result in a line: its parts, numbers with six digits, or what it is.

    >>> result_text({"accuracy": 1 / 3, "model": "svm"}), result_text([1, 2])
    ("accuracy=0.333333, model='svm'", '[1, 2]')
    """
    parts = fields_of(described)
    if list(parts) == ["result"]:
        return short_text(described)
    return ", ".join(
        f"{name}={part:.6g}" if isinstance(part, float) else f"{name}={part!r}"
        for name, part in parts.items()
    )


def brief_moment(moment: datetime) -> str:
    """Write a time to the minute; on a terminal without the year where it is this one."""
    text = moment_text(moment)
    if sys.stdout.isatty() and text.startswith(f"{datetime.now(UTC).astimezone():%Y}-"):
        return text[5:]
    return text
