"""Leases: which process computes a key, as rows of the store's own database.

    acquire -> held: compute; the commit of the result releases the lease in the same transaction
            -> another's: wait, poll `look` -> free: look the entry up, else acquire again
                                            -> the owner is stopped for long: replace its lease; its result is refused

A lease belongs to an owner, a process that keeps a byte of the store's file `owners` locked as long as it lives. The
system unlocks the byte when the process ends, however it ends, and then the lease is free.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple

from .._processes import Process, is_stopped, renew_after_fork, this_process
from .base import BRIEFLY, Lease, LeaseInfo, LeasesUnavailable, StoreFailure
from .codec import Payload, seal, unseal
from .database import ContradictoryRows, fork_guard
from .parts import DamagedEntry, UnreadableEntry
from .schema import (
    PUT_FAILED,
    PUT_FAILURE,
    TRIM_FAILED,
    arguments_to_json,
    is_text,
    object_from,
    row_of_failed_job,
)

if TYPE_CHECKING:
    from .._record import FailedJob
    from .database import Database, Execute
    from .folder import Folder


STOPPED_PATIENCE: Final = 10.0
"""Seconds for which an owner is seen stopped before its lease is taken over."""

LOOK_AT_OWNER_EVERY: Final = 0.1
"""Seconds between two looks at an owner's state."""

LONGEST_GAP: Final = 2.0
"""Seconds that count at most between two looks: a waiter that was stopped itself has seen nothing in that time."""

KEPT: Final = 60.0
"""Seconds for which an exception is kept at least."""

AT_ONCE: Final = 5_000
"""Leases that one transaction acquires or releases at most, so that others can write in between."""

MOST_TURNS: Final = 100
"""How often in a row a lease that is in the way may be gone at the next look, before its table counts as damaged."""

_INSERT: Final = (
    "INSERT OR IGNORE INTO Lease (key, number, owner, since, function, arguments) VALUES (?, ?, ?, ?, ?, ?)"
)
_REPLACE: Final = (
    "UPDATE Lease SET number = ?, owner = ?, since = ?, function = ?, arguments = ?"
    " WHERE key = ? AND number = ?"
)
RELEASE: Final = "DELETE FROM Lease WHERE key = ? AND number = ?"
_FIND: Final = "SELECT number, owner FROM Lease WHERE key = ?"
_WAITED: Final = "UPDATE Lease SET waited = 1 WHERE key = ? AND number = ?"
_IS_WAITED_FOR: Final = "SELECT 1 FROM Lease WHERE key = ? AND number = ? AND waited"
_HAS_ENTRY: Final = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
_DESCRIBE: Final = (
    "SELECT Owner.number, Lease.number, host, boot, pid, started, namespace FROM Lease"
    " JOIN Owner ON Owner.number = Lease.owner WHERE key = ?"
)

_RUNNING: Final = (
    "SELECT Owner.number, key, since, function, arguments, host, boot, pid, started, namespace FROM Lease"
    " JOIN Owner ON Owner.number = Lease.owner ORDER BY since"
)

_log = logging.getLogger(__name__)


class LeasesLost(Exception):
    """Some leases are another process's now.

    Attributes:
        leases: those that were lost.
    """

    def __init__(self, leases: frozenset[Lease]) -> None:
        super().__init__(leases)
        self.leases = leases


class LeaseOwner(NamedTuple):
    """The process that computes a key."""

    number: int
    """The number of its lease."""
    process: Process


class StoreWait:
    """One waiter for a key that another process computes.

    Attributes:
        owner: the process that computes the key, as of the last look.
    """

    def __init__(self, leases: StoreLeases, lease: Lease) -> None:
        self._leases = leases
        self._lease = lease
        self._number = 0
        self.owner: Process | None = None
        self._was_stopped = False
        self._looked = 0.0
        self._stopped_for = 0.0

    def look(self) -> Literal["running", "free"] | bytes:
        """Return how the job stands; a failure's bytes if the job has raised.

        Raises:
            LeasesUnavailable: when the database can't be read.
        """
        key, owner = self._lease.key, self._leases.owner_of(self._lease.key)
        if owner is None:
            self.owner = None
            return self._leases.failure(key, self._number) or "free"
        self.owner = owner.process
        if owner.number != self._number:
            self._leases.tell_of_waiter(key, owner.number)
        if not self.is_overdue(owner):
            return "running"
        if self._lease.replaces != owner.number:
            self._lease.replaces = owner.number
            _log.warning(
                "process %s on %s is stopped, so %s is computed here", self.owner.pid, self.owner.host, key
            )
        return "free"

    def is_overdue(self, owner: LeaseOwner) -> bool:
        """Whether the owner was stopped at each look for `STOPPED_PATIENCE` seconds."""
        now = time.monotonic()
        if owner.number != self._number:  # another waiter has taken over, and may have ended already
            self._number, self._was_stopped, self._stopped_for = owner.number, False, 0.0
        elif now - self._looked < LOOK_AT_OWNER_EVERY:
            return self._stopped_for >= STOPPED_PATIENCE
        before, self._was_stopped = self._was_stopped, is_stopped(owner.process)
        if not self._was_stopped:
            self._stopped_for = 0.0
        elif before:
            self._stopped_for += min(now - self._looked, LONGEST_GAP)
        self._looked = now
        return self._stopped_for >= STOPPED_PATIENCE


class StoreLeases:
    """The leases of all processes that share a store. A forked child is another owner than its parent.

    Each method but `release` and `fail` raises `LeasesUnavailable` if the database can't be read or written, or others
    keep it locked for `BRIEFLY`.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._registered: tuple[int, tuple[int, int] | None] = 0, None
        self._own: weakref.WeakValueDictionary[int, Lease] = weakref.WeakValueDictionary()

    def acquire(self, leases: Sequence[Lease]) -> None:
        """Acquire those leases whose keys no living process has, not even this one."""
        try:
            if len(leases) == 1:
                self._folder.changed(self._acquire_one, leases[0])
                return
            for some in _in_groups(leases):
                self._folder.changed(self._acquire_some, some)
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def wait(self, lease: Lease) -> StoreWait:
        """Start to wait for the key of a lease that could not be acquired."""
        return StoreWait(self, lease)

    def taken(self, keys: Collection[str]) -> set[str]:
        """Return those keys that other living processes have. Never waits."""
        statement = "SELECT owner, key FROM Lease WHERE owner != ?"
        values: tuple[object, ...] = (self._registered[0],)
        if len(keys) == 1:
            statement, values = f"{statement} AND key = ?", (*values, *keys)
        rows = self._of_living(statement, values)
        return {key for (key,) in rows}.intersection(keys) if rows else set()

    def running(self) -> list[LeaseInfo]:
        """Return the jobs that living processes run."""
        return [
            LeaseInfo(key, Process(*process), since, *_call_of(function, arguments))
            for key, since, function, arguments, *process in self._of_living(_RUNNING)
        ]

    def owner_of(self, key: str) -> LeaseOwner | None:
        """Return the living process that has a key. It waits for nobody."""
        for number, *process in self._of_living(_DESCRIBE, (key,)):
            return LeaseOwner(number, Process(*process))
        return None

    def _of_living(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Return rows without their first column, the number of a process, of processes that live."""
        try:
            with fork_guard():
                rows = self._folder.query(statement, values)
                owners = {number for number, *_ in rows}
                living = {number for number in owners if self._folder.owners.is_alive(number)}
        except (StoreFailure, OSError) as error:
            raise self._unavailable(error) from error
        return [row[1:] for row in rows if row[0] in living]

    def tell_of_waiter(self, key: str, number: int) -> None:
        """Ask the owner of the lease with a number for its exception."""
        self._run(lambda database: database._con.execute(_WAITED, (key, number)))

    def fail(self, lease: Lease, dump: Callable[[], bytes] | None, failed: FailedJob | None = None) -> None:
        """Release a lease whose job has failed; its waiters can read the exception's bytes for a minute.

        If they can't be stored, one of the waiters runs the job itself.
        """
        try:
            is_wanted = dump is not None and self._folder.query(_IS_WAITED_FOR, (lease.key, lease.number))
            error = dump() if dump is not None and is_wanted else None
            if error is not None or failed is not None:
                self._folder.changed(self._put_failure, lease, error, failed)
        except StoreFailure as problem:
            _log.warning("the failure of %s is not listed, nor given to waiters: %s", lease.key, problem)
        finally:
            self.release([lease])

    def _put_failure(
        self, database: Database, lease: Lease, error: bytes | None, failed: FailedJob | None
    ) -> None:
        key, number, now = lease.key, lease.number, time.time()

        def put(execute: Execute) -> None:
            if error is not None:
                sealed = seal(Payload(error), _name(key, number), signature=self._folder.open().signature)
                # Those of the future too: they are from before a clock was set back.
                execute("DELETE FROM Failure WHERE NOT at BETWEEN ? AND ?", (now - KEPT, now + KEPT))
                execute(PUT_FAILURE, (key, number, now, bytes(sealed)))
            if failed is not None:
                execute(PUT_FAILED, row_of_failed_job(failed))
                execute(TRIM_FAILED)

        database.transact(put)

    def failure(self, key: str, number: int) -> bytes | None:
        """Return the exception's bytes that were stored for a lease, if they are there and intact."""
        try:
            rows = self._folder.query("SELECT error FROM Failure WHERE key = ? AND number = ?", (key, number))
            if not rows:
                return None
            payload = unseal(
                rows[0][0], _name(key, number), signature=self._folder.open().signature, most_expanded=0
            )
        except (StoreFailure, DamagedEntry, UnreadableEntry, TypeError) as problem:
            _log.warning("the exception that was raised for %s can't be read: %s", key, problem)
            return None
        return bytes(payload.stream)

    def release(self, leases: Iterable[Lease]) -> None:
        """Release leases, as far as they are still ours; all of this process where the database is unavailable."""
        if not self._folder.owners.has_joined:  # all were given up with the owner's byte
            return
        try:
            for some in _in_groups(list(leases)):
                self._run(self._release_some, some)
        except LeasesUnavailable as error:
            _log.warning("%s All leases of this process are given up.", error)
            self._folder.owners.close()

    def _run(self, work: Callable[..., object], *given: Any) -> None:
        """Do some work that changes leases; it is called with the database and what is given."""
        try:
            self._folder.changed(work, *given)
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> LeasesUnavailable:
        return LeasesUnavailable(
            f"{self._folder.directory} can't say who computes what ({error}), so jobs may be computed twice."
        )

    def _acquire_one(self, database: Database, lease: Lease) -> None:
        owner, connection = self._folder.owners.join(), database._con
        if (owner, database.place) != self._registered:
            self._register(database, owner)
        if connection.in_transaction:  # an interrupt has kept it from its end
            connection.rollback()
        self._acquire(connection.execute, lease, owner)

    def _acquire_some(self, database: Database, leases: Sequence[Lease]) -> None:
        owner = self._folder.owners.join()
        if (owner, database.place) != self._registered:
            self._register(database, owner)

        def acquire(execute: Execute) -> None:
            for lease in leases:
                self._acquire(execute, lease, owner)

        try:
            database.transact(acquire, BRIEFLY)
        except BaseException:
            for lease in leases:
                lease.held = False
            raise

    def _acquire(self, execute: Execute, lease: Lease, owner: int) -> None:
        """Insert the row of a lease, or replace that of a lease that nobody has any more.

        Raises:
            ContradictoryRows: when the table is so damaged that a row is in the way that can't be found.
        """
        key, number, function = lease.key, lease.number, lease.function
        shown = lease.shown = lease.shown or arguments_to_json(lease.arguments)
        self._own[number] = lease
        turns = itertools.count(1)
        while not execute(_INSERT, (key, number, owner, time.time(), function, shown)).rowcount:
            found = execute(_FIND, (key,)).fetchone()
            if found is not None:
                is_given_up = found[1] == owner and found[0] not in self._own
                if found[0] != lease.replaces and not is_given_up and self._folder.owners.is_alive(found[1]):
                    return
                if execute(_REPLACE, (number, owner, time.time(), function, shown, key, found[0])).rowcount:
                    break
            if next(turns) >= MOST_TURNS:  # else it was released or replaced just now
                raise ContradictoryRows(
                    f"the lease of {key} is there for one statement, and not for the next"
                )
        lease.held = True
        lease.has_entry = execute(_HAS_ENTRY, (key,)).fetchone() is not None

    def _release_some(self, database: Database, leases: Sequence[Lease]) -> None:
        def release(execute: Execute) -> None:
            for lease in leases:
                execute(RELEASE, (lease.key, lease.number))

        database.transact(release, BRIEFLY)
        for lease in leases:
            lease.held = False

    def _register(self, database: Database, number: int) -> None:
        """Enter this process into the table of owners, and remove the dead with their leases.

        So it does again in a database that has replaced a damaged one, where a lease that was released may be back.
        """
        process = this_process()

        def register(execute: Execute) -> None:
            for (other,) in execute("SELECT number FROM Owner").fetchall():
                if not self._folder.owners.is_alive(other):
                    execute("DELETE FROM Lease WHERE owner = ?", (other,))
                    execute("DELETE FROM Owner WHERE number = ?", (other,))
            for (lease,) in execute("SELECT number FROM Lease WHERE owner = ?", (number,)).fetchall():
                if lease not in self._own:
                    execute("DELETE FROM Lease WHERE owner = ? AND number = ?", (number, lease))
            execute("INSERT OR REPLACE INTO Owner VALUES (?, ?, ?, ?, ?, ?)", (number, *process))

        database.transact(register, BRIEFLY)
        self._registered = number, database.place


def _call_of(function: object, arguments: object) -> tuple[str, dict[str, Any]]:
    """Return the function and the arguments of a lease, as far as they can be read."""
    name = function if isinstance(function, str) and is_text(function) else ""
    try:
        return name, object_from(arguments) if is_text(arguments) else {}  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError):
        return name, {}


def _in_groups(leases: Sequence[Lease]) -> Iterator[Sequence[Lease]]:
    for start in range(0, len(leases), AT_ONCE):
        yield leases[start : start + AT_ONCE]


def _name(key: str, number: int) -> str:
    """Return the name under which an exception is sealed. No entry has it, so its bytes serve for nothing else."""
    return f"\0failure {number}\0{key}"


class Owners:
    """The byte of this process in the file, and whether others still hold theirs.

    The byte's offset is a random number, so no other process ever has the same one, and the file stays empty. Call
    `join` and `is_alive` only where forks are kept away: a child must know, and close, what it inherits.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.path.abspath(path)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Close in a forked child what it inherited: it is another owner, and must not keep its parent's byte."""
        file: _OpenFile | _ProcessFile | None = getattr(self, "_file", None)
        if file is not None:
            file.leave()
        self._lock = threading.Lock()
        self._file: _OpenFile | _ProcessFile | None = None
        self._number = 0

    def __del__(self) -> None:
        self.close()

    @property
    def has_joined(self) -> bool:
        """Whether this process holds a byte."""
        return self._number != 0

    def join(self) -> int:
        """Lock this process's byte, unless it is locked, and give its number.

        Raises:
            OSError: when the file can't be opened or made.
        """
        number, file = self._number, self._file
        if number and file is not None and os.fstat(file.descriptor).st_nlink:  # else it was removed
            return number
        with self._lock:
            if self._number in (0, number):  # else another thread was first
                file = self._open()
                new = int.from_bytes(os.urandom(8), "little") >> 2
                file.try_lock(new)
                self._number = new
            return self._number

    def is_alive(self, number: int) -> bool:
        """Whether the process of a number still holds its byte.

        Raises:
            OSError: when the file can't be opened or made.
        """
        if number == self._number:
            return True
        file = self._file
        if file is None:
            with self._lock:
                file = self._file or self._open()
        return file.is_locked(number)

    def close(self) -> None:
        """Release this process's byte, and so its leases. The next use opens the file again."""
        with self._lock:
            self._close()

    def _open(self) -> _OpenFile | _ProcessFile:
        self._close()
        self._file = file = _KIND(self._path)
        return file

    def _close(self) -> None:
        file, self._file, self._number = self._file, None, 0
        if file is not None:
            try:
                file.close()
            except OSError as error:  # a closed descriptor holds no byte
                _log.warning("%s can't be closed: %s", self._path, error)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _flock(kind: int, start: int, length: int = 1) -> bytes:
    """Pack the C structure of a lock. A length of 0 means all that follows."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, start, length, 0)


class _OpenFile:
    """A file, made if it isn't there, whose bytes an open file locks (`F_OFD_SETLK`) until its last descriptor goes."""

    def __init__(self, path: str) -> None:
        self.descriptor = _open(path)

    def try_lock(self, byte: int) -> bool:
        """Lock a byte against all others that have the file open; False where another one holds it."""
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def is_locked(self, byte: int) -> bool:
        """Whether another one holds a byte."""
        found = fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
        return bool(struct.unpack_from("h", found)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Unlock all bytes."""
        try:
            # A child that was forked without Python's hooks may have the file open still.
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, 0, 0))
        finally:
            self.leave()

    def leave(self) -> None:
        """Close what a forked child inherits; the parent keeps its bytes."""
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)


class _ProcessFile:
    """Locks bytes by process (`lockf`), where the system has no other locks.

    Closing any descriptor of a file drops them all, so a process opens a file once and never closes it. They exclude
    nobody inside the process, so a set of the locked bytes does.
    """

    _descriptors: ClassVar[dict[tuple[int, int], int]] = {}
    _held: ClassVar[set[tuple[int, int]]] = set()
    _guard: ClassVar = threading.RLock()

    def __init__(self, path: str) -> None:
        self._own: set[int] = set()
        with self._guard:
            try:
                status = os.stat(path)
                self.descriptor = self._descriptors[status.st_dev, status.st_ino]
            except (FileNotFoundError, KeyError):
                self.descriptor = _open(path)
                status = os.fstat(self.descriptor)
                self._descriptors[status.st_dev, status.st_ino] = self.descriptor

    def try_lock(self, byte: int) -> bool:
        with self._guard:
            if (self.descriptor, byte) in self._held:
                return byte in self._own
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):
                return False
            self._held.add((self.descriptor, byte))
            self._own.add(byte)
            return True

    def is_locked(self, byte: int) -> bool:
        with self._guard:
            if (self.descriptor, byte) in self._held:
                return byte not in self._own
            if not self.try_lock(byte):
                return True
            self._unlock(byte)
            return False

    def _unlock(self, byte: int) -> None:
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, byte)
        self._own.discard(byte)
        self._held.discard((self.descriptor, byte))

    def close(self) -> None:
        with self._guard:
            for byte in list(self._own):
                self._unlock(byte)

    def leave(self) -> None:
        """Forget the descriptor, which `forget_parent` closes. The child has none of the locks."""
        self.descriptor = -1
        self._own.clear()

    @classmethod
    def forget_parent(cls) -> None:
        """Close in a forked child what its parent had open."""
        for descriptor in cls._descriptors.values():
            os.close(descriptor)
        cls._descriptors.clear()
        cls._held.clear()
        cls._guard = threading.RLock()


os.register_at_fork(after_in_child=_ProcessFile.forget_parent)

_KIND: type[_OpenFile | _ProcessFile] = _OpenFile if sys.platform == "linux" else _ProcessFile
