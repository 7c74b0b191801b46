"""Knows where the memory of large values comes from."""

from __future__ import annotations

import mmap
from typing import Final

from .faults import UnreadableEntry

__all__ = ["LARGE_FROM", "writable_memory"]

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
