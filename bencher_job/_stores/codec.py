"""Turns a value into verified bytes and back.

An entry is one run of bytes, whether it lies in a database row or in a file:

    magic 4 | version 1 | digest 32 | key length 2 | key | count 4 | lengths 8 each | stream | pad | buffer | pad | ...

The stream is a pickle of protocol 5. Large contiguous buffers (arrays, mostly) stand outside it, each aligned to 64
bytes from the entry's beginning. The digest covers the whole entry with the digest's own place zero, so that a value
under another key, a changed length or a flipped bit anywhere is seen before anything is unpickled.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from blake3 import blake3

__all__ = ["CODEC_VERSION", "DamagedEntry", "Payload", "dump", "seal", "unseal"]

CODEC_VERSION: Final = 1
ALIGNMENT: Final = 64
OUT_OF_BAND_FROM: Final = 1 << 16
"""Size in bytes from which a buffer stands outside the pickle stream."""

PARALLEL_FROM: Final = 1 << 20
"""Size in bytes from which a digest is made on several threads."""

_MAGIC: Final = b"BJe\x00"
_PROLOGUE: Final = struct.Struct("<4sB32sH")
_COUNT: Final = struct.Struct("<I")
_NO_DIGEST: Final = bytes(32)

Buffer = bytes | bytearray | memoryview


class DamagedEntry(Exception):
    """Bytes that are not the entry that was written; its message says how they differ."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A pickled value: the pickle stream, and the buffers that stand outside it."""

    stream: Buffer
    buffers: tuple[Buffer, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of stream and buffers together, in bytes."""
        return len(self.stream) + sum(memoryview(buffer).nbytes for buffer in self.buffers)

    def load(self) -> Any:
        """Unpickle the value; it shares no memory with this payload."""
        if not self.buffers:
            return pickle.loads(self.stream)
        return pickle.loads(self.stream, buffers=[bytearray(buffer) for buffer in self.buffers])

    def load_in_place(self) -> Any:
        """Unpickle the value on top of this payload's own buffers, which nobody else may use any more."""
        return pickle.loads(self.stream, buffers=self.buffers)


def dump(value: object, pickler: Callable[..., bytes] = pickle.dumps) -> Payload:
    """Pickle a value, its large buffers apart and not copied.

    Raises:
        Exception: whatever the value's own pickling raises, `pickle.PicklingError`, `TypeError` and
            `AttributeError` foremost.
    """
    buffers: list[Buffer] = []

    def keep_in_stream(buffer: pickle.PickleBuffer) -> bool:
        with memoryview(buffer) as view:
            if view.nbytes < OUT_OF_BAND_FROM:
                return True
        try:
            buffers.append(buffer.raw())
        except BufferError:  # not contiguous
            return True
        return False

    return Payload(pickler(value, protocol=5, buffer_callback=keep_in_stream), tuple(buffers))


def seal(payload: Payload, key: str) -> list[Buffer]:
    """Frame a payload as the entry of a key: buffers to be written one behind the other."""
    name = key.encode()
    lengths = [len(payload.stream), *(memoryview(buffer).nbytes for buffer in payload.buffers)]
    table = _COUNT.pack(len(lengths)) + struct.pack(f"<{len(lengths)}Q", *lengths)
    body: list[Buffer] = [name + table, payload.stream]
    end = _PROLOGUE.size + len(body[0]) + lengths[0]
    for buffer, length in zip(payload.buffers, lengths[1:], strict=True):
        body += [bytes(-end % ALIGNMENT), buffer]
        end += -end % ALIGNMENT + length
    digest = _digest(_PROLOGUE.pack(_MAGIC, CODEC_VERSION, _NO_DIGEST, len(name)), body)
    return [_PROLOGUE.pack(_MAGIC, CODEC_VERSION, digest, len(name)), *body]


def unseal(entry: Buffer, key: str) -> Payload:
    """Verify an entry and give its payload, whose buffers are views of the entry.

    Raises:
        DamagedEntry: when the bytes are not what `seal` made for this very key.
    """
    view = memoryview(entry)
    try:
        magic, version, digest, name_length = _PROLOGUE.unpack_from(view)
    except struct.error:
        raise DamagedEntry(f"it ends after {len(view)} bytes, before its header does") from None
    if magic != _MAGIC:
        raise DamagedEntry("it doesn't begin as an entry does")
    if version != CODEC_VERSION:
        raise DamagedEntry(
            f"it is of codec version {version}, and this library reads version {CODEC_VERSION}"
        )
    start = _PROLOGUE.pack(magic, version, _NO_DIGEST, name_length)
    if _digest(start, [view[_PROLOGUE.size :]]) != digest:
        raise DamagedEntry("its bytes don't match its digest")
    at = _PROLOGUE.size + name_length
    if (name := bytes(view[_PROLOGUE.size : at])) != key.encode():
        raise DamagedEntry(f"it belongs to the key {name.decode(errors='replace')}")
    return Payload(*_parts(view, at))


def _parts(view: memoryview, at: int) -> tuple[memoryview, tuple[memoryview, ...]]:
    (count,) = _COUNT.unpack_from(view, at)
    lengths = struct.unpack_from(f"<{count}Q", view, at + _COUNT.size)
    at += _COUNT.size + 8 * count
    stream = view[at : at + lengths[0]]
    at += lengths[0]
    buffers = []
    for length in lengths[1:]:
        at += -at % ALIGNMENT
        buffers.append(view[at : at + length])
        at += length
    return stream, tuple(buffers)


def _digest(start: bytes, body: list[Buffer]) -> bytes:
    large = sum(memoryview(part).nbytes for part in body) >= PARALLEL_FROM
    hasher = blake3(start, max_threads=blake3.AUTO) if large else blake3(start)
    for part in body:
        hasher.update(part)
    return hasher.digest()
