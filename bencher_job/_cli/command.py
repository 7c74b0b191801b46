"""A command of `bencher-job`, and its exit codes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Command", "Exit", "Failed", "Misused"]


class Exit(IntEnum):
    """What a script can tell from how a command ended."""

    DONE = 0
    FOUND = 1
    """It looked, and the answer is no: nothing is chosen, something is damaged, a call is a miss."""
    USAGE = 2
    """The words make no command; argparse's own code."""
    MISSING = 3
    """There is no cache."""
    UNTRUSTED = 4
    """Another user owns the cache or can write to it."""
    FAILED = 5
    """The cache is damaged or of another version, or something can't be read or written."""
    BUSY = 6
    """Another process keeps the cache locked; the same may work later."""
    INTERRUPTED = 130
    """Ctrl-C, as shells tell it."""


class Misused(Exception):
    """The words make no command, for a reason that the parser doesn't know; its message says which."""


class Failed(Exception):
    """A command could not do what it was asked; its message says why, and what helps.

    Attributes:
        code: what the program exits with.
    """

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Command:
    """One word after `bencher-job`."""

    name: str
    summary: str
    """What it does, in a line."""
    configure: Callable[[ArgumentParser], None]
    """Adds its options."""
    run: Callable[[Namespace], int]
    """Does it, and gives the exit code."""
    examples: tuple[str, ...] = ()
    """Lines that its help ends with."""
