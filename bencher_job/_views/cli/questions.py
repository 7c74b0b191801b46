"""Knows how somebody is asked before anything is removed."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from .command import Misused

__all__ = ["add_consent", "is_agreed"]


def add_consent(parser: ArgumentParser) -> None:
    """Add the options that answer the question beforehand."""
    consent = parser.add_mutually_exclusive_group()
    consent.add_argument("--yes", "-y", action="store_true", help="do it without asking")
    consent.add_argument(
        "--dry-run", "-n", action="store_true", help="say what would be done, and do nothing"
    )


def is_agreed(arguments: Namespace, question: str) -> bool:
    """Ask whether something shall be done, unless the options say so.

    Raises:
        Misused: when nobody can be asked.
    """
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise Misused(
            "nobody can be asked here, so nothing is done. Add --yes to do it, or --dry-run to see what it would do."
        )
    sys.stdout.flush()
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:  # Ctrl-D leaves the cursor where it is
        print(file=sys.stderr)
    return answer.strip().lower() in {"y", "yes"}
