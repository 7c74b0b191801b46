"""The MAC of a row: of an entry with its record, or of a function version.

    kind of digest 1 | digest 32 | digest 32 | MAC 32

Of an entry the digests are those of its value, as the value's own header has it, and of the part of its record that a
hit doesn't need. The MAC covers both, and what a hit needs besides: key, duration, expiry, and the files that the job
wrote. So a hit is verified without the columns that it doesn't read, and a record without the value.

Of a function version they are those of parameters and manifest, and of its sources.

Numbers are little-endian. A text counts as its UTF-8, and nothing as the length -1. Without a secret the MAC is a plain
digest, which shows damage and no forgery.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hmac import compare_digest
from typing import Any, Final

from .codec import Arrival, Buffer, DamagedEntry, MissignedEntry
from .signature import SECRET_VARIABLE, UNSIGNED, Signature

__all__ = [
    "MAC_SIZE",
    "VALUE_DIGEST",
    "check_hit",
    "check_record",
    "check_version",
    "has_parts",
    "mac_of_entry",
    "mac_of_version",
]


VALUE_DIGEST: Final = slice(8, 40)
"""Where an entry's bytes have their digest; see `codec`."""

MAC_SIZE: Final = 97
_FIRST: Final = slice(1, 33)
_SECOND: Final = slice(33, 65)
_MAC_AT: Final = 65
_KINDS: Final = (0, 1)
_HIT: Final = struct.Struct("<dd3i")
_PACK_HIT: Final = _HIT.pack
_RECORD: Final = struct.Struct("<?ddqq8i")
_VERSION: Final = struct.Struct("<q4i")

_WRONG: Final = (TypeError, AttributeError, ValueError, struct.error)
"""What columns raise that hold something of another type, or no UTF-8."""


def _mac(signature: Signature, digests: bytes, covered: bytes) -> bytes:
    head = bytes((signature.kind,)) + digests
    return head + signature.begin(head + covered).digest()


def _joined(parts: list[bytes | None]) -> tuple[list[int], bytes]:
    return [-1 if part is None else len(part) for part in parts], b"".join([part or b"" for part in parts])


def _of_hit(key: str, seconds: float, created: float, media: str | None, files: str | None) -> bytes:
    name = key.encode()
    if media is None and files is None:  # as of most
        return _HIT.pack(seconds, created, len(name), -1, -1) + name
    lengths, text = _joined([None if each is None else each.encode() for each in (key, media, files)])
    return _HIT.pack(seconds, created, *lengths) + text


def _of_record(
    function: str,
    tag: str,
    arguments: str,
    origin: str,
    bound: bytes,
    prefix: bytes | None,
    attributes: bytes | None,
    filename: str | None,
    expires: float | None,
    stored: float,
    size: int,
    mode: int,
) -> bytes:
    texts = [each.encode() for each in (function, tag, arguments, origin)]
    name = None if filename is None else filename.encode()
    lengths, text = _joined([*texts, bound, prefix, attributes, name])
    return UNSIGNED.digest(
        _RECORD.pack(expires is not None, expires or 0.0, stored, size, mode, *lengths) + text
    )


def mac_of_entry(signature: Signature, value: bytes, hit: tuple[Any, ...], record: tuple[Any, ...]) -> bytes:
    """Make the MAC of a row.

    It takes the digest of the value; what a hit needs, which is key, seconds, when it began to run, media and files;
    and the rest of the record: function, tag, arguments, origin, encoded arguments, prefix of the function version,
    attributes, the name of its file, expiry, when it was stored, its size, and its mode.
    """
    return _mac(signature, value + _of_record(*record), _of_hit(*hit))


def check_hit(
    mac: Any,
    value: Buffer | Arrival,
    key: str,
    seconds: float,
    created: float,
    media: str | None,
    files: str | None,
    signature: Signature,
) -> None:
    """Verify what a hit needs of a row, once its value is verified.

    Raises:
        DamagedEntry: when it isn't what was stored with this signature.
    """
    try:
        if media is None and files is None:  # as `_of_hit` does, without its call
            name = key.encode()
            covered = _PACK_HIT(seconds, created, len(name), -1, -1) + name
        else:
            covered = _of_hit(key, seconds, created, media, files)
        if type(value) is not bytes:
            value = bytes((value.memory if isinstance(value, Arrival) else value)[: VALUE_DIGEST.stop])
        made = signature.begin(mac[:_MAC_AT] + covered).digest()
        if compare_digest(mac[_MAC_AT:], made) and mac.startswith(value[VALUE_DIGEST], 1):
            return
    except _WRONG:
        pass
    raise DamagedEntry(f"its record doesn't match its {'signature' if signature.kind else 'digest'}")


def check_record(mac: Any, hit: tuple[Any, ...], record: tuple[Any, ...], signature: Signature) -> None:
    """Verify all of a row but its value.

    Raises:
        MissignedEntry: when it may have been stored with another secret, or with none.
        ValueError: when it isn't what was stored.
    """
    try:
        _check_mac(mac, _of_hit(*hit), signature)
        if _of_record(*record) == mac[_SECOND]:
            return
    except _WRONG:
        pass
    raise ValueError(f"it doesn't match its {'signature' if signature.kind else 'digest'}")


def _check_mac(mac: Any, covered: bytes, signature: Signature) -> None:
    """Verify a MAC and what it covers, but for what its digests stand for; raises as `check_record`."""
    if type(mac) is not bytes or len(mac) != MAC_SIZE:
        raise ValueError("its MAC is none")
    if compare_digest(mac, _mac(signature, mac[1:_MAC_AT], covered)):
        return
    if mac[0] not in _KINDS or mac[0] == signature.kind == UNSIGNED.kind:
        raise ValueError("its MAC is another one")
    if signature.kind and not mac[0]:
        raise MissignedEntry(f"it is not signed, and {SECRET_VARIABLE} is set", is_signed=False)
    raise MissignedEntry(
        "it doesn't match its signature: it is damaged, or made with another secret"
        if signature.kind
        else f"it is signed, and {SECRET_VARIABLE} is not set",
        is_signed=True,
    )


def mac_of_version(
    signature: Signature, head: tuple[Any, ...], parts: tuple[str, str], sources: bytes
) -> bytes:
    """Make the MAC of a function version.

    It takes prefix, function, fingerprint, version and key version; parameters and manifest; and the sources.
    """
    return _mac(signature, _of_parts(*parts) + UNSIGNED.digest(sources), _of_version(*head))


def _of_version(prefix: bytes, function: str, fingerprint: str, version: str, key_version: int) -> bytes:
    lengths, text = _joined([prefix, *(each.encode() for each in (function, fingerprint, version))])
    return _VERSION.pack(key_version, *lengths) + text


def _of_parts(parameters: str, manifest: str) -> bytes:
    first = parameters.encode()
    return UNSIGNED.digest(struct.pack("<i", len(first)) + first + manifest.encode())


@lru_cache(maxsize=1024)
def check_version(mac: Any, head: tuple[Any, ...], signature: Signature) -> None:
    """Verify the head of a function version, which many records have in common; raises as `check_record`."""
    try:
        _check_mac(mac, _of_version(*head), signature)
    except _WRONG as error:
        raise ValueError(f"its function version doesn't match its MAC: {error}") from None


def has_parts(mac: bytes, parameters: Any, manifest: Any, sources: bytes | None = None) -> bool:
    """Whether the parts of a function version, as far as they were read, are those of its MAC, which is verified."""
    try:
        return _of_parts(parameters, manifest) == mac[_FIRST] and (
            sources is None or UNSIGNED.digest(sources) == mac[_SECOND]
        )
    except _WRONG:
        return False
