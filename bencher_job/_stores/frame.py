"""Knows what an entry's bytes say of themselves, before anything of it is believed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from .codec import _HEADER, _MAGIC, _PARTS, ALIGNMENT, CODEC_VERSION, Buffer
from .compression import Lz4, Zstd

__all__ = ["Frame", "frame_of"]

_KINDS: Final = (0, 1)
_COMPRESSIONS: Final = {each.number: each.name for each in (Zstd, Lz4)}


@dataclass(frozen=True, slots=True)
class Frame:
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
