"""Tables, columns and rows of the embedded store."""

from __future__ import annotations

import functools
import itertools
import json
import zlib
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from .._fields import IS_PATH
from .._folders import NameOf, checked
from .._keys import StoredFunctionVersion
from .._record import LONGEST_SHORT_FORM, Draft, FailedJob, Origin, Record, Selection, shown_arguments
from .base import Entry, Written
from .parts import MissignedEntry
from .signature import check_record, check_version, has_parts, mac_of_entry, mac_of_version

if TYPE_CHECKING:
    from .signature import Signature


LARGEST_QUICK: Final = 1 << 62
"""Magnitude of a number below which it is finite, and has so few bits that it stands in a record as it is."""

MOST_ATTRIBUTES: Final = 64
LONGEST_ATTRIBUTES: Final = 4096
"""Of how many attributes, and how many bytes, an entry keeps digests; it keeps none of more."""


def arguments_to_json(arguments: Mapping[str, object]) -> str:
    """Write arguments as the JSON text that a store keeps with an entry.

    Plain values are written here, since `json.dumps` takes longer to begin than to write so little.
    """
    texts = []
    for name, value in arguments.items():
        kind = type(value)
        if kind is str and len(value) <= LONGEST_SHORT_FORM:  # type: ignore[arg-type]
            text = encode_basestring_ascii(value)  # type: ignore[arg-type]
        elif (kind is float or kind is int) and -LARGEST_QUICK < value < LARGEST_QUICK:  # type: ignore[operator]
            text = repr(value)
        else:
            shown = shown_arguments({name: value})
            texts += [_name_to_json(each) + json.dumps(form) for each, form in shown.items()]
            continue
        texts.append(_name_to_json(name) + text)
    return f"{{{', '.join(texts)}}}"


@functools.lru_cache(maxsize=1024)
def _name_to_json(name: str) -> str:
    return f"{json.dumps(name)}: "


def attributes_to_bytes(attributes: Mapping[str, bytes]) -> bytes | None:
    """Write digests of attributes by name as the JSON that a store keeps with an entry, if they are few.

    >>> attributes_from(attributes_to_bytes({"model.rate": b"1234"}))
    {'model.rate': b'1234'}
    """
    if len(attributes) > MOST_ATTRIBUTES:
        return None
    text = json.dumps({name: digest.hex() for name, digest in attributes.items()}).encode()
    return text if len(text) <= LONGEST_ATTRIBUTES else None


def attributes_from(kept: object) -> dict[str, bytes]:
    """Read what `attributes_to_bytes` wrote; nothing where it is damaged."""
    try:
        return {name: bytes.fromhex(digest) for name, digest in json.loads(kept).items()}  # type: ignore[arg-type]
    except (TypeError, ValueError, AttributeError, RecursionError):
        return {}


def origin_to_json(origin: Origin) -> str:
    """Write what many records have in common as text."""
    return json.dumps(origin._asdict())


@functools.lru_cache(maxsize=64)
def origin_from_json(text: str | None) -> Mapping[str, Any]:
    """Read what `origin_to_json` wrote.

    Raises:
        ValueError: when the text is something else.
        TypeError: when it is none.
    """
    try:
        origin = json.loads(text or "{}")
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(origin, dict) or not _OF_ORIGINS.issuperset(map(type, origin.values())):
        raise TypeError("what is known of its run is not a dict of plain values")
    return {name: value for name, value in origin.items() if name in Origin._fields}


_OF_ORIGINS: Final = frozenset({str, int, bool, NoneType})


GONE_KEPT: Final = 100_000
"""How many keys are remembered of entries that were removed, so that `explain` can say why."""

ENTRY_OVERHEAD: Final = 512
"""Bytes that an entry takes in the database besides its own: its record, and its place in the index."""

LARGEST_SOURCES: Final = 1 << 26
"""Bytes that the texts of a function version take at most."""

STORE_VERSION: Final = 1
"""Version of the tables; kept in the database as `user_version`."""


def _group(row: str) -> str:
    """Return what SQL calls the function, tag and version of a row of `Cache`, by which entries are counted."""
    return f"coalesce({row}.function, ''), coalesce({row}.tag, ''), coalesce({row}.edition, x'')"


def _figures_of(which: str) -> str:
    """Return a statement that reads the figures of entries, in the columns of `Counted`."""
    # Unlike `sum`, `total` raises nothing of any size, and passes over what is no number.
    return (
        f"SELECT {_group('Cache')}, count(*), CAST(total(size) AS INTEGER),"
        " CAST(total(access_count) AS INTEGER), total(access_count * seconds), total(seconds),"
        " coalesce(max(CASE WHEN typeof(access_time) = 'real' THEN access_time END), 0.0),"
        " coalesce(min(CASE WHEN typeof(created) = 'real' THEN created END), 0.0),"
        " coalesce(max(CASE WHEN typeof(created) = 'real' THEN created END), 0.0), min(origin)"
        f" FROM Cache WHERE {which} GROUP BY 1, 2, 3"
    )


_NEW: Final = "Cache.rowid > (SELECT counted FROM Totals)"


def _count(which: str) -> str:
    """Return a statement that adds the figures of entries to `Counted`."""
    added = ", ".join(
        f"{name} = {name} + excluded.{name}" for name in ["entries", "size", "hits", "saved", "seconds"]
    )
    return (
        f"INSERT INTO Counted {_figures_of(which)} ON CONFLICT DO UPDATE SET {added},"
        " used = max(used, excluded.used), first = min(first, excluded.first), last = max(last, excluded.last),"
        " origin = min(origin, excluded.origin)"
    )


_IS_COUNTED: Final = "OLD.rowid <= (SELECT counted FROM Totals)"


def _uncount() -> str:
    """Return the statements of a trigger that take the old figures of a row from `Counted`."""
    these = f"WHERE (function, tag, edition) = ({_group('OLD')}) AND {_IS_COUNTED}"
    return (
        "UPDATE Counted SET entries = entries - 1, size = size - coalesce(OLD.size, 0),"
        " hits = hits - coalesce(OLD.access_count, 0), seconds = seconds - coalesce(OLD.seconds, 0),"
        f" saved = saved - coalesce(OLD.access_count * OLD.seconds, 0) {these};"
        f" DELETE FROM Counted {these} AND entries = 0"
    )


TABLES: Final = (
    "DROP TABLE IF EXISTS Cache",  # as diskcache makes it
    # The bytes come last, so that a reader of records passes over none of them.
    "CREATE TABLE Cache (rowid INTEGER PRIMARY KEY, key BLOB, raw INTEGER, store_time REAL, expire_time REAL,"
    " access_time REAL, access_count INTEGER DEFAULT 0, tag BLOB, size INTEGER DEFAULT 0, mode INTEGER DEFAULT 0,"
    " filename TEXT, seconds REAL, function TEXT, media TEXT, created REAL, origin INTEGER, edition BLOB,"
    " arguments TEXT, bound BLOB, attributes BLOB, files TEXT, mac BLOB, value BLOB)",
    # Few indexes, and partial ones: each that a commit has to change is a page more to write.
    "CREATE UNIQUE INDEX Cache_key_raw ON Cache (key, raw)",
    "CREATE INDEX Cache_expiry ON Cache (expire_time) WHERE expire_time IS NOT NULL",
    "CREATE INDEX Cache_media ON Cache (media) WHERE media IS NOT NULL",
    "CREATE TABLE Origin (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)",
    "CREATE TABLE Edition (prefix BLOB PRIMARY KEY, function TEXT NOT NULL, key_version INTEGER NOT NULL,"
    " fingerprint TEXT NOT NULL, version TEXT NOT NULL, parameters TEXT NOT NULL, manifest TEXT NOT NULL,"
    " sources BLOB NOT NULL, mac BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE Gone (key TEXT PRIMARY KEY, reason TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE Discarded (media TEXT PRIMARY KEY) WITHOUT ROWID",
    # An entry that was adopted for other code shares the media of the one that it was made of.
    *(
        f"CREATE TRIGGER Cache_media_{name} AFTER {event} ON Cache WHEN OLD.media IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM Cache WHERE media = OLD.media) BEGIN"
        " INSERT OR IGNORE INTO Discarded VALUES (OLD.media); END"
        for name, event in (("replace", "UPDATE OF media"), ("delete", "DELETE"))
    ),
    # New entries are counted some commits later, many at once: each commit has a page less to write. Those with greater
    # row numbers than `counted` are added when the figures are read.
    "CREATE TABLE Totals (hits INTEGER NOT NULL, misses INTEGER NOT NULL, seconds REAL NOT NULL,"
    " counted INTEGER NOT NULL)",
    "INSERT INTO Totals VALUES (0, 0, 0, 0)",
    "CREATE TABLE Counted (function TEXT, tag TEXT, edition BLOB, entries INTEGER NOT NULL, size INTEGER NOT NULL,"
    " hits INTEGER NOT NULL, saved REAL NOT NULL, seconds REAL NOT NULL, used REAL NOT NULL, first REAL NOT NULL,"
    " last REAL NOT NULL, origin INTEGER,"
    " PRIMARY KEY (function, tag, edition)) WITHOUT ROWID",
    f"CREATE VIEW Figures AS SELECT * FROM Counted UNION ALL {_figures_of(_NEW)}",
    f"CREATE TRIGGER Cache_replace AFTER UPDATE OF size ON Cache WHEN {_IS_COUNTED}"
    f" BEGIN {_uncount()}; {_count('Cache.rowid = NEW.rowid')}; END",
    # What replaces an entry has another time.
    "CREATE TRIGGER Cache_use AFTER UPDATE OF access_count ON Cache"
    f" WHEN NEW.store_time IS OLD.store_time AND {_IS_COUNTED} BEGIN"
    " UPDATE Counted SET hits = hits + coalesce(NEW.access_count - OLD.access_count, 0),"
    " saved = saved + coalesce((NEW.access_count - OLD.access_count) * NEW.seconds, 0),"
    " used = max(used, coalesce(NEW.access_time, 0))"
    f" WHERE (function, tag, edition) = ({_group('NEW')}); END",
    # The greatest row numbers are given again once their rows are gone.
    f"CREATE TRIGGER Cache_delete AFTER DELETE ON Cache BEGIN {_uncount()};"
    " UPDATE Totals SET counted = min(counted, (SELECT coalesce(max(rowid), 0) FROM Cache)); END",
    "CREATE TABLE Failure (key TEXT, number INTEGER, at REAL NOT NULL, error BLOB NOT NULL,"
    " PRIMARY KEY (key, number)) WITHOUT ROWID",
    "CREATE TABLE Lease (key TEXT PRIMARY KEY, number INTEGER NOT NULL, owner INTEGER NOT NULL,"
    " since REAL NOT NULL, function TEXT, arguments TEXT, waited INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID",
    "CREATE TABLE Failed (key TEXT PRIMARY KEY, function TEXT, tag TEXT, arguments TEXT, created REAL, seconds REAL,"
    " origin TEXT, fingerprint TEXT, version TEXT, error TEXT, traceback TEXT) WITHOUT ROWID",
    # A job that succeeds after all is listed as failed no longer.
    *(
        f"CREATE TRIGGER Cache_{name} AFTER {event} ON Cache BEGIN DELETE FROM Failed WHERE key = NEW.key; END"
        for name, event in (("succeeded", "INSERT"), ("again", "UPDATE OF store_time"))
    ),
    "CREATE TABLE Owner (number INTEGER PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL,"
    " pid INTEGER NOT NULL, started INTEGER NOT NULL, namespace INTEGER NOT NULL)",
    "CREATE TABLE Outbox (address TEXT PRIMARY KEY, key TEXT NOT NULL, function TEXT NOT NULL,"
    " action TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE Remote (place TEXT PRIMARY KEY, cursor TEXT NOT NULL DEFAULT '', hits INTEGER NOT NULL DEFAULT 0,"
    " superseded INTEGER NOT NULL DEFAULT 0, problem TEXT NOT NULL DEFAULT '') WITHOUT ROWID",
    f"PRAGMA user_version = {STORE_VERSION}",
)
"""What makes the tables, in one transaction."""

SELECT_ENTRY: Final = (
    "SELECT key, mode, filename, value, seconds, created, media, files, mac, rowid FROM Cache"
    " WHERE raw = 1 AND key "
)
SELECT_RECORD: Final = (
    "SELECT key, coalesce(tag, ''), Cache.function, created, seconds, size, media, arguments, Origin.text,"
    " coalesce(fingerprint, ''), coalesce(Edition.version, ''), files, expire_time, store_time, bound, edition,"
    " attributes, filename, mode, Cache.mac, Edition.prefix, Edition.function, key_version, Edition.mac FROM Cache"
    " LEFT JOIN Origin ON Origin.number = Cache.origin LEFT JOIN Edition ON Edition.prefix = Cache.edition"
)
SELECT_VERSIONS: Final = (
    "SELECT prefix, key_version, fingerprint, version, parameters, manifest, sources, Edition.function, mac"
    " FROM Edition JOIN Figures ON prefix = edition WHERE Figures.function = ? GROUP BY prefix"
    " ORDER BY max(last) DESC"
)
SELECT_VERSION: Final = (
    "SELECT prefix, key_version, fingerprint, version, parameters, manifest, sources, function, mac FROM Edition"
    " WHERE prefix = ?"
)
SELECT_KNOWN_VERSIONS: Final = (
    "SELECT prefix, key_version, fingerprint, version, parameters, manifest, NULL, function, mac FROM Edition"
    " WHERE function = ?"
)

_COLUMNS: Final = (
    "key", "raw", "store_time", "access_time", "size", "mode", "value", "seconds", "function", "created", "arguments",
    "bound", "edition", "origin", "mac", "expire_time", "tag", "filename", "media", "files", "attributes",
)  # fmt: skip

INSERT: Final = f"INSERT INTO Cache ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
UPSERT: Final = (
    f"{INSERT} ON CONFLICT (key, raw) DO UPDATE SET access_count = 0, "
    f"{', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[2:])}"
)
SELECT_FIGURES: Final = "SELECT CAST(total(entries) AS INTEGER), CAST(total(size) AS INTEGER) FROM Figures"
TRUE_FIGURES: Final = "SELECT count(*), CAST(total(size) AS INTEGER) FROM Cache"
"""The same as `SELECT_FIGURES`, without what was counted before."""

PUT_VERSION: Final = "INSERT OR REPLACE INTO Edition VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
PUT_FAILURE: Final = "INSERT OR REPLACE INTO Failure VALUES (?, ?, ?, ?)"
PUT_FAILED: Final = (
    "INSERT OR REPLACE INTO Failed SELECT * FROM (SELECT ? AS job, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " WHERE NOT EXISTS (SELECT 1 FROM Cache WHERE key = job AND raw = 1)"
)
TRIM_FAILED: Final = (
    "DELETE FROM Failed WHERE created < (SELECT created FROM Failed ORDER BY created DESC LIMIT 1 OFFSET 999)"
)
SELECT_FAILED: Final = (
    "SELECT key, function, tag, arguments, created, seconds, origin, fingerprint, version, error, traceback FROM Failed"
    " ORDER BY created DESC"
)
NOTE_GONE: Final = "INSERT OR REPLACE INTO Gone SELECT key, ?, ? FROM Cache WHERE rowid IN "
TRIM_GONE: Final = (
    f"DELETE FROM Gone WHERE at < (SELECT at FROM Gone ORDER BY at DESC LIMIT 1 OFFSET {GONE_KEPT})"
)


def row_of(
    entry: Entry, draft: Draft, written: Written, now: float, origin: tuple[int, str], signature: Signature
) -> tuple[Any, ...]:
    """Make the values of `INSERT` for an entry; `origin` is the number and the text of its row.

    Bytes are a `bytearray`, for which `sqlite3` doesn't look for an adapter.
    """
    version = entry.function_version
    key, function, tag, arguments, created, seconds, media, _ = draft
    size, mode, filename, value, digest, files = written
    shown = (entry.lease and entry.lease.shown) or arguments_to_json(arguments)
    prefix = None if version is None else version.prefix
    attributes = attributes_to_bytes(entry.attributes) if entry.attributes else None
    number, text = origin
    mac = mac_of_entry(
        signature,
        digest,
        (key, seconds, created, media, files),
        (
            function,
            tag,
            shown,
            text,
            entry.bound,
            prefix,
            attributes,
            filename,
            entry.expires,
            now,
            size,
            mode,
        ),
    )
    return (
        key,
        1,
        now,
        now,
        size,
        mode,
        None if value is None else bytearray(value),
        seconds,
        function,
        created,
        shown,
        bytearray(entry.bound),
        None if prefix is None else bytearray(prefix),
        number,
        bytearray(mac),
        entry.expires,
        tag or None,
        filename,
        media,
        files,
        attributes,
    )


def record_of(row: tuple[Any, ...], signature: Signature) -> Record:
    """Verify a row of `SELECT_RECORD`, and make its record.

    Raises:
        MissignedEntry: when it may have been stored with another secret, or with none.
        ValueError: when the row is damaged.
        TypeError: when the row is damaged.
    """
    key, tag, function, created, seconds, size, media, arguments, origin, fingerprint, version, *rest = row
    files, expires, stored, bound, prefix, attributes, filename, mode, mac, *of_version = rest
    known, of_function, key_version, version_mac = of_version
    hit = key, seconds, created, media, files
    of_record = (
        function, tag, arguments, origin, bound, prefix, attributes, filename, expires, stored, size, mode
    )  # fmt: skip
    try:  # a text that is not UTF-8 is in no MAC
        check_record(mac, hit, of_record, signature)
        if known is not None:
            check_version(version_mac, (known, of_function, fingerprint, version, key_version), signature)
    except (ValueError, MissignedEntry):
        if not is_text(*row):
            raise ValueError("it holds a text that is not UTF-8") from None
        raise
    for text in (key, tag, function, fingerprint, version):
        if type(text) is not str:
            raise TypeError(f"it holds {type(text).__name__} where a text should be")
    if type(seconds) is not float or type(size) is not int or type(media) not in (str, NoneType):
        raise TypeError("its time, its size or its media have another type")
    return Record(
        key=key,
        function=function,
        tag=tag,
        arguments=object_from(arguments),
        created=moment(created),
        seconds=seconds,
        size=size,
        media=None if media is None else checked(NameOf.RUN_FOLDER, media),
        fingerprint=fingerprint,
        version=version,
        **origin_from_json(origin),
    )


def object_from(text: str | bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: when the text is something else.
        TypeError: when it is none.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(found, dict):
        raise TypeError(f"it holds a JSON {type(found).__name__} where an object should be")
    return found


def row_of_failed_job(failed: FailedJob) -> tuple[object, ...]:
    """Make the values of `PUT_FAILED`."""
    record = failed.record
    return (
        record.key,
        record.function,
        record.tag,
        arguments_to_json(record.arguments),
        record.created.timestamp(),
        record.seconds,
        origin_to_json(Draft.of(record).origin),
        record.fingerprint,
        record.version,
        failed.error,
        failed.traceback,
    )


def failed_job_of(row: tuple[Any, ...]) -> FailedJob:
    """Make the failed job of a row of `SELECT_FAILED`.

    Raises:
        ValueError: when the row is damaged.
        TypeError: when the row is damaged.
    """
    key, function, tag, arguments, created, seconds, origin, fingerprint, version, error, traceback = row
    texts = key, function, tag, fingerprint, version, error, traceback
    if not {str}.issuperset(map(type, texts)) or not is_text(*texts):
        raise TypeError("it holds something else where a text should be")
    if type(created) is not float or type(seconds) is not float:
        raise TypeError("its times are not numbers")
    record = Record(
        key=key,
        function=function,
        tag=tag,
        arguments=object_from(arguments),
        created=moment(created),
        seconds=seconds,
        fingerprint=fingerprint,
        version=version,
        **origin_from_json(origin),
    )
    return FailedJob(record, error, traceback)


def is_text(*cells: object) -> bool:
    """Whether texts came from the database whole: what is not UTF-8 in one is read as surrogates."""
    try:
        for cell in cells:
            if isinstance(cell, str) and not cell.isascii():
                cell.encode()
    except UnicodeEncodeError:
        return False
    return True


def moment(seconds: float) -> datetime:
    """Return the time so many seconds after 1970, or the nearest one that Python has, as a clock may be far off."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):
        return (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=UTC)


def row_of_version(past: StoredFunctionVersion, signature: Signature) -> tuple[Any, ...]:
    """Make the values of `PUT_VERSION`."""
    parts = json.dumps(past.parameters), json.dumps(dict(past.manifest))
    sources = zlib.compress(json.dumps(dict(past.sources)).encode())
    head = past.prefix, past.function, past.fingerprint, past.version, past.key_version
    return (
        past.prefix,
        past.function,
        past.key_version,
        past.fingerprint,
        past.version,
        *parts,
        sources,
        mac_of_version(signature, head, parts, sources),
    )


def version_of_row(row: tuple[Any, ...], signature: Signature) -> StoredFunctionVersion:
    """Verify a row of `SELECT_VERSIONS` or `SELECT_KNOWN_VERSIONS`, and make its function version.

    Raises:
        MissignedEntry: when it may have been stored with another secret, or with none.
        ValueError: when the row is damaged.
    """
    prefix, key_version, fingerprint, version, parameters, manifest, sources, function, mac, *_ = row
    try:
        head = prefix, function, fingerprint, version, key_version
        check_version(mac, head, signature)
        if not has_parts(mac, parameters, manifest, sources):
            raise ValueError("it doesn't match its digest")  # noqa: TRY301 - told as the others are
        past = StoredFunctionVersion(
            prefix,
            function,
            key_version,
            fingerprint,
            version,
            tuple(json.loads(parameters)),
            object_from(manifest),
            {} if sources is None else object_from(_expanded(sources)),
        )
        texts = (
            function,
            fingerprint,
            version,
            *past.parameters,
            *past.manifest.values(),
            *past.sources.values(),
        )
        if type(prefix) is bytes and type(key_version) is int and {str}.issuperset(map(type, texts)):
            return past
    except (TypeError, ValueError, RecursionError, zlib.error) as error:
        raise ValueError(f"the function's code as it stood is damaged: {error}") from error
    raise ValueError("the function's code as it stood is damaged")


def count(execute: Callable[[str], Any], *, all_again: bool = False) -> None:
    """Count the entries that are not counted yet, inside of a transaction, or all of them from the beginning."""
    if all_again:
        execute("DELETE FROM Counted")
        execute("UPDATE Totals SET counted = 0")
    execute(_count(_NEW))
    execute("UPDATE Totals SET counted = (SELECT coalesce(max(rowid), 0) FROM Cache)")


def _expanded(sources: bytes) -> bytes:
    expander = zlib.decompressobj()
    expanded = expander.decompress(sources, LARGEST_SOURCES)
    if not expander.eof:
        raise ValueError(f"its sources end too early, or take more than {LARGEST_SOURCES} bytes")
    return expanded


def condition_of(selection: Selection) -> tuple[str, tuple[object, ...]]:
    """Return a condition that holds for all entries of a selection, and its values.

    It holds for others too where `where` asks for what SQL can't tell: let `Selection.matches` decide.
    """
    since, until = selection.bounds()
    conditions: list[tuple[str, tuple[object, ...]]] = [
        (f"{column} ?", (value,))
        for column, value in (
            ("Cache.function =", selection.function),
            ("tag =", selection.tag or None),
            ("created >=", None if since is None else since.timestamp()),
            ("created <", None if until is None else until.timestamp()),
        )
        if value is not None
    ]
    if selection.tag == "":
        conditions.append(("coalesce(tag, '') = ''", ()))
    if selection.versions is not None:
        conditions.append(versions_are(selection.versions))
    conditions += [_argument_is(name, selection.shown_as(name)) for name in selection.where]
    condition = " AND ".join(condition for condition, _ in conditions)
    return condition or "1", tuple(itertools.chain.from_iterable(values for _, values in conditions))


VERSION: Final = "(SELECT {} FROM Edition WHERE prefix = Cache.edition)"
"""Something of the version of an entry's code; nothing where its key was given."""


def versions_are(versions: Collection[tuple[str, str]]) -> tuple[str, tuple[object, ...]]:
    """Return the condition that an entry is of one of some versions of the code, and its values."""
    named = tuple("\n".join(version) for version in versions)
    questions = ",".join("?" * len(named))
    condition = (
        f"edition IN (SELECT prefix FROM Edition WHERE fingerprint || char(10) || version IN ({questions}))"
    )
    if ("", "") in versions:
        condition = f"({condition} OR edition IS NULL OR edition NOT IN (SELECT prefix FROM Edition))"
    return condition, named


def _argument_is(name: str, values: tuple[object, ...] | None) -> tuple[str, tuple[object, ...]]:
    """Return the condition that an argument is one of some values, which no entry fails that can't be read."""
    if values is None or not IS_PATH(name) or not name.isascii():  # an escaped name is not always found
        return "1", ()
    found = f"json_extract(arguments, '$.\"{name}\"')"
    known = [value for value in values if value is not None]
    wanted = [f"{found} IN ({','.join('?' * len(known))})"] if known else []
    wanted += [f"{found} IS NULL"] if None in values else []
    return f"CASE WHEN json_valid(arguments) THEN {' OR '.join(wanted)} ELSE 1 END", tuple(known)
