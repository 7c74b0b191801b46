"""Knows when this process may fork: not while a database is in use, and with no connection open.

SQLite keeps its locks in the memory of the process, so a child that inherits an open connection waits for locks that
nobody will give back, or holds some that are none. Therefore a fork waits until no operation is under way, and closes
all connections first; parent and child open their own at the next use.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
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

    The locks are plain ones, and each is taken where an interrupt can't come between taking and noting it.
    """

    def __init__(self) -> None:
        self._entry = threading.Lock()
        self._counting = threading.Lock()
        self._under_way = 0
        self._local = threading.local()

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Keep forks away meanwhile."""
        depth = getattr(self._local, "depth", 0)
        entered = False
        try:
            if depth == 0:
                with self._entry, self._counting:
                    self._under_way += 1
                    entered = True
            self._local.depth = depth + 1
            yield
        finally:
            self._local.depth = depth
            if entered:
                with self._counting:
                    self._under_way -= 1

    def before_fork(self) -> None:
        own = 1 if getattr(self._local, "depth", 0) else 0
        self._entry.acquire()
        patience = time.monotonic() + LONGEST_WAIT
        while self._under_way > own and time.monotonic() < patience:
            time.sleep(0.0005)
        for owner in list(_owners):
            owner.close_all()

    def after_fork_in_parent(self) -> None:
        self._entry.release()

    def after_fork_in_child(self) -> None:
        self.__init__()  # type: ignore[misc]


_owners: weakref.WeakSet[HasConnections] = weakref.WeakSet()
_gate: Final = _Gate()
operation: Final = _gate.operation
os.register_at_fork(
    before=_gate.before_fork,
    after_in_parent=_gate.after_fork_in_parent,
    after_in_child=_gate.after_fork_in_child,
)


def close_before_fork(owner: HasConnections) -> None:
    """Have an object's connections closed before each fork, as long as the object lives."""
    _owners.add(owner)
