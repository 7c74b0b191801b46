"""Liveness connections between the root of a SCOOP program and its workers.

    root: listens <── token and name ── worker connects
    root ── signature, which proves that it is the root ──> worker
    root <── the number of each job, before it begins ── worker
    root ── recall: the number of the last job sent ──> a thread of the worker, which begins none of the waiting jobs
    root <── answer: the number of the job that began last ── worker

When a process dies, its kernel closes the connection and the other end notices, whatever the process was doing. TCP
keepalive closes the connection to a machine that cannot be reached for a minute.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from hashlib import blake2b
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

LEAVE_SECONDS: Final = 5.0
"""How long a worker may take to end by itself after its root has died."""

_CONNECT_SECONDS: Final = 3.0
_GREET_SECONDS: Final = 0.5
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 9, "TCP_USER_TIMEOUT": 60_000}
_TOKEN_SIZE: Final = 16
_LONGEST: Final = 256
"""Bytes of the longest message."""

_REQUESTS: Final = 16
"""How many recalls a worker remembers. Jobs sent before older ones have been handled by then."""

_NUMBER: Final = struct.Struct("<Q")
_BEGUN_MESSAGE: Final = struct.Struct("<QB")
"""The number of a job, and whether it answers a recall."""


_ends: Final[weakref.WeakSet[socket.socket | Connection]] = weakref.WeakSet()
"""What a forked child closes, or the connection would outlive its process."""


def _close_in_child() -> None:
    for end in list(_ends):
        end.close()


os.register_at_fork(after_in_child=_close_in_child)


class _Listener:
    """Accept connections of workers that know a token."""

    def __init__(self) -> None:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self._listener = socket.create_server(
            ("", 0), family=family, backlog=512, dualstack_ipv6=socket.has_dualstack_ipv6()
        )
        self._listener.setblocking(False)
        _ends.add(self._listener)
        weakref.finalize(self, self._listener.close)
        self.port: int = self._listener.getsockname()[1]
        self.token = secrets.token_bytes(_TOKEN_SIZE)

    def fileno(self) -> int:
        """Return the file descriptor that becomes readable when a worker connects."""
        return self._listener.fileno()

    def _accept(self) -> tuple[bytes, Connection] | None:
        """Return what the next worker says first, without the token, or None if no worker is connecting."""
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:  # no connection, or one that was closed again
                return None
            connection = _connection(end, _GREET_SECONDS)
            with suppress(OSError, EOFError):
                said = connection.recv_bytes(_LONGEST)
                if secrets.compare_digest(said[:_TOKEN_SIZE], self.token):
                    return said[_TOKEN_SIZE:], connection
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


class LivenessListener(_Listener):
    """Accept the liveness connections of workers, in the root."""

    def accept(self) -> tuple[bytes, LivenessConnection] | None:
        """Return the name and the connection of the next worker, or None if no worker is connecting."""
        if (arrived := self._accept()) is None:
            return None
        name, connection = arrived
        with suppress(OSError):  # it has died, which `poll` finds
            connection.send_bytes(_signature(self.token, name))
        return name, LivenessConnection(connection)


class LivenessConnection:
    """A connection to one worker, in the root."""

    def __init__(self, end: Connection) -> None:
        self._end = end
        self.begun = 0
        """Number of the job that began last."""
        self.is_closed = False

    def poll(self) -> int | None:
        """Read which jobs have begun, and whether the worker has closed the connection.

        Returns:
            The answer to a recall: the number of the job that began last, or 0. The worker runs no job that was sent
            after it. None if there is no answer.
        """
        answer = None
        try:
            while not self.is_closed and self._end.poll():
                number, is_answer = _BEGUN_MESSAGE.unpack(self._end.recv_bytes(_LONGEST))
                if is_answer:
                    answer = number
                else:
                    self.begun = number
        except (OSError, EOFError):
            self.is_closed = True
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection, which ends the worker."""
        self._end.close()

    def recall(self, last: int) -> None:
        """Recall the jobs up to the number `last` that have not begun."""
        with suppress(OSError):  # closed
            self._end.send_bytes(_NUMBER.pack(last))


class WorkerConnection:
    """A worker's connection to its root. If the root cannot be reached, it sends nothing."""

    def __init__(self, host: str, port: int, token: bytes, name: bytes) -> None:
        self._lock = threading.Lock()
        self._begun = 0
        self._given_back: deque[tuple[int, int]] = deque(maxlen=_REQUESTS)
        self._end = end = _connect(host, port, token, name)
        if end is not None:
            threading.Thread(
                target=self._listen, args=(end,), name="bencher_job-liveness", daemon=True
            ).start()

    def begin(self, number: int) -> bool:
        """Report that a job begins. False if the root has recalled the job, which must then not run."""
        with self._lock:
            if any(low < number <= high for low, high in self._given_back):
                return False
            self._begun = number
            self._send(number, is_answer=False)
            return True

    def _send(self, number: int, *, is_answer: bool) -> None:
        if self._end is not None:
            with suppress(OSError):  # the root has died
                self._end.send_bytes(_BEGUN_MESSAGE.pack(number, is_answer))

    def _listen(self, end: Connection) -> None:
        """Answer recalls until the root dies, then end the process."""
        with suppress(OSError, EOFError):
            while True:
                (last,) = _NUMBER.unpack(end.recv_bytes(_LONGEST))
                with self._lock:
                    self._given_back.append((self._begun, last))
                    self._send(self._begun, is_answer=True)
        time.sleep(LEAVE_SECONDS)
        os._exit(1)


def _connect(host: str, port: int, token: bytes, name: bytes) -> Connection | None:
    """Connect to the root. None if it cannot be reached, or another service answers."""
    with suppress(OSError, EOFError):
        connection = _connection(socket.create_connection((host, port), _CONNECT_SECONDS), _CONNECT_SECONDS)
        connection.send_bytes(token + name)
        if secrets.compare_digest(connection.recv_bytes(_LONGEST), _signature(token, name)):
            _receive_within(connection, 0)
            return connection
    return None


def _signature(token: bytes, name: bytes) -> bytes:
    return blake2b(name, key=token, digest_size=_TOKEN_SIZE).digest()


def _connection(end: socket.socket, seconds: float) -> Connection:
    """Make a connection of a socket that forked children close, and that waits for so long when it reads."""
    end.setblocking(True)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        if hasattr(socket, option):  # the options differ between systems
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    connection = Connection(end.detach())
    _ends.add(connection)
    _receive_within(connection, seconds)
    return connection


def _receive_within(connection: Connection, seconds: float) -> None:
    """Limit the time of a read; 0 for no limit."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


class StartListener(_Listener):
    """Learn which jobs have begun from the workers, where the futures of an executor do not say."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._begun: set[int] = set()
        self._last = 0

    def new_report(self) -> StartReport:
        """Make what the worker of the next job calls when it begins."""
        with self._lock:
            self._last += 1
            return StartReport(os.uname().nodename, self.port, self.token, self._last)

    def has_begun(self, number: int) -> bool:
        """Whether the worker of a job has reported that it begins."""
        with self._lock:
            while (arrived := self._accept()) is not None:
                said, connection = arrived
                connection.close()
                self._begun.add(*_NUMBER.unpack(said))
            return number in self._begun


class StartReport(NamedTuple):
    """Report to the submitter's host that a job begins. If it cannot be reached, nothing is reported."""

    host: str
    port: int
    token: bytes
    number: int

    def __call__(self) -> None:
        """Send the report."""
        host = "127.0.0.1" if self.host == os.uname().nodename else self.host
        with suppress(OSError):
            end = socket.create_connection((host, self.port), _CONNECT_SECONDS)
            with _connection(end, _CONNECT_SECONDS) as connection:
                connection.send_bytes(self.token + _NUMBER.pack(self.number))
