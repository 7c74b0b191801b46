"""Engines that hand batches of jobs to a cluster, which has a queue of its own.

    submit -> RemoteScheduler: batches ~~> the cluster's queue ~~> a worker: run_batch
    future <- RemoteScheduler <- the parts of run results, as each batch ends <~~

Long jobs are all handed over at once, which an adaptive cluster needs to grow. Of a new function, some jobs are sent
alone first, and the others wait a moment for their duration. Short jobs go in batches, some for each place of the
cluster, because a cluster needs about a millisecond for each task.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from .._errors import BencherJobError, CacheWarning, WorkerLost, warn_caller
from .._keys.names import is_own_module
from .engine import describe, error_text
from .entry import STUCK_SECONDS, Ended, RunResult
from .packing import Parcel, SentFunction, pack
from .pickling import LoadedModules, Recent, by_value
from .scheduler import AHEAD, ScheduledExecutor, Scheduler, Task, Worker

if TYPE_CHECKING:
    from .._job import Job


_log = logging.getLogger(__name__)


def _with_own_modules(function: Any, pack: Callable[[], Parcel]) -> Parcel:
    """Pack a call with the code of the user's own modules, which the workers need not have.

    Raises:
        Exception: whatever pickling the function or an argument raises.
    """
    try:
        with by_value(*_own_modules()):
            return pack()
    except Exception:  # noqa: BLE001 - a module that cannot be pickled may be installed on the workers
        with by_value(sys.modules.get(getattr(function, "__module__", None) or "")):
            return pack()


def _is_own(module: ModuleType) -> bool:
    return getattr(module, "__file__", None) is not None and is_own_module(module)


_own_modules: Final = LoadedModules(_is_own)


LOOK_SECONDS: Final = 5.0
"""Seconds without news after which the cluster is asked whether it runs any of the jobs."""

WARN_SECONDS: Final = 30.0
"""Seconds for which no worker has run any job, after which a warning says so."""

ONCE_FROM: Final = 1 << 16
"""Size in bytes above which a function is put on the cluster once, and not sent with each batch."""

BATCHES_PER_PLACE: Final = 3
"""How many batches of short jobs may be pending per thread of the cluster. Beyond that, jobs wait and later batches
are larger."""

TRIES_PER_PLACE: Final = 2
"""How many jobs of a new function are sent per thread of the cluster before their duration is known."""

PATIENCE: Final = 0.2
"""Seconds that the other jobs of a new function wait at most."""

KEPT_FUNCTIONS: Final = 8
"""How many large functions stay on the cluster."""

PLACES_SECONDS: Final = 2.0
"""Seconds for which the number of the cluster's places is cached."""


class Lane(Worker):
    """Takes one batch to the cluster.

    Attributes:
        is_short: whether its jobs are known to be short.
        key: the name of the batch on the cluster.
        future: the cluster's future of the batch.
        needs: the data that must stay on the cluster until the batch has ended.
        may_go_again: whether its data or its results may have been lost with a worker that another job has killed.
        begun: when its present job began, as far as is known.
        losses: how often its worker ended when it had begun.
    """

    def __init__(self, *, is_short: bool) -> None:
        super().__init__()
        self.is_short = is_short
        self.key = ""
        self.future: Any = None
        self.needs: tuple[Any, ...] = ()
        self.may_go_again = False
        self.begun: float | None = None
        self.losses = 0

    def room(self) -> int:
        """Return how many tasks it may get: one batch, and one task of unknown or long duration."""
        return super().room() if self.is_short else 1


class RemoteScheduler(Scheduler):
    """The batches that a cluster has."""

    marks_running = False
    remedy = ""
    """What to do if no worker runs any of the jobs."""
    where_to_install = ""
    """How else a module comes to the workers, for an error message."""
    has_a_queue = False
    """Whether workers are requested from a queue, and come after a time that nobody knows."""

    def __init__(self, patience: float | None) -> None:
        super().__init__()
        self._patience = patience
        self._heard_at = self._asked_at = time.monotonic()
        self._stuck_since: float | None = None
        self._has_warned = False
        self._lanes: dict[str, Lane] = {}
        self._short_lanes = 0
        self._key_of: weakref.WeakKeyDictionary[Future[Any], str] = weakref.WeakKeyDictionary()
        self._tries: Recent[bytes, tuple[int, float]] = Recent(64)
        self._on_cluster: Recent[bytes, Any] = Recent(KEPT_FUNCTIONS)
        self._places, self._places_known_until = 0, 0.0

    def _places_now(self) -> int:
        """Return how many jobs the cluster runs at once, as last known. Learn it again if that is old."""
        now = time.monotonic()
        if now > self._places_known_until:
            self._places_known_until = now + PLACES_SECONDS
            self._learn_places()
        return self._places

    @abstractmethod
    def _learn_places(self) -> None:
        """Set `_places`, now or soon."""

    @abstractmethod
    def _put_on_cluster(self, pickled: Any) -> Any:
        """Store bytes on the cluster, and return a reference."""

    def _once(self, function: SentFunction) -> Any:
        """Return a function's bytes, or a reference to those of a large one, which are stored once."""
        pickled, digest = tuple(function.payload), function.digest
        there = self._on_cluster.use(digest)
        if function.payload.nbytes <= ONCE_FROM or (there is None and self._places_now() == 0):
            return pickled  # without workers, the first job may start them
        if there is None:
            there = self._put_on_cluster(pickled)
            self._on_cluster.keep(digest, there)
        return there

    def _finish_lost(self, task: Task, problem: BaseException) -> None:
        """End a task with the cluster's failure to run it, as an error of this library."""
        name = describe(task.label)
        error: BencherJobError
        if isinstance(problem, WorkerLost):
            error = problem
        elif isinstance(problem, ModuleNotFoundError):
            error = BencherJobError(
                f"A worker of the {self.title} cluster has no module {problem.name}, which {name} needs there. Install "
                f"it where the workers run{self.where_to_install}."
            )
        else:
            reason = "the scheduler is gone" if isinstance(problem, CancelledError) else error_text(problem)
            error = WorkerLost(f"{self.title} lost {name}: {reason}", job=name)
        if error is not problem:
            error.__cause__ = problem
        self._finished.append((task, error))

    @abstractmethod
    def _stop(self, lane: Lane) -> None:
        """Cancel a batch on the cluster, if it still can be."""

    @abstractmethod
    def _ask_what_runs(self) -> None:
        """Find out whether a worker runs any batch, or can, and pass it to `_note_what_runs`."""

    def _hear(self) -> None:
        """Record that the cluster works."""
        self._heard_at = time.monotonic()
        self._stuck_since = None
        self._has_warned = False

    def _note_what_runs(self, is_anything: bool) -> None:
        if is_anything or not self._lanes:
            self._hear()
        elif self._stuck_since is None:
            self._stuck_since = self._heard_at

    def _look_after_workers(self, now: float) -> None:
        """Warn if no worker can run any of the jobs for long, and end them after `patience` seconds."""
        if not self._lanes:
            self._hear()
            return
        if now - max(self._heard_at, self._asked_at) > self._look_seconds():
            self._asked_at = now
            self._ask_what_runs()
        if self._stuck_since is None:
            return
        seconds, reason = now - self._stuck_since, self._why_stuck(now - self._stuck_since)
        if self._patience is not None and seconds > self._patience:
            self._lose_all(reason)
        elif seconds > WARN_SECONDS:
            self._warn(f"{reason}, or give patience= to end the jobs.")

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning("%s: %s", self.title, reason)
            with suppress(CacheWarning):  # the user may turn warnings into errors
                warn_caller(f"{self.title}: {reason}")

    def _why_stuck(self, seconds: float) -> str:
        jobs = sum(len(lane.tasks) for lane in self._lanes.copy().values()) + len(self.waiting)
        return f"no worker has run any of {jobs} jobs for {seconds:.0f} s. {self.remedy}"

    def give_up(self, future: Future[Any]) -> None:
        """End a task with `WorkerLost` if no worker can run any, that has been so for long, and it may stay so."""
        since = self._stuck_since
        if since is not None and self._patience is None and not self.has_a_queue:
            seconds = time.monotonic() - since
            if seconds > WARN_SECONDS:
                reason = f"{self._why_stuck(seconds)}. The cache was closed, or the program ended"
                self.call(self._end_lost, future, reason)

    def _end_lost(self, future: Future[Any], reason: str) -> None:
        task = self._take_out(future)
        self._warn(f"{reason}.")
        if task is not None:
            self._finished.append((task, self._lost(task, reason)))
        self._resolve()

    def _look_seconds(self) -> float:
        return LOOK_SECONDS if self._patience is None else min(LOOK_SECONDS, self._patience / 4)

    def _lose_all(self, reason: str) -> None:
        """End all jobs, because nothing will run them."""
        self._end_waiting(lambda task: self._lost(task, reason))
        for lane in list(self._lanes.values()):
            if lane.future is not None:
                self._stop(lane)
            self._finished += [(task, self._lost(task, reason)) for task in self._closed(lane)]
        self._hear()

    def _has_ended(self) -> bool:
        return not self._lanes and super()._has_ended()

    def _fail(self, reason: str) -> None:
        for lane in list(self._lanes.values()):
            self.waiting.extend(self._closed(lane))
        super()._fail(reason)

    def cancel_waiting(self) -> None:
        """Cancel the tasks that no worker has begun, as far as is known."""
        super().cancel_waiting()
        for lane in self._lanes.copy().values():
            for task in lane.tasks.copy().values():
                task.future.cancel()

    def _width(self) -> int:
        return BATCHES_PER_PLACE * max(1, self._places_now())

    def _candidates(self) -> Iterator[Lane]:
        """Yield a new lane as long as the next waiting task may go."""
        now, places = time.monotonic(), max(1, self._places_now())
        free = BATCHES_PER_PLACE * places - self._short_lanes
        while self.waiting:
            task = self.waiting[0]
            seconds = self.estimates.of(task.digest, None)
            is_short = not task.goes_alone and seconds is not None and seconds <= AHEAD
            if is_short:
                free -= 1
            if free < 0 or (seconds is None and not task.goes_alone and not self._may_try(task, now, places)):
                return
            yield Lane(is_short=is_short)

    def _may_try(self, task: Task, now: float, places: int) -> bool:
        """Whether a task of a new function may go now: one of the first, or after a moment."""
        number, since = self._tries.get(task.digest, (0, now))
        may_go = number < TRIES_PER_PLACE * places or now - since > PATIENCE
        if may_go:
            self._tries.keep(task.digest, (number + 1, since))
        return may_go

    def _next_check(self, now: float) -> float:
        if self.waiting:
            return now + PATIENCE / 4
        return now + self._look_seconds() if self._lanes else math.inf

    def _enter(self, lane: Lane, tasks: Sequence[Task], key: str) -> None:
        """Set the tasks and the name of a batch."""
        lane.assign(tasks)
        lane.key = key
        for task in tasks:
            self._key_of[task.future] = key
        self._lanes[key] = lane
        self._short_lanes += lane.is_short

    def _progress(self, key: str, ended: Sequence[Ended] = (), begun: int | None = None) -> None:
        """Handle a worker's report: a batch has begun, or one of its jobs takes long and those behind it return."""
        lane = self._lanes.get(key)
        if lane is None:
            return
        self._hear()
        lane.begun = time.monotonic()
        if begun is None:
            for task in lane.tasks.values():
                task.begin()
            return
        self._answer_all(lane, ended)
        if lane.oldest is not None:
            self.estimates.note(lane.oldest[1].digest, STUCK_SECONDS)
        behind = [number for number in lane.tasks if number - 1 > begun]
        self._put_back([removed for number in behind if (removed := lane.remove(number)) is not None])

    def _answer_all(self, lane: Lane, ended: Sequence[Ended]) -> None:
        for place, parts in ended:
            self._answer(lane, place + 1, RunResult.of_parts(parts))

    def _end_batch(self, lane: Lane, ended: Sequence[Ended]) -> None:
        self._hear()
        self._answer_all(lane, ended)
        self._put_back(self._closed(lane))  # what the batch has returned, if the event was lost

    def _closed(self, lane: Lane) -> list[Task]:
        """Remove a batch that has ended. Return its unfinished tasks."""
        if self._lanes.pop(lane.key, None) is not None:
            self._short_lanes -= lane.is_short
        tasks = list(lane.tasks.values())
        lane.tasks.clear()
        return tasks

    def drop(self, future: Future[Any]) -> None:
        """Drop a cancelled task, and cancel its batch if that has no other."""
        task = self._take_out(future)
        if task is not None:
            task.begin()
        self._resolve()

    def _take_out(self, future: Future[Any]) -> Task | None:
        """Remove and return a task, and cancel its batch if that has no other."""
        for waiting in self.waiting.copy():
            if waiting.future is future and not future.cancelled():  # else the next pass drops it
                self.waiting.remove(waiting)
                return waiting
        lane = self._lanes.get(self._key_of.get(future, ""))
        if lane is None:
            return None
        numbers = [number for number, task in lane.tasks.items() if task.future is future]
        removed = lane.remove(numbers[0]) if numbers else None
        if not lane.tasks and lane.future is not None:
            self._stop(lane)
            self._closed(lane)
        return removed


class RemoteExecutor(ScheduledExecutor):
    """Run calls on a cluster, whose workers need not have the caller's own modules."""

    _scheduler: RemoteScheduler

    def __init__(self, scheduler: RemoteScheduler) -> None:
        super().__init__(scheduler)
        weakref.finalize(self, scheduler.dismiss).atexit = False

    def _pack(self, function: Any, pack: Callable[[], Any]) -> Any:
        return _with_own_modules(function, pack)

    def _pack_many(self, jobs: Sequence[Job]) -> Iterable[Parcel | Exception]:
        for job in jobs:
            try:
                yield _with_own_modules(job.function, partial(pack, job, local=False))
            except Exception as problem:  # noqa: BLE001 - a class's pickling can raise anything
                yield problem

    def _start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.future.add_done_callback(self._pass_on_cancel)
        super()._start(tasks)

    def _pass_on_cancel(self, future: Future[Any]) -> None:
        if future.cancelled():
            self._scheduler.call(self._scheduler.drop, future)
