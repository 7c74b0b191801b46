"""Knows what a store can tell of its entries besides their values: what became of them, and what they were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from .._keys import PastEdition
from .._record import Record
from .base import Found, Gone
from .faults import DamagedEntry, UnreadableEntry
from .tables import SELECT_EDITION, SELECT_ENTRY, SELECT_RECORD, past_edition_of, record_of

__all__ = ["DiskHistory"]

Query = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]


class DiskHistory:
    """Asks the tables of one store; `read` gives the bytes of a row, or raises what is wrong with them."""

    def __init__(self, query: Query, read: Callable[[tuple[Any, ...]], object]) -> None:
        self._query = query
        self._read = read

    def examine(self, key: str) -> Found | Gone | None:
        """Say what is known of a key: its entry, or what became of it."""
        rows = self._query(SELECT_ENTRY + "= ?", (key,))
        if not rows:
            gone = self._query("SELECT reason, at FROM Gone WHERE key = ?", (key,))
            return Gone(gone[0][0], datetime.fromtimestamp(gone[0][1], UTC)) if gone else None
        damage = ""
        try:
            self._read(rows[0])
        except FileNotFoundError:
            damage = "its value file is missing"
        except (DamagedEntry, UnreadableEntry, OSError) as error:
            damage = str(error)
        records = self._records(f"{SELECT_RECORD} WHERE raw = 1 AND key = ?", (key,))
        return Found(records[0] if records else None, damage)

    def editions(self, function: str) -> list[PastEdition]:
        """Give the editions of a function that entries are of, the one with the latest entry first."""
        return [past_edition_of(row, function) for row in self._query(SELECT_EDITION, (function,))]

    def with_arguments(self, function: str, bound: bytes) -> list[tuple[bytes, Record]]:
        """Give the entries of a function with these encoded arguments, the latest first, and their editions."""
        chosen = "WHERE Record.function = ? AND bound = ? AND edition IS NOT NULL ORDER BY created DESC"
        statement = SELECT_RECORD.replace("SELECT ", "SELECT edition, ", 1)
        rows = self._query(f"{statement} {chosen}", (function, bound))
        return [(edition, record_of(tuple(row))) for edition, *row in rows]

    def latest(self, function: str, prefix: bytes, limit: int) -> list[Record]:
        """Give the latest entries of an edition."""
        chosen = "WHERE Record.function = ? AND edition = ? ORDER BY created DESC LIMIT ?"
        return self._records(f"{SELECT_RECORD} {chosen}", (function, prefix, limit))

    def bindings(self, function: str, prefix: bytes) -> list[tuple[str, bytes]]:
        """Give key and encoded arguments of each entry of an edition."""
        joined = "Cache JOIN Record ON Record.entry = Cache.rowid"
        rows = self._query(
            f"SELECT key, bound FROM {joined} WHERE Record.function = ? AND edition = ?", (function, prefix)
        )
        return [(key, bound) for key, bound in rows]

    def _records(self, statement: str, values: Sequence[object]) -> list[Record]:
        return [record_of(row) for row in self._query(statement, values)]
