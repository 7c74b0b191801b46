"""The thread that drives a pool: it hands out jobs and receives results.

unknown or long jobs: one at a time | short ones: as many as make up some milliseconds, in few messages
a worker has nothing to do, and nothing waits: it gets what another one was given and has not begun

    add -> Handout -> slots: answer -> future
                             death -> the lost job's future, and what it had not begun back to the handout
                             time over, or an order to end a job -> kill

Other threads add tasks and orders, and wake the thread when it sleeps with its hands free.
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
from .base import Place, told
from .durations import AHEAD, UNKNOWN, Pace
from .entry import Kind, Report, describe, time_is_over
from .exceptions import load_error
from .settings import PoolSettings
from .slot import Slot, Task, lost
from .wire import Message
from .worker import BEGUN, FAILED, READY

__all__ = ["Dispatcher", "Handout"]


MOST_AT_ONCE: Final = 64
"""How many jobs go in one message at most."""

MOST_BYTES_AT_ONCE: Final = 1 << 16
"""How many bytes of arguments go in one message of several jobs at most."""

SHORTEST_HELP: Final = 0.001
"""Seconds of waiting work from which it is worth to take half of it to a worker that has nothing to do."""


class Handout:
    """The tasks that wait, in order; one thread hands them out, and any may add some.

    Attributes:
        tasks: those that any worker can run.
    """

    def __init__(self, most_tasks: int | None) -> None:
        self.tasks: deque[Task] = deque()
        self.pace = Pace()
        self._for_new: deque[Task] = deque()
        self._most_tasks = most_tasks

    def __len__(self) -> int:
        return len(self.tasks) + len(self._for_new)

    def wants_newer(self, slots: Iterable[Slot]) -> bool:
        """Whether a task waits that none of these can run, nor one that takes the place of a retiring one."""
        return bool(self._for_new) and not any(
            slot.is_retiring or slot.is_new_to(self._for_new[0]) for slot in slots
        )

    def put_back(self, tasks: Sequence[Task]) -> None:
        """Put tasks first that a worker was given and has not begun, or could not load."""
        for task in reversed(tasks):
            (self._for_new if task.is_for_new else self.tasks).appendleft(task)

    def take(self, future: Future[Any]) -> Task | None:
        """Take the task of a future, if it waits here: one that a worker was given may have been put back."""
        for tasks in (self._for_new, self.tasks):
            for task in list(tasks):
                if task.future is future:
                    tasks.remove(task)
                    return task
        return None

    def all_tasks(self) -> list[Task]:
        """Give all that wait."""
        return [*self._for_new, *self.tasks]

    def take_those(self, chosen: Callable[[Task], bool]) -> list[Task]:
        """Take the tasks that are chosen of those that wait."""
        taken: list[Task] = []
        for tasks in (self._for_new, self.tasks):
            passed = [tasks.popleft() for _ in range(len(tasks))]
            taken += filter(chosen, passed)
            tasks.extendleft(task for task in reversed(passed) if not chosen(task))
        return taken

    def takes_more(self, slot: Slot) -> bool:
        """Whether a worker should be given more at present."""
        return slot.room(self._most_tasks) > 0 and (not slot.given or slot.load <= AHEAD / 2)

    def is_used_up(self, slot: Slot) -> bool:
        """Whether a worker has run as many jobs as it may."""
        return self._most_tasks is not None and slot.taken >= self._most_tasks

    def feed(self, slots: Sequence[Slot], sent: Callable[[Slot], None]) -> None:
        """Give work to those that take more, first to those that have none; `sent` is called with each."""
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
                with suppress(OSError):  # the worker is gone, and will be found dead
                    slot.give(begun)

    def _chunk(self, slot: Slot, most: int) -> list[Task]:
        """Take tasks that go to a worker in one message: all of one function, and no more than it may have."""
        chunk: list[Task] = []
        nbytes, seconds = 0, slot.load
        most = min(most, MOST_AT_ONCE, slot.room(self._most_tasks))
        while len(chunk) < most and (task := self._next(slot)) is not None:
            task.seconds = self.pace.of(task.parcel.function.digest)
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
            else:  # it was cancelled
                nbytes -= task.nbytes
                seconds -= task.seconds
        return chunk

    def _next(self, slot: Slot) -> Task | None:
        """Take the first task that a worker can run; a new one begins with what the others can't."""
        is_new = bool(self._for_new) and slot.is_new_to(self._for_new[0])
        tasks = self._for_new if is_new else self.tasks
        try:
            return tasks.popleft()
        except IndexError:  # none is left
            return None

    def share_out(self, slots: Sequence[Slot], sent: Callable[[Slot], None]) -> None:
        """Take back what waits behind a job that takes longer than expected, or while another worker has nothing."""
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
        """Cancel all that wait."""
        for task in self.take_all():
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()

    def take_all(self) -> Iterable[Task]:
        """Take all that wait."""
        for tasks in (self._for_new, self.tasks):
            with suppress(IndexError):
                while True:
                    yield tasks.popleft()


def _begun(tasks: list[Task]) -> list[Task]:
    """Leave out tasks that other processes run; their futures end."""
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
    """Let other processes run tasks that wait behind a long one."""
    starts = [task.start for task in tasks if task.start is not None]
    if starts:
        starts[0].step_back(starts)


FALSE_STARTS: Final = 8
"""How many workers in a row may die before they are ready for a job."""

LOADING_SECONDS: Final = 60.0
"""Seconds beyond its timeout that a job may take to load, with all the modules that its function imports, and a worker
to get ready for it."""

START_AGAIN_SECONDS: Final = 0.25
"""Seconds until another attempt to start a worker, after one that the system has refused."""

WATCH_SECONDS: Final = 1.0
"""Seconds between two looks at processes of whose end the system doesn't tell."""

_log = logging.getLogger(__name__)


class Dispatcher:
    """The state of one pool, and the thread that alone changes it.

    The thread that starts workers must live as long as they do: the kernel ends them with it.

    Attributes:
        slots: the workers that run jobs or may.
    """

    def __init__(self, settings: PoolSettings, initialize: bytes | None) -> None:
        self.slots: list[Slot] = []
        self._leaving: list[Slot] = []
        self._given_up: list[Slot] = []
        self._settings = settings
        self._initialize = initialize
        self._pid = os.getpid()
        self._handout = Handout(settings.max_tasks_per_worker)
        self._orders: deque[tuple[Future[Any], BaseException]] = deque()
        self._finished: list[tuple[Task, Report | BaseException]] = []
        self._added = self._seen = self._false_starts = 0
        self._is_hungry = True
        self._is_dismissed = self._is_closed_down = False
        self._start_again = math.inf
        self._failure: str | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._selector: selectors.BaseSelector
        self._bell: socket.socket
        self._rope: socket.socket

    def add(self, tasks: Sequence[Task]) -> None:
        """Have tasks run.

        Raises:
            BrokenExecutor: when the thread has failed.
        """
        if self._failure is not None:
            raise BrokenExecutor(f"its thread has failed: {self._failure}")
        self._handout.tasks.extend(tasks)
        self._added += 1
        if self._thread is None:
            self._begin()
        if self._is_hungry:
            self._wake()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._selector = selectors.DefaultSelector()
                self._bell, self._rope = socket.socketpair()
                for side in (self._bell, self._rope):
                    side.setblocking(False)
                self._watch(self._bell, self._hear, None)
                self._thread = threading.Thread(target=self._run, name="bencher_job-pool", daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        self._is_hungry = False
        if self._thread is not None:
            with suppress(OSError):  # it has been woken often enough, or has ended
                self._rope.send(b"!")

    def end(self, future: Future[Any], verdict: BaseException) -> bool:
        """End a task that was handed out, by killing its process if it has begun; False when it is done."""
        if future.done():
            return False
        self._orders.append((future, verdict))
        self._wake()
        return True

    def cancel_waiting(self) -> None:
        """Cancel the tasks that no worker has."""
        self._handout.cancel()

    def dismiss(self) -> None:
        """Have the thread end when all is done; a forked child leaves that to its parent."""
        if self._pid == os.getpid():
            self._is_dismissed = True
            self._wake()

    def close_down(self) -> None:
        """End whatever runs, and start nothing more."""
        if self._pid == os.getpid():
            self._is_closed_down = True
            for slot in [*self.slots, *self._leaving]:
                slot.kill("the program ends")
            self.dismiss()

    def join(self) -> None:
        """Wait for the end of the thread, unless this is it."""
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
                self._follow_orders()
                self._look_after_slots()
                self._resolve()
        except BaseException as problem:  # noqa: BLE001 - whoever waits is told, whatever it is
            _log.exception("a pool of workers has failed")
            self._fail(told(problem))
        finally:
            self._selector.close()
            self._bell.close()
            self._rope.close()

    def _has_ended(self) -> bool:
        if not self._is_dismissed:
            return False
        if self._is_closed_down:
            self._end_waiting(CancelledError)
            self._resolve()
        if not len(self._handout):
            for slot in [slot for slot in self.slots if not slot.given]:
                self._let_go(slot)
        is_waited_for = any(slot not in self._given_up for slot in self._leaving)
        return not (len(self._handout) or self.slots or is_waited_for)

    def _pause(self) -> float | None:
        """Say how long there is nothing to do unless somebody tells."""
        is_full = len(self.slots) >= self._settings.size and not any(
            map(self._handout.takes_more, self.slots)
        )
        self._is_hungry = not (is_full or self._handout.tasks)
        if self._added != self._seen or self._orders:
            return 0.0
        now = time.monotonic()
        slots = [*self.slots, *self._leaving]
        ends = [end for slot in slots if (end := self._ends_at(slot)) is not None]
        ends += [slot.overdue_at for slot in self.slots if len(slot.given) > 1]
        if len(self._handout) and self._start_again < math.inf:
            ends.append(self._start_again)
        if any(slot.death is None for slot in slots):
            ends.append(now + WATCH_SECONDS)
        return max(0.0, min(ends) - now) if ends else None

    def _watch(self, source: Any, act: Callable[[Any, int], None], slot: Slot | None) -> None:
        self._selector.register(source, selectors.EVENT_READ, (act, slot))

    def _hear(self, _: None, _events: int) -> None:
        with suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass

    def _feed(self) -> None:
        self._handout.feed(self.slots, self._has_sent)
        self._make_room_for_new()
        starting = sum(not slot.is_ready for slot in self.slots)
        waiting = len(self._handout) - starting
        for _ in range(min(self._settings.size - len(self.slots), waiting)):
            if not self._is_closed_down and not self._start_slot():
                break
        self._handout.share_out(self.slots, self._has_sent)

    def _make_room_for_new(self) -> None:
        """Replace a worker where a task waits for a newer one than all that there are."""
        is_full = len(self.slots) >= self._settings.size
        if is_full and self._handout.wants_newer(self.slots):
            self._retire(min(self.slots, key=lambda slot: slot.load))

    def _has_sent(self, slot: Slot) -> None:
        """Be told by the system when a worker takes more of what is still to be sent to it."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if slot.is_sending else 0)
        with suppress(KeyError):  # it has closed its end
            if self._selector.get_key(slot.end).events != events:
                self._selector.modify(slot.end, events, (self._talk, slot))

    def _start_slot(self) -> bool:
        """Start a worker; where that can't be done, the others do the work, or the first who waits is told."""
        try:
            slot = Slot(self._settings, self._initialize)
        except Exception as problem:  # noqa: BLE001 - the system says no in many ways
            _log.warning("no worker process could be started: %s", told(problem))
            self._start_again = time.monotonic() + START_AGAIN_SECONDS
            if not self.slots:
                self._end_first(f"no worker process could be started ({told(problem)})")
            return False
        self._start_again = math.inf
        self.slots.append(slot)
        self._watch(slot.end, self._talk, slot)
        if slot.death is not None:
            self._watch(slot.death, self._find_dead, slot)
        return True

    def _talk(self, slot: Slot, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            with suppress(OSError):  # it is gone, and what it has answered is still to be read
                slot.flush()
            self._has_sent(slot)
        try:
            for message in slot.read():
                self._take(message, slot)
        except (EOFError, OSError):  # it has closed its end, as it does when it ends
            self._selector.unregister(slot.end)
            if not slot.is_retiring and not slot.ends_by_itself():
                slot.kill("it had closed its connection to the pool")
            if slot.death is None:
                self._find_dead(slot, 0)

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
        task, report = slot.answered(message[0][0]), Report.of_message(message, slot.place)
        if task is None:  # nobody waits for it any more
            return
        if report.kind is not Kind.NOT_LOADED:
            self._handout.pace.note(task.parcel.function.digest, report.seconds)
        if report.kind is Kind.NOT_LOADED and not task.is_for_new and not slot.has_run_only(task):
            self._leave_to_newer(slot, task)
        else:
            self._finished.append((task, report))
        if not slot.given and (slot.is_retiring or self._handout.is_used_up(slot)):
            self._let_go(slot)

    def _leave_to_newer(self, slot: Slot, task: Task) -> None:
        """Give a task that a worker could not load to one that is newer, and let this one go."""
        if slot.is_new_to(task):  # what it has run before has changed something
            task.packed_at = time.monotonic()
        task.is_for_new = True
        self._handout.put_back([*slot.withdraw(), task])
        slot.is_retiring = True

    def _retire(self, slot: Slot) -> None:
        """Give a worker nothing more, and let it go when it has done what it has."""
        slot.is_retiring = True
        if not slot.given:
            self._let_go(slot)

    def _let_go(self, slot: Slot) -> None:
        self._leave(slot)
        slot.let_go()

    def _leave(self, slot: Slot) -> None:
        self.slots.remove(slot)
        self._leaving.append(slot)

    def _find_dead(self, slot: Slot, _events: int) -> None:
        """Bury a worker: what it has answered counts, what it had begun is lost, the rest goes to others."""
        code = slot.bury()
        with suppress(EOFError, OSError):
            while True:
                for message in slot.receive():
                    self._take(message, slot)
        with suppress(KeyError):  # it had closed its end before
            self._selector.unregister(slot.end)
        if slot.death is not None:
            self._selector.unregister(slot.death)
        self._handout.put_back(slot.withdraw())
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

    def _follow_orders(self) -> None:
        while self._orders:
            future, verdict = self._orders.popleft()
            taken_back = self._handout.take(future)
            if taken_back is not None:
                self._finished.append((taken_back, verdict))
                continue
            for slot in self.slots:
                for task in slot.given.values():
                    if task.future is future:
                        self._end(task, slot, verdict)
                        break

    def _end(self, task: Task, slot: Slot, verdict: BaseException) -> None:
        """End a task that a worker has: by killing the worker, if it has begun."""
        waiting = slot.withdraw()
        if task in waiting:
            waiting.remove(task)
            self._finished.append((task, verdict))
        else:
            task.verdict = verdict
            slot.kill("another job that it had was cancelled, or ran for longer than its timeout")
        self._handout.put_back(waiting)

    def _ends_at(self, slot: Slot) -> float | None:
        """Say when a worker's time is over, by the monotonic clock."""
        if slot.patience_ends is not None:
            return slot.patience_ends
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
        """Say when to look whether a job waits for too long for a worker that is being started."""
        now, soonest = time.monotonic(), slot.started_at + LOADING_SECONDS
        if now < soonest:
            return soonest
        limits = (_begins_by(task, slot) for task in self._handout.all_tasks())
        return min(now + WATCH_SECONDS, *limits)

    def _end_start(self, slot: Slot, now: float) -> None:
        """End a worker that does not get ready, and the jobs that have waited for it in vain unless others run them."""
        slot.kill("it did not get ready in time")
        if not any(other.is_ready for other in self.slots):
            overdue = self._handout.take_those(lambda task: _begins_by(task, slot) <= now)
            self._finished += [(task, _not_begun(task)) for task in overdue]

    def _look_after_slots(self) -> None:
        now = time.monotonic()
        for slot in [*self.slots, *self._leaving]:
            if slot.death is None and slot.is_dead():
                self._find_dead(slot, 0)
                continue
            end = self._ends_at(slot)
            if end is None or now < end:
                continue
            if slot.patience_ends is None and not slot.is_ready:
                self._end_start(slot, now)
            elif slot.patience_ends is None and slot.oldest is not None:
                _, task = slot.oldest
                self._end(task, slot, time_is_over(task.label, task.timeout or 0.0))
            elif slot in self._leaving:
                slot.kill("it didn't leave")
            else:
                self._give_up(slot)

    def _give_up(self, slot: Slot) -> None:
        """Wait no longer for the end of a worker that was killed, as one that waits for a broken disk."""
        for task in slot.given.values():
            self._finished.append((task, task.verdict or self._verdict(task, None, slot)))
        slot.given.clear()
        self._leave(slot)
        self._given_up.append(slot)

    def _end_first(self, reason: str, code: int | None = None) -> None:
        """Tell the first who waits that there is no worker for it."""
        task = next(iter(self._handout.take_all()), None)
        if task is not None:
            name = describe(task.label)
            self._finished.append(
                (task, WorkerLost(f"{name} was not begun: {reason}.", job=name, exit_code=code))
            )

    def _end_waiting(self, error: Callable[[], BaseException]) -> None:
        self._finished += [(task, error()) for task in self._handout.take_all()]

    def _resolve(self) -> None:
        """Tell those who wait for what has ended."""
        finished, self._finished = self._finished, []
        for task, ended in finished:
            if not (task.is_handed_out or task.future.set_running_or_notify_cancel()):
                continue
            try:
                if isinstance(ended, BaseException):
                    task.future.set_exception(ended)
                else:
                    task.resolve(ended)
            except BaseException:  # noqa: BLE001 - what a callback raises must end no other job
                _log.exception("a callback of %s has failed", task.future)

    def _fail(self, reason: str) -> None:
        self._failure = reason
        tasks = [*(task for slot in self.slots for task in slot.given.values()), *self._handout.take_all()]
        for slot in [*self.slots, *self._leaving]:
            slot.kill("the pool has failed")
            slot.bury()
            slot.close()
        for task in tasks:
            name = describe(task.label)
            self._finished.append((task, WorkerLost(f"The pool lost {name}: {reason}", job=name)))
        self.slots.clear()
        self._resolve()


def _begins_by(task: Task, slot: Slot) -> float:
    """Say when the time of a task is over if it waits for a worker that is not ready, by the monotonic clock."""
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
        f"The initializer failed in a new worker process: {told(error)}. No job runs before it succeeds."
    )
    problem.__cause__ = error
    return problem
