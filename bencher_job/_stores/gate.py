"""Knows when this process may fork: not while a database is in use, and with no connection open.

SQLite keeps its locks in the memory of the process, so a child that inherits an open connection waits for locks that
nobody will give back, or holds some that are none. Therefore a fork waits until no operation is under way, and closes
all connections first; parent and child open their own at the next use.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

__all__ = ["HasConnections", "close_before_fork", "operation"]


class HasConnections(Protocol):
    """What has connections to a database."""

    def close_all(self) -> None:
        """Close the connections of all threads, none of which is in use."""


class _Gate:
    """Lets any number of operations through, or one fork."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._under_way = 0
        self._forking = False
        self._local = threading.local()

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Keep forks away meanwhile."""
        depth = getattr(self._local, "depth", 0)
        if depth == 0:
            with self._changed:
                while self._forking:
                    self._changed.wait()
                self._under_way += 1
        self._local.depth = depth + 1
        try:
            yield
        finally:
            self._local.depth = depth
            if depth == 0:
                with self._changed:
                    self._under_way -= 1
                    if self._forking:
                        self._changed.notify_all()

    def before_fork(self) -> None:
        own = 1 if getattr(self._local, "depth", 0) else 0
        self._changed.acquire()
        self._forking = True
        while self._under_way > own:
            self._changed.wait()
        for owner in list(_owners):
            owner.close_all()

    def after_fork_in_parent(self) -> None:
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

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
