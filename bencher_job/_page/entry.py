"""Show one entry on the page, with the files that its job wrote."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Any, Final

from starlette.responses import FileResponse, Response

from .._folders import NameOf, path_of
from .._query import EntryInfo
from .._record import FailedJob, Record
from .._stores import Found, Hit, Store, media_files
from .._views.pickles import Unreadable, read_pickle
from .._views.summaries import has_named_parts, outline_of
from .listing import to_browser

MOST_FILES: Final = 500
"""Maximum number of files of a run that are listed."""

LOOKED_AT: Final = 4096
"""Number of bytes at the beginning of a file from which its type is guessed if the name doesn't tell it."""

_TYPES: Final = {
    ".avif": "image/avif", ".bmp": "image/bmp", ".gif": "image/gif", ".jpeg": "image/jpeg", ".jpg": "image/jpeg",
    ".png": "image/png", ".svg": "image/svg+xml", ".webp": "image/webp",
    ".m4v": "video/mp4", ".mp4": "video/mp4", ".ogv": "video/ogg", ".webm": "video/webm",
    ".flac": "audio/flac", ".m4a": "audio/mp4", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".wav": "audio/wav",
}  # fmt: skip
"""Types by file extension. SVG is shown as an image, where its scripts don't run. What reads as text is shown as such,
so HTML is shown as source."""

_KINDS: Final = ("image", "video", "audio", "text", "other")
_BEGINNINGS: Final = (
    (0, b"\x89PNG\r\n\x1a\n", ".png"),
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"GIF8", ".gif"),
    (8, b"WEBP", ".webp"),
    (0, b"\x1aE\xdf\xa3", ".webm"),
    (4, b"ftyp", ".mp4"),
    (8, b"WAVE", ".wav"),
    (0, b"OggS", ".ogg"),
)

_ALONE: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""The content security policy of a file opened in its own tab: no scripts, no requests, no origin."""


def _files(store: Path, record: Record) -> dict[str, Path]:
    """Return the regular files that a run has written, by their paths in its folder. Links are left out."""
    folder = path_of(store, NameOf.RUN_FOLDER, record.media)
    regular = (path for path in media_files(store, record) if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in regular}


def files_of(store: Path, record: Record) -> list[dict[str, Any]]:
    """List the files that a run has written: `name`, `size` in bytes, `kind`; images come first."""
    files = [
        {"name": name, "size": path.lstat().st_size, "kind": _type_of(path)[0]}
        for name, path in islice(_files(store, record).items(), MOST_FILES)
    ]
    return sorted(files, key=lambda file: _KINDS.index(str(file["kind"])))


def _type_of(path: Path) -> tuple[str, str]:
    """Return the kind and content type of a file, from its name or its first bytes."""
    with path.open("rb") as file:
        head = file.read(LOOKED_AT)
    marked = (ending for start, mark, ending in _BEGINNINGS if head[start:].startswith(mark))
    found = _TYPES.get(path.suffix.lower()) or _TYPES.get(next(marked, ""))
    if found is not None:
        return found.partition("/")[0], found
    return ("text", "text/plain; charset=utf-8") if _is_text(head) else ("other", "application/octet-stream")


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return len(head) == LOOKED_AT and error.start > LOOKED_AT - 4  # cut in the middle of a character
    return True


def file_answer(store: Path, record: Record, name: str, *, is_download: bool) -> Response | None:
    """Return the response with a file that a run has written, or None if it is not one of them."""
    path = _files(store, record).get(name)
    if path is None:
        return None
    kind, content_type = _type_of(path)
    return FileResponse(
        path,
        media_type=content_type,
        headers={"content-security-policy": _ALONE, "cache-control": "private, max-age=3600"},
        filename=path.name if is_download or kind == "other" else None,
        content_disposition_type="attachment",
    )


LARGEST_VALUE: Final = 1 << 28
"""Maximum size in bytes of an entry whose value is shown. Reading more would take too long."""

LONGEST_REPR: Final = 20_000

_log = logging.getLogger(__name__)


def entry_of(store: Store, info: EntryInfo, *, unpickles: bool) -> dict[str, Any]:
    """Return an entry as JSON data.

    Raises:
        StoreFailure: when the store can't be read.
    """
    record, folder = info.record, store.folder
    return {
        **_job_of(record),
        "size": record.size,
        "hits": info.hits,
        "used": info.used,
        "expires": info.expires,
        "media": [] if folder is None or record.media is None else files_of(folder, record),
        "folder": None
        if folder is None or record.media is None
        else str(path_of(folder, NameOf.RUN_FOLDER, record.media)),
        "value": _value_of(store, record.key, unpickles=unpickles),
    }


def failed_of(failed: FailedJob) -> dict[str, Any]:
    """Return a failed job as JSON data."""
    return {**_job_of(failed.record), "error": failed.error, "traceback": failed.traceback}


def _job_of(record: Record) -> dict[str, Any]:
    return {
        "key": record.key,
        "function": record.function,
        "arguments": [[name, to_browser(value)] for name, value in record.arguments.items()],
        "tag": record.tag,
        "created": record.created.timestamp(),
        "seconds": record.seconds,
        "run": _run_of(record),
    }


def _run_of(record: Record) -> list[list[object]]:
    """Return the known facts about where and how the function ran, with their names."""
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


def _value_of(store: Store, key: str, *, unpickles: bool) -> dict[str, Any]:
    """Return a value as an `outline`, its repr as `text` if it is unpickled, and a `note` on what is missing."""
    hit = store.get_many([key], mapped=True, largest=LARGEST_VALUE, counts=False).get(key)
    if hit is not None:
        return _shown_value(hit, unpickles=unpickles)
    found = store.history.examine(key)
    if not isinstance(found, Found):
        return {"note": "The entry is gone.", "is_bad": True}
    if found.damage:
        return {"note": f"It can't be read: {found.damage}.", "is_bad": True}
    return {"note": f"It takes more than {LARGEST_VALUE >> 20} MB, so it is not read here."}


def _shown_value(hit: Hit, *, unpickles: bool) -> dict[str, Any]:
    note = "This is what it is made of. Only unpickling shows it as its class does: serve with --trust."
    shown: dict[str, Any] = {}
    try:
        described = read_pickle(hit.payload.stream, hit.payload.buffers)
        shown = {"outline": outline_of(described), "is_whole": has_named_parts(described)}
    except Unreadable as error:
        note = f"It can't be shown without unpickling it: {error}."
    if shown.get("is_whole"):
        return shown
    return shown | (_unpickled(hit) if unpickles else {"note": note})


def _unpickled(hit: Hit) -> dict[str, Any]:
    """Unpickle a value, which runs code that it names, and return its repr."""
    try:
        text = repr(hit.load())
    except Exception as error:  # noqa: BLE001 - a missing or changed class can raise anything
        _log.info("a value can't be unpickled here: %r", error)
        return {"note": f"It can't be unpickled here: {type(error).__name__}: {error}"}
    cut = " …" if len(text) > LONGEST_REPR else ""
    return {"text": text[:LONGEST_REPR] + cut, "note": ""}
