"""A TCP proxy between a client and a server that does what networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable


class Proxy:
    """Passes bytes on, unless it is told something else.

    Attributes:
        round_trips: how many times a client has sent something after the server's last answer, over all connections.
        delay: seconds for which each piece of bytes is kept.
        is_cut: whether bytes vanish, while connections stay open.
        held: whether bytes or connections wait for the end of a cut.
        is_refusing: whether connections are reset.
        lose_at: the number of the answer, from now on, that vanishes together with its connection; 0 for none.
        on_loss: is called then.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.round_trips = 0
        self.delay = 0.0
        self.is_cut = False
        self.held = False
        self.is_refusing = False
        self.lose_at = 0
        self.on_loss: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_closed = False
        threading.Thread(target=self._serve, name="proxy", daemon=True).start()

    def refuse(self) -> None:
        self.is_refusing = True
        self.reset()

    def reset(self) -> None:
        for each in list(self._open):
            self._reset(each)

    def close(self) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._open.add(client)
        self._hold()
        try:
            if self.is_refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            self._abort(client)
            return
        self._open.add(server)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_answered = [True]
        pumping = threading.Barrier(2, action=lambda: [self._abort(each) for each in (client, server)])
        threading.Thread(
            target=self._pump, args=[server, client, is_answered, True, pumping], daemon=True
        ).start()
        self._pump(client, server, is_answered, False, pumping)

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        is_answered: list[bool],
        is_answer: bool,
        end: threading.Barrier,
    ) -> None:
        try:
            while data := source.recv(1 << 16):
                self._hold()
                if self.delay:
                    time.sleep(self.delay)
                with self._lock:
                    begins = is_answer is not is_answered[0]
                    is_answered[0] = is_answer
                    if begins and not is_answer:
                        self.round_trips += 1
                    if begins and is_answer and self.lose_at:
                        self.lose_at -= 1
                        if not self.lose_at:
                            self.on_loss()
                            raise ConnectionResetError
                sink.sendall(data)
        except OSError:
            for each in (source, sink):
                self._reset(each)
        else:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        end.wait()

    def _hold(self) -> None:
        while self.is_cut and not self._is_closed:
            self.held = True
            time.sleep(0.01)
        self.held = False

    def _abort(self, each: socket.socket) -> None:
        self._open.discard(each)
        self._reset(each)
        each.close()

    @staticmethod
    def _reset(each: socket.socket) -> None:
        with contextlib.suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            each.shutdown(socket.SHUT_RDWR)
