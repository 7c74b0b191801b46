"""Knows a store's folder, open or not: its database, its signature, and whether it still is the one that was opened."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from .._errors import warn_caller
from .._forks import renew_after_fork
from .._names import ForeignName
from .._record import Origin
from .base import PATIENCE, StoreBusy, StoreDamaged, StoreFailure, Tally
from .claims.claims import Claims
from .database import Database, Locked
from .entries.deposits import database_of, place_of
from .entries.faults import MissignedEntry
from .entries.signature import (
    SECRET_VARIABLE,
    UNSIGNED,
    Signature,
    personal_signature,
    signature_from_environment,
)
from .gate import operation
from .generation import GENERATION_NAME, Generation
from .opening import is_writable, mend_database, open_database, open_read_only, open_to_look
from .place import is_replaceable, refuse_untrusted, set_up
from .recovery import is_damage_in_use

__all__ = ["Folder", "Opened"]

ATTEMPTS: Final = 10
"""How often a database is opened that is another one when it is open."""

LOOK_EVERY: Final = 0.005
"""Seconds between two looks of those who read whether the folder was removed."""

_PRIMARY: Final = 0xFF
"""The bits of SQLite's error codes that say what is wrong in general."""

_REFUSALS: Final = (Locked, sqlite3.Error, UnicodeError, OSError)
"""What the database or the disk raises."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """An open folder."""

    database: Database
    signature: Signature
    place: tuple[int, int]
    """Where the database's file lies on the disk."""
    is_writable: bool


class Folder:
    """The folder of a store; opened at first use, and again at the first use after `close()`.

    Attributes:
        trusted: whether a folder is used that another user owns or can write to.
        is_over: whether it is about to be removed, and is not opened any more.
        only_looks: whether it is left as it is: nothing is made, brought up to date, set aside or changed.
        patience: seconds for which it is waited for others who keep it locked.
        editions: those that are known to be in the database.
        origins: numbers of the origins that are known to be in the database.
        opened: what is open, or None.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tag_index: bool,
        trusted: bool,
        only_looks: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        self.directory = directory
        self.trusted = trusted
        self.is_over = False
        self.only_looks = only_looks
        self.patience = patience
        self.generation = Generation(directory / GENERATION_NAME, patience)
        self.claims = Claims(directory / "claims")
        self.tally = Tally()
        self.editions: set[bytes] = set()
        self.origins: dict[Origin, int] = {}
        self._tag_index = tag_index
        self.opened: Opened | None = None
        self._database = database_of(directory)
        self._look_again = 0.0
        self._has_missigned = False
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._lock = threading.RLock()

    def open(self) -> Opened:
        """Open the database, made if it isn't there.

        Raises:
            UntrustedCache: when another user owns the folder or can write to it.
            StoreFailure: when the database can't be opened or is of a later version.
        """
        opened = self.opened
        if opened is not None:
            return opened
        with self._lock, operation:
            if self.opened is None:
                try:
                    self.opened = self._open()
                except _REFUSALS as error:
                    raise _failure(error) from error
                self.editions, self.origins = set(), {}
            return self.opened

    def _open(self) -> Opened:
        if self.is_over:
            raise StoreFailure(f"{self.directory} was a temporary cache, and is removed")
        if not self.only_looks:
            set_up(self.directory)
        signature = self._signature()
        writable = not self.only_looks and is_writable(self.directory)
        for _ in range(ATTEMPTS):
            before, damaged = self._place(), self.tally.damaged
            database = self._connect(writable)
            place = self._place()
            if place is not None and (before in {None, place} or self.tally.damaged != damaged):
                break
            database.close_all()
        else:
            raise StoreFailure(f"{self.directory} is replaced by another folder again and again")
        database._disk.trusted = self.trusted
        self.generation.open(writable=writable)
        return Opened(database, signature, place, writable)

    def _signature(self) -> Signature:
        """Give what entries are signed with: the secret that is set, or the user's own key where it takes one.

        Raises:
            UntrustedCache: when it takes one, and there is none.
        """
        signature = signature_from_environment()
        if signature.kind or self.trusted or not is_replaceable(self.directory):
            return signature
        return personal_signature(self.directory)

    def _connect(self, writable: bool) -> Database:
        """Connect to the database; what was set aside for it is counted."""
        if not self.trusted:
            refuse_untrusted(self.directory)
        if writable:
            return open_database(
                self.directory, tag_index=self._tag_index, patience=self.patience, tally=self.tally
            )
        if self.only_looks:
            return open_to_look(self.directory, self.patience)
        _log.info("%s can be read only", self.directory)
        return open_read_only(self.directory, self.patience)

    def _place(self) -> tuple[int, int] | None:
        """Tell where the database lies on the disk, or None where it isn't there."""
        try:
            return place_of(self._database)
        except FileNotFoundError:
            return None

    def look_for_removal(self) -> None:
        """Begin a new store where the folder was removed under an open one: writes would be lost in silence."""
        opened = self.opened
        if opened is None:
            return
        self._look_again = time.monotonic() + LOOK_EVERY
        place = self._place()
        if place == opened.place:
            return
        if place is not None and self.generation.is_in_place():  # another process has mended it
            _log.warning("the database of %s was replaced while it was open", self.directory)
            self._leave_database()
        else:
            _log.warning("%s was removed while it was open; a new cache begins there", self.directory)
            self.close()

    def _leave_database(self) -> None:
        """Open the database anew at the next use; this process's claims stay what they are."""
        with self._lock, operation:
            opened, self.opened = self.opened, None
        if opened is not None:
            opened.database.close()

    def mend(self, error: BaseException, *, surely: bool = False) -> bool:
        """Replace the database, if an error tells that it is damaged; whether to try again what has raised it.

        With `surely` it is replaced whatever a check of it says. What can be read of it is kept.
        """
        opened = self.opened
        is_writable = opened is None or opened.is_writable  # another thread may be about to replace it
        if not is_writable or not is_damage_in_use(error, surely=surely):
            return False
        try:
            self.replace_database(str(error), surely=surely)
        except StoreFailure as problem:
            _log.warning("the damaged database of %s can't be replaced: %s", self.directory, problem)
            return False
        return True

    def replace_database(self, reason: str, *, surely: bool = False) -> bool:
        """Put a new database with all that can be read in the place of a damaged one; whether a check found it damaged.

        Raises:
            StoreFailure: when that can't be done.
        """
        try:
            place = self.open().place
            self._leave_database()
            return mend_database(
                self.directory,
                reason,
                place,
                tag_index=self._tag_index,
                patience=self.patience,
                surely=surely,
                tally=self.tally,
            )
        except _REFUSALS as error:
            raise _failure(error) from error

    def to_read(self) -> Opened:
        """Give the open folder to one who reads; whether it was removed is looked at now and then."""
        if time.monotonic() > self._look_again:
            self.look_for_removal()
        return self.opened or self.open()

    def sql(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Give the rows of a statement on this thread's own connection."""
        return self.open().database.read(statement, values)

    def query(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement that reads.

        Raises:
            StoreFailure: when the store can't be read.
        """
        return self.translated(lambda: self.sql(statement, values))

    def translated(self, work: Callable[..., T], *given: Any) -> T:
        """Do some work on the database.

        Raises:
            StoreFailure: when the database or the disk says no.
        """
        with operation:
            try:
                self.look_for_removal()
                return work(*given)
            except _REFUSALS as error:
                raise _failure(error) from error

    def changed(self, work: Callable[..., T], *given: Any) -> T:
        """Do some work that writes; it is called with the database and what is given.

        Raises:
            StoreFailure: when the database or the disk says no.
        """
        with operation:
            for turn in itertools.count():
                try:
                    self.look_for_removal()
                    opened = self.opened or self.open()
                    if not opened.is_writable:
                        raise StoreFailure(f"{self.directory} can be read, but not written")
                    return work(opened.database, *given)
                except _REFUSALS as error:
                    # What a check has found whole, and is damaged once more, is replaced all the same.
                    if turn > 1 or not self.mend(error, surely=turn == 1):
                        raise _failure(error) from error
        raise AssertionError("the last turn returns or raises")

    def remove_file(self, database: Database, filename: str) -> None:
        """Remove the value file of a row that is gone."""
        try:
            database.disk.remove(filename)
        except ForeignName as error:
            self.report_foreign(error)

    def report_foreign(self, error: ForeignName) -> None:
        """Count and log a row that named a file or folder outside of the store, or none of its own; both stay."""
        self.tally.damaged += 1
        _log.warning("a row of %s is damaged, and what it names is left alone: %s", self.directory, error)

    def warn_unread(self, error: Exception) -> None:
        """Say that the store can't be read."""
        _log.warning("%s can't be read: %s", self.directory, error)
        warn_caller(f"{self.directory} can't be read, so the job runs as if it were not cached: {error}")

    def warn_missigned(self, key: str, error: MissignedEntry) -> None:
        """Say that there are entries of another secret, once for all of them; each of them is logged."""
        _log.info("the entry %s in %s is a miss here, and left: %s", key, self.directory, error)
        if not self._has_missigned:
            self._has_missigned = True
            signature = UNSIGNED if self.opened is None else self.opened.signature
            remedy = (
                "Others can put another folder in its place, so only what your key has signed is used. If all of it "
                "is yours, export it with trusted=True and import it here."
                if signature.is_personal
                else f"Set {SECRET_VARIABLE} as it was when they were stored, and trusted= too."
            )
            warn_caller(
                f"Entries in {self.directory} can't be verified with {signature.source}. They are "
                f"misses here, and each stays until its job has run again. Of the first, {key}: {error}. {remedy}"
            )

    def close(self) -> None:
        """Close all connections, the map of the generation and the claims; the next use opens them again."""
        with self._lock, operation:
            opened, self.opened = self.opened, None
            self.generation.close()
            self.claims.close()
        if opened is not None:
            opened.database.close()


def _failure(error: Exception) -> StoreFailure:
    """Tell what the database or the disk says in words of ours, and by type what a caller may act on."""
    if isinstance(error, Locked):
        return StoreBusy(f"the database can't be written, or another process keeps it locked ({error})")
    told = f"{type(error).__name__}: {error}"
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & _PRIMARY
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} or isinstance(error, TimeoutError):
        return StoreBusy(told)
    return (
        StoreDamaged(told) if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} else StoreFailure(told)
    )
