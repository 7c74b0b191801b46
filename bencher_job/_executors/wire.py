"""Messages between a pool and its workers.

length of the head 4 | number of buffers 4 | length 8 of each buffer | head, pickled | buffer | buffer | ...

    pool: put 1 2 3 -> pipe -> worker: take 1, run job 1, take 2, ...
                            -> pool: take back 2 3, which another worker gets

Both read the same pipe, and the kernel gives each ticket to one of them only. When a worker has died, the tickets that
are left tell which jobs it has not begun.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from .._stores.codec import Buffer, writable_memory

__all__ = [
    "LARGEST_INLINE",
    "LEAVE",
    "MOST_TICKETS",
    "Inlet",
    "Message",
    "Outlet",
    "TicketReader",
    "Tickets",
    "frame",
]


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


LEAVE: Final = 0
"""The ticket that lets a worker go."""

MOST_TICKETS: Final = 512
"""How many tickets are out at most; so many are written at once or not at all, as POSIX has it."""

_TICKET: Final = struct.Struct("<Q")


class TicketReader:
    """The worker's side: takes one ticket after the other.

    While there is none, `receive` is called when something has come in on `inlet`: a large job comes before its ticket.
    """

    def __init__(self, descriptor: int, inlet: int, receive: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._inlet = inlet
        self._receive = receive
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._poll.register(inlet, select.POLLIN)

    def take(self) -> int:
        """Wait for the next ticket; `LEAVE` as well when the pool is gone."""
        while True:
            try:
                ticket = os.read(self._descriptor, _TICKET.size)
            except BlockingIOError:
                if any(descriptor == self._inlet for descriptor, _ in self._poll.poll()):
                    self._receive()
                continue
            return _TICKET.unpack(ticket)[0] if ticket else LEAVE


class Tickets:
    """The pool's side, which keeps both ends open."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        os.set_blocking(writing, False)
        os.set_blocking(reading, False)  # for the worker as well, with whom this end is shared

    @property
    def descriptors(self) -> tuple[int, int]:
        """The descriptors of both ends."""
        return self._reading, self._writing

    def put(self, numbers: Sequence[int]) -> None:
        """Give out tickets, no more than `MOST_TICKETS` at a time.

        Raises:
            OSError: when nobody can take them any more.
        """
        os.write(self._writing, struct.pack(f"<{len(numbers)}Q", *numbers))

    def take_back(self, most: int = MOST_TICKETS) -> list[int]:
        """Take back those that were given out first and the worker has not taken."""
        try:
            tickets = os.read(self._reading, most * _TICKET.size)
        except BlockingIOError:
            return []
        return [number for (number,) in _TICKET.iter_unpack(tickets) if number != LEAVE]

    def close(self) -> None:
        """Close both ends, which lets the worker go when it has done what it took."""
        os.close(self._reading)
        os.close(self._writing)
