"""Knows diskcache, and is the only module that does: its table of entries, with our bytes and our connections.

An entry's bytes are in its row, or in a file of its own that is written before the row. Each thread has a connection,
which is closed with the thread and before a fork.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import diskcache
from diskcache.core import DBNAME, MODE_BINARY, MODE_RAW

from .arrival import Arrival
from .codec import Buffer, DamagedEntry, SealedEntry
from .files import map_file, read_file, write_file
from .gate import close_before_fork

__all__ = ["DATABASE_NAME", "IN_ROW_BELOW", "Database", "EntryDisk", "Locked", "Written"]

DATABASE_NAME: Final[str] = DBNAME
Locked: Final = diskcache.Timeout
"""What is raised when the database can't be written, or others have kept it locked for a minute."""

IN_ROW_BELOW: Final = 1 << 15
"""Size in bytes below which an entry lies in its database row."""


@dataclass(frozen=True, slots=True)
class Written:
    """An entry whose bytes are ready for its row: there, or in a file that is written."""

    size: int
    """Size of the entry in bytes."""
    filename: str | None
    row: bytes | None
    media_size: int

    @property
    def columns(self) -> tuple[int, int, str | None, bytes | None]:
        """Give the columns size, mode, filename and value; diskcache counts only what is not in the row as size."""
        if self.filename is None:
            return self.media_size, MODE_RAW, None, self.row
        return self.size + self.media_size, MODE_BINARY, self.filename, None


class EntryDisk(diskcache.Disk):  # type: ignore[misc]
    """Writes and reads sealed entries only, and so never unpickles."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self._local = threading.local()

    def write(self, entry: SealedEntry, media_size: int) -> Written:
        """Write an entry to a file of its own, if it is large.

        Raises:
            OSError: when it can't be written; nothing is left then.
        """
        if entry.size < self.min_file_size:
            return Written(entry.size, None, bytes(entry), media_size)
        filename, path = self.filename()
        write_file(path, entry)
        return Written(entry.size, filename, None, media_size)

    def store(self, value: Written, *_: object, **__: object) -> tuple[int, int, str | None, bytes | None]:
        """Give the columns of an entry that is written."""
        return value.columns

    def fetch(self, mode: int, filename: str | None, value: Buffer, read: bool) -> Buffer | Arrival:  # noqa: ARG002
        """Read an entry's bytes, into memory that may be written to if they lie in a file.

        Raises:
            DamagedEntry: when they are not there, or the row is none of ours.
            UnreadableEntry: when there is too little memory for them.
            FileNotFoundError: when their file is gone.
            UntrustedCache: when others could have written their file.
        """
        path = self._file_of(mode, filename, value)
        return value if path is None else read_file(path)

    def fetch_mapped(self, mode: int, filename: str | None, value: Buffer) -> Buffer:
        """Give an entry's bytes, read-only, and mapped into memory if they lie in a file.

        Raises:
            DamagedEntry: when they are not there, or the row is none of ours.
            FileNotFoundError: when their file is gone.
            UntrustedCache: when others could have written their file.
        """
        path = self._file_of(mode, filename, value)
        return value if path is None else map_file(path)

    def _file_of(self, mode: int, filename: str | None, value: Buffer) -> str | None:
        if mode == MODE_RAW and isinstance(value, bytes):
            return None
        if mode == MODE_BINARY and filename is not None:
            return os.path.join(self._directory, filename)
        raise DamagedEntry(
            f"its row is of the mode {mode} and the type {type(value).__name__}, as no entry is"
        )

    @contextmanager
    def removing_after_commit(self) -> Iterator[None]:
        """Put off the removal of files on this thread until the transaction within is over, and only if it succeeds."""
        kept: list[str] = []
        self._local.kept = kept
        try:
            yield
        finally:
            self._local.kept = None
        for path in kept:
            super().remove(path)

    def remove(self, file_path: str) -> None:
        """Remove a file, now or when the transaction is over."""
        kept = getattr(self._local, "kept", None)
        if kept is None:
            super().remove(file_path)
        else:
            kept.append(file_path)


_CLOSED: Final = object()


class _Connections:
    """The open connections of one database; any thread may close them."""

    def __init__(self) -> None:
        self._open: dict[
            sqlite3.Connection, None
        ] = {}  # each change is one step, as far as other threads can see

    def __contains__(self, connection: sqlite3.Connection) -> bool:
        return connection in self._open

    def add(self, connection: sqlite3.Connection) -> None:
        self._open[connection] = None

    def close(self, connection: sqlite3.Connection) -> None:
        """Close a connection, unless it is closed already."""
        if self._open.pop(connection, _CLOSED) is not _CLOSED:
            connection.close()

    def close_all(self) -> None:
        for connection in list(self._open):
            self.close(connection)


class _ThreadEnd:
    """Closes a thread's connection when the thread ends."""

    def __init__(self, connections: _Connections, connection: sqlite3.Connection) -> None:
        self._connections = connections
        self.connection = connection

    def __del__(self) -> None:
        self._connections.close(self.connection)


class Database(diskcache.Cache):  # type: ignore[misc]
    """diskcache's cache, with connections that any thread can close."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._ends = threading.local()
        self._connections = _Connections()
        weakref.finalize(self, self._connections.close_all)
        close_before_fork(self)
        super().__init__(*args, **settings)

    @property
    def _con(self) -> sqlite3.Connection:
        """Give this thread's connection, opened at first use and after a fork."""
        end: _ThreadEnd | None = getattr(self._ends, "end", None)
        if end is not None and end.connection in self._connections:
            return end.connection
        connection = sqlite3.connect(
            os.path.join(self.directory, DBNAME),
            timeout=self.timeout,
            isolation_level=None,
            check_same_thread=False,  # so that a fork can close it; only its own thread uses it
        )
        self._connections.add(connection)
        self._ends.end = _ThreadEnd(self._connections, connection)
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
            self._connections.close(end.connection)

    def close_all(self) -> None:
        """Close the connections of all threads, none of which may be in use."""
        self._connections.close_all()
