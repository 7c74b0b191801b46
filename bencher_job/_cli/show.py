"""The command `show`."""

from __future__ import annotations

import base64
import os
import pprint
import shutil
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from .._query import EntryInfo
from .._record import FailedJob, Record, hidden_text
from .._stores import Found, Hit, Store, media_files
from .._text import arguments_text, counted, moment_text, seconds_text, size_text, visible
from .._views.summaries import fields_of, short_text
from .choosing import Chosen, add_all_versions, add_filters, add_targets, look_for, report_none
from .command import Command, Exit, Failed, Misused
from .output import (
    add_json,
    described_by_key,
    print_document,
    record_fields,
    result_text,
    running_fields,
    show_facts,
    show_heading,
    show_records,
)
from .places import add_place, cache_directory, complain

__all__ = ["SHOW", "EntryShown", "entry_fields", "entry_shown", "show_entry"]


LONGEST_RESULT: Final = 1000
"""Maximum length in characters of a result's description."""

_UNKNOWN: Final = object()


@dataclass(frozen=True, slots=True)
class EntryShown:
    """Everything known about an entry."""

    directory: Path
    """The folder of its store."""
    info: EntryInfo
    known: Found
    """Whether its bytes are intact, and the damage if they are not."""
    described: object
    """A description of its result, if one can be made without unpickling it."""
    media: Mapping[Path, int]
    """The files that its job wrote, with their sizes in bytes."""
    value: object = _UNKNOWN


def entry_shown(store: Store, directory: Path, record: Record, *, with_value: bool) -> EntryShown:
    """Collect everything known about an entry. Its result is only unpickled if `with_value` is true.

    Raises:
        Failed: when the entry was removed in between, or its result can't be unpickled.
    """
    key, history = record.key, store.history
    known, infos = history.examine(key), history.infos([key])
    if not infos or not isinstance(known, Found):
        raise Failed(f"the entry {key} was removed just now")
    described = {} if known.damage else described_by_key(store, [record])
    return EntryShown(
        directory=directory,
        info=infos[0],
        known=known,
        described=described.get(key, _UNKNOWN),
        media=media_files(directory, record),
        value=_value(store, key, known.damage) if with_value else _UNKNOWN,
    )


def _value(store: Store, key: str, damage: str) -> object:
    hit = None if damage else store.get(key)
    if not isinstance(hit, Hit):
        raise Failed(f"the result of {key} can't be shown: {damage or 'it was removed just now'}")
    sys.path.insert(0, os.getcwd())  # the classes of the result may be there
    try:
        return hit.load()
    except Exception as error:  # code that the pickle names can raise anything
        raise Failed(f"the result of {key} can't be unpickled: {type(error).__name__}: {error}") from error


def entry_fields(entry: EntryShown) -> dict[str, Any]:
    """Return the fields of an entry for a document, including those of its record."""
    info = entry.info
    known = record_fields(info.record, entry.directory) | {
        "hits": info.hits,
        "last_used": datetime.fromtimestamp(info.used, UTC),
        "expires": None if info.expires is None else datetime.fromtimestamp(info.expires, UTC),
        "damage": entry.known.damage or None,
        "file": info.file,
        "media_files": [{"path": path, "size": size} for path, size in entry.media.items()],
        "parameters": info.parameters,
        "parts": info.parts,
        "result": None if entry.described is _UNKNOWN else fields_of(entry.described),
    }
    return known if entry.value is _UNKNOWN else known | {"value": _for_json(entry.value)}


def _for_json(value: object) -> Any:
    """Convert a result to JSON data. A value that JSON lacks becomes an object with its repr."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return {"base64": base64.b64encode(value).decode()}
        case dict() if all(isinstance(name, str) for name in value):
            return {name: _for_json(item) for name, item in value.items()}
        case list() | tuple():
            return [_for_json(item) for item in value]
    return {"repr": repr(value)}


def show_entry(entry: EntryShown) -> None:
    """Print everything known about an entry."""
    record = entry.info.record
    show_facts(f"{record.function or '(no function)'}({arguments_text(record.arguments)})", [*_facts(entry)])


def _facts(entry: EntryShown) -> Iterator[tuple[str, str]]:
    info, record = entry.info, entry.info.record
    yield "key", record.key
    yield "cache", os.fspath(entry.directory)
    if record.tag:
        yield "tag", record.tag
    yield "began", moment_text(record.created)
    yield "took", seconds_text(record.seconds)
    where = "in the database" if info.file is None else f"in {info.file}"
    yield "size", f"{size_text(record.size)}, {where}"
    yield "state", _state(entry.known)
    yield "hits", f"{info.hits:,}"
    yield "last used", moment_text(datetime.fromtimestamp(info.used, UTC))
    if info.expires is not None:
        yield "expires", moment_text(datetime.fromtimestamp(info.expires, UTC))
    if entry.media:
        yield "media", "\n".join(f"{size_text(size)}  {path}" for path, size in entry.media.items())
    yield "run by", _origin(record)
    if record.commit:
        yield "commit", record.commit + (", and files differed from it" if record.dirty else "")
    if record.version:
        yield "version", record.version
    if record.fingerprint:
        yield "code", record.fingerprint
        yield "", f"the fingerprint of {', '.join(info.parts) or 'nothing but its name'}"
    if entry.value is not _UNKNOWN:
        width = shutil.get_terminal_size((100, 24)).columns - 14
        yield "result", pprint.pformat(entry.value, width=max(width, 40), sort_dicts=False)
    elif entry.described is not _UNKNOWN:
        yield "result", short_text(entry.described, LONGEST_RESULT)


def _state(known: Found) -> str:
    if not known.damage:
        return "whole"
    return f"can't be read here: {known.damage}" if known.may_be_whole else f"damaged: {known.damage}"


def _origin(record: Record) -> str:
    process = f"process {record.pid} on {record.host or 'an unknown host'} ({record.executor})"
    made_with = [f"Python {record.python}"] if record.python else []
    made_with += [f"bencher_job {record.library}"] if record.library else []
    return ", ".join([process, *made_with, *([record.platform] if record.platform else [])])


ROWS_SHOWN: Final = 50
"""Default number of entries of a function that a terminal shows."""


def _configure(parser: ArgumentParser) -> None:
    add_targets(parser, what="of what the entries are shown (default: of all)")
    add_filters(parser)
    add_all_versions(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--failed", action="store_true", help="failed jobs instead of entries; of a key with traceback"
    )
    instead.add_argument("--running", action="store_true", help="jobs that run now instead of entries")
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
        raise ArgumentTypeError(f"{text!r} is not a number of entries. Write 100, or 0 for all.")
    return int(text)


def _show(arguments: Namespace) -> int:
    if arguments.value and not arguments.targets:
        raise Misused(
            "--value shows the results of single entries. Name them by the first digits of their keys."
        )
    if arguments.failed or arguments.running:
        return _show_jobs(arguments)
    limit = arguments.limit
    if limit is None:
        limit = ROWS_SHOWN if sys.stdout.isatty() and not arguments.json else 0
    rows: list[tuple[Path, Record]] = []
    entries: list[EntryShown] = []
    results: dict[str, object] = {}
    hidden: list[str] = []
    has_more = False

    def look(chosen: Chosen) -> None:
        nonlocal has_more
        store = chosen.store
        if chosen.functions and arguments.value:
            raise Misused(
                f"--value shows the results of single entries, and {chosen.functions[0]} is a function."
            )
        entries.extend(
            entry_shown(store, chosen.directory, record, with_value=arguments.value)
            for record in chosen.of_keys()
        )
        versions = chosen.versions
        if versions.is_default and (text := hidden_text(versions.known, versions.chosen or ())):
            hidden.append(text)
        records, is_cut = chosen.latest(limit)
        rows.extend((chosen.directory, record) for record in records)
        if arguments.results:
            results.update(described_by_key(store, records))
        has_more = has_more or is_cut

    status = look_for(arguments, look)
    if arguments.json:
        records = [_fields(record, directory, arguments.results, results) for directory, record in rows]
        records += [entry_fields(entry) for entry in entries]
        print_document(
            "show", cache_dir=cache_directory(arguments), more=has_more, hidden=hidden, records=records
        )
    else:
        texts = {key: result_text(result) for key, result in results.items()}
        show_records(rows, ("result", texts) if arguments.results else None)
        for number, entry in enumerate(entries):
            if number or rows:
                print()
            show_entry(entry)
        if has_more:
            complain(f"these are only the latest {limit}. Add --limit 0 for all.")
        for text in hidden:
            complain(f"{text}. Add --all-versions for them.")
        if not rows and not entries and status == Exit.DONE:
            report_none(arguments)
    return status if rows or entries else max(status, Exit.FOUND)


def _show_jobs(arguments: Namespace) -> int:
    """Show failed or running jobs."""
    rows: list[tuple[Path, Record]] = []
    failed: dict[str, FailedJob] = {}
    keys: list[str] = []
    hidden = 0

    def look(chosen: Chosen) -> None:
        nonlocal hidden
        keys.extend(chosen.keys)
        if arguments.running:
            rows.extend((chosen.directory, record) for record in chosen.running())
            return
        found = chosen.failed()
        everything = replace(chosen, selection=replace(chosen.selection, versions=None)).failed()
        hidden += (len(everything) - len(found)) if chosen.versions.is_default else 0
        failed.update((each.record.key, each) for each in found)
        rows.extend((chosen.directory, each.record) for each in found)

    status = look_for(arguments, look)
    rows = rows[-arguments.limit :] if arguments.limit else rows
    if arguments.json:
        fields_of_job = running_fields if arguments.running else record_fields
        records = [fields_of_job(record, directory) for directory, record in rows]
        for fields in records if arguments.failed else ():
            job = failed[fields["key"]]
            fields |= {"error": job.error, "traceback": job.traceback}
        print_document("show", cache_dir=cache_directory(arguments), hidden=hidden, records=records)
    elif arguments.running:
        where = {record.key: f"{record.host}, process {record.pid}" for _, record in rows}
        show_records(rows, ("where", where), without=("took", "size", "tag", "code"))
    else:
        errors = {key: job.error for key, job in failed.items()}
        show_records([row for row in rows if row[1].key not in keys], ("error", errors), without=("size",))
        for _, record in rows:
            if record.key in keys:
                show_heading(f"{record.function or '(no function)'}({arguments_text(record.arguments)})")
                print("\n".join(map(visible, failed[record.key].traceback.splitlines())))
    if not rows and not arguments.json and status == Exit.DONE:
        print(f"no {'failed' if arguments.failed else 'running'} jobs")
    if hidden and not arguments.json:
        complain(
            f"not shown: {counted(hidden, 'failed job')} of other versions of the code. Add --all-versions."
        )
    return status if rows else max(status, Exit.FOUND)


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
        "bencher-job show study.score --failed",
    ),
)
