"""Knows the store on disk: what is looked up, committed, set aside and removed in one folder.

<directory>/            owner only
    cache.db            the table of entries with their records, and what outlives them
    ab/cd/....val       the bytes of large entries
    media/              a folder for each run that wrote files
    damaged/            entries that failed their check, for whoever wants to know why
    generation          tells the memory of other processes what is out of date
    claims              says who computes what
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import warn_caller
from .._record import Record
from .._selection import EVERYTHING, Selection
from .base import PATIENCE, Entry, Hit, Hits, Miss, StoreFailure, Tally, Totals
from .claims.claims import Claim, Claims
from .commits import Commits
from .database import Database
from .entries.deposits import Depository
from .failures import Failures
from .folder import Folder, Opened
from .generation import Generation
from .history import DiskHistory
from .lookups import Lookups
from .removals import Removals
from .tables import LIVE, SELECT_RECORD, chosen, figures_by, record_of
from .uses import Uses

if TYPE_CHECKING:
    from .._info import FunctionInfo

__all__ = ["DiskStore"]

_log = logging.getLogger(__name__)


class DiskStore:
    """Entries in a folder; opened at first use, and again at the first use after `close()`.

    Attributes:
        size_limit: the size in bytes beyond which the least recently used entries are evicted.
        folder: what it lies in, for those who look at the whole of it.
        lookups: how entries are found in it.
        removals: how entries leave it.
        uses: what was used in this process and is not written yet.
    """

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
        self._commits = Commits(self.folder, self.uses, self.removals)
        self._failures = Failures(self.folder)
        self._depositories: dict[str | None, tuple[Opened, Depository]] = {}
        # Bytes since the size was last looked at: so many that the first put looks.
        self._written = size_limit

    @property
    def tally(self) -> Tally:
        """What was set aside and evicted, and what had expired and was removed."""
        return self.folder.tally

    @property
    def claims(self) -> Claims:
        """Who computes which key, among the processes that share the store."""
        if self.folder.opened is None:
            self._open_for_claims()
        return self.folder.claims

    def _open_for_claims(self) -> None:
        try:
            self.folder.open()
        except StoreFailure as error:  # which whoever claims is told as well
            _log.warning("%s can't be opened: %s", self.directory, error)

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
        hit, _ = self.lookups.find(key, mapped=mapped)
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
        """Commit entries with their records in one transaction; the keys of those whose claim was lost."""
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

    def publish_failure(self, claim: Claim, error: bytes) -> None:
        """Keep an exception's bytes for a minute for those who wait for a claim, if there are any, and release it."""
        self._failures.publish(claim, error)

    def failure(self, key: str, number: int) -> bytes | None:
        """Give the exception's bytes that were published for the claim of a number."""
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
        condition, values = chosen(function, tag)
        return self.removals.remove(condition, values, "cleared")

    def records(self, selection: Selection = EVERYTHING) -> Iterator[Record]:
        """Give the record of each entry that is chosen, the oldest first."""
        condition, values = selection.condition()
        statement = f"{SELECT_RECORD} WHERE raw = 1 AND ({condition}) AND {LIVE} ORDER BY created"
        records = self._readable(self.folder.query(statement, (*values, time.time())))
        return filter(selection.matches, records) if selection.where else records

    def latest_records(self, limit: int, selection: Selection = EVERYTHING) -> list[Record]:
        """Give the records of the latest entries that are chosen, at most so many, the oldest of them first."""
        condition, values = selection.condition()
        # Of what SQL can't choose, all are asked for, and as many are made as it takes.
        most = -1 if selection.where else limit
        statement = (
            f"{SELECT_RECORD} WHERE raw = 1 AND ({condition}) AND {LIVE} ORDER BY created DESC LIMIT {most}"
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
        from .overview import functions  # takes long to import, and few programs ask

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
        """Write what was used, close all connections, the generation and the claims; the next use opens them again."""
        self.uses.write_at_once()
        self.folder.close()
