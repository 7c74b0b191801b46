"""Knows the command that reads and verifies all of a cache: `verify`."""

from __future__ import annotations

import warnings
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any, Final

from ..._errors import CacheWarning
from ..._stores import verify
from .command import Command, Exit
from .documents import add_json, print_document
from .places import add_place, cache_directory, change_each, look_at_each

if TYPE_CHECKING:
    from ..._stores.audits.findings import Audit
    from ..._stores.disk import DiskStore

__all__ = ["VERIFY"]


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

    def check(store: DiskStore) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)  # an audit tells all of it
            audits.append(verify(store, repair=arguments.repair))
        if not arguments.json:
            print(audits[-1])

    status = change_each(arguments, check) if arguments.repair else look_at_each(arguments, check)
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
