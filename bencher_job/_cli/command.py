"""A command of `bencher-job`, and its exit codes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """How a command ended, for scripts."""

    DONE = 0
    FOUND = 1
    """The command ran, and the answer is no: nothing matches, something is damaged, a call is a miss."""
    USAGE = 2
    """The command line is invalid; argparse uses the same code."""
    MISSING = 3
    """There is no cache."""
    UNTRUSTED = 4
    """Another user owns the cache or can write to it."""
    FAILED = 5
    """The cache is damaged or of another version, or something can't be read or written."""
    BUSY = 6
    """Another process keeps the cache locked; the command may work later."""
    INTERRUPTED = 130
    """Ctrl-C, with the code that shells use."""


class Misused(Exception):
    """The command line is invalid for a reason that argparse can't detect. The message has the reason."""


class Failed(Exception):
    """A command failed. The message has the reason and the remedy.

    Attributes:
        code: the exit code.
    """

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand of `bencher-job`."""

    name: str
    summary: str
    """What it does, in one line."""
    configure: Callable[[ArgumentParser], None]
    """Adds its options to a parser."""
    run: Callable[[Namespace], int]
    """Runs it and returns the exit code."""
    examples: tuple[str, ...] = ()
    """Examples at the end of its help."""
