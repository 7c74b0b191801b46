"""The parts of an entry: memory for them, files read while they are verified, and compression.

a thread:  read piece | read piece | read piece
the user:               verify     | verify     | verify

A part is expanded into exactly as many bytes as its entry says that it has, and never into more.
"""

from __future__ import annotations

import importlib
import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any, Final

from .._errors import BencherJobError

Buffer = bytes | bytearray | memoryview


class DamagedEntry(Exception):
    """The bytes are not those of the entry that was written; the message says how they differ."""


class UnreadableEntry(Exception):
    """A good entry that can't be read here and now; the message says what is missing."""


class LargeEntry(UnreadableEntry):
    """An entry that would take more memory, once it is expanded, than its reader allows. It is not expanded."""


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
    """Allocate memory of a size in bytes; it is freed with the last object that uses it.

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


class StreamingRead:
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
        """Yield the pieces in order, as they arrive. This can be done once; the thread has ended afterwards.

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
    while count := os.readv(descriptor, [memory[done:]]):  # nothing where memory is full
        done += count
    return done


COMPRESS_FROM: Final = 1 << 12
"""Size in bytes from which compressing a part is worth its time."""

LEAST_SAVING: Final = 8
"""A part of n bytes stays as it is where less than n / 8 bytes are saved: so it is read faster and can be mapped."""

ZSTD_LEVEL: Final = 1
"""The level at which arrays of numbers take a third to two thirds of the time of level 3, and hardly more bytes."""

INSTALL: Final = "Run: pip install 'bencher_job[compression]'"


class Zstd:
    """Zstandard: smaller than lz4, and as fast on most arrays."""

    name = "zstd"
    package = "zstandard"
    number = 1
    """What stands for it in an entry."""

    def __init__(self) -> None:
        self._zstandard: Any = importlib.import_module("zstandard")

    def compress(self, part: Buffer) -> bytes:
        """Compress a part into one frame."""
        compressed: bytes = self._zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(part)
        return compressed

    def expand_into(self, room: memoryview, part: Buffer) -> bool:
        """Expand the one frame into memory; whether it fills the memory exactly."""
        reader = self._zstandard.ZstdDecompressor().stream_reader(part)
        done = 0
        while done < len(room) and (count := reader.readinto(room[done:])):
            done += count
        return done == len(room) and not reader.read(1)


class Lz4:
    """LZ4: larger than zstd."""

    name = "lz4"
    package = "lz4"
    number = 2

    def __init__(self) -> None:
        self._frame: Any = importlib.import_module("lz4.frame")

    def compress(self, part: Buffer) -> bytes:
        """Compress a part into one frame."""
        compressed: bytes = self._frame.compress(part, block_size=self._frame.BLOCKSIZE_MAX4MB)
        return compressed

    def expand_into(self, room: memoryview, part: Buffer) -> bool:
        """Expand the one frame into memory; whether it fills the memory exactly."""
        expander = self._frame.LZ4FrameDecompressor()
        out = expander.decompress(part, max_length=len(room) + 1)
        if len(out) != len(room) or not expander.eof or expander.unused_data:
            return False
        room[:] = out
        return True


Compression = Zstd | Lz4
_ALL: Final[tuple[type[Compression], ...]] = (Zstd, Lz4)


def compression_named(name: str | None) -> Compression | None:
    """Return the compression of a name, `"zstd"` or `"lz4"`, or None for None.

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


def shrink(part: Buffer, compression: Compression) -> Buffer:
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
    kind = next((each for each in _ALL if each.number == number), None)
    if kind is None:
        raise DamagedEntry(f"it is compressed in a way, {number}, that this library doesn't know")
    try:
        compression = kind()
    except ImportError:
        raise UnreadableEntry(
            f"it is compressed by {kind.name}, and the package {kind.package} is not installed. {INSTALL}"
        ) from None
    room = writable_memory(length)
    try:
        if compression.expand_into(room, part):
            return room
    except MemoryError:
        raise UnreadableEntry(f"there is too little memory to expand it by {kind.name}") from None
    except Exception as error:  # noqa: BLE001 - each package has its own, and lz4 raises a bare RuntimeError
        raise DamagedEntry(
            f"a part of it can't be expanded by {kind.name}: {type(error).__name__}: {error}"
        ) from None
    raise DamagedEntry(f"a part of it doesn't expand to the {length} bytes that it should have")
