"""Shared stores: who else has it?

    open_remote(place) -> Remote: NamedRemote over a folder or a bucket, or RowRemote over PostgreSQL

A remote carries bytes by address. What these bytes are is fixed in `entry`.
"""

from __future__ import annotations

import logging
import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .._errors import BencherJobError, SharedStoreError
from .._folders import make_private
from .._mounts import local_folder
from .._stores import Behind, open_store
from .._stores.signature import Signature, signature_from_environment
from .base import (
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
from .opening import init_remote, is_folder, open_remote

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
    if not is_folder(place):
        return False
    try:
        status = os.stat(os.path.expanduser(place))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
