"""Print tables, facts and JSON documents."""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from .._errors import warn_caller
from .._record import FunctionInfo, Record, VersionInfo, code_label
from .._stores import Found, Store
from .._text import aligned, arguments_text, counted, moment_text, seconds_text, size_text, visible
from .._views.pickles import Unreadable, read_pickle
from .._views.summaries import common_fields, fields_of, short_text, without_fields
from .command import Misused

if TYPE_CHECKING:
    from rich.console import Console

    from .._explain import Differences, Explanation


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and how its cells are laid out."""

    title: str
    justify: Literal["left", "right"] = "left"
    style: str = ""
    shrinks: bool = False
    """Whether its cells may wrap in a narrow terminal."""
    rank: int = 0
    """When a narrow terminal leaves the column out: the highest first, 0 never."""


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, fitted to the terminal. In a pipe nothing is wrapped or cut."""
    rows = [[visible(cell) for cell in row] for row in rows]
    console = _console()
    if console is not None:
        _draw(console, columns, rows)
        return
    right = [at for at, column in enumerate(columns) if column.justify == "right"]
    for line in aligned([[column.title for column in columns], *rows], right):
        print(line)


def show_heading(text: str) -> None:
    """Print the heading of a table."""
    console = _console()
    if console is None:
        print(visible(text))
    else:
        console.print(visible(text), style="bold", markup=False)


def show_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Print a title, then each fact with its name, on one or more lines."""
    show_heading(title)
    width = max(len(name) for name, _ in facts)
    room = shutil.get_terminal_size().columns - width - 4 if sys.stdout.isatty() else sys.maxsize
    for name, fact in facts:
        lines = [part for line in fact.split("\n") for part in _broken(visible(line), room)]
        for number, line in enumerate(lines):
            print(f"  {'' if number else name:{width}}  {line}".rstrip())


def _broken(line: str, width: int) -> list[str]:
    """Wrap a line between words if it is too long. A path stays whole, so that it can be copied."""
    if len(line) <= width:
        return [line]
    return textwrap.wrap(line, max(width, 20), break_long_words=False, break_on_hyphens=False)


def show_text(thing: object) -> None:
    """Print an object as text, or with its `__rich__` method on a terminal."""
    console = _console()
    if console is None:
        print(thing)
    else:
        console.print(thing)


def _console() -> Console | None:
    """Return a rich console if stdout is a terminal and rich is installed, or None for plain text."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False)


def _draw(console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    columns, rows, left_out = _fitted(columns, rows, console.width)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for column in columns:
        table.add_column(
            column.title,
            justify=column.justify,
            style=column.style or None,
            overflow="fold",
            no_wrap=not column.shrinks,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    if left_out:
        console.print(f"not shown in so narrow a terminal: {', '.join(left_out)}", style="dim", markup=False)


LEAST_WIDTH: Final = 16
"""Minimum width of a column that shrinks, if its cells are that wide."""

LARGEST_WORD: Final = 32
"""Maximum length of a word that such a column doesn't break."""

_GAP: Final = 2


def _fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> tuple[Sequence[Column], Sequence[Sequence[str]], list[str]]:
    """Leave out columns until a table fits. Return its columns and rows, and the titles of the columns left out."""
    natural = [max(map(len, cells)) for cells in zip([each.title for each in columns], *rows, strict=True)]
    words = [
        max((len(word) for cell in cells for word in cell.split()), default=0)
        for cells in zip(*rows, strict=True)
    ]
    least = [
        min(cells, max(LEAST_WIDTH, min(word, LARGEST_WORD))) if each.shrinks else cells
        for each, cells, word in zip(columns, natural, words or natural, strict=True)
    ]
    kept = [*range(len(columns))]
    while sum(least[at] + _GAP for at in kept) > width and any(columns[at].rank for at in kept):
        kept.remove(max(kept, key=lambda at: columns[at].rank))
    left_out = [each.title for at, each in enumerate(columns) if at not in kept]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows], left_out


DOCUMENT_VERSION: Final = 1
"""Increased when a field is removed or changes its meaning, not when one is added."""


def add_json(parser: ArgumentParser) -> None:
    """Add the option `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document, for machines")


def print_document(command: str, **body: Any) -> None:
    """Print the JSON document of a command."""
    document = {"command": command, "version": DOCUMENT_VERSION} | body
    # Indentation makes Python's JSON encoder twenty times slower, and only people need it.
    print(json.dumps(plain(document), allow_nan=False, indent=2 if sys.stdout.isatty() else None))


def plain(value: Any) -> Any:
    """Convert a value to plain JSON data: times to ISO 8601 in UTC, non-finite floats and paths to strings.

    >>> plain({"c": float("inf"), "path": Path("a")})
    {'c': 'Infinity', 'path': 'a'}
    """
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case Path():
            return str(value)
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


def function_fields(function: FunctionInfo, cache: Path) -> dict[str, Any]:
    """Return the fields of a function, with the name of its store."""
    known = {each.name: getattr(function, each.name) for each in fields(function)}
    return {"cache": cache.name} | known | {"versions": [version_fields(each) for each in function.versions]}


def version_fields(version: VersionInfo) -> dict[str, Any]:
    """Return the fields of a version of a function's code, with the name that people see."""
    return {"code": version.label, **version._asdict()}


def record_fields(record: Record, cache: Path) -> dict[str, Any]:
    """Return the fields of a record, with the name of its store."""
    return {"cache": cache.name} | {each.name: getattr(record, each.name) for each in fields(record)}


def running_fields(record: Record, cache: Path) -> dict[str, Any]:
    """Return the fields of a running job, with the name of its store."""
    names = ("key", "function", "arguments", "host", "pid")
    return {"cache": cache.name, "since": record.created} | {name: getattr(record, name) for name in names}


def changes_fields(found: Explanation | Differences) -> dict[str, Any]:
    """Return the fields of changes of code and libraries, for a document."""
    return {
        "code_changed": [
            {"name": change.name, "kind": change.kind, "diff": change.diff} for change in found.code_changed
        ],
        "distributions_changed": [
            {"name": name, "before": before, "now": now} for name, before, now in found.distributions_changed
        ],
    }


LARGEST_EXPANDED: Final = 1 << 28
"""Maximum size in bytes of an entry's decompressed parts, unless the entry itself is larger."""


def described_by_key(store: Store, records: Sequence[Record]) -> dict[str, object]:
    """Describe the results of entries by their keys. Those that can't be described without unpickling are left out."""
    found: dict[str, object] = {}
    for record in records:
        largest = max(record.size, LARGEST_EXPANDED)  # what is not compressed is mapped, and takes no memory
        hit = store.get_many([record.key], mapped=True, largest=largest, counts=False).get(record.key)
        if hit is None:
            known = store.history.examine(record.key)
            if isinstance(known, Found) and known.damage:
                warn_caller(f"The entry {record.key} in {store.folder} is damaged: {known.damage}")
            continue
        with suppress(Unreadable):
            found[record.key] = read_pickle(hit.payload.stream, hit.payload.buffers)
    return found


DIGITS_SHOWN: Final = 10
"""Number of digits of a key that a terminal shows."""

_COLUMNS: Final = {
    "key": Column("key", style="yellow"),
    "cache": Column("cache"),
    "function": Column("function", style="cyan", shrinks=True),
    "began": Column("began", rank=1),
    "took": Column("took", "right", rank=2),
    "size": Column("size", "right", rank=4),
    "tag": Column("tag", shrinks=True, rank=3),
    "code": Column("code", rank=5),
    "arguments": Column("arguments", shrinks=True),
    "result": Column("result", shrinks=True),
    "error": Column("error", shrinks=True, style="red"),
    "where": Column("where", shrinks=True),
}


def show_records(
    found: Sequence[tuple[Path, Record]],
    texts: tuple[str, Mapping[str, str]] | None = None,
    *,
    without: Collection[str] = (),
) -> None:
    """Print records, each with its store's folder, and by key what stands in a last column."""
    last, by_key = texts or ("", {})
    names = [name for name in _COLUMNS if name == last or name not in {"result", "error", "where", *without}]
    if not found:
        return
    if not sys.stdout.isatty():
        _show(found, last, by_key, names)
        return
    groups: dict[tuple[Path, str], list[tuple[Path, Record]]] = {}
    for directory, record in found:
        groups.setdefault((directory, record.function), []).append((directory, record))
    has_several_caches = len({directory for directory, _ in groups}) > 1
    for number, ((directory, function), group) in enumerate(groups.items()):
        if number:
            print()
        tags = {record.tag for _, record in group}
        codes = {code_label(record.fingerprint, record.version) for _, record in group}
        noun = {"error": "failed job", "where": "running job"}.get(last, "entry")
        facts = [function or "(no function)", counted(len(group), noun)]
        if has_several_caches:
            facts.append(f"in {directory.name}")
        if len(tags) == 1 and tags != {""}:
            facts.append(f"tag {min(tags)}")
        if len(codes) == 1 and codes != {""}:
            facts.append(f"code {min(codes)}")
        if same := common_fields([record.arguments for _, record in group]):
            facts.append(arguments_text(same))
        show_heading(", ".join(facts))
        left_out = {"cache", "function"} | ({"tag"} if len(tags) == 1 else set())
        left_out |= {"code"} if len(codes) == 1 else set()
        rows = [
            (directory, replace(record, arguments=without_fields(record.arguments, same)))
            for _, record in group
        ]
        _show(rows, last, by_key, [name for name in names if name not in left_out])


def _show(
    found: Sequence[tuple[Path, Record]], last: str, by_key: Mapping[str, str], names: Sequence[str]
) -> None:
    rows = [_cells(directory, record) | {last: by_key.get(record.key, "")} for directory, record in found]
    show_table([_COLUMNS[name] for name in names], [[row[name] for name in names] for row in rows])


def _cells(directory: Path, record: Record) -> dict[str, str]:
    return {
        "key": record.key[:DIGITS_SHOWN] if sys.stdout.isatty() else record.key,
        "cache": directory.name,
        "function": record.function or "(no function)",
        "code": code_label(record.fingerprint, record.version),
        "began": brief_moment(record.created),
        "took": seconds_text(record.seconds),
        "size": size_text(record.size),
        "tag": record.tag,
        "arguments": arguments_text(record.arguments),
    }


def result_text(described: object) -> str:
    """Format a result in one line: its named parts, floats with six digits, or a short text.

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
    """Format a time to the minute, on a terminal without the current year."""
    text = moment_text(moment)
    if sys.stdout.isatty() and text.startswith(f"{datetime.now(UTC).astimezone():%Y}-"):
        return text[5:]
    return text


def add_consent(parser: ArgumentParser) -> None:
    """Add the options `--yes` and `--dry-run`."""
    consent = parser.add_mutually_exclusive_group()
    consent.add_argument("--yes", "-y", action="store_true", help="do it without asking")
    consent.add_argument(
        "--dry-run", "-n", action="store_true", help="say what would be done, and do nothing"
    )


def is_agreed(arguments: Namespace, question: str) -> bool:
    """Ask for confirmation, unless `--yes` was given.

    Raises:
        Misused: when stdin is not a terminal.
    """
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise Misused(
            "nobody can be asked here, so nothing is done. Add --yes to do it, or --dry-run to see what it would do."
        )
    sys.stdout.flush()
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:  # Ctrl-D doesn't move the cursor to a new line
        print(file=sys.stderr)
    return answer.strip().lower() in {"y", "yes"}
