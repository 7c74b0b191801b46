from __future__ import annotations

from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from bencher_job._executors import scoop as crews
from bencher_job._executors.packing import FunctionBytes, SplitParcel
from bencher_job._executors.remote import Task
from bencher_job._executors.scoop import Crew, Worker

FUNCTION = FunctionBytes(b"digest", b"function")


class FakeLine:
    """Knows which job has begun, as a worker would tell."""

    def __init__(self):
        self.begun = 0
        self.asked = []

    def ask_back(self, last):
        self.asked.append(last)


def task_of(function=FUNCTION, rest=b"rest"):
    return Task(Future(), SplitParcel(function, rest), "label", lambda report, label: report)


def crew_of(workers, tasks=0, line=FakeLine):
    crew = Crew()
    for number in range(workers):
        name = b"%d" % number
        crew.workers[name] = Worker(name, "host", number, line and line())
    crew.waiting.extend(task_of() for _ in range(tasks))
    return crew


def teach(crew, seconds, digest=FUNCTION.digest):
    """Let jobs of a function have taken so long."""
    crew._pace.note(digest, seconds)


def assigned(crew, now=0.0):
    return [len(numbers) for _, numbers in crew.assign(now)]


def test_jobs_of_a_new_function_go_one_at_a_time():
    assert assigned(crew_of(2, tasks=10)) == [1, 1]


def test_short_jobs_go_together_but_no_worker_gets_more_than_its_share():
    crew = crew_of(2, tasks=10)
    teach(crew, 0.0)
    assert assigned(crew) == [5, 3, 1, 1]


def test_jobs_that_go_together_take_no_longer_than_one_may():
    crew = crew_of(1, tasks=1000)
    teach(crew, 0.0019)
    assert assigned(crew)[0] == crews.TOGETHER_SECONDS // 0.002


def test_the_longest_of_the_last_jobs_says_how_long_they_take():
    crew = crew_of(1, tasks=100)
    for seconds in (0.0, 5.0, 0.0):
        teach(crew, seconds)
    assert assigned(crew) == [1]


def test_large_jobs_do_not_go_together():
    crew = crew_of(1)
    teach(crew, 0.0)
    crew.waiting.extend(task_of(rest=bytes(crews.MOST_BYTES_TOGETHER // 2)) for _ in range(5))
    assert assigned(crew)[0] == 2


def test_a_worker_whose_death_would_not_be_noticed_gets_one_job_at_a_time():
    crew = crew_of(1, tasks=10, line=None)
    teach(crew, 0.0)
    assert assigned(crew) == [1]


def test_nothing_is_sent_behind_a_job_that_runs_for_long_already():
    crew = crew_of(1, tasks=10)
    assert assigned(crew, now=0.0) == [1]
    teach(crew, 0.0)
    assert assigned(crew, now=crews.TOGETHER_SECONDS * 2) == []


def test_what_waits_behind_a_long_job_is_asked_back_once_and_goes_elsewhere():
    crew = crew_of(1, tasks=5)
    teach(crew, 0.0)
    assert assigned(crew) == [5]
    (worker,) = crew.workers.values()
    begun = min(worker.tasks)
    late = crews.STUCK_SECONDS * 2

    assert not worker.is_stuck(crews.STUCK_SECONDS / 2)
    assert worker.is_stuck(late)
    crew.ask_back(worker, late)
    assert worker.line.asked == [max(worker.tasks)]
    assert not worker.is_stuck(late)
    crew.come_back(worker, begun)

    assert list(worker.tasks) == [begun]
    crew.workers[b"other"] = other = Worker(b"other", "host", 1, FakeLine())
    assert assigned(crew) == [1]  # one at a time now
    assert len(other.tasks) == 1


def test_a_cancelled_job_is_left_out():
    crew = crew_of(1, tasks=2)
    first, second = crew.waiting
    first.future.cancel()
    assert assigned(crew) == [1]
    (worker,) = crew.workers.values()
    assert list(worker.tasks.values()) == [second]


def test_the_job_that_had_begun_is_lost_and_the_others_wait_again_in_order():
    crew = crew_of(1, tasks=5)
    tasks = list(crew.waiting)
    teach(crew, 0.0)
    assigned(crew)
    (worker,) = crew.workers.values()
    worker.line.begun = list(worker.tasks)[2]

    assert crew.lose(worker) == [tasks[2]]
    assert list(crew.waiting) == tasks[:2] + tasks[3:]
    assert crew.workers == {}


def test_without_a_line_the_first_job_is_lost():
    crew = crew_of(1, tasks=2, line=None)
    first, second = crew.waiting
    assigned(crew)
    assert crew.lose(crew.workers[b"0"]) == [first]
    assert list(crew.waiting) == [second]


def test_a_job_whose_workers_all_die_before_they_begin_it_is_given_up():
    crew = crew_of(crews.ATTEMPTS, tasks=1)
    (task,) = crew.waiting
    lost = []
    for _ in range(crews.ATTEMPTS):
        ((worker, _),) = crew.assign(0.0)
        assert lost == []
        lost = crew.lose(worker)
    assert lost == [task]


def test_a_worker_keeps_the_functions_that_it_used_last():
    worker = Worker(b"name", "host", 1)
    digests = [b"%d" % number for number in range(crews.LOADED_FUNCTIONS + 1)]
    assert [worker.keeps(digest) for digest in digests] == [False] * len(digests)
    assert worker.keeps(digests[1])
    assert not worker.keeps(digests[0])


def test_a_function_that_a_worker_lacks_goes_with_its_job_again():
    crew = crew_of(1, tasks=1)
    ((worker, (number,)),) = crew.assign(0.0)
    assert not worker.keeps(FUNCTION.digest)
    crew.lacks_function(worker, number)
    ((worker, _),) = crew.assign(0.0)
    assert not worker.keeps(FUNCTION.digest)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["submit", "run", "end", "die", "join", "ask", "cancel"]), st.integers(0, 50)),
    max_size=200,
)


@given(EVENTS, st.booleans())
def test_each_job_runs_at_one_worker_and_ends_once_whatever_happens(events, short):
    crew, tasks, ended, now = crew_of(2), [], [], 0.0
    if short:
        teach(crew, 0.0)
    for event, number in events:
        now += 0.02
        workers = list(crew.workers.values())
        worker = workers[number % len(workers)] if workers else None
        if event == "submit":
            tasks += (new := [task_of() for _ in range(number)])
            crew.waiting.extend(new)
        elif event == "cancel" and tasks:
            tasks[number % len(tasks)].future.cancel()
        elif event == "join":
            name = b"late %d" % len(crew.workers)
            crew.workers.setdefault(name, Worker(name, "host", 9, FakeLine()))
        elif worker is None:
            continue
        elif event == "run" and worker.tasks:
            worker.line.begun = next(iter(worker.tasks))
        elif event == "end" and worker.line.begun in worker.tasks:
            ended.append(crew.ended(worker, worker.line.begun, 0.0, now))
        elif event == "die":
            ended += crew.lose(worker)
        elif event == "ask" and len(worker.tasks) > 1:
            crew.ask_back(worker, now)
            crew.come_back(worker, worker.line.begun)
        for _ in crew.assign(now):
            pass
        held = [task for each in crew.workers.values() for task in each.tasks.values()] + list(crew.waiting)
        assert len(set(map(id, held + ended))) == len(held + ended)
        gone = {id(task) for task in tasks} - {id(task) for task in held + ended}
        assert all(task.future.cancelled() for task in tasks if id(task) in gone)
