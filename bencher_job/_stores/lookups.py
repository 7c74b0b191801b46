"""Knows how entries are looked up on the disk, and verified; one that is damaged is a miss."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import Any, Final

from .._errors import warn_caller
from .base import MISS, Hit, Miss, StoreFailure
from .codec import unseal
from .database import is_undecodable
from .faults import DamagedEntry, UnreadableEntry
from .folder import Folder, Opened
from .gate import operation
from .removals import Removals
from .tables import LIVE, SELECT_ENTRY
from .uses import Uses

__all__ = ["Lookups"]

KEYS_PER_QUERY: Final = 500

_SELECT_ONE: Final = SELECT_ENTRY + "= ?"
_QUESTIONS: Final = ",".join("?" * KEYS_PER_QUERY)


class Lookups:
    """Looks up entries of one store."""

    def __init__(self, folder: Folder, uses: Uses, removals: Removals) -> None:
        self._folder = folder
        self._uses = uses
        self._removals = removals

    def get(self, key: str, *, mapped: bool) -> Hit | Miss:
        """Look an entry up and verify its bytes."""
        with operation():
            for _ in range(2):  # a value file can go, with its row, while the row is read
                try:
                    opened = self._folder.to_read()
                    row = opened.database.execute(_SELECT_ONE, (key,)).fetchone()
                    if row is None:
                        return MISS
                    hit = hit_of(row, opened, mapped=mapped)
                except FileNotFoundError:
                    continue
                except DamagedEntry as error:
                    self._removals.set_aside(key, str(error))
                    return MISS
                except UnreadableEntry as error:
                    warn_caller(
                        f"The entry {key} in {self._folder.directory} is good, but can't be read here: {error}. "
                        f"The job runs again."
                    )
                    return MISS
                except (sqlite3.Error, OSError, StoreFailure) as error:
                    if isinstance(error, sqlite3.Error) and is_undecodable(error):
                        self._removals.set_aside(key, "its row holds a text that is no UTF-8")
                    else:
                        self._folder.warn_unread(error)
                    return MISS
                if hit is not MISS:
                    self._uses.note(((key, hit),))  # type: ignore[arg-type]
                return hit
            self._removals.set_aside(key, "its value file is missing")
            return MISS

    def get_many(self, keys: Iterable[str], *, mapped: bool) -> dict[str, Hit]:
        """Look entries up in bulk and verify their bytes."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Hit] = {}
        odd: list[str] = []
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            some = wanted[start : start + KEYS_PER_QUERY]
            with operation():
                try:
                    opened = self._folder.to_read()
                    rows = opened.database.read(_among(SELECT_ENTRY, some), some)
                except (sqlite3.Error, StoreFailure) as error:
                    self._folder.warn_unread(error)
                    break
                for row in rows:
                    try:
                        hit = hit_of(row, opened, mapped=mapped)
                    except (DamagedEntry, UnreadableEntry, OSError):
                        odd.append(row[0])
                    else:
                        if hit is not MISS:
                            found[row[0]] = hit  # type: ignore[assignment]
        self._uses.note(found.items())
        for key in odd:  # which are looked at again, and told of
            hit = self.get(key, mapped=mapped)
            if hit is not MISS:
                found[key] = hit  # type: ignore[assignment]
        return found

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Give how long the functions of entries had run, in seconds.

        Raises:
            StoreFailure: when the store can't be read.
        """
        wanted = list(dict.fromkeys(keys))
        found: dict[str, float] = {}
        statement = f"SELECT key, seconds FROM Cache WHERE {LIVE} AND raw = 1 AND key "
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            some = wanted[start : start + KEYS_PER_QUERY]
            found.update(self._folder.query(_among(statement, some), (time.time(), *some)))
        return {key: seconds or 0.0 for key, seconds in found.items()}

    def has(self, key: str) -> bool:
        """Whether there is an entry that has not expired, its bytes unread.

        Raises:
            StoreFailure: when the store can't be read.
        """
        statement = f"SELECT 1 FROM Cache WHERE raw = 1 AND key = ? AND {LIVE}"
        return bool(self._folder.query(statement, (key, time.time())))


def hit_of(row: tuple[Any, ...], opened: Opened, *, mapped: bool = False) -> Hit | Miss:
    """Verify the bytes of a row of `SELECT_ENTRY`; a miss where it has expired.

    Raises:
        DamagedEntry: when they are not what was written.
        UnreadableEntry: when a package or the memory that it takes is not there.
        OSError: when its file can't be read.
    """
    key, mode, filename, value, seconds, expires = row
    if expires is not None and expires <= time.time():
        return MISS
    sealed = opened.database.fetch(mode, filename, value, mapped=mapped)
    return Hit(unseal(sealed, key, signature=opened.signature), seconds or 0.0, expires)


def _among(statement: str, keys: list[str]) -> str:
    """Give a statement about as many keys; it is the same text for most, so that SQLite knows it already."""
    return f"{statement}IN ({_QUESTIONS if len(keys) == KEYS_PER_QUERY else ','.join('?' * len(keys))})"
