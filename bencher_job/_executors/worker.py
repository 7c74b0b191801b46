"""The main loop of a worker process.

A worker ignores Ctrl-C, which its parent handles, and ends when its parent dies.
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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Final

from .._cores import InnerThreads
from .._stores.codec import Payload
from .._stores.parts import Buffer
from .engine import as_worker, become_worker, flush_streams, here
from .entry import execute
from .exceptions import dump_error
from .logs import drop_handlers, forward_records
from .packing import Parcel, SentFunction
from .surroundings import keep_environment
from .wire import LEAVE, Inlet, Message, Outlet, WorkTokenReader, encode_message

__all__ = ["BEGUN", "FAILED", "LOGGED", "READY", "serve"]

READY: Final = "ready"
"""Head of the message that the worker is ready."""

FAILED: Final = "failed"
"""Head of the message that the initializer failed, with its exception."""

BEGUN: Final = "begun"
"""Head of the message that a job with a timeout begins, with its number."""

LOGGED: Final = "logged"
"""Head of the message with a log record."""

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def serve(
    inner: InnerThreads,
    variables: Mapping[str, str],
    end: socket.socket,
    tokens: Connection,
    initialize: bytes | None,
    foreign: Sequence[int] = (),
) -> None:
    """Run jobs until the token `LEAVE` arrives.

    `variables` are for the environment; `foreign` are descriptors that a fork has left open.
    """
    for descriptor in foreign:
        os.close(descriptor)
    os.setsid()  # a process group, so that the pool can kill all that a job starts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which it was started with
    _leave_with_parent()
    become_worker()
    os.environ.update(variables)
    inner.take()
    keep_environment({*variables, *inner.variables})
    outlet = _SharedOutlet(end)
    if foreign:
        drop_handlers()
    try:
        with as_worker(_parent()):  # also while loading a job: a module may call its cached functions
            if _is_initialized(initialize, outlet):
                forward_records(partial(_tell_record, outlet))
                outlet.send(encode_message((READY,)))
                inbox = _Inbox(end)
                _run_jobs(outlet, inbox, WorkTokenReader(tokens.fileno(), end.fileno(), inbox.receive))
    except (EOFError, OSError):  # the pool has ended
        return


def _parent() -> tuple[str, int] | None:
    parent = multiprocessing.parent_process()
    return None if parent is None or parent.pid is None else (here().host, parent.pid)


def _is_initialized(initialize: bytes | None, outlet: Outlet) -> bool:
    """Call the initializer, if there is one, and report its failure."""
    if initialize is None:
        return True
    try:
        initializer, initargs = pickle.loads(initialize)
        initializer(*initargs)
    except BaseException as error:  # noqa: BLE001 - the waiting jobs get it
        outlet.send(encode_message((FAILED,), [dump_error(error)]))
        return False
    return True


def _run_jobs(outlet: Outlet, inbox: _Inbox, tokens: WorkTokenReader) -> None:
    while (number := tokens.take()) != LEAVE:
        parcel, is_limited = inbox.take(number)
        run_result = execute(parcel, partial(_tell_begin, outlet, number)) if is_limited else execute(parcel)
        del parcel
        flush_streams()
        head, buffers = run_result.message()
        outlet.send(encode_message((number, *head), buffers))
        del run_result, head, buffers  # keep no reference while waiting


class _SharedOutlet(Outlet):
    """An outlet for several threads, because any thread of a job may log."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self._lock = threading.Lock()

    def send(self, pieces: Sequence[Buffer]) -> bool:
        """Send pieces.

        Raises:
            OSError: if the other end is closed.
        """
        with self._lock:
            return super().send(pieces)


def _tell_record(outlet: Outlet, record: bytes) -> None:
    with suppress(OSError):  # the pool has ended
        outlet.send(encode_message((LOGGED,), [record]))


def _tell_begin(outlet: Outlet, number: int) -> None:
    outlet.send(encode_message((BEGUN, number)))


class _Inbox:
    """Received jobs in the order of their numbers. Those whose token was taken back are skipped."""

    def __init__(self, end: socket.socket) -> None:
        self._inlet = Inlet(end)
        self._jobs: deque[tuple[int, Parcel, bool]] = deque()

    def take(self, wanted: int) -> tuple[Parcel, bool]:
        """Wait for a job by its number. Return it, and whether it has a timeout."""
        while True:
            while self._jobs:
                number, parcel, is_limited = self._jobs.popleft()
                if number == wanted:
                    return parcel, is_limited
            self.receive()

    def receive(self) -> None:
        """Wait for data and receive it."""
        for message in self._inlet.receive():
            self._unpack(message)

    def _unpack(self, message: Message) -> None:
        (digest, function_buffers, is_limited, jobs), buffers = message
        rest = deque(buffers)
        function: list[Buffer] = [rest.popleft() for _ in range(function_buffers)]
        stream, *more = function or [b""]
        sent = SentFunction(digest, Payload(stream, tuple(more)))
        for number, stream, count in jobs:
            body = rest.popleft() if stream is None else stream
            parcel = Parcel(sent, Payload(body, tuple(rest.popleft() for _ in range(count))))
            self._jobs.append((number, parcel, is_limited))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":  # works even if the job never releases the GIL
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(
        target=_wait_for_end_of, args=(parent.sentinel,), name="bencher_job-parent", daemon=True
    ).start()


def _wait_for_end_of(sentinel: int) -> None:
    wait([sentinel])
    os.killpg(0, signal.SIGKILL)
