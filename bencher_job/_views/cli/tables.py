"""Knows how a table is shown: by rich on a terminal, as aligned text in a pipe or without rich."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..._words import visible

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Column", "show_facts", "show_heading", "show_table", "show_text"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, and how its cells stand."""

    title: str
    justify: Literal["left", "right"] = "left"
    style: str = ""
    shrinks: bool = False
    """Whether its cells may be broken into lines where a terminal is narrow."""


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, in as many columns of a terminal as there are; in a pipe nothing is broken or cut."""
    rows = [[visible(cell) for cell in row] for row in rows]
    console = _console()
    if console is None:
        _align(columns, rows)
    else:
        _draw(console, columns, rows)


def show_heading(text: str) -> None:
    """Print what stands above a table."""
    console = _console()
    if console is None:
        print(visible(text))
    else:
        console.print(visible(text), style="bold", markup=False)


def show_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Print what is known of one thing: a title, then a line or more for each fact, behind its name."""
    show_heading(title)
    width = max(len(name) for name, _ in facts)
    room = shutil.get_terminal_size().columns - width - 4 if sys.stdout.isatty() else sys.maxsize
    for name, fact in facts:
        lines = [part for line in fact.split("\n") for part in _broken(visible(line), room)]
        for number, line in enumerate(lines):
            print(f"  {'' if number else name:{width}}  {line}".rstrip())


def _broken(line: str, width: int) -> list[str]:
    """Break a line between words where it is too long; a path stays whole, to be copied."""
    if len(line) <= width:
        return [line]
    return textwrap.wrap(line, max(width, 20), break_long_words=False, break_on_hyphens=False)


def show_text(thing: object) -> None:
    """Print a thing as its text; on a terminal as it says that rich shall draw it."""
    console = _console()
    if console is None:
        print(thing)
    else:
        console.print(thing)


def _console() -> Console | None:
    """Give what draws on a terminal, if rich is there; None where all is plain text."""
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

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
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


def _align(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = (
            cell.rjust(width) if column.justify == "right" else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        print("  ".join(cells).rstrip())
