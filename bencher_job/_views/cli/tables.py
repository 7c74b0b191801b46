"""Knows how a table is shown: by rich on a terminal, as aligned text in a pipe or without rich."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Column", "show_table"]


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
    rows = [[_plain(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        try:
            _draw(columns, rows)
        except ImportError:
            pass
        else:
            return
    _align(columns, rows)


def _plain(cell: str) -> str:
    """Write what would move the cursor, or is no Unicode, as an escape."""
    return "".join(
        character
        if character.isprintable() and unicodedata.category(character) != "Cs"
        else character.encode("unicode_escape").decode()
        for character in cell
    )


def _draw(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
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
    Console(highlight=False).print(table)


def _align(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = (
            cell.rjust(width) if column.justify == "right" else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        print("  ".join(cells).rstrip())
