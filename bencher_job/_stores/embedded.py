"""The store in a folder of this machine, on diskcache and SQLite.

No index serves it: each would be a page more for every commit to write, and 200,000 rows take 0.15 seconds.

    seal, write files -> BEGIN -> rows, leases released -> COMMIT -> tell everybody
    files of workers  -^

Where a lease is lost, another process has the key now: everything is undone, and done again without it.

<directory>/            owner only
    cache.db            the table of entries with their records, and what outlives them
    ab/cd/....val       the bytes of large entries
    media/              a folder for each run that wrote files
    damaged/            entries that failed their check, for whoever wants to know why
    generation          tells the memory of other processes what is out of date
    owners              each process that computes something locks a byte of it
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_args

from .. import _media
from .._errors import BencherJobError, UntrustedCache, warn_caller
from .._keys import StoredFunctionVersion
from .._record import EVERYTHING, Draft, FunctionInfo, Origin, Record, Selection
from .base import PATIENCE, Entry, Found, Gone, Hit, Hits, Items, Miss, Reason, StoreFailure, Tally, Totals
from .blobs import Deposit, Depository
from .changes import Generation
from .codec import DamagedEntry, Payload, SealedEntry, UnreadableEntry, compression_named, seal, unseal
from .database import Database, Transaction, Written
from .folder import Folder, Opened
from .leases import Lease, Leases, LeasesLost, LeasesUnavailable
from .lookups import Lookups, check_row
from .removals import Removals
from .schema import (
    COUNT_NEW,
    INSERT,
    INSERT_MANY,
    INSERT_PLAIN,
    LIVE,
    NOTHING_MORE,
    PLAIN_COLUMNS,
    PUT_EDITION,
    PUT_FAILURE,
    ROWS_AT_ONCE,
    SELECT_EDITION,
    SELECT_ENTRY,
    SELECT_KNOWN_EDITION,
    SELECT_RECORD,
    UPSERT,
    attributes_from,
    condition_of,
    figures_by,
    moment,
    origin_to_json,
    past_edition_of,
    record_of,
    row_of,
    row_of_edition,
)
from .uses import Uses

__all__ = ["Commits", "DiskHistory", "DiskStore", "Failures", "Making", "functions"]


KEPT: Final = 60.0
"""Seconds for which an exception is kept at least."""

_log = logging.getLogger(__name__)


class Failures:
    """The exceptions that those who wait for a store's keys can read."""

    def __init__(self, folder: Folder, leases: Leases) -> None:
        self._folder = folder
        self._leases = leases

    def publish(self, lease: Lease, error: bytes) -> None:
        """Release a lease, and keep an exception's bytes if anybody waits for it.

        Where they can't be kept, one of those who wait runs the job itself.
        """
        try:
            if self._leases.is_waited_for(lease):
                self._folder.changed(self._put, lease, error)
        except (LeasesUnavailable, StoreFailure) as problem:
            _log.warning("those who wait for %s are not told of its exception: %s", lease.key, problem)
        finally:
            self._leases.release([lease])

    def _put(self, database: Database, lease: Lease, error: bytes) -> None:
        name = _name(lease.key, lease.number)
        sealed = bytes(seal(Payload(error), name, signature=self._folder.open().signature))
        now = time.time()
        with database.transaction() as transaction:
            # Those of the future too: they are from before a clock was set back.
            database.execute("DELETE FROM Failure WHERE NOT at BETWEEN ? AND ?", (now - KEPT, now + KEPT))
            database.execute(PUT_FAILURE, (lease.key, lease.number, now, sealed))
            transaction.commit()

    def get(self, key: str, number: int) -> bytes | None:
        """Give the exception's bytes that were published for a lease, if they are there and good."""
        try:
            rows = self._folder.query("SELECT error FROM Failure WHERE key = ? AND number = ?", (key, number))
            if not rows:
                return None
            payload = unseal(
                rows[0][0], _name(key, number), signature=self._folder.open().signature, most_expanded=0
            )
        except (StoreFailure, DamagedEntry, UnreadableEntry, TypeError) as problem:
            _log.warning("the exception that was raised for %s can't be read: %s", key, problem)
            return None
        return bytes(payload.stream)


def _name(key: str, number: int) -> str:
    """Name what is sealed, as no entry is named: so its bytes serve for nothing else."""
    return f"\0failure {number}\0{key}"


_FIGURES: Final = (
    "SELECT CAST(coalesce(function, '') AS TEXT), CAST(coalesce(tag, '') AS TEXT), count(*),"
    " CAST(total(size) AS INTEGER), CAST(total(access_count) AS INTEGER), total(access_count * seconds),"
    " total(seconds), coalesce(max(CASE WHEN typeof(access_time) = 'real' THEN access_time END), 0) FROM Cache"
    f" WHERE raw = 1 AND {LIVE} GROUP BY Cache.function, tag"
)


def functions(folder: Folder) -> list[FunctionInfo]:
    """Give the figures of each function that has entries, sorted by name.

    Raises:
        StoreFailure: when the store can't be read.
    """
    rows = sorted(folder.query(_FIGURES, (time.time(),)))
    return [_function(name, group) for name, group in itertools.groupby(rows, itemgetter(0))]


def _function(name: str, rows: Iterator[tuple[Any, ...]]) -> FunctionInfo:
    """Add up the figures of a function's tags."""
    _, tags, entries, sizes, hits, saved, seconds, used = zip(*rows, strict=True)
    return FunctionInfo(
        name=name,
        entries=sum(entries),
        size=sum(sizes),
        hits=sum(hits),
        seconds_saved=sum(saved),
        seconds=sum(seconds),
        last_used=moment(max(used)),
        tags=tuple(tag for tag in tags if tag),
    )


T = TypeVar("T")

_LAST: Final = "\U0010ffff"
"""The last character, which no key has."""


class Making(NamedTuple):
    """What an entry is made of."""

    file: str | None
    """The path of its bytes in the store's folder; None where they lie in the database."""
    parameters: tuple[str, ...]
    """Names of the parameters that entered the key."""
    parts: tuple[str, ...]
    """Names of the functions, classes and globals whose code or value is in the fingerprint."""


class DiskHistory:
    """Asks the tables of one store."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._query = folder.query

    def examine(self, key: str) -> Found | Gone | None:
        """Say what is known of a key: its entry, or what became of it."""
        rows = self._query(SELECT_ENTRY + "= ?", (key,))
        if not rows:
            return self._gone(key)
        damage, may_be_whole = "", False
        try:
            if not check_row(rows[0], self._folder.open(), mapped=True):
                *_, expires, _ = rows[0]
                return Gone("expired", moment(expires))
        except FileNotFoundError:
            damage = "its value file is missing"
        except DamagedEntry as error:
            damage = str(error)
        except (UnreadableEntry, UntrustedCache, OSError) as error:
            damage, may_be_whole = str(error), True
        records = self._records(f"{SELECT_RECORD} WHERE raw = 1 AND key = ?", (key,))
        return Found(records[0] if records else None, damage, may_be_whole)

    def _gone(self, key: str) -> Gone | None:
        for reason, at in self._query("SELECT reason, at FROM Gone WHERE key = ?", (key,)):
            if reason in get_args(Reason) and type(at) is float:
                return Gone(reason, moment(at))
        return None

    def record(self, key: str) -> Record | None:
        """Give the record of a key's entry, whose bytes stay unread; None where there is none.

        Raises:
            StoreFailure: when the record is damaged.
        """
        rows = self._query(f"{SELECT_RECORD} WHERE raw = 1 AND key = ? AND {LIVE}", (key, time.time()))
        try:
            return record_of(rows[0]) if rows else None
        except (ValueError, TypeError) as error:
            raise StoreFailure(f"the record of the entry {key} is damaged: {error}") from error

    def making(self, key: str) -> Making | None:
        """Say where an entry's bytes lie and what its key was made of; None where there is none.

        Raises:
            StoreFailure: when the store can't be read.
        """
        statement = (
            "SELECT filename, parameters, manifest FROM Cache LEFT JOIN Edition ON prefix = edition"
            f" WHERE raw = 1 AND key = ? AND {LIVE}"
        )
        for filename, parameters, manifest in self._query(statement, (key, time.time())):
            return Making(filename, _names_in(parameters), _names_in(manifest))
        return None

    def beginning_with(self, prefix: str, limit: int) -> list[str]:
        """Give keys of entries, at most so many, that begin with a text."""
        return self._beginning(f"Cache WHERE raw = 1 AND typeof(key) = 'text' AND {LIVE}", prefix, limit)

    def gone_beginning_with(self, prefix: str, limit: int) -> list[str]:
        """Give keys of removed entries, at most so many, that begin with a text."""
        return self._beginning("Gone WHERE ? > 0", prefix, limit)

    def _beginning(self, place: str, prefix: str, limit: int) -> list[str]:
        statement = f"SELECT key FROM {place} AND key >= ? AND key < ? ORDER BY key LIMIT ?"
        return [key for (key,) in self._query(statement, (time.time(), prefix, prefix + _LAST, limit))]

    def removed(self) -> dict[str, int]:
        """Count the removed entries that are remembered, by the reason why they went."""
        counted = self._query("SELECT reason, count(*) FROM Gone GROUP BY reason ORDER BY reason")
        return {reason: count for reason, count in counted if reason in get_args(Reason)}

    def editions(self, function: str) -> list[StoredFunctionVersion]:
        """Give the editions of a function that entries are of, the one with the latest entry first."""
        rows = self._query(SELECT_EDITION, (function,))
        return list(_readable(past_edition_of, ((row, function) for row in rows)))

    def known_editions(self, function: str) -> list[StoredFunctionVersion]:
        """Give the editions of a function that entries are or were of, without their sources; no entry is read."""
        return [past_edition_of(row, function) for row in self._query(SELECT_KNOWN_EDITION, (function,))]

    def with_arguments(self, function: str, bound: bytes) -> list[tuple[bytes, Record]]:
        """Give the entries of a function with these encoded arguments, the latest first, and their editions."""
        chosen = "WHERE Cache.function = ? AND bound = ? AND edition IS NOT NULL ORDER BY created DESC"
        statement = SELECT_RECORD.replace("SELECT ", "SELECT edition, ", 1)
        rows = self._query(f"{statement} {chosen}", (function, bound))
        pairs = ((edition, tuple(row)) for edition, *row in rows)
        return list(_readable(lambda edition, row: (edition, record_of(row)), pairs))

    def latest(self, function: str, prefix: bytes, limit: int) -> list[Record]:
        """Give the latest entries of an edition."""
        chosen = "WHERE Cache.function = ? AND edition = ? ORDER BY created DESC LIMIT ?"
        return self._records(f"{SELECT_RECORD} {chosen}", (function, prefix, limit))

    def attributes(self, key: str) -> Mapping[str, bytes]:
        """Give the digests of the attributes of an entry's arguments, `model.rate`, as far as they are kept."""
        for (kept,) in self._query("SELECT attributes FROM Cache WHERE raw = 1 AND key = ?", (key,)):
            return attributes_from(kept)
        return {}

    def bindings(self, function: str, prefix: bytes) -> list[tuple[str, bytes]]:
        """Give key and encoded arguments of each entry of an edition."""
        rows = self._query(
            "SELECT key, bound FROM Cache WHERE function = ? AND edition = ?", (function, prefix)
        )
        return [(key, bound) for key, bound in rows if type(key) is str and type(bound) is bytes]

    def _records(self, statement: str, values: Sequence[object]) -> list[Record]:
        return list(_readable(record_of, ((row,) for row in self._query(statement, values))))


def _readable(make: Callable[..., T], rows: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """Make something of rows, but for those that are damaged, which `verify` finds."""
    for row in rows:
        try:
            yield make(*row)
        except (ValueError, TypeError) as error:
            _log.debug("a damaged row is left out: %s", error)


def _names_in(text: str | None) -> tuple[str, ...]:
    """Give the names in a JSON array, or those of an object's members; none where the text is damaged."""
    try:
        return tuple(map(str, json.loads(text or "[]")))
    except (ValueError, TypeError, RecursionError):
        return ()


UNCOUNTED: Final = 64
"""How many entries are new before a commit counts them: who asks for figures reads fewer rows than that."""

_OLD_FILE: Final = "SELECT filename FROM Cache WHERE raw = 1 AND key = ? AND filename IS NOT NULL"


class _Prepared(NamedTuple):
    """An entry whose bytes are written, but for its row."""

    entry: Entry
    draft: Draft
    written: Written

    @property
    def key(self) -> str:
        return self.draft.key


class _Rows:
    """Writes the rows of one transaction, and knows what is to be done once it is committed."""

    __slots__ = ("_database", "_editions", "_execute", "_folder", "_old_files", "_origins")

    def __init__(self, folder: Folder, database: Database, transaction: Transaction) -> None:
        self._folder = folder
        self._database = database
        self._execute = transaction.execute
        self._editions: set[bytes] = set()
        self._origins: dict[Origin, int] = {}
        self._old_files: list[str] = []

    def write(self, prepared: Sequence[_Prepared], statement: str) -> None:
        """Write entries, and what their records refer to as far as it isn't known to be there."""
        editions, origins, execute = self._folder.editions, self._folder.origins, self._execute
        now = time.time()
        rows: list[tuple[Any, ...]] = []
        for entry, draft, written in prepared:
            edition = entry.edition
            if (
                edition is not None
                and edition.prefix not in editions
                and edition.prefix not in self._editions
            ):
                execute(PUT_EDITION, row_of_edition(edition))
                self._editions.add(edition.prefix)
            origin = draft.origin
            number = origins.get(origin) or self._origins.get(origin) or self._number_of(origin)
            row = row_of(entry, draft, written, now, number)
            if statement is UPSERT:
                self._old_files += [filename for (filename,) in self._database.read(_OLD_FILE, (draft.key,))]
                execute(UPSERT, row)
            else:
                rows.append(row)
                if len(rows) == ROWS_AT_ONCE:
                    execute(INSERT_MANY, tuple(chain.from_iterable(rows)))
                    rows.clear()
        for row in rows:
            if row[PLAIN_COLUMNS:] == NOTHING_MORE:
                execute(INSERT_PLAIN, row[:PLAIN_COLUMNS])
            else:
                execute(INSERT, row)

    def _number_of(self, origin: Origin) -> int:
        text = (origin_to_json(origin),)
        self._execute("INSERT OR IGNORE INTO Origin (text) VALUES (?)", text)
        ((number,),) = self._execute("SELECT number FROM Origin WHERE text = ?", text).fetchall()
        self._origins[origin] = number
        return int(number)

    def are_committed(self) -> None:
        """Remember what is there now, and remove the files of what was replaced."""
        self._folder.editions.update(self._editions)
        self._folder.origins.update(self._origins)
        for filename in self._old_files:
            self._folder.remove_file(self._database, filename)


class Commits:
    """Commits entries to one store."""

    def __init__(self, folder: Folder, uses: Uses, removals: Removals) -> None:
        self._folder = folder
        self._uses = uses
        self._removals = removals
        self._uncounted = 0

    def put_many(self, entries: Sequence[Entry]) -> frozenset[str]:
        """Commit entries with their records in one transaction; the keys of those whose lease was lost.

        Raises:
            StoreFailure: when they can't be written; nothing is changed then, and no lease released.
        """
        return self._folder.changed(self._put_many, entries)

    def _put_many(self, database: Database, entries: Sequence[Entry]) -> frozenset[str]:
        opened = self._folder.opened or self._folder.open()
        prepared: list[_Prepared] = []
        computed = 0
        try:
            # Before the transaction, so that nobody waits for bytes that are still being written. A list that grows
            # knows what to remove again if the writing fails.
            for entry in entries:
                prepared.append(self._prepared(opened, entry))
                computed += not entry.is_copy
            lost = self._commit(database, prepared)
        except BaseException:
            # What workers have written is their submitter's to remove, who may try once more.
            self._remove_files([each for each in prepared if not isinstance(each.entry.payload, Deposit)])
            raise
        if lost:
            self._remove_files([each for each in prepared if each.entry.lease in lost])
            for lease in lost:
                _log.info("another one has the key %s now, so this result of it is not stored", lease.key)
        self._uses.misses += computed - len(lost)
        database.tidy()
        return frozenset(lease.key for lease in lost) if lost else frozenset()

    def _prepared(self, opened: Opened, entry: Entry) -> _Prepared:
        draft = entry.record if isinstance(entry.record, Draft) else Draft.of(entry.record)
        media_size = 0
        if draft.media is not None:
            media_size = _media.size_of(self._folder.directory / _media.MEDIA_FOLDER / draft.media)
        if isinstance(entry.payload, Deposit):
            os.lstat(self._folder.directory / entry.payload.filename)  # no row without its file
            written = Written.to_file(entry.payload.nbytes + media_size, entry.payload.filename)
        else:
            sealed = entry.payload
            if isinstance(sealed, Payload):
                sealed = self._sealed(opened, sealed, draft.key, entry.compression)
            written = opened.database._disk.write(sealed, media_size)
        return _Prepared(entry, draft, written)

    @staticmethod
    def _sealed(opened: Opened, payload: Payload, key: str, compression: str | None) -> SealedEntry:
        try:
            chosen = compression_named(compression)
        except BencherJobError as error:
            raise StoreFailure(str(error)) from error
        return seal(payload, key, signature=opened.signature, compression=chosen)

    def _remove_files(self, prepared: Sequence[_Prepared]) -> None:
        for each in prepared:
            if each.written.filename is not None:
                Path(self._folder.directory, each.written.filename).unlink(missing_ok=True)

    def _commit(self, database: Database, prepared: Sequence[_Prepared]) -> frozenset[Lease]:
        """Commit what can be, and give the leases of the rest."""
        lost: frozenset[Lease] = frozenset()
        replaces, remaining = False, prepared
        while remaining:
            try:
                if replaces:
                    with self._folder.generation.changing():
                        self._attempt(database, remaining, UPSERT)
                    self._removals.remove_discarded(database)
                else:
                    self._attempt(database, remaining, INSERT)
                break
            except LeasesLost as error:
                lost |= error.leases
                remaining = [each for each in prepared if each.entry.lease not in lost]
            except sqlite3.IntegrityError:  # one of the keys is there, so memory must know
                if replaces:
                    raise
                replaces = True
        return lost

    def _attempt(self, database: Database, prepared: Sequence[_Prepared], statement: str) -> None:
        leases = [each.entry.lease for each in prepared if each.entry.lease is not None]
        drained = self._uses.due()
        uncounted = self._uncounted + len(prepared)
        try:
            with database.transaction() as transaction:
                Leases.release_in(transaction, leases)
                rows = _Rows(self._folder, database, transaction)
                rows.write(prepared, statement)
                if drained is not None:
                    self._uses.write(database, drained)
                if uncounted >= UNCOUNTED:
                    transaction.execute(COUNT_NEW)
                transaction.commit()
        except BaseException:
            if drained is not None:
                self._uses.restore(drained)
            raise
        self._uncounted = uncounted if uncounted < UNCOUNTED else 0
        self._folder.generation.committed()
        rows.are_committed()


class DiskStore(Items):
    """Entries in a folder; opened at first use, and again at the first use after `close()`.

    Attributes:
        size_limit: the size in bytes beyond which the least recently used entries are evicted.
        folder: what it lies in, for those who look at the whole of it.
        lookups: how entries are found in it.
        removals: how entries leave it.
        leases: which process computes which key.
        uses: what was used in this process and is not written yet.
    """

    keeps = True

    def __init__(
        self,
        directory: Path,
        *,
        size_limit: int,
        tag_index: bool = True,
        trusted: bool = False,
        only_looks: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        self.directory = directory
        self.size_limit = size_limit
        self.folder = Folder(
            directory, tag_index=tag_index, trusted=trusted, only_looks=only_looks, patience=patience
        )
        self.uses = Uses(self.folder)
        self.history = DiskHistory(self.folder)
        self.removals = Removals(self.folder, self.uses)
        self.lookups = Lookups(self.folder, self.uses, self.removals)
        self.leases = Leases(self.folder)
        self._commits = Commits(self.folder, self.uses, self.removals)
        self._failures = Failures(self.folder, self.leases)
        self._depositories: dict[str | None, tuple[Opened, Depository]] = {}
        # Bytes since the size was last looked at: so many that the first put looks.
        self._written = size_limit

    @property
    def tally(self) -> Tally:
        """What was set aside and evicted, and what had expired and was removed."""
        return self.folder.tally

    @property
    def generation(self) -> Generation:
        """What tells memory that it is out of date."""
        return self.folder.generation

    @property
    def puts(self) -> int:
        """A number that is another one whenever any process has put entries."""
        return self.folder.generation.puts

    def open(self) -> Database:
        """Open the database, made if it isn't there.

        Raises:
            UntrustedCache: when another user owns the folder or can write to it.
            StoreFailure: when the database can't be opened or is of a later version.
        """
        return self.folder.open().database

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up and verify its bytes."""
        hit = self.lookups.find(key, mapped=mapped)
        if not isinstance(hit, Miss):
            self.uses.note(key, hit.seconds)
        return hit

    def get_many(self, keys: Iterable[str], mapped: bool = False) -> Hits:
        """Look entries up in bulk and verify their bytes."""
        return self.lookups.get_many(keys, mapped=mapped)

    def retract(self, seconds: Mapping[str, float]) -> None:
        """Note that entries that were just looked up have answered no job."""
        self.uses.retract(seconds)

    def note_answer(self, key: str, seconds: float) -> None:
        """Note that an entry that was looked up before has answered a job."""
        self.uses.note_answer(key, seconds)

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Give how long the functions of entries had run, in seconds."""
        return self.lookups.durations(keys)

    def put_many(self, entries: Sequence[Entry]) -> frozenset[str]:
        """Commit entries with their records in one transaction; the keys of those whose lease was lost."""
        lost = self._commits.put_many(entries)
        for entry in entries:
            self._written += entry.payload.nbytes
        if self._written >= self.size_limit // 100:
            self._written = 0
            self._evict()
        return lost

    def _evict(self) -> None:
        """Remove what has expired, and the least recently used entries beyond the size limit."""
        self.removals.keep_within(self.size_limit)

    def depository(self, compression: str | None) -> Depository | None:
        """Say how workers write large results to the folder as it is open; None where it isn't, or can't be written."""
        opened = self.folder.opened
        if opened is None or not opened.is_writable:
            return None
        known = self._depositories.get(compression)
        if known is None or known[0] is not opened:
            made = Depository(
                self.directory, opened.place, opened.signature, compression, trusted=self.folder.trusted
            )
            known = self._depositories[compression] = opened, made
        return known[1]

    def publish_failure(self, lease: Lease, error: bytes) -> None:
        """Release a lease, and keep an exception's bytes for a minute for those who wait for it, if there are any."""
        self._failures.publish(lease, error)

    def failure(self, key: str, number: int) -> bytes | None:
        """Give the exception's bytes that were published for the lease with a number."""
        return self._failures.get(key, number)

    def has(self, key: str) -> bool:
        """Whether there is an entry, its bytes unread."""
        return self.lookups.has(key)

    def forget(self, key: str) -> bool:
        """Remove an entry and its media; whether there was one."""
        return bool(self.removals.remove("key = ?", (key,), "forgotten"))

    def forget_many(self, keys: Iterable[str]) -> int:
        """Remove the entries of keys with their media; how many there were."""
        return self.removals.remove_keys(keys)

    def clear(self, *, function: str | None = None, tag: str | None = None) -> int:
        """Remove all entries, or those of a function, a tag, or both, with their media; how many there were."""
        condition, values = condition_of(Selection(function=function, tag=tag))
        return self.removals.remove(condition, values, "cleared")

    def records(self, selection: Selection = EVERYTHING) -> Iterator[Record]:
        """Give the record of each entry that is chosen, the oldest first."""
        condition, values = condition_of(selection)
        statement = f"{SELECT_RECORD} WHERE raw = 1 AND ({condition}) AND {LIVE} ORDER BY created"
        records = self._readable(self.folder.query(statement, (*values, time.time())))
        return filter(selection.matches, records) if selection.where else records

    def latest_records(self, limit: int, selection: Selection = EVERYTHING) -> list[Record]:
        """Give the records of the latest entries that are chosen, at most so many, the oldest of them first."""
        condition, values = condition_of(selection)
        # Of what SQL can't choose, all are asked for, and as many are made as it takes.
        most = -1 if selection.where else limit
        # The rows are found by few columns first: a record has many, and takes long to read.
        statement = (
            f"{SELECT_RECORD} WHERE Cache.rowid IN (SELECT rowid FROM Cache WHERE raw = 1 AND ({condition}) AND {LIVE}"
            f" ORDER BY created DESC LIMIT {most}) ORDER BY created DESC"
        )
        records = self._readable(self.folder.query(statement, (*values, time.time())))
        return [*itertools.islice(filter(selection.matches, records), limit)][::-1]

    def _readable(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[Record]:
        for row in rows:
            try:
                yield record_of(row)
            except (ValueError, TypeError) as error:
                warn_caller(f"The record of {row[0]} in {self.directory} is damaged and left out: {error}")

    def functions(self) -> list[FunctionInfo]:
        """Give the figures of each function that has entries, sorted by name."""
        self.uses.write_at_once()
        return functions(self.folder)

    def count(self) -> int:
        """Count the entries, in constant time."""
        return figures_by(self.folder.query)[0]

    def size(self) -> int:
        """Give the size on disk in bytes, media included, in constant time."""
        return self.folder.translated(lambda: self.removals.size(self.open()))

    def totals(self) -> Totals:
        """Give what was found over the life of the store, as far as the processes that used it have said so."""
        self.uses.write_at_once()
        (row,) = self.folder.query("SELECT hits, misses, seconds FROM Totals")
        hits, misses, seconds = (number if type(number) in {int, float} else 0 for number in row)
        return Totals(hits, misses, seconds)

    def close(self) -> None:
        """Write what was used, close all connections and files, and free all leases; the next use opens them again."""
        self.uses.write_at_once()
        self.folder.close()
