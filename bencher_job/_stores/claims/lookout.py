"""Knows how all who wait for a key, in any process, have one of them look for its end while the others sleep.

    waits ─> holds the key's byte of the file of claims: looks, again and again ─> sees the end, lets go
          └> another one holds it: a thread sleeps until that one lets go or dies ─> wakes up, looks

So fifty who wait cost little more than one does.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
from collections.abc import Callable
from typing import Final

from ..._forks import renew_after_fork
from ..gate import operation as keeping_forks_away
from .slots import digest_of

__all__ = ["Lookout"]

MOST_ASLEEP: Final = 32
"""How many of a process's keys are slept for at a time, each with a thread; for more, the process looks itself."""

_TRY: Final[int | None] = getattr(fcntl, "F_OFD_SETLK", None)
_WAIT: Final[int | None] = getattr(fcntl, "F_OFD_SETLKW", None)
_FIRST_BYTE: Final = 1 << 40
"""Where the keys' bytes begin: far behind what is ever in the file."""

_log = logging.getLogger(__name__)
_asleep = threading.BoundedSemaphore(MOST_ASLEEP)


class Lookout:
    """One who waits for a key. It looks, unless another one does; `wake` is called, in a thread, when that one stops.

    Where the system has no such locks each one looks.
    """

    def __init__(self, path: str, key: str, wake: Callable[[], None]) -> None:
        self._path = path
        self._lock = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, _byte_of(key), 1, 0)
        self._wake = wake
        self._held: int | None = None
        self._sleeper: _Sleeper | None = None
        renew_after_fork(self)
        self._begin()

    def renew(self) -> None:
        """Leave to the parent what it holds."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)
        self._sleeper = None

    def looks(self) -> bool:
        """Whether it is on this one to look now."""
        if self._sleeper is not None and self._sleeper.is_awake:
            self._sleeper = None
            self._begin()
        return self._sleeper is None

    def _begin(self) -> None:
        """Hold the key's byte, or sleep until it is free."""
        if _TRY is None:
            return
        sleeper = None
        try:
            with keeping_forks_away:  # so that a child knows, and closes, what it inherits
                descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                if _is_held(descriptor, self._lock):
                    self._held = descriptor
                else:
                    sleeper = _Sleeper(descriptor, self._lock, self._wake)
        except OSError as error:
            _log.info("who waits for a key looks for its end itself: %s", error)
        if sleeper is not None and sleeper.start():
            self._sleeper = sleeper

    def close(self) -> None:
        """Have the others look, or sleep no more."""
        held, self._held = self._held, None
        if held is not None:
            _let_go(held)
        if self._sleeper is not None:
            self._sleeper.is_wanted = False


class _Sleeper:
    """A thread that sleeps until a byte can be held, and lets go of it at once.

    Attributes:
        is_awake: whether it has been so.
        is_wanted: whether anybody is to be told.
    """

    def __init__(self, descriptor: int, lock: bytes, wake: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._lock = lock
        self._wake = wake
        self._places = _asleep
        self.is_awake = False
        self.is_wanted = True
        renew_after_fork(self)

    def renew(self) -> None:
        """Leave to the parent what it sleeps for."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def start(self) -> bool:
        """Begin to sleep; False where too many do, or the interpreter is ending."""
        if not self._places.acquire(blocking=False):
            self.renew()
            return False
        try:
            threading.Thread(target=self._sleep, name="bencher_job lookout", daemon=True).start()
        except RuntimeError:
            self._places.release()
            self.renew()
            return False
        return True

    def _sleep(self) -> None:
        try:
            fcntl.fcntl(self._descriptor, _WAIT or 0, self._lock)
        except OSError as error:
            _log.info("who waits for a key looks for its end itself: %s", error)
        finally:
            descriptor, self._descriptor = self._descriptor, -1
            _let_go(descriptor)
            self._places.release()
            self.is_awake = True
            if self.is_wanted:
                self._wake()


def _is_held(descriptor: int, lock: bytes) -> bool:
    """Hold a byte by an open file; whether it was free. Where nobody can tell the file is closed.

    Raises:
        OSError: when the system has no such locks for the file.
    """
    try:
        fcntl.fcntl(descriptor, _TRY or 0, lock)
    except (BlockingIOError, PermissionError):
        return False
    except BaseException:
        os.close(descriptor)
        raise
    return True


def _let_go(descriptor: int) -> None:
    """Let go of a file's byte, be it that a child that was forked behind Python's back has the file open still."""
    try:
        fcntl.fcntl(descriptor, _TRY or 0, struct.pack("hhqqi0q", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(descriptor)


def _byte_of(key: str) -> int:
    return _FIRST_BYTE + int.from_bytes(digest_of(key)[:5])
