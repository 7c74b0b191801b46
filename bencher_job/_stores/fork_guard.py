"""Fork guard: a fork waits until no database is in use, and closes all connections.

SQLite keeps its locks in the memory of the process, so a child that inherits an open connection waits for locks that
nobody will give back, or holds some that are none. Therefore a fork waits until no database is in use, and closes all
connections first; parent and child open their own at the next use.

    with fork_guard():    use a database

It is a plain lock, since an interrupt may keep a Python-level `__exit__` from its first step.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from threading import get_ident
from typing import Final, Protocol

__all__ = ["HasConnections", "close_before_fork", "fork_guard"]


LONGEST_WAIT: Final = 60.0
"""Seconds for which a fork waits at most for other threads."""


class HasConnections(Protocol):
    """What has connections to a database."""

    def close_all(self) -> None:
        """Close the connections of all threads, none of which is in use."""


class _Forks:
    """Lets any number of threads use databases, or one fork.

    A thread looks for a fork before it takes its own lock; a fork registers before it takes all locks. So a thread that
    uses databases without a pause steps back for a fork that waits for it.
    """

    def __init__(self) -> None:
        self.locks: dict[int, threading.RLock] = {}
        self.is_forking = False
        self.forks = threading.Lock()

    def before_fork(self) -> None:
        self.forks.acquire()
        self.is_forking = True
        own, until = get_ident(), time.monotonic() + LONGEST_WAIT
        for thread, lock in list(self.locks.items()):
            if thread != own:
                lock.acquire(timeout=max(until - time.monotonic(), 0))
        for owner in list(_owners):
            owner.close_all()

    def after_fork_in_parent(self) -> None:
        self.is_forking = False
        own = get_ident()
        for thread, lock in list(self.locks.items()):
            if thread != own and lock._is_owned():  # type: ignore[attr-defined]  # as a condition asks it
                lock.release()
        self.forks.release()

    def after_fork_in_child(self) -> None:
        self.__init__()  # type: ignore[misc]


_owners: weakref.WeakSet[HasConnections] = weakref.WeakSet()
_forks: Final = _Forks()


os.register_at_fork(
    before=_forks.before_fork,
    after_in_parent=_forks.after_fork_in_parent,
    after_in_child=_forks.after_fork_in_child,
)


def fork_guard() -> threading.RLock:
    """Return the lock of this thread that keeps forks away. A thread may take it several times."""
    thread = get_ident()
    lock = _forks.locks.get(thread)
    if lock is None:
        lock = _forks.locks.setdefault(thread, threading.RLock())
    if _forks.is_forking and not lock._is_owned():  # type: ignore[attr-defined]
        with _forks.forks:
            pass
    return lock


def close_before_fork(owner: HasConnections) -> None:
    """Have an object's connections closed before each fork, as long as the object lives."""
    _owners.add(owner)
