"""Knows which stores a command is about, how they are opened, and what is said when one can't be."""

from __future__ import annotations

import os
import sqlite3
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ... import _settings
from ..._errors import BencherJobError, UntrustedCache
from ..._stores import (
    StoreBusy,
    StoreDamaged,
    StoreFailure,
    StoreMissing,
    look_into,
    open_existing,
    stores_in,
)
from .command import Exit

if TYPE_CHECKING:
    from ..._stores.disk import DiskStore

__all__ = ["FAILURES", "add_place", "change_all", "complain", "exit_code_of", "look_at_all", "warn"]

FAILURES: Final = (BencherJobError, OSError, sqlite3.Error)
"""What is told in a sentence, and not as a traceback."""

_CODES: Final = (
    (UntrustedCache, Exit.UNTRUSTED),
    (StoreMissing, Exit.MISSING),
    (StoreBusy, Exit.BUSY),
)


def add_place(parser: ArgumentParser) -> None:
    """Add the options that say which cache."""
    place = parser.add_argument_group("which cache")
    place.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="the cache directory, or one store in it (default: $BENCHER_JOB_CACHE_DIR, else ./cachedir)",
    )
    place.add_argument("--cache-name", metavar="NAME", help="one store in it (default: all)")
    place.add_argument(
        "--trusted", action="store_true", help="use a cache that another user owns or can write to"
    )


def stores_of(arguments: Namespace) -> list[Path]:
    """Give the folders of the stores that are meant.

    Raises:
        StoreFailure: when there are none.
    """
    if arguments.cache_name is not None:
        return [_settings.store_directory(arguments.cache_name, arguments.cache_dir)]
    directory = _settings.cache_directory(arguments.cache_dir)
    found = stores_in(directory)
    if not found:
        raise StoreMissing(f"{directory} holds no cache")
    return found


def look_at_all(arguments: Namespace, work: Callable[[DiskStore], object]) -> int:
    """Do some work with each store, opened to look; what can't be opened is told, and the others are done.

    Raises:
        StoreFailure: when there are none.
    """
    return _each(arguments, look_into, work)


def change_all(arguments: Namespace, work: Callable[[DiskStore], object]) -> int:
    """Do some work with each store, opened to change it; what can't be opened is told, and the others are done.

    Raises:
        StoreFailure: when there are none.
    """
    return _each(arguments, open_existing, work)


def _each(arguments: Namespace, opened: Callable[..., DiskStore], work: Callable[[DiskStore], object]) -> int:
    status = Exit.DONE
    for directory in stores_of(arguments):
        try:
            with closing(opened(directory, trusted=arguments.trusted)) as store:
                work(store)
        except FAILURES as error:
            complain(_told(error, directory))
            status = max(status, exit_code_of(error))
    return status


def exit_code_of(error: Exception) -> Exit:
    """Give the exit code that tells of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)


def _told(error: Exception, directory: Path) -> str:
    """Say what is wrong, where, and what helps."""
    if isinstance(error, StoreBusy):
        return f"{directory} is busy: {error}. Try again when the other process is done."
    if isinstance(error, StoreDamaged):
        return f"{directory} is damaged: {error}. Export what can be read, remove the folder, and import it again."
    if isinstance(error, StoreFailure):
        text = str(error)
        return text if os.fspath(directory) in text else f"{directory} can't be used: {text}"
    return str(error)


def complain(message: str) -> None:
    """Say on stderr why something is not done."""
    print(f"bencher-job: {message}", file=sys.stderr)


def warn(message: str) -> None:
    """Say on stderr what should be known of what is done."""
    print(f"bencher-job: warning: {message}", file=sys.stderr)
