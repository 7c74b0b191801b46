"""Knows how messages pass between a slot and its worker: several buffers at once, none copied to be sent.

count 4 | length 8 each | buffer | buffer | ...
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .._stores.codec import Buffer

__all__ = ["Channel"]

AT_ONCE: Final = 1 << 16
"""Size in bytes of the buffer that small messages are read through, in one system call each."""

_MOST_BUFFERS: Final = 512  # of one sendmsg; the system's limit is 1024
_COUNT: Final = struct.Struct("<I")


def _nobody_watches() -> None:
    pass


class Channel:
    """One end of a socket pair, for one thread to send on and receive from.

    When nothing moves for a while, on a socket that has a timeout, `watch` is called; what it raises ends the
    wait.
    """

    def __init__(self, end: socket.socket, watch: Callable[[], None] = _nobody_watches) -> None:
        self._socket = end
        self._watch = watch
        self._view = memoryview(bytearray(AT_ONCE))
        self._start = self._stop = 0

    def close(self) -> None:
        """Close this end, which the other end takes for the end of all messages."""
        self._socket.close()

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send one message.

        Raises:
            OSError: when the other end is closed.
        """
        views = [memoryview(part).cast("B") for part in parts]
        head = _COUNT.pack(len(views)) + struct.pack(f"<{len(views)}Q", *map(len, views))
        rest = [memoryview(head), *(view for view in views if len(view))]
        while rest:
            try:
                sent = self._socket.sendmsg(rest[:_MOST_BUFFERS])
            except BlockingIOError:
                self._watch()
                continue
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = rest[0][sent:]

    def receive(self) -> list[bytearray]:
        """Wait for one message and give its buffers, which are the caller's to keep.

        Raises:
            EOFError: when the other end is closed.
            OSError: when the connection is broken.
        """
        (count,) = _COUNT.unpack(self._read(_COUNT.size))
        lengths = struct.unpack(f"<{count}Q", self._read(8 * count))
        return [self._read(length) for length in lengths]

    def _read(self, length: int) -> bytearray:
        if length <= AT_ONCE:
            while self._stop - self._start < length:
                self._fill()
            part = bytearray(self._view[self._start : self._start + length])
            self._start += length
            return part
        part = bytearray(length)
        have = self._stop - self._start
        with memoryview(part) as view:
            view[:have] = self._view[self._start : self._stop]
            self._start = self._stop = 0
            while have < length:
                have += self._receive_into(view[have:])
        return part

    def _fill(self) -> None:
        have = self._stop - self._start
        if self._start:
            self._view[:have] = bytes(self._view[self._start : self._stop])
            self._start, self._stop = 0, have
        self._stop += self._receive_into(self._view[self._stop :])

    def _receive_into(self, view: memoryview) -> int:
        while True:
            try:
                received = self._socket.recv_into(view)
            except BlockingIOError:
                self._watch()
                continue
            if received == 0:
                raise EOFError("the other end is closed")
            return received
