"""One slot of the pool: a worker process and its pipe.

`multiprocessing` lets a spawned process import the parent's `__main__`, which runs a script that has no guard
once more. Functions of `__main__` travel by value here, so the workers do without it.

    give: the jobs, then their tickets -> the worker takes a ticket, runs the job, answers
    withdraw: the tickets that it has not taken, with their jobs

Whatever ends the process, at most one job was begun and not answered. That one died of it, or with it, and is lost; the
others were never begun.
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
from .._processes import renew_after_fork
from .base import Place
from .durations import OVERDUE
from .entry import Report, describe
from .packing import Parcel
from .settings import PoolSettings, StartMethod
from .wire import LARGEST_INLINE, LEAVE, MOST_TICKETS, Inlet, Message, Outlet, Tickets, frame
from .worker import serve

if TYPE_CHECKING:
    from .._job import Start

__all__ = ["Slot", "Task", "lost", "new_process"]


class _Turn:
    """Held while a process is started: `multiprocessing` keeps its books for one thread.

    A fork waits for it, or the child would find locks of `multiprocessing` held for ever; only a fork that itself
    starts a worker goes on.
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


_turn: Final = _Turn()

_of_this_thread: Final = threading.local()
_preparation_data: Final = spawn.get_preparation_data


def _preparation_data_without_main(name: str) -> dict[str, Any]:
    data: dict[str, Any] = _preparation_data(name)
    if getattr(_of_this_thread, "leaves_main_out", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


spawn.get_preparation_data = _preparation_data_without_main  # others get what they always got


class _WithoutMain(BaseProcess):
    """A process whose `__main__` is not the caller's, and that `multiprocessing` doesn't wait for at exit."""

    def start(self) -> None:
        """Start the process."""
        _turn.acquire()
        _of_this_thread.leaves_main_out = True
        try:
            super().start()
            process._children.discard(self)  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public does it
        finally:
            _of_this_thread.leaves_main_out = False
            _turn.release()


class SpawnedWorker(_WithoutMain, context.SpawnProcess):
    """A worker in a new interpreter."""


class ForkServedWorker(_WithoutMain, context.ForkServerProcess):
    """A worker that a process forks which has nothing but this for its work."""


class ForkedWorker(_WithoutMain, context.ForkProcess):
    """A worker that begins as a copy of this process."""


_KINDS: Final[dict[str, type[_WithoutMain]]] = {
    "spawn": SpawnedWorker,
    "forkserver": ForkServedWorker,
    "fork": ForkedWorker,
}


def new_process(
    method: StartMethod, target: Callable[..., None], args: tuple[Any, ...], name: str
) -> BaseProcess:
    """Make a process that is not started yet."""
    return _KINDS[method](target=target, args=args, name=name)


LEAVE_SECONDS: Final = 2.0
"""How long a worker that was let go, or killed, may take to end."""

END_SECONDS: Final = 0.1
"""How long a worker that has closed its end may take to end by itself: the system frees its memory before."""

CODE_SECONDS: Final = 1.0
"""How long the exit code of a worker that has ended may take to arrive."""


@dataclass(slots=True, eq=False)
class Task:
    """A packed job, what it is called in errors, and what its future gets of its report.

    Attributes:
        open: makes what the future gets; None where that is the report itself.
        start: what is asked before a worker is given the task.
        seconds: how long it is expected to take.
        is_handed_out: whether its future says that it runs.
        packed_at: when it was made, or could not be loaded by a worker that was new to it, by the monotonic clock.
        is_for_new: whether it needs a worker that is new to it: another one held other code, or another path.
        verdict: what it ends with, once somebody wants it ended.
    """

    future: Future[Any]
    parcel: Parcel
    label: object
    open: Callable[[Report, object], Any] | None
    timeout: float | None = None
    start: Start | None = None
    seconds: float = 0.0
    packed_at: float = field(default_factory=time.monotonic)
    is_handed_out: bool = False
    is_for_new: bool = False
    verdict: BaseException | None = None

    @property
    def nbytes(self) -> int:
        """Size of its arguments in bytes."""
        return self.parcel.body.nbytes

    def goes_with(self, other: Task) -> bool:
        """Whether another one may go in the same message."""
        is_same_function = self.parcel.function.digest == other.parcel.function.digest
        return is_same_function and (self.timeout is None) == (other.timeout is None)

    def resolve(self, report: Report) -> None:
        """Give its future what it gets of a report."""
        try:
            result = report if self.open is None else self.open(report, self.label)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is this job's alone
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Slot:
    """A worker process and what it was given; one thread uses it, and any may call `kill`.

    Attributes:
        given: the tasks that are not answered, by their numbers, the oldest first.
        load: how many seconds they are expected to take in all.
        taken: how many tasks it was given so far.
        started_at: when it was started, by the monotonic clock; where it imports from was said then.
        is_ready: whether it has said that it takes tasks, and then the place that it is.
        is_retiring: whether it gets no more tasks.
        since: when the oldest task became the oldest, by the monotonic clock.
        begun: number of the last task whose function was called, of those with a timeout, and when that was.
        patience_ends: when it is to have ended, once it was let go or killed.
        death: what becomes readable when the process ends, where the system has such a thing.
        killed_because: why the pool has killed it; empty where it hasn't.
    """

    def __init__(self, settings: PoolSettings, initialize: bytes | None) -> None:
        self.given: dict[int, Task] = {}
        self.load = 0.0
        self.taken = 0
        self.is_ready = False
        self.place = Place()
        self.is_retiring = False
        self.started_at = self.since = time.monotonic()
        self.begun = 0, 0.0
        self.patience_ends: float | None = None
        self.death: int | None = None
        self.killed_because = ""
        self._unsent: list[int] = []
        self._number = 0
        self._lock = threading.Lock()
        self._is_open = True
        self._start(settings, initialize)
        renew_after_fork(self)

    def _start(self, settings: PoolSettings, initialize: bytes | None) -> None:
        end, its_end = socket.socketpair()
        reading, writing = os.pipe()
        its_tickets = Connection(reading, writable=False)
        self.tickets = Tickets(os.dup(reading), writing)
        for side in (end, its_end):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        end.setblocking(False)
        self.end = end
        self._outlet, self._inlet = Outlet(end), Inlet(end)
        method = settings.start_method or "spawn"
        foreign = (end.fileno(), *self.tickets.descriptors) if method == "fork" else ()
        self.process = new_process(
            method, serve, (settings.inner(), its_end, its_tickets, initialize, foreign), "bencher_job-worker"
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
            its_tickets.close()

    def renew(self) -> None:
        """Leave it to the parent: a forked child that held these would keep the worker from seeing its parent end."""
        self._lock = threading.Lock()
        self.close()

    def close(self) -> None:
        """Close all that leads to the process."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self.end.close()
                self.tickets.close()
                if self.death is not None:
                    os.close(self.death)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for something to do."""
        return self.is_ready and not self.given and not self.is_retiring

    @property
    def is_sending(self) -> bool:
        """Whether something is still to be sent to it when it takes more."""
        return bool(self._unsent)

    def is_new_to(self, task: Task) -> bool:
        """Whether it has loaded nothing before a task was made, and was told since then where to import from."""
        return self.started_at >= task.packed_at

    def has_run_only(self, task: Task) -> bool:
        """Whether a task is the first that it was given, and it was started after that was made."""
        return self.taken == 1 and self.is_new_to(task)

    def give(self, tasks: Sequence[Task]) -> None:
        """Send tasks of one function, which begin when all is sent.

        Raises:
            OSError: when the worker is gone.
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
            self._give_tickets()

    def flush(self) -> None:
        """Send what is still to be sent, as far as the worker takes it.

        Raises:
            OSError: when the worker is gone.
        """
        if self._outlet.flush():
            self._give_tickets()

    def _give_tickets(self) -> None:
        if self._unsent:
            with suppress(BlockingIOError):  # no room for them at present
                self.tickets.put(self._unsent)
                self._unsent = []

    def room(self, most_tasks: int | None) -> int:
        """Say how many tasks more it may be given."""
        if not self.is_ready or self.is_retiring or self._unsent:
            return 0
        room = MOST_TICKETS - len(self.given)
        return room if most_tasks is None else min(room, most_tasks - self.taken)

    def withdraw(self, most: int = MOST_TICKETS) -> list[Task]:
        """Take back tasks that it has not begun."""
        numbers = self.tickets.take_back(most)
        more = most - len(numbers)
        numbers += self._unsent[:more]
        del self._unsent[:more]
        self.taken -= len(numbers)
        return [task for number in numbers if (task := self._taken_out(number)) is not None]

    def read(self) -> Iterator[Message]:
        """Give the messages that it has sent.

        Raises:
            EOFError: when it has closed its end.
            OSError: when the connection is broken.
        """
        return self._inlet.read()

    def receive(self) -> Iterator[Message]:
        """Give the messages that come in with one look.

        Raises:
            EOFError: when it has closed its end, and nothing is left.
            OSError: when there is nothing at present, or the connection is broken.
        """
        return self._inlet.receive()

    @property
    def oldest(self) -> tuple[int, Task] | None:
        """The task that it runs or is about to, with its number."""
        return next(iter(self.given.items()), None)

    def answered(self, number: int) -> Task | None:
        """Take out the task that it has answered."""
        self.since = time.monotonic()
        return self._taken_out(number)

    def _taken_out(self, number: int) -> Task | None:
        task = self.given.pop(number, None)
        if task is not None:
            self.load = self.load - task.seconds if self.given else 0.0
        return task

    def expect(self, seconds: float) -> None:
        """Expect the oldest task to take some seconds."""
        if self.oldest is not None:
            _, task = self.oldest
            self.load += seconds - task.seconds
            task.seconds = seconds

    @property
    def overdue_at(self) -> float:
        """When it will be time to take back what waits behind the oldest task, by the monotonic clock."""
        if self.oldest is None or len(self.given) == 1:
            return math.inf
        return self.since + self.oldest[1].seconds + OVERDUE

    @property
    def waiting_seconds(self) -> float:
        """How many seconds all but the oldest task are expected to take."""
        return self.load - self.oldest[1].seconds if self.oldest is not None else 0.0

    def ends_by_itself(self) -> bool:
        """Whether a process that has closed its end is ending, as a process that dies closes all that it has open.

        It is asked again and again: `join` would wait for ever for one that lives and has closed all that it had open.
        """
        until = time.monotonic() + END_SECONDS
        while not self.is_dead():
            if time.monotonic() > until:
                return False
            time.sleep(END_SECONDS / 50)
        return True

    def kill(self, because: str) -> None:
        """End the process and all that it started, at once."""
        with self._lock:
            if not self._is_open:
                return
            self.killed_because = self.killed_because or because
            self.patience_ends = time.monotonic() + LEAVE_SECONDS
            try:
                below = psutil.Process(self._pid).children(recursive=True)
            except psutil.Error:
                below = []
            for end in (self.process.kill, *(child.kill for child in below)):
                with suppress(psutil.Error, OSError):  # it has ended already
                    end()
            _kill_group(self._pid)

    def let_go(self) -> None:
        """Let the process leave when it has nothing more to do."""
        self.is_retiring = True
        self.patience_ends = time.monotonic() + LEAVE_SECONDS
        with suppress(OSError):  # it has left already
            self.tickets.put([LEAVE])

    def is_dead(self) -> bool:
        """Whether the process has ended."""
        return not self.process.is_alive()

    def bury(self) -> int | None:
        """End what a process that has ended has left behind, and give its exit code."""
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
    """Open what becomes readable when a process ends, where the system has such a thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _kill_group(pid: int) -> None:
    with suppress(OSError):  # it is empty, or was never made
        os.killpg(pid, signal.SIGKILL)


def lost(label: object, code: int | None, killed_because: str = "") -> WorkerLost:
    """Make the error of a job whose worker has died while it ran, or was killed by the pool itself."""
    name = describe(label)
    cause = f"the pool ended it, because {killed_because}" if killed_because else cause_of_death(code)
    return WorkerLost(f"The worker process died while it ran {name}: {cause}.", job=name, exit_code=code)


def cause_of_death(code: int | None) -> str:
    """Say what the exit code of a process means that the pool has not killed.

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
