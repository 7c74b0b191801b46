"""Knows what runs in a slot's process: take a packed call, say that it has begun, run it, answer.

A worker ignores Ctrl-C, which is its parent's to answer, and leaves with its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection, wait
from typing import Final

from .base import become_worker, flush_streams
from .envelope import execute
from .shipping import Parcel
from .wire import Channel

__all__ = ["serve"]

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def serve(end: socket.socket, marks: Connection) -> None:
    """Answer calls until the other end is closed."""
    os.setsid()  # a process group of its own: all that a job starts can be ended with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave_with_parent()
    become_worker()
    channel = Channel(end)
    while True:
        try:
            number, *parts = channel.receive()
        except (EOFError, OSError):
            return
        os.write(marks.fileno(), b"b")
        report = execute(Parcel.of_parts(parts))
        del parts
        flush_streams()
        try:
            channel.send([number, *report.parts()])
        except OSError:  # the pool is gone
            return
        del report


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":  # the kernel reaches a worker whose job never lets another thread run
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent.pid:  # it died before
        os._exit(1)
    threading.Thread(
        target=_wait_for_end_of, args=(parent.sentinel,), name="bencher_job-parent", daemon=True
    ).start()


def _wait_for_end_of(sentinel: int) -> None:
    wait([sentinel])
    os.killpg(0, signal.SIGKILL)
