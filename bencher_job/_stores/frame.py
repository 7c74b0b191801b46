"""Knows what an entry's bytes say of themselves, before anything of it is believed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .codec import _HEADER, _MAGIC, _PARTS, ALIGNMENT, CODEC_VERSION, Buffer
from .compression import compression_of

__all__ = ["Frame", "frame_of"]


@dataclass(frozen=True, slots=True)
class Frame:
    """How an entry is laid out, as it says itself."""

    kind: int
    """What its digest is: 0 for a plain one, 1 for a MAC."""
    compression: str | None
    """How its parts are made smaller, by name."""
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
        if (magic, version) != (_MAGIC, CODEC_VERSION) or bytes(entry[_HEADER.size : at]) != name:
            return None
        at += _PARTS.size
        if 16 * count > len(entry) - at:
            return None
        lengths += struct.unpack_from(f"<{2 * count}Q", entry, at)
    except struct.error:
        return None
    at += 16 * count + lengths[0]
    for stored in lengths[2::2]:
        at += -at % ALIGNMENT + stored
    return Frame(kind, compression_of(number), sum(lengths[1::2])) if at == len(entry) else None
