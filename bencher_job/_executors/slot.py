"""One slot of the pool: a worker process and its pipe.

`multiprocessing` lets a spawned process import the parent's `__main__`, which runs a script that has no guard
again. Here functions of `__main__` are pickled by value, so workers do not import it.

    give: send the jobs, then their work tokens -> the worker takes a token, runs the job, sends its result
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
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import context, process, spawn
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Final

import psutil

from .._errors import WorkerLost
from .._options import PoolOptions, StartMethod
from .._processes import renew_after_fork
from .base import Place
from .durations import OVERDUE
from .entry import RunResult, describe
from .packing import Parcel
from .wire import LARGEST_INLINE, LEAVE, MOST_TOKENS, Inlet, Message, Outlet, WorkTokens, frame
from .worker import serve

if TYPE_CHECKING:
    from .._job import Start

__all__ = ["Slot", "Task", "lost", "new_process"]


class _StartLock:
    """A lock held while a process starts, because `multiprocessing` is not thread-safe there.

    A fork waits for the lock, or the child would inherit locked locks of `multiprocessing`. It is reentrant for the
    fork that starts a worker.
    """

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(before=self.acquire, after_in_parent=self.release, after_in_child=self.renew)

    def renew(self) -> None:
        self._lock = threading.RLock()

    def acquire(self) -> None:
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()


_start_lock: Final = _StartLock()

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
        """Start the process."""
        _start_lock.acquire()
        _of_this_thread.leaves_main_out = True
        try:
            super().start()
            process._children.discard(self)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way
        finally:
            _of_this_thread.leaves_main_out = False
            _start_lock.release()


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


@dataclass(slots=True, eq=False)
class Task:
    """A packed job with its future.

    Attributes:
        label: the job or function, for error messages.
        open: makes the future's result from the run result and the label; None for the run result itself.
        start: its `begin` is called before the task is sent to a worker.
        seconds: its expected duration.
        is_handed_out: whether its future is running.
        packed_at: when it was made, or last failed to load in a worker started after that, by the monotonic clock.
        is_for_new: whether it needs a worker started after `packed_at`, because another had other code or another path.
        verdict: the exception that it ends with, once its end was requested.
    """

    future: Future[Any]
    parcel: Parcel
    label: object
    open: Callable[[RunResult, object], Any] | None
    timeout: float | None = None
    start: Start | None = None
    seconds: float = 0.0
    packed_at: float = field(default_factory=time.monotonic)
    is_handed_out: bool = False
    is_for_new: bool = False
    verdict: BaseException | None = None

    @property
    def nbytes(self) -> int:
        """Size of the arguments in bytes."""
        return self.parcel.body.nbytes

    def goes_with(self, other: Task) -> bool:
        """Whether another task may go in the same message."""
        is_same_function = self.parcel.function.digest == other.parcel.function.digest
        return is_same_function and (self.timeout is None) == (other.timeout is None)

    def resolve(self, run_result: RunResult) -> None:
        """Set the future's result or exception."""
        try:
            result = run_result if self.open is None else self.open(run_result, self.label)
        except BaseException as error:  # noqa: BLE001 - any exception concerns this job only
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Slot:
    """A worker process and its tasks. One thread uses it; any thread may call `kill`.

    Times are of the monotonic clock.

    Attributes:
        given: the unfinished tasks by number, oldest first.
        load: the expected duration of these tasks in seconds.
        taken: how many tasks the worker has received in all.
        started_at: when it was started, with the import path of that moment.
        is_ready: whether it has reported that it takes tasks.
        place: where it runs, once it is ready.
        is_retiring: whether it gets no more tasks.
        since: when the oldest task became the oldest.
        begun: number of the last task with a timeout whose function was called, and when.
        stop_deadline: when it must have ended, once it was stopped or killed.
        death: a descriptor that becomes readable when the process ends, if the system supports it.
        killed_because: why the pool killed it, else empty.
    """

    def __init__(self, settings: PoolOptions, initialize: bytes | None) -> None:
        self.given: dict[int, Task] = {}
        self.load = 0.0
        self.taken = 0
        self.is_ready = False
        self.place = Place()
        self.is_retiring = False
        self.started_at = self.since = time.monotonic()
        self.begun = 0, 0.0
        self.stop_deadline: float | None = None
        self.death: int | None = None
        self.killed_because = ""
        self._unsent: list[int] = []
        self._number = 0
        self._lock = threading.Lock()
        self._is_open = True
        self._start(settings, initialize)
        renew_after_fork(self)

    def _start(self, settings: PoolOptions, initialize: bytes | None) -> None:
        end, its_end = socket.socketpair()
        reading, writing = os.pipe()
        its_tokens = Connection(reading, writable=False)
        self.tokens = WorkTokens(os.dup(reading), writing)
        for side in (end, its_end):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        end.setblocking(False)
        self.end = end
        self._outlet, self._inlet = Outlet(end), Inlet(end)
        method = settings.start_method or "spawn"
        foreign = (end.fileno(), *self.tokens.descriptors) if method == "fork" else ()
        self.process = new_process(
            method, serve, (settings.inner(), its_end, its_tokens, initialize, foreign), "bencher_job-worker"
        )
        try:
            self.process.start()
            self._pid: int = self.process.pid  # type: ignore[assignment]  # it has one from now on
            self.death = _watch_death(self._pid)
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
            if self._is_open:
                self._is_open = False
                self.end.close()
                self.tokens.close()
                if self.death is not None:
                    os.close(self.death)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a task."""
        return self.is_ready and not self.given and not self.is_retiring

    @property
    def is_sending(self) -> bool:
        """Whether a part of a message is unsent."""
        return bool(self._unsent)

    def is_new_to(self, task: Task) -> bool:
        """Whether it was started after a task was packed, so its code and import path are recent enough."""
        return self.started_at >= task.packed_at

    def has_run_only(self, task: Task) -> bool:
        """Whether a task is its first one, and was packed before it started."""
        return self.taken == 1 and self.is_new_to(task)

    def give(self, tasks: Sequence[Task]) -> None:
        """Send tasks of one function. They begin when the whole message is sent.

        Raises:
            OSError: if the worker has died.
        """
        if not self.given:
            self.since = time.monotonic()
        numbers = range(self._number + 1, self._number + 1 + len(tasks))
        self._number += len(tasks)
        self.taken += len(tasks)
        self.load += sum([task.seconds for task in tasks])
        self.given.update(zip(numbers, tasks, strict=True))
        self._unsent += numbers
        if self._outlet.send(_message(numbers, tasks)):
            self._put_tokens()

    def flush(self) -> None:
        """Send the unsent part, as far as the worker takes it.

        Raises:
            OSError: if the worker has died.
        """
        if self._outlet.flush():
            self._put_tokens()

    def _put_tokens(self) -> None:
        if self._unsent:
            with suppress(BlockingIOError):  # the pipe is full
                self.tokens.put(self._unsent)
                self._unsent = []

    def room(self, most_tasks: int | None) -> int:
        """Return how many more tasks it may get."""
        if not self.is_ready or self.is_retiring or self._unsent:
            return 0
        room = MOST_TOKENS - len(self.given)
        return room if most_tasks is None else min(room, most_tasks - self.taken)

    def withdraw(self, most: int = MOST_TOKENS) -> list[Task]:
        """Take back up to `most` tasks that it has not begun."""
        numbers = self.tokens.take_back(most)
        more = most - len(numbers)
        numbers += self._unsent[:more]
        del self._unsent[:more]
        self.taken -= len(numbers)
        return [task for number in numbers if (task := self._taken_out(number)) is not None]

    def read(self) -> Iterator[Message]:
        """Yield the messages that have arrived.

        Raises:
            EOFError: if it has closed its end.
            OSError: if the connection is broken.
        """
        return self._inlet.read()

    def receive(self) -> Iterator[Message]:
        """Receive once and yield the complete messages.

        Raises:
            EOFError: if it has closed its end and nothing is left.
            OSError: if nothing has arrived, or the connection is broken.
        """
        return self._inlet.receive()

    @property
    def oldest(self) -> tuple[int, Task] | None:
        """The task that it runs or begins next, with its number."""
        return next(iter(self.given.items()), None)

    def answered(self, number: int) -> Task | None:
        """Remove and return the task whose result has arrived."""
        self.since = time.monotonic()
        return self._taken_out(number)

    def _taken_out(self, number: int) -> Task | None:
        task = self.given.pop(number, None)
        if task is not None:
            self.load = self.load - task.seconds if self.given else 0.0
        return task

    def expect(self, seconds: float) -> None:
        """Set the expected duration of the oldest task."""
        if self.oldest is not None:
            _, task = self.oldest
            self.load += seconds - task.seconds
            task.seconds = seconds

    @property
    def overdue_at(self) -> float:
        """When to withdraw the tasks behind the oldest one, by the monotonic clock."""
        if self.oldest is None or len(self.given) == 1:
            return math.inf
        return self.since + self.oldest[1].seconds + OVERDUE

    @property
    def waiting_seconds(self) -> float:
        """Expected duration in seconds of all tasks but the oldest."""
        return self.load - self.oldest[1].seconds if self.oldest is not None else 0.0

    def ends_by_itself(self) -> bool:
        """Whether a process that has closed its end is ending: a dying process closes all its descriptors.

        Polls for a moment, because `join` would block on a process that lives and has closed all descriptors.
        """
        until = time.monotonic() + END_SECONDS
        while not self.is_dead():
            if time.monotonic() > until:
                return False
            time.sleep(END_SECONDS / 50)
        return True

    def kill(self, because: str) -> None:
        """Kill the process and all processes that it started."""
        with self._lock:
            if not self._is_open:
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
            self.tokens.put([LEAVE])

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return not self.process.is_alive()

    def reap(self) -> int | None:
        """Kill what an ended process has left running, and return its exit code."""
        with self._lock:
            _kill_group(self._pid)
            code = self.process.exitcode
            if code is None:
                self.process.join(CODE_SECONDS)
                code = self.process.exitcode
        return code


def _message(numbers: Sequence[int], tasks: Sequence[Task]) -> list[Any]:
    function = tasks[0].parcel.function
    buffers: list[Any] = []
    stream = function.payload.stream
    if len(stream) > LARGEST_INLINE:
        buffers.append(stream)
    jobs = []
    for number, task in zip(numbers, tasks, strict=True):
        body = task.parcel.body
        if len(body.stream) > LARGEST_INLINE:
            buffers.append(body.stream)
        jobs.append((number, None if len(body.stream) > LARGEST_INLINE else body.stream, len(body.buffers)))
        buffers += body.buffers
    inline = None if len(stream) > LARGEST_INLINE else stream
    is_limited = tasks[0].timeout is not None
    return frame((function.digest, function.file, inline, is_limited, jobs), buffers)


def _watch_death(pid: int) -> int | None:
    """Open a pidfd, which becomes readable when the process ends. None if the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


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
