"""The journal of what is not in the shared store yet: entries to push, and removals.

A row is written in the transaction that commits its entry, and removed when the shared store has the entry. So a killed
process loses nothing: the next one pushes what it has left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from .._record import SharedInfo

if TYPE_CHECKING:
    from .database import Execute
    from .folder import Folder


Action = Literal["put", "replace", "remove"]

PUT_OUTBOX: Final = (
    "INSERT INTO Outbox VALUES (?, ?, ?, ?, ?) ON CONFLICT (address) DO UPDATE SET at = excluded.at,"
    " action = CASE excluded.action WHEN 'put' THEN iif(action = 'put', 'put', 'replace') ELSE excluded.action END"
)
"""Takes address, key, function, action and time. What is put after a removal that was not pushed yet replaces."""

_SELECT: Final = "SELECT address, key, function, action, at FROM Outbox"


_MOVE_CURSOR: Final = (
    "INSERT INTO Remote (place, cursor) VALUES (?, ?) ON CONFLICT DO UPDATE SET cursor = excluded.cursor"
)
_ADD_FIGURES: Final = (
    "INSERT INTO Remote (place, hits, superseded, problem) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " hits = hits + excluded.hits, superseded = superseded + excluded.superseded, problem = excluded.problem"
)


class Pending(NamedTuple):
    """One row of the journal."""

    address: str
    """Where the entry lies in the shared store."""
    key: str
    function: str
    action: Action
    at: float
    """When the row was written, in seconds since the epoch."""


class Outbox:
    """The journal of one store. Each method raises `StoreFailure` when the store can't be read or written."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def count(self) -> int:
        """Return the number of entries and removals that were not pushed yet."""
        ((count,),) = self._folder.query("SELECT count(*) FROM Outbox")
        return int(count)

    def pending(self, limit: int) -> list[Pending]:
        """Return the oldest rows."""
        return [Pending(*row) for row in self._folder.query(f"{_SELECT} ORDER BY at LIMIT ?", (limit,))]

    def of(self, addresses: Iterable[str]) -> list[Pending]:
        """Return the rows of some addresses."""
        wanted = json.dumps(list(addresses))
        rows = self._folder.query(f"{_SELECT} WHERE address IN (SELECT value FROM json_each(?))", (wanted,))
        return [Pending(*row) for row in rows]

    def changes(self) -> set[str]:
        """Return the addresses of what was removed or replaced here and is not pushed yet."""
        return {
            address for (address,) in self._folder.query("SELECT address FROM Outbox WHERE action <> 'put'")
        }

    def add(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Queue entries, each an address, a key and a function, to be pushed, unless they are queued already."""
        statement = "INSERT OR IGNORE INTO Outbox VALUES (?, ?, ?, ?, ?)"
        self._change([(statement, (*entry, "put", time.time())) for entry in entries])

    def add_removals(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Queue entries, each an address, a key and a function, to be removed from the shared store."""
        rows = [(*entry, "remove", time.time()) for entry in entries]
        if rows:
            self._change([(PUT_OUTBOX, row) for row in rows])

    def done(self, pending: Sequence[Pending]) -> None:
        """Remove rows whose entries the shared store has, but for those that were written again since."""
        self._change(
            [("DELETE FROM Outbox WHERE address = ? AND at = ?", (each.address, each.at)) for each in pending]
        )

    def cursor(self, place: str) -> str:
        """Return up to where the changes of a shared store were read; empty for a new one."""
        return next(
            (
                cursor
                for (cursor,) in self._folder.query("SELECT cursor FROM Remote WHERE place = ?", (place,))
            ),
            "",
        )

    def move_cursor(self, place: str, cursor: str) -> None:
        """Store the position up to which the changes of a shared store were read."""
        self._change([(_MOVE_CURSOR, (place, cursor))])

    def add_figures(self, place: str, hits: int, superseded: int, problem: str) -> None:
        """Add what a process has counted of a shared store, and note why it can't be reached, if so."""
        self._change([(_ADD_FIGURES, (place, hits, superseded, problem))])

    def figures(self) -> list[SharedInfo]:
        """Return the figures of the shared stores that lie behind, or did, over the life of the local one."""
        rows = self._folder.query("SELECT place, hits, superseded, problem FROM Remote ORDER BY place")
        outbox = self.count() if rows else 0
        return [
            SharedInfo(place=place, hits=hits, superseded=superseded, outbox=outbox, problem=problem)
            for place, hits, superseded, problem in rows
        ]

    def _change(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        def change(execute: Execute) -> None:
            for statement, values in statements:
                execute(statement, values)

        self._folder.changed(lambda database: database.transact(change))
