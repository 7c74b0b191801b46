"""Knows how a store's database is opened: made with our tables where it is new, set aside where it is damaged."""

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
from .aside import Aside
from .base import StoreFailure, StoreMissing, StoreOutdated
from .database import DATABASE_NAME, Database
from .tables import STORE_VERSION, UPGRADES

__all__ = ["is_writable", "open_database", "open_read_only", "open_to_look"]

PATIENCE: Final = 60.0
"""Seconds for which another process may take to make the tables."""

_log = logging.getLogger(__name__)


def is_writable(directory: Path) -> bool:
    """Whether this process may write to a store that is there, or make it."""
    database = directory / DATABASE_NAME
    return os.access(directory, os.W_OK | os.X_OK) and (os.access(database, os.W_OK) or not database.exists())


def open_database(directory: Path, *, tag_index: bool, patience: float) -> tuple[Database, bool]:
    """Open the database in a folder; also whether a damaged one was set aside for it, which is warned of.

    Raises:
        sqlite3.Error: when it is locked, or can't be read or written.
        OSError: when another process takes very long to make it.
        StoreFailure: when a later version of this library has written it.
    """
    try:
        return _open(directory, tag_index, patience), False
    except sqlite3.OperationalError:  # locked, read-only, disk full: not damage
        raise
    except sqlite3.DatabaseError as error:
        aside = Aside(directory).move(list(directory.glob("cache.db*")))
        _log.warning("the database of %s is damaged and set aside in %s: %s", directory, aside, error)
        warn_caller(f"The database of {directory} is damaged ({error}). It is set aside in {aside}.")
        return _open(directory, tag_index, patience), True


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


def _open(directory: Path, tag_index: bool, patience: float) -> Database:
    database = Database(os.fspath(directory), patience=patience)
    try:
        if _version(database, directory) < STORE_VERSION:
            with _alone(directory):
                _make(database, _version(database, directory))
        if tag_index:
            database.execute("CREATE INDEX IF NOT EXISTS Cache_tag ON Cache (tag) WHERE tag IS NOT NULL")
    except BaseException:
        database.close_all()
        raise
    return database


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
