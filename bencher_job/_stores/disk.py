"""Knows the store on disk: what is looked up, committed, set aside and removed in one folder.

<directory>/            owner only
    cache.db            diskcache's table of entries, our tables of records and of media to remove
    ab/cd/....val       the bytes of large entries
    media/              a folder for each run that wrote files
    damaged/            entries that failed their check, for whoever wants to know why
    generation          tells the memory of other processes what is out of date
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from .. import _media
from .._errors import warn_caller
from .._forks import renew_after_fork
from .._record import Record
from .base import MISS, Entry, Hit, Miss, StoreFailure, Tally
from .codec import seal, unseal
from .database import DATABASE_NAME, Database, Locked, Written
from .faults import DamagedEntry, UnreadableEntry
from .gate import operation
from .history import DiskHistory
from .memory import Generation
from .opening import new_folder_for_damaged, open_database
from .place import refuse_untrusted, set_up
from .signature import UNSIGNED, signature_from_environment
from .tables import (
    DISCARD_MEDIA,
    JOINED,
    NOTE_GONE,
    PUT_EDITION,
    PUT_RECORD,
    SELECT_ENTRY,
    SELECT_RECORD,
    TRIM_GONE,
    chosen,
    record_of,
    row_of,
    row_of_edition,
)

__all__ = ["DiskStore"]

KEYS_PER_QUERY: Final = 500

REMOVED_AT_ONCE: Final = 1000
"""How many entries one transaction removes at most, so that others can write in between."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class DiskStore:
    """Entries in a folder; opened at first use, and again at the first use after `close()`."""

    def __init__(self, directory: Path, *, size_limit: int, tag_index: bool = True) -> None:
        self.directory = directory
        self.generation = Generation(directory / "generation")
        self.tally = Tally()
        self.history = DiskHistory(self._query, self._hit)
        self.puts = 0
        self.size_limit = size_limit
        self._tag_index = tag_index
        self._written = (
            size_limit  # bytes since the size was last looked at: so many that the first put looks
        )
        self._database: Database | None = None
        self._editions: set[bytes] = set()  # those that are known to be in the database
        self._place: tuple[int, int] | None = None
        self._signature = UNSIGNED
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._lock = threading.RLock()

    def open(self) -> Database:
        """Open the database, made if it isn't there.

        Raises:
            UntrustedCache: when another user owns the folder or can write to it.
            StoreFailure: when the database can't be opened or is of a later version.
        """
        database = self._database
        if database is not None:
            return database
        with self._lock, operation():
            if self._database is None:
                try:
                    set_up(self.directory)
                    refuse_untrusted(self.directory)
                    database, damage = open_database(self.directory, tag_index=self._tag_index)
                    self.tally.damaged += damage
                    self.generation.open()
                    self._signature = signature_from_environment()
                    self._place = self._place_now()
                except (OSError, sqlite3.Error, Locked) as error:
                    raise StoreFailure(f"{type(error).__name__}: {error}") from error
                self._database = database
                self._editions = set()
            return self._database

    def _place_now(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.directory / DATABASE_NAME)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _look_for_removal(self) -> None:
        """Begin a new store where the folder was removed under an open one: writes to it would be lost in silence."""
        if self._database is not None and self._place_now() != self._place:
            _log.warning("%s was removed while it was open; a new cache begins there", self.directory)
            self.close()

    def _sql(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement on this thread's own connection."""
        rows: list[tuple[Any, ...]] = self.open()._sql(statement, values).fetchall()
        return rows

    def _query(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._translated(lambda: self._sql(statement, values))

    def get(self, key: str) -> Hit | Miss:
        """Look an entry up and verify its bytes."""
        with operation():
            self._look_for_removal()
            for _ in range(2):  # a value file can go, with its row, while the row is read
                try:
                    rows = self._sql(SELECT_ENTRY + "= ?", (key,))
                    return self._hit(rows[0]) if rows else MISS
                except FileNotFoundError:
                    continue
                except DamagedEntry as error:
                    self._set_aside(key, str(error))
                    return MISS
                except (UnreadableEntry, sqlite3.Error, OSError, StoreFailure) as error:
                    self._warn_unread(error)
                    return MISS
            self._set_aside(key, "its value file is missing")
            return MISS

    def get_many(self, keys: Iterable[str]) -> dict[str, Hit]:
        """Look entries up in bulk and verify their bytes."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Hit] = {}
        for start in range(0, len(wanted), KEYS_PER_QUERY):
            some = wanted[start : start + KEYS_PER_QUERY]
            with operation():
                try:
                    rows = self._sql(f"{SELECT_ENTRY} IN ({','.join('?' * len(some))})", some)
                except (sqlite3.Error, StoreFailure) as error:
                    self._warn_unread(error)
                    return found
                for row in rows:
                    try:
                        found[row[0]] = self._hit(row)
                    except (DamagedEntry, UnreadableEntry, OSError):
                        hit = self.get(row[0])
                        if not isinstance(hit, Miss):
                            found[row[0]] = hit
        return found

    def _hit(self, row: tuple[Any, ...]) -> Hit:
        key, mode, filename, value, seconds = row
        sealed = self.open().disk.fetch(mode, filename, value, False)
        return Hit(unseal(sealed, key, signature=self._signature), seconds or 0.0)

    def _warn_unread(self, error: Exception) -> None:
        _log.warning("%s can't be read: %s", self.directory, error)
        warn_caller(f"{self.directory} can't be read, so the job runs as if it were not cached: {error}")

    def _set_aside(self, key: str, reason: str) -> None:
        """Move the bytes of a damaged entry out of the way, and drop its row."""
        self.tally.damaged += 1
        _log.warning("the entry %s in %s is damaged: %s", key, self.directory, reason)
        try:
            for filename, value in self._sql(
                "SELECT filename, value FROM Cache WHERE raw = 1 AND key = ?", (key,)
            ):
                aside = new_folder_for_damaged(self.directory) / key
                if filename is None:
                    aside.write_bytes(value if isinstance(value, bytes) else repr(value).encode())
                elif (self.directory / filename).exists():
                    os.link(self.directory / filename, aside)
            self._change(" WHERE raw = 1 AND key = ?", (key,), "damaged")
        except (sqlite3.Error, OSError, StoreFailure) as error:
            _log.warning("the damaged entry %s can't be set aside: %s", key, error)
        warn_caller(f"The entry {key} in {self.directory} is damaged: {reason}. The job runs again.")

    def put_many(self, entries: Sequence[Entry]) -> None:
        """Commit entries with their records in one transaction."""
        self._translated(lambda: self._put_many(entries))
        self.puts += 1
        self._written += sum(entry.payload.nbytes for entry in entries)
        if self._written >= self.size_limit // 100:
            self._written = 0
            self._evict()

    def _put_many(self, entries: Sequence[Entry]) -> None:
        database = self.open()
        written: list[Written] = []
        try:
            # Before the transaction, so that nobody waits for bytes that are still being written. A list that grows
            # knows what to remove again if the writing fails.
            for entry in entries:
                sealed = seal(entry.payload, entry.record.key, signature=self._signature)
                written.append(database.disk.write(sealed, self._media_size(entry)))
            rows = [
                row_of(entry, each.size + each.media_size)
                for entry, each in zip(entries, written, strict=True)
            ]
            if any(self.has(entry.record.key) for entry in entries):
                with self.generation.changing():
                    self._commit(database, entries, rows, written)
                self._remove_discarded()
            else:
                self._commit(database, entries, rows, written)
        except BaseException:
            for each in written:
                if each.filename is not None:
                    (self.directory / each.filename).unlink(missing_ok=True)
            raise

    def _media_size(self, entry: Entry) -> int:
        media = entry.record.media
        return 0 if media is None else _media.size_of(self.directory / _media.MEDIA_FOLDER / media)

    def _commit(
        self,
        database: Database,
        entries: Sequence[Entry],
        rows: Sequence[tuple[Any, ...]],
        written: Sequence[Written],
    ) -> None:
        editions = {
            entry.edition.prefix: entry.edition
            for entry in entries
            if entry.edition is not None and entry.edition.prefix not in self._editions
        }
        with database.disk.removing_after_commit(), database.transact():
            for edition in editions.values():
                database._sql(PUT_EDITION, row_of_edition(edition))
            for entry, row, each in zip(entries, rows, written, strict=True):
                database._sql(DISCARD_MEDIA, (entry.record.key,))
                database.set(entry.record.key, each, tag=entry.record.tag or None)
                database._sql(PUT_RECORD, row)
        self._editions.update(editions)

    def _evict(self) -> None:
        """Remove the least recently stored entries beyond the size limit."""
        evicted = 0
        try:
            while (excess := self.size() - self.size_limit) > 0:
                removed = self._translated(lambda: self._remove_oldest(excess))
                if not removed:
                    break
                evicted += removed
        except StoreFailure as error:
            _log.warning("%s can't be kept within its size limit: %s", self.directory, error)
        if evicted:
            self.tally.evicted += evicted
            _log.warning(
                "evicted %s entries of %s to stay within %s bytes", evicted, self.directory, self.size_limit
            )

    def _remove_oldest(self, excess: int) -> int:
        """Remove the least recently stored entries that take as many bytes, or some of them; how many."""
        oldest = self._sql(
            f"SELECT Cache.rowid, filename, Record.size, media FROM {JOINED} ORDER BY store_time LIMIT ?",
            (REMOVED_AT_ONCE,),
        )
        sizes = itertools.accumulate(size or 0 for _, _, size, _ in oldest)
        enough = 1 + sum(1 for size_so_far in sizes if size_so_far < excess)
        chosen_rows = [(rowid, filename) for rowid, filename, _, _ in oldest[:enough]]
        if any(media for _, _, _, media in oldest[:enough]):  # whose paths no memory may hand out any more
            with self.generation.changing():
                removed = self._remove(self.open(), chosen_rows, "evicted")
        else:
            removed = self._remove(self.open(), chosen_rows, "evicted")
        self._remove_discarded()
        return removed

    @staticmethod
    def _remove(database: Database, rows: Sequence[tuple[int, str | None]], reason: str) -> int:
        """Remove entries with their records and files, and give how many there still were."""
        these = f"({','.join(str(rowid) for rowid, _ in rows)})"
        with database.disk.removing_after_commit(), database.transact():
            database._sql(NOTE_GONE + these, (reason, time.time()))
            removed: int = database._sql(f"DELETE FROM Cache WHERE rowid IN {these}").rowcount
            for _, filename in rows:
                if filename is not None:
                    database.disk.remove(filename)
        return removed

    def has(self, key: str) -> bool:
        """Whether there is an entry, its bytes unread."""
        return bool(
            self._translated(lambda: self._sql("SELECT 1 FROM Cache WHERE raw = 1 AND key = ?", (key,)))
        )

    def forget(self, key: str) -> bool:
        """Remove an entry and its media; whether there was one."""
        return bool(self._change(" WHERE raw = 1 AND key = ?", (key,), "forgotten"))

    def clear(self, *, function: str | None = None, tag: str | None = None) -> int:
        """Remove all entries, or those of a function, a tag, or both, with their media; how many there were."""
        where, values = chosen(function, tag)
        return self._change(where, values, "cleared")

    def _change(self, where: str, values: Sequence[object], reason: str) -> int:
        return self._translated(lambda: self._remove_where(where, values, reason))

    def _remove_where(self, where: str, values: Sequence[object], reason: str) -> int:
        removed = 0
        database = self.open()
        with self.generation.changing():
            while rows := self._sql(
                f"SELECT Cache.rowid, filename FROM {JOINED}{where} LIMIT {REMOVED_AT_ONCE}", values
            ):
                removed += self._remove(database, rows, reason)
        self._remove_discarded()
        if removed >= REMOVED_AT_ONCE:
            self._sql(TRIM_GONE)
        return removed

    def _translated(self, work: Callable[[], T]) -> T:
        with operation():
            self._look_for_removal()
            try:
                return work()
            except Locked as error:
                reason = "the database can't be written, or another process has kept it locked for a minute"
                raise StoreFailure(reason) from error
            except (sqlite3.Error, OSError) as error:
                raise StoreFailure(f"{type(error).__name__}: {error}") from error

    def _remove_discarded(self) -> None:
        """Remove the media of entries that are gone; what a kill leaves is removed by the next call."""
        for (name,) in self._sql("SELECT media FROM Discarded"):
            _media.discard(self.directory / _media.MEDIA_FOLDER / name)
            self._sql("DELETE FROM Discarded WHERE media = ?", (name,))

    def records(self, *, function: str | None = None, tag: str | None = None) -> Iterator[Record]:
        """Give the record of each entry, or of those of a function, a tag, or both, the oldest first."""
        where, values = chosen(function, tag)
        statement = f"{SELECT_RECORD}{where} ORDER BY created"
        return self._readable(self._translated(lambda: self._sql(statement, values)))

    def _readable(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[Record]:
        for row in rows:
            try:
                yield record_of(row)
            except (ValueError, TypeError) as error:
                warn_caller(f"The record of {row[0]} in {self.directory} is damaged and left out: {error}")

    def count(self) -> int:
        """Count the entries."""
        return self._translated(lambda: len(self.open()))

    def size(self) -> int:
        """Give the size on disk in bytes, media included."""
        return self._translated(lambda: int(self.open().volume()))

    def close(self) -> None:
        """Close all connections and the map of the generation; the next use opens them again."""
        with self._lock, operation():
            database, self._database = self._database, None
            self.generation.close()
        if database is not None:
            database.close()
