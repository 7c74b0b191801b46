from __future__ import annotations

import os
import pickle
import platform
import threading
import time

import cloudpickle
import numpy as np
import pytest
import wrapt

from bencher_job import BencherJobError, Job, current_job_key, gen_path
from bencher_job._executors import describe, inside_worker, packing, pickling
from bencher_job._executors.entry import RunResult, run_packed
from bencher_job._executors.packing import pack


def job_of(function, *positional, **kwargs):
    return Job("name", function, kwargs, "key", "tag", positional=positional)


def run(job):
    """The outcome of a job that was sent as bytes."""
    parcel = pack(job, local=False)
    sent = parcel.body.stream, tuple(parcel.function.payload)
    parts = run_packed(*pickle.loads(pickle.dumps(sent, protocol=4)))
    return RunResult.of_parts(pickle.loads(pickle.dumps(parts, protocol=4))).open(job)


def test_a_job_runs_as_the_job_that_it_is(tmp_path):
    job = job_of(lambda a, *, b: (a, b, current_job_key(), gen_path("file"), inside_worker()), 1, b=2)
    job.media_folder = tmp_path / "media"

    outcome = run(job)

    assert outcome.error is None
    assert outcome.value[:3] == (1, 2, "key")
    assert outcome.value[3].startswith(str(tmp_path / "media"))
    assert outcome.value[4] is True
    assert inside_worker() is False


def test_a_plain_value_brings_its_bytes():
    outcome = run(job_of(np.arange, 100_000))

    assert outcome.payload.nbytes > 800_000
    outcome.value[0] = 7
    assert outcome.payload.load()[0] == 0


def test_a_value_without_importable_name_keeps_its_class():
    class Local:
        pass

    outcome = run(job_of(lambda: Local()))

    assert type(outcome.value) is Local
    assert outcome.payload is None


def test_large_arguments_arrive_and_are_writable():
    def write(array):
        array[0] = 9
        return array.sum()

    array = np.zeros(100_000)

    assert run(job_of(write, array)).value == 9
    assert array[0] == 0


def test_a_large_function_arrives():
    table = np.arange(100_000)

    def look_up(i):
        table[0] += 0
        return int(table[i])

    assert run(job_of(look_up, 5)).value == 5


def test_a_function_is_loaded_once(monkeypatch):
    def count(seen=[]):
        seen.append(1)
        return len(seen)

    assert [run(job_of(count)).value for _ in range(3)] == [1, 2, 3]
    for number in range(packing.LOADED_FUNCTIONS):
        run(job_of(lambda number=number: number))
    assert run(job_of(count)).value == 1


def test_changed_state_makes_another_function():
    box = [1]

    def read():
        return box[0]

    assert run(job_of(read)).value == 1
    box[0] = 2
    assert run(job_of(read)).value == 2


class CachedFunction(wrapt.FunctionWrapper):
    _bencher_job_cached = True

    def reduce_for_worker(self, by_value):
        return rebuilt, (self.__wrapped__,)


def rebuilt(function):
    return CachedFunction(
        function, lambda wrapped, instance, args, kwargs: ("cached", wrapped(*args, **kwargs))
    )


def test_a_cached_function_is_shipped_plain_and_those_it_calls_cached():
    inner = rebuilt(lambda x: x + 1)
    outer = rebuilt(lambda x: inner(x))

    assert cloudpickle.loads(pickling.dumps(inner))(1) == ("cached", 2)
    assert run(job_of(outer, 1)).value == ("cached", 2)


@pytest.mark.parametrize("error", [ValueError("v"), SystemExit(2), KeyboardInterrupt()])
def test_whatever_a_job_raises_is_its_error(error):
    def fail():
        raise error

    outcome = run(job_of(fail))

    assert type(outcome.error) is type(error)
    assert outcome.error.args == error.args


def test_a_result_that_cannot_be_pickled_is_an_error():
    outcome = run(job_of(threading.Lock))

    assert isinstance(outcome.error, BencherJobError)
    assert "_thread.lock" in str(outcome.error)


def test_a_result_that_cannot_be_unpickled_is_an_error_that_names_the_job():
    class Unloadable:
        def __reduce__(self):
            return int, ("not a number",)

    outcome = run(job_of(lambda x: Unloadable(), 1))

    assert isinstance(outcome.error, BencherJobError)
    assert "job 'name'" in str(outcome.error)


def test_a_damaged_parcel_is_an_error():
    outcome = RunResult.of_parts(run_packed(b"damaged", None)).open(job_of(abs))

    assert isinstance(outcome.error, Exception)


def test_the_time_is_that_of_the_function_alone():
    class SlowToPickle:
        def __reduce__(self):
            time.sleep(1)
            return SlowToPickle, ()

    before = time.time()
    outcome = run(job_of(SlowToPickle))

    assert outcome.seconds < 1
    assert before <= outcome.started <= time.time()


def test_the_place_is_that_of_the_worker():
    def elsewhere():
        return os.uname().nodename, os.getpid(), platform.python_version()

    outcome = run(job_of(elsewhere))

    place = outcome.place
    assert (place.host, place.pid, place.python) == outcome.value
    assert place.platform.startswith("Linux-")


def test_a_job_is_described_in_short():
    assert describe(job_of(pow, 2, exp=list(range(100)))) == "job 'name', pow(2, exp=[0, 1, 2, 3, 4, 5, ...])"
