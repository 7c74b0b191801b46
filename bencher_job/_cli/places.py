"""Find and open the stores that a command works on."""

from __future__ import annotations

import math
import os
import signal
import socket
import sqlite3
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from .. import _options
from .._errors import BencherJobError, UntrustedCache
from .._stores import (
    Store,
    StoreBusy,
    StoreDamaged,
    StoreFailure,
    StoreMissing,
    look_into,
    open_existing,
    replace_database,
    stores_in,
)
from .._text import visible
from .command import Exit, Failed, Misused

GRACE: Final = 1.0
"""Seconds that a command has for cleaning up after Ctrl-C."""


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """End the process soon after Ctrl-C, whatever it is doing. The database stays intact, as after any kill.

    The system writes the number of a signal to a socket at once. A thread reads it, and ends the process if
    `KeyboardInterrupt` has not done so.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(reading, is_over), daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(before)
        writing.close()  # which ends the thread


def _watch(reading: socket.socket, is_over: threading.Event) -> None:
    with reading:
        while numbers := reading.recv(16):
            if signal.SIGINT in numbers and not is_over.wait(GRACE):
                os._exit(Exit.INTERRUPTED)


FAILURES: Final = (BencherJobError, OSError, sqlite3.Error)
"""Exceptions that are shown as a sentence, not as a traceback."""

PATIENCE: Final = 10.0
"""Default time in seconds that a command waits for a locked store."""

_CODES: Final = (
    (UntrustedCache, Exit.UNTRUSTED),
    (StoreMissing, Exit.MISSING),
    (StoreBusy, Exit.BUSY),
)


def add_place(parser: ArgumentParser) -> None:
    """Add the options that choose the cache."""
    place = parser.add_argument_group("which cache")
    place.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="the cache directory, or one store in it (default: $BENCHER_JOB_CACHE_DIR, else ./cachedir)",
    )
    name = place.add_argument("--cache-name", metavar="NAME", help="one store in it (default: all)")
    name.completer = _complete_names  # type: ignore[attr-defined]
    place.add_argument(
        "--trust",
        action="store_true",
        dest="trusted",
        help="trust all who can write to the cache, or to an archive: use what another user owns or can write to",
    )
    place.add_argument(
        "--wait",
        type=_seconds,
        default=PATIENCE,
        metavar="SECONDS",
        help=f"how long to wait for another process that keeps it locked (default: {PATIENCE:g})",
    )


def _complete_names(parsed_args: Namespace, **_: Any) -> list[str]:
    try:
        return [directory.name for directory in stores_in(cache_directory(parsed_args))]
    except StoreFailure:
        return []


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 86_400:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return seconds


def cache_directory(arguments: Namespace) -> Path:
    """Return the chosen cache directory, which may not exist."""
    return _options.cache_directory(arguments.cache_dir)


def stores_of(arguments: Namespace) -> list[Path]:
    """Return the folders of the chosen stores.

    Raises:
        StoreFailure: when there are none.
    """
    if arguments.cache_name is not None:
        return [_options.store_directory(arguments.cache_name, arguments.cache_dir)]
    directory = cache_directory(arguments)
    found = stores_in(directory)
    if not found:
        raise StoreMissing(f"{directory} holds no cache")
    return found


def one_store_of(arguments: Namespace) -> Path:
    """Return the folder of the only chosen store.

    Raises:
        StoreFailure: when there are none.
        Misused: when there are several.
    """
    found = stores_of(arguments)
    if len(found) > 1:
        names = ", ".join(directory.name for directory in found)
        raise Misused(f"there are {len(found)} caches: {names}. Name one with --cache-name.")
    return found[0]


@contextmanager
def opened(arguments: Namespace, directory: Path, *, changes: bool = False) -> Iterator[Store]:
    """Open a store read-only, or to change it.

    Raises:
        Failed: when it can't be opened, read or written.
    """
    opening = open_existing if changes else look_into
    try:
        with (
            prompt_interrupts(),
            closing(opening(directory, trusted=arguments.trusted, patience=arguments.wait)) as store,
        ):
            yield store
    except BrokenPipeError:
        raise
    except FAILURES as error:
        raise failure_of(error, directory) from error


def look_at_each(
    arguments: Namespace,
    work: Callable[[Store, Path], object],
    *,
    mends: bool = False,
    changes: bool = False,
) -> int:
    """Call `work` with each store and its folder, and return the worst exit code.

    Stores are opened read-only unless `changes` is true. If there are several, one that can't be opened is reported and
    the others are still used. With `mends` a damaged database is replaced by its readable part, and the work is done
    again.

    Raises:
        StoreFailure: when there are none.
        Failed: when none can be opened, read or written.
    """
    failures: list[Failed] = []
    directories = stores_of(arguments)
    for directory in directories:
        try:
            try:
                with opened(arguments, directory, changes=changes) as store:
                    work(store, directory)
            except Failed as failure:
                if not mends or not isinstance(failure.__cause__, StoreDamaged):
                    raise
                with opened(arguments, directory, changes=True) as store:
                    replace_database(store, str(failure.__cause__))
                with opened(arguments, directory, changes=changes) as store:
                    work(store, directory)
        except Failed as failure:
            failures.append(failure)
            if len(failures) == len(directories):  # nothing to show
                raise
            complain(str(failure))
    return max((failure.code for failure in failures), default=Exit.DONE)


def failure_of(error: Exception, directory: Path | None = None) -> Failed:
    """Convert an exception to a `Failed` that has the fact, the place and the remedy."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)
    text = str(error)
    if isinstance(error, UntrustedCache):
        text = f"{error.path} {error.reason}. Add --trust if you trust all who could have written to it."
    elif isinstance(error, StoreMissing):
        text = f"{text}. Give its place with --cache-dir, or BENCHER_JOB_CACHE_DIR."
    elif isinstance(error, StoreBusy):
        text = f"{directory} is busy: {text}. Try again when the other process is done."
    elif isinstance(error, StoreDamaged):
        text = f"{directory} is damaged: {text}. bencher-job verify --repair sets it aside, and keeps what can be read."
    elif isinstance(error, StoreFailure) and os.fspath(directory or "") not in text:
        text = f"{directory} can't be used: {text}"
    return Failed(text, code)


def complain(message: str) -> None:
    """Print an error to stderr."""
    lines = "\n".join(map(visible, message.split("\n")))
    print(f"bencher-job: {lines}", file=sys.stderr)


def warn(message: str) -> None:
    """Print a warning to stderr."""
    complain(f"warning: {message}")
