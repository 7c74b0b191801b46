"""Turn a value into verified bytes and back.

An entry is one run of bytes, whether it lies in a database row or in a file:

    magic 4 | version 1 | kind of digest 1 | key length 2 | digest 32 | key | compression 1 | number of buffers 4
        | stored length 8, length 8 of each part | stream | pad | buffer | pad | ...

The stream is a pickle of protocol 5. Large contiguous buffers (arrays, mostly) stand outside it, each aligned to 64
bytes from the entry's beginning. A part, stream or buffer, whose two lengths differ is compressed. The digest covers
every other byte of the entry, so that a value under another key, a changed length or a flipped bit anywhere is seen
before anything is expanded or unpickled. With a secret the digest is a MAC. Then nobody can make an entry without it,
and an entry that was made with another secret is distinguished from a damaged one.
"""

from __future__ import annotations

import io
import operator
import pickle
import struct
import sys
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache, partial
from hmac import compare_digest
from types import FunctionType
from typing import Any, BinaryIO, Final, NamedTuple

from .._cores import cores
from .._keys.names import is_own_name, locate, main_name, module_name, module_of
from .parts import (
    Buffer,
    Compression,
    DamagedEntry,
    LargeEntry,
    MissignedEntry,
    StreamingRead,
    expand,
    shrink,
)
from .signature import SECRET_VARIABLE, UNSIGNED, Signature

CODEC_VERSION: Final = 2
ALIGNMENT: Final = 64
OUT_OF_BAND_FROM: Final = 1 << 16
"""Size in bytes from which a buffer stands outside the pickle stream."""

PARALLEL_FROM: Final = 1 << 21
"""Size in bytes from which a digest is made on several threads."""

MOST_THREADS: Final = 8
"""More threads than this wait for memory rather than for each other."""

LONGEST_NAME: Final = 0xFFFF
"""Length in bytes of the longest key that an entry has room for."""

_MAGIC: Final = b"BJe\x00"
_START: Final = struct.Struct("<4sBBH")
_DIGEST_SIZE: Final = 32
_HEADER: Final = struct.Struct("<4sBBH32s")
_PARTS: Final = struct.Struct("<BIQQ")


class Payload(NamedTuple):
    """A pickled value: the pickle stream, and the buffers that stand outside it."""

    stream: Buffer
    buffers: tuple[Buffer, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of stream and buffers together, in bytes."""
        size = len(self.stream)
        for buffer in self.buffers:
            size += memoryview(buffer).nbytes
        return size

    def in_band(self) -> tuple[Buffer, tuple[pickle.PickleBuffer, ...]]:
        """Return stream and buffers in a form that another pickle can hold."""
        return self.stream, tuple(pickle.PickleBuffer(buffer) for buffer in self.buffers)

    def load(self) -> Any:
        """Unpickle the value; it shares no memory with this payload."""
        if not self.buffers:
            return pickle.loads(self.stream)
        return pickle.loads(self.stream, buffers=[bytearray(buffer) for buffer in self.buffers])

    def load_in_place(self) -> Any:
        """Unpickle the value on top of this payload's own buffers, which nobody else may use any more.

        Arrays in buffers that can't be written to, as those of a mapped file, can't be written to either.
        """
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


@dataclass(slots=True, eq=False, repr=False)
class SealedEntry:
    """An entry except its digest, which is made while the bytes are written: `start`, the digest, and `body`.

    Attributes:
        size: of the entry in bytes.
        digest: of the entry, once it is written to a file; empty before.
    """

    start: bytes
    body: list[Buffer]
    size: int
    signature: Signature
    digest: bytes = b""

    @property
    def nbytes(self) -> int:
        """Size of what is to be written, in bytes."""
        return self.size

    def __bytes__(self) -> bytes:
        body = b"".join(self.body)
        if self.size < PARALLEL_FROM:
            return self.start + self.signature.begin(self.start + body).digest() + body
        return self.start + _digest(self.signature, self.start, body) + body

    def write_to(self, file: BinaryIO) -> None:
        """Write the entry to an empty file that can seek.

        The digest of a large one is made on another thread at the same time, since both wait for memory mostly.

        Raises:
            OSError: when it can't be written.
        """
        made: list[bytes] = []
        hashing = threading.Thread(target=lambda: made.append(self._digest()), name="bencher_job digest")
        if self.size >= PARALLEL_FROM:
            try:
                hashing.start()
            except RuntimeError:  # the interpreter is ending, and begins no thread any more
                pass
        try:
            file.writelines([self.start, bytes(_DIGEST_SIZE), *self.body])
        finally:
            if hashing.ident is not None:
                hashing.join()
        file.seek(len(self.start))
        self.digest = made[0] if made else self._digest()
        file.write(self.digest)

    def _digest(self) -> bytes:
        return _digest(self.signature, self.start, *self.body, threads_besides=1)


def seal(
    payload: Payload, key: str, *, signature: Signature = UNSIGNED, compression: Compression | None = None
) -> SealedEntry:
    """Frame a payload as the entry of a key, its parts compressed where that pays, ready to be written."""
    name, stream, length = key.encode(), payload.stream, len(payload.stream)
    start = _START.pack(_MAGIC, CODEC_VERSION, signature.kind, len(name))
    number = 0
    if compression is not None:
        stream, number = shrink(stream, compression), compression.number
    table = _PARTS.pack(number, len(payload.buffers), len(stream), length)
    end = _HEADER.size + len(name) + _PARTS.size + len(stream)
    if not payload.buffers:
        return SealedEntry(start, [name, table, stream], end, signature)
    buffers = [buffer if compression is None else shrink(buffer, compression) for buffer in payload.buffers]
    lengths = [
        memoryview(each).nbytes for pair in zip(buffers, payload.buffers, strict=True) for each in pair
    ]
    end += 8 * len(lengths)
    body = [name, table, struct.pack(f"<{len(lengths)}Q", *lengths), stream]
    for buffer, stored in zip(buffers, lengths[::2], strict=True):
        body += [bytes(-end % ALIGNMENT), buffer]
        end += -end % ALIGNMENT + stored
    return SealedEntry(start, body, end, signature)


def resealed(entry: Buffer, signature: Signature) -> SealedEntry:
    """Return a verified entry with the digest of another signature; its parts stay as they are."""
    view = memoryview(entry)
    magic, version, _, name_length, _ = _HEADER.unpack_from(view)
    start = _START.pack(magic, version, signature.kind, name_length)
    return SealedEntry(start, [view[_HEADER.size :]], len(view), signature)


def unseal(
    entry: Buffer | StreamingRead,
    key: str,
    *,
    signature: Signature = UNSIGNED,
    most_expanded: int | None = None,
) -> Payload:
    """Verify an entry and give its payload, whose buffers are views of the entry where they are not compressed.

    Raises:
        DamagedEntry: when these are not bytes that `seal` made for this key, whatever the secret.
        MissignedEntry: when one with another secret, or with none, may have made them.
        LargeEntry: when its compressed parts expand to more bytes than `most_expanded`.
        UnreadableEntry: when they are, and the package or the memory that expands them is not there.
        OSError: when an entry that is on its way doesn't arrive.
    """
    frame = check(entry, key, signature=signature)
    if most_expanded is not None and frame.expanded > most_expanded:
        raise LargeEntry(f"it expands to {frame.expanded} bytes, and at most {most_expanded} are read here")
    first, *buffers = [
        part if len(part) == length else expand(part, frame.compression, length)
        for part, length in frame.parts
    ]
    return Payload(first, tuple(buffers))


def check(entry: Buffer | StreamingRead, key: str, *, signature: Signature = UNSIGNED) -> Frame:
    """Verify an entry's digest, and return how it is laid out. Nothing is expanded.

    Raises:
        DamagedEntry: as `unseal`.
        MissignedEntry: as `unseal`.
        OSError: when an entry that is on its way doesn't arrive.
    """
    if isinstance(entry, StreamingRead):
        made, view = _digest_of_stream(signature, entry), entry.memory
    else:
        view = memoryview(entry)
        made = _digest(signature, view[: _START.size], view[_HEADER.size :])
    frame = frame_of(view, key)
    if frame.kind == signature.kind and compare_digest(made, frame.digest):
        return frame
    if frame.kind == UNSIGNED.kind == signature.kind:
        raise DamagedEntry("its bytes don't match its digest")
    if frame.kind == signature.kind:
        told = "its bytes don't match its signature: it is damaged, or made with another secret"
    elif not signature.kind:
        told = f"it is signed, or says so, and {SECRET_VARIABLE} is not set"
    elif signature.is_personal:
        told = f"it is not signed with {signature.source}"
    else:
        told = f"it is not signed, and {SECRET_VARIABLE} is set"
    raise MissignedEntry(told, is_signed=bool(frame.kind))


@lru_cache(maxsize=16)
def plain_reader(signature: Signature) -> Callable[[bytes, str], bytes | None]:
    """Make what verifies a small entry of one part that is not compressed, as most are, and gives its pickle.

    It gives None of any other entry.
    """
    begin, frames = signature.begin, _PlainFrames(signature.kind)
    at_digest, at_body = _START.size, _HEADER.size

    def read(entry: bytes, key: str) -> bytes | None:
        name, body = key.encode(), entry[at_body:]
        start, table, size = frames[len(name)]
        length = len(body) - size
        if (
            0 <= length < PARALLEL_FROM
            and entry.startswith(start)
            and body.startswith(table(name, 0, 0, length, length))
            and compare_digest(begin(start + body).digest(), entry[at_digest:at_body])
        ):
            return body[size:]
        return None

    return read


class _PlainFrames(dict[int, tuple[bytes, Callable[..., bytes], int]]):
    """How entries of one part begin, and what stands between their digest and stream, by the length of the key.

    That is packed of the key and the numbers of the table of parts; how long it is comes last.
    """

    def __init__(self, kind: int) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, length: int) -> tuple[bytes, Callable[..., bytes], int]:
        if length > LONGEST_NAME:  # no entry begins so
            return b"", bytes, sys.maxsize
        start = _START.pack(_MAGIC, CODEC_VERSION, self._kind, length)
        between = struct.Struct(f"<{length}s{_PARTS.format[1:]}")
        frame = self[length] = start, between.pack, between.size
        return frame


class Frame(NamedTuple):
    """The layout of an entry, as its header says."""

    kind: int
    """The kind of its digest: 0 for a plain one, 1 for a MAC."""
    digest: bytes
    compression: int
    """The number of the compression of its parts; 0 for none."""
    parts: list[tuple[memoryview, int]]
    """Each part with its length in bytes once it is expanded."""

    @property
    def expanded(self) -> int:
        """How many bytes its compressed parts expand to."""
        return sum(length for part, length in self.parts if len(part) != length)


def frame_of(entry: Buffer, key: str) -> Frame:
    """Read how an entry of a key is laid out, without verifying it.

    Raises:
        DamagedEntry: when nobody can have laid out an entry of this key so.
    """
    view = memoryview(entry)
    try:
        magic, version, kind, name_length, digest = _HEADER.unpack_from(view)
        if magic != _MAGIC:
            raise DamagedEntry("it doesn't begin as an entry does")
        if version != CODEC_VERSION:
            raise DamagedEntry(
                f"it is of codec version {version}, and this library reads version {CODEC_VERSION}"
            )
        at = _HEADER.size + name_length
        if (name := bytes(view[_HEADER.size : at])) != key.encode():
            raise DamagedEntry(f"it belongs to the key {name.decode(errors='replace')}")
        number, count, *lengths = _PARTS.unpack_from(view, at)
        at += _PARTS.size
        if count:
            lengths += struct.unpack_from(f"<{2 * count}Q", view, at)
            at += 16 * count
    except struct.error:
        raise DamagedEntry(f"it ends after {len(view)} bytes, before its table of parts does") from None
    parts: list[tuple[memoryview, int]] = []
    for stored, expanded in zip(lengths[::2], lengths[1::2], strict=True):
        at += -at % ALIGNMENT if parts else 0
        # Without a compression the other length says nothing.
        parts.append((view[at : at + stored], expanded if number else stored))
        at += stored
    if at != len(view):
        raise DamagedEntry(f"its parts end at {at}, and it ends at {len(view)}")
    return Frame(kind, digest, number, parts)


def _digest(signature: Signature, start: Buffer, *body: Buffer, threads_besides: int = 0) -> bytes:
    large = sum(memoryview(part).nbytes for part in body) >= PARALLEL_FROM
    hasher = signature.hasher(start, _threads(threads_besides) if large else 1)
    for part in body:
        hasher.update(part)
    return hasher.digest()


def _digest_of_stream(signature: Signature, read: StreamingRead) -> bytes:
    pieces = iter(read)
    first = next(pieces)
    hasher = signature.hasher(first[: _START.size], _threads(1)).update(first[_HEADER.size :])
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def _threads(besides: int) -> int:
    """Return the number of threads for a large digest, besides those that read or write at the same time.

    It is a number and not `blake3.AUTO`, whose threads are one set for the whole process: in a forked child they are
    gone, and a digest would wait for them for ever.
    """
    return max(1, min(cores() - besides, MOST_THREADS))


def dump_result(value: object, function: object) -> Payload:
    """Pickle what a function has returned, so that the program and who imports it can both read it.

    A script's classes are `__main__`'s where it runs, and its module's where it is imported. A value that names them is
    pickled once more, and looks them up when it is read.

    Raises:
        Exception: as `dump`.
    """
    payload = dump(value)
    if pickle.STACK_GLOBAL not in payload.stream:  # it names no class or function
        return payload
    while isinstance(function, partial):
        function = function.func
    program = main_name()
    names = (
        {module_of(function), program}
        if program == "__main__"
        else {module_of(function), program, "__main__"}
    )
    named = {name for name in names if _name_in_stream(name) in payload.stream and is_own_name(name)}
    return dump(value, partial(_dumps_located, modules=named)) if named else payload


def _name_in_stream(name: str) -> bytes:
    encoded = name.encode()
    return pickle.SHORT_BINUNICODE + bytes([len(encoded) & 0xFF]) + encoded


class _LocatedPickler(pickle.Pickler):
    """Has the classes and functions of some modules looked up by name when the pickle is read."""

    modules: frozenset[str]

    def reducer_override(self, obj: Any) -> Any:
        if not issubclass(type(obj), type | FunctionType) or module_of(obj) not in self.modules:
            return NotImplemented
        try:
            found = operator.attrgetter(obj.__qualname__)(sys.modules[obj.__module__])
        except (KeyError, AttributeError):
            return NotImplemented
        return (locate, (module_name(obj.__module__), obj.__qualname__)) if found is obj else NotImplemented


def _dumps_located(value: object, *, modules: Collection[str], **options: Any) -> bytes:
    with io.BytesIO() as file:
        pickler = _LocatedPickler(file, **options)
        pickler.modules = frozenset(modules)
        pickler.dump(value)
        return file.getvalue()
