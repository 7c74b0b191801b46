"""The scheduler of a pool: a thread that sends jobs to workers and receives results.

    add -> TaskQueue -> slots: result -> future
                               death -> the lost job's future fails; jobs that had not begun return to the queue
                               timeout, or a request to end a job -> kill

Long jobs, and those whose duration is unknown, are sent one at a time. Short jobs are sent together, up to some
milliseconds of work. An idle worker takes over jobs that another worker has received and not begun.

Other threads add tasks and requests, and wake the scheduler's thread if it waits for work.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import suppress
from typing import Any, Final

from .._errors import BencherJobError, JobTimeout, WorkerLost
from .._inside import critical
from .._options import PoolOptions
from .base import Place, error_text
from .durations import AHEAD, UNKNOWN, DurationEstimates
from .entry import ResultKind, RunResult, describe, time_is_over
from .exceptions import load_error
from .slot import Slot, Task, lost
from .wire import Message
from .worker import BEGUN, FAILED, READY

__all__ = ["PoolScheduler", "TaskQueue"]

_log = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 64
"""The largest number of jobs in one message."""

MOST_BYTES_AT_ONCE: Final = 1 << 16
"""The most bytes of arguments in one message of several jobs."""

SHORTEST_HELP: Final = 0.001
"""Seconds of waiting work above which an idle worker takes over half of it."""


class TaskQueue:
    """The waiting tasks, in order. Any thread may add tasks; the scheduler's thread does the rest.

    Attributes:
        tasks: the tasks that any worker can run.
    """

    def __init__(self, most_tasks: int | None) -> None:
        self.tasks: deque[Task] = deque()
        self.durations = DurationEstimates()
        self._for_new: deque[Task] = deque()
        self._most_tasks = most_tasks

    def __len__(self) -> int:
        return len(self.tasks) + len(self._for_new)

    def wants_newer(self, slots: Iterable[Slot]) -> bool:
        """Whether a task waits for a worker newer than all of `slots`, and no slot is about to be replaced."""
        return bool(self._for_new) and not any(
            slot.is_retiring or slot.is_new_to(self._for_new[0]) for slot in slots
        )

    def put_back(self, tasks: Sequence[Task]) -> None:
        """Put back, at the front, tasks that a worker has not begun or could not load."""
        for task in reversed(tasks):
            (self._for_new if task.is_for_new else self.tasks).appendleft(task)

    def take(self, future: Future[Any]) -> Task | None:
        """Remove and return the task of a future, if it waits here."""
        for tasks in (self._for_new, self.tasks):
            for task in list(tasks):
                if task.future is future:
                    tasks.remove(task)
                    return task
        return None

    def all_tasks(self) -> list[Task]:
        """Return all waiting tasks."""
        return [*self._for_new, *self.tasks]

    def take_matching(self, matches: Callable[[Task], bool]) -> list[Task]:
        """Remove and return the waiting tasks that match."""
        taken: list[Task] = []
        for tasks in (self._for_new, self.tasks):
            passed = [tasks.popleft() for _ in range(len(tasks))]
            taken += filter(matches, passed)
            tasks.extendleft(task for task in reversed(passed) if not matches(task))
        return taken

    def takes_more(self, slot: Slot) -> bool:
        """Whether a worker should get more tasks now."""
        return slot.room(self._most_tasks) > 0 and (not slot.given or slot.load <= AHEAD / 2)

    def is_used_up(self, slot: Slot) -> bool:
        """Whether a worker has reached `max_tasks_per_worker`."""
        return self._most_tasks is not None and slot.taken >= self._most_tasks

    def feed(self, slots: Sequence[Slot], sent: Callable[[Slot], None]) -> None:
        """Send tasks to workers that take more, idle ones first. Call `sent` with each."""
        for slot in sorted(slots, key=lambda slot: len(slot.given)):
            if not len(self):
                return
            if self.takes_more(slot):
                self._supply(slot, max(1, len(self) // len(slots)))
                sent(slot)

    def _supply(self, slot: Slot, share: int) -> None:
        while share > 0 and not slot.is_sending and (chunk := self._chunk(slot, share)):
            begun = _begun(chunk)
            share -= len(begun)
            if begun:
                with suppress(OSError):  # the worker has died, which is handled later
                    slot.give(begun)

    def _chunk(self, slot: Slot, most: int) -> list[Task]:
        """Take the tasks of one message: of one function, within the limits of number, bytes and time."""
        chunk: list[Task] = []
        nbytes, seconds = 0, slot.load
        most = min(most, MOST_AT_ONCE, slot.room(self._most_tasks))
        while len(chunk) < most and (task := self._next(slot)) is not None:
            task.seconds = self.durations.of(task.parcel.function.digest)
            seconds += task.seconds
            nbytes += task.nbytes
            if (chunk or slot.given) and (
                seconds > AHEAD or nbytes > MOST_BYTES_AT_ONCE or (chunk and not chunk[0].goes_with(task))
            ):
                self.put_back([task])
                break
            if task.is_handed_out or task.future.set_running_or_notify_cancel():
                task.is_handed_out = True
                chunk.append(task)
            else:  # the future was cancelled
                nbytes -= task.nbytes
                seconds -= task.seconds
        return chunk

    def _next(self, slot: Slot) -> Task | None:
        """Take the first task that a worker can run. A new worker starts with those that need a newer one."""
        is_new = bool(self._for_new) and slot.is_new_to(self._for_new[0])
        tasks = self._for_new if is_new else self.tasks
        try:
            return tasks.popleft()
        except IndexError:  # the queue is empty
            return None

    def share_out(self, slots: Sequence[Slot], sent: Callable[[Slot], None]) -> None:
        """Withdraw tasks behind an overdue job, or for an idle worker, and send them elsewhere."""
        for slot in slots:
            if slot.overdue_at < time.monotonic():
                withdrawn = slot.withdraw()
                _step_back(withdrawn)
                self.put_back(withdrawn)
                slot.expect(UNKNOWN)
        if not self.tasks and any(slot.is_idle and self.takes_more(slot) for slot in slots):
            busiest = max(slots, key=lambda slot: slot.waiting_seconds)
            if busiest.waiting_seconds > SHORTEST_HELP:
                self.put_back(busiest.withdraw(len(busiest.given) // 2))
        self.feed(slots, sent)

    def cancel(self) -> None:
        """Cancel all waiting tasks."""
        for task in self.take_all():
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()

    def take_all(self) -> Iterable[Task]:
        """Remove and yield all waiting tasks."""
        for tasks in (self._for_new, self.tasks):
            with suppress(IndexError):
                while True:
                    yield tasks.popleft()


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


def _step_back(tasks: list[Task]) -> None:
    """Let other processes run tasks withdrawn from behind an overdue job."""
    starts = [task.start for task in tasks if task.start is not None]
    if starts:
        starts[0].step_back(starts)


FALSE_STARTS: Final = 8
"""Number of workers in a row that may die before they are ready, until a job fails."""

LOADING_SECONDS: Final = 60.0
"""Seconds beyond its timeout that a job may take to load, including its imports, and that a new worker may take to get
ready for it."""

START_AGAIN_SECONDS: Final = 0.25
"""Seconds until the next attempt to start a worker after a failed one."""

WATCH_SECONDS: Final = 1.0
"""Seconds between checks of processes whose end the system does not signal."""


class PoolScheduler:
    """The state of one pool, and the only thread that changes it.

    The thread that starts workers must outlive them: the kernel kills them when it ends (PR_SET_PDEATHSIG).

    Attributes:
        slots: the workers that run jobs or wait for some.
    """

    def __init__(self, settings: PoolOptions, initialize: bytes | None) -> None:
        self.slots: list[Slot] = []
        self._leaving: list[Slot] = []
        self._abandoned: list[Slot] = []
        self._settings = settings
        self._initialize = initialize
        self._pid = os.getpid()
        self._queue = TaskQueue(settings.max_tasks_per_worker)
        self._end_requests: deque[tuple[Future[Any], BaseException]] = deque()
        self._finished: list[tuple[Task, RunResult | BaseException]] = []
        self._added = self._seen = self._false_starts = 0
        self._wants_wakeup = True
        self._is_dismissed = self._is_closed_down = False
        self._start_again = math.inf
        self._failure: str | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._selector: selectors.BaseSelector
        self._wake_reader: socket.socket
        self._wake_writer: socket.socket

    def add(self, tasks: Sequence[Task]) -> None:
        """Add tasks.

        Raises:
            BrokenExecutor: if the thread has failed.
        """
        if self._failure is not None:
            raise BrokenExecutor(f"its thread has failed: {self._failure}")
        self._queue.tasks.extend(tasks)
        self._added += 1
        if self._thread is None:
            self._begin()
        if self._wants_wakeup:
            self._wake()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._selector = selectors.DefaultSelector()
                self._wake_reader, self._wake_writer = socket.socketpair()
                for side in (self._wake_reader, self._wake_writer):
                    side.setblocking(False)
                self._watch(self._wake_reader, self._drain_wakeups, None)
                self._thread = threading.Thread(target=self._run, name="bencher_job-pool", daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        self._wants_wakeup = False
        if self._thread is not None:
            with suppress(OSError):  # the buffer is full, or the thread has ended
                self._wake_writer.send(b"!")

    def end(self, future: Future[Any], verdict: BaseException) -> bool:
        """Request the end of a task that was sent. Its process is killed if it has begun. False if the task is done."""
        if future.done():
            return False
        self._end_requests.append((future, verdict))
        self._wake()
        return True

    def cancel_waiting(self) -> None:
        """Cancel the tasks in the queue."""
        self._queue.cancel()

    def dismiss(self) -> None:
        """End the thread when all tasks are done. Do nothing in a forked child."""
        if self._pid == os.getpid():
            self._is_dismissed = True
            self._wake()

    def close_down(self) -> None:
        """Kill all workers and start no more."""
        if self._pid == os.getpid():
            self._is_closed_down = True
            for slot in [*self.slots, *self._leaving]:
                slot.kill("the program ends")
            self.dismiss()

    def join(self) -> None:
        """Wait for the thread to end, unless this is the thread."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    @critical
    def _run(self) -> None:
        try:
            while True:
                self._seen = self._added
                self._feed()
                self._resolve()
                if self._has_ended():
                    break
                for key, events in self._selector.select(self._pause()):
                    act, slot = key.data
                    act(slot, events)
                self._end_requested()
                self._look_after_slots()
                self._resolve()
        except BaseException as problem:  # noqa: BLE001 - the futures of all tasks must fail
            _log.exception("a pool of workers has failed")
            self._fail(error_text(problem))
        finally:
            self._selector.close()
            self._wake_reader.close()
            self._wake_writer.close()

    def _has_ended(self) -> bool:
        if not self._is_dismissed:
            return False
        if self._is_closed_down:
            self._end_waiting(CancelledError)
            self._resolve()
        if not len(self._queue):
            for slot in [slot for slot in self.slots if not slot.given]:
                self._stop_slot(slot)
        is_waited_for = any(slot not in self._abandoned for slot in self._leaving)
        return not (len(self._queue) or self.slots or is_waited_for)

    def _pause(self) -> float | None:
        """Return how many seconds to wait for events; None for no limit."""
        is_full = len(self.slots) >= self._settings.size and not any(map(self._queue.takes_more, self.slots))
        self._wants_wakeup = not (is_full or self._queue.tasks)
        if self._added != self._seen or self._end_requests:
            return 0.0
        now = time.monotonic()
        slots = [*self.slots, *self._leaving]
        ends = [end for slot in slots if (end := self._ends_at(slot)) is not None]
        ends += [slot.overdue_at for slot in self.slots if len(slot.given) > 1]
        if len(self._queue) and self._start_again < math.inf:
            ends.append(self._start_again)
        if any(slot.death is None for slot in slots):
            ends.append(now + WATCH_SECONDS)
        return max(0.0, min(ends) - now) if ends else None

    def _watch(self, source: Any, act: Callable[[Any, int], None], slot: Slot | None) -> None:
        self._selector.register(source, selectors.EVENT_READ, (act, slot))

    def _drain_wakeups(self, _: None, _events: int) -> None:
        with suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass

    def _feed(self) -> None:
        self._queue.feed(self.slots, self._has_sent)
        self._make_room_for_new()
        starting = sum(not slot.is_ready for slot in self.slots)
        waiting = len(self._queue) - starting
        for _ in range(min(self._settings.size - len(self.slots), waiting)):
            if not self._is_closed_down and not self._start_slot():
                break
        self._queue.share_out(self.slots, self._has_sent)

    def _make_room_for_new(self) -> None:
        """Retire a worker if a task waits for a newer one."""
        is_full = len(self.slots) >= self._settings.size
        if is_full and self._queue.wants_newer(self.slots):
            self._retire(min(self.slots, key=lambda slot: slot.load))

    def _has_sent(self, slot: Slot) -> None:
        """Watch for writability while data for a worker is unsent."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if slot.is_sending else 0)
        with suppress(KeyError):  # the worker has closed its end
            if self._selector.get_key(slot.end).events != events:
                self._selector.modify(slot.end, events, (self._exchange, slot))

    def _start_slot(self) -> bool:
        """Start a worker. If that fails and there is no other worker, fail the first waiting task."""
        try:
            slot = Slot(self._settings, self._initialize)
        except Exception as problem:  # noqa: BLE001 - starting a process can fail in many ways
            _log.warning("no worker process could be started: %s", error_text(problem))
            self._start_again = time.monotonic() + START_AGAIN_SECONDS
            if not self.slots:
                self._end_first(f"no worker process could be started ({error_text(problem)})")
            return False
        self._start_again = math.inf
        self.slots.append(slot)
        self._watch(slot.end, self._exchange, slot)
        if slot.death is not None:
            self._watch(slot.death, self._handle_death, slot)
        return True

    def _exchange(self, slot: Slot, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            with suppress(OSError):  # it has died, and its results are still to be read
                slot.flush()
            self._has_sent(slot)
        try:
            for message in slot.read():
                self._take(message, slot)
        except (EOFError, OSError):  # the worker has closed its end, usually because it ends
            self._selector.unregister(slot.end)
            if not slot.is_retiring and not slot.ends_by_itself():
                slot.kill("it had closed its connection to the pool")
            if slot.death is None:
                self._handle_death(slot, 0)

    def _take(self, message: Message, slot: Slot) -> None:
        head, buffers = message
        if head[0] == READY:
            slot.is_ready, slot.place, slot.since = True, Place(*head[1]), time.monotonic()
            self._false_starts = 0
        elif head[0] == FAILED:
            slot.is_retiring = True
            error = load_error(buffers[0])
            self._end_waiting(lambda: _not_initialized(error))
        elif head[0] == BEGUN:
            slot.begun = head[1], time.monotonic()
        else:
            self._take_answer(message, slot)

    def _take_answer(self, message: Message, slot: Slot) -> None:
        task, run_result = slot.answered(message[0][0]), RunResult.of_message(message, slot.place)
        if task is None:  # the task has ended already
            return
        if run_result.kind is not ResultKind.NOT_LOADED:
            self._queue.durations.note(task.parcel.function.digest, run_result.seconds)
        if run_result.kind is ResultKind.NOT_LOADED and not task.is_for_new and not slot.has_run_only(task):
            self._leave_to_newer(slot, task)
        else:
            self._finished.append((task, run_result))
        if not slot.given and (slot.is_retiring or self._queue.is_used_up(slot)):
            self._stop_slot(slot)

    def _leave_to_newer(self, slot: Slot, task: Task) -> None:
        """Queue a task that a worker could not load for a newer worker, and retire this one."""
        if slot.is_new_to(task):  # an earlier job has changed what it can load
            task.packed_at = time.monotonic()
        task.is_for_new = True
        self._queue.put_back([*slot.withdraw(), task])
        slot.is_retiring = True

    def _retire(self, slot: Slot) -> None:
        """Send a worker no more tasks, and stop it when it has finished."""
        slot.is_retiring = True
        if not slot.given:
            self._stop_slot(slot)

    def _stop_slot(self, slot: Slot) -> None:
        self._leave(slot)
        slot.ask_to_stop()

    def _leave(self, slot: Slot) -> None:
        self.slots.remove(slot)
        self._leaving.append(slot)

    def _handle_death(self, slot: Slot, _events: int) -> None:
        """Handle the death of a worker: keep its results, fail the job that it ran, requeue the rest."""
        code = slot.reap()
        with suppress(EOFError, OSError):
            while True:
                for message in slot.receive():
                    self._take(message, slot)
        with suppress(KeyError):  # the worker had closed its end before
            self._selector.unregister(slot.end)
        if slot.death is not None:
            self._selector.unregister(slot.death)
        self._queue.put_back(slot.withdraw())
        for task in slot.given.values():
            self._finished.append((task, task.verdict or self._verdict(task, code, slot)))
        slot.given.clear()
        slot.close()
        (self._leaving if slot in self._leaving else self.slots).remove(slot)
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

    def _end_requested(self) -> None:
        while self._end_requests:
            future, verdict = self._end_requests.popleft()
            taken_back = self._queue.take(future)
            if taken_back is not None:
                self._finished.append((taken_back, verdict))
                continue
            for slot in self.slots:
                for task in slot.given.values():
                    if task.future is future:
                        self._end(task, slot, verdict)
                        break

    def _end(self, task: Task, slot: Slot, verdict: BaseException) -> None:
        """End a task that a worker has. Kill the worker if the task has begun."""
        waiting = slot.withdraw()
        if task in waiting:
            waiting.remove(task)
            self._finished.append((task, verdict))
        else:
            task.verdict = verdict
            slot.kill("another job that it had was cancelled, or ran for longer than its timeout")
        self._queue.put_back(waiting)

    def _ends_at(self, slot: Slot) -> float | None:
        """Return the deadline of a worker by the monotonic clock, if it has one."""
        if slot.stop_deadline is not None:
            return slot.stop_deadline
        if not slot.is_ready:
            return self._start_ends_at(slot)
        if slot.oldest is None:
            return None
        number, task = slot.oldest
        if task.timeout is None:
            return None
        begun, at = slot.begun
        return at + task.timeout if begun == number else slot.since + task.timeout + LOADING_SECONDS

    def _start_ends_at(self, slot: Slot) -> float:
        """Return when to check whether a job waits too long for a starting worker."""
        now, soonest = time.monotonic(), slot.started_at + LOADING_SECONDS
        if now < soonest:
            return soonest
        limits = (_begins_by(task, slot) for task in self._queue.all_tasks())
        return min(now + WATCH_SECONDS, *limits)

    def _end_start(self, slot: Slot, now: float) -> None:
        """Kill a worker that is not ready in time. Fail the overdue waiting jobs, unless another worker is ready."""
        slot.kill("it did not get ready in time")
        if not any(other.is_ready for other in self.slots):
            overdue = self._queue.take_matching(lambda task: _begins_by(task, slot) <= now)
            self._finished += [(task, _not_begun(task)) for task in overdue]

    def _look_after_slots(self) -> None:
        now = time.monotonic()
        for slot in [*self.slots, *self._leaving]:
            if slot.death is None and slot.is_dead():
                self._handle_death(slot, 0)
                continue
            end = self._ends_at(slot)
            if end is None or now < end:
                continue
            if slot.stop_deadline is None and not slot.is_ready:
                self._end_start(slot, now)
            elif slot.stop_deadline is None and slot.oldest is not None:
                _, task = slot.oldest
                self._end(task, slot, time_is_over(task.label, task.timeout or 0.0))
            elif slot in self._leaving:
                slot.kill("it didn't leave")
            else:
                self._abandon(slot)

    def _abandon(self, slot: Slot) -> None:
        """Stop waiting for the end of a killed worker, which may be blocked in the kernel by a broken disk."""
        for task in slot.given.values():
            self._finished.append((task, task.verdict or self._verdict(task, None, slot)))
        slot.given.clear()
        self._leave(slot)
        self._abandoned.append(slot)

    def _end_first(self, reason: str, code: int | None = None) -> None:
        """Fail the first waiting task, because there is no worker for it."""
        task = next(iter(self._queue.take_all()), None)
        if task is not None:
            name = describe(task.label)
            self._finished.append(
                (task, WorkerLost(f"{name} was not begun: {reason}.", job=name, exit_code=code))
            )

    def _end_waiting(self, error: Callable[[], BaseException]) -> None:
        self._finished += [(task, error()) for task in self._queue.take_all()]

    def _resolve(self) -> None:
        """Resolve the futures of finished tasks."""
        finished, self._finished = self._finished, []
        for task, ended in finished:
            if not (task.is_handed_out or task.future.set_running_or_notify_cancel()):
                continue
            try:
                if isinstance(ended, BaseException):
                    task.future.set_exception(ended)
                else:
                    task.resolve(ended)
            except BaseException:  # noqa: BLE001 - an exception in a callback must not affect other jobs
                _log.exception("a callback of %s has failed", task.future)

    def _fail(self, reason: str) -> None:
        self._failure = reason
        tasks = [*(task for slot in self.slots for task in slot.given.values()), *self._queue.take_all()]
        for slot in [*self.slots, *self._leaving]:
            slot.kill("the pool has failed")
            slot.reap()
            slot.close()
        for task in tasks:
            name = describe(task.label)
            self._finished.append((task, WorkerLost(f"The pool lost {name}: {reason}", job=name)))
        self.slots.clear()
        self._resolve()


def _begins_by(task: Task, slot: Slot) -> float:
    """Return the deadline of a task that waits for a starting worker, by the monotonic clock."""
    if task.timeout is None:
        return math.inf
    return max(slot.started_at, task.packed_at) + task.timeout + LOADING_SECONDS


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
