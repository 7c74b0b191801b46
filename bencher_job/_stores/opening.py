"""Open a store's database: make our tables where it is new, and replace it by what can be read where it is damaged."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .._errors import warn_caller
from .._words import counted
from .base import StoreFailure, StoreMissing, StoreOutdated, Tally
from .database import DATABASE_NAME, Database
from .entries.deposits import place_of
from .generation import GENERATION_NAME
from .recovery import is_damage, is_whole, recover
from .tables import STORE_VERSION, UPGRADES

__all__ = ["is_writable", "mend_database", "open_database", "open_read_only", "open_to_look"]

PATIENCE: Final = 60.0
"""Seconds for which another process may take to make the tables."""

_log = logging.getLogger(__name__)


def is_writable(directory: Path) -> bool:
    """Whether this process may write to a store that is there, or make it."""
    database = directory / DATABASE_NAME
    return os.access(directory, os.W_OK | os.X_OK) and (os.access(database, os.W_OK) or not database.exists())


def open_database(directory: Path, *, tag_index: bool, patience: float, tally: Tally) -> Database:
    """Open the database in a folder. One that is damaged or emptied is replaced, which is counted and warned of.

    Raises:
        sqlite3.Error: when it is locked, or can't be read or written.
        OSError: when another process takes very long to make it.
        StoreFailure: when a later version of this library has written it.
    """
    _make_missing(directory, patience)
    place = place_of(os.fspath(directory / DATABASE_NAME))
    try:
        return _open(directory, tag_index, patience, tally)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):  # but locked, read-only, or on a full disk
            raise
        mend_database(
            directory, str(error), place, tag_index=tag_index, patience=patience, surely=True, tally=tally
        )
        return _open(directory, tag_index, patience, tally)


def mend_database(
    directory: Path,
    reason: str,
    place: tuple[int, int],
    *,
    tag_index: bool,
    patience: float,
    tally: Tally,
    surely: bool = False,
) -> bool:
    """Replace a damaged database by a new one with all that can be read of it; whether that was done.

    It is not done where another process was quicker, or where a full check finds no damage, unless it is damaged
    `surely`. `place` is where the database lay that was found damaged. A replacement is counted and warned of.

    Raises:
        sqlite3.Error: when it is locked, or the new one can't be written.
        OSError: when the new one can't be written.
    """
    with _alone(directory):
        if place_of(os.fspath(directory / DATABASE_NAME)) != place:
            return False
        if not surely and is_whole(directory, patience):
            return False
        aside, saved = recover(directory, lambda new: _open(new, tag_index, patience, tally), patience)
    tally.damaged += 1
    _log.warning(
        "the database of %s is damaged and set aside in %s; %s entries were saved: %s",
        directory,
        aside,
        saved,
        reason,
    )
    warn_caller(
        f"The database of {directory} is damaged ({reason}). It is set aside in {aside}. "
        f"{counted(saved, 'entry', 'entries')} that can still be read {'was' if saved == 1 else 'were'} kept."
    )
    return True


def open_read_only(directory: Path, patience: float) -> Database:
    """Open a database that can't be written.

    Raises:
        sqlite3.Error: when it can't be read either.
        StoreFailure: when another version of this library has written it.
    """
    path = directory / DATABASE_NAME
    log = Path(f"{path}-wal")
    for access in ("?mode=ro", "?immutable=1"):
        database = Database(os.fspath(directory), access=access, patience=patience)
        try:
            version = _version(database, directory)
        except sqlite3.OperationalError:
            database.close_all()
            # Who may not make the log's index reads the file alone, where that is all there is.
            if access == "?immutable=1" or (log.exists() and log.stat().st_size):
                raise
        else:
            if version < STORE_VERSION:
                database.close_all()
                raise StoreFailure(
                    f"{directory} was written by an earlier version of this library, and can't be brought up to date "
                    f"because it can't be written. Let its owner use it once, or use another cache_name."
                )
            return database
    raise AssertionError("the last attempt returns or raises")


def open_to_look(directory: Path, patience: float) -> Database:
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
        return open_read_only(directory, patience)
    database = Database(os.fspath(directory), access="?mode=rw", patience=patience)
    try:
        _refuse_earlier(_version(database, directory), directory)
        database.execute("SELECT entries FROM Totals")  # a file that was cut off is found out here
    except BaseException:
        database.close_all()
        raise
    return database


def _refuse_earlier(version: int, directory: Path) -> None:
    if not version:
        raise StoreMissing(f"{directory} holds no cache: {DATABASE_NAME} has none of its tables")
    if version < STORE_VERSION:
        raise StoreOutdated(
            f"{directory} was written by an earlier version of this library (its tables are of version {version}, "
            f"this library knows {STORE_VERSION})"
        )


def _make_missing(directory: Path, patience: float) -> None:
    """Make the database where there is none, for its owner only, as SQLite would not make it."""
    if os.path.exists(directory / DATABASE_NAME):
        return
    with _alone(directory):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            os.close(os.open(directory / DATABASE_NAME, flags, 0o600))
        except FileExistsError:  # another process was first
            return
        database = Database(os.fspath(directory), patience=patience)
        try:
            _make(database, 0)
        finally:
            database.close_all()


def _open(directory: Path, tag_index: bool, patience: float, tally: Tally) -> Database:
    """Open a database and make what is missing in it. That it was emptied is counted and warned of."""
    _make_missing(directory, patience)
    database = Database(os.fspath(directory), patience=patience)
    is_emptied = False
    try:
        if _version(database, directory) < STORE_VERSION:
            with _alone(directory):
                version = _version(database, directory)
                is_emptied = not version and _is_emptied(directory)
                _make(database, version)
        if tag_index:
            database.execute("CREATE INDEX IF NOT EXISTS Cache_tag ON Cache (tag) WHERE tag IS NOT NULL")
    except BaseException:
        database.close_all()
        raise
    if is_emptied:
        tally.damaged += 1
        _log.warning("the database of %s was emptied: what it held is lost", directory)
        warn_caller(f"The database of {directory} was emptied by another program. What it held is lost.")
    return database


def _is_emptied(directory: Path) -> bool:
    """Whether a database without tables had some: the generation's file is made after the first of them."""
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


def _make(database: Database, version: int) -> None:
    if version == STORE_VERSION:  # another process was first
        return
    database.make()
    with database.transaction() as transaction:
        for statement in itertools.chain.from_iterable(UPGRADES[version:]):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {STORE_VERSION}")
        transaction.commit()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep other processes from making the same tables."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(
                        f"another process has been making it for {PATIENCE:.0f} seconds"
                    ) from None
                time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)
