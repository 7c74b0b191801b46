"""An entry as one run of bytes, for shared stores: its record, its value and its files, under one MAC.

    magic 4 | version 1 | kind of digest 1 | 0 2 | length of the head 4 | MAC 32 | head | value | file | file | ...

The head is JSON: key, record, bound arguments, prefix of the key, expiry, and size and digest of the value and of each
file. The MAC covers magic, version, kind and head, and so all digests. The value is an entry of the local
store, whose own digest covers the rest of it. A file larger than 16 MB is an object of its own.

The MAC is verified before the head is read. Nothing is unpickled here.

    pack -> Packed.content -> the remote -> read_entries -> Writer.store
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .. import _media
from .._folders import MEDIA_FOLDER, ForeignName, NameOf, checked
from .._record import Record
from .._stores.archive import (
    Unwhole,
    bound_from,
    bound_to_text,
    entries_of,
    expires_from,
    from_json,
    record_from,
    record_to_dict,
    stored_version,
    to_json,
    version_from,
    version_to_dict,
)
from .._stores.base import Entry
from .._stores.codec import resealed
from .._stores.importing import Refused, sealed_for, write_media
from .._stores.parts import Buffer, DamagedEntry, MissignedEntry, UnreadableEntry
from .._stores.signature import UNSIGNED, Signature
from .base import entry_address, key_of, media_address, source_address

if TYPE_CHECKING:
    from .._keys import StoredFunctionVersion
    from .._stores.embedded import DiskStore


_log = logging.getLogger(__name__)

ENTRY_VERSION: Final = 1

LARGEST_INLINE: Final = 16_000_000
"""Size in bytes of the largest file that stands in its entry."""

_MAGIC: Final = b"BJo\x00"
_START: Final = struct.Struct("<4sBBHI")
_MAC_SIZE: Final = 32
_HEAD_AT: Final = _START.size + _MAC_SIZE
_VALUE_DIGEST: Final = slice(8, 40)
"""Where the digest stands in an entry of the local store; see `codec`."""


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file that a job wrote.

    Attributes:
        path: where it lies in the run's folder.
        digest: in hexadecimal; a large file's is its address as well.
        content: its bytes; None for a large file.
    """

    path: str
    size: int
    digest: str
    content: Buffer | None = None

    @classmethod
    def of(cls, path: str, content: Buffer) -> MediaFile:
        """Describe a file whose bytes are in memory."""
        size = memoryview(content).nbytes
        return cls(path, size, media_digest(content), content if size <= LARGEST_INLINE else None)


class SharedEntry:
    """An entry whose head is verified.

    What a hit needs is read at once, and the rest of it by `details`.

    Attributes:
        key, function, tag, seconds: as in the record.
        created: when its function had started, in seconds since 1970.
        value: an entry of the local store, not verified yet.
    """

    def __init__(
        self,
        head: memoryview,
        body: Mapping[str, Any],
        value: Buffer,
        media: tuple[MediaFile, ...],
        signature: Signature,
    ) -> None:
        self._head = head
        self.value = value
        self.media = media
        self.signature = signature
        record = _of(dict, body["record"])
        self.key: str = _of(str, record["key"])
        self.function: str = _of(str, record["function"])
        self.tag = record["tag"]
        self.seconds = float(record["seconds"])
        self.created = datetime.fromisoformat(record["created"]).timestamp()
        self.has_files = record["media"] is not None or bool(media)
        self.prefix = bytes.fromhex(_of(str, body["prefix"]))
        """What the key begins with, and the name of the function's sources; empty if unknown."""

    def details(self) -> tuple[Record, bytes, float | None]:
        """Read the rest of the head: the record, the encoded arguments, and when the entry expires.

        Only what is stored here needs it: thousands of copies without it take less time of the garbage collector.

        Raises:
            DamagedEntry: when it is none, as that of another version may be.
        """
        try:
            body = json.loads(str(self._head, "utf-8"))
            record, bound = record_from(_of(dict, body["record"])), bound_from(_of(str, body["bound"]))
            return record, bound, expires_from(body["expires"])
        except (Unwhole, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise DamagedEntry(f"its head is damaged: {error!r}") from None

    @property
    def address(self) -> str:
        """Where it lies."""
        return entry_address(self.function, self.key)

    def check_media(self) -> None:
        """Verify the files that stand in the entry.

        Raises:
            DamagedEntry: when one isn't what the head says.
        """
        for file in self.media:
            if file.content is not None and media_digest(file.content) != file.digest:
                raise DamagedEntry(f"its file {file.path} doesn't match its digest")


def media_digest(content: Buffer) -> str:
    """Return the digest of a file."""
    return UNSIGNED.hasher(content).hexdigest()


def packed(
    record: Record,
    value: Buffer,
    media: Iterable[MediaFile] = (),
    *,
    bound: bytes = b"",
    prefix: bytes = b"",
    expires: float | None = None,
    signature: Signature = UNSIGNED,
) -> bytes:
    """Make the bytes of an entry from a value that the local store has sealed with the same signature."""
    files = list(media)
    head = json.dumps(
        {
            "record": record_to_dict(record),
            "bound": bound_to_text(bound),
            "prefix": prefix.hex(),
            "expires": expires,
            "value": {"size": memoryview(value).nbytes, "digest": bytes(value[_VALUE_DIGEST]).hex()},
            "media": [
                {
                    "path": each.path,
                    "size": each.size,
                    "digest": each.digest,
                    "inline": each.content is not None,
                }
                for each in files
            ],
        },
        separators=(",", ":"),
    ).encode()
    start = _START.pack(_MAGIC, ENTRY_VERSION, signature.kind, 0, len(head))
    contents = [each.content for each in files if each.content is not None]
    return b"".join([start, signature.digest(start + head), head, value, *contents])


def opened(entry: Buffer, *, signature: Signature = UNSIGNED) -> SharedEntry:
    """Verify the head of an entry, and take the entry apart. No bytes are copied, and the parts not verified yet.

    Raises:
        DamagedEntry: when these are not bytes that `packed` made.
        MissignedEntry: when another secret, or none, may have made them.
    """
    view = memoryview(entry)
    head = _verified_head(view, signature)
    try:
        body = json.loads(str(head, "utf-8"))
        value, at = _part(view, _HEAD_AT + len(head), _of(dict, body["value"]))
        if bytes(value[_VALUE_DIGEST]).hex() != body["value"]["digest"]:
            raise DamagedEntry("its value is another one")
        media = []
        for described in _of(list, body["media"]):
            path, digest = checked(NameOf.RUN_FILE, described["path"]), _of(str, described["digest"])
            content = None
            if _of(bool, described["inline"]):
                content, at = _part(view, at, described)
            media.append(MediaFile(path, _of(int, described["size"]), digest, content))
        shared = SharedEntry(head, body, value, tuple(media), signature)
    except (ForeignName, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DamagedEntry(f"its head is damaged: {error!r}") from None
    if at != len(view):
        raise DamagedEntry(f"its parts end at {at}, and it ends at {len(view)}")
    return shared


def _verified_head(view: memoryview, signature: Signature) -> memoryview:
    try:
        magic, version, kind, nothing, length = _START.unpack_from(view)
    except struct.error:
        raise DamagedEntry(f"it ends after {len(view)} bytes, before its head does") from None
    head = view[_HEAD_AT : _HEAD_AT + length]
    if magic != _MAGIC or nothing or len(head) != length:
        raise DamagedEntry("it doesn't begin as an entry does")
    if version != ENTRY_VERSION:
        raise DamagedEntry(f"it is of version {version}, and this library reads version {ENTRY_VERSION}")
    start, mac = view[: _START.size], bytes(view[_START.size : _HEAD_AT])
    if compare_digest(signature.digest(bytes(start) + bytes(head)), mac) and kind == signature.kind:
        return head
    if kind == signature.kind == UNSIGNED.kind:
        raise DamagedEntry("its head doesn't match its digest")
    raise MissignedEntry(
        "its head is not signed with this secret" if kind else "it is not signed", is_signed=bool(kind)
    )


def _part(view: memoryview, at: int, described: Mapping[str, Any]) -> tuple[memoryview, int]:
    size = _of(int, described["size"])
    if not 0 <= size <= len(view) - at:
        raise DamagedEntry("it ends too early")
    return view[at : at + size], at + size


def _of(wanted: type[Any], given: object) -> Any:
    if type(given) is not wanted:
        raise TypeError(f"{given!a:.100} is a {type(given).__name__}, and should be a {wanted.__name__}")
    return given


# ------------------------------------------------------------------ to and from the local store

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
            if shared.address != address:
                raise DamagedEntry("it is the entry of another job")  # noqa: TRY301 - as the others
            if tag is None or shared.tag == tag:
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
                    made.append(self._entry_of(shared))
                except (DamagedEntry, UnreadableEntry, Refused, Unwhole) as error:
                    taken.problems[shared.address] = str(error)
            if made:
                self._store.put_many(made)
        except BaseException:
            for entry in made:
                if entry.record.media is not None:
                    _media.discard(self._store.folder / MEDIA_FOLDER / entry.record.media)
            raise
        taken.keys.update(entry.record.key for entry in made)

    def _entry_of(self, shared: SharedEntry) -> Entry:
        """Verify the value and the files of an entry, and make what the local store takes."""
        record, bound, expires = shared.details()
        shared.check_media()
        sealed = sealed_for(self._store, record.key, bytes(shared.value), shared.signature)
        version = self._version(shared.prefix, shared.signature) if shared.prefix else None
        if record.media:
            record = replace(
                record, media=write_media(self._store, shared.key, _files_of(shared, self._fetch))
            )
        return Entry(sealed, record, bound, version, expires=expires, is_copy=True)

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


def _files_of(shared: SharedEntry, fetch: Fetch) -> Iterator[tuple[str, str, Iterable[Buffer]]]:
    for file in shared.media:
        content = fetch(media_address(file.digest)) if file.content is None else file.content
        if content is None:
            raise Unwhole(f"its file {file.path} is missing")
        yield file.path, file.digest, (content,)
