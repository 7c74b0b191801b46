"""A counter of changes in a file that all processes with a store share.

    generation      the file: its size is the counter, and its first bytes are another number after each commit

The size is odd while entries are replaced or removed, and greater afterwards. A process that is killed in between
leaves it odd; then memory is not trusted until the next change makes it even.

    a reader    reads the size, and trusts it for a moment
    a writer    makes the size odd, waits for that moment, changes entries, makes the size even

So a hit sees every change that ended before the hit began, and needs no system call soon after another hit. A number
in a memory map would never need one, but truncating the file would kill the processes that read the map.
"""

from __future__ import annotations

import fcntl
import io
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from .._processes import renew_after_fork
from .base import SURE_FOR

SIZE: Final = 16
"""Size in bytes with which a file begins. One that is smaller was cut off, and is not trusted until the next change."""

CLOSED: Final = -1
"""The counter of a file that is not open: an odd number."""

PATIENCE: Final = 60.0
"""Seconds that a change waits by default for the changes of other processes."""

_PUTS_SIZE: Final = 8

T = TypeVar("T")

_SAFELY: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How the file is opened: a link would have a file elsewhere changed, and a pipe would have us wait."""

_log = logging.getLogger(__name__)


def _closed() -> int:
    return CLOSED


class ChangeCounter:
    """The counter of one store.

    Attributes:
        look: returns the counter. It is another function whenever the file may be another one.
    """

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self._path = path
        self._patience = patience
        self._file: io.FileIO | None = None
        self.look: Callable[[], int] = _closed
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make a new lock in a forked child, and count commits from a random number."""
        self._lock = threading.RLock()
        self._commits = itertools.count(int.from_bytes(os.urandom(_PUTS_SIZE - 1), "little"))

    def open(self, *, writable: bool = True) -> None:
        """Open the file, made if it isn't there. Where it can't be written memory is trusted only if it is there.

        Raises:
            OSError: when it can't be made or opened.
        """
        with self._lock:
            if self._file is not None:
                return
            if writable:
                descriptor = self._descriptor()
            else:
                try:
                    descriptor = os.open(self._path, os.O_RDONLY | _SAFELY)
                except OSError as error:
                    _log.info("%s can't be read, so nothing is kept in memory: %s", self._path, error)
                    return
            file = io.FileIO(descriptor, closefd=False)  # closed when nobody can be asking it any more
            weakref.finalize(file, os.close, descriptor).atexit = False
            self._file = file
            self.look = partial(file.seek, 0, os.SEEK_END)

    def _descriptor(self) -> int:
        """Open the file that is in place, or make it.

        Its first bytes are written before it appears: later ones then never fail for want of room.
        """
        while True:
            try:
                return os.open(self._path, os.O_RDWR | _SAFELY)
            except FileNotFoundError:
                new = f"{self._path}.{os.urandom(8).hex()}"
                descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    os.write(descriptor, bytes(SIZE))
                    with suppress(FileExistsError):  # another process was quicker
                        os.link(new, self._path)
                finally:
                    os.close(descriptor)
                    Path(new).unlink(missing_ok=True)

    def is_in_place(self) -> bool:
        """Whether the file that is open still lies where it was opened."""
        file = self._file
        return file is not None and self._is_in_place(file.fileno())

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def changed_since(self, mark: object) -> object:
        """Return None if no process has replaced or removed an entry since a mark was returned, else a new mark."""
        try:
            look = self.look
            number = look()
        except OSError as error:  # then nothing in memory is trusted
            _log.info("%s can't be read: %s", self._path, error)
            return object()
        now = look, number
        return (
            None if now == mark and not number & 1 and number >= SIZE else now
        )  # odd while entries are changed

    def change(self, work: Callable[[], T]) -> T:
        """Do work that replaces or removes entries; until it has ended no process trusts its memory.

        The lock is that of an open file, which a plain `with` closes, even if an interrupt comes. It is taken before
        the database's own write lock, never inside it.

        Raises:
            OSError: when others have been changing entries for so long that patience ends.
        """
        while True:
            with io.FileIO(self._descriptor(), "r+") as file:
                descriptor = file.fileno()
                _lock(descriptor, self._patience)
                if not self._is_in_place(descriptor):
                    continue
                with self._lock:
                    if self._file is None or not os.path.sameopenfile(self._file.fileno(), descriptor):
                        self.close()
                        self.open()
                    size = os.fstat(descriptor).st_size
                    # One that was cut off goes on at a size that nobody has seen.
                    odd = (size if size >= SIZE else SIZE + int.from_bytes(os.urandom(2), "little")) | 1
                    os.ftruncate(descriptor, odd)
                    try:
                        _wait(SURE_FOR)
                        return work()
                    finally:
                        self._end_change(descriptor, odd)

    def _end_change(self, descriptor: int, odd: int) -> None:
        """Make the size even. If that fails the entries are changed all the same, and all ask the disk from then on."""
        try:
            os.ftruncate(descriptor, odd + 1)
        except OSError as error:
            _log.warning("%s can't be written, so nothing is kept in memory: %s", self._path, error)

    @property
    def puts(self) -> int:
        """A number that differs after each commit by any process."""
        file = self._file
        try:
            return 0 if file is None else int.from_bytes(os.pread(file.fileno(), _PUTS_SIZE, 0), "little")
        except OSError:
            return 0

    def committed(self) -> None:
        """Change the number of commits, without waiting for other processes."""
        file = self._file  # which stays open as long as it is asked
        if file is not None:
            try:
                os.pwrite(file.fileno(), next(self._commits).to_bytes(_PUTS_SIZE, "little"), 0)
            except OSError as error:  # the entries are committed all the same
                _log.info("%s can't be written: %s", self._path, error)

    def close(self) -> None:
        """Stop reading the file."""
        with self._lock:
            self._file, self.look = None, _closed


def _wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() <= until:
        time.sleep(seconds)


def _lock(descriptor: int, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError(f"others have been changing entries for {patience:g} seconds") from None
            time.sleep(0.001)
        else:
            return
