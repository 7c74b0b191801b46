"""Run jobs in the workers of a SCOOP program, driven by one thread of the root.

If the last jobs of a function were short, a worker gets several at a time. It sends each result at once. If a job takes
long, the jobs behind it are recalled. When a worker dies, only the job that it had begun is lost.

    root: ScoopSockets.invite -> broker ~~> worker: register_worker ~~> hello
    root: ScoopSockets.send ~~> worker: run_jobs ~~> the result of each job, as soon as it has ended

SCOOP's public interface does not suffice: its futures cannot be used from another thread, and it sends jobs to dead
workers, and long jobs again to others. So its broker is only used to find the workers, and to pass on what cannot be
sent to them directly. A registered worker asks the broker for no more tasks, and runs the SCOOP tasks of a job itself.

    submit ─> ScoopScheduler ─> sockets ~~> a worker: run_jobs
    future <─ ScoopScheduler <─ sockets <~~ a run result     liveness connections: a worker has died
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import itertools
import logging
import math
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

import psutil

from .._cores import InnerThreads, check_threads_can_be_limited
from .._errors import BencherJobError, WorkerLost
from .connections import LivenessConnection, LivenessListener, WorkerConnection
from .entry import RunResult, run_packed
from .scheduler import MOST_TOGETHER, ScheduledExecutor, Scheduler, Task, Worker

_log = logging.getLogger(__name__)


class ScoopWorker(Worker):
    """A worker of the program. `connections` has its liveness connection, if there is one."""

    def __init__(
        self, name: bytes, host: str, pid: int, connections: Mapping[bytes, LivenessConnection]
    ) -> None:
        super().__init__()
        self.name = name
        self._connections = connections
        self.is_recalling = False
        """Whether it has not answered a recall yet."""
        self._title = f"worker {pid} on {host}"

    def __str__(self) -> str:
        return self._title

    @property
    def connection(self) -> LivenessConnection | None:
        """Its liveness connection, if there is one."""
        return self._connections.get(self.name)

    def room(self) -> int:
        """Return how many more tasks it may get: one at a time if its death would not be noticed."""
        if self.connection is None:
            return not self.tasks
        return 0 if self.is_recalling else MOST_TOGETHER - len(self.tasks)


NEVER: Final = 10**9
"""Seconds between status reports, so that SCOOP's threads send none on sockets of another thread."""

HELLO: Final = 0
"""In place of a job's number: the worker has registered, with its host and pid."""

_OURS: Final = b"bencher_job"
_TASK: Final = b"T"
_REPLY: Final = b"RP"


SentJob = tuple[int, Any, Any, int | None]
"""A job's number, its arguments, its function unless the worker has it, and its number of inner threads."""


def started_scoop() -> Any:
    """Return the module `scoop`, which the launcher imported, if this is the root of a program with workers.

    Raises:
        BencherJobError: if not. The message says how to start such a program.
    """
    scoop, futures = sys.modules.get("scoop"), sys.modules.get("scoop.futures")
    if scoop is None and importlib.util.find_spec("scoop") is None:
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


class ScoopSockets:
    """The root's sockets. One thread uses them."""

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
        self._poller = zmq.Poller()
        for source in (links.socket, links.direct_socket, links.infoSocket):
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
        """Make `wait` return when a descriptor is readable."""
        self._poller.register(source, self._zmq.POLLIN)

    def wait(self, seconds: float | None) -> None:
        """Wait until a message arrives, or another source is readable."""
        self._poller.poll(None if seconds is None else math.ceil(seconds * 1000))

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

    def received(self) -> Iterator[tuple[bytes, int, list[bytes]]]:
        """Yield the messages from workers: name, number of the job or 0 for hello, and parts.

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
                yield worker, int(frames[2]), frames[3:]


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
        self._share = self._inner = InnerThreads.of(_workers_here())
        self._share.take()
        self.connection = WorkerConnection(root.decode().rpartition(":")[0], port, token, scoop.worker)

    def limit_threads(self, wanted: int | None) -> None:
        """Let libraries start the number of threads that the next job wants, or this worker's share."""
        inner = self._share if wanted is None else InnerThreads.of(1, wanted)
        if inner != self._inner:
            self._inner = inner
            inner.take()

    def tell(self, number: int, *parts: bytes) -> None:
        """Send the result of a job to the root, or hello, through the broker if there is no direct connection."""
        frames = [_REPLY, _OURS, b"%d" % number, *parts]
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
    _registered.tell(HELLO, os.uname().nodename.encode(), b"%d" % os.getpid())


def run_jobs(jobs: Sequence[SentJob]) -> None:
    """Run jobs one after another. Runs in a worker as a SCOOP task."""
    registered = _registered
    if registered is None:
        return
    try:
        for number, body, function, inner_threads in jobs:
            if registered.connection.begin(number):
                registered.limit_threads(inner_threads)
                registered.tell(number, *run_packed(body, function))
    except BaseException:  # noqa: BLE001 - the root waits for an answer, and notices the end of this process
        _log.exception("a worker of SCOOP can't run jobs")
        os._exit(1)


WATCH_SECONDS: Final = 0.5
"""Seconds between checks of the workers while there are jobs."""

FAREWELL_SECONDS: Final = 0.2
"""Seconds that the last results of a dead worker may take to arrive."""

PATIENCE: Final = 10.0
"""Seconds to wait for a first worker after another has ended before it registered."""


RECALL_SECONDS: Final = 0.025
"""Seconds between checks for the answer to a recall."""


class ScoopScheduler(Scheduler):
    """The workers of this SCOOP program.

    Raises:
        BencherJobError: if SCOOP cannot run jobs. The message says how to start it.
    """

    title = "SCOOP"

    def __init__(self) -> None:
        super().__init__()
        self.pid = os.getpid()
        self._sockets = ScoopSockets(started_scoop())
        self._sockets.before_end(self._end_program)
        self._listener = LivenessListener()
        self._connections: dict[bytes, LivenessConnection] = {}
        self._dying: dict[bytes, float] = {}
        self._joined: set[bytes] = set()
        self._started_here = _started_here()
        self._alone_since: float | None = None
        self._watched = time.monotonic()
        self._gives_up = False
        self._begin()

    def _open(self) -> None:
        self._sockets.watch(self._listener.fileno())
        self._sockets.watch(self._wake_reader.fileno())
        for _ in range(self._sockets.most_workers):
            self._invite()

    def _invite(self) -> None:
        self._sockets.invite(self._listener.port, self._listener.token)

    def _has_ended(self) -> bool:
        has_ended = self._gives_up or super()._has_ended()
        if has_ended:
            self._fail("the program has ended")
        return has_ended

    def _next_check(self, now: float) -> float:
        if self._dying:
            return now + FAREWELL_SECONDS / 4
        if any(worker.is_recalling for worker in self.workers):
            return now + RECALL_SECONDS
        is_busy = self.waiting or any(worker.tasks for worker in self.workers)
        return now + WATCH_SECONDS if is_busy else math.inf

    def _send(self, worker: ScoopWorker, tasks: Sequence[Task]) -> None:
        jobs = []
        for number, task in zip(worker.assign(tasks), tasks, strict=True):
            payload = worker.function_for(task)
            function = None if payload is None else tuple(payload)
            jobs.append((number, task.parcel.body.stream, function, task.inner_threads))
        self._sockets.send(worker.name, jobs)

    def _wait(self, seconds: float | None) -> None:
        self._sockets.wait(seconds)
        self._drain_wakeups(None, 0)
        while (arrived := self._listener.accept()) is not None:
            self._connections.update([arrived])
        for name, number, parts in self._sockets.received():
            if number == HELLO:
                self._welcome(name, *parts)
            elif (worker := self._worker(name)) is not None:
                self._answer(worker, number, RunResult.of_parts(parts))

    def _worker(self, name: bytes) -> ScoopWorker | None:
        return next((worker for worker in self.workers if worker.name == name), None)

    def _welcome(self, name: bytes, host: bytes, pid: bytes) -> None:
        if name not in self._joined:
            self._joined.add(name)
            self.workers.append(ScoopWorker(name, host.decode(), int(pid), self._connections))
        elif len(self._joined) < self._sockets.most_workers:  # it had asked the broker for more than one task
            self._invite()

    def _withdraw(self, worker: ScoopWorker) -> list[Task]:
        """Request the tasks behind the one that a worker runs. They return with its answer."""
        if worker.connection is not None and not worker.is_recalling:
            worker.is_recalling = True
            worker.connection.recall(worker.last_number)
        return []

    def _look_after_workers(self, now: float) -> None:
        for worker in self.workers:
            if worker.is_recalling:
                self._poll_connection(worker)
        if now - self._watched >= WATCH_SECONDS or self._dying:
            self._watched = now
            self._watch_workers(now)

    def _poll_connection(self, worker: ScoopWorker) -> None:
        if worker.connection is None or (begun := worker.connection.poll()) is None:
            return
        worker.is_recalling = False
        numbers = [number for number in worker.tasks if number > begun]
        self._return([task for number in numbers if (task := worker.remove(number))])

    def _watch_workers(self, now: float) -> None:
        for worker in list(self.workers):
            if worker.connection is None:
                continue
            self._poll_connection(worker)
            is_dead = worker.connection.is_closed
            if is_dead and now - self._dying.setdefault(worker.name, now) > FAREWELL_SECONDS:
                self._lose(worker)
        if not self.workers:
            self._wait_for_a_first(now)

    def _wait_for_a_first(self, now: float) -> None:
        if len(self._joined) >= self._sockets.most_workers:
            raise WorkerLost("all workers are gone")
        if self._alone_since is None and (self._joined or not all(map(_is_alive, self._started_here))):
            self._alone_since = now
        if self._alone_since is not None and now - self._alone_since > PATIENCE:
            raise WorkerLost("workers have ended, and no other one has joined")

    def _lose(self, worker: ScoopWorker) -> None:
        """Fail the job that a dead worker had begun, and queue the others again."""
        self._dying.pop(worker.name, None)
        self.workers.remove(worker)
        _log.warning("SCOOP's %s died; %s are left", worker, len(self.workers))
        lost = worker.remove(worker.connection.begun) if worker.connection is not None else None
        if lost is not None:
            self._finished.append((lost, self._lost(lost, f"its {worker} died.")))
        self._put_back(list(worker.tasks.values()))

    def _end_program(self, has_failed: bool) -> None:
        """Finish pending jobs at the end of the program, unless it has failed."""
        if threading.current_thread() is not self._thread:
            self._gives_up = has_failed
            self.dismiss()
            self.join()


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


_lock: Final = threading.Lock()
_scheduler: ScoopScheduler | None = None


def _the_scheduler() -> ScoopScheduler:
    """Return the single scheduler of this program, made at first use.

    Raises:
        BencherJobError: if SCOOP cannot run jobs. The message says how to start it.
    """
    global _scheduler  # noqa: PLW0603 - a fact about the process
    with _lock:
        if _scheduler is None:
            _scheduler = ScoopScheduler()
        if _scheduler.pid != os.getpid():
            raise BencherJobError(
                "SCOOP belongs to the parent of this process. Submit from the program that it has started."
            )
        return _scheduler


class ScoopExecutor(ScheduledExecutor):
    """Run calls in the workers of a program that `python -m scoop` started.

    A call whose worker dies ends with `WorkerLost`; other calls are not affected. The worker is not replaced.
    `inner_threads` is how many threads BLAS, OpenMP and similar libraries may start in each worker, by default its
    share of the cores of its machine.

    Raises:
        BencherJobError: if SCOOP cannot run jobs. The message says how to start it.
    """

    is_asked_to_begin = True

    def __init__(self, *, inner_threads: int | None = None) -> None:
        super().__init__(_the_scheduler())
        check_threads_can_be_limited(inner_threads, "in SCOOP's workers")
        self._inner_threads = inner_threads
        self._pending: set[Future[Any]] = set()

    def _start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.inner_threads = self._inner_threads
            self._pending.add(task.future)
            task.future.add_done_callback(self._pending.discard)
        super()._start(tasks)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls and wait for the running ones. The workers stay."""
        if self.pid != os.getpid():
            return
        self._is_shut_down = True
        pending = self._pending.copy()
        if cancel_futures:
            for future in pending:
                future.cancel()
            self._scheduler.call(self._scheduler.drop_cancelled)
        if wait:  # `wait` ignores a cancelled future until it is notified
            concurrent.futures.wait([future for future in pending if not future.cancelled()])
