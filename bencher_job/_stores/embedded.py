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
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_args

from .._errors import BencherJobError, UntrustedCache, warn_caller
from .._keys import StoredFunctionVersion
from .._names import NameOf, path_of
from .._query import ArgumentColumn, EntryInfo, Query
from .._record import EVERYTHING, Draft, Figures, FunctionInfo, Origin, Record, Selection, Totals
from .base import (
    MISS,
    PATIENCE,
    Entry,
    Found,
    Gone,
    Hit,
    Hits,
    Items,
    Keyed,
    Lease,
    Miss,
    Reason,
    StoreFailure,
    Use,
    Written,
)
from .blobs import Blob, BlobWriter, discard
from .codec import (
    Compression,
    DamagedEntry,
    MissignedEntry,
    Payload,
    UnreadableEntry,
    compression_named,
    seal,
)
from .database import Database, Transaction, in_file
from .folder import Folder, Opened
from .leases import LeasesLost, StoreLeases
from .lookups import Lookups, check_key_of, check_row
from .macs import VALUE_DIGEST
from .media import files_in, files_to_json
from .outbox import PUT_OUTBOX, Outbox
from .removals import Removals
from .rows import columns_of, find_keys, infos_of
from .schema import (
    COUNT_NEW,
    ENTRY_OVERHEAD,
    INSERT,
    INSERT_MANY,
    INSERT_PLAIN,
    LIVE,
    NOTHING_MORE,
    PLAIN_COLUMNS,
    PUT_EDITION,
    ROWS_AT_ONCE,
    SELECT_EDITION,
    SELECT_ENTRY,
    SELECT_KNOWN_EDITION,
    SELECT_RECORD,
    SELECT_VERSION,
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
from .signature import Signature
from .uses import Uses

__all__ = ["Commits", "DiskHistory", "DiskStore", "functions"]


_log = logging.getLogger(__name__)


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


class DiskHistory:
    """Answers questions about the entries of one store from its tables."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._query = folder.query

    def examine(self, key: str) -> Found | Gone | None:
        """Verify the entry of a key, or say what became of it; None if nothing is known."""
        rows = self._query(SELECT_ENTRY + "= ?", (key,))
        if not rows:
            return self._gone(key)
        damage, may_be_whole = "", False
        try:
            check_key_of(rows[0], key)
            if not check_row(rows[0], self._folder.open(), mapped=True):
                return Gone("expired", moment(rows[0][5]))
        except FileNotFoundError:
            damage = "its value file is missing"
        except (DamagedEntry, sqlite3.DatabaseError) as error:
            damage = str(error)
        except (UnreadableEntry, UntrustedCache, OSError) as error:
            damage, may_be_whole = str(error), True
        rows = self._query(f"{SELECT_RECORD} WHERE raw = 1 AND key = ?", (key,))
        records = [*self._readable(record_of, rows)]
        return Found(records[0] if records else None, damage, may_be_whole)

    def _gone(self, key: str) -> Gone | None:
        for reason, at in self._query("SELECT reason, at FROM Gone WHERE key = ?", (key,)):
            if reason in get_args(Reason) and type(at) is float:
                return Gone(reason, moment(at))
        return None

    def infos(self, keys: Sequence[str]) -> list[EntryInfo]:
        """Return what is known about the entries of some keys, in this order; keys without one are left out."""
        return infos_of(self._folder, keys)

    def find(self, query: Query) -> list[str]:
        """Return the keys of the entries that a query selects, in its order."""
        return find_keys(self._folder, query)

    def columns(self, function: str) -> list[ArgumentColumn]:
        """Return the arguments that a function's entries have, in the order in which the entries name them."""
        return columns_of(self._folder, function)

    def keys(self, prefix: str, limit: int, *, removed: bool = False) -> list[str]:
        """Return the first keys with a prefix, of entries or of removed ones."""
        table = "Gone WHERE ? > 0" if removed else f"Cache WHERE raw = 1 AND typeof(key) = 'text' AND {LIVE}"
        statement = f"SELECT key FROM {table} AND key >= ? AND key < ? ORDER BY key LIMIT ?"
        return [key for (key,) in self._query(statement, (time.time(), prefix, prefix + _LAST, limit))]

    def removed(self) -> dict[str, int]:
        """Count the removed entries that are remembered, by the reason of their removal."""
        counted = self._query("SELECT reason, count(*) FROM Gone GROUP BY reason ORDER BY reason")
        return {reason: count for reason, count in counted if reason in get_args(Reason)}

    def versions(self, function: str, *, unused: bool = False) -> list[StoredFunctionVersion]:
        """Return the versions of a function that have entries, the one with the latest entry first.

        With `unused` also those without entries, in any order and without their sources; no entry is read.
        """
        rows = self._query(SELECT_KNOWN_EDITION if unused else SELECT_EDITION, (function,))
        return list(self._readable(past_edition_of, rows))

    def of_version(
        self,
        function: str,
        *,
        prefix: bytes | None = None,
        bound: bytes | None = None,
        limit: int | None = None,
    ) -> Iterator[Keyed]:
        """Iterate over the entries of a function version, or with these encoded arguments, the latest first."""
        conditions = ["edition IS NOT NULL", "typeof(bound) = 'blob'"]
        conditions += ["edition = ?"] * (prefix is not None) + ["bound = ?"] * (bound is not None)
        rows = self._query(
            f"{_SELECT_KEYED} WHERE Cache.function = ? AND {' AND '.join(conditions)} ORDER BY created DESC LIMIT ?",
            (
                function,
                *(each for each in (prefix, bound) if each is not None),
                -1 if limit is None else limit,
            ),
        )
        return self._readable(_keyed, rows)

    def _readable(
        self, make: Callable[[tuple[Any, ...], Signature], T], rows: Iterable[tuple[Any, ...]]
    ) -> Iterator[T]:
        """Make something of rows, except of damaged ones, which `verify` finds."""
        signature = self._folder.open().signature
        for row in rows:
            try:
                yield make(row, signature)
            except (ValueError, TypeError, MissignedEntry) as error:
                _log.debug("a damaged row is left out: %s", error)

    def stamp(self) -> str:
        """Return a text that differs after any change of the store by any process."""
        return ".".join([str(self._folder.generation.puts), *map(_look, self._folder.files())])


def _look(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "-"
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


_SELECT_KEYED: Final = SELECT_RECORD.replace("SELECT ", "SELECT edition, bound, attributes, ", 1)


def _keyed(row: tuple[Any, ...], signature: Signature) -> Keyed:
    prefix, bound, attributes, *of_record = row
    return Keyed(prefix, bound, attributes_from(attributes), record_of(tuple(of_record), signature))


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

    __slots__ = ("_database", "_editions", "_execute", "_folder", "_old_files", "_origins", "_signature")

    def __init__(self, folder: Folder, opened: Opened, transaction: Transaction) -> None:
        self._folder = folder
        self._database = opened.database
        self._signature = opened.signature
        self._execute = transaction.execute
        self._editions: set[bytes] = set()
        self._origins: dict[Origin, tuple[int, str]] = {}
        self._old_files: list[str] = []

    def write(self, prepared: Sequence[_Prepared], statement: str) -> None:
        """Write entries, and what their records refer to as far as it isn't known to be there."""
        editions, origins, execute = self._folder.editions, self._folder.origins, self._execute
        signature = self._signature
        now = time.time()
        rows: list[tuple[Any, ...]] = []
        for entry, draft, written in prepared:
            edition = entry.edition
            if (
                edition is not None
                and edition.prefix not in editions
                and edition.prefix not in self._editions
            ):
                if not self._has_version(edition.prefix):
                    execute(PUT_EDITION, row_of_edition(entry.version, signature))  # type: ignore[arg-type]
                self._editions.add(edition.prefix)
            origin = draft.origin
            numbered = origins.get(origin) or self._origins.get(origin) or self._number_of(origin)
            row = row_of(entry, draft, written, now, numbered, signature)
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

    def _has_version(self, prefix: bytes) -> bool:
        """Whether a function version is there, as it was stored."""
        for row in self._execute(SELECT_VERSION, (prefix,)).fetchall():
            try:
                past_edition_of(row, self._signature)
            except (ValueError, MissignedEntry):
                return False
            return True
        return False

    def _number_of(self, origin: Origin) -> tuple[int, str]:
        """Return the number of an origin's row, and its text."""
        text = origin_to_json(origin)
        self._execute("INSERT OR IGNORE INTO Origin (text) VALUES (?)", (text,))
        ((number,),) = self._execute("SELECT number FROM Origin WHERE text = ?", (text,)).fetchall()
        self._origins[origin] = int(number), text
        return self._origins[origin]

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

    def put_many(self, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
        """Commit entries with their records in one transaction; return the keys of those whose lease was lost.

        Raises:
            StoreFailure: when they can't be written; nothing is changed then, and no lease released.
        """
        return self._folder.changed(self._put_many, entries)

    def _put_many(self, database: Database, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
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
            self._remove_files([each for each in prepared if not isinstance(each.entry.payload, Blob)])
            raise
        if lost:
            self._remove_files([each for each in prepared if each.entry.lease in lost])
            for lease in lost:
                _log.info("another one has the key %s now, so this result of it is not stored", lease.key)
        self._uses.misses += computed - len(lost)
        database.tidy()
        return {lease.key: MISS for lease in lost} if lost else {}

    def _prepared(self, opened: Opened, entry: Entry) -> _Prepared:
        draft = entry.record if isinstance(entry.record, Draft) else Draft.of(entry.record)
        files, media_size = None, 0
        if draft.media is not None:
            files = files_in(path_of(self._folder.directory, NameOf.RUN_FOLDER, draft.media))
            media_size = sum(file.size for file in files)
        if isinstance(entry.payload, Blob):
            with open(
                self._folder.directory / entry.payload.filename, "rb"
            ) as file:  # no row without its file
                digest = file.read(VALUE_DIGEST.stop)[VALUE_DIGEST]
            written = in_file(entry.payload.nbytes + media_size, entry.payload.filename, digest)
        else:
            sealed = entry.payload
            if isinstance(sealed, Payload):
                compression = None if entry.compression is None else self._compression(entry.compression)
                sealed = seal(sealed, draft.key, signature=opened.signature, compression=compression)
            written = opened.database._disk.write(sealed, media_size)
        if files is not None:
            written = written._replace(files=files_to_json(files))
        return _Prepared(entry, draft, written)

    @staticmethod
    def _compression(name: str) -> Compression | None:
        try:
            return compression_named(name)
        except BencherJobError as error:
            raise StoreFailure(str(error)) from error

    def _remove_files(self, prepared: Sequence[_Prepared]) -> None:
        for each in prepared:
            if each.written.filename is not None:
                discard(self._folder.directory, Blob(each.written.filename, each.written.size))

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
                StoreLeases.release_in(transaction, leases)
                rows = _Rows(self._folder, self._folder.open(), transaction)
                rows.write(prepared, statement)
                for entry, draft, _ in prepared:
                    if entry.address:
                        action = "replace" if entry.replaces else "put"
                        values = entry.address, draft.key, draft.function, action, time.time()
                        transaction.execute(PUT_OUTBOX, values)
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
        folder: the folder where it lies.
        files: its open folder, for maintenance.
        lookups: finds entries.
        outbox: what a shared store hasn't got yet.
        removals: removes entries.
        uses: the uses that are not written yet.
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
        self.folder = directory
        self.size_limit = size_limit
        self.files = Folder(
            directory, tag_index=tag_index, trusted=trusted, only_looks=only_looks, patience=patience
        )
        self.generation = self.files.generation
        self.tally = self.files.tally
        self.uses = Uses(self.files)
        self.history = DiskHistory(self.files)
        self.removals = Removals(self.files, self.uses)
        self.lookups = Lookups(self.files, self.uses, self.removals)
        self.leases = StoreLeases(self.files)
        self.outbox = Outbox(self.files)
        self._commits = Commits(self.files, self.uses, self.removals)
        self._blob_writers: dict[str | None, tuple[Opened, BlobWriter]] = {}
        # Bytes since the size was last looked at: so many that the first put looks.
        self._written = size_limit

    def changed_since(self, mark: object) -> object:
        """Return None if no process has replaced or removed an entry since a mark was returned, else a new mark."""
        try:
            now = self.generation.read()
        except OSError as error:  # then nothing in memory is trusted
            _log.info("%s can't be looked at: %s", self.folder, error)
            return object()
        if now == mark and not now[1] & 1:  # an odd one: entries are being changed
            return None
        return now

    def open(self) -> Database:
        """Open the database, made if it isn't there.

        Raises:
            UntrustedCache: when another user owns the folder or can write to it.
            StoreFailure: when the database can't be opened or is of a later version.
        """
        return self.files.open().database

    def get(self, key: str, mapped: bool = False) -> Hit | Miss:
        """Look an entry up and verify its bytes."""
        hit = self.lookups.find(key, mapped=mapped)
        if not isinstance(hit, Miss):
            self.uses.note(key, hit.seconds)
        return hit

    def get_many(
        self, keys: Iterable[str], mapped: bool = False, *, largest: int | None = None, counts: bool = True
    ) -> Hits:
        """Look entries up in bulk and verify their bytes."""
        return self.lookups.get_many(keys, mapped=mapped, largest=largest, counts=counts)

    def count_uses(self, uses: Sequence[Use]) -> None:
        """Count hits that a memory cache has answered."""
        self.uses.add(uses)
        self.uses.write_now_and_then()

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Return how long the functions of entries had run, in seconds."""
        return self.lookups.durations(keys)

    def put_many(self, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
        """Commit entries with their records in one transaction; return the keys of those whose lease was lost."""
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

    def blob_writer(self, compression: str | None) -> BlobWriter | None:
        """Return how workers write large values to the folder; None if it is not open or can't be written."""
        opened = self.files.opened
        if opened is None or not opened.is_writable:
            return None
        known = self._blob_writers.get(compression)
        if known is None or known[0] is not opened:
            made = BlobWriter(
                self.folder, opened.place, opened.signature, compression, trusted=self.files.trusted
            )
            known = self._blob_writers[compression] = opened, made
        return known[1]

    def remove(self, keys: Iterable[str], reason: Reason = "forgotten") -> int:
        """Remove the entries of keys with their media, and return how many there were."""
        return self.removals.remove_keys(keys, reason)

    def clear(self, selection: Selection = EVERYTHING) -> int:
        """Remove the selected entries with their media, and return how many there were."""
        if selection.where:  # which SQL can't always decide
            return self.remove([record.key for record in self.records(selection)], "cleared")
        condition, values = condition_of(selection)
        return self.removals.remove(condition, values, "cleared")

    def records(self, selection: Selection = EVERYTHING, latest: int | None = None) -> Iterator[Record]:
        """Iterate over the records of the selected entries, or of the latest of them, the oldest first."""
        condition, values = condition_of(selection)
        condition = f"raw = 1 AND ({condition}) AND {LIVE}"
        values = (*values, time.time())
        if latest is None:
            records = self._readable(
                self.files.query(f"{SELECT_RECORD} WHERE {condition} ORDER BY created", values)
            )
            return filter(selection.matches, records) if selection.where else records
        # Of what SQL can't choose, all are asked for, and as many are made as it takes. The rows are found by few
        # columns first: a record has many, and takes long to read.
        statement = (
            f"{SELECT_RECORD} WHERE Cache.rowid IN (SELECT rowid FROM Cache WHERE {condition} ORDER BY created DESC"
            f" LIMIT {-1 if selection.where else latest}) ORDER BY created DESC"
        )
        records = filter(selection.matches, self._readable(self.files.query(statement, values)))
        return iter([*itertools.islice(records, latest)][::-1])

    def _readable(self, rows: Sequence[tuple[Any, ...]]) -> Iterator[Record]:
        signature = self.files.open().signature
        for row in rows:
            try:
                yield record_of(row, signature)
            except MissignedEntry as error:
                self.files.warn_missigned(row[0], error)
            except (ValueError, TypeError) as error:
                warn_caller(f"The record of {row[0]} in {self.folder} is damaged and left out: {error}")

    def functions(self) -> list[FunctionInfo]:
        """Give the figures of each function that has entries, sorted by name."""
        self.uses.write_at_once()
        return functions(self.files)

    def figures(self) -> Figures:
        """Return the figures of the store over its life, as far as the processes that used it have written them."""
        self.uses.write_at_once()
        ((hits, misses, seconds),) = self.files.query("SELECT hits, misses, seconds FROM Totals")
        total = [number if type(number) in {int, float} else 0 for number in (hits, misses, seconds)]
        entries, size = figures_by(self.files.query)
        return Figures(entries, size + entries * ENTRY_OVERHEAD, Totals(*total))

    def close(self) -> None:
        """Write what was used, close all connections and files, and free all leases; the next use opens them again."""
        self.uses.write_at_once()
        self.files.close()
