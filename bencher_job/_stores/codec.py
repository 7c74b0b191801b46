"""Turn a value into verified bytes and back.

a thread:  read piece | read piece | read piece
the user:               verify     | verify     | verify

A part is expanded into exactly as many bytes as its entry says that it has, and never into more.

An entry is one run of bytes, whether it lies in a database row or in a file:

    magic 4 | version 1 | kind of digest 1 | key length 2 | digest 32 | key | compression 1 | number of buffers 4
        | stored length 8, length 8 of each part | stream | pad | buffer | pad | ...

The stream is a pickle of protocol 5. Large contiguous buffers (arrays, mostly) stand outside it, each aligned to 64
bytes from the entry's beginning. A part, stream or buffer, whose two lengths differ is compressed. The digest covers
every other byte of the entry, so that a value under another key, a changed length or a flipped bit anywhere is seen
before anything is expanded or unpickled. With a secret the digest is a MAC: then only who knows it can make an entry.
"""

from __future__ import annotations

import importlib
import mmap
import os
import pickle
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hmac import compare_digest
from typing import Any, BinaryIO, Final, NamedTuple

from .._cores import cores
from .._errors import BencherJobError
from .signature import SECRET_VARIABLE, UNSIGNED, Signature

__all__ = [
    "ARRIVING_FROM",
    "CODEC_VERSION",
    "COMPRESS_FROM",
    "LARGE_FROM",
    "Arrival",
    "Buffer",
    "Compression",
    "DamagedEntry",
    "LargeEntry",
    "Lz4",
    "MissignedEntry",
    "Payload",
    "SealedEntry",
    "UnreadableEntry",
    "Zstd",
    "check",
    "check_expansion",
    "compression_named",
    "dump",
    "expand",
    "fill",
    "plain_reader",
    "resealed",
    "seal",
    "shrink",
    "unseal",
    "writable_memory",
]


class DamagedEntry(Exception):
    """Bytes that are not the entry that was written; its message says how they differ."""


class UnreadableEntry(Exception):
    """A good entry that can't be read here and now; its message says what it takes."""


class LargeEntry(UnreadableEntry):
    """An entry that takes more memory, once it is expanded, than its reader wants to give; it is not expanded."""


class MissignedEntry(UnreadableEntry):
    """An entry that another secret, or none, may have made whole; its message says how it differs from ours.

    Attributes:
        is_signed: whether it says that it was made with a secret.
    """

    def __init__(self, message: str, *, is_signed: bool) -> None:
        self.is_signed = is_signed
        super().__init__(message)


HUGE_PAGE: Final = 1 << 21
"""Size in bytes of what the kernel hands out at once, where it is asked to and the memory is a whole number of them."""

LARGE_FROM: Final = HUGE_PAGE
"""Size in bytes from which memory comes in pages of its own."""

_ASK_FOR_HUGE_PAGES: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)


def writable_memory(size: int) -> memoryview:
    """Give memory of a size in bytes that is to be filled; it is freed with the last object that uses it.

    A `bytearray` would be filled with zeros first, in pages of 4 kB, and that takes longer than reading a file does.

    Raises:
        UnreadableEntry: when there is not so much.
    """
    if size < LARGE_FROM:
        return memoryview(bytearray(size))
    whole = size + -size % HUGE_PAGE
    try:
        pages = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise UnreadableEntry(f"it takes {size} bytes of memory, and there are not so many") from None
    if _ASK_FOR_HUGE_PAGES is not None:
        try:
            pages.madvise(_ASK_FOR_HUGE_PAGES)
        except OSError:  # a kernel without them serves as well, though not as fast
            pass
    return memoryview(pages)[:size]


ARRIVING_FROM: Final = 1 << 25
"""Size in bytes from which that is faster: less is still in the processor's cache when all of it has been read."""

PIECE: Final = 1 << 21
"""Size of a piece in bytes."""


class Arrival:
    """Memory that a thread fills with a file's bytes, piece by piece.

    Attributes:
        memory: all of it, complete once the pieces have been gone through; it may be written to.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        """Begin to read from an open file, which is closed when it is read.

        Raises:
            UnreadableEntry: when there is not so much memory.
        """
        try:
            self.memory = writable_memory(size)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._pieces = [self.memory[start : start + PIECE] for start in range(0, size, PIECE)]
        self._here = threading.Semaphore(0)
        self._error: OSError | None = None
        self._reading = threading.Thread(target=self._read, name="bencher_job reader")
        try:
            self._reading.start()
        except RuntimeError:  # the interpreter is ending, and begins no thread any more
            self._read()

    def __iter__(self) -> Iterator[memoryview]:
        """Give the pieces in order, each when it is there; to be gone through once, and the thread has ended then.

        Raises:
            OSError: when the file can't be read.
        """
        try:
            for piece in self._pieces:
                self._here.acquire()
                if self._error is not None:
                    raise self._error
                yield piece
        finally:
            if self._reading.ident is not None:
                self._reading.join()

    def _read(self) -> None:
        try:
            for piece in self._pieces:
                fill(piece, self._descriptor)
                self._here.release()
        except OSError as error:
            self._error = error
            self._here.release()
        finally:
            os.close(self._descriptor)


def fill(memory: memoryview, descriptor: int) -> int:
    """Read from a file until memory is full or the file ends; how many bytes were read."""
    done = 0
    while done < len(memory) and (count := os.readv(descriptor, [memory[done:]])):
        done += count
    return done


COMPRESS_FROM: Final = 1 << 12
"""Size in bytes from which compressing a part is worth its time."""

LEAST_SAVING: Final = 8
"""A part of n bytes stays as it is where less than n / 8 bytes are saved: so it is read faster and can be mapped."""

ZSTD_LEVEL: Final = 1
"""The level at which arrays of numbers take a third to two thirds of the time of level 3, and hardly more bytes."""

INSTALL: Final = "Run: pip install 'bencher_job[compression]'"

_PIECE: Final = 1 << 18
_LARGEST_OUTPUT: Final = 1 << 22

Bytes = bytes | bytearray | memoryview


class Zstd:
    """Zstandard: smaller than lz4, and as fast on most arrays."""

    name = "zstd"
    package = "zstandard"
    number = 1
    """What stands for it in an entry."""

    def __init__(self) -> None:
        self._zstandard: Any = importlib.import_module("zstandard")

    def compress(self, part: Bytes) -> bytes:
        """Compress a part into one frame."""
        compressed: bytes = self._zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(part)
        return compressed

    def expand_into(self, room: memoryview, part: Bytes) -> bool:
        """Expand the one frame into memory; whether it fills the memory exactly."""
        reader = self._zstandard.ZstdDecompressor().stream_reader(part)
        done = 0
        while done < len(room) and (count := reader.readinto(room[done:])):
            done += count
        return done == len(room) and not reader.read(1)

    def expands_to(self, length: int, part: Bytes) -> bool:
        """Whether the one frame expands to a length exactly; it is expanded piece by piece, and none is kept."""
        reader = self._zstandard.ZstdDecompressor().stream_reader(part)
        room, done = bytearray(_PIECE), 0
        while done <= length and (count := reader.readinto(room)):
            done += count
        return done == length


class Lz4:
    """LZ4: larger than zstd."""

    name = "lz4"
    package = "lz4"
    number = 2

    def __init__(self) -> None:
        self._frame: Any = importlib.import_module("lz4.frame")

    def compress(self, part: Bytes) -> bytes:
        """Compress a part into one frame."""
        compressed: bytes = self._frame.compress(part, block_size=self._frame.BLOCKSIZE_MAX4MB)
        return compressed

    def expand_into(self, room: memoryview, part: Bytes) -> bool:
        """Expand the one frame into memory; whether it fills the memory exactly."""
        done = 0
        for out in self._pieces(part, len(room)):
            if len(out) > len(room) - done:
                return False
            room[done : done + len(out)] = out
            done += len(out)
        return done == len(room)

    def expands_to(self, length: int, part: Bytes) -> bool:
        """Whether the one frame expands to a length exactly; it is expanded piece by piece, and none is kept."""
        return sum(map(len, self._pieces(part, length))) == length

    def _pieces(self, part: Bytes, most: int) -> Iterator[bytes]:
        """Expand the one frame, at most to one byte more than so many.

        Raises:
            ValueError: when it ends too early, or something is behind it.
        """
        expander = self._frame.LZ4FrameDecompressor()
        for start in range(0, len(part), _PIECE):  # by pieces: the expander copies what it has not yet used
            piece = bytes(part[start : start + _PIECE])
            while piece or not expander.needs_input:
                if expander.eof:
                    raise ValueError("there are bytes behind the frame")
                out = expander.decompress(piece, max_length=min(most + 1, _LARGEST_OUTPUT))
                yield out
                most -= len(out)
                if most < 0:
                    return
                piece = b""
        if not expander.eof or expander.unused_data:
            raise ValueError("it is not one whole frame")


Compression = Zstd | Lz4
_ALL: Final[tuple[type[Compression], ...]] = (Zstd, Lz4)


def compression_named(name: str | None) -> Compression | None:
    """Give the compression of a name, `"zstd"` or `"lz4"`, or None for None.

    Raises:
        BencherJobError: when there is none of this name, or its package is not installed.
    """
    if name is None:
        return None
    for each in _ALL:
        if each.name == name:
            try:
                return each()
            except ImportError:
                raise BencherJobError(
                    f"compression={name!r} needs the package {each.package}, which is not installed. {INSTALL}"
                ) from None
    raise BencherJobError(
        f"compression={name!r} is not known. Use {', '.join(repr(each.name) for each in _ALL)} or None."
    )


def shrink(part: Bytes, compression: Compression) -> Bytes:
    """Compress a part, or give it as it is where that would save little."""
    size = memoryview(part).nbytes
    if size < COMPRESS_FROM:
        return part
    compressed = compression.compress(part)
    return compressed if len(compressed) <= size - size // LEAST_SAVING else part


def expand(part: memoryview, number: int, length: int) -> memoryview:
    """Expand a part by the compression of a number into memory that may be written to.

    Raises:
        DamagedEntry: when it doesn't expand to this length.
        UnreadableEntry: when the package or the memory that it takes is not there.
    """
    compression = _compression_of(number)
    room = writable_memory(length)
    _expect(compression, length, lambda: compression.expand_into(room, part))
    return room


def check_expansion(part: memoryview, number: int, length: int) -> None:
    """Expand a part as `expand` does, in little memory, and give nothing.

    Raises:
        DamagedEntry: when it doesn't expand to this length.
        UnreadableEntry: when the package that it takes is not there.
    """
    compression = _compression_of(number)
    _expect(compression, length, lambda: compression.expands_to(length, part))


def _compression_of(number: int) -> Compression:
    for each in _ALL:
        if each.number == number:
            break
    else:
        raise DamagedEntry(f"it is compressed in a way, {number}, that this library doesn't know")
    try:
        return each()
    except ImportError:
        raise UnreadableEntry(
            f"it is compressed by {each.name}, and the package {each.package} is not installed. {INSTALL}"
        ) from None


def _expect(compression: Compression, length: int, fits: Callable[[], bool]) -> None:
    """Expand a part, which should have a length then."""
    try:
        if fits():
            return
    except MemoryError:
        raise UnreadableEntry(f"there is too little memory to expand it by {compression.name}") from None
    except Exception as error:  # noqa: BLE001 - each package has its own, and lz4 raises a bare RuntimeError
        raise DamagedEntry(
            f"a part of it can't be expanded by {compression.name}: {type(error).__name__}: {error}"
        ) from None
    raise DamagedEntry(f"a part of it doesn't expand to the {length} bytes that it should have")


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
Buffer = bytes | bytearray | memoryview


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
        """Give stream and buffers so that another pickle can hold them."""
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

        Of a large one the digest is made on another thread meanwhile, since both wait for memory most of the time.

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
    """Give a verified entry with the digest of another signature; its parts stay as they are."""
    view = memoryview(entry)
    magic, version, _, name_length, _ = _HEADER.unpack_from(view)
    start = _START.pack(magic, version, signature.kind, name_length)
    return SealedEntry(start, [view[_HEADER.size :]], len(view), signature)


def unseal(
    entry: Buffer | Arrival, key: str, *, signature: Signature = UNSIGNED, most_expanded: int | None = None
) -> Payload:
    """Verify an entry and give its payload, whose buffers are views of the entry where they are not compressed.

    Raises:
        DamagedEntry: when the bytes are not what `seal` made for this very key with this signature.
        LargeEntry: when its compressed parts expand to more bytes than `most_expanded`.
        UnreadableEntry: when they are, and the package or the memory that expands them is not there.
        OSError: when an entry that is on its way doesn't arrive.
    """
    if type(entry) is bytes and (stream := plain_reader(signature)(entry, key)) is not None:
        return Payload(stream)
    parts, number = _parts(*_verified(entry, key, signature))
    expanded = sum(length for part, length in parts if len(part) != length)
    if most_expanded is not None and expanded > most_expanded:
        raise LargeEntry(f"it expands to {expanded} bytes, and at most {most_expanded} are read here")
    first, *buffers = [
        part if len(part) == length else expand(part, number, length) for part, length in parts
    ]
    return Payload(first, tuple(buffers))


def check(entry: Buffer | Arrival, key: str, *, signature: Signature = UNSIGNED) -> None:
    """Verify an entry as `unseal` does, in little memory besides the entry's own.

    Raises:
        DamagedEntry: when the bytes are not what `seal` made for this very key with this signature.
        UnreadableEntry: when they are, and the package that expands them is not there.
        OSError: when an entry that is on its way doesn't arrive.
    """
    if type(entry) is bytes and plain_reader(signature)(entry, key) is not None:
        return
    parts, number = _parts(*_verified(entry, key, signature))
    for part, length in parts:
        if len(part) != length:
            check_expansion(part, number, length)


def _verified(entry: Buffer | Arrival, key: str, signature: Signature) -> tuple[memoryview, int]:
    """Verify the digest of an entry; give its bytes, and where its table of parts begins."""
    if isinstance(entry, Arrival):
        made, view = _digest_on_arrival(signature, entry), entry.memory
    else:
        view = memoryview(entry)
        made = _digest(signature, view[: _START.size], view[_HEADER.size :])
    try:
        magic, version, kind, name_length, digest = _HEADER.unpack_from(view)
    except struct.error:
        raise DamagedEntry(f"it ends after {len(view)} bytes, before its header does") from None
    if magic != _MAGIC:
        raise DamagedEntry("it doesn't begin as an entry does")
    if version != CODEC_VERSION:
        raise DamagedEntry(
            f"it is of codec version {version}, and this library reads version {CODEC_VERSION}"
        )
    if kind != signature.kind:  # decides nothing: it only tells why the digest is another
        if not signature.kind:
            raise DamagedEntry(f"it is signed, or says so, and {SECRET_VARIABLE} is not set")
        if signature.is_personal:
            raise DamagedEntry(f"it is not signed with {signature.source}")
        raise DamagedEntry(f"it is not signed, and {SECRET_VARIABLE} is set")
    if not compare_digest(made, digest):
        what = "signature: it is damaged, or made with another secret" if signature.kind else "digest"
        raise DamagedEntry(f"its bytes don't match its {what}")
    at = _HEADER.size + name_length
    if (name := bytes(view[_HEADER.size : at])) != key.encode():
        raise DamagedEntry(f"it belongs to the key {name.decode(errors='replace')}")
    return view, at


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


def _parts(view: memoryview, at: int) -> tuple[list[tuple[memoryview, int]], int]:
    """Give the parts of a verified entry with their lengths once expanded, and the number of their compression."""
    try:
        number, count, *lengths = _PARTS.unpack_from(view, at)
        at += _PARTS.size
        if count:
            lengths += struct.unpack_from(f"<{2 * count}Q", view, at)
            at += 16 * count
    except struct.error:
        raise DamagedEntry("it ends before its table of parts does") from None
    parts = [view[at : at + lengths[0]]]
    at += lengths[0]
    for stored in lengths[2::2]:
        at += -at % ALIGNMENT
        parts.append(view[at : at + stored])
        at += stored
    if at != len(view):
        raise DamagedEntry(f"its parts end at {at}, and it ends at {len(view)}")
    # Without a compression the other lengths say nothing.
    expanded = lengths[1::2] if number else lengths[::2]
    return [*zip(parts, expanded, strict=True)], number


def _digest(signature: Signature, start: Buffer, *body: Buffer, threads_besides: int = 0) -> bytes:
    if len(body) == 1 and len(body[0]) < PARALLEL_FROM:
        return signature.hasher(start).update(body[0]).digest()
    large = sum(memoryview(part).nbytes for part in body) >= PARALLEL_FROM
    hasher = signature.hasher(start, _threads(threads_besides) if large else 1)
    for part in body:
        hasher.update(part)
    return hasher.digest()


def _digest_on_arrival(signature: Signature, arrival: Arrival) -> bytes:
    pieces = iter(arrival)
    first = next(pieces)
    hasher = signature.hasher(first[: _START.size], _threads(1)).update(first[_HEADER.size :])
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def _threads(besides: int) -> int:
    """Give the number of threads for a large digest, beside those that read or write meanwhile.

    It is a number and not `blake3.AUTO`, whose threads are one set for the whole process: in a forked child they are
    gone, and a digest would wait for them for ever.
    """
    return max(1, min(cores() - besides, MOST_THREADS))
