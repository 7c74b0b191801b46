"""The commands `ls`, `stats` and `du`."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from .._record import FunctionInfo, Record, SharedInfo
from .._stores import Store, footprint_of, shared_figures
from .._text import counted, moment_text, seconds_text, size_text
from .choosing import running_in
from .command import Command
from .output import (
    Column,
    add_json,
    brief_moment,
    function_fields,
    print_document,
    running_fields,
    show_facts,
    show_table,
)
from .places import add_place, cache_directory, look_at_each, stores_of
from .sharing import list_shared

_ORDERS: Final = {
    "name": "",
    "entries": "entries",
    "size": "size",
    "hits": "hits",
    "saved": "seconds_saved",
    "used": "last_used",
}
"""What `--sort` takes, with the field of the functions, which come by their names."""


def _configure_ls(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sort",
        choices=_ORDERS,
        default="name",
        metavar="ORDER",
        help=f"by what, the most first: {', '.join(_ORDERS)} (default: name)",
    )
    parser.add_argument(
        "--shared",
        nargs="?",
        const="",
        metavar="PLACE",
        help="list what is in the shared store: this folder or URL, or $BENCHER_JOB_SHARED, or that of the cache",
    )
    add_json(parser)
    add_place(parser)


def _ls(arguments: Namespace) -> int:
    if arguments.shared is not None:
        return list_shared(arguments)
    found: list[tuple[Path, FunctionInfo]] = []
    running: list[tuple[Path, Record]] = []

    def look(store: Store, directory: Path) -> None:
        found.extend((directory, function) for function in store.functions())
        running.extend((directory, job) for job in running_in(store))

    status = look_at_each(arguments, look)
    if field := _ORDERS[arguments.sort]:
        found.sort(key=lambda pair: getattr(pair[1], field), reverse=True)
    if arguments.json:
        functions = [function_fields(function, directory) for directory, function in found]
        jobs = [running_fields(job, directory) for directory, job in running]
        print_document("ls", cache_dir=cache_directory(arguments), functions=functions, running=jobs)
    elif found:
        _show_functions(found)
    elif status == 0:
        print("no entries")
    if running and not arguments.json:
        since = brief_moment(min(job.created for _, job in running))
        print(f"{counted(len(running), 'job')} running, the first since {since}; show --running lists them")
    return status


def _show_functions(found: list[tuple[Path, FunctionInfo]]) -> None:
    columns = [
        Column("cache"),
        Column("function", style="cyan", shrinks=True),
        Column("entries", "right"),
        Column("failed", "right", style="red"),
        Column("versions", "right", rank=5),
        Column("size", "right", rank=1),
        Column("hits", "right", rank=4),
        Column("time saved", "right", style="green", rank=3),
        Column("last used", rank=2),
    ]
    rows = [
        [
            directory.name,
            function.name or "(no function)",
            f"{function.entries:,}",
            f"{function.failed:,}" if function.failed else "",
            f"{len(function.versions):,}",
            size_text(function.size),
            f"{function.hits:,}",
            seconds_text(function.seconds_saved),
            brief_moment(function.last_used),
        ]
        for directory, function in found
    ]
    functions = [function for _, function in found]
    left_out = {
        "cache": len({directory for directory, _ in found}) == 1,
        "failed": not any(function.failed for function in functions),
        "versions": all(len(function.versions) < 2 for function in functions),
    }
    kept = [at for at, column in enumerate(columns) if not left_out.get(column.title)]
    show_table([columns[at] for at in kept], [[row[at] for at in kept] for row in rows])
    print(
        f"{counted(len(functions), 'function')}, {counted(sum(f.entries for f in functions), 'entry')}, "
        f"{size_text(sum(f.size for f in functions))}, {seconds_text(sum(f.seconds_saved for f in functions))} saved"
    )


def _configure_plain(parser: ArgumentParser) -> None:
    add_json(parser)
    add_place(parser)


def _stats(arguments: Namespace) -> int:
    found: list[dict[str, Any]] = []
    status = look_at_each(arguments, lambda store, directory: found.append(_figures(store, directory)))
    if arguments.json:
        print_document("stats", cache_dir=cache_directory(arguments), caches=found)
        return status
    for number, figures in enumerate(found):
        if number:
            print()
        show_facts(str(figures["directory"]), _facts(figures))
    return status


def _figures(store: Store, directory: Path) -> dict[str, Any]:
    functions, (entries, _, totals) = store.functions(), store.figures()
    asked = totals.hits + totals.misses
    return {
        "cache": directory.name,
        "directory": directory,
        "functions": len(functions),
        "entries": entries,
        "size": sum(function.size for function in functions),
        "hits": totals.hits,
        "misses": totals.misses,
        "hit_rate": totals.hits / asked if asked else None,
        "seconds_saved": totals.seconds_saved,
        "seconds": sum(function.seconds for function in functions),
        "last_used": max((function.last_used for function in functions), default=None),
        "removed": store.history.removed(),
        "shared": [asdict(each) for each in shared_figures(store)],
    }


def _facts(figures: dict[str, Any]) -> list[tuple[str, str]]:
    rate, used, removed = figures["hit_rate"], figures["last_used"], figures["removed"]
    of_asked = "" if rate is None else f" ({rate:.0%})"
    facts = [
        (
            "entries",
            f"{figures['entries']:,} of {counted(figures['functions'], 'function')}",
        ),
        ("size", size_text(figures["size"])),
        ("hits", f"{figures['hits']:,}{of_asked}"),
        ("misses", f"{figures['misses']:,}"),
        ("time saved", seconds_text(figures["seconds_saved"])),
        ("time spent", f"{seconds_text(figures['seconds'])} on the entries that are there"),
        ("last used", "never" if used is None else moment_text(used)),
    ]
    if removed:
        facts.append(("removed", ", ".join(f"{number:,} {reason}" for reason, number in removed.items())))
    return facts + [("shared", str(SharedInfo(**each)).removeprefix("shared ")) for each in figures["shared"]]


def _du(arguments: Namespace) -> int:
    found = [footprint_of(directory) for directory in stores_of(arguments)]
    kinds = ("database", "values", "media", "damaged", "other", "total")
    if arguments.json:
        caches = [
            {"cache": each.directory.name, "directory": each.directory}
            | {kind: getattr(each, kind) for kind in kinds}
            for each in found
        ]
        print_document("du", cache_dir=cache_directory(arguments), caches=caches)
        return 0
    columns = [
        Column("cache", style="cyan", shrinks=True),
        *(Column(kind, "right", rank=rank) for rank, kind in enumerate(kinds[:-1])),
        Column("total", "right", style="bold"),
    ]
    rows = [
        [os.fspath(each.directory.name), *(size_text(getattr(each, kind)) for kind in kinds)]
        for each in found
    ]
    if len(found) > 1:
        rows.append(["total", *(size_text(sum(getattr(each, kind) for each in found)) for kind in kinds)])
    show_table(columns, rows)
    return 0


LS: Final = Command(
    "ls",
    "list the functions: entries, size of results and job files, hits, time saved, last used",
    _configure_ls,
    _ls,
    ("bencher-job ls --sort size", "bencher-job ls --json | jq '.functions[].name'"),
)

STATS: Final = Command(
    "stats",
    "tell the figures of a cache over its life: entries, hits, misses, time saved, what was removed and why",
    _configure_plain,
    _stats,
)

DU: Final = Command(
    "du",
    "tell what a cache takes on the disk: database, large values, media, what was set aside as damaged",
    _configure_plain,
    _du,
)
