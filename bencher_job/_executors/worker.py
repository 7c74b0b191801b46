"""Worker processes of the pool: their main loop, and the messages between them and the pool.

length of the head 4 | number of buffers 4 | length 8 of each buffer | head, pickled | buffer | buffer | ...

    pool: put 1 2 3 -> pipe -> worker: take 1, run job 1, take 2, ...
                            -> pool: take back 2 3, which another worker gets

Both read the same pipe, and the kernel gives each work token to only one of them. When a worker dies, the tokens left
in the pipe show which jobs it has not begun. A worker ignores Ctrl-C, which its parent handles, and ends when its
parent dies.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from .._cores import InnerThreads
from .._stores.codec import Payload
from .._stores.parts import Buffer, writable_memory
from .engine import as_worker, become_worker, flush_streams, here
from .entry import execute
from .packing import Parcel, SentFunction
from .pickling import dump_error
from .surroundings import drop_handlers, forward_records, keep_environment

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
        if not self._missing:
            self._stop += received
        elif received < len(into):
            self._missing[0] = into[received:]
        else:
            self._missing.popleft()

    def _next(self) -> Message | None:
        """Return the next message. None if a part of its head or of a buffer is missing."""
        have, at = self._stop - self._start, self._start
        if not self._head and have >= _START.size:
            length, count = _START.unpack_from(self._view, at)
            at += _START.size + 8 * count
            if self._stop >= at + length:
                self._head = pickle.loads(self._view[at : at + length])
                self._start = at + length
                for size in struct.unpack_from(f"<{count}Q", self._view, at - 8 * count):
                    self._expect(size)
        if not self._head or self._missing:
            return None
        message = self._head, self._buffers
        self._head, self._buffers = (), []
        return message

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
    outlet = Outlet(end)
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
        for message in self._inlet.read():
            self._unpack(message)

    def _unpack(self, message: Message) -> None:
        (digest, function_buffers, jobs), buffers = message
        rest = deque(buffers)
        function: list[Buffer] = [rest.popleft() for _ in range(function_buffers)]
        stream, *more = function or [b""]
        sent = SentFunction(digest, Payload(stream, tuple(more)))
        for number, is_limited, stream, count in jobs:
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
