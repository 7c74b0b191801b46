"""The command `versions`: the versions of a function's code, and how two of them differ."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .._keys import StoredFunctionVersion
from .._record import VersionInfo
from .._text import size_text, visible
from .choosing import Chosen, complete_keys_and_functions, look_for
from .command import Command, Exit, Misused
from .output import (
    Column,
    add_json,
    brief_moment,
    changes_fields,
    print_document,
    show_heading,
    show_table,
    version_fields,
)
from .places import add_place, cache_directory


def _configure(parser: ArgumentParser) -> None:
    function = parser.add_argument(
        "function",
        metavar="FUNCTION",
        help="a function, with or without its module; MODULE:FUNCTION imports it, to know its code as it is now",
    )
    function.completer = complete_keys_and_functions  # type: ignore[attr-defined]
    parser.add_argument(
        "old", nargs="?", metavar="OLD", help="show what changed since this version, by its first digits"
    )
    parser.add_argument("new", nargs="?", metavar="NEW", help="until which one (default: the latest)")
    add_json(parser)
    add_place(parser)
    parser.set_defaults(tag=None, since=None, until=None, where=[], code=None, all_versions=False)


def _versions(arguments: Namespace) -> int:
    from .._explain import differences, distributions_of  # slow to import

    arguments.targets = [arguments.function]
    found: list[dict[str, Any]] = []
    compared: list[tuple[Path, VersionInfo, VersionInfo, Any]] = []

    def look(chosen: Chosen) -> None:
        if not chosen.functions:
            raise Misused(f"{arguments.function} is not a function. bencher-job ls lists them.")
        (function,) = chosen.functions
        stored = {(each.fingerprint, each.version): each for each in chosen.store.history.versions(function)}
        infos = sorted(chosen.versions, key=lambda each: each.first_seen)
        if arguments.old is not None:
            old = _named(arguments.old, infos)
            latest = [
                each for each in infos if each[:2] in (chosen.selection.versions or ()) and each.fingerprint
            ]
            if arguments.new is None and not latest:
                raise Misused(f"{function} has no results of its code as it is now. Name two versions.")
            new = latest[0] if arguments.new is None else _named(arguments.new, infos)
            compared.append(
                (chosen.directory, old, new, differences(_stored(old, stored), _stored(new, stored)))
            )
            return
        before: StoredFunctionVersion | None = None
        for info in infos:
            now = stored.get(info[:2])
            changes = None if before is None or now is None else differences(before, now)
            found.append(
                {
                    "cache": chosen.directory.name,
                    "function": function,
                    **version_fields(info),
                    "current": info[:2] in (chosen.selection.versions or ()) and bool(info.fingerprint),
                    "distributions": {} if now is None else distributions_of(now),
                    "changes": [] if changes is None else [*changes.facts()],
                }
            )
            before = now or before

    status = look_for(arguments, look)
    if arguments.old is None:
        if arguments.json:
            print_document("versions", cache_dir=cache_directory(arguments), versions=found)
        elif found:
            _show(found, "now" if ":" in arguments.function else "latest")
    elif arguments.json:
        changes = [
            {
                "cache": directory.name,
                "old": version_fields(old),
                "new": version_fields(new),
                "version_changed": changed.version_changed,
                "parameters_changed": changed.parameters_changed,
                **changes_fields(changed),
            }
            for directory, old, new, changed in compared
        ]
        print_document("versions", cache_dir=cache_directory(arguments), changes=changes)
    else:
        for _, old, new, changed in compared:
            show_heading(f"{old.label} -> {new.label}")
            for fact in changed.facts():
                print(f"  {visible(fact)}")
            for change in changed.code_changed:
                if change.diff:
                    print()
                    print("\n".join(map(visible, change.diff.splitlines())))
    return status if found or compared else max(status, Exit.FOUND)


def _named(name: str, known: Sequence[VersionInfo]) -> VersionInfo:
    """Return the version that the first digits name.

    Raises:
        Misused: when none is called so, or several.
    """
    found = [each for each in known if each.is_called(name)]
    if len(found) != 1:
        listed = ", ".join(each.label for each in known if each.label) or "none"
        raise Misused(
            f"{name} means {'several versions' if found else 'no version'} of the code. Name one of: {listed}."
        )
    return found[0]


def _stored(info: VersionInfo, stored: dict[Any, StoredFunctionVersion]) -> StoredFunctionVersion:
    """Return the code of a version.

    Raises:
        Misused: when it can't be read.
    """
    if info[:2] not in stored:
        raise Misused(f"the code of {info.label} is damaged. bencher-job verify tells more.")
    return stored[info[:2]]


DIGITS_OF_COMMITS: Final = 10


def _show(found: Sequence[dict[str, Any]], mark: str) -> None:
    columns = [
        Column("code", style="yellow"),
        Column(""),
        Column("entries", "right"),
        Column("size", "right", rank=4),
        Column("first seen", rank=1),
        Column("last used", rank=3),
        Column("commit", rank=2),
        Column("since the one before", shrinks=True),
    ]
    rows = [
        [
            each["code"] or "(key given)",
            mark if each["current"] else "",
            f"{each['entries']:,}",
            size_text(each["size"]),
            brief_moment(each["first_seen"]),
            brief_moment(each["last_used"]),
            each["commit"][:DIGITS_OF_COMMITS],
            "; ".join(each["changes"]),
        ]
        for each in found
    ]
    show_table(columns, rows)


VERSIONS: Final = Command(
    "versions",
    "list the versions of a function's code that have entries, or show what changed between two",
    _configure,
    _versions,
    ("bencher-job versions study.score", "bencher-job versions study.score 3f9a2c 81b04e"),
)
