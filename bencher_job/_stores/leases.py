"""Leases: which process computes a key, as rows of the store's own database.

    acquire -> held: compute; the commit of the result releases the lease in the same transaction
            -> another's: poll `owner` -> gone: acquire again
                                       -> stopped for long: take over; its result is then refused

A lease belongs to an owner, a process that holds its byte of the store's file `owners`. The system unlocks the byte
however the process ends, and then the lease is free.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from .._processes import Process, is_stopped, this_process
from .base import BRIEFLY, StoreFailure

if TYPE_CHECKING:
    from .database import Database, Transaction
    from .folder import Folder

__all__ = ["Lease", "Leases", "LeasesLost", "LeasesUnavailable", "Owner", "Wait"]


STOPPED_PATIENCE: Final = 10.0
"""Seconds for which an owner is seen stopped before its lease is taken over."""

LOOK_AT_OWNER_EVERY: Final = 0.1
"""Seconds between two looks at an owner's state."""

LONGEST_GAP: Final = 2.0
"""Seconds that count at most between two looks: a waiter that was stopped itself has seen nothing in that time."""

AT_ONCE: Final = 5_000
"""Leases that one transaction acquires or releases at most, so that others can write in between."""

_INSERT: Final = "INSERT OR IGNORE INTO Lease (key, number, owner, since) VALUES (?, ?, ?, ?)"
_REPLACE: Final = "UPDATE Lease SET number = ?, owner = ?, since = ? WHERE key = ? AND number = ?"
_RELEASE: Final = "DELETE FROM Lease WHERE key = ? AND number = ?"
_FIND: Final = "SELECT number, owner FROM Lease WHERE key = ?"
_HAS_ENTRY: Final = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1"
_DESCRIBE: Final = (
    "SELECT Lease.number, since, Owner.number, host, boot, pid, started, namespace FROM Lease"
    " JOIN Owner ON Owner.number = Lease.owner WHERE key = ?"
)

_RUNNING: Final = (
    "SELECT key, Lease.number, since, Owner.number, host, boot, pid, started, namespace FROM Lease"
    " JOIN Owner ON Owner.number = Lease.owner ORDER BY since"
)

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class LeasesUnavailable(OSError):
    """The database can't say who computes a key, so the caller computes it without a lease."""


class LeasesLost(Exception):
    """Some leases are another process's now.

    Attributes:
        leases: those that were lost.
    """

    def __init__(self, leases: frozenset[Lease]) -> None:
        super().__init__(leases)
        self.leases = leases


class Lease:
    """The right to compute a key. It excludes others once it is acquired.

    Note it where an interrupt finds it before you acquire it: releasing one that is not held does no harm.

    Attributes:
        number: tells this lease from any other one of the key.
        held: whether it was acquired and not released since. Another process may have taken it over.
        has_entry: whether the key had an entry when the lease was acquired, stored perhaps since it was looked up.
    """

    __slots__ = ("has_entry", "held", "key", "number")

    def __init__(self, key: str) -> None:
        self.key = key
        self.number = int.from_bytes(os.urandom(7), "little")
        self.held = self.has_entry = False

    def __repr__(self) -> str:
        return f"Lease({self.key!r}, {self.number}, held={self.held})"


class Owner(NamedTuple):
    """The process that computes a key.

    Attributes:
        number: the number of its lease.
        since: when it acquired the lease, in seconds since 1970.
    """

    process: Process
    number: int
    since: float


class Wait:
    """For how long one waiter has seen an owner stopped."""

    def __init__(self) -> None:
        self._number = 0
        self._stopped = False
        self._looked = 0.0
        self._seconds = 0.0

    def is_overdue(self, owner: Owner) -> bool:
        """Whether the owner was stopped at each look for `STOPPED_PATIENCE` seconds. It costs little at every poll."""
        now = time.monotonic()
        if owner.number != self._number:
            self._number, self._stopped, self._seconds = owner.number, False, 0.0
        elif now - self._looked < LOOK_AT_OWNER_EVERY:
            return self._seconds >= STOPPED_PATIENCE
        before, self._stopped = self._stopped, is_stopped(owner.process)
        if not self._stopped:
            self._seconds = 0.0
        elif before:
            self._seconds += min(now - self._looked, LONGEST_GAP)
        self._looked = now
        return self._seconds >= STOPPED_PATIENCE


class Leases:
    """The leases of all processes that share a store. A forked child is another owner than its parent.

    Each method but `release` raises `LeasesUnavailable` where the database can't be read or written, or others keep it
    locked for `BRIEFLY`.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._registered = 0

    def acquire(self, lease: Lease) -> bool:
        """Acquire a lease; False where a living process has its key, even this one."""
        try:
            self._folder.changed(self._acquire_one, lease)
        except StoreFailure as error:
            raise self._unavailable(error) from error
        return lease.held

    def acquire_many(self, leases: Sequence[Lease]) -> None:
        """Acquire those leases whose keys no living process has."""
        for some in _in_groups(leases):
            self._run(self._acquire_some, some)

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

    def running(self) -> list[tuple[str, Owner]]:
        """Give the keys that living processes compute, with these. It changes nothing and waits for nobody."""

        def look() -> list[tuple[str, Owner]]:
            return [
                (key, Owner(Process(*process), number, since))
                for key, number, since, owner, *process in self._folder.sql(_RUNNING)
                if self._folder.owners.is_alive(owner)
            ]

        try:
            return self._folder.translated(look)
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def owner(self, key: str) -> Owner | None:
        """Give the living process that has a key. It changes nothing and waits for nobody, so poll it."""

        def look() -> Owner | None:
            for number, since, owner, host, boot, pid, started, namespace in self._folder.sql(
                _DESCRIBE, (key,)
            ):
                if self._folder.owners.is_alive(owner):
                    return Owner(Process(host, boot, pid, started, namespace), number, since)
            return None

        try:
            return self._folder.translated(look)
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def wait_for(self, key: str, number: int) -> bool:
        """Tell the owner of the lease with this number that somebody waits; False where that is no longer there."""
        statement = "UPDATE Lease SET waited = 1 WHERE key = ? AND number = ?"
        return self._run(lambda database: bool(database._con.execute(statement, (key, number)).rowcount))

    def is_waited_for(self, lease: Lease) -> bool:
        """Whether somebody waits for a lease."""
        statement = "SELECT 1 FROM Lease WHERE key = ? AND number = ? AND waited"
        try:
            return bool(self._folder.query(statement, (lease.key, lease.number)))
        except StoreFailure as error:
            raise self._unavailable(error) from error

    def take_over(self, lease: Lease, number: int) -> bool:
        """Acquire a lease in place of the one with this number; False where that is no longer there."""

        def replace(database: Database) -> bool:
            owner = self._folder.owners.join()
            if owner != self._registered:
                self._register(database, owner)
            values = lease.number, owner, time.time(), lease.key, number
            lease.held = bool(database._con.execute(_REPLACE, values).rowcount)
            return lease.held

        return self._run(replace)

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
    def release_in(transaction: Transaction, leases: Iterable[Lease]) -> None:
        """Release leases when a transaction is committed.

        Raises:
            LeasesLost: when some are another's now; the transaction must not be committed.
        """
        execute = transaction.execute
        lost = [lease for lease in leases if not execute(_RELEASE, (lease.key, lease.number)).rowcount]
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
            if self._folder.owners.is_alive(found[1]):
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
