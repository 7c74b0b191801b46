"""Look up entries in the database and verify them. A damaged or foreign entry is a miss."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import time
from collections.abc import Collection, Container, Iterable, Iterator
from types import NoneType
from typing import Any, Final

from .._errors import warn_caller
from .base import MISS, Hit, Hits, Miss, StoreFailure
from .codec import DamagedEntry, MissignedEntry, UnreadableEntry, plain_reader
from .database import is_undecodable
from .folder import Folder, Opened
from .fork_guard import fork_guard
from .header import check_ours, unseal_ours
from .removals import Removals, Uses
from .schema import LIVE, SELECT_ENTRY

__all__ = ["Lookups", "another_key", "check_row", "hit_of"]


_log = logging.getLogger(__name__)

KEYS_PER_QUERY: Final = 200
"""How many keys one statement looks up: with more of them what it reads no longer stays in the processor's cache."""

ROWS_PER_QUERY: Final = 500
"""How many rows are read together where all of them are passed over."""

FEWEST_TO_PASS_OVER_ALL: Final = 1000
"""How many keys are looked up together at least, for all rows of a small store to be passed over."""

LARGEST_IN_PASSING: Final = 1 << 12
"""Size in bytes below which, on average, entries are read without being asked for."""

_NUMBER: Final = {float, NoneType}
"""What a column of real numbers may hold."""

_SELECT_ONE: Final = f"{SELECT_ENTRY}= ?"
_SELECT_SOME: Final = f"{SELECT_ENTRY}IS NOT NULL AND rowid > ? ORDER BY rowid LIMIT {ROWS_PER_QUERY}"
_QUESTIONS: Final = ",".join("?" * KEYS_PER_QUERY)


class Lookups:
    """Looks up entries of one store."""

    def __init__(self, folder: Folder, uses: Uses, removals: Removals) -> None:
        self._folder = folder
        self._uses = uses
        self._removals = removals

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up and verify its bytes."""
        missing = mended = 0
        with fork_guard:
            while missing < 2:  # a value file can go, with its row, while the row is read
                try:
                    opened = self._folder.to_read()
                    row = opened.database.execute(_SELECT_ONE, (key,)).fetchone()
                    if row is None:
                        return MISS
                    if row[0] != key:
                        raise another_key()
                    hit = hit_of(row, opened, mapped=mapped)
                except FileNotFoundError:
                    missing += 1
                    continue
                except DamagedEntry as error:
                    self._removals.set_aside(key, str(error))
                    return MISS
                except UnreadableEntry as error:
                    self._warn_unreadable(key, error)
                    return MISS
                except (sqlite3.Error, UnicodeError, OSError, StoreFailure) as error:
                    if isinstance(error, sqlite3.Error) and is_undecodable(error):
                        self._removals.set_aside(key, "its row holds a text that is no UTF-8")
                    elif mended < 2 and self._folder.mend(error, surely=mended == 1):
                        mended += 1
                        continue
                    else:
                        self._folder.warn_unread(error)
                    return MISS
                else:
                    if isinstance(hit, Hit):
                        self._uses.note(key, hit.seconds)
                    return hit
            self._removals.set_aside(key, "its value file is missing")
            return MISS

    def _warn_unreadable(self, key: str, error: UnreadableEntry) -> None:
        if isinstance(error, MissignedEntry):
            self._folder.warn_missigned(key, error)
        else:
            warn_caller(
                f"The entry {key} in {self._folder.directory} is good, but can't be read here: {error}. "
                f"The job runs again."
            )

    def get_many(self, keys: Iterable[str], *, mapped: bool, largest: int | None, counts: bool) -> Hits:
        """Look entries up in bulk and verify their bytes; those of at most `largest` bytes, without warnings."""
        wanted = dict.fromkeys(keys)
        found = Hits()
        odd: list[str] = []
        for turn in range(3):
            odd.clear()
            try:
                for rows, opened in (
                    self._all_rows(wanted) if self._are_most(wanted) else self._rows_of(wanted)
                ):
                    odd += _open_rows(rows, opened, found, mapped=mapped, largest=largest)
                break
            except (sqlite3.Error, UnicodeError, OSError, StoreFailure) as error:
                if turn > 1 or not self._folder.mend(error, surely=turn == 1):
                    self._folder.warn_unread(error)
                    break
        if counts:
            self._uses.note_many(found)
        for key in odd if largest is None else ():  # looked at again, counted one by one, and reported
            hit = self.get(key, mapped)
            if isinstance(hit, Hit):
                found.others[key] = hit
        return found

    def _rows_of(self, wanted: Iterable[str]) -> Iterator[tuple[list[tuple[Any, ...]], Opened]]:
        """Read the rows of keys, some at a time."""
        rest = iter(wanted)
        while some := list(itertools.islice(rest, KEYS_PER_QUERY)):
            with fork_guard:
                opened = self._folder.to_read()
                rows = opened.database.read(_among(SELECT_ENTRY, some), some)
            yield rows, opened

    def _are_most(self, wanted: Collection[str]) -> bool:
        """Whether keys are so many that to pass over all rows, which are small, takes less than to pick theirs."""
        if len(wanted) < FEWEST_TO_PASS_OVER_ALL:
            return False
        with fork_guard:
            ((entries, size),) = self._folder.to_read().database.execute("SELECT entries, size FROM Totals")
        are_known = type(entries) is int and type(size) is int
        return bool(are_known and entries <= 2 * len(wanted) and size < entries * LARGEST_IN_PASSING)

    def _all_rows(self, wanted: Container[str]) -> Iterator[tuple[list[tuple[Any, ...]], Opened]]:
        """Read all rows, some at a time in the order in which they lie, and give those of keys."""
        last = 0
        while True:
            with fork_guard:
                opened = self._folder.to_read()
                rows = opened.database.read(_SELECT_SOME, (last,))
            if not rows:
                return
            last = rows[-1][-1]
            yield [row for row in rows if row[0] in wanted], opened

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
        return {key: seconds if type(seconds) is float else 0.0 for key, seconds in found.items()}

    def has(self, key: str) -> bool:
        """Whether there is an entry that has not expired, its bytes unread.

        Raises:
            StoreFailure: when the store can't be read.
        """
        statement = f"SELECT 1 FROM Cache WHERE raw = 1 AND key = ? AND {LIVE}"
        return bool(self._folder.query(statement, (key, time.time())))


def another_key() -> sqlite3.DatabaseError:
    """Make the error of a row that was found by its key and has another one: SQLite's index of keys is damaged."""
    error = sqlite3.DatabaseError("the index of keys leads to the row of another key")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def hit_of(
    row: tuple[Any, ...], opened: Opened, *, mapped: bool = False, most_expanded: int | None = None
) -> Hit | Miss:
    """Verify the bytes of a row of `SELECT_ENTRY`; a miss where it has expired.

    Raises:
        DamagedEntry: when they are not what was written.
        MissignedEntry: when they were made with another secret, or with none.
        LargeEntry: when they expand to more bytes than `most_expanded`.
        UnreadableEntry: when a package or the memory that it takes is not there.
        OSError: when its file can't be read.
    """
    key, mode, filename, value, seconds, expires = row[:6]
    if type(seconds) not in _NUMBER or type(expires) not in _NUMBER:
        raise DamagedEntry("its row holds something else where numbers should be")
    if expires is not None and expires <= time.time():
        return MISS
    if filename is None and type(value) is bytes:  # as most are
        plain = plain_reader(opened.signature)(value, key)
        if plain is not None:
            return Hit(plain, (), seconds or 0.0, expires)
    sealed = opened.database.fetch(mode, filename, value, mapped=mapped)
    stream, buffers = unseal_ours(sealed, key, signature=opened.signature, most_expanded=most_expanded)
    return Hit(stream, buffers, seconds or 0.0, expires)


def check_row(row: tuple[Any, ...], opened: Opened, *, mapped: bool = False) -> bool:
    """Verify the bytes of a row as `hit_of` does, in little memory besides their own; False where it has expired."""
    key, mode, filename, value, seconds, expires = row[:6]
    if type(seconds) not in _NUMBER or type(expires) not in _NUMBER:
        raise DamagedEntry("its row holds something else where numbers should be")
    if expires is not None and expires <= time.time():
        return False
    check_ours(opened.database.fetch(mode, filename, value, mapped=mapped), key, signature=opened.signature)
    return True


def _open_rows(
    rows: Iterable[tuple[Any, ...]], opened: Opened, found: Hits, *, mapped: bool, largest: int | None
) -> list[str]:
    """Verify the bytes of rows and collect what is good; give the keys of those that are not, or can't be read."""
    read_plain, small, now, odd = plain_reader(opened.signature), found.small, time.time(), []
    for row in rows:
        key, _, filename, value, seconds, expires, _ = row
        # Most are small and lie in their row: these pass without a step that isn't theirs.
        stream = read_plain(value, key) if filename is None and type(value) is bytes else None
        if stream is not None and type(seconds) in _NUMBER and type(expires) in _NUMBER:
            if expires is None or expires > now:
                small[key] = stream, seconds or 0.0, expires
            continue
        try:
            if largest is not None and filename is not None and opened.database.size_of(filename) > largest:
                continue
            hit = hit_of(row, opened, mapped=mapped, most_expanded=largest)
        except (DamagedEntry, UnreadableEntry, OSError):
            odd.append(key)
        else:
            if hit is not MISS:
                found.others[key] = hit  # type: ignore[assignment]
    return odd


def _among(statement: str, keys: list[str]) -> str:
    """Give a statement about as many keys; it is the same text for most, so that SQLite knows it already."""
    return f"{statement}IN ({_QUESTIONS if len(keys) == KEYS_PER_QUERY else ','.join('?' * len(keys))})"
