"""The store in a folder of this machine, on diskcache and SQLite.

No index serves it: each would be a page more for every commit to write, and 200,000 rows take 0.15 seconds.

    seal, write files -> BEGIN -> rows, leases released -> COMMIT -> tell everybody
    files of workers  -^

Where a lease is lost, another process has the key now: everything is undone, and done again without it.

<directory>/            owner only
    cache.db            the table of entries with their records, and what outlives them
    ab/cd/....val       the bytes of large entries
    media/              a folder for each run that wrote files
    damaged/            entries that failed their check, for analysis
    generation          counts changes, so that no process answers from memory what is out of date
    owners              each process that computes something locks a byte of it
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from .._errors import BencherJobError, warn_caller
from .._folders import NameOf, path_of
from .._record import EVERYTHING, Draft, Figures, FunctionInfo, Origin, Record, Selection, Totals
from .base import (
    MISS,
    PATIENCE,
    Entry,
    Hit,
    Hits,
    Items,
    Lease,
    Miss,
    Reason,
    StoreFailure,
    Use,
    Written,
)
from .blobs import Blob, BlobWriter, discard
from .codec import Payload, seal
from .database import Database, Execute, in_file
from .folder import Folder, Opened
from .history import DiskHistory, functions
from .leases import RELEASE, LeasesLost, StoreLeases
from .lookups import Lookups
from .media import files_in, files_to_json
from .outbox import PUT_OUTBOX, Outbox
from .parts import Compression, MissignedEntry, compression_named
from .removals import MISSES_PER_BATCH, Removals, Uses
from .schema import (
    ENTRY_OVERHEAD,
    INSERT,
    PUT_VERSION,
    SELECT_FIGURES,
    SELECT_RECORD,
    SELECT_VERSION,
    UPSERT,
    condition_of,
    count,
    origin_to_json,
    record_of,
    row_of,
    row_of_version,
    version_of_row,
)
from .signature import VALUE_DIGEST

_log = logging.getLogger(__name__)


UNCOUNTED: Final = 64
"""How many entries are new before a commit counts them: a query of figures reads fewer rows than that."""

_OLD_FILE: Final = "SELECT filename FROM Cache WHERE raw = 1 AND key = ? AND filename IS NOT NULL"


class _WrittenEntry(NamedTuple):
    """An entry whose bytes are written, but for its row."""

    entry: Entry
    draft: Draft
    written: Written


@dataclass(slots=True)
class _Rows:
    """What one transaction writes: the rows of entries, and what belongs to them.

    Attributes:
        versions: function versions that are in the database once it is committed.
        origins: numbers and texts of origins that are there then.
        old_files: value files of the entries that it replaces, to be removed then.
    """

    _folder: Folder
    _opened: Opened
    _entries: Sequence[_WrittenEntry]
    _statement: str
    versions: set[bytes] = field(default_factory=set)
    origins: dict[Origin, tuple[int, str]] = field(default_factory=dict)
    old_files: list[str] = field(default_factory=list)

    def write(self, execute: Execute) -> None:
        """Release the leases of the entries, and write their rows and what their records refer to.

        Raises:
            LeasesLost: when some leases are another's now.
            sqlite3.IntegrityError: when one of the keys is there, and the statement replaces none.
        """
        versions, origins = self._folder.versions, self._folder.origins
        signature, now = self._opened.signature, time.time()
        lost = {
            lease
            for entry, _, _ in self._entries
            if (lease := entry.lease) is not None and not execute(RELEASE, (lease.key, lease.number)).rowcount
        }
        if lost:
            raise LeasesLost(frozenset(lost))
        for entry, draft, written in self._entries:
            version = entry.function_version
            if version is not None and version.prefix not in versions and version.prefix not in self.versions:
                if not self._has_version(execute, version.prefix):
                    execute(PUT_VERSION, row_of_version(entry.version, signature))  # type: ignore[arg-type]
                self.versions.add(version.prefix)
            origin = draft.origin
            numbered = origins.get(origin) or self.origins.get(origin) or self._number_of(execute, origin)
            row = row_of(entry, draft, written, now, numbered, signature)
            if self._statement is UPSERT:
                self.old_files += [
                    filename for (filename,) in self._opened.database.read(_OLD_FILE, (draft.key,))
                ]
                execute(UPSERT, row)
            else:
                execute(INSERT, row)
            if entry.address:
                action = "replace" if entry.replaces else "put"
                execute(PUT_OUTBOX, (entry.address, draft.key, draft.function, action, now))

    def _has_version(self, execute: Execute, prefix: bytes) -> bool:
        """Whether a function version is there, as it was stored."""
        for row in execute(SELECT_VERSION, (prefix,)).fetchall():
            try:
                version_of_row(row, self._opened.signature)
            except (ValueError, MissignedEntry):
                return False
            return True
        return False

    def _number_of(self, execute: Execute, origin: Origin) -> tuple[int, str]:
        """Return the number of an origin's row, and its text."""
        text = origin_to_json(origin)
        execute("INSERT OR IGNORE INTO Origin (text) VALUES (?)", (text,))
        ((number,),) = execute("SELECT number FROM Origin WHERE text = ?", (text,)).fetchall()
        self.origins[origin] = int(number), text
        return self.origins[origin]


class Commits:
    """Commits entries to one store.

    Attributes:
        written: bytes of the entries since the size of the store was last looked at.
    """

    def __init__(self, folder: Folder, uses: Uses, removals: Removals) -> None:
        self._folder = folder
        self._uses = uses
        self._removals = removals
        self._uncounted = 0
        self.written = 0

    def put_many(self, database: Database, entries: Sequence[Entry]) -> Mapping[str, Hit | Miss]:
        """Commit entries with their records in one transaction; return the keys of those whose lease was lost.

        If that fails nothing is changed, and no lease released.
        """
        opened = self._folder.opened or self._folder.open()
        prepared: list[_WrittenEntry] = []
        computed, replaces = 0, False
        lost: frozenset[Lease] = frozenset()
        try:
            # Before the transaction, so that nobody waits for bytes that are still being written. A list that grows
            # knows what to remove again if the writing fails.
            for entry in entries:
                prepared.append(self._prepared(opened, entry))
                computed += not entry.is_copy
                # What replaces a shared result may be in the memory of a process here that has just fetched it.
                replaces = replaces or bool(entry.replaces and entry.address)
            remaining = prepared
            while remaining:
                try:
                    if replaces:
                        self._folder.changes.change(partial(self._commit, opened, remaining, UPSERT))
                        self._removals.remove_discarded(database)
                    else:
                        self._commit(opened, remaining, INSERT)
                    break
                except LeasesLost as error:
                    lost |= error.leases
                    remaining = [each for each in prepared if each.entry.lease not in lost]
                except sqlite3.IntegrityError:  # one of the keys is there, so memory must know
                    if replaces:
                        raise
                    replaces = True
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

    def _prepared(self, opened: Opened, entry: Entry) -> _WrittenEntry:
        """Write an entry's bytes to a file of its own, if it is large."""
        draft = entry.record if isinstance(entry.record, Draft) else Draft.of(entry.record)
        files, media_size = None, 0
        if draft.media is not None:
            files = files_in(path_of(self._folder.directory, NameOf.RUN_FOLDER, draft.media))
            media_size = sum(file.size for file in files)
        if isinstance(entry.payload, Blob):
            # No row without its file.
            with open(self._folder.directory / entry.payload.filename, "rb") as file:
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
        self.written += written.size
        return _WrittenEntry(entry, draft, written)

    @staticmethod
    def _compression(name: str) -> Compression | None:
        try:
            return compression_named(name)
        except BencherJobError as error:
            raise StoreFailure(str(error)) from error

    def _remove_files(self, prepared: Sequence[_WrittenEntry]) -> None:
        for each in prepared:
            if each.written.filename is not None:
                discard(self._folder.directory, Blob(each.written.filename, each.written.size))

    def _commit(self, opened: Opened, prepared: Sequence[_WrittenEntry], statement: str) -> None:
        folder, uses, database = self._folder, self._uses, opened.database
        drained = uses.drain() if uses.misses >= MISSES_PER_BATCH or time.monotonic() > uses.due else None
        uncounted = self._uncounted + len(prepared)
        rows = _Rows(folder, opened, prepared, statement)
        work = rows.write
        if drained is not None or uncounted >= UNCOUNTED:

            def work(execute: Execute) -> None:
                rows.write(execute)
                if drained is not None:
                    uses.write(database, drained)
                if uncounted >= UNCOUNTED:
                    count(execute)

        try:
            database.transact(work)
        except BaseException:
            if drained is not None:
                uses.restore(drained)
            raise
        self._uncounted = uncounted if uncounted < UNCOUNTED else 0
        folder.changes.committed()
        folder.versions.update(rows.versions)
        folder.origins.update(rows.origins)
        for filename in rows.old_files:
            folder.remove_file(database, filename)


class DiskStore(Items):
    """Entries in a folder; opened at first use, and again at the first use after `close()`.

    Attributes:
        size_limit: the size in bytes beyond which the least recently used entries are evicted.
        folder: the folder where it lies.
        files: its open folder, for maintenance.
        lookups: finds entries.
        outbox: what is not in the shared store yet.
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
        self.changed_since = self.files.changes.changed_since
        self.tally = self.files.tally
        self.uses = Uses(self.files)
        self.history = DiskHistory(self.files)
        self.removals = Removals(self.files, self.uses)
        self.lookups = Lookups(self.files, self.uses, self.removals)
        self.get = self.lookups.get
        self.leases = StoreLeases(self.files)
        self.outbox = Outbox(self.files)
        self._commits = Commits(self.files, self.uses, self.removals)
        self._blob_writers: dict[str | None, tuple[Opened, BlobWriter]] = {}
        self._commits.written = size_limit  # so many that the first put looks at the size

    def open(self) -> Database:
        """Open the database, made if it isn't there.

        Raises:
            UntrustedCache: when another user owns the folder or can write to it.
            StoreFailure: when the database can't be opened or is of a later version.
        """
        return self.files.open().database

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
        lost = self.files.changed(self._commits.put_many, entries, is_frequent=True)
        if self._commits.written >= self.size_limit // 100:
            self._commits.written = 0
            self._evict()
        return lost

    def _evict(self) -> None:
        """Beyond the size limit, remove what has expired, and then the least recently used entries."""
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
        """Remove the entries of keys with their media, or their failed jobs, and return how many entries there were."""
        return self.removals.remove_keys(keys, reason)

    def clear(self, selection: Selection = EVERYTHING) -> int:
        """Remove the selected entries with their media, and failed jobs; return how many entries there were."""
        if failed := self.history.failures(selection):
            self.remove(each.record.key for each in failed)
        if selection.where:  # which SQL can't always decide
            return self.remove([record.key for record in self.records(selection)], "cleared")
        condition, values = condition_of(selection)
        return self.removals.remove(condition, values, "cleared")

    def records(self, selection: Selection = EVERYTHING, latest: int | None = None) -> Iterator[Record]:
        """Iterate over the records of the selected entries, or of the latest of them, the oldest first."""
        condition, values = condition_of(selection)
        condition = f"raw = 1 AND ({condition})"
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
        """Return the figures of each function that has entries or failed jobs, sorted by name."""
        self.uses.write_at_once()
        return functions(self.files)

    def figures(self) -> Figures:
        """Return the figures of the store over its life, as far as the processes that used it have written them."""
        self.uses.write_at_once()
        ((hits, misses, seconds),) = self.files.query("SELECT hits, misses, seconds FROM Totals")
        total = [number if type(number) in {int, float} else 0 for number in (hits, misses, seconds)]
        ((entries, size),) = self.files.query(SELECT_FIGURES)
        return Figures(entries, size + entries * ENTRY_OVERHEAD, Totals(*total))

    def close(self) -> None:
        """Write what was used, close all connections and files, and free all leases; the next use opens them again."""
        self.uses.write_at_once()
        self.files.close()
