"""The scheduler that the pool, SCOOP and Dask share: what it sends together, and that each job ends once."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given
from hypothesis import strategies as st

from bencher_job._executors.engine import Place
from bencher_job._executors.entry import ResultKind, RunResult
from bencher_job._executors.packing import Parcel, SentFunction
from bencher_job._executors.remote import Lane, RemoteScheduler
from bencher_job._executors.scheduler import AHEAD, MOST_TOGETHER, OVERHEAD, Scheduler, Task, Worker
from bencher_job._stores.codec import Payload

if TYPE_CHECKING:
    from bencher_job._job import Start

FUNCTION = SentFunction(b"digest", Payload(b"function"))
SHORT, LONG = 0.0, 1.0


def task_of(function: SentFunction = FUNCTION, body: bytes = b"body") -> Task:
    return Task(Future(), Parcel(function, Payload(body)), "label")


def result_of(seconds: float = SHORT) -> RunResult:
    return RunResult(ResultKind.PLAIN, Payload(b""), 0.0, seconds, Place())


class InMemory(Scheduler):
    """A scheduler without a thread, whose workers run a task when they are asked to."""

    def __init__(self, workers: int = 1, tasks: int = 0, seconds: float | None = None) -> None:
        super().__init__()
        self.workers = [Worker() for _ in range(workers)]
        self.waiting.extend(task_of() for _ in range(tasks))
        if seconds is not None:
            self.estimates.note(FUNCTION.digest, seconds)

    def _send(self, worker: Worker, tasks: Any) -> None:
        worker.assign(tasks)

    def _withdraw(self, worker: Worker) -> list[Task]:
        return [task for number in list(worker.tasks)[1:] if (task := worker.remove(number))]

    def sizes(self) -> list[int]:
        """Send what can be sent, and return how many tasks each worker has."""
        self._feed()
        return [len(worker.tasks) for worker in self.workers]

    def run(self, worker: Worker, seconds: float = SHORT) -> None:
        self._answer(worker, next(iter(worker.tasks)), result_of(seconds))
        self._resolve()

    def share_out(self, now: float) -> None:
        self._share_out(now)

    def lose(self, worker: Worker) -> None:
        """Let a worker die: its first task is lost, the others wait again."""
        first, *others = worker.tasks.values()
        self.workers.remove(worker)
        self._finished.append((first, LookupError()))
        self._put_back(others)
        self._resolve()


def test_jobs_of_a_new_function_go_one_at_a_time() -> None:
    assert InMemory(2, tasks=10).sizes() == [1, 1]


def test_short_jobs_go_together_but_no_worker_gets_more_than_its_share() -> None:
    assert InMemory(2, tasks=10, seconds=SHORT).sizes() == [5, 5]
    assert InMemory(2, tasks=1000, seconds=SHORT).sizes() == [MOST_TOGETHER] * 2


def test_jobs_that_go_together_take_no_longer_than_one_may() -> None:
    each = AHEAD / 5
    assert InMemory(1, tasks=1000, seconds=each - OVERHEAD).sizes() == [5]


def test_the_longest_of_the_last_jobs_says_how_long_they_take() -> None:
    scheduler = InMemory(1, tasks=100)
    for seconds in (SHORT, 5.0, SHORT):
        scheduler.estimates.note(FUNCTION.digest, seconds)
    assert scheduler.sizes() == [1]


def test_large_jobs_do_not_go_together() -> None:
    scheduler = InMemory(1, seconds=SHORT)
    scheduler.waiting.extend(task_of(body=bytes(scheduler.most_bytes // 2)) for _ in range(5))
    assert scheduler.sizes() == [2]


def test_a_job_that_is_to_go_alone_does() -> None:
    scheduler = InMemory(3, tasks=9, seconds=SHORT)
    scheduler.waiting[1].goes_alone = True
    assert scheduler.sizes() == [1, 1, 3]


def test_jobs_of_several_functions_go_together() -> None:
    other = SentFunction(b"other", Payload(b"other"))
    scheduler = InMemory(1, tasks=3, seconds=SHORT)
    scheduler.estimates.note(other.digest, SHORT)
    scheduler.waiting.extend([task_of(other), task_of()])
    assert scheduler.sizes() == [5]


def test_what_waits_behind_a_long_job_is_withdrawn_and_goes_elsewhere() -> None:
    scheduler = InMemory(1, tasks=5, seconds=SHORT)
    assert scheduler.sizes() == [5]
    scheduler.share_out(time.monotonic())
    assert scheduler.sizes() == [5]

    scheduler.workers.append(Worker())
    scheduler.share_out(time.monotonic() + 2 * scheduler.overdue)

    while scheduler.waiting:
        assert scheduler.sizes()[0] == 1
    assert scheduler.sizes() == [1, 4]


class Elsewhere:
    """The start of a job that another process runs."""

    def begin(self, starts: list[Elsewhere]) -> list[bool]:
        return [False] * len(starts)


def test_a_worker_gets_the_first_jobs_that_no_other_process_runs() -> None:
    scheduler = InMemory(1, tasks=10)
    tasks = list(scheduler.waiting)
    for task in tasks[:7]:
        task.start = cast("Start", Elsewhere())
    assert scheduler.sizes() == [1]
    assert list(scheduler.workers[0].tasks.values()) == [tasks[7]]
    assert all(isinstance(task.future.exception(0), CancelledError) for task in tasks[:7])


def test_a_cancelled_job_is_left_out() -> None:
    scheduler = InMemory(1, tasks=2, seconds=SHORT)
    first, second = scheduler.waiting
    first.future.cancel()
    assert scheduler.sizes() == [1]
    assert list(scheduler.workers[0].tasks.values()) == [second]


class Cluster(RemoteScheduler):
    """A cluster that is told nothing of its jobs."""

    def _stop(self, lane: Lane) -> None:
        pass


def test_a_job_may_begin_on_a_cluster_once_it_was_cancelled() -> None:
    """And again, at another worker, before the scheduler drops it."""
    cluster, task = Cluster(None), task_of()
    cluster._enter(Lane(is_short=False), [task], "batch")
    assert task.future.cancel()
    cluster._progress("batch")
    cluster._progress("batch")
    cluster.drop(task.future)
    assert task.future.cancelled()
    assert not cluster.waiting


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "run", "run long", "die", "join", "late", "cancel", "end"]),
        st.integers(0, 50),
    ),
    max_size=200,
)


@given(EVENTS, st.booleans())
def test_each_job_runs_at_one_worker_and_ends_once_whatever_happens(events: Any, short: bool) -> None:
    scheduler, tasks, ended = InMemory(2, seconds=SHORT if short else None), list[Task](), list[Future[Any]]()
    for event, number in events:
        workers = [worker for worker in scheduler.workers if worker.tasks]
        worker = workers[number % len(workers)] if workers else None
        if event == "submit":
            tasks += (new := [task_of() for _ in range(number)])
            for task in new:
                task.future.add_done_callback(ended.append)
            scheduler.waiting.extend(new)
        elif event == "cancel" and tasks:
            tasks[number % len(tasks)].future.cancel()
        elif event == "end" and tasks:
            scheduler._end(tasks[number % len(tasks)].future, LookupError())
            scheduler._resolve()
        elif event == "join":
            scheduler.workers.append(Worker())
        elif event == "late":
            scheduler.share_out(time.monotonic() + 2 * scheduler.overdue)
        elif worker is not None and event != "die":
            scheduler.run(worker, LONG if event == "run long" else SHORT)
        elif worker is not None:
            scheduler.lose(worker)
        scheduler.sizes()
        held = [task for each in scheduler.workers for task in each.tasks.values()] + list(scheduler.waiting)
        assert len(set(map(id, held))) == len(held)
        assert len(set(map(id, ended))) == len(ended)
        missing = {id(task) for task in tasks} - {id(task) for task in held}
        assert all(task.future.done() for task in tasks if id(task) in missing)
