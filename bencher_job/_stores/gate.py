"""Fork guard: a fork waits until no database is in use, and closes all connections.

SQLite keeps its locks in the memory of the process, so a child that inherits an open connection waits for locks that
nobody will give back, or holds some that are none. Therefore a fork waits until no operation is under way, and closes
all connections first; parent and child open their own at the next use.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from threading import get_ident
from typing import Final, Protocol

__all__ = ["HasConnections", "close_before_fork", "operation"]


LONGEST_WAIT: Final = 60.0
"""Seconds for which a fork waits for operations at most."""


class HasConnections(Protocol):
    """What has connections to a database."""

    def close_all(self) -> None:
        """Close the connections of all threads, none of which is in use."""


class _Gate:
    """Lets any number of operations through, or one fork.

    Who operates says so and then looks for a fork; who forks says so and then looks for operations. So one of them
    sees the other, and no lock is taken where nobody forks.
    """

    def __init__(self) -> None:
        self.depths: dict[int, int] = {}  # operations of each thread that are inside one another
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


class _Operation:
    """A context that keeps forks away; any number of them may be inside one another."""

    __slots__ = ()

    def __enter__(self) -> None:
        thread = get_ident()
        depth = _gate.depths.get(thread, 0) + 1
        _gate.depths[thread] = depth
        if depth == 1 and _gate.is_forking:
            _gate.wait_for_fork(thread)

    def __exit__(self, *_: object) -> None:
        thread = get_ident()
        depth = _gate.depths[thread] - 1
        if depth:
            _gate.depths[thread] = depth
        else:
            del _gate.depths[thread]


_owners: weakref.WeakSet[HasConnections] = weakref.WeakSet()
_gate: Final = _Gate()
operation: Final = _Operation()
"""Keeps forks away in its context."""


os.register_at_fork(
    before=_gate.before_fork,
    after_in_parent=_gate.after_fork_in_parent,
    after_in_child=_gate.after_fork_in_child,
)


def close_before_fork(owner: HasConnections) -> None:
    """Have an object's connections closed before each fork, as long as the object lives."""
    _owners.add(owner)
