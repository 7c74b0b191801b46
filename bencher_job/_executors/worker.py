"""The loop of a worker process of the pool.

A worker ignores Ctrl-C, which is its parent's to answer, and leaves with its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Final

from .._cores import InnerThreads
from .._stores.codec import Payload
from .base import as_worker, become_worker, flush_streams, here
from .entry import execute
from .exceptions import dump_error
from .packing import Parcel, SentFunction
from .wire import LEAVE, Inlet, Message, Outlet, TicketReader, frame

__all__ = ["BEGUN", "FAILED", "READY", "serve"]


READY: Final = "ready"
"""Head of the message that the worker can take jobs, with its place."""

FAILED: Final = "failed"
"""Head of the message that the initializer has raised, with its exception."""

BEGUN: Final = "begun"
"""Head of the message that the function of a job whose time is limited is about to be called, with its number."""

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def serve(
    inner: InnerThreads,
    end: socket.socket,
    tickets: Connection,
    initialize: bytes | None,
    foreign: Sequence[int] = (),
) -> None:
    """Run jobs until the ticket comes that lets it go; `foreign` are descriptors that a fork has left open."""
    for descriptor in foreign:
        os.close(descriptor)
    os.setsid()  # a process group of its own: all that a job starts can be ended with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave_with_parent()
    become_worker()
    inner.take()
    outlet = Outlet(end)
    try:
        with as_worker(
            _parent()
        ):  # while it loads a job as well, since a module may call its cached functions
            if _is_initialized(initialize, outlet):
                outlet.send(frame((READY, tuple(here()))))
                inbox = _Inbox(end)
                _run_jobs(outlet, inbox, TicketReader(tickets.fileno(), end.fileno(), inbox.receive))
    except (EOFError, OSError):  # the pool is gone
        return


def _parent() -> tuple[str, int] | None:
    parent = multiprocessing.parent_process()
    return None if parent is None or parent.pid is None else (here().host, parent.pid)


def _is_initialized(initialize: bytes | None, outlet: Outlet) -> bool:
    """Call what the pool wants called in each new worker."""
    if initialize is None:
        return True
    try:
        initializer, initargs = pickle.loads(initialize)
        initializer(*initargs)
    except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait for this worker are told
        outlet.send(frame((FAILED,), [dump_error(error)]))
        return False
    return True


def _run_jobs(outlet: Outlet, inbox: _Inbox, tickets: TicketReader) -> None:
    while (number := tickets.take()) != LEAVE:
        parcel, is_limited = inbox.take(number)
        report = execute(parcel, partial(_tell_begin, outlet, number)) if is_limited else execute(parcel)
        del parcel
        flush_streams()
        outlet.send(report.message(number))
        del report  # while this process waits, it keeps nothing of a job


def _tell_begin(outlet: Outlet, number: int) -> None:
    outlet.send(frame((BEGUN, number)))


class _Inbox:
    """The jobs that have come in, in the order of their numbers; those whose ticket was taken back are left out."""

    def __init__(self, end: socket.socket) -> None:
        self._inlet = Inlet(end)
        self._jobs: deque[tuple[int, Parcel, bool]] = deque()

    def take(self, wanted: int) -> tuple[Parcel, bool]:
        """Wait for the job of a number, and for whether its time is limited."""
        while True:
            while self._jobs:
                number, parcel, is_limited = self._jobs.popleft()
                if number == wanted:
                    return parcel, is_limited
            self.receive()

    def receive(self) -> None:
        """Receive some of what comes in, and wait for it."""
        for message in self._inlet.receive():
            self._unpack(message)

    def _unpack(self, message: Message) -> None:
        (digest, file, function, is_limited, jobs), buffers = message
        rest = deque(buffers)
        if function is None:
            function = rest.popleft()
        sent = SentFunction(digest, Payload(function), file)
        for number, stream, count in jobs:
            body = rest.popleft() if stream is None else stream
            parcel = Parcel(sent, Payload(body, tuple(rest.popleft() for _ in range(count))))
            self._jobs.append((number, parcel, is_limited))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":  # the kernel reaches a worker whose job never lets another thread run
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(
        target=_wait_for_end_of, args=(parent.sentinel,), name="bencher_job-parent", daemon=True
    ).start()


def _wait_for_end_of(sentinel: int) -> None:
    wait([sentinel])
    os.killpg(0, signal.SIGKILL)
