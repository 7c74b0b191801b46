"""Liveness connections between the root of a SCOOP program and its workers.

    root: listens <── connects, says its name ── worker
    root: signs, so that the worker knows whom it has reached
    root: reads which job has begun <── the number of each job, before it begins
    root: asks for jobs back ──> a thread of the worker's: those that have not begun won't ──> which one has begun

Nothing else passes. When either end dies its kernel closes the line, and the other end sees it: on the same
machine, on another one, and whatever the process was doing. Who is unreachable for minutes counts as dead.
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
from typing import Final

__all__ = ["Line", "Lines", "WorkersLine"]


LEAVE_SECONDS: Final = 5.0
"""How long a worker may take to end by itself when its root is gone."""

_CONNECT_SECONDS: Final = 3.0
_GREET_SECONDS: Final = 0.5
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 4}
_TOKEN_SIZE: Final = 16
_REQUESTS: Final = 16
"""How many requests a worker remembers; what was sent before them it has passed by then."""

_NUMBER: Final = struct.Struct("<Q")
_WORD: Final = struct.Struct("<QB")
"""The number of a job, and whether it is the answer to who asks for jobs back."""


_ends: Final[weakref.WeakSet[socket.socket]] = weakref.WeakSet()
"""What a forked child must close, or the line would outlive the process that it is of."""


def _close_in_child() -> None:
    for end in list(_ends):
        end.close()


os.register_at_fork(after_in_child=_close_in_child)


class Lines:
    """The root's end of all lines."""

    def __init__(self) -> None:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self._listener = socket.create_server(
            ("", 0), family=family, dualstack_ipv6=socket.has_dualstack_ipv6()
        )
        self._listener.setblocking(False)
        _ends.add(self._listener)
        self.port: int = self._listener.getsockname()[1]
        self.token = secrets.token_bytes(_TOKEN_SIZE)

    def fileno(self) -> int:
        """Give the number of the descriptor that can be read when somebody connects."""
        return self._listener.fileno()

    def accept(self) -> tuple[bytes, Line] | None:
        """Give the name of a worker that has connected, and its line; None when there is none."""
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:  # nobody, or somebody who has gone again
                return None
            name = _greeted(end, self.token)
            if name is not None:
                return name, Line(end)

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


def _greeted(end: socket.socket, token: bytes) -> bytes | None:
    """Hear who it is and sign, or hang up."""
    end.settimeout(_GREET_SECONDS)
    try:
        said = _read(end, _TOKEN_SIZE + 1)
        if secrets.compare_digest(said[:_TOKEN_SIZE], token):
            name = _read(end, said[_TOKEN_SIZE])
            end.sendall(_signature(token, name))
            _keep(end)
            end.setblocking(False)
            return name
    except OSError:
        pass
    end.close()
    return None


class Line:
    """The root's end of one line."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unread = b""
        self.begun = 0
        """The number of the job that began last."""
        self.is_cut = False

    def look(self) -> int | None:
        """Read which jobs have begun, and notice that the worker is gone.

        When jobs were asked for: the number of the one that had begun last, or 0. What was sent after it is back.
        """
        answer = None
        while not self.is_cut:
            try:
                read = self._end.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                read = b""
            if not read:
                self.is_cut = True
                self.close()
                break
            self._unread += read
            whole = len(self._unread) // _WORD.size * _WORD.size
            for number, is_answer in _WORD.iter_unpack(self._unread[:whole]):
                if is_answer:
                    answer = number
                else:
                    self.begun = number
            self._unread = self._unread[whole:]
        return answer

    def close(self) -> None:
        """Cut the line, at which the worker leaves."""
        self._end.close()

    def ask_back(self, last: int) -> None:
        """Ask for all jobs that were sent so far, the last one's number being given, but for what has begun."""
        with suppress(OSError):  # it is cut, or nobody has read there for long
            self._end.send(_NUMBER.pack(last))


class WorkersLine:
    """A worker's end of its line; where the root can't be reached there is none, and nothing is told."""

    def __init__(self, host: str, port: int, token: bytes, name: bytes) -> None:
        self._lock = threading.Lock()
        self._begun = 0
        self._given_back: deque[tuple[int, int]] = deque(maxlen=_REQUESTS)
        self._end = end = _connected(host, port, token, name)
        if end is not None:
            threading.Thread(target=self._listen, args=(end,), name="bencher_job-line", daemon=True).start()

    def begin(self, number: int) -> bool:
        """Tell that a job begins, which the kernel keeps whatever the job does; False when it was given back."""
        with self._lock:
            if any(low < number <= high for low, high in self._given_back):
                return False
            self._begun = number
            self._say(number, is_answer=False)
            return True

    def _say(self, number: int, *, is_answer: bool) -> None:
        if self._end is not None:
            with suppress(OSError):  # the root is gone
                self._end.sendall(_WORD.pack(number, is_answer))

    def _listen(self, end: socket.socket) -> None:
        """Give jobs back that are asked for, until the root is gone; then leave."""
        with suppress(OSError):
            while True:
                (last,) = _NUMBER.unpack(_read(end, _NUMBER.size))
                with self._lock:
                    self._given_back.append((self._begun, last))
                    self._say(self._begun, is_answer=True)
        time.sleep(LEAVE_SECONDS)
        os._exit(1)


def _connected(host: str, port: int, token: bytes, name: bytes) -> socket.socket | None:
    """Connect to the root; None where it can't be reached, or another service answers."""
    try:
        end = socket.create_connection((host, port), _CONNECT_SECONDS)
    except OSError:
        return None
    try:
        end.sendall(token + bytes([len(name)]) + name)
        signature = _signature(token, name)
        if secrets.compare_digest(_read(end, len(signature)), signature):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep(end)
            return end
    except OSError:
        pass
    end.close()
    return None


def _signature(token: bytes, name: bytes) -> bytes:
    return blake2b(name, key=token, digest_size=_TOKEN_SIZE).digest()


def _read(end: socket.socket, length: int) -> bytes:
    read = b""
    while len(read) < length:
        part = end.recv(length - len(read))
        if not part:
            raise ConnectionError("the other end hung up")
        read += part
    return read


def _keep(end: socket.socket) -> None:
    """Let an end be closed in forked children, and the kernel ask now and then whether the other end is there."""
    _ends.add(end)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        if hasattr(socket, option):  # not all systems count in the same way
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
