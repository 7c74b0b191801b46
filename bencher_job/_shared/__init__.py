"""Shared stores: who else has it?

    open_remote(place) -> Remote: NamedRemote over a folder or a bucket, or RowRemote over PostgreSQL

A remote carries bytes by address. What these bytes are is fixed in `entry`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote, urlsplit

from .._errors import BencherJobError, SharedStoreError
from .._folders import make_private
from .._mounts import is_own, local_folder
from .._stores import Behind, open_store
from .._stores.signature import Signature, signature_from_environment
from .base import (
    LEASE_SECONDS,
    Asked,
    Changes,
    Name,
    Remote,
    RemoteLease,
    RemoteOwner,
    Unreachable,
    entry_address,
    function_folder,
    function_of,
    media_address,
    source_address,
)
from .folder import FolderBytes
from .named import NamedRemote
from .objects import OBJECT_SCHEMES, ObjectBytes
from .rows import ROW_SCHEMES, RowRemote, init_rows

if TYPE_CHECKING:
    from .._stores.embedded import DiskStore
    from .._stores.memory import MemoryTier
    from .tier import SharedStore

__all__ = [
    "Asked",
    "Changes",
    "Name",
    "Remote",
    "RemoteLease",
    "RemoteOwner",
    "Unreachable",
    "entry_address",
    "function_folder",
    "function_of",
    "init_remote",
    "media_address",
    "open_remote",
    "open_shared",
    "shared_signature",
    "source_address",
]


_log = logging.getLogger(__name__)

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRETS: Final = re.compile(r"password|secret|token|account_key|access_key", re.IGNORECASE)

_OBJECT_THREADS: Final = 16


def open_shared(
    place: str, directory: Path, *, size_limit: int, tag_index: bool = True, trusted: bool = False
) -> MemoryTier:
    """Open the local store in a folder, made if it isn't there, and a shared store behind it.

    A shared store that doesn't answer is opened as well, with a warning once it is needed.

    Raises:
        SharedStoreError: when the shared store can't be used as it is set up.
        UntrustedCache, StoreFailure: as `open_store` does.
    """
    return open_store(
        directory,
        size_limit=size_limit,
        tag_index=tag_index,
        trusted=trusted,
        behind=Behind(place, partial(_put_behind, place)),
    )


def _put_behind(place: str, local: DiskStore) -> SharedStore:
    from .tier import SharedStore

    signature = shared_signature(place)
    local.files.open()
    if local.folder == local_folder(Path(place)):
        make_private(place)
        _log.info(
            "%s is shared: it lies on a network file system. The local store is %s.", place, local.folder
        )
    mode = _word("BENCHER_JOB_SHARED_MODE", os.environ.get("BENCHER_JOB_SHARED_MODE"), "write", "read")
    words = ("through", "behind") if is_folder(place) else ("behind", "through")
    write = _word("BENCHER_JOB_SHARED_WRITE", os.environ.get("BENCHER_JOB_SHARED_WRITE"), *words)
    remote = open_remote(place, mark=signature.shared_mark, read_only=mode == "read")
    return SharedStore(local, remote, signature, writes=mode == "write", through=write == "through")


def shared_signature(place: str) -> Signature:
    """Return what signs the entries of a shared store.

    Raises:
        SharedStoreError: when others can write to it, and there is no secret.
    """
    signature = signature_from_environment()
    if not signature.kind and not _is_own(place):
        raise SharedStoreError(
            place,
            "is open to others, and entries are not signed",
            "Set BENCHER_JOB_SECRET to one secret on all machines. "
            "This makes one: python -c 'import secrets; print(secrets.token_hex())'",
        )
    return signature


def _word(variable: str, given: str | None, default: str, other: str) -> str:
    word = (given or "").strip().lower() or default
    if word not in {default, other}:
        raise BencherJobError(f"{variable}={word!r} is neither {default} nor {other}. Set it to one of them.")
    return word


def _is_own(place: str) -> bool:
    """Whether nobody else can write to a shared store: it is a folder of this user's own, or one that is not there."""
    scheme, path = _scheme_of(place)
    path = os.path.realpath(path)
    try:
        return not scheme and bool(os.stat(path)) and is_own(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)


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
    make: Callable[..., RowRemote | NamedRemote]
    if scheme in ROW_SCHEMES:
        make = partial(RowRemote, place)
    elif scheme in OBJECT_SCHEMES:
        make = partial(NamedRemote, ObjectBytes(place), threads=_OBJECT_THREADS)
    else:
        make = partial(NamedRemote, FolderBytes(place, read_only=read_only))
    remote = make(mark=mark, read_only=read_only, lease_seconds=lease_seconds)
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
    with contextlib.closing(open_remote(place, mark=mark)) as remote:
        remote.changes()


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
