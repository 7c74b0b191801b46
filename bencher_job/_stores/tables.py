"""Knows our tables beside diskcache's own: the records, which go with their entries, and the media to remove."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from .._record import Record, arguments_to_json

__all__ = ["RECORD_COLUMNS", "SCHEMA", "SELECT_ENTRY", "STORE_VERSION", "chosen", "record_of", "row_of"]

STORE_VERSION: Final = 1
"""Version of the tables; kept in the database as `user_version`."""

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS Record (key TEXT PRIMARY KEY, function TEXT NOT NULL, tag TEXT NOT NULL,"
    " created REAL NOT NULL, seconds REAL NOT NULL, size INTEGER NOT NULL, media TEXT, arguments TEXT NOT NULL,"
    " origin TEXT NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS Record_created ON Record (created)",
    "CREATE INDEX IF NOT EXISTS Record_function ON Record (function)",
    "CREATE INDEX IF NOT EXISTS Record_tag ON Record (tag)",
    "CREATE TABLE IF NOT EXISTS Discarded (media TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TRIGGER IF NOT EXISTS Record_goes_with_entry AFTER DELETE ON Cache FOR EACH ROW BEGIN"
    " INSERT OR IGNORE INTO Discarded SELECT media FROM Record WHERE key = OLD.key AND media IS NOT NULL;"
    " DELETE FROM Record WHERE key = OLD.key; END",
    f"PRAGMA user_version = {STORE_VERSION}",
)
SELECT_ENTRY: Final = (
    "SELECT Cache.key, mode, filename, value, seconds FROM Cache LEFT JOIN Record ON Record.key = Cache.key"
    " WHERE raw = 1 AND Cache.key "
)
RECORD_COLUMNS: Final = "key, function, tag, created, seconds, size, media, arguments, origin"

_ORIGIN: Final = ("executor", "host", "pid", "python", "library")


def row_of(record: Record, size: int) -> tuple[Any, ...]:
    """Make the row of a record, in the order of `RECORD_COLUMNS`, for an entry of a size in bytes."""
    return (
        record.key,
        record.function,
        record.tag,
        record.created.timestamp(),
        record.seconds,
        size,
        record.media,
        arguments_to_json(record.arguments),
        json.dumps([getattr(record, name) for name in _ORIGIN]),
    )


def record_of(row: tuple[Any, ...]) -> Record:
    """Make the record of a row in the order of `RECORD_COLUMNS`."""
    key, function, tag, created, seconds, size, media, arguments, origin = row
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
    """Give the condition for the records of a function, a tag, or both, and its values."""
    wanted = [(column, value) for column, value in (("function", function), ("tag", tag)) if value is not None]
    condition = " AND ".join(f"{column} = ?" for column, _ in wanted)
    return f" WHERE {condition}" if wanted else "", tuple(value for _, value in wanted)
