from __future__ import annotations

from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from bencher_job._executors import scoop
from bencher_job._executors.packing import FunctionBytes, SplitParcel
from bencher_job._executors.remote import RemoteTask
from bencher_job._executors.scoop import ScoopScheduler, Worker

FUNCTION = FunctionBytes(b"digest", b"function")


class FakeConnection:
    """A connection whose worker has begun a given job."""

    def __init__(self):
        self.begun = 0
        self.recalled = []

    def recall(self, last):
        self.recalled.append(last)


def task_of(function=FUNCTION, rest=b"rest"):
    return RemoteTask(Future(), SplitParcel(function, rest), "label", lambda run_result, label: run_result)


def scheduler_of(workers, tasks=0, connection=FakeConnection):
    scheduler = ScoopScheduler()
    for number in range(workers):
        name = b"%d" % number
        scheduler.workers[name] = Worker(name, "host", number, connection and connection())
    scheduler.waiting.extend(task_of() for _ in range(tasks))
    return scheduler


def teach(scheduler, seconds, digest=FUNCTION.digest):
    """Set the duration estimate of a function."""
    scheduler._durations.note(digest, seconds)


def assigned(scheduler, now=0.0):
    return [len(numbers) for _, numbers in scheduler.assign(now)]


def test_jobs_of_a_new_function_go_one_at_a_time():
    assert assigned(scheduler_of(2, tasks=10)) == [1, 1]


def test_short_jobs_go_together_but_no_worker_gets_more_than_its_share():
    scheduler = scheduler_of(2, tasks=10)
    teach(scheduler, 0.0)
    assert assigned(scheduler) == [5, 3, 1, 1]


def test_jobs_that_go_together_take_no_longer_than_one_may():
    scheduler = scheduler_of(1, tasks=1000)
    teach(scheduler, 0.0019)
    assert assigned(scheduler)[0] == scoop.TOGETHER_SECONDS // 0.002


def test_the_longest_of_the_last_jobs_says_how_long_they_take():
    scheduler = scheduler_of(1, tasks=100)
    for seconds in (0.0, 5.0, 0.0):
        teach(scheduler, seconds)
    assert assigned(scheduler) == [1]


def test_large_jobs_do_not_go_together():
    scheduler = scheduler_of(1)
    teach(scheduler, 0.0)
    scheduler.waiting.extend(task_of(rest=bytes(scoop.MOST_BYTES_TOGETHER // 2)) for _ in range(5))
    assert assigned(scheduler)[0] == 2


def test_a_worker_whose_death_would_not_be_noticed_gets_one_job_at_a_time():
    scheduler = scheduler_of(1, tasks=10, connection=None)
    teach(scheduler, 0.0)
    assert assigned(scheduler) == [1]


def test_nothing_is_sent_behind_a_job_that_runs_for_long_already():
    scheduler = scheduler_of(1, tasks=10)
    assert assigned(scheduler, now=0.0) == [1]
    teach(scheduler, 0.0)
    assert assigned(scheduler, now=scoop.TOGETHER_SECONDS * 2) == []


def test_what_waits_behind_a_long_job_is_asked_back_once_and_goes_elsewhere():
    scheduler = scheduler_of(1, tasks=5)
    teach(scheduler, 0.0)
    assert assigned(scheduler) == [5]
    (worker,) = scheduler.workers.values()
    begun = min(worker.tasks)
    late = scoop.STUCK_SECONDS * 2

    assert not worker.is_stuck(scoop.STUCK_SECONDS / 2)
    assert worker.is_stuck(late)
    scheduler.recall(worker, late)
    assert worker.connection.recalled == [max(worker.tasks)]
    assert not worker.is_stuck(late)
    scheduler.take_back(worker, begun)

    assert list(worker.tasks) == [begun]
    scheduler.workers[b"other"] = other = Worker(b"other", "host", 1, FakeConnection())
    assert assigned(scheduler) == [1]  # one at a time, since the estimate has grown
    assert len(other.tasks) == 1


def test_a_cancelled_job_is_left_out():
    scheduler = scheduler_of(1, tasks=2)
    first, second = scheduler.waiting
    first.future.cancel()
    assert assigned(scheduler) == [1]
    (worker,) = scheduler.workers.values()
    assert list(worker.tasks.values()) == [second]


def test_the_job_that_had_begun_is_lost_and_the_others_wait_again_in_order():
    scheduler = scheduler_of(1, tasks=5)
    tasks = list(scheduler.waiting)
    teach(scheduler, 0.0)
    assigned(scheduler)
    (worker,) = scheduler.workers.values()
    worker.connection.begun = list(worker.tasks)[2]

    assert scheduler.lose(worker) == [tasks[2]]
    assert list(scheduler.waiting) == tasks[:2] + tasks[3:]
    assert scheduler.workers == {}


def test_without_a_line_the_first_job_is_lost():
    scheduler = scheduler_of(1, tasks=2, connection=None)
    first, second = scheduler.waiting
    assigned(scheduler)
    assert scheduler.lose(scheduler.workers[b"0"]) == [first]
    assert list(scheduler.waiting) == [second]


def test_a_job_whose_workers_all_die_before_they_begin_it_is_given_up():
    scheduler = scheduler_of(scoop.ATTEMPTS, tasks=1)
    (task,) = scheduler.waiting
    lost = []
    for _ in range(scoop.ATTEMPTS):
        ((worker, _),) = scheduler.assign(0.0)
        assert lost == []
        lost = scheduler.lose(worker)
    assert lost == [task]


def test_a_worker_keeps_the_functions_that_it_used_last():
    worker = Worker(b"name", "host", 1)
    digests = [b"%d" % number for number in range(scoop.LOADED_FUNCTIONS + 1)]
    assert [worker.mark_loaded(digest) for digest in digests] == [False] * len(digests)
    assert worker.mark_loaded(digests[1])
    assert not worker.mark_loaded(digests[0])


def test_a_function_that_a_worker_lacks_goes_with_its_job_again():
    scheduler = scheduler_of(1, tasks=1)
    ((worker, (number,)),) = scheduler.assign(0.0)
    assert not worker.mark_loaded(FUNCTION.digest)
    scheduler.lacks_function(worker, number)
    ((worker, _),) = scheduler.assign(0.0)
    assert not worker.mark_loaded(FUNCTION.digest)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["submit", "run", "end", "die", "join", "ask", "cancel"]), st.integers(0, 50)),
    max_size=200,
)


@given(EVENTS, st.booleans())
def test_each_job_runs_at_one_worker_and_ends_once_whatever_happens(events, short):
    scheduler, tasks, ended, now = scheduler_of(2), [], [], 0.0
    if short:
        teach(scheduler, 0.0)
    for event, number in events:
        now += 0.02
        workers = list(scheduler.workers.values())
        worker = workers[number % len(workers)] if workers else None
        if event == "submit":
            tasks += (new := [task_of() for _ in range(number)])
            scheduler.waiting.extend(new)
        elif event == "cancel" and tasks:
            tasks[number % len(tasks)].future.cancel()
        elif event == "join":
            name = b"late %d" % len(scheduler.workers)
            scheduler.workers.setdefault(name, Worker(name, "host", 9, FakeConnection()))
        elif worker is None:
            continue
        elif event == "run" and worker.tasks:
            worker.connection.begun = next(iter(worker.tasks))
        elif event == "end" and worker.connection.begun in worker.tasks:
            ended.append(scheduler.ended(worker, worker.connection.begun, 0.0, now))
        elif event == "die":
            ended += scheduler.lose(worker)
        elif event == "ask" and len(worker.tasks) > 1:
            scheduler.recall(worker, now)
            scheduler.take_back(worker, worker.connection.begun)
        for _ in scheduler.assign(now):
            pass
        held = [task for each in scheduler.workers.values() for task in each.tasks.values()] + list(
            scheduler.waiting
        )
        assert len(set(map(id, held + ended))) == len(held + ended)
        gone = {id(task) for task in tasks} - {id(task) for task in held + ended}
        assert all(task.future.cancelled() for task in tasks if id(task) in gone)
