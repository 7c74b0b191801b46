"""Knows diskcache's connections to a database: one for each thread, closed with it, and none carried across a fork.

SQLite keeps its locks in the memory of the process, so a child that inherits an open connection waits for locks that
nobody will give back, or holds some that are none. Therefore a fork waits until no operation is under way, and closes
all connections first; parent and child open their own at the next use.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import diskcache

__all__ = ["Database", "operation"]

LOCK_TIMEOUT: Final = 60.0
"""Seconds for which a write waits for other processes' writes."""


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
        for database in list(_databases):
            database.close_all()

    def after_fork_in_parent(self) -> None:
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        self.__init__()  # type: ignore[misc]


class _ThreadEnd:
    """Closes a thread's connection when the thread ends."""

    def __init__(self, database: Database, connection: sqlite3.Connection) -> None:
        self._database = weakref.ref(database)
        self.connection = connection

    def __del__(self) -> None:
        database = self._database()
        if database is not None:
            database.close_one(self.connection)


class Database(diskcache.Cache):  # type: ignore[misc]
    """diskcache's cache, with connections that any thread can close."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._ends = threading.local()
        self._connections: set[sqlite3.Connection] = set()
        self._connections_lock = threading.Lock()
        _databases.add(self)
        super().__init__(*args, **settings)

    @property
    def _con(self) -> sqlite3.Connection:
        """Give this thread's connection, opened at first use and after a fork."""
        end: _ThreadEnd | None = getattr(self._ends, "end", None)
        if end is not None and end.connection in self._connections:
            return end.connection
        connection = sqlite3.connect(
            os.path.join(self.directory, diskcache.core.DBNAME),
            timeout=self.timeout,
            isolation_level=None,
            check_same_thread=False,  # so that a fork can close it; only its own thread uses it
        )
        with self._connections_lock:
            self._connections.add(connection)
        self._ends.end = _ThreadEnd(self, connection)
        self._set_pragmas(connection)
        return connection

    def _set_pragmas(self, connection: sqlite3.Connection) -> None:
        try:
            settings = connection.execute("SELECT key, value FROM Settings").fetchall()
        except sqlite3.OperationalError:  # a new database has no such table yet
            return
        for key, value in settings:
            if key.startswith("sqlite_"):
                self.reset(key, value, update=False)

    def close(self) -> None:
        """Close this thread's connection."""
        end: _ThreadEnd | None = getattr(self._ends, "end", None)
        if end is not None:
            self.close_one(end.connection)

    def close_one(self, connection: sqlite3.Connection) -> None:
        """Close a connection, unless it is closed already."""
        with self._connections_lock:
            was_open = connection in self._connections
            self._connections.discard(connection)
        if was_open:
            connection.close()

    def close_all(self) -> None:
        """Close the connections of all threads, none of which may be in use."""
        for connection in list(self._connections):
            self.close_one(connection)


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_gate: Final = _Gate()
operation: Final = _gate.operation
os.register_at_fork(
    before=_gate.before_fork,
    after_in_parent=_gate.after_fork_in_parent,
    after_in_child=_gate.after_fork_in_child,
)
