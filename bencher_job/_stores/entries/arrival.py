"""Knows bytes that are being read: who verifies them begins while the rest is still on its way.

a thread:  read piece | read piece | read piece
the user:               verify     | verify     | verify
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Final

from .pages import writable_memory

__all__ = ["ARRIVING_FROM", "Arrival", "fill"]

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
