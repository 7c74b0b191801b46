"""Knows a crew of workers: who has which jobs, how many to send along, and what the death of one costs.

Jobs go to a worker several at a time where the last ones of their function were short, so that it never waits for
the next; what a worker has ended it tells at once. When one of them is long after all, those behind it are asked
back. A worker that dies takes the job along that it had begun, and no other.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from .far import Task
from .lifelines import Line
from .pace import Pace
from .shipping import LOADED_FUNCTIONS

__all__ = ["Crew", "Worker"]

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
