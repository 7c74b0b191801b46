"""Knows how much of the work that waits each worker gets.

unknown or long jobs: one at a time | short ones: as many as make up some milliseconds, in few messages
a worker has nothing to do, and nothing waits: it gets what another one was given and has not begun
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from .pace import AHEAD, UNKNOWN, Pace
from .slot import Slot, Task

__all__ = ["Handout"]

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
            share -= len(chunk)
            with suppress(OSError):  # the worker is gone, and will be found dead
                slot.give(chunk)

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
                self.put_back(slot.withdraw())
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
