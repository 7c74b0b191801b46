"""One slot of the pool: a worker process and its pipe.

`multiprocessing` lets a spawned process import the parent's `__main__`, which runs a script that has no guard
again. Here functions of `__main__` are pickled by value, so workers do not import it.

    send: the jobs, then their work tokens -> the worker takes a token, runs the job, sends its result
    withdraw: take back the tokens that the worker has not taken, with their jobs

However the process ends, at most one job has begun and has no result. That job is lost. The others have not begun.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from multiprocessing import context, process, resource_tracker, spawn
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from operator import attrgetter
from typing import Any, Final

import psutil

from .._errors import WorkerLost
from .._options import PoolOptions, StartMethod
from .._processes import renew_after_fork, start_lock
from .._stores.parts import Buffer
from .engine import describe
from .entry import LARGEST_INLINE
from .scheduler import Task, Worker
from .worker import LEAVE, MOST_TOKENS, Inlet, Outlet, WorkTokens, encode_message, serve

_of_this_thread: Final = threading.local()
_preparation_data: Final = spawn.get_preparation_data


def _preparation_data_without_main(name: str) -> dict[str, Any]:
    data: dict[str, Any] = _preparation_data(name)
    if getattr(_of_this_thread, "leaves_main_out", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


spawn.get_preparation_data = _preparation_data_without_main  # unchanged for other processes


class _WithoutMain(BaseProcess):
    """A process that does not import the caller's `__main__`, and that `multiprocessing` does not join at exit."""

    def start(self) -> None:
        """Start the process. Until it ignores Ctrl-C it blocks it, as a process does that is started by this thread."""
        with start_lock.lock:
            if not isinstance(self, ForkedWorker):
                resource_tracker.ensure_running()  # whose start unblocks it
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            _of_this_thread.leaves_main_out = True
            try:
                super().start()
                process._children.discard(self)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way
            finally:
                _of_this_thread.leaves_main_out = False
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class SpawnedWorker(_WithoutMain, context.SpawnProcess):
    """A worker in a new interpreter."""


class ForkServedWorker(_WithoutMain, context.ForkServerProcess):
    """A worker forked from the fork server."""


class ForkedWorker(_WithoutMain, context.ForkProcess):
    """A worker forked from this process."""


_PROCESS_TYPES: Final[dict[str, type[_WithoutMain]]] = {
    "spawn": SpawnedWorker,
    "forkserver": ForkServedWorker,
    "fork": ForkedWorker,
}


def new_process(
    method: StartMethod, target: Callable[..., None], args: tuple[Any, ...], name: str
) -> BaseProcess:
    """Make a process without starting it."""
    return _PROCESS_TYPES[method](target=target, args=args, name=name)


LEAVE_SECONDS: Final = 2.0
"""How long a worker may take to end after it was stopped or killed."""

END_SECONDS: Final = 0.1
"""How long a worker that has closed its end may take to end by itself, while the system frees its memory."""

CODE_SECONDS: Final = 1.0
"""How long the exit code of a worker that has ended may take to arrive."""


class Slot(Worker):
    """A worker process and its tasks. One thread uses it; any thread may call `kill`.

    Attributes:
        index: its place among the workers of the pool, from 0.
        started_at: when it was started, with the import path of that moment.
        check_at: when to check whether jobs have waited too long for its start.
        is_open: whether its descriptors are open, as they are until its death was handled.
        is_ready: whether it has reported that it takes tasks.
        is_retiring: whether it gets no more tasks.
        unsent: the numbers of the tasks of which a part is unsent.
        begun: number of the last task with a timeout whose function was called, and when.
        stop_deadline: when it must have ended, once it was stopped or killed.
        death: a descriptor that becomes readable when the process ends.
        killed_because: why the pool killed it, else empty.
    """

    def __init__(self, settings: PoolOptions, initialize: bytes | None, index: int = 0) -> None:
        super().__init__()
        self.index = index
        self._most_tasks = settings.max_tasks_per_worker
        self.is_ready = False
        self.is_retiring = False
        self.started_at = self.since
        self.check_at = math.inf
        self.begun = 0, 0.0
        self.death = -1
        self.stop_deadline: float | None = None
        self.killed_because = ""
        self.unsent: list[int] = []
        self._lock = threading.Lock()
        self.is_open = True
        self._start(settings, initialize)
        renew_after_fork(self)

    def _start(self, settings: PoolOptions, initialize: bytes | None) -> None:
        end, its_end = socket.socketpair()
        reading, writing = os.pipe()
        its_tokens = Connection(reading, writable=False)
        self._tokens = WorkTokens(os.dup(reading), writing)
        for side in (end, its_end):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        end.setblocking(False)
        self.end = end
        self._outlet, self.inlet = Outlet(end), Inlet(end)
        method = settings.start_method or "spawn"
        foreign = (end.fileno(), *self._tokens.descriptors) if method == "fork" else ()
        self.process = new_process(
            method,
            serve,
            (settings.inner(), settings.variables(self.index), its_end, its_tokens, initialize, foreign),
            "bencher_job-worker",
        )
        try:
            self.process.start()
            self._pid: int = self.process.pid  # type: ignore[assignment]  # it has one from now on
            self.death = _watch_death(self.process)
        except BaseException:
            self.close()
            raise
        finally:
            its_end.close()
            its_tokens.close()

    def renew(self) -> None:
        """Close all descriptors in a forked child, or the worker would not notice when the parent dies."""
        self._lock = threading.Lock()
        self.close()

    def close(self) -> None:
        """Close all descriptors of the connection."""
        with self._lock:
            if self.is_open:
                self.is_open = False
                self.end.close()
                self._tokens.close()
                if self.death >= 0:
                    os.close(self.death)

    def send(self, tasks: Sequence[Task]) -> None:
        """Send tasks. They begin when all of them are sent.

        Raises:
            OSError: if the worker has died.
        """
        numbers = self.assign(tasks)
        self.unsent += numbers
        pieces: list[Buffer] = []
        left = iter(numbers)
        for _, group in groupby(tasks, attrgetter("digest")):
            pieces += self._message(list(group), left)
        if self._outlet.send(pieces):
            self._put_tokens()

    def _message(self, tasks: Sequence[Task], numbers: Iterator[int]) -> list[Buffer]:
        """Return the buffers of the message with tasks of one function, which get the next numbers."""
        function = self.function_for(tasks[0])
        outside: list[Buffer] = [] if function is None else [function.stream, *function.buffers]
        function_buffers = len(outside)
        jobs = []
        for task in tasks:
            stream, buffers = task.parcel.body
            is_inline = len(stream) <= LARGEST_INLINE
            outside += buffers if is_inline else (stream, *buffers)
            jobs.append(
                (next(numbers), task.timeout is not None, stream if is_inline else None, len(buffers))
            )
        return encode_message((tasks[0].digest, function_buffers, jobs), outside)

    def flush(self) -> None:
        """Send the unsent part, as far as the worker takes it.

        Raises:
            OSError: if the worker has died.
        """
        if self._outlet.flush():
            self._put_tokens()

    def _put_tokens(self) -> None:
        if self.unsent:
            with suppress(BlockingIOError):  # the pipe is full
                self._tokens.put(self.unsent)
                self.unsent = []

    def room(self) -> int:
        """Return how many more tasks it may get."""
        if not self.is_ready or self.is_retiring or self.unsent or self.stop_deadline is not None:
            return 0
        room = MOST_TOKENS - len(self.tasks)
        return room if self._most_tasks is None else min(room, self._most_tasks - self.taken)

    @property
    def is_used_up(self) -> bool:
        """Whether it has received `max_tasks_per_worker` tasks."""
        return self._most_tasks is not None and self.taken >= self._most_tasks

    def withdraw(self, most: int = MOST_TOKENS) -> list[Task]:
        """Take back up to `most` tasks that it has not begun."""
        numbers = self._tokens.take_back(most)
        more = most - len(numbers)
        numbers += self.unsent[:more]
        del self.unsent[:more]
        self.taken -= len(numbers)
        return [task for number in numbers if (task := self.remove(number)) is not None]

    @property
    def waiting_seconds(self) -> float:
        """Expected duration in seconds of all tasks but the oldest."""
        return self.load - self.oldest[1].seconds if self.oldest is not None else 0.0

    def end_within(self, seconds: float) -> None:
        """Let the process be killed if it has not ended by itself in time."""
        if self.stop_deadline is None:
            self.stop_deadline = time.monotonic() + seconds

    def kill(self, because: str) -> None:
        """Kill the process and all processes that it started."""
        with self._lock:
            if not self.is_open:
                return
            self.killed_because = self.killed_because or because
            self.stop_deadline = time.monotonic() + LEAVE_SECONDS
            try:
                below = psutil.Process(self._pid).children(recursive=True)
            except psutil.Error:
                below = []
            for end in (self.process.kill, *(child.kill for child in below)):
                with suppress(psutil.Error, OSError):  # it has ended
                    end()
            _kill_group(self._pid)

    def ask_to_stop(self) -> None:
        """Ask the process to end after its tasks."""
        self.is_retiring = True
        self.stop_deadline = time.monotonic() + LEAVE_SECONDS
        with suppress(OSError):  # it has ended
            self._tokens.put([LEAVE])

    def reap(self) -> int | None:
        """Kill what an ended process has left running, and return its exit code."""
        with self._lock:
            _kill_group(self._pid)
            if self.process.exitcode is None:
                self.process.join(CODE_SECONDS)
            return self.process.exitcode


def _watch_death(process: BaseProcess) -> int:
    """Open a pidfd, or where the system has none a descriptor that children of the process keep open too."""
    try:
        return os.pidfd_open(process.pid or 0)
    except (AttributeError, OSError):
        return os.dup(process.sentinel)


def _kill_group(pid: int) -> None:
    with suppress(OSError):  # the group is empty, or does not exist
        os.killpg(pid, signal.SIGKILL)


def lost(label: object, code: int | None, killed_because: str = "") -> WorkerLost:
    """Make the error of a job whose worker died while it ran, or was killed by the pool."""
    name = describe(label)
    cause = f"the pool ended it, because {killed_because}" if killed_because else cause_of_death(code)
    return WorkerLost(f"The worker process died while it ran {name}: {cause}.", job=name, exit_code=code)


def cause_of_death(code: int | None) -> str:
    """Explain the exit code of a process that the pool did not kill.

    >>> cause_of_death(3), cause_of_death(-11)
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
