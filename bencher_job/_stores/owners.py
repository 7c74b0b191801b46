"""The processes that compute with a store: each keeps one byte of a file locked as long as it lives."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import sys
import threading
from pathlib import Path
from typing import ClassVar, Protocol

from .._processes import renew_after_fork

__all__ = ["Owners"]


_log = logging.getLogger(__name__)


class Owners:
    """The byte of this process in the file, and whether others still hold theirs.

    The byte's offset is a random number, so no other process ever has the same one, and the file stays empty. Call
    `join` and `is_alive` only where forks are kept away: a child must know, and close, what it inherits.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.path.abspath(path)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Close in a forked child what it inherited: it is another owner, and must not keep its parent's byte."""
        file: LockedFile | None = getattr(self, "_file", None)
        if file is not None:
            file.leave()
        self._lock = threading.Lock()
        self._file: LockedFile | None = None
        self._identity = 0, 0
        self._number = 0

    def __del__(self) -> None:
        self.close()

    @property
    def has_joined(self) -> bool:
        """Whether this process holds a byte."""
        return self._number != 0

    def join(self) -> int:
        """Lock this process's byte, unless it is locked, and give its number.

        Raises:
            OSError: when the file can't be opened or made.
        """
        number = self._number
        if number:
            try:
                status = os.stat(self._path)
                if (
                    status.st_ino,
                    status.st_dev,
                ) == self._identity:  # else it is not where other processes look
                    return number
            except FileNotFoundError:
                pass
        with self._lock:
            if self._number in (0, number):  # else another thread was first
                file = self._open()
                new = int.from_bytes(os.urandom(8), "little") >> 2
                file.try_lock(new)
                self._number = new
            return self._number

    def is_alive(self, number: int) -> bool:
        """Whether the process of a number still holds its byte.

        Raises:
            OSError: when the file can't be opened or made.
        """
        if number == self._number:
            return True
        file = self._file
        if file is None:
            with self._lock:
                file = self._file or self._open()
        return file.is_locked(number)

    def close(self) -> None:
        """Give up this process's byte: its leases are free. The next use opens the file again."""
        with self._lock:
            self._close()

    def _open(self) -> LockedFile:
        self._close()
        file = _KIND(self._path)
        status = os.fstat(file.descriptor)
        self._file, self._identity = file, (status.st_ino, status.st_dev)
        return file

    def _close(self) -> None:
        file, self._file, self._number = self._file, None, 0
        if file is not None:
            try:
                file.close()
            except OSError as error:  # a closed descriptor holds no byte
                _log.warning("%s can't be closed: %s", self._path, error)


class LockedFile(Protocol):
    """A file, made if it isn't there, whose bytes can be locked against all others that have it open."""

    descriptor: int

    def try_lock(self, byte: int) -> bool:
        """Lock a byte until `close` or the death of this process; False where another one holds it."""

    def is_locked(self, byte: int) -> bool:
        """Whether another one holds a byte."""

    def close(self) -> None:
        """Unlock all bytes."""

    def leave(self) -> None:
        """Close what a forked child inherits; the parent keeps its bytes."""


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _flock(kind: int, start: int, length: int = 1) -> bytes:
    """Pack the C structure of a lock. A length of 0 means all that follows."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, start, length, 0)


class _OpenFile:
    """Locks bytes by an open file (`F_OFD_SETLK`); they go with its last descriptor."""

    def __init__(self, path: str) -> None:
        self.descriptor = _open(path)

    def try_lock(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def is_locked(self, byte: int) -> bool:
        found = fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
        return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        try:
            # A child that was forked without Python's hooks may have the file open still.
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, 0, 0))
        finally:
            self.leave()

    def leave(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)


class _ProcessFile:
    """Locks bytes by process (`lockf`), where the system has no other locks.

    Closing any descriptor of a file drops them all, so a process opens a file once and never closes it. They exclude
    nobody inside the process, so a set of the locked bytes does.
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

    def is_locked(self, byte: int) -> bool:
        with self._guard:
            if (self.descriptor, byte) in self._held:
                return byte not in self._own
            if not self.try_lock(byte):
                return True
            self._unlock(byte)
            return False

    def _unlock(self, byte: int) -> None:
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, byte)
        self._own.discard(byte)
        self._held.discard((self.descriptor, byte))

    def close(self) -> None:
        with self._guard:
            for byte in list(self._own):
                self._unlock(byte)

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
