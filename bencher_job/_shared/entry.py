"""An entry as one run of bytes, for shared stores: its record, its value and its files, under one MAC.

    magic 4 | version 1 | kind of digest 1 | 0 2 | length of the head 4 | MAC 32 | head | value | file | file | ...

The head is JSON: key, record, bound arguments, prefix of the key, expiry, and size and digest of the value and of each
file. The MAC covers magic, version, kind and head, and so all digests. The value is an entry of the local
store, whose own digest covers the rest of it. A file larger than 16 MB is an object of its own.

`opened` verifies the MAC before it reads the head. Nothing is unpickled here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Final

from .._folders import ForeignName, NameOf, checked
from .._record import Record
from .._stores.archive import Unwhole, bound_from, bound_to_text, expires_from, record_from, record_to_dict
from .._stores.codec import Payload, check, unseal
from .._stores.parts import Buffer, DamagedEntry, MissignedEntry
from .._stores.signature import UNSIGNED, Signature

__all__ = [
    "ENTRY_VERSION",
    "LARGEST_INLINE",
    "MediaFile",
    "SharedEntry",
    "media_digest",
    "opened",
    "packed",
]

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


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """An entry whose head is verified.

    Attributes:
        bound: the encoded arguments, empty if they are unknown.
        prefix: what the key begins with, and the name of the function's sources; empty if unknown.
        expires: from when on it may be removed unless it is used, in seconds since 1970; None for never.
        value: an entry of the local store, verified by `payload` and `check`.
    """

    record: Record
    bound: bytes
    prefix: bytes
    expires: float | None
    value: Buffer
    media: tuple[MediaFile, ...]
    signature: Signature

    def payload(self) -> Payload:
        """Verify the value, and return what can be unpickled.

        Raises:
            DamagedEntry: when it isn't the value that the head names.
            MissignedEntry: when it was signed with another secret.
            UnreadableEntry: when the package or the memory that expands it is missing.
        """
        return unseal(self.value, self.record.key, signature=self.signature)

    def check(self) -> None:
        """Verify the value and the files; raises as `payload`."""
        check(self.value, self.record.key, signature=self.signature)
        self.check_media()

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


def opened(entry: Buffer, key: str | None = None, *, signature: Signature = UNSIGNED) -> SharedEntry:
    """Verify the head of an entry, of a key if one is given, and take the entry apart. No bytes are copied.

    Raises:
        DamagedEntry: when these are not bytes that `packed` made for this key.
        MissignedEntry: when another secret, or none, may have made them.
    """
    view = memoryview(entry)
    head = _verified_head(view, signature)
    try:
        body = json.loads(str(head, "utf-8"))
        record = record_from(_of(dict, body["record"]))
        bound = bound_from(_of(str, body["bound"]))
        prefix = bytes.fromhex(_of(str, body["prefix"]))
        expires = expires_from(body["expires"])
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
    except (Unwhole, ForeignName, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedEntry(f"its head is damaged: {error!r}") from None
    if at != len(view):
        raise DamagedEntry(f"its parts end at {at}, and it ends at {len(view)}")
    if key is not None and record.key != key:
        raise DamagedEntry("it is the entry of another key")
    return SharedEntry(record, bound, prefix, expires, value, tuple(media), signature)


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
