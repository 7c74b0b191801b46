"""Knows how large parts of an entry are made smaller: zstd or lz4, each imported when it is first used.

A part is expanded into exactly as many bytes as its entry says that it has, and never into more.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..._errors import BencherJobError
from .faults import DamagedEntry, UnreadableEntry
from .pages import writable_memory

__all__ = [
    "COMPRESS_FROM",
    "Compression",
    "Lz4",
    "Zstd",
    "check_expansion",
    "compression_named",
    "expand",
    "shrink",
]

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
