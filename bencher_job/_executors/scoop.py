"""SCOOP: its workers as an engine, driven by one thread.

Jobs go to a worker several at a time where the last ones of their function were short, so that it never waits for
the next; what a worker has ended it tells at once. When one of them is long after all, those behind it are asked
back. A worker that dies takes the job along that it had begun, and no other.

    root: Wires.invite -> broker ~~> worker: join_crew ~~> hello
    root: Wires.send ~~> worker: run_jobs ~~> a report of each job, as soon as it has ended

SCOOP has nothing public for who must not wait inside it: its futures can't be used from another thread, it sends
jobs to workers that are gone, and again to others when they take long. So its broker only finds the workers here,
and passes on what can't go straight to them. A worker that has joined asks the broker for nothing any more, and
whatever of SCOOP's own a job uses there runs there.

submit -> inbox ─> crew ─> wires ~~> a worker: run_jobs
future <─ opened <─ crew <─ wires <~~ a report     lines: a worker has died
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
import os
import pickle
import queue
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import psutil

from .._cores import InnerThreads, check_threads_can_be_limited
from .._errors import BencherJobError, WorkerLost
from .._inside import critical
from .._processes import renew_after_fork
from .base import Executors, told
from .connections import Line, Lines, WorkersLine
from .durations import Pace
from .engine import SharedExecutors
from .entry import Kind, Report, run_split
from .packing import LOADED_FUNCTIONS
from .remote import FarEngine, FarExecutor, Task
from .settings import PoolSettings

__all__ = [
    "Crew",
    "News",
    "Pump",
    "ScoopEngine",
    "ScoopExecutor",
    "Wires",
    "Worker",
    "join_crew",
    "run_jobs",
    "started_scoop",
    "the_pump",
]


TOGETHER_SECONDS: Final = 0.01
"""How long the jobs that are sent together may take in all, by what the last ones took."""

STUCK_SECONDS: Final = 0.1
"""How long a job may run until those that were sent along behind it are asked back."""

MOST_TOGETHER: Final = 64
MOST_BYTES_TOGETHER: Final = 1 << 20
ATTEMPTS: Final = 8
"""How many workers may die that had a job without having begun it, before it is given up."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker, with what it has to do."""

    name: bytes
    host: str
    pid: int
    line: Line | None = None
    tasks: dict[int, Task] = field(default_factory=dict)
    """What was sent to it and has not come back, by number, the first to run first."""
    since: float = 0.0
    """When its present job began, at the latest."""
    is_asked: bool = False
    """Whether it has been asked for jobs back, and has not answered yet."""
    functions: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """The functions that it keeps, by digest."""

    def keeps(self, digest: bytes) -> bool:
        """Whether it has a function already, of those that it used last; from now on it has."""
        is_kept = digest in self.functions
        self.functions[digest] = None
        self.functions.move_to_end(digest)
        if len(self.functions) > LOADED_FUNCTIONS:
            self.functions.popitem(last=False)
        return is_kept

    def is_stuck(self, now: float) -> bool:
        """Whether there are jobs behind one that takes long."""
        return len(self.tasks) > 1 and not self.is_asked and now - self.since > STUCK_SECONDS

    def __str__(self) -> str:
        return f"worker {self.pid} on {self.host}"


class Crew:
    """The workers, and the jobs that wait for one; for one thread."""

    def __init__(self) -> None:
        self.workers: dict[bytes, Worker] = {}
        self.waiting: deque[Task] = deque()
        self.last_number = 0
        self._pace = Pace()

    @property
    def is_busy(self) -> bool:
        """Whether there are jobs that have not ended."""
        return bool(self.waiting) or any(worker.tasks for worker in self.workers.values())

    @property
    def is_hurried(self) -> bool:
        """Whether a worker may soon have to be asked for jobs back."""
        return any(len(worker.tasks) > 1 for worker in self.workers.values())

    def assign(self, now: float) -> Iterator[tuple[Worker, list[int]]]:
        """Give waiting jobs to workers that can take some: each worker, and the numbers of what is new to it.

        A job that was cancelled is left out.
        """
        while self.waiting:
            by_load = sorted(self.workers.values(), key=lambda each: len(each.tasks))
            worker = next((each for each in by_load if self._has_room(each, now)), None)
            if worker is None:
                return
            if not worker.tasks:
                worker.since = now
            if numbers := self._take(worker):
                yield worker, numbers

    def _has_room(self, worker: Worker, now: float) -> bool:
        """Whether a worker can be given jobs: it has none, or so little to do that it would soon wait."""
        if not worker.tasks:
            return True
        if worker.line is None or worker.is_asked or now - worker.since > TOGETHER_SECONDS:
            return False
        if len(worker.tasks) >= MOST_TOGETHER:
            return False
        return sum(self._pace.of(task.digest) for task in worker.tasks.values()) < TOGETHER_SECONDS

    def _take(self, worker: Worker) -> list[int]:
        most = 1 if worker.line is None else min(MOST_TOGETHER, -(-len(self.waiting) // len(self.workers)))
        room, size, numbers = TOGETHER_SECONDS, 0, list[int]()
        while self.waiting and len(numbers) < most:
            task = self.waiting[0]
            room -= self._pace.of(task.digest)
            size += len(task.parcel.rest)
            if (numbers or worker.tasks) and (room < 0 or size > MOST_BYTES_TOGETHER):
                break
            self.waiting.popleft()
            task.is_due = task.is_due or task.future.set_running_or_notify_cancel()
            if task.is_due:
                self.last_number += 1
                worker.tasks[self.last_number] = task
                numbers.append(self.last_number)
        return numbers

    def ended(self, worker: Worker, number: int, seconds: float, now: float) -> Task | None:
        """Take a job that has ended off the books; None for one that is not the worker's any more."""
        worker.since = now
        task = worker.tasks.pop(number, None)
        if task is not None:
            self._pace.note(task.digest, seconds)
        return task

    def lacks_function(self, worker: Worker, number: int) -> None:
        """Have a job sent again, with its function, which the worker has not kept after all."""
        task = worker.tasks.pop(number, None)
        if task is not None:
            worker.functions.pop(task.digest, None)
            self.waiting.appendleft(task)

    def ask_back(self, worker: Worker, now: float) -> None:
        """Ask a worker for what is behind its present job, and let the next ones of that function go alone."""
        if worker.line is not None:
            worker.is_asked = True
            worker.line.ask_back(self.last_number)
            self._pace.note(next(iter(worker.tasks.values())).digest, now - worker.since)

    def come_back(self, worker: Worker, begun: int) -> None:
        """Have the jobs wait again that a worker has given back: all behind the one that had begun last."""
        worker.is_asked = False
        back = [number for number in worker.tasks if number > begun]
        self.waiting.extendleft(worker.tasks.pop(number) for number in reversed(back))

    def lose(self, worker: Worker) -> list[Task]:
        """Do without a worker from now on; the jobs that are lost with it. The others wait again."""
        del self.workers[worker.name]
        begun = worker.line.begun if worker.line is not None else next(iter(worker.tasks), 0)
        lost = [worker.tasks.pop(begun)] if begun in worker.tasks else []
        for task in reversed(worker.tasks.values()):
            task.deaths += 1
            if task.deaths < ATTEMPTS:
                self.waiting.appendleft(task)
            else:
                lost.append(task)
        worker.tasks.clear()
        return lost

    def all_tasks(self) -> list[Task]:
        """Give all jobs that have not ended, and forget them."""
        tasks = [task for worker in self.workers.values() for task in worker.tasks.values()]
        tasks += self.waiting
        self.waiting.clear()
        for worker in self.workers.values():
            worker.tasks.clear()
        return tasks


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


WATCH_SECONDS: Final = 0.5
"""How often the workers are looked after while there are jobs."""

FAREWELL_SECONDS: Final = 0.2
"""How long a report of a worker that has died may be on its way."""

PATIENCE: Final = 10.0
"""Seconds that are waited for a first worker, when one of those that were started has ended before it joined."""

_log = logging.getLogger(__name__)


class Pump:
    """Runs tasks in the workers of this SCOOP program.

    Raises:
        BencherJobError: where SCOOP can't run jobs, with how to start it.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._wires = Wires(started_scoop())
        self._wires.before_end(self._end)
        self._lines = Lines()
        self._wires.watch(self._lines.fileno())
        self._crew = Crew()
        self._lines_of_strangers: dict[bytes, Line] = {}
        self._dying: dict[bytes, float] = {}
        self._joined: set[bytes] = set()
        self._started_here = _started_here()
        self._alone_since: float | None = None
        self._inbox: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._broken: str | None = None
        self._is_ending = self._gives_up = False
        self._thread = threading.Thread(target=self._run, name="bencher_job-scoop", daemon=True)
        self._thread.start()

    def put(self, task: Task) -> None:
        """Run a task.

        Raises:
            WorkerLost: when no worker is left.
        """
        with self._lock:
            if self._broken is not None:
                raise WorkerLost(f"SCOOP takes no more jobs: {self._broken}")
            self._inbox.put(task)
        self._wires.wake()

    @critical
    def _run(self) -> None:
        try:
            for _ in range(self._wires.most_workers):
                self._invite()
            watched = time.monotonic()
            while not self._has_ended():
                self._hand_out()
                self._wires.wait(self._patience())
                self._take_in()
                self._unblock()
                if time.monotonic() - watched >= WATCH_SECONDS or self._dying:
                    self._watch()
                    watched = time.monotonic()
            self._fail("the program has ended")
        except BaseException as problem:  # noqa: BLE001 - SCOOP ends its threads by exceptions of its own
            self._fail(str(problem) if isinstance(problem, WorkerLost) else told(problem))

    def _has_ended(self) -> bool:
        return self._gives_up or (self._is_ending and not self._crew.is_busy and self._inbox.empty())

    def _patience(self) -> float | None:
        if self._dying:
            return FAREWELL_SECONDS / 4
        if self._crew.is_hurried:
            return STUCK_SECONDS / 4
        return WATCH_SECONDS if self._crew.is_busy else None

    def _invite(self) -> None:
        self._wires.invite(self._lines.port, self._lines.token)

    def _hand_out(self) -> None:
        while not self._inbox.empty():
            self._crew.waiting.append(self._inbox.get())
        for worker, numbers in self._crew.assign(time.monotonic()):
            jobs = []
            for number in numbers:
                task = worker.tasks[number]
                function = None if worker.keeps(task.digest) else task.parcel.function.blob
                jobs.append((number, task.parcel.rest, function, task.inner_threads))
            self._wires.send(worker.name, jobs)

    def _take_in(self) -> None:
        while (arrived := self._lines.accept()) is not None:
            name, line = arrived
            if name in self._crew.workers:
                self._crew.workers[name].line = line
            else:
                self._lines_of_strangers[name] = line
        for name, news, parts in self._wires.received():
            if news is News.HELLO:
                self._welcome(name, *parts)
            elif name in self._crew.workers:
                self._hear(self._crew.workers[name], news, parts)

    def _welcome(self, name: bytes, host: bytes, pid: bytes) -> None:
        if name not in self._joined:
            self._joined.add(name)
            line = self._lines_of_strangers.pop(name, None)
            self._crew.workers[name] = Worker(name, host.decode(), int(pid), line)
        elif len(self._joined) < self._wires.most_workers:  # it had asked the broker for more than one task
            self._invite()

    def _hear(self, worker: Worker, news: News, parts: list[bytes]) -> None:
        if news is News.FAILURE:
            self._lose(worker, f"can't run jobs, {parts[0].decode()}")
            return
        number, report = int(parts[0]), Report.of_parts(parts[1:])
        if report.kind is Kind.WANTS_FUNCTION:
            self._crew.lacks_function(worker, number)
        elif (task := self._crew.ended(worker, number, report.seconds, time.monotonic())) is not None:
            task.end(report)

    def _unblock(self) -> None:
        """Ask for the jobs back that wait behind a long one."""
        now = time.monotonic()
        for worker in self._crew.workers.values():
            if worker.is_asked:
                self._look(worker)
            elif worker.is_stuck(now):
                self._crew.ask_back(worker, now)

    def _look(self, worker: Worker) -> None:
        if worker.line is not None and (begun := worker.line.look()) is not None:
            self._crew.come_back(worker, begun)

    def _watch(self) -> None:
        now = time.monotonic()
        for worker in list(self._crew.workers.values()):
            if worker.line is None:
                continue
            self._look(worker)
            if worker.line.is_cut and now - self._dying.setdefault(worker.name, now) > FAREWELL_SECONDS:
                self._lose(worker, "died")
        if not self._crew.workers:
            self._wait_for_a_first(now)

    def _wait_for_a_first(self, now: float) -> None:
        if len(self._joined) >= self._wires.most_workers:
            raise WorkerLost("all workers are gone")
        if self._alone_since is None and (self._joined or not all(map(_is_alive, self._started_here))):
            self._alone_since = now
        if self._alone_since is not None and now - self._alone_since > PATIENCE:
            raise WorkerLost("workers have ended, and no other one has joined")

    def _lose(self, worker: Worker, fact: str) -> None:
        self._dying.pop(worker.name, None)
        lost = self._crew.lose(worker)
        _log.warning("SCOOP's %s %s; %s are left", worker, fact, len(self._crew.workers))
        for task in lost:
            label = task.name
            reason = f"its {worker} {fact}" if task.deaths == 0 else f"{task.deaths} workers died that had it"
            task.future.set_exception(WorkerLost(f"SCOOP lost {label}: {reason}.", job=label))

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._broken = reason
        tasks = self._crew.all_tasks()
        while not self._inbox.empty():
            tasks.append(self._inbox.get())
        for task in tasks:
            if task.is_due or task.future.set_running_or_notify_cancel():
                label = task.name
                task.future.set_exception(WorkerLost(f"SCOOP lost {label}: {reason}.", job=label))

    def _end(self, has_failed: bool) -> None:
        """Finish what is pending when the program has ended, unless it has failed."""
        if threading.current_thread() is not self._thread:
            self._gives_up = has_failed
            self._is_ending = True
            self._wires.wake()
            self._thread.join()


def _started_here() -> list[psutil.Process]:
    """Find the other processes that the launcher has started on this machine, be it as a way to another one."""
    try:
        beside = psutil.Process(os.getppid())
        launcher = beside.parent()
        others = [] if launcher is None else [each for each in launcher.children() if each != beside]
        return [each for each in beside.children() if each.pid != os.getpid()] + others
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


class _OnePump:
    """The pump of this program, which has one SCOOP."""

    def __init__(self) -> None:
        self._pump: Pump | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def get(self) -> Pump:
        """Give the pump, made when it is first asked for.

        Raises:
            BencherJobError: where SCOOP can't run jobs, with how to start it.
        """
        with self._lock:
            if self._pump is None:
                self._pump = Pump()
            if self._pump.pid != os.getpid():
                raise BencherJobError(
                    "SCOOP belongs to the parent of this process. Submit from the program that it has started."
                )
            return self._pump


the_pump: Final = _OnePump()


class ScoopExecutor(FarExecutor):
    """Runs calls in the workers of a program that `python -m scoop` started.

    A call whose worker dies ends with `WorkerLost`, and no other call does; that worker is not replaced.
    `inner_threads` is how many threads BLAS, OpenMP and the like may start in each worker: by default its share of the
    cores of its machine.

    Raises:
        BencherJobError: where SCOOP can't run jobs, with how to start it.
    """

    def __init__(self, *, inner_threads: int | None = None) -> None:
        super().__init__()
        self._pump = the_pump.get()
        check_threads_can_be_limited(inner_threads, "in SCOOP's workers")
        self._inner_threads = inner_threads

    def _send(self, task: Task) -> None:
        task.inner_threads = self._inner_threads
        self._pump.put(task)


class ScoopEngine(FarEngine[ScoopExecutor]):
    """Runs jobs in the workers of a SCOOP program."""

    name = str(Executors.SCOOP)

    def __init__(self, executor: ScoopExecutor | None = None, settings: PoolSettings | None = None) -> None:
        self._inner_threads = None if settings is None else settings.inner_threads
        super().__init__(executor, _executors)

    def _key(self) -> int | None:
        return self._inner_threads  # a program has one SCOOP

    def _make(self) -> ScoopExecutor:
        return ScoopExecutor(inner_threads=self._inner_threads)


_executors: Final[SharedExecutors[ScoopExecutor]] = SharedExecutors()
