"""Look up entries in the database and verify them. A damaged or foreign entry is a miss."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
from collections.abc import Collection, Container, Iterable, Iterator
from typing import Any, Final

from .._errors import warn_caller
from .._folders import ForeignName, NameOf, path_of
from .._media import holds_paths
from .base import MISS, Hit, Hits, Miss, StoreFailure
from .codec import check, plain_reader, unseal
from .database import fork_guard, is_undecodable
from .folder import Folder, Opened
from .media import check_sizes
from .parts import Buffer, DamagedEntry, MissignedEntry, UnreadableEntry
from .removals import Removals, Uses
from .schema import SELECT_ENTRY, SELECT_FIGURES
from .signature import check_hit

_log = logging.getLogger(__name__)

KEYS_PER_QUERY: Final = 200
"""How many keys one statement looks up: with more of them what it reads no longer stays in the processor's cache."""

ROWS_PER_QUERY: Final = 500
"""How many rows are read together where all of them are passed over."""

FEWEST_TO_PASS_OVER_ALL: Final = 1000
"""How many keys are looked up together at least, for all rows of a small store to be passed over."""

LARGEST_IN_PASSING: Final = 1 << 12
"""Size in bytes below which, on average, entries are read without being asked for."""

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
        with fork_guard():
            while missing < 2:  # a value file can go, with its row, while the row is read
                try:
                    opened = self._folder.to_read()
                    row = opened.database.execute(_SELECT_ONE, (key,)).fetchone()
                    if row is None:
                        return MISS
                    if row[0] != key:
                        raise another_key()
                    hit = self._hit_of(row, opened, mapped=mapped)
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
                        self._removals.set_aside(key, "its row holds a text that is not UTF-8")
                    elif mended < 2 and self._folder.mend(error, surely=mended == 1):
                        mended += 1
                        continue
                    else:
                        self._folder.warn_unread(error)
                    return MISS
                else:
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
                    odd += self._open_rows(rows, opened, found, mapped=mapped, largest=largest)
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
            with fork_guard():
                opened = self._folder.to_read()
                rows = opened.database.read(_among(SELECT_ENTRY, some), some)
            yield rows, opened

    def _are_most(self, wanted: Collection[str]) -> bool:
        """Whether reading all rows, which are small, is quicker than looking up so many keys."""
        if len(wanted) < FEWEST_TO_PASS_OVER_ALL:
            return False
        with fork_guard():
            ((entries, size),) = self._folder.to_read().database.execute(SELECT_FIGURES)
        return bool(entries <= 2 * len(wanted) and size < entries * LARGEST_IN_PASSING)

    def _all_rows(self, wanted: Container[str]) -> Iterator[tuple[list[tuple[Any, ...]], Opened]]:
        """Read all rows, some at a time in the order in which they lie, and give those of keys."""
        last = 0
        while True:
            with fork_guard():
                opened = self._folder.to_read()
                rows = opened.database.read(_SELECT_SOME, (last,))
            if not rows:
                return
            last = rows[-1][-1]
            yield [row for row in rows if row[0] in wanted], opened

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Return how long the functions of entries had run, in seconds.

        Raises:
            StoreFailure: when the store can't be read.
        """
        wanted = list(dict.fromkeys(keys))
        found: dict[str, float] = {}
        statement = "SELECT key, seconds FROM Cache WHERE raw = 1 AND key "
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            some = wanted[start : start + KEYS_PER_QUERY]
            found.update(self._folder.query(_among(statement, some), some))
        return {key: seconds if type(seconds) is float else 0.0 for key, seconds in found.items()}

    def _hit_of(
        self, row: tuple[Any, ...], opened: Opened, *, mapped: bool = False, most_expanded: int | None = None
    ) -> Hit:
        """Verify a row of `SELECT_ENTRY`.

        Raises:
            DamagedEntry: when it isn't what was written, or its media are missing.
            MissignedEntry: when it was made with another secret, or with none.
            LargeEntry: when its bytes expand to more than `most_expanded`.
            UnreadableEntry: when a package or the memory that it takes is not there.
            OSError: when its file can't be read.
        """
        key, mode, filename, value, seconds, created, media, files, mac, _ = row
        stream: Buffer | None = None
        buffers: tuple[Buffer, ...] = ()
        if filename is None and type(value) is bytes:  # as most are
            stream = plain_reader(opened.signature)(value, key)
        if stream is None:
            value = opened.database.fetch(mode, filename, value, mapped=mapped)
            stream, buffers = unseal(value, key, signature=opened.signature, most_expanded=most_expanded)
        check_hit(mac, value, key, seconds, created, media, files, opened.signature)
        if media is not None:
            _check_media(self._folder, media, files)
        find = self.find_media if media is not None or holds_paths(stream) else None
        return Hit(stream, buffers, seconds, created, find)

    def _open_rows(
        self,
        rows: Iterable[tuple[Any, ...]],
        opened: Opened,
        found: Hits,
        *,
        mapped: bool,
        largest: int | None,
    ) -> list[str]:
        """Verify rows and collect what is good; give the keys of those that are not, or can't be read."""
        signature = opened.signature
        read_plain, small, odd = plain_reader(signature), found.small, []
        for row in rows:
            key, _, filename, value, seconds, created, media, files, mac, _ = row
            # Most are small and lie in their row: these pass without a step that isn't theirs.
            stream = read_plain(value, key) if filename is None and type(value) is bytes else None
            try:
                if stream is not None and media is None and not holds_paths(stream):
                    check_hit(mac, value, key, seconds, created, None, files, signature)
                    small[key] = stream, seconds, created
                    continue
                if (
                    largest is not None
                    and filename is not None
                    and opened.database.size_of(filename) > largest
                ):
                    continue
                hit = self._hit_of(row, opened, mapped=mapped, most_expanded=largest)
            except (DamagedEntry, UnreadableEntry, OSError):
                odd.append(key)
            else:
                found.others[key] = hit
        return odd

    def find_media(self, key: str, name: str) -> str | None:
        """Return the path of a file that the job of a key wrote; None if it isn't here."""
        try:
            for _, media in self._folder.query(
                "SELECT key, media FROM Cache WHERE raw = 1 AND key = ?", (key,)
            ):
                path = path_of(
                    path_of(self._folder.directory, NameOf.RUN_FOLDER, media), NameOf.RUN_FILE, name
                )
                if path.exists():
                    return os.fspath(path)
        except (StoreFailure, ForeignName):
            pass
        return None


def another_key() -> sqlite3.DatabaseError:
    """Make the error of a row that was found by its key and has another one: SQLite's index of keys is damaged."""
    error = sqlite3.DatabaseError("the index of keys leads to the row of another key")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def check_row(row: tuple[Any, ...], opened: Opened, *, mapped: bool = False) -> None:
    """Verify a row of `SELECT_ENTRY` as a hit is, in little memory besides its own."""
    key, mode, filename, value, seconds, created, media, files, mac, _ = row
    value = opened.database.fetch(mode, filename, value, mapped=mapped)
    check(value, key, signature=opened.signature)
    check_hit(mac, value, key, seconds, created, media, files, opened.signature)


def _check_media(folder: Folder, media: str, files: str | None) -> None:
    try:
        check_sizes(folder.directory, media, files)
    except ForeignName as error:
        raise DamagedEntry(str(error)) from None


def _among(statement: str, keys: list[str]) -> str:
    """Return a statement about as many keys. Most calls get the same text, which SQLite has prepared already."""
    return f"{statement}IN ({_QUESTIONS if len(keys) == KEYS_PER_QUERY else ','.join('?' * len(keys))})"
