"""Knows the one thread that runs jobs on SCOOP: it alone uses SCOOP's sockets, and never waits inside SCOOP.

submit -> inbox ─> crew ─> wires ~~> a worker: run_jobs
future <─ opened <─ crew <─ wires <~~ a report     lines: a worker has died
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from typing import Final

import psutil

from .._errors import BencherJobError, WorkerLost
from .._forks import renew_after_fork
from .._inside import critical
from .base import told
from .crew import STUCK_SECONDS, Crew, Worker
from .envelope import Kind, Report
from .far import Task
from .lifelines import Line, Lines
from .scoop import News, Wires, started_scoop

__all__ = ["Pump", "the_pump"]

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
