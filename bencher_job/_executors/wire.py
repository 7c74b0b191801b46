"""Knows how messages pass between a pool and a worker: a small tuple, and large buffers behind it that nobody copies.

length of the head 4 | number of buffers 4 | length 8 of each buffer | head, pickled | buffer | buffer | ...
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from .._stores.entries.codec import Buffer
from .._stores.entries.pages import writable_memory

__all__ = ["LARGEST_INLINE", "Inlet", "Message", "Outlet", "frame"]

LARGEST_INLINE: Final = 1 << 14
"""Size in bytes of the largest run of bytes that goes in a head; what is larger goes as a buffer."""

_AT_ONCE: Final = 1 << 18
"""Size in bytes of the buffer that messages are read through, many small ones in one system call: no head is larger."""

_MOST_BUFFERS: Final = 512  # of one sendmsg; the system's limit is 1024
_START: Final = struct.Struct("<II")

Message = tuple[tuple[Any, ...], list[memoryview]]
"""A head, and its buffers, which are the receiver's to keep."""


def frame(head: tuple[Any, ...], buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Give the pieces of a message."""
    pickled = pickle.dumps(head, protocol=5)
    start = _START.pack(len(pickled), len(buffers))
    if not buffers:
        return [start + pickled]
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    lengths = struct.pack(f"<{len(views)}Q", *map(len, views))
    return [start + lengths + pickled, *(view for view in views if len(view))]


class Outlet:
    """The sending half of one end of a socket pair; where the socket doesn't wait, what can't be sent yet is kept."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._rest: deque[Buffer] = deque()

    def send(self, pieces: Sequence[Buffer]) -> bool:
        """Send pieces behind those that were kept; whether all are sent.

        Raises:
            OSError: when the other end is closed.
        """
        self._rest += pieces
        return self.flush()

    def flush(self) -> bool:
        """Send what was kept; whether all is sent."""
        rest = self._rest
        while rest:
            try:
                sent = self._socket.sendmsg([rest[number] for number in range(min(len(rest), _MOST_BUFFERS))])
            except BlockingIOError:
                return False
            while rest and sent >= len(rest[0]):
                sent -= len(rest.popleft())
            if sent:
                rest[0] = memoryview(rest[0])[sent:]
        return True


class Inlet:
    """The receiving half of one end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._view = memoryview(bytearray(_AT_ONCE))
        self._start = self._stop = 0
        self._head: tuple[Any, ...] = ()
        self._buffers: list[memoryview] = []
        self._missing: deque[memoryview] = deque()  # what of the buffers is still to come

    def receive(self) -> Iterator[Message]:
        """Receive once, and give the messages that are complete.

        Raises:
            EOFError: when the other end is closed.
            OSError: when the connection is broken, or there is nothing to receive on a socket that doesn't wait.
        """
        self._receive()
        while (message := self._next()) is not None:
            yield message

    def read(self) -> Iterator[Message]:
        """Give the messages that are here, on a socket that doesn't wait.

        Raises:
            EOFError: when the other end is closed.
            OSError: when the connection is broken.
        """
        try:
            while True:
                self._receive()
                while (message := self._next()) is not None:
                    yield message
                if (
                    not self._missing and self._stop < len(self._view) // 2
                ):  # it was all, as far as one can see
                    return
        except BlockingIOError:
            pass

    def _receive(self) -> None:
        if self._missing:
            into = self._missing[0]
        else:
            if self._start:
                self._view[: self._stop - self._start] = bytes(self._view[self._start : self._stop])
                self._stop -= self._start
                self._start = 0
            into = self._view[self._stop :]
        received = self._socket.recv_into(into)
        if received == 0:
            raise EOFError("the other end is closed")
        if self._missing:
            self._fill(received)
        else:
            self._stop += received

    def _fill(self, received: int) -> None:
        left = self._missing[0][received:]
        if len(left):
            self._missing[0] = left
        else:
            self._missing.popleft()

    def _next(self) -> Message | None:
        """Take a message that is complete."""
        if not self._head and not self._begin():
            return None
        if self._missing:
            return None
        message = self._head, self._buffers
        self._head, self._buffers = (), []
        return message

    def _begin(self) -> bool:
        """Take a head that is complete, and what is here of its buffers; whether there was one."""
        have, at = self._stop - self._start, self._start
        if have < _START.size:
            return False
        length, count = _START.unpack_from(self._view, at)
        at += _START.size + 8 * count
        if self._stop < at + length:
            return False
        self._head = pickle.loads(self._view[at : at + length])
        self._start = at + length
        if count:
            for size in struct.unpack_from(f"<{count}Q", self._view, at - 8 * count):
                self._expect(size)
        return True

    def _expect(self, size: int) -> None:
        buffer = writable_memory(size)
        self._buffers.append(buffer)
        have = min(size, self._stop - self._start) if not self._missing else 0
        buffer[:have] = self._view[self._start : self._start + have]
        self._start += have
        if have < size:
            self._missing.append(buffer[have:])
