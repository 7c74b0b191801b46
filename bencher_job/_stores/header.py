"""The header of an entry, checked before anything of the entry is read.

So an entry that was made with another secret, or with none, is told from one that is damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from .codec import (
    _HEADER,
    _MAGIC,
    _PARTS,
    _START,
    ALIGNMENT,
    CODEC_VERSION,
    Arrival,
    Buffer,
    DamagedEntry,
    Lz4,
    MissignedEntry,
    Payload,
    Zstd,
    _digest,
    check,
    unseal,
)
from .signature import UNSIGNED, Signature

__all__ = ["Frame", "check_ours", "frame_of", "unseal_ours"]


_KINDS: Final = (0, 1)
_COMPRESSIONS: Final = {each.number: each.name for each in (Zstd, Lz4)}


class Frame(NamedTuple):
    """How an entry is laid out, as it says itself."""

    kind: int
    """What its digest is: 0 for a plain one, 1 for a MAC."""
    compression: str | None
    """How parts of it are made smaller, by name; None where none is."""
    expanded: int
    """Size of all its parts once they are expanded, in bytes."""


def frame_of(entry: Buffer, key: str) -> Frame | None:
    """Read how an entry of a key is laid out; None where it is laid out in a way that `unseal` refuses unexpanded.

    Where there is a frame, nothing but the digest tells whether the entry is damaged.
    """
    name = key.encode()
    try:
        magic, version, kind, name_length, _ = _HEADER.unpack_from(entry)
        at = _HEADER.size + name_length
        number, count, *lengths = _PARTS.unpack_from(entry, at)
        if (magic, version) != (_MAGIC, CODEC_VERSION) or kind not in _KINDS:
            return None
        if bytes(entry[_HEADER.size : at]) != name:
            return None
        at += _PARTS.size
        if 16 * count > len(entry) - at:
            return None
        lengths += struct.unpack_from(f"<{2 * count}Q", entry, at)
    except struct.error:
        return None
    at += 16 * count + lengths[0]
    for length in lengths[2::2]:
        at += -at % ALIGNMENT + length
    if at != len(entry):
        return None
    stored, expanded = lengths[::2], lengths[1::2]
    return Frame(kind, _COMPRESSIONS.get(number) if stored != expanded else None, sum(expanded))


def unseal_ours(
    entry: Buffer | Arrival, key: str, *, signature: Signature, most_expanded: int | None = None
) -> Payload:
    """Verify an entry as `unseal` does, and tell one that is damaged from one that is not ours to verify.

    Raises:
        DamagedEntry: when nobody can have made these bytes for this key, whatever the secret.
        MissignedEntry: when one with another secret can have, or one with none.
        UnreadableEntry: when the package or the memory that expands them is not there, or it is too large.
        OSError: when an entry that is on its way doesn't arrive.
    """
    with _telling_apart(entry, key, signature):
        return unseal(entry, key, signature=signature, most_expanded=most_expanded)


def check_ours(entry: Buffer | Arrival, key: str, *, signature: Signature) -> None:
    """Verify an entry as `check` does; raises as `unseal_ours`."""
    with _telling_apart(entry, key, signature):
        check(entry, key, signature=signature)


@contextmanager
def _telling_apart(entry: Buffer | Arrival, key: str, signature: Signature) -> Iterator[None]:
    try:
        yield
    except DamagedEntry as error:
        view = entry.memory if isinstance(entry, Arrival) else memoryview(entry)
        frame = frame_of(view, key)
        if frame is None or frame.kind == signature.kind == UNSIGNED.kind:
            raise
        says_plain = frame.kind == UNSIGNED.kind
        if (
            _is_plain(view) is not says_plain
        ):  # so what it says of its signature was altered, or its bytes were
            raise
        raise MissignedEntry(str(error), is_signed=bool(frame.kind)) from None


def _is_plain(entry: memoryview) -> bool:
    """Whether an entry is whole as one that was made without a secret, whatever it says of that."""
    magic, version, _, name_length, digest = _HEADER.unpack_from(entry)
    start = _START.pack(magic, version, UNSIGNED.kind, name_length)
    return _digest(UNSIGNED, start, entry[_HEADER.size :]) == bytes(digest)
