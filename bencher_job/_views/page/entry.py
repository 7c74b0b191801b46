"""Knows all that is to be told of one entry: its record, its files, and its value as far as it may be looked at."""

from __future__ import annotations

import logging
from typing import Any, Final

from ..._names import NameOf, path_of
from ..._stores.base import Hit
from ..._stores.folder import Folder
from ..._stores.rows import Row, hits_at
from ..outlines import outline_of
from ..pickles import Unreadable, read_pickle
from ..values import is_told
from .cells import to_browser
from .media import files_of

__all__ = ["entry_of"]

LARGEST_VALUE: Final = 1 << 28
"""Bytes of an entry whose value is read; more would keep somebody waiting."""

LARGEST_STREAM: Final = 1 << 25
"""Bytes of a pickle, its arrays apart, that are read."""

LONGEST_REPR: Final = 20_000

_log = logging.getLogger(__name__)


def entry_of(folder: Folder, row: Row, *, unpickles: bool) -> dict[str, Any]:
    """Tell of an entry.

    Raises:
        StoreFailure: when the store can't be read.
    """
    record = row.record
    return {
        "key": record.key,
        "function": record.function,
        "arguments": [[name, to_browser(value)] for name, value in record.arguments.items()],
        "tag": record.tag,
        "created": record.created.timestamp(),
        "seconds": record.seconds,
        "size": record.size,
        "hits": row.hits,
        "used": row.used,
        "expires": row.expires,
        "run": _run_of(row),
        "media": [] if record.media is None else files_of(folder.directory, record.media),
        "folder": None
        if record.media is None
        else str(path_of(folder.directory, NameOf.RUN_FOLDER, record.media)),
        "value": _value_of(folder, row, unpickles=unpickles),
    }


def _run_of(row: Row) -> list[list[object]]:
    """Name where and how the function ran, what is known of it."""
    record = row.record
    changed = {True: " (with changes)", False: "", None: ""}[record.dirty]
    known = {
        "host": record.host,
        "process": record.pid or "",
        "executor": record.executor,
        "python": record.python,
        "platform": record.platform,
        "bencher_job": record.library,
        "commit": record.commit + changed if record.commit else "",
        "version": record.version,
        "code": record.fingerprint,
    }
    return [[name, str(value)] for name, value in known.items() if value != ""]


def _value_of(folder: Folder, row: Row, *, unpickles: bool) -> dict[str, Any]:
    """Tell of a value: an `outline`, what unpickling gave as `text`, and a `note` on what is missing."""
    for _, _, hit in hits_at(folder, [row.number], LARGEST_VALUE):
        if isinstance(hit, Hit):
            return _told(hit, unpickles=unpickles)
        if hit == "large":
            return {"note": f"It takes more than {LARGEST_VALUE >> 20} MB, so it is not read here."}
        return {"note": f"It can't be read: {hit}.", "is_bad": True}
    return {"note": "The entry is gone.", "is_bad": True}


def _told(hit: Hit, *, unpickles: bool) -> dict[str, Any]:
    told: dict[str, Any] = {}
    is_whole = False
    if len(hit.payload.stream) > LARGEST_STREAM:
        told["note"] = f"Its objects take more than {LARGEST_STREAM >> 20} MB, so they are not listed."
    else:
        try:
            described = read_pickle(hit.payload.stream, hit.payload.buffers)
        except Unreadable as error:
            told["note"] = f"It can't be told of without unpickling it: {error}."
        else:
            told["outline"] = outline_of(described)
            told["is_whole"] = is_whole = is_told(described)
    if unpickles and not is_whole:
        told |= _unpickled(hit)
    elif not is_whole:
        told.setdefault(
            "note",
            "This is what it is made of. Only unpickling shows it as its class does: serve with --trust.",
        )
    return told


def _unpickled(hit: Hit) -> dict[str, Any]:
    """Unpickle a value, which runs what it says, and give it as its class writes it."""
    try:
        text = repr(hit.load())
    except Exception as error:  # noqa: BLE001 - a class that is gone or has changed raises what it likes
        _log.info("a value can't be unpickled here: %r", error)
        return {"note": f"It can't be unpickled here: {type(error).__name__}: {error}"}
    cut = " …" if len(text) > LONGEST_REPR else ""
    return {"text": text[:LONGEST_REPR] + cut, "note": ""}
