"""Knows the command that lists what is in a cache: `ls`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ... import _settings
from ..._record import FunctionInfo
from ..._words import counted, moment_text, seconds_text, size_text
from .command import Command
from .documents import add_json, function_fields, print_document
from .places import add_place, look_at_all
from .tables import Column, show_table

if TYPE_CHECKING:
    from ..._stores.disk import DiskStore

__all__ = ["LS"]

_ORDERS: Final[dict[str, Callable[[FunctionInfo], Any]]] = {
    "name": lambda function: function.name,
    "entries": lambda function: -function.entries,
    "size": lambda function: -function.size,
    "hits": lambda function: -function.hits,
    "saved": lambda function: -function.seconds_saved,
    "used": lambda function: -function.last_used.timestamp(),
}


def _configure_ls(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sort", choices=_ORDERS, default="name", help="by what, the most first (default: name)"
    )
    add_json(parser)
    add_place(parser)


def _ls(arguments: Namespace) -> int:
    found: list[tuple[Path, FunctionInfo]] = []

    def look(store: DiskStore) -> None:
        found.extend((store.directory, function) for function in store.functions())

    status = look_at_all(arguments, look)
    found.sort(key=lambda pair: _ORDERS[arguments.sort](pair[1]))
    if arguments.json:
        functions = [function_fields(function, directory) for directory, function in found]
        print_document("ls", cache_dir=_settings.cache_directory(arguments.cache_dir), functions=functions)
    elif found:
        _show_functions(found)
    elif status == 0:
        print("no entries")
    return status


def _show_functions(found: list[tuple[Path, FunctionInfo]]) -> None:
    several = len({directory for directory, _ in found}) > 1
    columns = [
        Column("function", style="cyan", shrinks=True),
        Column("entries", "right"),
        Column("size", "right"),
        Column("hits", "right"),
        Column("time saved", "right", style="green"),
        Column("last used"),
    ]
    if several:
        columns.insert(0, Column("cache", shrinks=True))
    rows = []
    for directory, function in found:
        row = [
            function.name or "(no function)",
            f"{function.entries:,}",
            size_text(function.size),
            f"{function.hits:,}",
            seconds_text(function.seconds_saved),
            moment_text(function.last_used),
        ]
        rows.append([directory.name, *row] if several else row)
    show_table(columns, rows)
    functions = [function for _, function in found]
    print(
        f"{counted(len(functions), 'function')}, {counted(sum(f.entries for f in functions), 'entry', 'entries')}, "
        f"{size_text(sum(f.size for f in functions))}, {seconds_text(sum(f.seconds_saved for f in functions))} saved"
    )


LS: Final = Command(
    "ls",
    "list the functions: entries, size, hits, time saved, last used",
    _configure_ls,
    _ls,
    ("bencher-job ls --sort size", "bencher-job ls --json | jq '.functions[].name'"),
)
