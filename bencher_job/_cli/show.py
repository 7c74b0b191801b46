"""The command `show`."""

from __future__ import annotations

import base64
import os
import pprint
import shutil
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

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

LONGEST_RESULT: Final = 1000
"""Maximum length in characters of a result's description."""

_UNKNOWN: Final = object()


def _entry(
    store: Store, directory: Path, record: Record, *, with_value: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return everything known about an entry: for a document, and for people.

    Its result is only unpickled if `with_value` is true.

    Raises:
        Failed: when the entry was removed in between, or its result can't be unpickled.
    """
    key, history = record.key, store.history
    known, infos = history.examine(key), history.infos([key])
    if not infos or not isinstance(known, Found):
        raise Failed(f"the entry {key} was removed just now")
    info, record = infos[0], infos[0].record
    described = {} if known.damage else described_by_key(store, [record])
    media = media_files(directory, record)
    used = datetime.fromtimestamp(info.used, UTC)
    expires = None if info.expires is None else datetime.fromtimestamp(info.expires, UTC)
    document = record_fields(record, directory) | {
        "hits": info.hits,
        "last_used": used,
        "expires": expires,
        "damage": known.damage or None,
        "file": info.file,
        "media_files": [{"path": path, "size": size} for path, size in media.items()],
        "parameters": info.parameters,
        "parts": info.parts,
        "result": fields_of(described[key]) if key in described else None,
    }
    state = f"can't be read here: {known.damage}" if known.may_be_whole else f"damaged: {known.damage}"
    facts = {
        "key": key,
        "cache": os.fspath(directory),
        "tag": record.tag,
        "began": moment_text(record.created),
        "took": seconds_text(record.seconds),
        "size": f"{size_text(record.size)}, {f'in {info.file}' if info.file else 'in the database'}",
        "state": state if known.damage else "whole",
        "hits": f"{info.hits:,}",
        "last used": moment_text(used),
        "expires": "" if expires is None else moment_text(expires),
        "media": "\n".join(f"{size_text(size)}  {path}" for path, size in media.items()),
        "run by": _origin(record),
        "commit": record.commit + (", and files differed from it" if record.commit and record.dirty else ""),
        "version": record.version,
        "code": f"{record.fingerprint}\nthe fingerprint of {', '.join(info.parts) or 'nothing but its name'}"
        if record.fingerprint
        else "",
        "result": short_text(described[key], LONGEST_RESULT) if key in described else "",
    }
    if with_value:
        value = _value(store, key, known.damage)
        document["value"] = _for_json(value)
        width = max(shutil.get_terminal_size((100, 24)).columns - 14, 40)
        facts["result"] = pprint.pformat(value, width=width, sort_dicts=False)
    return document, {name: fact for name, fact in facts.items() if fact}


def _value(store: Store, key: str, damage: str) -> object:
    hit = None if damage else store.get(key)
    if not isinstance(hit, Hit):
        raise Failed(f"the result of {key} can't be shown: {damage or 'it was removed just now'}")
    sys.path.insert(0, os.getcwd())  # the classes of the result may be there
    try:
        return hit.load()
    except Exception as error:  # code that the pickle names can raise anything
        raise Failed(f"the result of {key} can't be unpickled: {type(error).__name__}: {error}") from error


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


def _call_text(function: str, arguments: Mapping[str, Any]) -> str:
    return f"{function or '(no function)'}({arguments_text(arguments)})"


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
    entries: list[tuple[dict[str, Any], dict[str, str]]] = []
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
            _entry(store, chosen.directory, record, with_value=arguments.value) for record in chosen.of_keys()
        )
        if chosen.by_default and (text := hidden_text(chosen.versions, chosen.selection.versions or ())):
            hidden.append(text)
        records, is_cut = chosen.latest(limit)
        rows.extend((chosen.directory, record) for record in records)
        if arguments.results:
            results.update(described_by_key(store, records))
        has_more = has_more or is_cut

    status = look_for(arguments, look)
    if arguments.json:
        records = [_fields(record, directory, arguments.results, results) for directory, record in rows]
        records += [document for document, _ in entries]
        print_document(
            "show", cache_dir=cache_directory(arguments), more=has_more, hidden=hidden, records=records
        )
    else:
        texts = {key: result_text(result) for key, result in results.items()}
        show_records(rows, ("result", texts) if arguments.results else None)
        for number, (document, facts) in enumerate(entries):
            if number or rows:
                print()
            show_facts(_call_text(document["function"], document["arguments"]), [*facts.items()])
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
        if chosen.by_default:
            hidden += len(chosen.failed(of_all_versions=True)) - len(found)
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
                show_heading(_call_text(record.function, record.arguments))
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
