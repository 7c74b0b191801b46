"""Knows how results are committed: their bytes first, then all rows in one transaction, while their claims are held.

    seal, write files -> BEGIN -> rows -> hold the claims -> COMMIT -> tell everybody -> release
    files of workers  -^

Claims are held only while the rows are made to last. Where one is lost, another process has the key now: everything is
undone, and done again without it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from .. import _media
from .._errors import BencherJobError
from .._record import Draft, Origin
from .base import Entry, StoreFailure
from .claims.claims import Claim, ClaimsUnavailable
from .database import Database, Transaction, Written
from .entries.codec import Payload, SealedEntry, seal
from .entries.compression import compression_named
from .entries.deposits import Deposit
from .folder import Folder, Opened
from .removals import Removals
from .tables import (
    COUNT_NEW,
    INSERT,
    INSERT_MANY,
    INSERT_PLAIN,
    NOTHING_MORE,
    PLAIN_COLUMNS,
    PUT_EDITION,
    ROWS_AT_ONCE,
    UPSERT,
    row_of,
    row_of_edition,
)
from .texts import origin_to_json
from .uses import Uses

__all__ = ["Commits"]

UNCOUNTED: Final = 64
"""How many entries are new before a commit counts them: who asks for figures reads fewer rows than that."""

_OLD_FILE: Final = "SELECT filename FROM Cache WHERE raw = 1 AND key = ? AND filename IS NOT NULL"

_log = logging.getLogger(__name__)


class _Prepared(NamedTuple):
    """An entry whose bytes are written, but for its row."""

    entry: Entry
    draft: Draft
    written: Written

    @property
    def key(self) -> str:
        return self.draft.key


class _ClaimsLost(Exception):
    """Some of the claims are another's now."""

    def __init__(self, claims: frozenset[Claim]) -> None:
        super().__init__(claims)
        self.claims = claims


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
        """Commit entries with their records in one transaction; the keys of those whose claim was lost.

        Raises:
            StoreFailure: when they can't be written; nothing is changed then, and no claim released.
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
            self._remove_files([each for each in prepared if each.entry.claim in lost])
            for claim in lost:
                _log.info("another one has the key %s now, so this result of it is not stored", claim.key)
        self._uses.misses += computed - len(lost)
        database.tidy()
        return frozenset(claim.key for claim in lost) if lost else frozenset()

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

    def _commit(self, database: Database, prepared: Sequence[_Prepared]) -> frozenset[Claim]:
        """Commit what can be, and give the claims of the rest."""
        lost: frozenset[Claim] = frozenset()
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
            except _ClaimsLost as error:
                lost |= error.claims
                remaining = [each for each in prepared if each.entry.claim not in lost]
            except sqlite3.IntegrityError:  # one of the keys is there, so memory must know
                if replaces:
                    raise
                replaces = True
        return lost

    def _attempt(self, database: Database, prepared: Sequence[_Prepared], statement: str) -> None:
        claims = [each.entry.claim for each in prepared if each.entry.claim is not None]
        drained = self._uses.due()
        uncounted = self._uncounted + len(prepared)
        try:
            with database.transaction() as transaction:
                rows = _Rows(self._folder, database, transaction)
                rows.write(prepared, statement)
                if drained is not None:
                    self._uses.write(database, drained)
                if uncounted >= UNCOUNTED:
                    transaction.execute(COUNT_NEW)
                self._commit_held(transaction, claims)
        except BaseException:
            if drained is not None:
                self._uses.restore(drained)
            raise
        self._uncounted = uncounted if uncounted < UNCOUNTED else 0
        rows.are_committed()

    def _commit_held(self, transaction: Transaction, claims: Sequence[Claim]) -> None:
        """Commit while nobody can take the claims over, and release them then.

        Raises:
            _ClaimsLost: when some are another's already; nothing is committed then.
        """
        is_committed = False
        try:
            if claims:
                with self._folder.claims.turn, self._folder.claims.holding(claims) as held:
                    if held.lost:
                        raise _ClaimsLost(frozenset(held.lost))
                    transaction.commit()
                    is_committed = True
                    self._folder.generation.committed()
                    held.release()
        except ClaimsUnavailable as error:
            _log.warning("%s What is computed is committed all the same.", error)
        if not is_committed:
            transaction.commit()
            self._folder.generation.committed()
