"""Knows our tables beside diskcache's own: the records, which go with their entries, and the media to remove."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from .._record import Record, arguments_to_json

__all__ = [
    "DISCARD_MEDIA",
    "JOINED",
    "PUT_RECORD",
    "SCHEMA",
    "SELECT_ENTRY",
    "SELECT_RECORD",
    "STORE_VERSION",
    "chosen",
    "record_of",
    "row_of",
]

STORE_VERSION: Final = 1
"""Version of the tables; kept in the database as `user_version`."""

SCHEMA: Final = (
    # A record has its entry's row number, so that it costs no index of its own: a commit writes few pages.
    "CREATE TABLE IF NOT EXISTS Record (entry INTEGER PRIMARY KEY, function TEXT NOT NULL, created REAL NOT NULL,"
    " seconds REAL NOT NULL, size INTEGER NOT NULL, media TEXT, arguments TEXT NOT NULL, origin TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS Discarded (media TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TRIGGER IF NOT EXISTS Record_goes_with_entry AFTER DELETE ON Cache FOR EACH ROW BEGIN"
    " INSERT OR IGNORE INTO Discarded SELECT media FROM Record WHERE entry = OLD.rowid AND media IS NOT NULL;"
    " DELETE FROM Record WHERE entry = OLD.rowid; END",
    f"PRAGMA user_version = {STORE_VERSION}",
)
JOINED: Final = "Cache LEFT JOIN Record ON Record.entry = Cache.rowid"
SELECT_ENTRY: Final = f"SELECT key, mode, filename, value, seconds FROM {JOINED} WHERE raw = 1 AND key "
SELECT_RECORD: Final = (
    "SELECT key, coalesce(tag, ''), function, created, seconds, Record.size, media, arguments, origin"
    " FROM Cache JOIN Record ON Record.entry = Cache.rowid"
)
DISCARD_MEDIA: Final = (
    "INSERT OR IGNORE INTO Discarded SELECT media FROM Cache JOIN Record ON Record.entry = Cache.rowid"
    " WHERE raw = 1 AND key = ? AND media IS NOT NULL"
)
PUT_RECORD: Final = (
    "INSERT OR REPLACE INTO Record SELECT rowid, ?, ?, ?, ?, ?, ?, ? FROM Cache WHERE raw = 1 AND key = ?"
)

_ORIGIN: Final = ("executor", "host", "pid", "python", "library")


def row_of(record: Record, size: int) -> tuple[Any, ...]:
    """Make the values of `PUT_RECORD` for an entry of a size in bytes."""
    return (
        record.function,
        record.created.timestamp(),
        record.seconds,
        size,
        record.media,
        arguments_to_json(record.arguments),
        json.dumps([getattr(record, name) for name in _ORIGIN]),
        record.key,
    )


def record_of(row: tuple[Any, ...]) -> Record:
    """Make the record of a row of `SELECT_RECORD`."""
    key, tag, function, created, seconds, size, media, arguments, origin = row
    return Record(
        key=key,
        function=function,
        tag=tag,
        arguments=json.loads(arguments),
        created=datetime.fromtimestamp(created, UTC),
        seconds=seconds,
        size=size,
        media=media,
        **dict(zip(_ORIGIN, json.loads(origin), strict=True)),
    )


def chosen(function: str | None, tag: str | None) -> tuple[str, tuple[str, ...]]:
    """Give the condition for the entries of a function, a tag, or both, and its values."""
    wanted = [
        (column, value) for column, value in (("function", function), ("tag", tag)) if value is not None
    ]
    condition = " AND ".join(f"{column} = ?" for column, _ in wanted)
    return f" WHERE {condition}" if wanted else "", tuple(value for _, value in wanted)
