"""Knows how a store's database is opened: made with our tables where it is new, set aside where it is damaged."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import time
from pathlib import Path

from .._errors import warn_caller
from .base import StoreFailure
from .database import IN_ROW_BELOW, Database, EntryDisk
from .tables import STORE_VERSION, UPGRADES

__all__ = ["new_folder_for_damaged", "open_database"]

_log = logging.getLogger(__name__)


def open_database(directory: Path, *, tag_index: bool) -> tuple[Database, bool]:
    """Open the database in a folder; also whether a damaged one was set aside for it, which is warned of.

    Raises:
        sqlite3.Error: when it is locked, or can't be read or written.
        StoreFailure: when a later version of this library has written it.
    """
    try:
        return _open(directory, tag_index=tag_index), False
    except sqlite3.OperationalError:  # locked, read-only, disk full: not damage
        raise
    except sqlite3.DatabaseError as error:
        aside = new_folder_for_damaged(directory)
        for path in directory.glob("cache.db*"):
            path.rename(aside / path.name)
        _log.warning("the database of %s is damaged and set aside in %s: %s", directory, aside, error)
        warn_caller(f"The database of {directory} is damaged ({error}). It is set aside in {aside}.")
        return _open(directory, tag_index=tag_index), True


def new_folder_for_damaged(directory: Path) -> Path:
    """Make a folder for what is set aside in a store."""
    folder = directory / "damaged" / f"{time.time_ns()}"
    folder.mkdir(parents=True)
    return folder


def _open(directory: Path, *, tag_index: bool) -> Database:
    database = Database(
        os.fspath(directory),
        disk=EntryDisk,
        tag_index=int(tag_index),
        cull_limit=0,  # evictions are ours, so that they are counted and logged
        eviction_policy="least-recently-stored",
        disk_min_file_size=IN_ROW_BELOW,
    )
    ((version,),) = database._sql("PRAGMA user_version")
    if version > STORE_VERSION:
        database.close()
        raise StoreFailure(
            f"{directory} was written by a later version of this library (its tables are of version "
            f"{version}, this library knows {STORE_VERSION}). Upgrade bencher_job, or use another cache_name."
        )
    if version < STORE_VERSION:
        with database.transact(retry=True):
            ((version,),) = database._sql("PRAGMA user_version")  # another process may have been first
            for statement in itertools.chain.from_iterable(UPGRADES[version:]):
                database._sql(statement)
            database._sql(f"PRAGMA user_version = {STORE_VERSION}")
    return database
