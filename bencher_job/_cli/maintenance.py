"""The commands `verify`, `clear` and `gc`."""

from __future__ import annotations

import warnings
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._errors import CacheWarning
from .._options import Limits
from .._stores import (
    Store,
    count_expired,
    excess,
    find_orphans,
    remove_expired,
    remove_orphans,
    shrink,
    verify,
)
from .._text import counted, size_text, visible
from .choosing import Chosen, add_filters, add_targets, age, bytes_in, look_for, report_none
from .command import Command, Exit, Misused
from .output import add_consent, add_json, is_agreed, print_document
from .places import add_place, cache_directory, complain, look_at_each, opened

if TYPE_CHECKING:
    from .._stores.verification import Audit, Finding


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--repair",
        action="store_true",
        help="set damaged entries aside, remove what no entry owns, and mend wrong figures",
    )
    add_json(parser)
    add_place(parser)


def _verify(arguments: Namespace) -> int:
    audits: list[Audit] = []

    def check(store: Store, _: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)  # the audit reports all of it
            audits.append(verify(store, repair=arguments.repair))
        if not arguments.json:
            print(audits[-1])

    status = look_at_each(arguments, check, mends=arguments.repair, changes=arguments.repair)
    if arguments.json:
        caches = [_fields(audit) for audit in audits]
        print_document("verify", cache_dir=cache_directory(arguments), caches=caches)
    is_wrong = any(not finding.mended for audit in audits for finding in audit.findings)
    return max(status, Exit.FOUND) if is_wrong else status


def _fields(audit: Audit) -> dict[str, Any]:
    return {
        "cache": audit.directory.name,
        "directory": audit.directory,
        "entries": audit.entries,
        "clean": audit.is_clean,
        "findings": [
            {
                "fault": finding.fault.name.lower(),
                "name": finding.name,
                "detail": finding.detail,
                "mended": finding.mended,
            }
            for finding in audit.findings
        ],
        "under_way": audit.under_way,
        "foreign": audit.foreign,
        "set_aside": audit.set_aside,
        "set_aside_bytes": audit.set_aside_bytes,
    }


VERIFY: Final = Command(
    "verify",
    "read and verify every entry, and that nothing is left over; nothing is unpickled",
    _configure,
    _verify,
    ("bencher-job verify", "bencher-job verify --repair"),
)


def _configure_clear(parser: ArgumentParser) -> None:
    add_targets(parser, what="of what the entries are removed")
    add_filters(parser)
    parser.add_argument(
        "--older-than", type=age, metavar="AGE", help="entries whose run began so long ago: 30d, 12h"
    )
    parser.add_argument("--all", action="store_true", help="all entries")
    parser.add_argument(
        "--stale",
        action="store_true",
        help="entries of all versions of the code but the latest; for MODULE:FUNCTION, but the code as it is now",
    )
    parser.add_argument("--failed", action="store_true", help="failed jobs instead of entries")
    add_consent(parser)
    add_place(parser)


def _clear(arguments: Namespace) -> int:
    _check_choice(arguments)
    keys: dict[Path, list[str]] = {}
    entries: Counter[str] = Counter()
    sizes: Counter[str] = Counter()

    def look(chosen: Chosen) -> None:
        # All or none if the database is damaged.
        records = [each.record for each in chosen.failed()] if arguments.failed else list(chosen.records())
        of_store = keys.setdefault(chosen.directory, [])
        for record in records:
            of_store.append(record.key)
            entries[record.function] += 1
            sizes[record.function] += record.size

    status = look_for(arguments, look, mends=not arguments.dry_run)
    noun = "failed job" if arguments.failed else "entry"
    total = counted(entries.total(), noun)
    if not entries:
        if arguments.failed:
            print("no failed jobs")
        else:
            report_none(arguments)
        return max(status, Exit.FOUND)
    for function in sorted(entries):
        of_function = counted(entries[function], noun)
        size = "" if arguments.failed else f", {size_text(sizes[function])}"
        print(f"{visible(function) or '(no function)'}: {of_function}{size}")
    if not _is_agreed(arguments, total):
        return status if arguments.dry_run else max(status, Exit.FOUND)
    removed = 0
    for directory, of_store in keys.items():
        with opened(arguments, directory, changes=True) as store:
            if arguments.failed:
                still = [each.record.key for each in store.history.failures() if each.record.key in of_store]
                removed += len(still)
                store.remove(still)
            else:
                removed += store.remove(of_store, "cleared")
    print(f"removed {counted(removed, noun)}")
    return status


def _check_choice(arguments: Namespace) -> None:
    """Check that the options say what to clear, and turn an age into the time before which a run started.

    Raises:
        Misused: when they say nothing, or give two times.
    """
    if arguments.older_than is not None:
        if arguments.until is not None:
            raise Misused("--older-than and --until both say before when. Give one.")
        arguments.until = arguments.older_than
    if arguments.stale and arguments.code is not None:
        raise Misused("--stale and --code both say which versions. Give one.")
    given = (arguments.tag, arguments.since, arguments.until, arguments.code)
    is_some = arguments.targets or arguments.where or arguments.all or arguments.stale or arguments.failed
    if not (is_some or any(each is not None for each in given)):
        raise Misused(
            "clear needs to know what: functions, keys, --tag, --where, --older-than, --since, --until, --code, "
            "--stale, --failed, or --all"
        )


def _configure_gc(parser: ArgumentParser) -> None:
    limits = parser.add_argument_group(
        "limits", "the least recently used entries beyond them are removed as well"
    )
    limits.add_argument("--size", type=bytes_in, metavar="SIZE", help="bytes that a store may take, as 10GB")
    limits.add_argument("--entries", type=int, metavar="N", help="number of entries that a store may have")
    limits.add_argument(
        "--unused-for", type=age, metavar="AGE", help="how long an entry may be unused, as 30d"
    )
    add_consent(parser)
    add_place(parser)


def _gc(arguments: Namespace) -> int:
    try:
        limits = Limits(size=arguments.size, entries=arguments.entries, unused_for=arguments.unused_for)
    except ValueError as error:
        raise Misused(str(error)) from error
    wasteful: dict[Path, dict[Finding, int]] = {}
    totals: Counter[str] = Counter()

    def look(store: Store, directory: Path) -> None:
        orphans, expired = find_orphans(store), count_expired(store)
        beyond, size_beyond = excess(store, limits) if limits.is_some else (0, 0)
        for finding, size in orphans.items():
            print(f"{directory.name}/{visible(finding.name)}: {finding.fault.value}, {size_text(size)}")
        if expired:
            print(f"{directory.name}: {counted(expired, 'entry')} whose time is over")
        if beyond:
            print(
                f"{directory.name}: {counted(beyond, 'entry')} of {size_text(size_beyond)} beyond the limits"
            )
        if orphans or expired or beyond:
            wasteful[directory] = orphans
        totals.update(orphans=len(orphans), size=sum(orphans.values()), expired=expired, beyond=beyond)

    status = look_at_each(arguments, look, mends=not arguments.dry_run)
    if not wasteful:
        print("nothing to remove")
        return status
    texts = {
        "orphans": f"{counted(totals['orphans'], 'orphan')} of {size_text(totals['size'])}",
        "expired": counted(totals["expired"], "expired entry"),
        "beyond": f"{counted(totals['beyond'], 'entry')} beyond the limits",
    }
    total = " and ".join(text for what, text in texts.items() if totals[what])
    if not _is_agreed(arguments, total):
        return status if arguments.dry_run else max(status, Exit.FOUND)
    removals = (_remove(arguments, directory, orphans, limits) for directory, orphans in wasteful.items())
    return max(status, *removals)


def _is_agreed(arguments: Namespace, total: str) -> bool:
    """Whether to remove what was found; if not, say so."""
    if arguments.dry_run:
        print(f"would remove {total}")
        return False
    if is_agreed(arguments, f"Remove {total}?"):
        return True
    print("nothing is removed")
    return False


def _remove(arguments: Namespace, directory: Path, orphans: Mapping[Finding, int], limits: Limits) -> int:
    with opened(arguments, directory, changes=True) as store:
        left = [finding for finding in remove_orphans(store, orphans) if not finding.mended]
        expired = remove_expired(store)
        beyond = shrink(store, limits) if limits.is_some else 0
    for finding in left:
        complain(f"{directory / finding.name} can't be removed")
    removed = counted(len(orphans) - len(left), "orphan")
    shrunk = f", and {counted(beyond, 'entry')} beyond the limits" if beyond else ""
    print(f"{directory.name}: removed {removed} and {counted(expired, 'expired entry')}{shrunk}")
    return Exit.FAILED if left else Exit.DONE


CLEAR: Final = Command(
    "clear",
    "remove entries, with their media: by function, key, tag, argument, age or version of the code; it asks first",
    _configure_clear,
    _clear,
    (
        "bencher-job clear study.score --tag nightly",
        "bencher-job clear --older-than 30d --yes",
        "bencher-job clear study.score --stale",
        "bencher-job clear 3f9a2c01 --dry-run",
    ),
)

GC: Final = Command(
    "gc",
    "remove what no entry owns, as killed processes leave it, and entries whose time is over; it asks first",
    _configure_gc,
    _gc,
)
