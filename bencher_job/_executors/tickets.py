"""Knows who runs a job that was sent to a worker: whoever takes its ticket, the worker or the pool that wants it back.

    pool: put 1 2 3 -> pipe -> worker: take 1, run job 1, take 2, ...
                            -> pool: take back 2 3, which another worker gets

Both read the same pipe, and the kernel gives each ticket to one of them only. When a worker has died, the tickets that
are left tell which jobs it has not begun.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["LEAVE", "MOST_TICKETS", "TicketReader", "Tickets"]

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
