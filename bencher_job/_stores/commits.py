"""Knows how results are committed: their bytes first, then all rows in one transaction, while their claims are held.

    seal, write files -> BEGIN -> rows -> hold the claims -> COMMIT -> tell everybody -> release

Claims are held only while the rows are made to last. Where one is lost, another process has the key now: everything is
undone, and done again without it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import _media
from .._errors import BencherJobError
from .base import Entry, StoreFailure
from .claims import Claim, ClaimsUnavailable
from .codec import seal
from .compression import compression_named
from .database import Database, Transaction, Written
from .folder import Folder
from .removals import Removals
from .tables import INSERT, PUT_EDITION, UPSERT, origin_of, origin_to_json, row_of, row_of_edition
from .uses import Uses

__all__ = ["Commits"]

_OLD_FILE: Final = "SELECT filename FROM Cache WHERE raw = 1 AND key = ? AND filename IS NOT NULL"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An entry whose bytes are written, but for its row."""

    entry: Entry
    written: Written
    origin: tuple[Any, ...]
    """What its record has in common with many."""

    @property
    def key(self) -> str:
        return self.entry.record.key


class _ClaimsLost(Exception):
    """Some of the claims are another's now."""

    def __init__(self, keys: frozenset[str]) -> None:
        super().__init__(keys)
        self.keys = keys


class Commits:
    """Commits entries to one store."""

    def __init__(self, folder: Folder, uses: Uses, removals: Removals) -> None:
        self._folder = folder
        self._uses = uses
        self._removals = removals

    def put_many(self, entries: Sequence[Entry]) -> frozenset[str]:
        """Commit entries with their records in one transaction; the keys of those whose claim was lost.

        Raises:
            StoreFailure: when they can't be written; nothing is changed then, and no claim released.
        """
        return self._folder.changed(lambda database: self._put_many(database, entries))

    def _put_many(self, database: Database, entries: Sequence[Entry]) -> frozenset[str]:
        prepared: list[_Prepared] = []
        try:
            # Before the transaction, so that nobody waits for bytes that are still being written. A list that grows
            # knows what to remove again if the writing fails.
            for entry in entries:
                prepared.append(self._prepared(database, entry))  # noqa: PERF401
            lost = self._commit(database, prepared)
        except BaseException:
            self._remove_files(prepared)
            raise
        if lost:
            self._remove_files([each for each in prepared if each.key in lost])
            for key in lost:
                _log.info("another process has the key %s now, so this result of it is not stored", key)
        self._uses.misses += sum(not each.is_copy for each in entries) - len(lost)
        database.tidy()
        return lost

    def _prepared(self, database: Database, entry: Entry) -> _Prepared:
        try:
            compression = compression_named(entry.compression)
        except BencherJobError as error:
            raise StoreFailure(str(error)) from error
        signature = self._folder.open().signature
        sealed = seal(entry.payload, entry.record.key, signature=signature, compression=compression)
        media = entry.record.media
        media_size = (
            0 if media is None else _media.size_of(self._folder.directory / _media.MEDIA_FOLDER / media)
        )
        written = database._disk.write(sealed, media_size)
        return _Prepared(entry, written, origin_of(entry.record))

    def _remove_files(self, prepared: Sequence[_Prepared]) -> None:
        for each in prepared:
            if each.written.filename is not None:
                Path(self._folder.directory, each.written.filename).unlink(missing_ok=True)

    def _commit(self, database: Database, prepared: Sequence[_Prepared]) -> frozenset[str]:
        """Commit what can be, and give the keys of the rest."""
        lost: frozenset[str] = frozenset()
        replaces = False
        while remaining := [each for each in prepared if each.key not in lost]:
            try:
                if replaces:
                    with self._folder.generation.changing():
                        self._attempt(database, remaining, UPSERT)
                    self._removals.remove_discarded(database)
                else:
                    self._attempt(database, remaining, INSERT)
                break
            except _ClaimsLost as error:
                lost |= error.keys
            except sqlite3.IntegrityError:  # one of the keys is there, so memory must know
                if replaces:
                    raise
                replaces = True
        return lost

    def _attempt(self, database: Database, prepared: Sequence[_Prepared], statement: str) -> None:
        entries = [each.entry for each in prepared]
        old_files: list[tuple[str]] = []
        now = time.time()
        drained = self._uses.due()
        try:
            with database.transaction() as transaction:
                editions = self._put_editions(database, entries)
                origins = self._put_origins(database, prepared)
                for each in prepared:
                    if statement is UPSERT:
                        old_files += database.execute(_OLD_FILE, (each.key,)).fetchall()
                    row = row_of(each.entry, each.written.columns, now, origins[each.origin])
                    database.execute(statement, row)
                if drained is not None:
                    self._uses.write(database, drained)
                self._commit_held(transaction, [entry.claim for entry in entries if entry.claim is not None])
        except BaseException:
            if drained is not None:
                self._uses.restore(drained)
            raise
        self._folder.editions.update(editions)
        self._folder.origins.update(origins)
        for (filename,) in old_files:
            database.disk.remove(filename)

    def _commit_held(self, transaction: Transaction, claims: Sequence[Claim]) -> None:
        """Commit while nobody can take the claims over, and release them then.

        Raises:
            _ClaimsLost: when some are another's already; nothing is committed then.
        """
        is_committed = False
        try:
            if claims:
                with self._folder.claims.holding(claims) as held:
                    lost = frozenset(claim.key for claim in claims) - held.keys
                    if lost:
                        raise _ClaimsLost(lost)
                    transaction.commit()
                    is_committed = True
                    self._folder.generation.committed()
                    held.release()
        except ClaimsUnavailable as error:
            _log.warning("%s What is computed is committed all the same.", error)
        if not is_committed:
            transaction.commit()
            self._folder.generation.committed()

    def _put_editions(self, database: Database, entries: Sequence[Entry]) -> Collection[bytes]:
        """Write the editions that are not known to be there."""
        known = self._folder.editions
        editions = {
            entry.edition.prefix: entry.edition
            for entry in entries
            if entry.edition is not None and entry.edition.prefix not in known
        }
        for edition in editions.values():
            database.execute(PUT_EDITION, row_of_edition(edition))
        return editions.keys()

    def _put_origins(self, database: Database, prepared: Sequence[_Prepared]) -> dict[tuple[Any, ...], int]:
        """Give the numbers of the entries' origins; those that are not known to be there are written."""
        known, numbers = self._folder.origins, {}
        for origin in {each.origin for each in prepared}:
            number = known.get(origin)
            if number is None:
                text = (origin_to_json(origin),)
                database.execute("INSERT OR IGNORE INTO Origin (text) VALUES (?)", text)
                ((number,),) = database.execute("SELECT number FROM Origin WHERE text = ?", text).fetchall()
            numbers[origin] = number
        return numbers
