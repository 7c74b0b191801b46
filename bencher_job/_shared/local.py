"""The local store of a shared one: convert its entries to bytes that machines share, and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from .. import _media
from .._folders import NameOf, make_private, owner_only, path_of
from .._stores.archive import (
    Unwhole,
    entries_of,
    from_json,
    stored_version,
    to_json,
    version_from,
    version_to_dict,
)
from .._stores.base import Entry
from .._stores.codec import resealed
from .._stores.importing import Refused, sealed_for
from .._stores.parts import DamagedEntry, UnreadableEntry
from .base import entry_address, key_of, media_address, source_address
from .entry import MediaFile, SharedEntry, media_digest, opened, packed

if TYPE_CHECKING:
    from .._keys import StoredFunctionVersion
    from .._stores.embedded import DiskStore
    from .._stores.signature import Signature

__all__ = ["Packed", "Taken", "Writer", "keys_at", "pack", "pack_sources", "read_entries"]

_log = logging.getLogger(__name__)

Fetch = Callable[[str], bytes | None]
"""Returns the bytes of an address, or None."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An entry in the form in which it is sent.

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
    return None if past is None else to_json(version_to_dict(past), signature)


def read_entries(
    found: Mapping[str, bytes], signature: Signature, *, tag: str | None = None
) -> tuple[list[SharedEntry], Taken]:
    """Verify the heads of entries, by address; those of another tag are left out."""
    taken = Taken(set(), {})
    entries: list[SharedEntry] = []
    for address, content in found.items():
        try:
            shared = opened(content, signature=signature)
            if entry_address(shared.record.function, shared.record.key) != address:
                raise DamagedEntry("it is the entry of another job")  # noqa: TRY301 - as `opened` does
            if tag is None or shared.record.tag == tag:
                entries.append(shared)
        except (DamagedEntry, UnreadableEntry) as error:
            taken.problems[address] = str(error)
    return entries, taken


class Writer:
    """Stores entries of a shared store locally.

    `fetch` brings files that are too large to be in an entry, and the sources of functions.
    """

    def __init__(self, store: DiskStore, fetch: Fetch) -> None:
        self._store = store
        self._fetch = fetch
        self._versions: dict[bytes, StoredFunctionVersion] = {}

    def store(self, entries: Iterable[SharedEntry], taken: Taken) -> None:
        """Verify the values and files of entries, and store them; `taken` gets their keys, or what is wrong.

        Raises:
            StoreFailure: when the store can't be written.
        """
        made: list[Entry] = []
        try:
            for shared in entries:
                try:
                    made.append(self.entry_of(shared))
                except (DamagedEntry, UnreadableEntry, Refused, Unwhole) as error:
                    address = entry_address(shared.record.function, shared.record.key)
                    taken.problems[address] = str(error)
            if made:
                self._store.put_many(made)
        except BaseException:
            for entry in made:
                if entry.record.media is not None:
                    _media.discard(self._store.folder / _media.MEDIA_FOLDER / entry.record.media)
            raise
        taken.keys.update(entry.record.key for entry in made)

    def entry_of(self, shared: SharedEntry) -> Entry:
        """Verify the value and the files of an entry, and make what the local store takes.

        Raises:
            DamagedEntry, UnreadableEntry, Refused, Unwhole: when they can't be used.
            StoreFailure: when the files can't be written.
        """
        record = shared.record
        shared.check_media()
        sealed = sealed_for(self._store, record.key, bytes(shared.value), shared.signature)
        version = self._version(shared.prefix, shared.signature) if shared.prefix else None
        if record.media:
            record = replace(record, media=_take_media(self._store, shared, self._fetch))
        return Entry(sealed, record, shared.bound, version, expires=shared.expires, is_copy=True)

    def _version(self, prefix: bytes, signature: Signature) -> StoredFunctionVersion | None:
        """Return a function version, from the store or from afar; None if it can't be had."""
        known = self._versions.get(prefix) or stored_version(self._store, prefix)
        if known is None and (content := self._fetch(source_address(prefix.hex()))) is not None:
            try:
                known = version_from(from_json(content, signature), prefix)
            except Unwhole as error:  # its entries are whole without it
                _log.warning(
                    "the code of the shared function version %s can't be used: %s", prefix.hex(), error
                )
        if known is not None:
            self._versions[prefix] = known
        return known


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
