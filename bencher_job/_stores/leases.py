"""Leases: which process computes a key, as rows of the store's own database.

    acquire -> held: compute; the commit of the result releases the lease in the same transaction
            -> another's: wait, poll `look` -> free: look the entry up, else acquire again
                                            -> the owner is stopped for long: replace its lease; its result is refused

A lease belongs to an owner, a process that holds its byte of the store's file `owners`. The system unlocks the byte
when the process ends, however it ends, and then the lease is free.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from .._processes import Process, is_stopped, this_process
from .base import BRIEFLY, Lease, LeaseInfo, LeasesUnavailable, StoreFailure
from .codec import DamagedEntry, Payload, UnreadableEntry, seal, unseal
from .schema import PUT_FAILURE

if TYPE_CHECKING:
    from .database import Database, Transaction
    from .folder import Folder

__all__ = ["LeaseOwner", "LeasesLost", "StoreLeases", "StoreWait"]


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

_INSERT: Final = "INSERT OR IGNORE INTO Lease (key, number, owner, since) VALUES (?, ?, ?, ?)"
_REPLACE: Final = "UPDATE Lease SET number = ?, owner = ?, since = ? WHERE key = ? AND number = ?"
_RELEASE: Final = "DELETE FROM Lease WHERE key = ? AND number = ?"
_FIND: Final = "SELECT number, owner FROM Lease WHERE key = ?"
_WAITED: Final = "UPDATE Lease SET waited = 1 WHERE key = ? AND number = ?"
_IS_WAITED_FOR: Final = "SELECT 1 FROM Lease WHERE key = ? AND number = ? AND waited"
_HAS_ENTRY: Final = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
_DESCRIBE: Final = (
    "SELECT Lease.number, Owner.number, host, boot, pid, started, namespace FROM Lease"
    " JOIN Owner ON Owner.number = Lease.owner WHERE key = ?"
)

_RUNNING: Final = (
    "SELECT key, since, Owner.number, host, boot, pid, started, namespace FROM Lease"
    " JOIN Owner ON Owner.number = Lease.owner ORDER BY since"
)

_T = TypeVar("_T")
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
        self._registered = 0

    def acquire(self, leases: Sequence[Lease]) -> None:
        """Acquire those leases whose keys no living process has, not even this one."""
        if len(leases) == 1:
            try:
                self._folder.changed(self._acquire_one, leases[0])
            except StoreFailure as error:
                raise self._unavailable(error) from error
            return
        for some in _in_groups(leases):
            self._run(self._acquire_some, some)

    def wait(self, lease: Lease) -> StoreWait:
        """Start to wait for the key of a lease that could not be acquired."""
        return StoreWait(self, lease)

    def taken(self, keys: Collection[str]) -> set[str]:
        """Give those keys that other living processes have. It waits for nobody."""
        owners = self._folder.owners
        statement = "SELECT key, owner FROM Lease WHERE owner != ?"
        values: tuple[object, ...] = (self._registered,)
        if len(keys) == 1:
            statement, values = f"{statement} AND key = ?", (*values, *keys)

        def look() -> set[str]:
            rows = self._folder.sql(statement, values)
            living = {number for number in {number for _, number in rows} if owners.is_alive(number)}
            return {key for key, number in rows if number in living}.intersection(keys)

        try:
            return self._folder.translated(look)
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def running(self) -> list[LeaseInfo]:
        """Return the jobs that living processes run."""

        def look() -> list[LeaseInfo]:
            return [
                LeaseInfo(key, Process(*process), since)
                for key, since, owner, *process in self._folder.sql(_RUNNING)
                if self._folder.owners.is_alive(owner)
            ]

        try:
            return self._folder.translated(look)
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def owner_of(self, key: str) -> LeaseOwner | None:
        """Return the living process that has a key. It waits for nobody."""

        def look() -> LeaseOwner | None:
            for number, owner, *process in self._folder.sql(_DESCRIBE, (key,)):
                if self._folder.owners.is_alive(owner):
                    return LeaseOwner(number, Process(*process))
            return None

        try:
            return self._folder.translated(look)
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def tell_of_waiter(self, key: str, number: int) -> None:
        """Tell the owner of the lease with a number that its exception is wanted."""
        self._run(lambda database: database._con.execute(_WAITED, (key, number)))

    def fail(self, lease: Lease, dump: Callable[[], bytes]) -> None:
        """Release a lease whose job has raised; its waiters can read the exception's bytes for a minute.

        If they can't be stored, one of the waiters runs the job itself.
        """
        try:
            if self._folder.query(_IS_WAITED_FOR, (lease.key, lease.number)):
                self._folder.changed(self._put_failure, lease, dump())
        except StoreFailure as problem:
            _log.warning("the waiters for %s do not get its exception: %s", lease.key, problem)
        finally:
            self.release([lease])

    def _put_failure(self, database: Database, lease: Lease, error: bytes) -> None:
        name = _name(lease.key, lease.number)
        sealed = bytes(seal(Payload(error), name, signature=self._folder.open().signature))
        now = time.time()
        with database.transaction() as transaction:
            # Those of the future too: they are from before a clock was set back.
            database.execute("DELETE FROM Failure WHERE NOT at BETWEEN ? AND ?", (now - KEPT, now + KEPT))
            database.execute(PUT_FAILURE, (lease.key, lease.number, now, sealed))
            transaction.commit()

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

    @staticmethod
    def release_in(transaction: Transaction, leases: Iterable[Lease | None]) -> None:
        """Release leases when a transaction is committed.

        Raises:
            LeasesLost: when some are another's now; the transaction must not be committed.
        """
        lost = set()
        for lease in leases:
            if lease is not None and not transaction.execute(_RELEASE, (lease.key, lease.number)).rowcount:
                lost.add(lease)
        if lost:
            raise LeasesLost(frozenset(lost))

    def _run(self, work: Callable[..., _T], *given: Any) -> _T:
        """Do some work that changes leases; it is called with the database and what is given."""
        try:
            return self._folder.changed(work, *given)
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: StoreFailure) -> LeasesUnavailable:
        return LeasesUnavailable(
            f"{self._folder.directory} can't say who computes what ({error}), so jobs may be computed twice."
        )

    def _acquire_one(self, database: Database, lease: Lease) -> None:
        owner, connection = self._folder.owners.join(), database._con
        if owner != self._registered:
            self._register(database, owner)
        if connection.in_transaction:  # an interrupt has kept it from its end
            connection.rollback()
        self._acquire(connection.execute, lease, owner)

    def _acquire_some(self, database: Database, leases: Sequence[Lease]) -> None:
        owner = self._folder.owners.join()
        if owner != self._registered:
            self._register(database, owner)
        try:
            with database.transaction(BRIEFLY) as transaction:
                for lease in leases:
                    self._acquire(transaction.execute, lease, owner)
                transaction.commit()
        except BaseException:
            for lease in leases:
                lease.held = False
            raise

    def _acquire(self, execute: Callable[..., Any], lease: Lease, owner: int) -> None:
        key, number = lease.key, lease.number
        while not execute(_INSERT, (key, number, owner, time.time())).rowcount:
            found = execute(_FIND, (key,)).fetchone()
            if found is None:  # released just now
                continue
            if found[0] != lease.replaces and self._folder.owners.is_alive(found[1]):
                return
            if execute(_REPLACE, (number, owner, time.time(), key, found[0])).rowcount:
                break
        lease.held = True
        lease.has_entry = execute(_HAS_ENTRY, (key,)).fetchone() is not None

    def _release_some(self, database: Database, leases: Sequence[Lease]) -> None:
        with database.transaction(BRIEFLY) as transaction:
            for lease in leases:
                transaction.execute(_RELEASE, (lease.key, lease.number))
            transaction.commit()
        for lease in leases:
            lease.held = False

    def _register(self, database: Database, number: int) -> None:
        """Enter this process into the table of owners, and remove the dead with their leases."""
        process = this_process()
        with database.transaction(BRIEFLY) as transaction:
            for (other,) in transaction.execute("SELECT number FROM Owner").fetchall():
                if not self._folder.owners.is_alive(other):
                    transaction.execute("DELETE FROM Lease WHERE owner = ?", (other,))
                    transaction.execute("DELETE FROM Owner WHERE number = ?", (other,))
            transaction.execute("INSERT OR REPLACE INTO Owner VALUES (?, ?, ?, ?, ?, ?)", (number, *process))
            transaction.commit()
        self._registered = number


def _in_groups(leases: Sequence[Lease]) -> Iterator[Sequence[Lease]]:
    for start in range(0, len(leases), AT_ONCE):
        yield leases[start : start + AT_ONCE]


def _name(key: str, number: int) -> str:
    """Return the name under which an exception is sealed. No entry has it, so its bytes serve for nothing else."""
    return f"\0failure {number}\0{key}"
