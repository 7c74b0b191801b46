"""Knows how Ctrl-C ends a command that waits inside of SQLite, where Python can't tell it of a signal."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from .command import Exit

__all__ = ["prompt_interrupts"]

GRACE: Final = 1.0
"""Seconds for which a command may go on after Ctrl-C, to tidy up."""


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """Let Ctrl-C end the process soon, whatever it is at; a database stays whole, as after any kill.

    The system writes the number of a signal to a socket at once. A thread reads it, and ends the process where
    `KeyboardInterrupt` has not.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
        yield
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    is_over = threading.Event()
    threading.Thread(target=_watch, args=(reading, is_over), daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(before)
        writing.close()  # which ends the thread


def _watch(reading: socket.socket, is_over: threading.Event) -> None:
    with reading:
        while numbers := reading.recv(16):
            if signal.SIGINT in numbers and not is_over.wait(GRACE):
                os._exit(Exit.INTERRUPTED)
