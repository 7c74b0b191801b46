"""Knows how SCOOP is one executor: a thread of its own makes every call to SCOOP, and never waits inside it.

    submit -> inbox -> pump thread -> broker -> a worker: run_packed -> pump thread -> future

SCOOP's own futures run callbacks only while the program waits in SCOOP, can't be used from another thread,
run long jobs twice and hang when a worker dies. Here none of them is ever waited for: the pump reads the
root's sockets itself, so the root runs no jobs, and once a second it looks whether the processes of this
machine are still there. The death of a worker on another machine is not seen.
"""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import psutil

from .._errors import BencherJobError, WorkerLost
from .._forks import renew_after_fork
from .._job import Job
from .base import Executors
from .engine import Engine, unsendable
from .envelope import Report, describe, run_packed, unpack_value
from .shipping import Parcel, pack, pack_call

__all__ = ["ScoopEngine", "ScoopExecutor", "run_in_scoop"]

NEVER: Final = 10**9
"""Seconds between the status reports that would make SCOOP's broker run long jobs twice."""

_WATCH_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class _Task:
    """A packed job, what it is called in errors, and what its future gets of its report."""

    future: Future[Any]
    blob: bytes
    label: object
    open: Callable[[Report, object], Any]


class ScoopExecutor(concurrent.futures.Executor):
    """Runs calls in the workers of a program that `python -m scoop` started.

    Raises:
        BencherJobError: where SCOOP can't run jobs, with how to start it.
    """

    def __init__(self) -> None:
        self._pump = _the_pump.get()
        self._lock = threading.Lock()
        self._pending: set[Future[Any]] = set()
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker.

        Raises:
            RuntimeError: after `shutdown`, and in a forked child of the program.
            WorkerLost: when SCOOP has failed.
        """
        self._check()
        try:
            parcel = pack_call(fn, args, kwargs, local=False)
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(fn, problem)
        return self._start(_Task(Future(), parcel.to_bytes(), fn, unpack_value))

    def submit_parcel(self, parcel: Parcel, job: Job) -> Future[Report]:
        """Start a packed job, whose future gets the report as it came."""
        return self._start(_Task(Future(), parcel.to_bytes(), job, _as_it_came))

    def _start(self, task: _Task) -> Future[Any]:
        with self._lock:
            self._check()
            self._pump.put(task)
            self._pending.add(task.future)
        task.future.add_done_callback(self._forget)
        return task.future

    def _check(self) -> None:
        if self._pump.pid != os.getpid():
            raise RuntimeError(_IN_CHILD)
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._pending.discard(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; SCOOP's workers stay, for they are the program's."""
        if self._pump.pid != os.getpid():
            return
        with self._lock:
            self._is_shut_down = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            concurrent.futures.wait(pending)


def _as_it_came(report: Report, _label: object) -> Report:
    return report


def run_in_scoop(blob: bytes) -> tuple[bytes, ...]:
    """Run a packed job in a SCOOP worker."""
    vars(importlib.import_module("scoop"))["TIME_BETWEEN_STATUS_REPORTS"] = NEVER
    return run_packed(blob)


class _Pump:
    """The one thread that talks to SCOOP."""

    def __init__(self, scoop: Any) -> None:
        import zmq
        from scoop import _control, futures

        scoop.TIME_BETWEEN_STATUS_REPORTS = NEVER
        self.pid = os.getpid()
        self._root = _control.current
        self._make_scoop_future = futures._createFuture  # noqa: SLF001 - SCOOP has nothing public for a foreign thread
        self._queue = _control.execQueue
        self._socket = self._queue.socket
        self._inbox: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._wake_end, self._waking_end = os.pipe()
        os.set_blocking(self._wake_end, False)
        os.set_blocking(self._waking_end, False)
        self._poller = zmq.Poller()
        for source in (
            self._socket.socket,
            self._socket.direct_socket,
            self._socket.infoSocket,
            self._wake_end,
        ):
            self._poller.register(source, zmq.POLLIN)
        self._socket.socket = _NotForReports(self._socket.socket, self._socket.status_update_thread)
        self._pending: dict[Any, tuple[Any, _Task]] = {}
        self._neighbours = _processes_of_this_machine()
        self._lock = threading.Lock()
        self._broken: str | None = None
        self._is_ending = self._gives_up = False
        self._thread = threading.Thread(target=self._run, name="bencher_job-scoop", daemon=True)
        self._shut_scoop_down = self._queue.shutdown
        self._queue.shutdown = self._end
        self._thread.start()

    def put(self, task: _Task) -> None:
        with self._lock:
            if self._broken is not None:
                raise WorkerLost(f"SCOOP takes no more jobs: {self._broken}")
            self._inbox.put(task)
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._waking_end, b"w")
        except BlockingIOError:  # it has been woken often enough
            pass

    def _run(self) -> None:
        try:
            watched = time.monotonic()
            while not self._has_ended():
                self._send()
                self._poller.poll(_WATCH_SECONDS * 1000 if self._pending else None)
                self._receive()
                if time.monotonic() - watched >= _WATCH_SECONDS:
                    self._watch()
                    watched = time.monotonic()
            self._fail("the program has ended")
        except BaseException as problem:  # noqa: BLE001 - SCOOP ends its threads by BaseExceptions
            self._fail(f"{type(problem).__name__}: {problem}")

    def _has_ended(self) -> bool:
        is_idle = not self._pending and self._inbox.empty()
        return self._gives_up or (self._is_ending and is_idle)

    def _send(self) -> None:
        while not self._inbox.empty():
            task = self._inbox.get()
            if task.future.set_running_or_notify_cancel():
                scoop_future = self._make_scoop_future(run_in_scoop, task.blob)
                self._pending[scoop_future.id] = scoop_future, task
                self._socket.sendFuture(scoop_future)
                scoop_future.args = ()

    def _receive(self) -> None:
        try:
            while os.read(self._wake_end, 4096):
                pass
        except BlockingIOError:
            pass
        self._socket.pumpInfoSocket()
        while self._socket.direct_socket.poll(0) or self._socket.socket.poll(0):
            answer = self._socket._recv()  # noqa: SLF001 - as above
            if answer and answer.id in self._pending:
                scoop_future, task = self._pending.pop(answer.id)
                scoop_future._delete()  # noqa: SLF001 - as above
                _resolve(task, answer)

    def _watch(self) -> None:
        dead = [process.pid for process in self._neighbours if not _is_alive(process)]
        if dead:
            raise WorkerLost(f"of the processes that SCOOP started here, {dead} ended")

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._broken = reason
        lost = [task for _, task in self._pending.values()]
        self._pending.clear()
        while not self._inbox.empty():
            task = self._inbox.get()
            if task.future.set_running_or_notify_cancel():
                lost.append(task)
        for task in lost:
            label = describe(task.label)
            task.future.set_exception(WorkerLost(f"SCOOP lost {label}: {reason}", job=label))

    def _end(self) -> None:
        """Finish what is pending when the program has ended, unless it has failed, then let SCOOP end."""
        if self.pid == os.getpid() and threading.current_thread() is not self._thread:
            self._queue.shutdown = self._shut_scoop_down
            self._gives_up = not isinstance(self._root.exceptionValue, SystemExit | None)
            self._is_ending = True
            self._wake()
            self._thread.join()
        self._shut_scoop_down()


class _NotForReports:
    """A socket that SCOOP's reporting thread can't use: the pump does, and it is not made for two."""

    def __init__(self, socket: Any, reporter: threading.Thread) -> None:
        self._socket = socket
        self._reporter = reporter

    def __getattr__(self, name: str) -> Any:
        if threading.current_thread() is self._reporter:
            raise AttributeError(name)  # at which the thread ends
        return getattr(self._socket, name)


def _resolve(task: _Task, answer: Any) -> None:
    try:
        result = task.open(Report.of_parts(_parts_of(answer, task)), task.label)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this job's alone
        task.future.set_exception(error)
    else:
        task.future.set_result(result)


def _parts_of(answer: Any, task: _Task) -> tuple[bytes, ...]:
    if answer.exceptionValue is not None:  # the envelope lets none of the job's own through
        label = describe(task.label)
        raise WorkerLost(f"SCOOP lost {label}: its worker failed with {answer.exceptionValue!r}", job=label)
    parts: tuple[bytes, ...] = answer.resultValue
    return parts


def _processes_of_this_machine() -> list[psutil.Process]:
    try:
        return [process for process in psutil.Process(os.getppid()).children() if process.pid != os.getpid()]
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


_IN_CHILD: Final = (
    "SCOOP belongs to the parent of this process. Submit from the program that SCOOP has started."
)


class _OnePump:
    """The pump of this program, which has one SCOOP."""

    def __init__(self) -> None:
        self._pump: _Pump | None = None
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def get(self) -> _Pump:
        with self._lock:
            if self._pump is None:
                self._pump = _Pump(_started_scoop())
            if self._pump.pid != os.getpid():
                raise BencherJobError(_IN_CHILD)
            return self._pump


_the_pump: Final = _OnePump()


def _started_scoop() -> Any:
    """Give the module when this is the root of a SCOOP program with workers; its launcher has imported it then."""
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
    return scoop


def _is_installed() -> bool:
    try:
        return importlib.util.find_spec("scoop") is not None
    except ValueError:  # somebody has put something else in its place
        return False


class ScoopEngine(Engine):
    """Runs jobs in the workers of a SCOOP program."""

    name = str(Executors.SCOOP)

    def __init__(self, executor: ScoopExecutor | None = None) -> None:
        super().__init__()
        self._adopted = executor
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Be without an executor, as a forked child is: SCOOP is its parent's."""
        self._lock = threading.Lock()
        self._own: ScoopExecutor | None = None

    @property
    def executor(self) -> ScoopExecutor:
        """The executor, made when it is first asked for.

        Raises:
            BencherJobError: where SCOOP can't run jobs, with how to start it.
        """
        if self._adopted is not None:
            return self._adopted
        with self._lock:
            if self._own is None:
                self._own = ScoopExecutor()
            return self._own

    def _submit(self, job: Job) -> Future[Any]:
        executor = self.executor
        try:
            parcel = pack(job, local=False)
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            return unsendable(job, problem)
        return executor.submit_parcel(parcel, job)

    def release(self) -> None:
        """Take no more jobs; SCOOP's workers stay, for they are the program's."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.shutdown()
