"""Fork guard: a fork waits until no database is in use, and closes all connections.

SQLite keeps its locks in the memory of the process, so a child that inherits an open connection waits for locks that
nobody will give back, or holds some that are none. Therefore a fork waits until no database is in use, and closes all
connections first; parent and child open their own at the next use.

    with fork_guard:    use a database

A lock for each thread would not do: a thread that uses databases without a pause would take its lock again before a
fork that waits for it gets it.
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

    A thread registers its use and then looks for a fork; a fork registers and then looks for uses. So one of them sees
    the other, and no lock is taken unless a thread forks.
    """

    def __init__(self) -> None:
        self.depths: dict[int, int] = {}  # how often each thread has entered the guard
        self.is_forking = False
        self._forks = threading.Lock()

    def before_fork(self) -> None:
        self._forks.acquire()
        self.is_forking = True
        own = 1 if threading.get_ident() in self.depths else 0
        patience = time.monotonic() + LONGEST_WAIT
        while len(self.depths) > own and time.monotonic() < patience:
            time.sleep(0.0005)
        for owner in list(_owners):
            owner.close_all()

    def after_fork_in_parent(self) -> None:
        self.is_forking = False
        self._forks.release()

    def after_fork_in_child(self) -> None:
        self.__init__()  # type: ignore[misc]

    def wait_for_fork(self, thread: int) -> None:
        """Step back until the fork is over."""
        try:
            while self.is_forking:
                self.depths.pop(thread, None)
                with self._forks:
                    pass
                self.depths[thread] = 1
        except BaseException:  # an interrupt
            self.depths.pop(thread, None)
            raise


class _ForkGuard:
    """A context that keeps forks away. A thread may enter it several times."""

    __slots__ = ()

    def __enter__(self) -> None:
        thread = get_ident()
        depth = _forks.depths.get(thread, 0) + 1
        _forks.depths[thread] = depth
        if depth == 1 and _forks.is_forking:
            _forks.wait_for_fork(thread)

    def __exit__(self, *_: object) -> None:
        thread = get_ident()
        depth = _forks.depths[thread] - 1
        if depth:
            _forks.depths[thread] = depth
        else:
            del _forks.depths[thread]


_owners: weakref.WeakSet[HasConnections] = weakref.WeakSet()
_forks: Final = _Forks()
fork_guard: Final = _ForkGuard()
"""Keeps forks away in its context."""


os.register_at_fork(
    before=_forks.before_fork,
    after_in_parent=_forks.after_fork_in_parent,
    after_in_child=_forks.after_fork_in_child,
)


def close_before_fork(owner: HasConnections) -> None:
    """Have an object's connections closed before each fork, as long as the object lives."""
    _owners.add(owner)
