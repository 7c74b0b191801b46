"""Knows what a store can tell of its entries besides their values: what became of them, and what they were made of."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, get_args

from .._errors import UntrustedCache
from .._keys import PastEdition
from .._record import Record
from .base import Found, Gone, Reason, StoreFailure
from .entries.faults import DamagedEntry, UnreadableEntry
from .folder import Folder
from .lookups import check_row
from .tables import (
    LIVE,
    SELECT_EDITION,
    SELECT_ENTRY,
    SELECT_KNOWN_EDITION,
    SELECT_RECORD,
    moment,
    past_edition_of,
    record_of,
)
from .texts import attributes_from

__all__ = ["DiskHistory", "Making"]


T = TypeVar("T")
_log = logging.getLogger(__name__)

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

    def editions(self, function: str) -> list[PastEdition]:
        """Give the editions of a function that entries are of, the one with the latest entry first."""
        rows = self._query(SELECT_EDITION, (function,))
        return list(_readable(past_edition_of, ((row, function) for row in rows)))

    def known_editions(self, function: str) -> list[PastEdition]:
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
