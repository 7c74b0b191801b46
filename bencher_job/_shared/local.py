"""The local store of a shared one: how its entries become bytes that machines share, and the other way round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from .. import _media
from .._folders import make_private, owner_only
from .._names import NameOf, path_of
from .._stores.archive import (
    Unwhole,
    edition_from,
    edition_to_dict,
    entries_of,
    from_json,
    stored_version,
    to_json,
)
from .._stores.base import Entry
from .._stores.codec import DamagedEntry, UnreadableEntry, resealed
from .._stores.importing import Refused, sealed_for
from .base import entry_address, media_address, source_address
from .entry import MediaFile, SharedEntry, media_digest, opened, packed

if TYPE_CHECKING:
    from .._keys import StoredFunctionVersion
    from .._stores.embedded import DiskStore
    from .._stores.signature import Signature

__all__ = ["Packed", "pack", "take"]

_log = logging.getLogger(__name__)

Fetch = Callable[[str], bytes | None]
"""Returns the bytes of an address, or None."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An entry as it travels.

    Attributes:
        content: its bytes.
        large: files that are too large to be in them, by address.
        prefix: of its function version, whose sources travel once; empty if unknown.
    """

    content: bytes
    large: Mapping[str, Path]
    prefix: bytes


def pack(store: DiskStore, keys: Iterable[str], signature: Signature) -> dict[str, Packed]:
    """Read entries of a store, as bytes that a signature protects. Those that are damaged or gone are left out.

    Raises:
        StoreFailure: when the store can't be read.
    """
    resigns = store.files.open().signature.mark != signature.mark
    found: dict[str, Packed] = {}
    for record, bound, prefix, expires, value, files in entries_of(store, keys):
        large: dict[str, Path] = {}
        media: list[MediaFile] = []
        try:
            for (name, _, digest), path in files:
                file = MediaFile.of(name, path.read_bytes())
                if file.digest != digest:
                    raise Unwhole(f"its media were altered: {name}")  # noqa: TRY301 - as those that are gone
                media.append(file)
                if file.content is None:
                    large[media_address(file.digest)] = path
        except (Unwhole, OSError) as error:
            _log.warning("%s: the entry %s is not shared: %s", store.folder, record.key, error)
            continue
        content = packed(
            record,
            bytes(resealed(value, signature)) if resigns else value,
            media,
            bound=bound or b"",
            prefix=prefix or b"",
            expires=expires,
            signature=signature,
        )
        found[record.key] = Packed(content, large, prefix or b"")
    return found


def pack_sources(store: DiskStore, prefix: bytes, signature: Signature) -> bytes | None:
    """Read a function version of a store, as bytes that a signature protects; None if it is unknown."""
    past = stored_version(store, prefix)
    return None if past is None else to_json(edition_to_dict(past), signature)


def take(
    store: DiskStore,
    found: Mapping[str, bytes],
    fetch: Fetch,
    signature: Signature,
    *,
    tag: str | None = None,
) -> tuple[set[str], dict[str, str]]:
    """Verify entries, by address, and store them. Those that have expired, or have another tag, are left out.

    `fetch` brings files that are too large to be in an entry, and sources. Return the keys of what was stored, and by
    address why others can't be used.

    Raises:
        StoreFailure: when the store can't be written.
    """
    problems: dict[str, str] = {}
    entries: list[Entry] = []
    try:
        for address, content in found.items():
            try:
                shared = opened(content, signature=signature)
                if entry_address(shared.record.function, shared.record.key) != address:
                    raise DamagedEntry("it is the entry of another job")  # noqa: TRY301 - as `opened` does
                is_wanted = tag is None or shared.record.tag == tag
                if is_wanted and (shared.expires is None or shared.expires > time()):
                    entries.append(_entry(store, shared, fetch))
            except (DamagedEntry, UnreadableEntry, Refused, Unwhole) as error:
                problems[address] = str(error)
        store.put_many(entries)
    except BaseException:
        for entry in entries:
            if entry.record.media is not None:
                _media.discard(store.folder / _media.MEDIA_FOLDER / entry.record.media)
        raise
    return {entry.record.key for entry in entries}, problems


def _entry(store: DiskStore, shared: SharedEntry, fetch: Fetch) -> Entry:
    record = shared.record
    shared.check_media()
    sealed = sealed_for(store, record.key, bytes(shared.value), shared.signature)
    version = _sources(store, shared.prefix, fetch, shared.signature) if shared.prefix else None
    media = _take_media(store, shared, fetch) if record.media else None
    return Entry(
        sealed, replace(record, media=media), shared.bound, version, expires=shared.expires, is_copy=True
    )


def _sources(
    store: DiskStore, prefix: bytes, fetch: Fetch, signature: Signature
) -> StoredFunctionVersion | None:
    """Return a function version, from the store or from afar; None if it can't be had."""
    known = stored_version(store, prefix)
    if known is not None:
        return known
    content = fetch(source_address(prefix.hex()))
    if content is None:
        return None
    try:
        return edition_from(from_json(content, signature), prefix)
    except Unwhole as error:  # its entries are whole without it
        _log.warning("the code of the shared function version %s can't be used: %s", prefix.hex(), error)
        return None


def _take_media(store: DiskStore, shared: SharedEntry, fetch: Fetch) -> str:
    """Write the files of an entry to a new folder of the store, and return its name.

    Raises:
        Unwhole: when a file is missing or damaged.
        StoreFailure: when they can't be written.
    """
    folder = Path(_media.run_folder(store.folder, shared.record.key))
    try:
        make_private(folder)
        for file in shared.media:
            content = file.content
            if content is None:
                content = fetch(media_address(file.digest))
                if content is None or media_digest(content) != file.digest:
                    raise Unwhole(f"its file {file.path} is missing or damaged")  # noqa: TRY301 - as the others
            path = path_of(folder, NameOf.RUN_FILE, file.path)
            make_private(path.parent)
            with open(path, "xb", opener=owner_only) as target:
                target.write(content)
    except OSError as error:
        _media.discard(folder)
        raise Unwhole(str(error)) from error
    except BaseException:
        _media.discard(folder)
        raise
    return folder.name
