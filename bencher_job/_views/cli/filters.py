"""Knows the options that choose entries: names of functions and keys, tag, arguments and time."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..._selection import Selection
from .command import Misused
from .completers import complete_keys_and_functions, complete_tags
from .times import moment

__all__ = ["add_filters", "add_targets", "selection_of"]


def add_targets(parser: ArgumentParser, *, what: str) -> None:
    """Add the words that name functions and keys."""
    targets = parser.add_argument(
        "targets",
        nargs="*",
        default=(),  # else argparse names it where another one is missing
        metavar="FUNCTION|KEY",
        help=f"{what}: a function, with or without its module, or the first digits of a key",
    )
    targets.completer = complete_keys_and_functions  # type: ignore[attr-defined]


def add_filters(parser: ArgumentParser) -> None:
    """Add the options that choose entries by tag, argument and time."""
    filters = parser.add_argument_group("which entries")
    tag = filters.add_argument("--tag", help="those with this tag; '' for those without")
    tag.completer = complete_tags  # type: ignore[attr-defined]
    filters.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="those with this argument, as records show it; may be given for several arguments",
    )
    for name, which in (("since", "begun then or later"), ("until", "begun before")):
        filters.add_argument(
            f"--{name}", type=moment, metavar="WHEN", help=f"those {which}: 30d or 12h ago, or 2026-01-31"
        )


def selection_of(arguments: Namespace) -> Selection:
    """Give the entries that the options choose.

    Raises:
        Misused: when they choose nothing, or an argument twice.
    """
    try:
        return Selection(
            tag=arguments.tag,
            since=arguments.since,
            until=arguments.until,
            where=Selection.parse_where(*arguments.where),
        )
    except ValueError as error:
        raise Misused(str(error)) from error
