"""The local store of a shared one: how its entries become bytes that machines share, and the other way round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

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
from .base import entry_address, key_of, media_address, source_address
from .entry import MediaFile, SharedEntry, media_digest, opened, packed

if TYPE_CHECKING:
    from .._keys import StoredFunctionVersion
    from .._stores.embedded import DiskStore
    from .._stores.signature import Signature

__all__ = ["Packed", "Taken", "keys_at", "pack", "pack_sources", "take"]

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


class Taken(NamedTuple):
    """What became of entries of a shared store."""

    keys: set[str]
    """Those that are stored here now."""
    problems: dict[str, str]
    """Why others can't be used, by address."""


_MADE_BY_HAND: Final = "length(key) <> 64 OR key GLOB '*[^0-9a-f]*'"


def keys_at(store: DiskStore, addresses: Iterable[str]) -> dict[str, str]:
    """Return the keys of those entries that the store has, by address.

    Raises:
        StoreFailure: when the store can't be read.
    """
    by_key = {key_of(address): address for address in addresses}
    here = store.durations(by_key)
    found = {by_key[key]: key for key in here}
    if len(found) < len(by_key):  # a key that was made by hand is not in its address
        wanted = set(by_key.values())
        for key, function in store.files.query(
            f"SELECT key, function FROM Cache WHERE raw = 1 AND typeof(key) = 'text' AND ({_MADE_BY_HAND})"
        ):
            address = entry_address(function or "", key)
            if address in wanted:
                found[address] = key
    return found


def pack(store: DiskStore, keys: Iterable[str], signature: Signature) -> Iterator[tuple[str, Packed]]:
    """Read entries of a store, as bytes that a signature protects. Those that are damaged or gone are left out.

    Raises:
        StoreFailure: when the store can't be read.
    """
    resigns = store.files.open().signature.mark != signature.mark
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
        yield record.key, Packed(content, large, prefix or b"")


def pack_sources(store: DiskStore, prefix: bytes, signature: Signature) -> bytes | None:
    """Read a function version of a store, as bytes that a signature protects; None if it is unknown."""
    past = stored_version(store, prefix)
    return None if past is None else to_json(edition_to_dict(past), signature)


def take(
    store: DiskStore,
    found: Mapping[str, bytes],
    fetch: Fetch,
    signature: Signature,
    versions: dict[bytes, StoredFunctionVersion],
    *,
    tag: str | None = None,
) -> Taken:
    """Verify entries, by address, and store them. Those of another tag are left out.

    `fetch` brings files that are too large to be in an entry, and sources. `versions` remembers function versions.

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
                if tag is None or shared.record.tag == tag:
                    entries.append(_entry(store, shared, fetch, versions))
            except (DamagedEntry, UnreadableEntry, Refused, Unwhole) as error:
                problems[address] = str(error)
        store.put_many(entries)
    except BaseException:
        for entry in entries:
            if entry.record.media is not None:
                _media.discard(store.folder / _media.MEDIA_FOLDER / entry.record.media)
        raise
    return Taken({entry.record.key for entry in entries}, problems)


def _entry(
    store: DiskStore, shared: SharedEntry, fetch: Fetch, versions: dict[bytes, StoredFunctionVersion]
) -> Entry:
    record = shared.record
    shared.check_media()
    sealed = sealed_for(store, record.key, bytes(shared.value), shared.signature)
    version = versions.get(shared.prefix)
    if version is None and shared.prefix:
        version = _sources(store, shared.prefix, fetch, shared.signature)
        if version is not None:
            versions[shared.prefix] = version
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
