"""Knows how to hold single bytes of a file for as long as a process has it open.

The kernel lets go of them when the process dies, however it dies. No process number is compared, so neither a number
that is used again nor another container's numbers mislead anybody.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import threading
from functools import lru_cache
from typing import ClassVar, Final, Protocol

__all__ = ["LockedFile", "open_locked"]


class LockedFile(Protocol):
    """A file, made if it isn't there, whose bytes can be held against everybody else who has opened it."""

    descriptor: int

    def try_lock(self, byte: int) -> bool:
        """Hold a byte until `unlock`, `close` or this process's death; False where somebody else holds it."""

    def unlock(self, byte: int) -> None:
        """Let go of a byte."""

    def is_locked(self, byte: int) -> bool:
        """Whether somebody else holds a byte."""

    def close(self) -> None:
        """Let go of all bytes."""

    def leave(self) -> None:
        """Close what a forked child inherits; the parent goes on holding its bytes."""


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@lru_cache(1024)
def _flock(kind: int, start: int, length: int = 1) -> bytes:
    """Give the C structure that names a lock. A length of 0 means all that follows."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, start, length, 0)


_UNLOCKED: Final = struct.pack("h", fcntl.F_UNLCK)
_SET: Final = getattr(fcntl, "F_OFD_SETLK", 0)
_EXCLUSIVE, _NONE = fcntl.F_WRLCK, fcntl.F_UNLCK


class _OpenFile:
    """Holds bytes by the locks of an open file (`F_OFD_SETLK`), which go with its last descriptor."""

    def __init__(self, path: str) -> None:
        self.descriptor = _open(path)

    def try_lock(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self.descriptor, _SET, _flock(_EXCLUSIVE, byte))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, byte: int) -> None:
        fcntl.fcntl(self.descriptor, _SET, _flock(_NONE, byte))

    def is_locked(self, byte: int) -> bool:
        found = fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, _flock(_EXCLUSIVE, byte))
        return found[:2] != _UNLOCKED

    def close(self) -> None:
        try:
            # A child that was forked behind Python's back may have the file open still.
            fcntl.fcntl(self.descriptor, _SET, _flock(_NONE, 0, 0))
        finally:
            self.leave()

    def leave(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)


class _ProcessFile:
    """Holds bytes by the locks of a process (`lockf`), where the system has no others.

    Closing any descriptor of a file drops all of them, so a process opens a file once and never closes it. Inside the
    process they hold nobody off, so a set of the bytes held does that.
    """

    _descriptors: ClassVar[dict[tuple[int, int], int]] = {}
    _held: ClassVar[set[tuple[int, int]]] = set()
    _guard: ClassVar = threading.RLock()

    def __init__(self, path: str) -> None:
        self._own: set[int] = set()
        with self._guard:
            try:
                status = os.stat(path)
                self.descriptor = self._descriptors[status.st_dev, status.st_ino]
            except (FileNotFoundError, KeyError):
                self.descriptor = _open(path)
                status = os.fstat(self.descriptor)
                self._descriptors[status.st_dev, status.st_ino] = self.descriptor

    def try_lock(self, byte: int) -> bool:
        with self._guard:
            if (self.descriptor, byte) in self._held:
                return byte in self._own
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):
                return False
            self._held.add((self.descriptor, byte))
            self._own.add(byte)
            return True

    def unlock(self, byte: int) -> None:
        with self._guard:
            if byte in self._own:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, byte)
                self._own.discard(byte)
                self._held.discard((self.descriptor, byte))

    def is_locked(self, byte: int) -> bool:
        with self._guard:
            if (self.descriptor, byte) in self._held:
                return byte not in self._own
            locked = not self.try_lock(byte)
            self.unlock(byte)
            return locked

    def close(self) -> None:
        for byte in list(self._own):
            self.unlock(byte)

    def leave(self) -> None:
        """Forget the descriptor, which `forget_parent` closes. The child has none of the locks."""
        self.descriptor = -1
        self._own.clear()

    @classmethod
    def forget_parent(cls) -> None:
        """Close in a forked child what its parent had open."""
        for descriptor in cls._descriptors.values():
            os.close(descriptor)
        cls._descriptors.clear()
        cls._held.clear()
        cls._guard = threading.RLock()


os.register_at_fork(after_in_child=_ProcessFile.forget_parent)

_KIND: type[_OpenFile | _ProcessFile] = _OpenFile if sys.platform == "linux" else _ProcessFile


def open_locked(path: str) -> LockedFile:
    """Open a file, made if it isn't there, so that bytes of it can be held.

    Raises:
        OSError: when it can't be opened or made.
    """
    return _KIND(path)
