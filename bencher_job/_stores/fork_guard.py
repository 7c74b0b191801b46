"""Fork guard: a fork waits until no database is in use, and closes all connections.

SQLite keeps its locks in the memory of the process, so a child that inherits an open connection waits for locks that
nobody will give back, or holds some that are none. Therefore each thread holds a lock of its own while it uses a
database. A fork takes the locks of all threads and closes all connections; parent and child open their own at the
next use.

    with fork_guard.lock:    use a database
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any, Final, Protocol

__all__ = ["HasConnections", "close_before_fork", "fork_guard"]


LONGEST_WAIT: Final = 60.0
"""Maximum number of seconds that a fork waits for other threads."""


class HasConnections(Protocol):
    """What has connections to a database."""

    def close_all(self) -> None:
        """Close the connections of all threads, none of which is in use."""


class _Forks:
    """Keeps forks and the use of databases apart.

    An interrupt can come anywhere in a hook, so the hooks ask each lock whether this thread owns it.
    """

    def __init__(self) -> None:
        self.owners: weakref.WeakSet[HasConnections] = weakref.WeakSet()
        self._begin()

    def _begin(self) -> None:
        self._forking: Any = threading.RLock()
        self._locks: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, lock: object) -> None:
        """Add the lock of a thread, which waits here while another thread forks."""
        with self._forking:
            self._locks.add(lock)

    def _others(self) -> list[Any]:
        own = fork_guard.lock
        return [lock for lock in self._locks if lock is not own]

    def before(self) -> None:
        self._forking.acquire()
        until = time.monotonic() + LONGEST_WAIT
        for lock in self._others():
            lock.acquire(timeout=max(until - time.monotonic(), 0))
        for owner in list(self.owners):
            owner.close_all()

    def after_in_parent(self) -> None:
        for lock in (*self._others(), self._forking):
            if lock._is_owned():
                lock.release()

    def after_in_child(self) -> None:
        self._begin()
        self.add(fork_guard.lock)


class _ForkGuard(threading.local):
    """The fork guard of each thread.

    Attributes:
        lock: keeps forks away while its thread holds it, once or several times.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        _forks.add(self.lock)


_forks: Final = _Forks()
fork_guard: Final = _ForkGuard()

os.register_at_fork(
    before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child
)


def close_before_fork(owner: HasConnections) -> None:
    """Have an object's connections closed before each fork, as long as the object lives."""
    _forks.owners.add(owner)
