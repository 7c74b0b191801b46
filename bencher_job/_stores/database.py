"""The database of the embedded store: diskcache's table with our bytes and connections.

An entry's bytes are in its row, or in a file of its own that is written before the row. Each thread has a connection,
which is closed with the thread and before a fork.

    with fork_guard():    use a database

SQLite keeps its locks in the memory of the process, so a child that inherits an open connection waits for locks that
nobody will give back, or holds some that are none. Therefore a fork waits until no database is in use, and closes all
connections first; parent and child open their own at the next use.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Final, TypeVar
from urllib.parse import quote

import diskcache
from diskcache.core import DBNAME, MODE_BINARY, MODE_RAW

from .._folders import ForeignName, NameOf, checked
from .._processes import renew_after_fork
from .base import BRIEFLY, PATIENCE, Written
from .blobs import map_file, new_filename, read_file, write_file
from .codec import SealedEntry
from .parts import Buffer, DamagedEntry, StreamingRead
from .signature import VALUE_DIGEST

DATABASE_NAME: Final[str] = DBNAME
GENERATION_NAME: Final = "generation"
"""Name of the file that tells the memory of other processes what is out of date."""

Locked: Final = diskcache.Timeout
"""What is raised when the database can't be written, or others keep it locked for too long."""


class Replaced(diskcache.Timeout):  # type: ignore[misc]
    """Another file lies in the place of a database that is open."""


class ContradictoryRows(sqlite3.DatabaseError):
    """Two statements disagree about a row, as only damage lets them, and SQLite has not noticed it."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


IN_ROW_BELOW: Final = 1 << 15
"""Size in bytes below which an entry lies in its database row."""

LONGEST_TURN: Final = 5.0
"""Seconds for which a thread waits for another one's turn to end."""

LARGEST_LOG: Final = 1 << 22
"""Bytes by which SQLite's log grows before it is moved into the database."""

KEPT_LOG: Final = 1 << 24
"""Bytes of the log's file that are kept once it is moved: writing over them takes half the time of writing new ones."""

COMMITS_PER_LOOK: Final = 64
"""How many commits there are between two looks at the log's size."""

COMMITS_PER_MOVE: Final = 1024
"""How many commits of one process there are before the log is moved, however it grows."""

PRAGMAS: Final = (
    "synchronous = normal",
    "cache_size = 8192",
    "mmap_size = 0",  # what another program cuts off, or a disk can't read, would else be a signal that ends this one
    "wal_autocheckpoint = 0",
    f"journal_size_limit = {KEPT_LOG}",
    "recursive_triggers = off",
)
"""What each connection is set to."""


def in_file(size: int, filename: str, digest: bytes) -> Written:
    """Describe an entry that lies in a file of its own."""
    return Written(size, MODE_BINARY, filename, None, digest)


class EntryDisk(diskcache.Disk):  # type: ignore[misc]
    """Writes and reads sealed entries only, and so never unpickles.

    Attributes:
        trusted: whether files are read that others could have written.
    """

    trusted = False

    def write(self, entry: SealedEntry, media_size: int) -> Written:
        """Write an entry to a file of its own, if it is large.

        Raises:
            OSError: when it can't be written; nothing is left then.
        """
        if entry.size < self.min_file_size:
            value = bytes(entry)
            return Written(entry.size + media_size, MODE_RAW, None, value, value[VALUE_DIGEST])
        filename = new_filename()
        write_file(os.path.join(self._directory, filename), entry)
        return in_file(entry.size + media_size, filename, entry.digest)

    def fetch(
        self, mode: int, filename: str | None, value: Buffer, mapped: bool = False
    ) -> Buffer | StreamingRead:
        """Read an entry's bytes from its row or its file, or with `mapped` map the file, read-only.

        Raises:
            DamagedEntry: when they are missing, or the row is not one of ours.
            UnreadableEntry: when there is too little memory for them.
            FileNotFoundError: when their file is gone.
            UntrustedCache: when others could have written their file.
        """
        if mode == MODE_RAW and isinstance(value, bytes):
            return value
        if mode != MODE_BINARY or filename is None:
            raise DamagedEntry(
                f"its row is of the mode {mode} and the type {type(value).__name__}, as no entry is"
            )
        path = self.path_of(filename)
        return map_file(path, trusted=self.trusted) if mapped else read_file(path, trusted=self.trusted)

    def remove(self, filename: str) -> None:
        """Remove an entry's file, and the folders that it lies in if they are empty.

        Raises:
            ForeignName: when no entry's file has such a name; nothing is removed then.
        """
        super().remove(checked(NameOf.VALUE_FILE, filename))

    def path_of(self, filename: str) -> str:
        """Return the path of an entry's file.

        Raises:
            DamagedEntry: when no entry's file has such a name.
        """
        try:
            return os.path.join(self._directory, checked(NameOf.VALUE_FILE, filename))
        except ForeignName as error:
            raise DamagedEntry(str(error)) from None


def is_undecodable(error: sqlite3.Error) -> bool:
    """Whether a statement failed because a text that it reads is not UTF-8, as only damage makes one."""
    return "Could not decode to UTF-8" in str(error)


def _is_locked(error: sqlite3.Error) -> bool:
    """Whether a statement failed because others keep the database locked."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _escaped(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


_log = logging.getLogger(__name__)

Execute = Callable[..., sqlite3.Cursor]
"""Executes a statement, with its values."""

T = TypeVar("T")


class _ThreadEnd:
    """Lives as long as a thread's connection: until the thread ends, or the database drops all of them."""


class Database(diskcache.Cache):  # type: ignore[misc]
    """diskcache's database, with our statements, and with connections that any thread can close.

    Attributes:
        turn: held by the thread that writes.
        stays_locked: whether others have kept it locked until patience ended, and ever since.
        attempt: seconds for which one attempt waits for the database's lock.
        place: device and inode of its file, once it is known; transactions refuse to change another file.
    """

    stays_locked = False
    place: tuple[int, int] | None = None

    def __init__(self, directory: str, *, access: str = "", patience: float = PATIENCE) -> None:
        """Open a database that is there; `access` are the parameters of its URI, `patience` is in seconds."""
        self._directory = directory
        self._path = os.path.abspath(os.path.join(directory, DBNAME))
        self._timeout = patience
        self.attempt = min(patience, BRIEFLY)
        self._local = threading.local()
        self._txn_id = None
        self._disk = EntryDisk(directory, min_file_size=IN_ROW_BELOW)
        self._access = access
        self._commits = 0
        self._log_size = 0
        self._own = threading.local()
        _owners.add(self)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make a new lock, after a fork."""
        self.turn = threading.Lock()

    def make(self) -> None:
        """Make diskcache's own tables, where they are not there.

        Raises:
            sqlite3.Error: when they can't be made.
        """
        # What diskcache finds there it sets as its own attributes, the folder among them.
        self.execute("DROP TABLE IF EXISTS Settings")
        directory, disk = self._directory, self._disk
        super().__init__(
            "/",  # any folder that is there: in a path it would replace `~` and `$NAME`
            disk=EntryDisk,
            cull_limit=0,  # evictions are ours, so that they are counted and logged
            eviction_policy="none",
            disk_min_file_size=IN_ROW_BELOW,
            sqlite_auto_vacuum=2,  # incremental: no commit has to move pages
            timeout=self._timeout,
        )
        self._directory, self._disk = directory, disk

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute a statement on this thread's own connection; where others keep the database locked, wait for them."""
        connection = getattr(self._own, "connection", None) or self._connect()
        try:
            return connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or connection.in_transaction:
                raise
        until = time.monotonic() + self._timeout - self.attempt
        while True:
            try:
                return connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                if not _is_locked(error) or time.monotonic() >= until or not self.has_locks():
                    raise

    def has_locks(self) -> bool:
        """Whether the system grants locks in the folder: SQLite takes it for the lock of others if it grants none.

        The database's own files are not asked: to close one would drop SQLite's locks of it.
        """
        try:
            descriptor = os.open(os.path.join(self._directory, GENERATION_NAME), os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            finally:
                os.close(descriptor)
        except OSError as error:
            return error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP}
        return True

    def read(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that reads; bytes of a text that aren't UTF-8 become surrogates."""
        try:
            return self.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if not is_undecodable(error):
                raise
        connection = self._con
        connection.text_factory = _escaped
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.text_factory = str

    def fetch(
        self, mode: int, filename: str | None, value: Buffer, *, mapped: bool = False
    ) -> Buffer | StreamingRead:
        """Read an entry's bytes from its row or its file, or map the file. Raises as `EntryDisk.fetch`."""
        return self._disk.fetch(mode, filename, value, mapped)

    def size_of(self, filename: str) -> int:
        """Return the size of an entry's file in bytes.

        Raises:
            DamagedEntry: when no entry's file has such a name.
            OSError: when there is none.
        """
        return os.lstat(self._disk.path_of(filename)).st_size

    def transact(self, work: Callable[[Execute], T], patience: float | None = None) -> T:
        """Do work in one transaction, which is committed when it returns and undone when it raises.

        The threads of a process take turns, so that none of them sleeps while the database is free again. That is a
        courtesy: what excludes others is the database's own lock, so a turn that never ends stops nobody for long.
        It takes the work, since an interrupt may keep a context's `__exit__` from its first step.

        Args:
            work: is called with what executes statements.
            patience: seconds to wait for others who write.

        Raises:
            Locked: when the database can't be written, or stays locked by others.
            Replaced: when another file lies in its place. Nothing has been changed then.
        """
        patience = self._timeout if patience is None else patience
        turn, has_turn = self.turn, False
        connection = getattr(self._own, "connection", None) or self._connect()
        try:
            has_turn = turn.acquire(timeout=min(patience, LONGEST_TURN))
            if not has_turn and patience > LONGEST_TURN:
                self.renew()  # so that nobody else waits for a turn that an interrupt has left taken
            if connection.in_transaction:  # a second interrupt has come while the first was handled
                connection.rollback()
            execute = connection.execute
            if not patience:
                execute("PRAGMA busy_timeout = 0")
            try:
                execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                self._begin_after(error, execute, patience)
            self.stays_locked = False
            if not self.is_in_place():
                raise Replaced(f"{self._path} was replaced, or removed")
            done = work(execute)
            execute("COMMIT")
            return done
        finally:
            if connection.in_transaction:
                connection.rollback()
            if not patience:
                connection.execute(f"PRAGMA busy_timeout = {int(self.attempt * 1000)}")
            if has_turn:
                turn.release()

    def is_in_place(self) -> bool:
        """Whether its file is still the one that was opened; another process may have replaced or removed it.

        An emptied file does not count: a process that went on reading from SQLite's memory would keep all others from
        making the tables again.
        """
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return False
        return self.place is None or ((status.st_dev, status.st_ino) == self.place and status.st_size > 0)

    def _begin_after(self, error: sqlite3.OperationalError, execute: Execute, patience: float) -> None:
        """Begin once others no longer keep the database locked; raises as `transact`."""
        until = time.monotonic() + patience - BRIEFLY
        while True:
            is_locked = _is_locked(error)
            if not is_locked or time.monotonic() >= until or self.stays_locked or not self.has_locks():
                self.stays_locked |= is_locked and patience > BRIEFLY
                raise Locked(str(error)) from error
            try:
                execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as again:
                error = again
            else:
                return

    def vacuum(self, pages: int) -> None:
        """Return free pages to the disk, in one transaction.

        Raises:
            sqlite3.OperationalError: when others keep the database locked.
        """
        # `execute` steps a statement without columns once, and each step of this one frees one page.
        self._con.executescript(f"PRAGMA incremental_vacuum({pages})")

    def tidy(self) -> None:
        """Move what was committed into the database's own file, where there is much of it; who reads isn't disturbed.

        SQLite would do it inside of a commit, for which others wait.
        """
        self._commits += 1
        if self._commits % COMMITS_PER_LOOK == 1:
            try:
                size = os.stat(os.path.join(self._directory, DBNAME + "-wal")).st_size
                if size > self._log_size + LARGEST_LOG or self._commits > COMMITS_PER_MOVE:
                    self.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    self._commits, self._log_size = 1, size
            except FileNotFoundError:
                return
            except (OSError, sqlite3.Error) as error:  # what was committed is committed
                _log.info("the log of %s stays as it is: %s", self._path, error)

    @property
    def _con(self) -> sqlite3.Connection:
        """Return this thread's connection, opened at first use and after a fork."""
        return getattr(self._own, "connection", None) or self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(self._path))}{self._access}",
            timeout=self.attempt,
            isolation_level=None,
            check_same_thread=False,  # so that a fork can close it; only its own thread uses it
            cached_statements=256,
            uri=True,
        )
        end = _ThreadEnd()
        # Unlike a `__del__`, this closes it before the garbage collector can find an open connection. Not at the end of
        # the program, when other threads may still use theirs.
        weakref.finalize(end, connection.close).atexit = False
        self._own.connection, self._own.end = connection, end
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        own = vars(self._own)
        if own:
            own["connection"].close()
            own.clear()

    def close_all(self) -> None:
        """Close the connections of all threads, none of which may be in use, as before a fork."""
        self._own = threading.local()


LONGEST_WAIT: Final = 60.0
"""Seconds for which a fork waits at most for other threads."""


class _Forks:
    """Lets any number of threads use databases, or one fork.

    A thread looks for a fork before it takes its own lock; a fork registers before it takes all locks. So a thread that
    uses databases without a pause steps back for a fork that waits for it.
    """

    def __init__(self) -> None:
        self.locks: dict[int, threading.RLock] = {}
        self.is_forking = False
        self.turn = threading.Lock()

    def before_fork(self) -> None:
        self.turn.acquire()
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
        self.turn.release()

    def after_fork_in_child(self) -> None:
        self.__init__()  # type: ignore[misc]


_owners: weakref.WeakSet[Database] = weakref.WeakSet()
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
        with _forks.turn:
            pass
    return lock
