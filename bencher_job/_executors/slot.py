"""Knows one slot of a pool: a worker process on a private channel, replaced when it dies.

    run(parts): send a number and the parts -> the worker marks that it has begun -> receive the same number

A worker that dies before its mark never saw the job, which is sent again to the next one. One that dies after
it died of the job, or with it: that job alone is lost.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psutil

from .._errors import WorkerLost
from .envelope import describe
from .settings import PoolSettings
from .spawning import WorkerContext
from .wire import Channel
from .worker import serve

if TYPE_CHECKING:
    from .._stores.codec import Buffer

__all__ = ["Slot"]

ATTEMPTS: Final = 8
"""How many workers in a row may die before they begin a job."""

_WATCH_SECONDS: Final = 1
_LEAVE_SECONDS: Final = 2.0
_context: Final = WorkerContext()


class _WorkerGoneError(Exception):
    """The worker process ended while a job was with it."""


class _OutOfStepError(Exception):
    """The worker answered another call than the one that it was sent."""


class _Worker:
    """A worker process and this end of its channel."""

    def __init__(self) -> None:
        end, its_end = socket.socketpair()
        self._marks, its_marks = _context.Pipe(duplex=False)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _WATCH_SECONDS, 0))
        for side in (end, its_end):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        os.set_blocking(self._marks.fileno(), False)
        self.channel = Channel(end, self._check)
        self.process = _context.Process(target=serve, args=(its_end, its_marks), name="bencher_job-worker")
        self._sent = self._begun = 0
        try:
            self.process.start()
        except BaseException:
            self.channel.close()
            self._marks.close()
            raise
        finally:
            its_end.close()
            its_marks.close()

    def _check(self) -> None:
        if not self.process.is_alive():  # a process that the job left behind may hold the channel open
            raise _WorkerGoneError

    def run(self, parts: Sequence[Buffer]) -> list[bytearray]:
        self._sent += 1
        number = self._sent.to_bytes(8, "little")
        self.channel.send([number, *parts])
        answered, *answer = self.channel.receive()
        if answered != number:
            raise _OutOfStepError
        if self._sent % 1024 == 0:
            self.has_begun()  # or the marks would fill their pipe
        return answer

    @property
    def jobs(self) -> int:
        """How many jobs it was sent."""
        return self._sent

    def has_begun(self) -> bool:
        """Whether the job that was sent last has begun."""
        try:
            while marks := os.read(self._marks.fileno(), 4096):
                self._begun += len(marks)
        except BlockingIOError:
            pass
        return self._begun >= self._sent

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        pid = self.process.pid
        if pid is None:
            return
        try:
            below = psutil.Process(pid).children(recursive=True)
        except psutil.Error:
            below = []
        for end in (
            lambda: os.killpg(pid, signal.SIGKILL),
            self.process.kill,
            *(child.kill for child in below),
        ):
            with suppress(psutil.Error, OSError):  # it has ended already, or has no group yet
                end()

    def end(self, patience: float = 0.0) -> int | None:
        """Let the process leave, for some seconds at most, and give its exit code."""
        self.channel.close()
        if patience:
            self.process.join(patience)
        self.kill()  # before it is reaped: its number can't be another's yet
        self.process.join(_LEAVE_SECONDS)
        self._marks.close()
        return self.process.exitcode


class Slot:
    """Runs one job after the other in a worker process; other threads may call `kill` and `close_down`."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._future: Future[Any] | None = None
        self._verdict: BaseException | None = None
        self._is_closed_down = False
        self._pid = os.getpid()

    def run(self, future: Future[Any], parts: Sequence[Buffer], label: object) -> list[bytearray]:
        """Run what is packed in parts and give the parts of its report.

        Raises:
            WorkerLost: when the worker died of it, or no worker could be started.
            BaseException: what `kill` was told to end it with.
        """
        with self._lock:
            self._future = future
        try:
            for _ in range(ATTEMPTS):
                worker = self._ready_worker()
                try:
                    return worker.run(parts)
                except (EOFError, OSError, _WorkerGoneError):
                    begun, code = worker.has_begun(), self._replace(worker)
                    if begun:
                        raise _lost(
                            f"The worker process died while it ran {describe(label)}", label, code
                        ) from None
                except _OutOfStepError:
                    fact = f"The worker process answered another call than {describe(label)}"
                    raise _lost(fact, label, self._replace(worker)) from None
                except BaseException:
                    self._replace(worker)  # an answer that was not read to its end spoils the channel
                    raise
            raise _lost(
                f"{ATTEMPTS} worker processes in a row died before they began {describe(label)}", label, code
            )
        finally:
            with self._lock:
                self._future = None
                if not self._is_closed_down:
                    self._verdict = None

    def _ready_worker(self) -> _Worker:
        most = self._settings.max_tasks_per_worker
        if most is not None and self._worker is not None and self._worker.jobs >= most:
            self.leave()
        worker = self._worker or _Worker()  # one that has died meanwhile won't begin the job
        with self._lock:
            self._worker = worker
            if self._verdict is not None:
                raise self._verdict
        return worker

    def _replace(self, worker: _Worker) -> int | None:
        with self._lock:
            self._worker = None
        code = worker.end()
        with self._lock:
            if self._verdict is not None:
                raise self._verdict
        return code

    def kill(self, future: Future[Any], verdict: BaseException) -> bool:
        """End a job that runs here, with all processes that it started; False when it doesn't run here."""
        with self._lock:
            if self._future is not future:
                return False
            self._verdict = verdict
            if self._worker is not None:
                self._worker.kill()
            return True

    def replace_used(self) -> bool:
        """Let a worker go that has run other jobs before the last, so that a new one runs the next; whether it had."""
        is_used = self._worker is not None and self._worker.jobs > 1
        if is_used:
            self.leave()
        return is_used

    def leave(self) -> None:
        """Let the idle worker go."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.end(patience=_LEAVE_SECONDS)

    def close_down(self) -> None:
        """End whatever runs here, and start nothing more."""
        if self._pid != os.getpid():  # a forked child doesn't own its parent's workers
            return
        with self._lock:
            self._is_closed_down = True
            self._verdict = CancelledError()
            if self._worker is not None:
                self._worker.kill()


def _lost(fact: str, label: object, code: int | None) -> WorkerLost:
    return WorkerLost(f"{fact}: {_cause_of_death(code)}.", job=describe(label), exit_code=code)


def _cause_of_death(code: int | None) -> str:
    """Say what an exit code means.

    >>> _cause_of_death(3), _cause_of_death(-11)
    ('it ended with exit code 3', 'it was killed by SIGSEGV (exit code -11)')
    """
    if code is None:
        return "its exit code is not known"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    remedy = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return f"it was killed by {name}{remedy} (exit code {code})"
