"""Knows the command that shows entries: `show`, many as a table and one with everything that is known of it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..._record import Record
from ..values import fields_of
from .choosing import Chosen, look_for
from .command import Command, Exit, Misused
from .documents import add_json, print_document, record_fields
from .entries import EntryShown, entry_fields, entry_shown, show_entry
from .filters import add_filters, add_targets
from .places import add_place, cache_directory, complain
from .records import show_records
from .results import described_by_key

__all__ = ["SHOW"]

ROWS_SHOWN: Final = 50
"""How many entries of a function a terminal shows, unless it is asked for more."""


def _configure(parser: ArgumentParser) -> None:
    add_targets(parser, what="of what the entries are shown (default: of all)")
    add_filters(parser)
    parser.add_argument(
        "--limit",
        type=_limit,
        metavar="N",
        help=f"the latest N; 0 for all (default: {ROWS_SHOWN} on a terminal, else all)",
    )
    parser.add_argument(
        "--results",
        action="store_true",
        help="also what the results say, as far as that can be told without unpickling them",
    )
    parser.add_argument(
        "--value",
        action="store_true",
        help="also the result of a key; it is unpickled, which imports and runs code that it names",
    )
    add_json(parser)
    add_place(parser)


def _limit(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no number of entries, as 100, or 0 for all")
    return int(text)


def _show(arguments: Namespace) -> int:
    if arguments.value and not arguments.targets:
        raise Misused(
            "--value shows the results of single entries. Name them by the first digits of their keys."
        )
    limit = arguments.limit
    if limit is None:
        limit = ROWS_SHOWN if sys.stdout.isatty() and not arguments.json else 0
    rows: list[tuple[Path, Record]] = []
    entries: list[EntryShown] = []
    results: dict[str, object] = {}
    has_more = False

    def look(chosen: Chosen) -> None:
        nonlocal has_more
        store = chosen.store
        if chosen.functions and arguments.value:
            raise Misused(
                f"--value shows the results of single entries, and {chosen.functions[0]} is a function."
            )
        entries.extend(entry_shown(store, record, with_value=arguments.value) for record in chosen.of_keys())
        records, is_cut = chosen.latest(limit)
        rows.extend((store.directory, record) for record in records)
        if arguments.results:
            results.update(described_by_key(store, records))
        has_more = has_more or is_cut

    status = look_for(arguments, look)
    if arguments.json:
        records = [_fields(record, directory, arguments.results, results) for directory, record in rows]
        records += [entry_fields(entry) for entry in entries]
        print_document("show", cache_dir=cache_directory(arguments), more=has_more, records=records)
    else:
        show_records(rows, results if arguments.results else None)
        for number, entry in enumerate(entries):
            if number or rows:
                print()
            show_entry(entry)
        if has_more:
            complain(f"these are only the latest {limit}. Add --limit 0 for all.")
        if not rows and not entries and status == Exit.DONE:
            print("no entries")
    return status if rows or entries else max(status, Exit.FOUND)


def _fields(
    record: Record, directory: Path, with_result: bool, results: Mapping[str, object]
) -> dict[str, Any]:
    known = record_fields(record, directory)
    if with_result:
        known["result"] = fields_of(results[record.key]) if record.key in results else None
    return known


SHOW: Final = Command(
    "show",
    "show entries: those of a function or of all, or one by its key with everything that is known of it",
    _configure,
    _show,
    (
        "bencher-job show study.score --where c=0.1 --since 7d",
        "bencher-job show study.score --results --json | jq '.records[].result.accuracy'",
        "bencher-job show 3f9a2c01",
    ),
)
