"""Messages between a pool and its workers.

length of the head 4 | number of buffers 4 | length 8 of each buffer | head, pickled | buffer | buffer | ...

    pool: put 1 2 3 -> pipe -> worker: take 1, run job 1, take 2, ...
                            -> pool: take back 2 3, which another worker gets

Both read the same pipe, and the kernel gives each work token to only one of them. When a worker dies, the tokens left
in the pipe show which jobs it has not begun.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from .._stores.parts import Buffer, writable_memory

__all__ = [
    "LARGEST_INLINE",
    "LEAVE",
    "MOST_TOKENS",
    "Inlet",
    "Message",
    "Outlet",
    "WorkTokenReader",
    "WorkTokens",
    "encode_message",
]

LARGEST_INLINE: Final = 1 << 14
"""Size in bytes up to which a byte string is part of the head. Larger ones are sent as buffers."""

_AT_ONCE: Final = 1 << 18
"""Size in bytes of the receive buffer, which takes many small messages in one system call. No head is larger."""

_MOST_BUFFERS: Final = 512  # per sendmsg; the limit of Linux (IOV_MAX) is 1024
_START: Final = struct.Struct("<II")

Message = tuple[tuple[Any, ...], list[memoryview]]
"""A head and its buffers, which the receiver may keep."""


def encode_message(head: tuple[Any, ...], buffers: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return the pieces of a message."""
    pickled = pickle.dumps(head, protocol=5)
    start = _START.pack(len(pickled), len(buffers))
    if not buffers:
        return [start + pickled]
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    lengths = struct.pack(f"<{len(views)}Q", *map(len, views))
    return [start + lengths + pickled, *(view for view in views if len(view))]


class Outlet:
    """The sending half of one end of a socket pair. It keeps what a non-blocking socket cannot send yet.

    Several threads may use it, because any thread of a job may log.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._lock = threading.Lock()
        self._rest: deque[Buffer] = deque()

    def send(self, pieces: Sequence[Buffer]) -> bool:
        """Send pieces after the unsent ones. Return whether all are sent.

        Raises:
            OSError: if the other end is closed.
        """
        with self._lock:
            self._rest += pieces
            return self.flush()

    def flush(self) -> bool:
        """Send the unsent pieces. Return whether all are sent."""
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
        self._missing: deque[memoryview] = deque()  # the parts of the buffers that have not arrived

    def read(self) -> Iterator[Message]:
        """Receive and yield the complete messages. Receive more if a part of one is missing and has arrived.

        Raises:
            EOFError: if the other end is closed.
            OSError: if the connection is broken, or nothing has arrived on a non-blocking socket.
        """
        self._receive()
        while True:
            while (message := self._next()) is not None:
                yield message
            if not self._missing:
                return
            try:
                self._receive()
            except BlockingIOError:
                return

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
        """Return the next complete message, or None."""
        if not self._head and not self._begin():
            return None
        if self._missing:
            return None
        message = self._head, self._buffers
        self._head, self._buffers = (), []
        return message

    def _begin(self) -> bool:
        """Read a complete head and the arrived part of its buffers. False if the head is incomplete."""
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


LEAVE: Final = 0
"""The work token that ends a worker."""

MOST_TOKENS: Final = 512
"""The most tokens in the pipe. They fit PIPE_BUF, so POSIX writes all of them or none."""

_TOKEN: Final = struct.Struct("<Q")


class WorkTokenReader:
    """The worker's side: take one token at a time.

    While there is none, call `receive` when data arrives on `inlet`: a large job arrives before its token.
    """

    def __init__(self, descriptor: int, inlet: int, receive: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._inlet = inlet
        self._receive = receive
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._poll.register(inlet, select.POLLIN)

    def take(self) -> int:
        """Wait for the next token. Return `LEAVE` if the pool has ended."""
        while True:
            try:
                token = os.read(self._descriptor, _TOKEN.size)
            except BlockingIOError:
                if any(descriptor == self._inlet for descriptor, _ in self._poll.poll()):
                    self._receive()
                continue
            return _TOKEN.unpack(token)[0] if token else LEAVE


class WorkTokens:
    """The pool's side, which holds both ends of the pipe."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        os.set_blocking(writing, False)
        os.set_blocking(reading, False)  # for the worker too, which shares this end

    @property
    def descriptors(self) -> tuple[int, int]:
        """The file descriptors of both ends."""
        return self._reading, self._writing

    def put(self, numbers: Sequence[int]) -> None:
        """Write tokens, at most `MOST_TOKENS` at a time.

        Raises:
            OSError: if the pipe is full or closed.
        """
        os.write(self._writing, struct.pack(f"<{len(numbers)}Q", *numbers))

    def take_back(self, most: int = MOST_TOKENS) -> list[int]:
        """Read back the first tokens that the worker has not taken."""
        try:
            tokens = os.read(self._reading, most * _TOKEN.size)
        except BlockingIOError:
            return []
        return [number for (number,) in _TOKEN.iter_unpack(tokens) if number != LEAVE]

    def close(self) -> None:
        """Close both ends, which ends the worker after its present job."""
        os.close(self._reading)
        os.close(self._writing)
