"""Knows SCOOP from within, at its root and in its workers, and is the only importer of it.

    root: Wires.invite -> broker ~~> worker: join_crew ~~> hello
    root: Wires.send ~~> worker: run_jobs ~~> a report of each job, as soon as it has ended

SCOOP has nothing public for who must not wait inside it: its futures can't be used from another thread, it sends
jobs to workers that are gone, and again to others when they take long. So its broker only finds the workers here,
and passes on what can't go straight to them. A worker that has joined asks the broker for nothing any more, and
whatever of SCOOP's own a job uses there runs there.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from enum import Enum
from typing import Any, Final

import psutil

from .._cores import InnerThreads
from .._errors import BencherJobError
from .base import told
from .envelope import run_split
from .lifelines import WorkersLine

__all__ = ["News", "Wires", "join_crew", "run_jobs", "started_scoop"]

NEVER: Final = 10**9
"""Seconds between the status reports that SCOOP's threads send on sockets which are another thread's."""

_OURS: Final = b"bencher_job"
_TASK: Final = b"T"
_REPLY: Final = b"RP"


SentJob = tuple[int, bytes, bytes | None, int | None]
"""A job's number, its arguments, its function if it isn't there yet, and how many inner threads it wants."""


class News(Enum):
    """What a worker tells the root."""

    HELLO = b"hello"
    """It has joined: host and number of its process."""
    REPORT = b"report"
    """A job has ended: its number, and the parts of its report."""
    FAILURE = b"failure"
    """It can't run what it was sent: why."""


def started_scoop() -> Any:
    """Give the module when this is the root of a SCOOP program with workers; its launcher has imported it then.

    Raises:
        BencherJobError: with how to start such a program.
    """
    scoop, futures = sys.modules.get("scoop"), sys.modules.get("scoop.futures")
    if scoop is None and not _is_installed():
        raise BencherJobError(
            "executor=SCOOP needs the package scoop, which is not installed. "
            "Run pip install 'bencher_job[scoop]'."
        )
    start = "Start the program with python -m scoop -n 3 script.py"
    if scoop is None or not (scoop.IS_RUNNING and getattr(futures, "_controller", None)):
        raise BencherJobError(f"executor=SCOOP works only in a program that SCOOP has started. {start}.")
    if not scoop.IS_ORIGIN:
        raise BencherJobError(
            "executor=SCOOP submits jobs from the root program only, and this is one of its workers."
        )
    if scoop.SIZE < 2:
        raise BencherJobError(
            f"executor=SCOOP has no worker with -n {scoop.SIZE}: the root runs no jobs. {start}."
        )
    if scoop.CONFIGURATION.get("backend", "ZMQ") != "ZMQ":
        raise BencherJobError("executor=SCOOP needs SCOOP's own backend. Start it without --backend TCP.")
    return scoop


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("scoop") is not None
    except ValueError:  # somebody has put something else in its place
        return False


class Wires:
    """The root's sockets, which from now on are one thread's, but for `wake`."""

    def __init__(self, scoop: Any) -> None:
        import zmq
        from scoop import _control, _types

        self.name: bytes = scoop.worker
        self.most_workers: int = scoop.SIZE - 1
        self._zmq = zmq
        self._make_future = _types.Future
        self._futures: dict[Any, Any] = _control.futureDict
        self._root_future = _control.current
        self._queue = _control.execQueue
        self._links = links = self._queue.socket
        self._numbers = itertools.count()
        self._wake_end, self._waking_end = os.pipe()
        os.set_blocking(self._wake_end, False)
        os.set_blocking(self._waking_end, False)
        self._poller = zmq.Poller()
        for source in (links.socket, links.direct_socket, links.infoSocket, self._wake_end):
            self._poller.register(source, zmq.POLLIN)
        scoop.TIME_BETWEEN_STATUS_REPORTS = NEVER
        links.socket = _NotForReports(links.socket, links.status_update_thread)
        links._poll = links.recvFuture = links.sendFuture = _refuse  # noqa: SLF001 - nobody else may read or write

    def before_end(self, act: Callable[[bool], None]) -> None:
        """Have `act` called when the program has ended, with whether it failed, before SCOOP lets its workers go."""
        shut_down, pid = self._queue.shutdown, os.getpid()

        def end() -> None:
            if pid == os.getpid():
                self._queue.shutdown = shut_down
                act(not isinstance(self._root_future.exceptionValue, SystemExit | None))
            shut_down()

        self._queue.shutdown = end

    def watch(self, source: Any) -> None:
        """Let `wait` end as well when there is something to read from a descriptor."""
        self._poller.register(source, self._zmq.POLLIN)

    def wait(self, seconds: float | None) -> None:
        """Wait for something to come in, or to be woken."""
        self._poller.poll(None if seconds is None else int(seconds * 1000))
        try:
            while os.read(self._wake_end, 4096):
                pass
        except BlockingIOError:
            pass

    def wake(self) -> None:
        """End the wait of the thread that the sockets belong to."""
        try:
            os.write(self._waking_end, b"w")
        except BlockingIOError:  # it has been woken often enough
            pass

    def invite(self, port: int, token: bytes) -> None:
        """Let the broker send an invitation to a worker, of those that ask it for work."""
        self._send_to_anybody(pickle.dumps(self._future(self.name, join_crew, self.name, port, token), 5))

    def _send_to_anybody(self, future: bytes) -> None:
        number = self.name, f"bencher_job-{next(self._numbers)}"
        self._links.socket.send_multipart([_TASK, pickle.dumps(number), future])

    def send(self, worker: bytes, jobs: Sequence[SentJob]) -> None:
        """Send jobs to a worker that is alive."""
        future = pickle.dumps(self._future(worker, run_jobs, jobs), 5)
        try:
            self._links.direct_socket.send_multipart([worker, _TASK, future], flags=self._zmq.NOBLOCK)
        except self._zmq.ZMQError:  # it is connected to the broker only
            self._links.socket.send_multipart([_REPLY, future, worker])

    def _future(self, owner: bytes, function: Callable[..., None], *args: Any) -> Any:
        """Make what SCOOP sends; who runs a future that is its own sends nothing back."""
        future = self._make_future(None, function, *args)
        del self._futures[future.id]
        future.id = owner, f"bencher_job-{next(self._numbers)}"
        future.sendResultBack = False
        return future

    def received(self) -> Iterator[tuple[bytes, News, list[bytes]]]:
        """Give what has come in from workers, with their names.

        Raises:
            Exception: when SCOOP shuts down.
        """
        links = self._links
        links.pumpInfoSocket()
        while True:
            if links.direct_socket.poll(0):
                worker, *frames = links.direct_socket.recv_multipart()
            elif links.socket.poll(0):
                frames = links.socket.recv_multipart()
                if frames[0] == _TASK:  # which the root has asked for, when it still waited inside SCOOP
                    self._send_to_anybody(frames[1])
                    continue
                *frames, _, worker = frames
            else:
                return
            if frames[:2] == [_REPLY, _OURS]:  # the rest is SCOOP's
                yield worker, News(frames[2]), frames[3:]


def _refuse(*_args: Any) -> Any:
    raise BencherJobError(
        "scoop.futures can't be used in a program whose jobs run by executor=SCOOP. Submit these calls to "
        "Executors.factory('scoop') instead."
    )


class _NotForReports:
    """A socket that SCOOP's reporting thread can't use: another thread does, and it is not made for two."""

    def __init__(self, socket: Any, reporter: threading.Thread) -> None:
        self._socket = socket
        self._reporter = reporter

    def __getattr__(self, name: str) -> Any:
        if threading.current_thread() is self._reporter:
            raise AttributeError(name)  # at which the thread ends
        return getattr(self._socket, name)


class _Member:
    """What a worker knows as one of a crew."""

    def __init__(self, root: bytes, port: int, token: bytes) -> None:
        import scoop
        import zmq
        from scoop import _control

        self._root = root
        self._zmq = zmq
        waiting = _control.execQueue
        waiting.lowwatermark, waiting.highwatermark = -1, math.inf
        self._links = waiting.socket
        scoop.TIME_BETWEEN_STATUS_REPORTS = NEVER
        self._links.socket = _NotForReports(self._links.socket, self._links.status_update_thread)
        self._links.addPeer(root)
        InnerThreads.of(_workers_here()).take()
        self.line = WorkersLine(root.decode().rpartition(":")[0], port, token, scoop.worker)

    def tell(self, news: News, *parts: bytes) -> None:
        """Send something to the root, by way of the broker where there is no other."""
        frames = [_REPLY, _OURS, news.value, *parts]
        try:
            self._links.direct_socket.send_multipart([self._root, *frames], flags=self._zmq.NOBLOCK)
        except self._zmq.ZMQError:
            self._links.socket.send_multipart([*frames, self._root])


def _workers_here() -> int:
    """Count the workers that SCOOP has started on this machine; its root runs no jobs."""
    number = 0
    for beside in psutil.Process(os.getppid()).children():
        with suppress(psutil.Error):  # it has ended
            command = beside.cmdline()
            number += _WORKER in command and "--origin" not in command
    return max(1, number)


_WORKER: Final = "scoop.bootstrap.__main__"

_member: _Member | None = None


def join_crew(root: bytes, port: int, token: bytes) -> None:
    """Be one of the crew from now on: runs in a worker, as a task of SCOOP's."""
    global _member  # noqa: PLW0603 - a fact about the process
    if _member is None:
        _member = _Member(root, port, token)
    _member.tell(News.HELLO, os.uname().nodename.encode(), b"%d" % os.getpid())


def run_jobs(jobs: Sequence[SentJob]) -> None:
    """Run jobs one after the other: runs in a worker, as a task of SCOOP's."""
    member = _member
    if member is None:
        return
    try:
        for number, rest, function, inner_threads in jobs:
            if member.line.begin(number):
                inner = None if inner_threads is None else InnerThreads.of(1, inner_threads)
                with nullcontext() if inner is None else inner.taken_for_a_job():
                    report = run_split(rest, function)
                member.tell(News.REPORT, b"%d" % number, *map(bytes, report.parts()))
    except BaseException as error:  # noqa: BLE001 - or the root would wait for ever
        member.tell(News.FAILURE, told(error).encode(errors="backslashreplace"))
