"""Knows our tables beside diskcache's own: the records, which go with their entries, and what outlives them."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from typing import Any, Final

from .._keys import Edition, PastEdition
from .._record import Record, arguments_to_json
from .base import Entry

__all__ = [
    "DISCARD_MEDIA",
    "GONE_KEPT",
    "JOINED",
    "NOTE_GONE",
    "PUT_EDITION",
    "PUT_RECORD",
    "SELECT_EDITION",
    "SELECT_ENTRY",
    "SELECT_RECORD",
    "STORE_VERSION",
    "TRIM_GONE",
    "UPGRADES",
    "chosen",
    "past_edition_of",
    "record_of",
    "row_of",
    "row_of_edition",
]

GONE_KEPT: Final = 100_000
"""How many keys are remembered of entries that were removed, so that `explain` can say why."""

UPGRADES: Final[tuple[tuple[str, ...], ...]] = (
    (
        # A record has its entry's row number, so that it costs no index of its own: a commit writes few pages.
        "CREATE TABLE IF NOT EXISTS Record (entry INTEGER PRIMARY KEY, function TEXT NOT NULL, created REAL NOT NULL,"
        " seconds REAL NOT NULL, size INTEGER NOT NULL, media TEXT, arguments TEXT NOT NULL, origin TEXT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS Discarded (media TEXT PRIMARY KEY) WITHOUT ROWID",
    ),
    (
        "ALTER TABLE Record ADD COLUMN bound BLOB",
        "ALTER TABLE Record ADD COLUMN edition BLOB",
        # An entry that was adopted for other code shares the media of the one that it was made of.
        "CREATE INDEX Record_media ON Record (media) WHERE media IS NOT NULL",
        "CREATE TABLE Edition (prefix BLOB PRIMARY KEY, function TEXT NOT NULL, key_version INTEGER NOT NULL,"
        " fingerprint TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL, manifest TEXT NOT NULL,"
        " sources BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE Gone (key TEXT PRIMARY KEY, reason TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID",
        "DROP TRIGGER IF EXISTS Record_goes_with_entry",
        "CREATE TRIGGER Record_goes_with_entry AFTER DELETE ON Cache FOR EACH ROW BEGIN"
        " INSERT OR IGNORE INTO Discarded SELECT media FROM Record AS lost WHERE entry = OLD.rowid"
        " AND media IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM Record WHERE Record.media = lost.media AND Record.entry != OLD.rowid);"
        " DELETE FROM Record WHERE entry = OLD.rowid; END",
    ),
)
"""What makes the tables of each version of those of the version before."""

STORE_VERSION: Final = len(UPGRADES)
"""Version of the tables; kept in the database as `user_version`."""

JOINED: Final = "Cache LEFT JOIN Record ON Record.entry = Cache.rowid"
SELECT_ENTRY: Final = f"SELECT key, mode, filename, value, seconds FROM {JOINED} WHERE raw = 1 AND key "
SELECT_RECORD: Final = (
    "SELECT key, coalesce(tag, ''), Record.function, created, seconds, Record.size, media, arguments, origin,"
    " coalesce(fingerprint, ''), coalesce(Edition.version, '') FROM Cache JOIN Record ON Record.entry = Cache.rowid"
    " LEFT JOIN Edition ON Edition.prefix = Record.edition"
)
SELECT_EDITION: Final = (
    "SELECT prefix, key_version, fingerprint, version, parameters, manifest, sources, max(created), count(*)"
    " FROM Record JOIN Edition ON prefix = edition WHERE Record.function = ? GROUP BY prefix"
    " ORDER BY max(created) DESC"
)
DISCARD_MEDIA: Final = (
    "INSERT OR IGNORE INTO Discarded SELECT media FROM Cache JOIN Record AS lost ON lost.entry = Cache.rowid"
    " WHERE raw = 1 AND key = ? AND media IS NOT NULL AND NOT EXISTS"
    " (SELECT 1 FROM Record WHERE Record.media = lost.media AND Record.entry != lost.entry)"
)
PUT_RECORD: Final = (
    "INSERT OR REPLACE INTO Record SELECT rowid, ?, ?, ?, ?, ?, ?, ?, ?, ?"
    " FROM Cache WHERE raw = 1 AND key = ?"
)
PUT_EDITION: Final = "INSERT OR IGNORE INTO Edition VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
NOTE_GONE: Final = "INSERT OR REPLACE INTO Gone SELECT key, ?, ? FROM Cache WHERE rowid IN "
TRIM_GONE: Final = (
    f"DELETE FROM Gone WHERE at < (SELECT at FROM Gone ORDER BY at DESC LIMIT 1 OFFSET {GONE_KEPT})"
)

_ORIGIN: Final = ("executor", "host", "pid", "python", "library")


def row_of(entry: Entry, size: int) -> tuple[Any, ...]:
    """Make the values of `PUT_RECORD` for an entry of a size in bytes."""
    record, edition = entry.record, entry.edition
    return (
        record.function,
        record.created.timestamp(),
        record.seconds,
        size,
        record.media,
        arguments_to_json(record.arguments),
        json.dumps([getattr(record, name) for name in _ORIGIN]),
        entry.bound,
        None if edition is None else edition.prefix,
        record.key,
    )


def record_of(row: tuple[Any, ...]) -> Record:
    """Make the record of a row of `SELECT_RECORD`."""
    key, tag, function, created, seconds, size, media, arguments, origin, fingerprint, version = row
    return Record(
        key=key,
        function=function,
        tag=tag,
        arguments=json.loads(arguments),
        created=datetime.fromtimestamp(created, UTC),
        seconds=seconds,
        size=size,
        media=media,
        fingerprint=fingerprint,
        version=version,
        **dict(zip(_ORIGIN, json.loads(origin), strict=True)),
    )


def row_of_edition(edition: Edition | PastEdition) -> tuple[Any, ...]:
    """Make the values of `PUT_EDITION`."""
    past = edition if isinstance(edition, PastEdition) else edition.as_past()
    return (
        past.prefix,
        past.function,
        past.key_version,
        past.fingerprint,
        past.version,
        json.dumps(past.parameters),
        json.dumps(dict(past.manifest)),
        zlib.compress(json.dumps(dict(past.sources)).encode()),
    )


def past_edition_of(row: tuple[Any, ...], function: str) -> PastEdition:
    """Make the edition of a row of `SELECT_EDITION`."""
    prefix, key_version, fingerprint, version, parameters, manifest, sources, *_ = row
    return PastEdition(
        prefix,
        function,
        key_version,
        fingerprint,
        version,
        tuple(json.loads(parameters)),
        json.loads(manifest),
        json.loads(zlib.decompress(sources)),
    )


def chosen(function: str | None, tag: str | None) -> tuple[str, tuple[str, ...]]:
    """Give the condition for the entries of a function, a tag, or both, and its values."""
    wanted = [
        (column, value)
        for column, value in (("Record.function", function), ("tag", tag))
        if value is not None
    ]
    condition = " AND ".join(f"{column} = ?" for column, _ in wanted)
    return f" WHERE {condition}" if wanted else "", tuple(value for _, value in wanted)
