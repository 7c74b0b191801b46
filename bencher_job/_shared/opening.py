"""Open a shared store by its URL or path."""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from .._errors import SharedStoreError
from .base import LEASE_SECONDS, Remote, Unreachable
from .folder import FolderBytes
from .named import NamedRemote
from .objects import OBJECT_SCHEMES, ObjectBytes
from .rows import ROW_SCHEMES, RowRemote, init_rows

__all__ = ["init_remote", "is_folder", "open_remote"]

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRETS: Final = re.compile(r"password|secret|token|account_key|access_key", re.IGNORECASE)

_OBJECT_THREADS: Final = 16


def open_remote(
    place: str | os.PathLike[str],
    *,
    mark: bytes = b"",
    read_only: bool = False,
    lease_seconds: float = LEASE_SECONDS,
) -> Remote:
    """Open a shared store: the path of a folder, `postgresql://`, `s3://`, `gs://` or `az://`.

    `mark` is that of the secret which signs the entries; all users of a store have the same. A store that doesn't
    answer is returned as well: it is checked by the first operation that reaches it.

    Raises:
        SharedStoreError: when the store can't be used as it is set up.
    """
    scheme, place = _scheme_of(place)
    remote: RowRemote | NamedRemote
    if scheme in ROW_SCHEMES:
        remote = RowRemote(place, mark=mark, read_only=read_only, lease_seconds=lease_seconds)
    elif scheme in OBJECT_SCHEMES:
        remote = NamedRemote(
            ObjectBytes(place),
            mark=mark,
            threads=_OBJECT_THREADS,
            lease_seconds=lease_seconds,
            read_only=read_only,
        )
    else:
        engine = FolderBytes(place, read_only=read_only)
        remote = NamedRemote(engine, mark=mark, lease_seconds=lease_seconds, read_only=read_only)
    try:
        remote.open()
    except Unreachable:
        pass
    except BaseException:
        remote.close()
        raise
    return remote


def init_remote(place: str | os.PathLike[str], *, mark: bytes = b"") -> None:
    """Set a shared store up: the tables and functions of a database, the first file of a folder or bucket.

    Raises:
        SharedStoreError: when it can't be set up, or is another one already.
        Unreachable: when it doesn't answer.
    """
    scheme, place = _scheme_of(place)
    if scheme in ROW_SCHEMES:
        init_rows(place, mark=mark)
        return
    remote = open_remote(place, mark=mark)
    try:
        remote.get_many([])
        remote.changes()
    finally:
        remote.close()


def is_folder(place: str) -> bool:
    """Whether a shared store is a folder, and neither a database nor a bucket."""
    return not _scheme_of(place)[0]


def _scheme_of(place: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the scheme, empty for a folder, and the URL or path."""
    text = os.fspath(place)
    if not isinstance(text, str):
        raise TypeError(f"shared must be a str or a path, not {type(place).__name__}")
    found = _SCHEME.match(text)
    if found is None or not isinstance(place, str):
        if not text:
            raise SharedStoreError("''", "has no name", "Give the path of a folder, or a URL.")
        return "", os.path.expanduser(text)
    scheme = found[1].lower()
    shown = re.sub(r"://[^/@]*@", "://...@", text.partition("?")[0])
    if scheme not in (*ROW_SCHEMES, *OBJECT_SCHEMES, "file"):
        raise SharedStoreError(
            shown,
            f"is of an unknown kind, {scheme}://",
            "Give the path of a folder, or a URL that begins with postgresql://, s3://, gs:// or az://.",
        )
    parts = urlsplit(text)
    if parts.password is not None or any(map(_SECRETS.search, parse_qs(parts.query, keep_blank_values=True))):
        raise SharedStoreError(
            shown,
            "has a password in its URL, where logs and process lists show it",
            "Put it into ~/.pgpass or a service file."
            if scheme in ROW_SCHEMES
            else "Put it into the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    if scheme == "file":
        return "", unquote(parts.path)
    if scheme in OBJECT_SCHEMES and not parts.netloc:
        raise SharedStoreError(shown, "names no bucket", f"Write {scheme}://BUCKET/PREFIX.")
    return scheme, text
