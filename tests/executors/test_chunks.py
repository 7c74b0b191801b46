"""Short jobs are sent to workers in groups, which changes nothing but their speed."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from bencher_job import WorkerLost
from bencher_job._executors.pool import SlotPool

PATIENCE = 60.0


def learn(pool, function, jobs=300):
    """Run short jobs of a function in a pool until the pool knows their duration."""
    for future in [pool.submit(function, 5000 + number) for number in range(jobs)]:
        future.result(PATIENCE)


@pytest.mark.parametrize("padding", [b"", bytes(5000)])
def test_a_job_that_kills_its_worker_is_the_only_one_lost_and_no_other_runs_twice(
    running_pool, counter, padding
):
    def work(number, padding):
        counter.tick()
        if number in {700, 1100}:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    futures = [running_pool.submit(work, number, padding) for number in range(1500)]

    lost = [number for number, future in enumerate(futures) if future.exception(PATIENCE) is not None]
    assert lost == [700, 1100]
    assert all(isinstance(futures[number].exception(), WorkerLost) for number in lost)
    assert [future.result() for number, future in enumerate(futures) if number not in lost] == [
        number for number in range(1500) if number not in lost
    ]
    assert counter.count == 1500


def test_no_result_waits_for_the_job_behind_it(tmp_path, until):
    def work(number):
        while number == 1000 and not (tmp_path / "go_on").exists():
            time.sleep(0.01)
        return number

    with SlotPool(1) as pool:
        learn(pool, work)
        futures = [pool.submit(work, number) for number in (*range(100), 1000)]

        assert [future.result(PATIENCE) for future in futures[:100]] == list(range(100))
        assert not futures[100].done()
        (tmp_path / "go_on").touch()
        assert futures[100].result(PATIENCE) == 1000


def test_what_waits_behind_a_long_job_goes_to_another_worker(running_pool, tmp_path):
    def work(number):
        while number in {3, 4} and not (tmp_path / f"go_on.{number}").exists():
            time.sleep(0.01)
        return number

    learn(running_pool, work)
    futures = [running_pool.submit(work, number) for number in range(400)]
    (tmp_path / "go_on.3").touch()

    assert [futures[number].result(PATIENCE) for number in range(400) if number != 4] == [
        number for number in range(400) if number != 4
    ]
    assert not futures[4].done()
    (tmp_path / "go_on.4").touch()
    assert futures[4].result(PATIENCE) == 4


def test_two_jobs_run_at_once_however_short_jobs_were_before(running_pool, tmp_path):
    def work(number):
        if number < 2:
            (tmp_path / str(number)).touch()
            while not (tmp_path / str(1 - number)).exists():
                time.sleep(0.001)
        return number

    learn(running_pool, work)
    futures = [running_pool.submit(work, number) for number in range(2)]

    assert [future.result(PATIENCE) for future in futures] == [0, 1]


def test_an_argument_that_is_changed_after_the_submission_has_its_old_value():
    with SlotPool(1) as pool:
        blocks = pool.submit(time.sleep, 0.3)
        array = np.zeros(100_000)
        futures = []
        for number in range(5):
            array[:] = number
            futures.append(pool.submit(np.mean, array))
        array[:] = 99

        assert [future.result(PATIENCE) for future in futures] == [0, 1, 2, 3, 4]
        assert blocks.done()


def test_large_arguments_and_results_go_to_both_workers_at_once(running_pool):
    arrays = [np.full(2_000_000, number) for number in range(6)]

    futures = [running_pool.submit(lambda array: array + 1, array) for array in arrays]

    for number, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE), arrays[number] + 1)


def test_a_worker_that_dies_while_a_large_argument_is_sent_costs_nothing(until):
    with SlotPool(1) as pool:
        pid = pool.submit(os.getpid).result(PATIENCE)
        os.kill(pid, signal.SIGSTOP)
        future = pool.submit(np.sum, np.ones(3_000_000))
        assert until(lambda: pool._scheduler.workers[0].unsent)

        os.kill(pid, signal.SIGKILL)

        assert future.result(PATIENCE) == 3_000_000
        assert pool.submit(os.getpid).result(PATIENCE) != pid


def test_a_job_that_closes_the_workers_channel_is_lost(pool):
    good = [pool.submit(abs, -number) for number in range(20)]

    with pytest.raises(WorkerLost):
        pool.submit(lambda: os.closerange(3, 200)).result(PATIENCE)

    assert [future.result(PATIENCE) for future in good] == list(range(20))
    assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_many_threads_get_the_answers_to_their_own_calls(running_pool):
    wrong = []

    def ask(thread):
        for number in range(300):
            if running_pool.submit(lambda x: x, (thread, number)).result(PATIENCE) != (thread, number):
                wrong.append((thread, number))

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
