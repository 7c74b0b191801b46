"""One scheduler for all engines that send jobs to workers.

    submit -> pack -> Task -> waiting ──> a batch ~~> a worker
    future <- finished <── its result, its death, or a request to end it <~~

Long jobs, and those whose duration is unknown, are sent one at a time. Short jobs are sent together, up to some
milliseconds of work. If a job takes longer than expected, the jobs behind it are withdrawn and sent elsewhere. Each
result arrives by itself.

A subclass adds what differs between engines: how workers are found, how a batch is sent, and how its end is noticed.
Other threads add tasks and calls, and wake the scheduler's thread.
"""

from __future__ import annotations

import concurrent.futures
import logging
import math
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from .._context import critical
from .._errors import WorkerLost
from .engine import CallFuture, describe, error_text, unsendable
from .entry import ResultKind, RunResult, unpack_value
from .packing import LOADED_FUNCTIONS, Parcel, pack_call, pack_many
from .pickling import Recent

if TYPE_CHECKING:
    from .._job import Job, Start
    from .._stores.codec import Payload


_log = logging.getLogger(__name__)

AHEAD: Final = 0.025
"""Seconds of work that is sent to a worker in advance. Longer jobs are sent one at a time."""

MOST_TOGETHER: Final = 64
"""The largest number of jobs in one batch."""

OVERHEAD: Final = 5e-5
"""Seconds that a worker spends on a job besides its function."""

UNKNOWN: Final = 1.0
"""Estimate in seconds for a function that has not run yet."""

WEIGHT: Final = 0.3
"""Weight of the last job in the moving average."""


class DurationEstimates:
    """A moving average of the run times of each function, by the function's digest."""

    def __init__(self) -> None:
        self._seconds: Recent[bytes, float] = Recent(256)
        self.of = self._seconds.get
        """Return the expected run time in seconds, or the second argument for a function that has not run."""

    def note(self, digest: bytes, seconds: float) -> None:
        """Add a run time."""
        taken = seconds + OVERHEAD
        known = self._seconds.get(digest, taken)
        # A longer time replaces the average at once: jobs behind the next one would wait that long.
        self._seconds.keep(digest, taken if taken > known else known + WEIGHT * (taken - known))


@dataclass(slots=True, eq=False)
class Task:
    """A packed call with its future.

    Attributes:
        label: the job or function, for error messages.
        open: makes the future's result from the run result and the label; None for the run result itself.
        start: its `begin` is called before the task is sent to a worker.
        seconds: its expected duration.
        is_running: whether its future is running, and can no longer be cancelled.
        is_cancelled: whether those that wait for its future were told that it is cancelled.
        packed_at: when it was made, by the monotonic clock.
        goes_alone: whether it must not be in a batch with others.
        deaths: how often its batch was lost.
        verdict: the exception that it ends with, once its end was requested.
        inner_threads: how many threads each library may start; None for the worker's share of the cores.
        digest: the digest of the function.
    """

    future: Future[Any]
    parcel: Parcel
    label: object
    open: Callable[[RunResult, object], Any] | None = None
    timeout: float | None = None
    start: Start | None = None
    seconds: float = 0.0
    is_running: bool = False
    is_cancelled: bool = False
    packed_at: float = field(default_factory=time.monotonic)
    goes_alone: bool = False
    deaths: int = 0
    verdict: BaseException | None = None
    inner_threads: int | None = None
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.digest = self.parcel.function.digest

    def begin(self) -> bool:
        """Set the future running. Return False if it was cancelled, and tell those that wait for it once."""
        if not self.is_running and not self.is_cancelled:
            self.is_running = self.future.set_running_or_notify_cancel()
            self.is_cancelled = not self.is_running
        return self.is_running

    def resolve(self, run_result: RunResult) -> None:
        """Set the future's result or exception."""
        try:
            result = run_result if self.open is None else self.open(run_result, self.label)
        except BaseException as error:  # noqa: BLE001 - any exception concerns this call only
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Worker:
    """A worker and its unfinished tasks. One thread uses it. Times are of the monotonic clock.

    Attributes:
        tasks: the unfinished tasks by number, in the order in which they run.
        load: the expected duration of these tasks in seconds.
        taken: how many tasks it has received in all.
        since: when the oldest task became the oldest.
    """

    def __init__(self) -> None:
        self.tasks: dict[int, Task] = {}
        self.load = 0.0
        self.taken = 0
        self.since = time.monotonic()
        self.last_number = 0
        self._functions: Recent[bytes, bool] = Recent(LOADED_FUNCTIONS)

    def function_for(self, task: Task) -> Payload | None:
        """Return the function to send with a task; None if the worker has it, as far as is known."""
        if self._functions.use(task.digest):
            return None
        self._functions.keep(task.digest, True)
        return task.parcel.function.payload

    def forget(self, task: Task) -> None:
        """Send the function of a task again."""
        self._functions.pop(task.digest, None)

    def room(self) -> int:
        """Return how many more tasks it may get."""
        return MOST_TOGETHER

    def assign(self, tasks: Sequence[Task]) -> range:
        """Add tasks, and return their numbers."""
        if not self.tasks:
            self.since = time.monotonic()
        numbers = range(self.last_number + 1, self.last_number + 1 + len(tasks))
        self.last_number += len(tasks)
        self.taken += len(tasks)
        self.load += sum([task.seconds for task in tasks])
        self.tasks.update(zip(numbers, tasks, strict=True))
        return numbers

    def remove(self, number: int) -> Task | None:
        """Remove and return a task. None if the worker no longer has it."""
        task = self.tasks.pop(number, None)
        if task is not None:
            self.load = self.load - task.seconds if self.tasks else 0.0
        return task

    @property
    def oldest(self) -> tuple[int, Task] | None:
        """The task that it runs or begins next, with its number."""
        return next(iter(self.tasks.items()), None)

    def expect(self, seconds: float) -> None:
        """Set the expected duration of the oldest task."""
        for task in self.tasks.values():
            self.load += seconds - task.seconds
            task.seconds = seconds
            break


class Scheduler:
    """The workers and tasks of one engine, and the only thread that changes them.

    An engine overrides `_candidates` (the workers that may get tasks, or how many batches its own queue takes), `_send`
    and `_wait`, or it passes results to `call` from another thread. `_look_after_workers` is the place to notice that
    no worker is left, and for how long.

    Attributes:
        workers: the workers that run tasks or wait for some.
        waiting: the tasks that any worker can run, in order.
    """

    title = "The engine"
    """The subject of error messages."""
    ends_jobs = False
    """Whether it ends a running job that is cancelled or exceeds its timeout."""
    most_bytes = 1 << 20
    """The most bytes of arguments in one batch of several jobs."""
    overdue = 0.1
    """Seconds by which a job may exceed its estimate before the jobs behind it are withdrawn."""
    marks_running = True
    """Whether a task runs, and cannot be cancelled any more, once it was sent."""

    def __init__(self) -> None:
        self.workers: list[Any] = []
        self.waiting: deque[Task] = deque()
        self.estimates = DurationEstimates()
        self._pid = os.getpid()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._finished: list[tuple[Task, RunResult | BaseException]] = []
        self._added = self._seen = 0
        self._wants_wakeup = True
        self._is_dismissed = False
        self._failure: str | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._selector: selectors.BaseSelector
        self._wake_reader: socket.socket
        self._wake_writer: socket.socket

    # What any thread may call

    def add(self, tasks: Sequence[Task]) -> None:
        """Add tasks.

        Raises:
            WorkerLost: if no worker is left.
        """
        self.waiting.extend(tasks)
        self._added += 1
        if self._failure is not None:  # asked last, because the thread sets it before it fails what waits
            raise WorkerLost(f"{self.title} takes no more jobs: {self._failure}")
        if self._thread is None:
            self._begin()
        if self._wants_wakeup:
            self._wake()

    def call(self, act: Callable[..., object], *args: Any) -> None:
        """Call a function on the scheduler's thread."""
        self._calls.append((act, args))
        self._wake()

    def kill(self, future: Future[Any]) -> bool:
        """Cancel a task, or end it if it runs and the engine can. False if it is done, or in a forked child."""
        if self._pid != os.getpid():
            return False
        if future.cancel():
            return True
        if future.done() or not self.ends_jobs:
            return False
        self.call(self._end, future, CancelledError())
        return True

    def give_up(self, future: Future[Any]) -> None:
        """End a task with `WorkerLost` if no worker can run any of the tasks, as far as the engine knows."""

    def cancel_waiting(self) -> None:
        """Cancel the tasks that no worker has."""
        for task in self.waiting.copy():
            task.future.cancel()
        self.call(self.drop_cancelled)

    def dismiss(self) -> None:
        """End the thread when all tasks are done. Do nothing in a forked child."""
        if self._pid == os.getpid():
            self._is_dismissed = True
            self._wake()

    def join(self) -> None:
        """Wait for the thread to end, unless this is the thread."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._selector = selectors.DefaultSelector()
                self._wake_reader, self._wake_writer = socket.socketpair()
                for side in (self._wake_reader, self._wake_writer):
                    side.setblocking(False)
                self._watch(self._wake_reader, self._drain_wakeups, None)
                name = f"bencher_job-{self.title.split()[-1].lower()}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        self._wants_wakeup = False
        if self._thread is not None:
            with suppress(OSError):  # the buffer is full, or the thread has ended
                self._wake_writer.send(b"!")

    # What the thread does

    @critical
    def _run(self) -> None:
        try:
            self._open()
            while True:
                self._seen = self._added
                if self.waiting:
                    self._feed()
                for worker in self.workers:
                    if len(worker.tasks) > 1:
                        self._share_out(time.monotonic())
                        break
                if self._finished:
                    self._resolve()
                if self._is_dismissed and self._has_ended():
                    break
                self._wait(self._pause(time.monotonic()))
                if self._calls:
                    self._make_calls()
                self._look_after_workers(time.monotonic())
                if self._finished:
                    self._resolve()
            self._fail(self._failure or "it was shut down")
        except BaseException as problem:  # noqa: BLE001 - the futures of all tasks must fail
            if not isinstance(problem, WorkerLost):
                _log.exception("%s: the thread of the scheduler has failed", self.title)
            self._fail(str(problem) if isinstance(problem, WorkerLost) else error_text(problem))
        finally:
            self._close()

    def _make_calls(self) -> None:
        while self._calls:
            act, args = self._calls.popleft()
            act(*args)

    def drop_cancelled(self) -> None:
        """Drop the cancelled tasks that no worker has, and notify their waiters."""
        for _ in range(len(self.waiting)):
            task = self.waiting.popleft()
            if task.is_running or not task.future.cancelled():
                self.waiting.append(task)
            else:
                task.begin()

    def _open(self) -> None:
        """Prepare for the first task."""

    def _close(self) -> None:
        """Release what the thread used."""
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _has_ended(self) -> bool:
        """Whether a dismissed scheduler has nothing left to do."""
        return not (self.waiting or any(worker.tasks for worker in self.workers))

    def _wait(self, seconds: float | None) -> None:
        """Wait until something happens, and handle it."""
        for key, events in self._selector.select(seconds):
            act, worker = key.data
            act(worker, events)

    def _watch(self, source: Any, act: Callable[[Any, int], None], worker: Worker | None) -> None:
        self._selector.register(source, selectors.EVENT_READ, (act, worker))

    def _drain_wakeups(self, _: None, _events: int) -> None:
        with suppress(BlockingIOError):
            while len(self._wake_reader.recv(4096)) == 4096:
                pass

    def _pause(self, now: float) -> float | None:
        """Return how many seconds to wait for events; None for no limit."""
        self._wants_wakeup = not self.waiting
        if self._added != self._seen or self._calls:
            return 0.0
        at = self._next_check(now)
        for worker in self.workers:
            if len(worker.tasks) > 1:
                at = min(at, self._overdue_at(worker))
        return max(0.0, at - now) if at < math.inf else None

    def _next_check(self, now: float) -> float:  # noqa: ARG002 - for subclasses
        """Return when to look after the workers if nothing happens."""
        return math.inf

    def _look_after_workers(self, now: float) -> None:
        """Handle what no event reports."""

    def _feed(self) -> None:
        """Send waiting tasks to workers that have room, those with the least work first."""
        share = max(1, len(self.waiting) // self._width())
        for worker in self._candidates():
            if worker.tasks and worker.load > AHEAD / 2:
                continue
            room = min(worker.room(), share, MOST_TOGETHER)
            while room > 0 and (batch := self._batch(worker, room)):
                if begun := _begun(batch):  # else other processes run all of them
                    self._send(worker, begun)
                    break
            if not self.waiting:
                return

    def _width(self) -> int:
        """Return among how many workers the waiting tasks are divided."""
        return max(1, len(self.workers))

    def _candidates(self) -> Iterable[Any]:
        return sorted(self.workers, key=attrgetter("load"))

    def _batch(self, worker: Worker, most: int) -> list[Task]:
        """Take waiting tasks for a worker, within the limits of number, bytes and time."""
        queue = self.waiting
        batch, nbytes, load = list[Task](), 0, worker.load
        while queue and len(batch) < most:
            task = queue[0]
            task.seconds = self.estimates.of(task.digest, UNKNOWN)
            load += task.seconds
            nbytes += task.parcel.body.nbytes
            if (batch or worker.tasks) and (load > AHEAD or nbytes > self.most_bytes or task.goes_alone):
                break
            queue.popleft()
            if not (self.marks_running or task.future.cancelled()) or task.begin():
                batch.append(task)
                if task.goes_alone:
                    break
            else:
                load -= task.seconds
                nbytes -= task.parcel.body.nbytes
        return batch

    def _send(self, worker: Any, tasks: Sequence[Task]) -> None:
        """Send a batch to a worker."""
        raise NotImplementedError

    def _share_out(self, now: float) -> None:
        """Withdraw the tasks behind an overdue one, and send them elsewhere."""
        overdue = [
            worker for worker in self.workers if len(worker.tasks) > 1 and self._overdue_at(worker) < now
        ]
        for worker in overdue:
            self._return(self._withdraw(worker))
            worker.expect(UNKNOWN)
        if overdue:
            self._feed()

    def _overdue_at(self, worker: Worker) -> float:
        return worker.since + worker.oldest[1].seconds + self.overdue if worker.oldest else math.inf

    def _withdraw(self, worker: Any) -> list[Task]:  # noqa: ARG002 - for subclasses
        """Take back the tasks that a worker has not begun, or ask for them."""
        return []

    def _return(self, tasks: Sequence[Task]) -> None:
        """Put back tasks withdrawn from behind an overdue one, and let other processes run them."""
        starts = [task.start for task in tasks if task.start is not None]
        if starts:
            starts[0].step_back(starts)
        self._put_back(tasks)

    def _put_back(self, tasks: Sequence[Task]) -> None:
        """Put back, at the front, tasks that a worker has not begun or could not load."""
        self.waiting.extendleft(reversed(tasks))

    def _answer(self, worker: Worker, number: int, run_result: RunResult) -> None:
        """Take a task's result."""
        worker.since = time.monotonic()
        task = worker.remove(number)
        if task is not None and run_result.kind is ResultKind.WANTS_FUNCTION:
            worker.forget(task)
            self._put_back([task])
        elif task is not None:  # else it has ended already
            if run_result.kind is not ResultKind.NOT_LOADED:
                self.estimates.note(task.digest, run_result.seconds)
            self._finished.append((task, run_result))

    def _end(self, future: Future[Any], verdict: BaseException) -> None:
        """End a task with an exception."""
        for task in self.waiting.copy():
            if task.future is future:
                self.waiting.remove(task)
                self._finished.append((task, verdict))
                return
        for worker in self.workers:
            for task in worker.tasks.values():
                if task.future is future:
                    self._end_sent(worker, task, verdict)
                    return

    def _end_sent(self, worker: Any, task: Task, verdict: BaseException) -> None:
        """End a task that a worker has, if the engine can."""

    def _take_waiting(self) -> Iterator[Task]:
        """Remove and yield all waiting tasks."""
        while self.waiting:
            yield self.waiting.popleft()

    def _end_waiting(self, error: Callable[[Task], BaseException]) -> None:
        self._finished += [(task, error(task)) for task in self._take_waiting()]

    def _resolve(self) -> None:
        """Resolve the futures of finished tasks."""
        finished, self._finished = self._finished, []
        for task, ended in finished:
            try:
                if not task.begin():
                    continue
                if isinstance(ended, BaseException):
                    task.future.set_exception(ended)
                else:
                    task.resolve(ended)
            except BaseException:  # noqa: BLE001 - an exception in a callback must not affect other jobs
                _log.exception("a callback of %s has failed", task.future)

    def _fail(self, reason: str) -> None:
        """Fail all tasks, and refuse further ones."""
        self._failure = reason
        for worker in self.workers:
            self._finished += [(task, self._lost(task, reason)) for task in worker.tasks.values()]
        self.workers.clear()
        self._end_waiting(lambda task: self._lost(task, reason))
        self._resolve()

    def _lost(self, task: Task, reason: str) -> WorkerLost:
        name = describe(task.label)
        return WorkerLost(f"{self.title} lost {name}: {reason}", job=name)


def _begun(tasks: list[Task]) -> list[Task]:
    """Return the tasks that may begin here. Those that other processes run are cancelled."""
    starts = [task.start for task in tasks if task.start is not None]
    if not starts:
        return tasks
    answers = iter(starts[0].begin(starts))
    begun = []
    for task in tasks:
        if task.start is None or next(answers):
            begun.append(task)
        else:
            task.future.set_exception(CancelledError())
    return begun


class ScheduledExecutor(concurrent.futures.Executor):
    """Run calls in the workers of a scheduler.

    Anything that cloudpickle can pickle may be submitted. A worker caches the functions that it ran last, so a function
    that changes its own state finds the change in the next call in that worker.
    """

    is_local = False
    """Whether the workers are on this machine: large arguments go as buffers, and large results as files."""
    is_asked_to_begin = False
    """Whether a job's `start` is asked when a worker gets the job, not when it is submitted."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.pid = os.getpid()
        """The process that made this executor. A forked child cannot use it."""
        self._scheduler = scheduler
        self._is_shut_down = False

    @property
    def ends_jobs(self) -> bool:
        """Whether it ends a job that exceeds its timeout."""
        return self._scheduler.ends_jobs

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call in a worker.

        Raises:
            RuntimeError: after `shutdown`, or in a forked child of the process that made the executor.
            WorkerLost: if no worker is left.
        """
        self._check()
        try:
            parcel = self._pack(fn, lambda: pack_call(fn, args, kwargs, local=self.is_local))
        except Exception as problem:  # noqa: BLE001 - a class's pickling can raise anything
            return unsendable(fn, problem)
        task = Task(CallFuture(self._scheduler), parcel, fn, unpack_value)
        self._check()
        self._start([task])
        return task.future

    def submit_jobs(self, jobs: Sequence[Job], timeout: float | None = None) -> list[Future[Any]]:
        """Start jobs, whose futures get `RunResult`s.

        Where the engine can end jobs, one that runs for more than `timeout` seconds ends with `JobTimeout`.

        Raises:
            RuntimeError: after `shutdown`, or in a forked child of the process that made the executor.
            WorkerLost: if no worker is left.
        """
        self._check()
        futures: list[Future[Any]] = []
        tasks = []
        for job, parcel in zip(jobs, self._pack_many(jobs), strict=True):
            if isinstance(parcel, Exception):
                futures.append(unsendable(job, parcel))
            else:
                start = job.start if self.is_asked_to_begin else None
                future = CallFuture(self._scheduler, job)
                tasks.append(Task(future, parcel, job, None, timeout, start))
                futures.append(future)
        self._start(tasks)
        return futures

    def _pack(self, function: Any, pack: Callable[[], Any]) -> Any:  # noqa: ARG002 - for subclasses
        """Pack calls of a function in the form that the workers need."""
        return pack()

    def _pack_many(self, jobs: Sequence[Job]) -> Iterable[Parcel | Exception]:
        return pack_many(jobs, local=self.is_local)

    def _start(self, tasks: Sequence[Task]) -> None:
        self._scheduler.add(tasks)

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise RuntimeError(
                f"This {type(self).__name__} belongs to the parent of this process. Make a new one after a fork."
            )
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def kill(self, future: Future[Any]) -> bool:
        """Cancel a call, or end it if it runs and the engine can.

        False if the call is done, the future is not of this executor, or this process is a forked child.
        """
        is_ours = isinstance(future, CallFuture) and future.scheduler is self._scheduler
        return is_ours and self._scheduler.kill(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls, finish or cancel the waiting ones, then end what this executor has started."""
        if self.pid != os.getpid():
            return
        self._is_shut_down = True
        if cancel_futures:
            self._scheduler.cancel_waiting()
        self._scheduler.dismiss()
        if wait:
            self._scheduler.join()
