"""Run jobs in the workers of a SCOOP program, driven by one thread of the root.

If the last jobs of a function were short, a worker gets several at a time. It sends each result at once. If a job takes
long, the jobs behind it are recalled. When a worker dies, only the job that it had begun is lost.

    root: ScoopSockets.invite -> broker ~~> worker: register_worker ~~> hello
    root: ScoopSockets.send ~~> worker: run_jobs ~~> the result of each job, as soon as it has ended

SCOOP's public interface does not suffice: its futures cannot be used from another thread, and it sends jobs to dead
workers, and long jobs again to others. So its broker is only used to find the workers, and to pass on what cannot be
sent to them directly. A registered worker asks the broker for no more tasks, and runs the SCOOP tasks of a job itself.

    submit -> inbox ─> scheduler ─> sockets ~~> a worker: run_jobs
    future <─ opened <─ scheduler <─ sockets <~~ a run result     liveness connections: a worker has died
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
from .._options import Executors, PoolOptions
from .._processes import renew_after_fork
from .base import error_text
from .connections import LivenessConnection, LivenessListener, WorkerConnection
from .durations import DurationEstimates
from .engine import SharedExecutors
from .entry import ResultKind, RunResult, run_split
from .packing import LOADED_FUNCTIONS
from .remote import RemoteEngine, RemoteExecutor, RemoteTask

__all__ = [
    "MessageKind",
    "ScoopEngine",
    "ScoopExecutor",
    "ScoopLoop",
    "ScoopScheduler",
    "ScoopSockets",
    "Worker",
    "register_worker",
    "run_jobs",
    "started_scoop",
    "the_loop",
]

_log = logging.getLogger(__name__)

TOGETHER_SECONDS: Final = 0.01
"""Expected duration in seconds of the jobs that are sent together."""

STUCK_SECONDS: Final = 0.1
"""Seconds that a job may run before the jobs behind it are recalled."""

MOST_TOGETHER: Final = 64
MOST_BYTES_TOGETHER: Final = 1 << 20
ATTEMPTS: Final = 8
"""How many workers that have not begun a job may die before the job is lost."""


@dataclass(slots=True, eq=False)
class Worker:
    """A worker with its jobs."""

    name: bytes
    host: str
    pid: int
    connection: LivenessConnection | None = None
    tasks: dict[int, RemoteTask] = field(default_factory=dict)
    """Unfinished jobs by number, in the order in which they run."""
    since: float = 0.0
    """An upper bound of the time when its present job began."""
    is_recalling: bool = False
    """Whether it has not answered a recall yet."""
    functions: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """The functions that it has loaded, by digest."""

    def mark_loaded(self, digest: bytes) -> bool:
        """Mark a function as loaded. Return whether it was already."""
        is_kept = digest in self.functions
        self.functions[digest] = None
        self.functions.move_to_end(digest)
        if len(self.functions) > LOADED_FUNCTIONS:
            self.functions.popitem(last=False)
        return is_kept

    def is_stuck(self, now: float) -> bool:
        """Whether jobs wait behind one that takes long."""
        return len(self.tasks) > 1 and not self.is_recalling and now - self.since > STUCK_SECONDS

    def __str__(self) -> str:
        return f"worker {self.pid} on {self.host}"


class ScoopScheduler:
    """The workers and the waiting jobs. One thread uses it."""

    def __init__(self) -> None:
        self.workers: dict[bytes, Worker] = {}
        self.waiting: deque[RemoteTask] = deque()
        self.last_number = 0
        self._durations = DurationEstimates()

    @property
    def is_busy(self) -> bool:
        """Whether jobs are unfinished."""
        return bool(self.waiting) or any(worker.tasks for worker in self.workers.values())

    @property
    def is_hurried(self) -> bool:
        """Whether jobs may soon have to be recalled."""
        return any(len(worker.tasks) > 1 for worker in self.workers.values())

    def assign(self, now: float) -> Iterator[tuple[Worker, list[int]]]:
        """Assign waiting jobs to workers. Yield each worker and the numbers of its new jobs.

        Cancelled jobs are left out.
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
        """Whether a worker can get jobs: it has none, or so little work that it would soon be idle."""
        if not worker.tasks:
            return True
        if worker.connection is None or worker.is_recalling or now - worker.since > TOGETHER_SECONDS:
            return False
        if len(worker.tasks) >= MOST_TOGETHER:
            return False
        return sum(self._durations.of(task.digest) for task in worker.tasks.values()) < TOGETHER_SECONDS

    def _take(self, worker: Worker) -> list[int]:
        most = (
            1 if worker.connection is None else min(MOST_TOGETHER, -(-len(self.waiting) // len(self.workers)))
        )
        room, size, numbers = TOGETHER_SECONDS, 0, list[int]()
        while self.waiting and len(numbers) < most:
            task = self.waiting[0]
            room -= self._durations.of(task.digest)
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

    def ended(self, worker: Worker, number: int, seconds: float, now: float) -> RemoteTask | None:
        """Remove and return a finished job. None if the worker no longer has it."""
        worker.since = now
        task = worker.tasks.pop(number, None)
        if task is not None:
            self._durations.note(task.digest, seconds)
        return task

    def lacks_function(self, worker: Worker, number: int) -> None:
        """Queue a job again with its function, which the worker has not loaded."""
        task = worker.tasks.pop(number, None)
        if task is not None:
            worker.functions.pop(task.digest, None)
            self.waiting.appendleft(task)

    def recall(self, worker: Worker, now: float) -> None:
        """Recall the jobs behind a worker's present one, and raise the duration estimate of its function."""
        if worker.connection is not None:
            worker.is_recalling = True
            worker.connection.recall(self.last_number)
            self._durations.note(next(iter(worker.tasks.values())).digest, now - worker.since)

    def take_back(self, worker: Worker, begun: int) -> None:
        """Queue the recalled jobs again: all after the one that began last."""
        worker.is_recalling = False
        back = [number for number in worker.tasks if number > begun]
        self.waiting.extendleft(worker.tasks.pop(number) for number in reversed(back))

    def lose(self, worker: Worker) -> list[RemoteTask]:
        """Remove a worker. Return the jobs that are lost with it, and queue the others again."""
        del self.workers[worker.name]
        begun = worker.connection.begun if worker.connection is not None else next(iter(worker.tasks), 0)
        lost = [worker.tasks.pop(begun)] if begun in worker.tasks else []
        for task in reversed(worker.tasks.values()):
            task.deaths += 1
            if task.deaths < ATTEMPTS:
                self.waiting.appendleft(task)
            else:
                lost.append(task)
        worker.tasks.clear()
        return lost

    def all_tasks(self) -> list[RemoteTask]:
        """Remove and return all unfinished jobs."""
        tasks = [task for worker in self.workers.values() for task in worker.tasks.values()]
        tasks += self.waiting
        self.waiting.clear()
        for worker in self.workers.values():
            worker.tasks.clear()
        return tasks


NEVER: Final = 10**9
"""Seconds between status reports, so that SCOOP's threads send none on sockets of another thread."""

_OURS: Final = b"bencher_job"
_TASK: Final = b"T"
_REPLY: Final = b"RP"


SentJob = tuple[int, bytes, bytes | None, int | None]
"""A job's number, its arguments, its function unless the worker has it, and its number of inner threads."""


class MessageKind(Enum):
    """The kind of a worker's message to the root."""

    HELLO = b"hello"
    """The worker has registered: its host and pid."""
    RESULT = b"result"
    """A job has ended: its number, and the parts of its run result."""
    FAILURE = b"failure"
    """The worker cannot run jobs: the reason."""


def started_scoop() -> Any:
    """Return the module `scoop`, which the launcher imported, if this is the root of a program with workers.

    Raises:
        BencherJobError: if not. The message says how to start such a program.
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
    except ValueError:  # another object has that name in sys.modules
        return False


class ScoopSockets:
    """The root's sockets. One thread uses them; any may call `wake`."""

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
        links._poll = links.recvFuture = links.sendFuture = _refuse  # noqa: SLF001 - no other thread may read or write

    def before_end(self, act: Callable[[bool], None]) -> None:
        """Call `act` with whether the program failed, after it has ended and before SCOOP ends its workers."""
        shut_down, pid = self._queue.shutdown, os.getpid()

        def end() -> None:
            if pid == os.getpid():
                self._queue.shutdown = shut_down
                act(not isinstance(self._root_future.exceptionValue, SystemExit | None))
            shut_down()

        self._queue.shutdown = end

    def watch(self, source: Any) -> None:
        """Let `wait` return when a descriptor is readable."""
        self._poller.register(source, self._zmq.POLLIN)

    def wait(self, seconds: float | None) -> None:
        """Wait until a message arrives or `wake` is called."""
        self._poller.poll(None if seconds is None else int(seconds * 1000))
        try:
            while os.read(self._wake_end, 4096):
                pass
        except BlockingIOError:
            pass

    def wake(self) -> None:
        """End the other thread's `wait`."""
        try:
            os.write(self._waking_end, b"w")
        except BlockingIOError:  # the pipe is full, so the thread will wake
            pass

    def invite(self, port: int, token: bytes) -> None:
        """Send an invitation through the broker to any worker that asks for work."""
        self._send_to_any_worker(
            pickle.dumps(self._future(self.name, register_worker, self.name, port, token), 5)
        )

    def _send_to_any_worker(self, future: bytes) -> None:
        number = self.name, f"bencher_job-{next(self._numbers)}"
        self._links.socket.send_multipart([_TASK, pickle.dumps(number), future])

    def send(self, worker: bytes, jobs: Sequence[SentJob]) -> None:
        """Send jobs to a worker."""
        future = pickle.dumps(self._future(worker, run_jobs, jobs), 5)
        try:
            self._links.direct_socket.send_multipart([worker, _TASK, future], flags=self._zmq.NOBLOCK)
        except self._zmq.ZMQError:  # the worker is connected to the broker only
            self._links.socket.send_multipart([_REPLY, future, worker])

    def _future(self, owner: bytes, function: Callable[..., None], *args: Any) -> Any:
        """Make a SCOOP future that its worker owns, so that SCOOP returns no result."""
        future = self._make_future(None, function, *args)
        del self._futures[future.id]
        future.id = owner, f"bencher_job-{next(self._numbers)}"
        future.sendResultBack = False
        return future

    def received(self) -> Iterator[tuple[bytes, MessageKind, list[bytes]]]:
        """Yield the messages from workers, with their names.

        Raises:
            Exception: if SCOOP shuts down.
        """
        links = self._links
        links.pumpInfoSocket()
        while True:
            if links.direct_socket.poll(0):
                worker, *frames = links.direct_socket.recv_multipart()
            elif links.socket.poll(0):
                frames = links.socket.recv_multipart()
                if frames[0] == _TASK:  # the root asked for it before its sockets were taken over
                    self._send_to_any_worker(frames[1])
                    continue
                *frames, _, worker = frames
            else:
                return
            if frames[:2] == [_REPLY, _OURS]:  # other messages are SCOOP's own
                yield worker, MessageKind(frames[2]), frames[3:]


def _refuse(*_args: Any) -> Any:
    raise BencherJobError(
        "scoop.futures can't be used in a program whose jobs run by executor=SCOOP. Submit these calls to "
        "Executors.factory('scoop') instead."
    )


class _NotForReports:
    """A socket hidden from SCOOP's status thread, because another thread uses it and sockets are not thread-safe."""

    def __init__(self, socket: Any, reporter: threading.Thread) -> None:
        self._socket = socket
        self._reporter = reporter

    def __getattr__(self, name: str) -> Any:
        if threading.current_thread() is self._reporter:
            raise AttributeError(name)  # which ends the thread
        return getattr(self._socket, name)


class _RegisteredWorker:
    """The state of a registered worker, in its process."""

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
        self.connection = WorkerConnection(root.decode().rpartition(":")[0], port, token, scoop.worker)

    def tell(self, kind: MessageKind, *parts: bytes) -> None:
        """Send a message to the root, through the broker if there is no direct connection."""
        frames = [_REPLY, _OURS, kind.value, *parts]
        try:
            self._links.direct_socket.send_multipart([self._root, *frames], flags=self._zmq.NOBLOCK)
        except self._zmq.ZMQError:
            self._links.socket.send_multipart([*frames, self._root])


def _workers_here() -> int:
    """Count the workers that SCOOP has started on this machine, without the root."""
    number = 0
    for beside in psutil.Process(os.getppid()).children():
        with suppress(psutil.Error):  # it has ended
            command = beside.cmdline()
            number += _WORKER in command and "--origin" not in command
    return max(1, number)


_WORKER: Final = "scoop.bootstrap.__main__"

_registered: _RegisteredWorker | None = None


def register_worker(root: bytes, port: int, token: bytes) -> None:
    """Register this worker with the root. Runs in a worker as a SCOOP task."""
    global _registered  # noqa: PLW0603 - a fact about the process
    if _registered is None:
        _registered = _RegisteredWorker(root, port, token)
    _registered.tell(MessageKind.HELLO, os.uname().nodename.encode(), b"%d" % os.getpid())


def run_jobs(jobs: Sequence[SentJob]) -> None:
    """Run jobs one after another. Runs in a worker as a SCOOP task."""
    registered = _registered
    if registered is None:
        return
    try:
        for number, rest, function, inner_threads in jobs:
            if registered.connection.begin(number):
                inner = None if inner_threads is None else InnerThreads.of(1, inner_threads)
                with nullcontext() if inner is None else inner.taken_for_a_job():
                    run_result = run_split(rest, function)
                registered.tell(MessageKind.RESULT, b"%d" % number, *map(bytes, run_result.parts()))
    except BaseException as error:  # noqa: BLE001 - the root waits for an answer
        registered.tell(MessageKind.FAILURE, error_text(error).encode(errors="backslashreplace"))


WATCH_SECONDS: Final = 0.5
"""Seconds between checks of the workers while there are jobs."""

FAREWELL_SECONDS: Final = 0.2
"""Seconds that the last results of a dead worker may take to arrive."""

PATIENCE: Final = 10.0
"""Seconds to wait for a first worker after another has ended before it registered."""


class ScoopLoop:
    """The thread that runs tasks in the workers of this SCOOP program.

    Raises:
        BencherJobError: if SCOOP cannot run jobs. The message says how to start it.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._sockets = ScoopSockets(started_scoop())
        self._sockets.before_end(self._end)
        self._listener = LivenessListener()
        self._sockets.watch(self._listener.fileno())
        self._scheduler = ScoopScheduler()
        self._early_connections: dict[bytes, LivenessConnection] = {}
        self._dying: dict[bytes, float] = {}
        self._joined: set[bytes] = set()
        self._started_here = _started_here()
        self._alone_since: float | None = None
        self._inbox: queue.SimpleQueue[RemoteTask] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._broken: str | None = None
        self._is_ending = self._gives_up = False
        self._thread = threading.Thread(target=self._run, name="bencher_job-scoop", daemon=True)
        self._thread.start()

    def put(self, task: RemoteTask) -> None:
        """Run a task.

        Raises:
            WorkerLost: if no worker is left.
        """
        with self._lock:
            if self._broken is not None:
                raise WorkerLost(f"SCOOP takes no more jobs: {self._broken}")
            self._inbox.put(task)
        self._sockets.wake()

    @critical
    def _run(self) -> None:
        try:
            for _ in range(self._sockets.most_workers):
                self._invite()
            watched = time.monotonic()
            while not self._has_ended():
                self._hand_out()
                self._sockets.wait(self._patience())
                self._take_in()
                self._unblock()
                if time.monotonic() - watched >= WATCH_SECONDS or self._dying:
                    self._watch()
                    watched = time.monotonic()
            self._fail("the program has ended")
        except BaseException as problem:  # noqa: BLE001 - SCOOP ends threads with its own exceptions
            self._fail(str(problem) if isinstance(problem, WorkerLost) else error_text(problem))

    def _has_ended(self) -> bool:
        return self._gives_up or (self._is_ending and not self._scheduler.is_busy and self._inbox.empty())

    def _patience(self) -> float | None:
        if self._dying:
            return FAREWELL_SECONDS / 4
        if self._scheduler.is_hurried:
            return STUCK_SECONDS / 4
        return WATCH_SECONDS if self._scheduler.is_busy else None

    def _invite(self) -> None:
        self._sockets.invite(self._listener.port, self._listener.token)

    def _hand_out(self) -> None:
        while not self._inbox.empty():
            self._scheduler.waiting.append(self._inbox.get())
        for worker, numbers in self._scheduler.assign(time.monotonic()):
            jobs = []
            for number in numbers:
                task = worker.tasks[number]
                function = None if worker.mark_loaded(task.digest) else task.parcel.function.blob
                jobs.append((number, task.parcel.rest, function, task.inner_threads))
            self._sockets.send(worker.name, jobs)

    def _take_in(self) -> None:
        while (arrived := self._listener.accept()) is not None:
            name, connection = arrived
            if name in self._scheduler.workers:
                self._scheduler.workers[name].connection = connection
            else:
                self._early_connections[name] = connection
        for name, kind, parts in self._sockets.received():
            if kind is MessageKind.HELLO:
                self._welcome(name, *parts)
            elif name in self._scheduler.workers:
                self._receive(self._scheduler.workers[name], kind, parts)

    def _welcome(self, name: bytes, host: bytes, pid: bytes) -> None:
        if name not in self._joined:
            self._joined.add(name)
            connection = self._early_connections.pop(name, None)
            self._scheduler.workers[name] = Worker(name, host.decode(), int(pid), connection)
        elif (
            len(self._joined) < self._sockets.most_workers
        ):  # the worker had asked the broker for more than one task
            self._invite()

    def _receive(self, worker: Worker, kind: MessageKind, parts: list[bytes]) -> None:
        if kind is MessageKind.FAILURE:
            self._lose(worker, f"can't run jobs, {parts[0].decode()}")
            return
        number, run_result = int(parts[0]), RunResult.of_parts(parts[1:])
        if run_result.kind is ResultKind.WANTS_FUNCTION:
            self._scheduler.lacks_function(worker, number)
        elif (
            task := self._scheduler.ended(worker, number, run_result.seconds, time.monotonic())
        ) is not None:
            task.end(run_result)

    def _unblock(self) -> None:
        """Recall jobs that wait behind a long one."""
        now = time.monotonic()
        for worker in self._scheduler.workers.values():
            if worker.is_recalling:
                self._poll_connection(worker)
            elif worker.is_stuck(now):
                self._scheduler.recall(worker, now)

    def _poll_connection(self, worker: Worker) -> None:
        if worker.connection is not None and (begun := worker.connection.poll()) is not None:
            self._scheduler.take_back(worker, begun)

    def _watch(self) -> None:
        now = time.monotonic()
        for worker in list(self._scheduler.workers.values()):
            if worker.connection is None:
                continue
            self._poll_connection(worker)
            if (
                worker.connection.is_closed
                and now - self._dying.setdefault(worker.name, now) > FAREWELL_SECONDS
            ):
                self._lose(worker, "died")
        if not self._scheduler.workers:
            self._wait_for_a_first(now)

    def _wait_for_a_first(self, now: float) -> None:
        if len(self._joined) >= self._sockets.most_workers:
            raise WorkerLost("all workers are gone")
        if self._alone_since is None and (self._joined or not all(map(_is_alive, self._started_here))):
            self._alone_since = now
        if self._alone_since is not None and now - self._alone_since > PATIENCE:
            raise WorkerLost("workers have ended, and no other one has joined")

    def _lose(self, worker: Worker, fact: str) -> None:
        self._dying.pop(worker.name, None)
        lost = self._scheduler.lose(worker)
        _log.warning("SCOOP's %s %s; %s are left", worker, fact, len(self._scheduler.workers))
        for task in lost:
            label = task.name
            reason = f"its {worker} {fact}" if task.deaths == 0 else f"{task.deaths} workers died that had it"
            task.future.set_exception(WorkerLost(f"SCOOP lost {label}: {reason}.", job=label))

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._broken = reason
        tasks = self._scheduler.all_tasks()
        while not self._inbox.empty():
            tasks.append(self._inbox.get())
        for task in tasks:
            if task.is_due or task.future.set_running_or_notify_cancel():
                label = task.name
                task.future.set_exception(WorkerLost(f"SCOOP lost {label}: {reason}.", job=label))

    def _end(self, has_failed: bool) -> None:
        """Finish pending jobs at the end of the program, unless it has failed."""
        if threading.current_thread() is not self._thread:
            self._gives_up = has_failed
            self._is_ending = True
            self._sockets.wake()
            self._thread.join()


def _started_here() -> list[psutil.Process]:
    """Find the processes that the launcher started on this machine, including connections to other machines."""
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


class _SingleLoop:
    """The single SCOOP loop of this program."""

    def __init__(self) -> None:
        self._loop: ScoopLoop | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def get(self) -> ScoopLoop:
        """Return the loop, made at first use.

        Raises:
            BencherJobError: if SCOOP cannot run jobs. The message says how to start it.
        """
        with self._lock:
            if self._loop is None:
                self._loop = ScoopLoop()
            if self._loop.pid != os.getpid():
                raise BencherJobError(
                    "SCOOP belongs to the parent of this process. Submit from the program that it has started."
                )
            return self._loop


the_loop: Final = _SingleLoop()


class ScoopExecutor(RemoteExecutor):
    """Run calls in the workers of a program that `python -m scoop` started.

    A call whose worker dies ends with `WorkerLost`; other calls are not affected. The worker is not replaced.
    `inner_threads` is how many threads BLAS, OpenMP and similar libraries may start in each worker, by default its
    share of the cores of its machine.

    Raises:
        BencherJobError: if SCOOP cannot run jobs. The message says how to start it.
    """

    def __init__(self, *, inner_threads: int | None = None) -> None:
        super().__init__()
        self._loop = the_loop.get()
        check_threads_can_be_limited(inner_threads, "in SCOOP's workers")
        self._inner_threads = inner_threads

    def _send(self, task: RemoteTask) -> None:
        task.inner_threads = self._inner_threads
        self._loop.put(task)


class ScoopEngine(RemoteEngine[ScoopExecutor]):
    """Run jobs in the workers of a SCOOP program."""

    name = str(Executors.SCOOP)

    def __init__(self, executor: ScoopExecutor | None = None, settings: PoolOptions | None = None) -> None:
        self._inner_threads = None if settings is None else settings.inner_threads
        super().__init__(executor, _executors)

    def _key(self) -> int | None:
        return self._inner_threads  # a program has one SCOOP

    def _make(self) -> ScoopExecutor:
        return ScoopExecutor(inner_threads=self._inner_threads)


_executors: Final[SharedExecutors[ScoopExecutor]] = SharedExecutors()
