"""Knows what all processes with one store share without asking its database: whether memory is out of date.

    generation | puts          two numbers in a file that each process maps

The generation is odd while entries are replaced or removed, and greater afterwards. A process that is killed in between
leaves it odd, and then everybody asks the disk until the next change makes it even. The other number is a new one
after each commit.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .._forks import renew_after_fork

__all__ = ["Generation"]

SIZE: Final = 16

PATIENCE: Final = 60.0
"""Seconds for which a change waits for those of other processes."""

_log = logging.getLogger(__name__)
_CLOSED: Final = memoryview(b"\1" + bytes(SIZE - 1)).cast("Q")
"""Stands for a generation that is not mapped: an odd number."""


class Generation:
    """Numbers that all processes with one store share.

    The file appears with all its bytes and is never made shorter, so that no process finds its map without a file
    behind it. One that somebody else has cut off is replaced by another one.

    Attributes:
        number: the generation, and the number of the last commit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.number: memoryview = _CLOSED
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew, and count commits from a number that no other process has had."""
        self._lock = threading.RLock()
        self._commits = itertools.count(int.from_bytes(os.urandom(7), "little"))

    def open(self, *, writable: bool = True) -> None:
        """Map the file, made if it isn't there. Where it can't be written memory is trusted only if it is there.

        Raises:
            OSError: when it can't be made or mapped.
        """
        if not writable:
            self._open_read_only()
            return
        with self._lock:
            if self.number is not _CLOSED:
                return
            while self.number is _CLOSED:
                try:
                    descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
                except FileNotFoundError:
                    self._make(replace=False)
                    continue
                try:
                    if os.fstat(descriptor).st_size < SIZE:
                        self._make(replace=True)
                        continue
                    self.number = memoryview(mmap.mmap(descriptor, SIZE)).cast("Q")
                finally:
                    os.close(descriptor)

    def _open_read_only(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _log.info("%s can't be read, so nothing is kept in memory: %s", self._path, error)
            return
        try:
            if os.fstat(descriptor).st_size >= SIZE:
                self.number = memoryview(mmap.mmap(descriptor, SIZE, access=mmap.ACCESS_READ)).cast("Q")
        finally:
            os.close(descriptor)

    def _make(self, *, replace: bool) -> None:
        """Put a new file in place.

        It is written and not only made long: a hole is filled at the first look, which kills on a full disk.
        """
        new = f"{self._path}.{os.urandom(8).hex()}"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # A number that no other file in this place has had.
            number = (time.time_ns() & ~1).to_bytes(8, sys.byteorder)
            os.pwrite(descriptor, number + bytes(SIZE - 8), 0)
            if replace:
                os.rename(new, self._path)
            else:
                os.link(new, self._path)
        except FileExistsError:  # another process was quicker
            pass
        finally:
            os.close(descriptor)
            Path(new).unlink(missing_ok=True)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep every process from trusting its memory while entries are replaced or removed, and tell it after.

        It is taken before the database's own write lock, never inside it.

        Raises:
            OSError: when others have been changing entries for a minute.
        """
        self.open()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _lock(descriptor)
            with self._lock:
                self.open()
                number = self.number
                number[0] |= 1
                try:
                    yield
                finally:
                    number[0] += 1
        finally:
            os.close(descriptor)

    def committed(self) -> None:
        """Tell everybody that there are new entries: the second number becomes one that it never was."""
        with self._lock:
            if self.number is not _CLOSED:
                self.number[1] = next(self._commits)

    def close(self) -> None:
        """Unmap the file."""
        with self._lock:
            self.number = _CLOSED  # the map goes with its last view


def _lock(descriptor: int) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise TimeoutError(f"others have been changing entries for {PATIENCE:.0f} seconds") from None
            time.sleep(0.001)
        else:
            return
