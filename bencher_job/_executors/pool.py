"""Run jobs in worker processes of this machine.

    submit -> pack -> Task -> PoolScheduler -> slots: result -> the task's future
                                               death -> the lost job's future fails; the others return to the queue
                                               timeout, or a request to end a job -> kill

Workers start as jobs come, up to `max_workers`. The death of a worker costs only the job that it ran. An idle worker
takes over jobs that another worker has received and not begun. Caches with the same settings share a pool.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import time
import weakref
from collections.abc import Hashable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from .._cores import check_threads_can_be_limited
from .._errors import BencherJobError, JobTimeout, WorkerLost
from .._options import PoolOptions
from .engine import describe, end_at_exit, error_text, time_is_over
from .entry import ResultKind, RunResult
from .pickling import CallPickler, dumps, load_error
from .scheduler import ScheduledExecutor, Scheduler, Task
from .slot import END_SECONDS, Slot, lost
from .surroundings import handle_records
from .worker import BEGUN, FAILED, LOGGED, READY, Message

_log = logging.getLogger(__name__)

SHORTEST_HELP: Final = 0.001
"""Seconds of waiting work above which an idle worker takes over half of it."""

FALSE_STARTS: Final = 8
"""Number of workers in a row that may die before they are ready, until a job fails."""

LOADING_SECONDS: Final = 60.0
"""Seconds beyond its timeout that a job may take to load, including its imports, and that a new worker may take to get
ready for it."""

CHECK_SECONDS: Final = 1.0
"""Seconds between checks of a worker that takes longer than that to get ready."""

START_AGAIN_SECONDS: Final = 0.25
"""Seconds until the next attempt to start a worker after a failed one."""


class PoolScheduler(Scheduler):
    """The worker processes of one pool.

    The thread that starts workers must outlive them: the kernel kills them when it ends (PR_SET_PDEATHSIG).
    """

    title = "The pool"
    ends_jobs = True
    most_bytes = 1 << 16
    overdue = 0.02

    def __init__(self, settings: PoolOptions, initialize: bytes | None) -> None:
        super().__init__()
        self._leaving: list[Slot] = []
        self._settings = settings
        self._size = settings.size
        self._initialize = initialize
        self._false_starts = 0
        self._is_closed_down = False
        self._start_again = self._check_at = math.inf

    def close_down(self) -> None:
        """Kill all workers and start no more."""
        if self._pid == os.getpid():
            self._is_closed_down = True
            for slot in [*self.workers, *self._leaving]:
                slot.kill("the program ends")
            self.dismiss()

    def _has_ended(self) -> bool:
        if self._is_closed_down:
            self._end_waiting(lambda _: CancelledError())
            self._resolve()
        if self.waiting:
            return False
        for slot in [slot for slot in self.workers if not slot.tasks]:
            self._stop_slot(slot)
        return not (self.workers or self._leaving)

    def _next_check(self, now: float) -> float:  # noqa: ARG002
        at: float = min(map(self._ends_at, (*self.workers, *self._leaving)), default=math.inf)
        self._check_at = at
        return min(at, self._start_again) if self.waiting else at

    def _feed(self) -> None:
        super()._feed()
        number = len(self.waiting) - sum([not slot.is_ready for slot in self.workers])
        for _ in range(min(self._size - len(self.workers), number)):
            if self._is_closed_down or not self._start_slot():
                break

    def _send(self, slot: Slot, tasks: Sequence[Task]) -> None:
        with suppress(OSError):  # the worker has died, which is handled later
            slot.send(tasks)
        if slot.unsent:
            self._watch_sending(slot)

    def _watch_sending(self, slot: Slot) -> None:
        """Watch for writability while data for a worker is unsent."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if slot.unsent else 0)
        with suppress(KeyError):  # the worker has closed its end
            if self._selector.get_key(slot.end).events != events:
                self._selector.modify(slot.end, events, (self._exchange, slot))

    def _share_out(self, now: float) -> None:
        """Withdraw tasks from behind an overdue one, or for an idle worker, and send them elsewhere."""
        super()._share_out(now)
        if self.waiting or not any(slot.room() and not slot.tasks for slot in self.workers):
            return
        busiest = max(self.workers, key=lambda slot: slot.waiting_seconds)
        if busiest.waiting_seconds > SHORTEST_HELP:
            self._put_back(busiest.withdraw(len(busiest.tasks) // 2))
            self._feed()

    def _withdraw(self, slot: Slot) -> list[Task]:
        return slot.withdraw()

    def _start_slot(self) -> bool:
        """Start a worker. If that fails and there is no other worker, fail the first waiting task."""
        index = min({*range(self._size)}.difference(slot.index for slot in self.workers))
        try:
            slot = Slot(self._settings, self._initialize, index)
        except Exception as problem:  # noqa: BLE001 - starting a process can fail in many ways
            _log.warning("no worker process could be started: %s", error_text(problem))
            self._start_again = time.monotonic() + START_AGAIN_SECONDS
            if not self.workers:
                self._end_first(f"no worker process could be started ({error_text(problem)})")
            return False
        slot.check_at = slot.started_at + LOADING_SECONDS
        self._start_again = math.inf
        self.workers.append(slot)
        self._watch(slot.end, self._exchange, slot)
        self._watch(slot.death, self._handle_death, slot)
        return True

    def _exchange(self, slot: Slot, events: int) -> None:
        if not slot.is_open:  # its death was reported before, among the same events
            return
        if events & selectors.EVENT_WRITE:
            with suppress(OSError):  # it has died, and its results are still to be read
                slot.flush()
            self._watch_sending(slot)
        try:
            for message in slot.inlet.read():
                self._take(message, slot)
        except BlockingIOError:
            pass
        except (EOFError, OSError):  # the worker has closed its end, usually because it ends
            self._selector.unregister(slot.end)
            slot.end_within(END_SECONDS)

    def _take(self, message: Message, slot: Slot) -> None:
        head, buffers = message
        if head[0] == READY:
            slot.is_ready, slot.since = True, time.monotonic()
            self._false_starts = 0
        elif head[0] == FAILED:
            slot.is_retiring = True
            error = load_error(buffers[0])
            self._end_waiting(lambda _: _not_initialized(error))
        elif head[0] == BEGUN:
            slot.begun = head[1], time.monotonic()
        elif head[0] == LOGGED:
            handle_records(buffers)
        else:
            self._take_answer(message, slot)

    def _take_answer(self, message: Message, slot: Slot) -> None:
        head, buffers = message
        number, run_result = head[0], RunResult.of_message(head[1:], buffers)
        task = slot.tasks.get(number)
        if run_result.kind is ResultKind.NOT_LOADED and task is not None and slot.started_at < task.packed_at:
            slot.remove(number)
            self._leave_to_newer(task)
            return
        self._answer(slot, number, run_result)
        if not slot.tasks and (slot.is_retiring or slot.is_used_up):
            self._stop_slot(slot)

    def _leave_to_newer(self, task: Task) -> None:
        """Replace the workers that are older than a task that one could not load, since its code may be newer."""
        self._put_back([task])
        for slot in [slot for slot in self.workers if slot.started_at < task.packed_at]:
            self._put_back(slot.withdraw())
            slot.is_retiring = True
            if not slot.tasks:
                self._stop_slot(slot)

    def _stop_slot(self, slot: Slot) -> None:
        self._leave(slot)
        slot.ask_to_stop()

    def _leave(self, slot: Slot) -> None:
        self.workers.remove(slot)
        self._leaving.append(slot)

    def _handle_death(self, slot: Slot, _events: int) -> None:
        """Handle the death of a worker: keep its results, fail the job that it ran, requeue the rest."""
        code = slot.reap()
        with suppress(EOFError, OSError):
            while True:
                for message in slot.inlet.read():
                    self._take(message, slot)
        with suppress(KeyError):  # the worker had closed its end before
            self._selector.unregister(slot.end)
        self._selector.unregister(slot.death)
        self._put_back(slot.withdraw())
        for task in slot.tasks.values():
            self._finished.append((task, task.verdict or self._verdict(task, code, slot)))
        slot.tasks.clear()
        slot.close()
        (self._leaving if slot in self._leaving else self.workers).remove(slot)
        if not (slot.is_ready or slot.is_retiring):
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS:
                self._false_starts = 0
                self._end_first(f"{FALSE_STARTS} worker processes in a row died before they were ready", code)

    def _verdict(self, task: Task, code: int | None, slot: Slot) -> BaseException:
        if self._is_closed_down:
            return CancelledError()
        is_ours = code is None or code == -signal.SIGKILL
        return lost(task.label, code, slot.killed_because if is_ours else "")

    def _end_sent(self, slot: Slot, task: Task, verdict: BaseException) -> None:
        """End a task that a worker has. Kill the worker if the task has begun."""
        waiting = slot.withdraw()
        if task in waiting:
            waiting.remove(task)
            self._finished.append((task, verdict))
        else:
            task.verdict = verdict
            slot.kill("another job that it had was cancelled, or ran for longer than its timeout")
        self._put_back(waiting)

    def _ends_at(self, slot: Slot) -> float:
        """Return the deadline of a worker by the monotonic clock; infinity if it has none."""
        if slot.stop_deadline is not None:
            return slot.stop_deadline
        if not slot.is_ready:
            return slot.check_at
        for number, task in slot.tasks.items():
            if task.timeout is None:
                break
            begun, at = slot.begun
            return at + task.timeout if begun == number else slot.since + task.timeout + LOADING_SECONDS
        return math.inf

    def _check_start(self, slot: Slot, now: float) -> None:
        """Kill a starting worker if jobs with a timeout have waited too long. They fail, unless another is ready."""
        slot.check_at = now + CHECK_SECONDS
        overdue = [
            task
            for task in self.waiting.copy()
            if task.timeout is not None
            and max(slot.started_at, task.packed_at) + task.timeout + LOADING_SECONDS <= now
        ]
        if overdue:
            slot.kill("it did not get ready in time")
        if not any(other.is_ready for other in self.workers):
            for task in overdue:
                self._end(task.future, _not_begun(task))

    def _look_after_workers(self, now: float) -> None:
        if now < self._check_at:
            return
        for slot in [*self.workers, *self._leaving]:
            if now >= self._ends_at(slot):
                self._handle_deadline(slot, now)

    def _handle_deadline(self, slot: Slot, now: float) -> None:
        if slot.stop_deadline is None and not slot.is_ready:
            self._check_start(slot, now)
        elif slot.stop_deadline is None and slot.oldest is not None:
            _, task = slot.oldest
            self._end_sent(slot, task, time_is_over(task.label, task.timeout or 0.0))
        elif slot.killed_because:  # it may be blocked in the kernel by a broken disk
            self._handle_death(slot, 0)
        else:
            slot.kill("it had closed its connection to the pool")

    def _end_first(self, reason: str, code: int | None = None) -> None:
        """Fail the first waiting task, because there is no worker for it."""
        task = next(self._take_waiting(), None)
        if task is not None:
            name = describe(task.label)
            error = WorkerLost(f"{name} was not begun: {reason}.", job=name, exit_code=code)
            self._finished.append((task, error))

    def _fail(self, reason: str) -> None:
        for slot in [*self.workers, *self._leaving]:
            slot.kill("the pool has failed")
            slot.reap()
            slot.close()
        super()._fail(reason)


def _not_begun(task: Task) -> JobTimeout:
    name, timeout = describe(task.label), task.timeout
    return JobTimeout(
        f"{name} could not begin within its timeout of {timeout:g} s and another {LOADING_SECONDS:g} s: a new worker "
        f"process did not get ready, so it was ended. Does the initializer hang?",
        job=name,
        seconds=timeout,
    )


def _not_initialized(error: BaseException) -> BencherJobError:
    problem = BencherJobError(
        f"The initializer failed in a new worker process: {error_text(error)}. No job runs before it succeeds."
    )
    problem.__cause__ = error
    return problem


class SlotPool(ScheduledExecutor):
    """Run calls in worker processes of this machine.

    Anything that cloudpickle can pickle may be submitted, and a script needs no `__main__` guard. A call whose process
    dies ends with `WorkerLost`; other calls are not affected. A worker that cannot load a call, because its modules are
    older than the submitter's, is replaced. A worker caches the functions that it ran last, so a function that changes
    its own state finds the change in the next call in that worker.

    Each new worker calls `initializer(*initargs)`. `start_method` is "spawn", "forkserver" or "fork". `inner_threads`
    is how many threads BLAS, OpenMP and similar libraries may start in each worker, by default its share of the cores.
    """

    is_local = True
    is_asked_to_begin = True

    def __init__(self, max_workers: int | None = None, **options: Any) -> None:
        settings = PoolOptions(max_workers=max_workers, **options)
        if settings.start_method == "fork":
            check_threads_can_be_limited(settings.inner_threads, "in forked workers")
        settings = replace(settings, max_workers=settings.size)
        self.max_workers = settings.size
        scheduler = PoolScheduler(settings, _pickled_initializer(settings))
        super().__init__(scheduler)
        _schedulers.add(scheduler)
        weakref.finalize(self, scheduler.dismiss).atexit = False

    def __repr__(self) -> str:
        workers = f"{len(self._scheduler.workers)} of {self.max_workers} workers"
        return f"<{type(self).__name__}: {'shut down' if self._is_shut_down else workers}>"


def _pickled_initializer(settings: PoolOptions) -> bytes | None:
    """Pickle the initializer and its arguments.

    Raises:
        BencherJobError: if they cannot be pickled.
    """
    if settings.initializer is None:
        return None
    try:
        return dumps((settings.initializer, settings.initargs), pickler=CallPickler)
    except Exception as problem:
        raise BencherJobError(
            f"initializer={settings.initializer!r} with initargs={settings.initargs!r} can't be sent to a worker: "
            f"{problem}. Create what can't be pickled in the initializer."
        ) from problem


def pool_key(settings: PoolOptions) -> Hashable:
    """Return the key by which caches share a pool."""
    start = settings.start_method or "spawn"
    initialize = _pickled_initializer(settings)
    return replace(settings, start_method=start, initializer=None, initargs=()), initialize


_schedulers: Final[weakref.WeakSet[PoolScheduler]] = weakref.WeakSet()


def _close_down() -> None:
    for scheduler in list(_schedulers):
        scheduler.close_down()


end_at_exit(_close_down)
