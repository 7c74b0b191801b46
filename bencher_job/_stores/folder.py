"""The folder of a store: permissions, opening, and its database.

Checking a folder and opening what is in it are two steps, so who can rename a folder on the way can put another one in
its place in between. Where that can happen, entries are signed with the user's own key, see `signature.py`.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple, TypeVar

from .._errors import UntrustedCache, warn_caller
from .._folders import ForeignName, make_private, owner_only
from .._processes import renew_after_fork
from .._record import Origin
from .._text import counted
from .base import PATIENCE, StoreBusy, StoreDamaged, StoreFailure, StoreMissing, Tally
from .blobs import database_of, exposure, place_of
from .changes import ChangeCounter
from .database import DATABASE_NAME, GENERATION_NAME, Database, Execute, Locked, Replaced, fork_guard
from .leases import Owners
from .parts import MissignedEntry
from .recovery import PROBES, UNREADABLE, is_damage, is_damage_in_use, is_whole, recover
from .schema import STORE_VERSION, TABLES
from .signature import SECRET_VARIABLE, UNSIGNED, Signature, personal_signature, signature_from_environment

TAG_NAME: Final = "CACHEDIR.TAG"
TAG_TEXT: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder holds a cache that bencher_job made. Backup programs may leave it out: https://bford.info/cachedir/\n"
)
"""The text that the Cache Directory Tagging Specification asks for."""

MOST_LINKS: Final = 40
"""Links that are followed, as the kernel does."""

GITIGNORE_TEXT: Final = "# Made by bencher_job: nothing in a cache belongs in a repository.\n*\n"


def set_up(directory: Path) -> None:
    """Make a store's folder and what is missing above it, for the owner only and marked as a cache.

    The marks stand in the topmost folder that is new, or in the store's own where its parent was there before.

    Raises:
        OSError: when a folder can't be made.
    """
    if make_private(directory.parent):
        _mark(directory.parent)
        make_private(directory)
    elif make_private(directory):
        _mark(directory)


def _mark(directory: Path) -> None:
    for name, text in ((TAG_NAME, TAG_TEXT), (".gitignore", GITIGNORE_TEXT)):
        with suppress(FileExistsError), open(directory / name, "x", opener=owner_only) as file:
            file.write(text)


def refuse_untrusted(directory: Path) -> None:
    """Refuse a store whose folder or database another user owns or could write to.

    A database that the folder keeps from others may have any mode.

    Raises:
        UntrustedCache: naming the path and the remedy.
    """
    reach = stat.S_IWGRP | stat.S_IWOTH
    """The mode bits of users who could write: to the files, only those who may search the folder."""
    for path in (directory, directory / "cache.db", directory / "cache.db-wal"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if reason := exposure(status, reach):
            remedy = (
                f"If only you have written to it so far, run: chmod -R go-w {directory}"
                if status.st_uid == os.geteuid()
                else "Choose a folder of your own with cache_dir= or BENCHER_JOB_CACHE_DIR, or say trusted=True."
            )
            raise UntrustedCache(os.fspath(path), reason, remedy)
        if path == directory:
            reach &= (status.st_mode & (stat.S_IXGRP | stat.S_IXOTH)) << 1


def is_replaceable(directory: Path) -> bool:
    """Whether another user, root aside, can replace this folder by another one.

    That needs a folder on the way, from the root on, in which others can rename what belongs to this user. A link is
    followed, and the way that it leads is looked at as well.
    """
    way = [*reversed(directory.absolute().parts)]
    at = Path(way.pop())
    links = 0
    while way:
        name = way.pop()
        if name == "..":
            at = at.parent
            continue
        path = at / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            return _others_can_rename_in(at, os.geteuid())
        if _others_can_rename_in(at, status.st_uid):
            return True
        if not stat.S_ISLNK(status.st_mode):
            at = path
            continue
        links += 1
        if links > MOST_LINKS:
            return True
        target = PurePath(os.readlink(path))
        parts = [*reversed(target.parts)]
        if target.is_absolute():
            at = Path(parts.pop())
        way += parts
    return False


def _others_can_rename_in(folder: Path, owner: int) -> bool:
    """Whether another user can rename what an owner has in a folder."""
    ours = {0, os.geteuid()}
    status = folder.stat()
    if status.st_uid not in ours:
        return True
    if status.st_mode & stat.S_ISVTX and owner in ours:
        return False
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and (_has_acl(folder) or _has_others(status.st_gid))


def _has_acl(folder: Path) -> bool:
    """Whether an access control list says who may write, of which the mode shows the sum only."""
    try:
        return bool(os.getxattr(folder, "system.posix_acl_access"))
    except (OSError, AttributeError):  # none; a system that has no such lists
        return False


def _has_others(group: int) -> bool:
    """Whether a group has, or may have, a member besides this user: its only member must be known by name."""
    import grp  # these two are needed where a group can write
    import pwd

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
        members = {*grp.getgrgid(group).gr_mem}
    except KeyError:
        return True
    if members - {name}:  # all users are asked for last, which may take long
        return True
    return members | {each.pw_name for each in pwd.getpwall() if each.pw_gid == group} != {name}


OPENING_PATIENCE: Final = 60.0
"""Seconds for which another process may take to make the tables."""

_log = logging.getLogger(__name__)


def is_writable(directory: Path) -> bool:
    """Whether this process may write to a store that is there, or make it."""
    database = directory / DATABASE_NAME
    return os.access(directory, os.W_OK | os.X_OK) and (os.access(database, os.W_OK) or not database.exists())


def _open_read_only(directory: Path, patience: float) -> Database:
    """Open a database that can't be written.

    Raises:
        sqlite3.Error: when it can't be read either.
        StoreFailure: when another version of this library has written it.
    """
    path = directory / DATABASE_NAME
    log = Path(f"{path}-wal")
    for access in ("?mode=ro", "?immutable=1"):
        database = _database(directory, patience, access)
        try:
            _version(database, directory)
        except sqlite3.OperationalError:
            database.close_all()
            # Who may not make the log's index reads the file alone, where that is all there is.
            if access == "?immutable=1" or (log.exists() and log.stat().st_size):
                raise
        else:
            return database
    raise AssertionError("the last attempt returns or raises")


def _open_to_look(directory: Path, patience: float) -> Database:
    """Open a database that is there, as it is: what is damaged or of another version stays so.

    The connection may write although nobody does: one that may not leaves a log behind where there was none.

    Raises:
        sqlite3.Error: when it can't be read, or is damaged.
        StoreMissing: when it isn't there.
        StoreFailure: when another version of this library has written it.
    """
    if not os.path.exists(directory / DATABASE_NAME):
        raise StoreMissing(f"{directory} holds no cache: there is no {DATABASE_NAME} in it")
    if not is_writable(directory):
        return _open_read_only(directory, patience)
    database = _database(directory, patience, "?mode=rw")
    try:
        if not _version(database, directory):
            raise StoreMissing(f"{directory} holds no cache: {DATABASE_NAME} has none of its tables")  # noqa: TRY301
        database.execute("SELECT counted FROM Totals")  # a file that was cut off is found out here
    except BaseException:
        database.close_all()
        raise
    return database


def _database(directory: Path, patience: float, access: str = "") -> Database:
    """Return the database that lies in a folder now, and changes no other that is put in its place."""
    database = Database(os.fspath(directory), access=access, patience=patience)
    database.place = place_of(database_of(directory))
    return database


def _make_missing(directory: Path, patience: float) -> None:
    """Make the database if it is missing, for its owner only, which SQLite would not do."""
    if os.path.exists(directory / DATABASE_NAME):
        return
    with _alone(directory):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            os.close(os.open(directory / DATABASE_NAME, flags, 0o600))
        except FileExistsError:  # another process was first
            return
        database = _database(directory, patience)
        try:
            _make_tables(database, directory)
        finally:
            database.close_all()


def _is_emptied(directory: Path) -> bool:
    """Whether a database without tables had some: the change counter's file is made after the first of them."""
    return (directory / GENERATION_NAME).exists() and not (directory / DATABASE_NAME).stat().st_size


def _version(database: Database, directory: Path) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > STORE_VERSION:
        database.close_all()
        raise StoreFailure(
            f"{directory} was written by a later version of this library (its tables are of version "
            f"{version}, this library knows {STORE_VERSION}). Upgrade bencher_job, or use another cache_name."
        )
    return version


def _make_tables(database: Database, directory: Path) -> None:
    if database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'Cache'").fetchone() and (
        database.execute("SELECT 1 FROM Cache LIMIT 1").fetchone()
    ):
        raise StoreFailure(f"{directory} holds a diskcache of another program. Use another cache_name.")
    database.make()

    def make(execute: Execute) -> None:
        for statement in TABLES:
            execute(statement)

    database.transact(make)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other processes from making the same tables."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + OPENING_PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(
                        f"another process has been making it for {OPENING_PATIENCE:.0f} seconds"
                    ) from None
                time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)


LOOK_EVERY: Final = 0.005
"""Seconds between two checks by a reader whether the folder was removed."""

_PRIMARY: Final = 0xFF
"""The bits of SQLite's error codes that say what is wrong in general."""

_REFUSALS: Final = (Locked, sqlite3.Error, UnicodeError, OSError)
"""What the database or the disk raises."""

T = TypeVar("T")


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
        versions: the function versions that are known to be in the database, by their prefix.
        origins: numbers and texts of the origins that are known to be in the database.
        opened: what is open, or None.
        owners: the processes that compute with the store.
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
        self.changes = ChangeCounter(directory / GENERATION_NAME, patience)
        self.owners = Owners(directory / "owners")
        self.tally = Tally()
        self.versions: set[bytes] = set()
        self.origins: dict[Origin, tuple[int, str]] = {}
        self._tag_index = tag_index
        self.opened: Opened | None = None
        self._database = database_of(directory)
        self._look_again = 0.0
        self._has_missigned = False
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make a new lock, after a fork."""
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
        with fork_guard(), self._lock:
            if self.opened is None:
                try:
                    self.opened = self._open()
                except _REFUSALS as error:
                    raise _failure(error) from error
                self.versions, self.origins = set(), {}
            return self.opened

    def _open(self) -> Opened:
        if self.is_over:
            raise StoreFailure(f"{self.directory} was a temporary cache, and is removed")
        if not self.only_looks:
            set_up(self.directory)
        signature = self._signature()
        if not self.trusted:
            refuse_untrusted(self.directory)
        writable = not self.only_looks and is_writable(self.directory)
        if writable:
            database = self._open_to_write()
        elif self.only_looks:
            database = _open_to_look(self.directory, self.patience)
        else:
            _log.info("%s can be read only", self.directory)
            database = _open_read_only(self.directory, self.patience)
        database._disk.trusted = self.trusted
        self.changes.open(writable=writable)
        return Opened(database, signature, database.place or (0, 0), writable)

    def _signature(self) -> Signature:
        """Return what signs the entries: the secret that is set, or the user's own key if one is needed.

        Raises:
            UntrustedCache: when a key is needed and missing.
        """
        signature = signature_from_environment()
        if signature.kind or self.trusted or not is_replaceable(self.directory):
            return signature
        return personal_signature(self.directory)

    def _open_to_write(self) -> Database:
        """Open the database, made if it is missing. One that is damaged or emptied is replaced.

        Raises:
            sqlite3.Error: when it is locked, or can't be read or written.
            OSError: when another process takes very long to make it.
            StoreFailure: when a later version of this library has written it.
        """
        _make_missing(self.directory, self.patience)
        place = place_of(self._database)
        try:
            return self._complete(self.directory)
        except UNREADABLE as error:
            if not is_damage(error):  # but locked, read-only, or on a full disk
                raise
            self._replace(str(error), place, surely=True)
            return self._complete(self.directory)

    def _complete(self, directory: Path) -> Database:
        """Open a database and make what is missing in it. That it was emptied is counted and warned of."""
        _make_missing(directory, self.patience)
        database = _database(directory, self.patience)
        is_emptied = False
        try:
            if not _version(database, directory):
                with _alone(directory):
                    if not _version(database, directory):  # else another process was first
                        is_emptied = _is_emptied(directory)
                        _make_tables(database, directory)
            for probe in PROBES:
                database.execute(probe)
            if self._tag_index:
                database.execute("CREATE INDEX IF NOT EXISTS Cache_tag ON Cache (tag) WHERE tag IS NOT NULL")
        except BaseException:
            database.close_all()
            raise
        if is_emptied:
            self.tally.damaged += 1
            _log.warning("the database of %s was emptied: what it held is lost", directory)
            warn_caller(f"The database of {directory} was emptied by another program. What it held is lost.")
        return database

    def _replace(self, reason: str, place: tuple[int, int], *, surely: bool) -> bool:
        """Replace a damaged database by a new one with all that can be read of it; whether that was done.

        It is not done where another process was quicker, or where a full check finds no damage, unless it is damaged
        `surely`. `place` is where the database lay that was found damaged. A replacement is counted and warned of.
        """
        directory = self.directory
        with _alone(directory):
            if place_of(self._database) != place or (not surely and is_whole(directory, self.patience)):
                return False
            aside, saved = recover(directory, self._complete, self.patience)
        self.tally.damaged += 1
        _log.warning(
            "the database of %s is damaged and set aside in %s; %s entries were saved: %s",
            directory,
            aside,
            saved,
            reason,
        )
        warn_caller(
            f"The database of {directory} is damaged ({reason}). It is set aside in {aside}. "
            f"{counted(saved, 'entry')} that can still be read {'was' if saved == 1 else 'were'} kept."
        )
        return True

    def look_for_removal(self) -> None:
        """Begin a new store where the folder was removed under an open one: writes would be lost in silence."""
        opened = self.opened
        if opened is None:
            return
        self._look_again = time.monotonic() + LOOK_EVERY
        if opened.database.is_in_place():
            return
        if os.path.exists(self._database) and self.changes.is_in_place():  # another process has mended it
            _log.warning("the database of %s was replaced while it was open", self.directory)
            self._leave_database()
        else:
            _log.warning("%s was removed while it was open; a new cache begins there", self.directory)
            self.close()

    def _leave_database(self) -> None:
        """Open the database again at the next use; this process keeps its leases."""
        with fork_guard(), self._lock:
            opened, self.opened = self.opened, None
        if opened is not None:
            _close(opened.database)

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
        """Replace a damaged database by a new one with all that can be read. Return whether a check found it damaged.

        Raises:
            StoreFailure: when that can't be done.
        """
        try:
            place = self.open().place
            self._leave_database()
            return self._replace(reason, place, surely=surely)
        except _REFUSALS as error:
            raise _failure(error) from error

    def files(self) -> list[Path]:
        """Return the files that a change of the store changes."""
        names = GENERATION_NAME, DATABASE_NAME, f"{DATABASE_NAME}-wal"
        return [self.directory / name for name in names]

    def to_read(self) -> Opened:
        """Return the open folder for reading. Now and then this checks whether it was removed."""
        if time.monotonic() > self._look_again:
            self.look_for_removal()
        return self.opened or self.open()

    def query(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement that reads.

        Raises:
            StoreFailure: when the store can't be read.
        """
        with fork_guard():
            try:
                if time.monotonic() > self._look_again:
                    self.look_for_removal()
                return (self.opened or self.open()).database.read(statement, values)
            except _REFUSALS as error:
                raise _failure(error) from error

    def changed(self, work: Callable[..., T], *given: Any, is_frequent: bool = False) -> T:
        """Do some work that writes; it is called with the database and what is given.

        Frequent work looks as seldom as a reader whether the folder was removed: its transaction looks again.

        Raises:
            StoreFailure: when the database or the disk says no.
        """
        with fork_guard():
            for turn in itertools.count():
                try:
                    if turn or not is_frequent or time.monotonic() > self._look_again:
                        self.look_for_removal()
                    opened = self.opened or self.open()
                    if not opened.is_writable:
                        raise StoreFailure(f"{self.directory} can be read, but not written")
                    return work(opened.database, *given)
                except Replaced:
                    continue
                except _REFUSALS as error:
                    may_be_gone = is_frequent and not turn and isinstance(error, FileNotFoundError)
                    # What a check has found whole, and is damaged once more, is replaced all the same.
                    if turn > 1 or not (may_be_gone or self.mend(error, surely=turn == 1)):
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
        """Warn that the store can't be read."""
        _log.warning("%s can't be read: %s", self.directory, error)
        warn_caller(f"{self.directory} can't be read, so the job runs as if it were not cached: {error}")

    def warn_missigned(self, key: str, error: MissignedEntry) -> None:
        """Warn once that there are entries of another secret, and log each of them."""
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
        """Close all connections and files, and free all leases of this process; the next use opens them again."""
        with fork_guard(), self._lock:
            opened, self.opened = self.opened, None
            self.changes.close()
            self.owners.close()
        if opened is not None:
            _close(opened.database)


def _close(database: Database) -> None:
    try:
        database.close()
    except sqlite3.Error as error:
        _log.warning("a connection can't be closed: %s", error)


def _failure(error: Exception) -> StoreFailure:
    """Convert an error of the database or the disk to one that callers can act on by its type."""
    if isinstance(error, Locked):
        return StoreBusy(f"the database can't be written, or another process keeps it locked ({error})")
    told = f"{type(error).__name__}: {error}"
    if is_damage(error):
        return StoreDamaged(told)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & _PRIMARY
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} or isinstance(error, TimeoutError):
        return StoreBusy(told)
    return StoreFailure(told)
