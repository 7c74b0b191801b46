"""Jobs of cached functions in worker processes: whatever befalls a worker costs one job, and leaves no lease."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
import time
from concurrent.futures import as_completed
from pathlib import Path

import psutil
import pytest

from bencher_job import BencherJobError, WorkerLost, cached_job
from tests.programs import Programs, until

PATIENCE = 60.0


def workers_of(pid):
    """The worker processes of a program."""
    try:
        children = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
    return [child.pid for child in children if "spawn_main" in " ".join(_command_line(child))]


def _command_line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def leased(function, arguments):
    """The arguments whose jobs somebody still has the lease of."""
    return [x for x in arguments if function.cache.cache.leases.owner_of(function.key(x)) is not None]


def test_random_kills_cost_no_more_than_a_job_each():
    @cached_job(executor="multiprocessing", code="none", max_workers=2)
    def large(x):
        return bytes(2_200_000) + x.to_bytes(2, "big")

    chance = random.Random(11)
    kills = 0
    futures = {large.submit(x): x for x in range(200)}
    for number, _ in enumerate(as_completed(futures, 4 * PATIENCE)):
        workers = list(large.cache.executor._scheduler.workers)
        if number % 10 == 5 and workers:
            os.kill(chance.choice(workers).process.pid, signal.SIGKILL)
            kills += 1

    lost = [x for future, x in futures.items() if future.exception(PATIENCE) is not None]
    assert kills >= 15
    assert len(lost) <= kills
    assert all(isinstance(future.exception(), WorkerLost) for future, x in futures.items() if x in lost)
    assert all(future.result()[-2:] == x.to_bytes(2, "big") for future, x in futures.items() if x not in lost)
    assert len(large.cache.cache) == 200 - len(lost)
    assert leased(large, range(200)) == []
    assert [large(x)[-2:] for x in lost] == [x.to_bytes(2, "big") for x in lost]
    large.cache.close()


def test_killed_workers_cost_nothing_where_jobs_run_again():
    @cached_job(executor="multiprocessing", max_workers=2, retries=50)
    def work(x):
        time.sleep(0.01)
        return x

    chance = random.Random(3)
    futures = [work.submit(x) for x in range(100)]
    for number, _ in enumerate(as_completed(futures, PATIENCE)):
        workers = list(work.cache.executor._scheduler.workers)
        if number % 7 == 3 and workers:
            os.kill(chance.choice(workers).process.pid, signal.SIGKILL)

    assert [future.result() for future in futures] == list(range(100))
    work.cache.close()


@pytest.mark.parametrize("what", ["result", "error", "argument", "exit"])
def test_what_cannot_travel_costs_its_own_job(what):
    class Unpicklable(Exception):
        def __reduce__(self):
            raise TypeError("never")

    @cached_job(executor="multiprocessing")
    def work(x, what="", ignored=None):
        if x != 3:
            return x
        if what == "error":
            raise Unpicklable("three")
        if what == "exit":
            sys.exit(5)
        return threading.Lock()

    lock = threading.Lock()

    @cached_job(executor="multiprocessing")
    def holds_a_lock(x):
        with lock:
            return x

    function = holds_a_lock if what == "argument" else work
    arguments = (3,) if what == "argument" else (3, what)
    neighbours = [work.submit(x) for x in range(4, 30)]
    error = function.submit(*arguments).exception(PATIENCE)

    if what == "exit":
        assert isinstance(error, SystemExit)
        assert error.code == 5
    else:
        assert type(error) is BencherJobError
        told = {"result": "can't be pickled", "error": "three", "argument": "can't be sent to a worker"}
        assert told[what] in str(error)
    assert [future.result(PATIENCE) for future in neighbours] == list(range(4, 30))
    assert function.cache.cache.leases.owner_of(function.key(*arguments)) is None


def test_a_job_that_takes_too_much_memory_is_its_own_loss():
    @cached_job(executor="multiprocessing")
    def work(x):
        if x == 2:
            before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (1 << 31, before[1]))
            try:
                return len([bytes(1 << 20) for _ in range(10_000)])
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
        return x

    futures = [work.submit(x) for x in range(5)]

    assert [type(future.exception(PATIENCE)) for future in futures] == [type(None)] * 2 + [MemoryError] + [
        type(None)
    ] * 2


def test_one_ctrl_c_leaves_no_worker_and_no_lease_and_keeps_what_is_done(programs: Programs) -> None:
    source = """
    @cached_job(code="none", executor="multiprocessing", max_workers=2)
    def job(x):
        count(f"ran.{x}")
        tell(f"begun.{x}")
        if NAME == "first" and x >= 20:
            time.sleep(600)
        return x

    futures = [job.submit(x) for x in range(60)]
    print([future.result() for future in futures])
    """
    first = programs.start("first", source)
    assert until(lambda: sum((programs.folder / f"first.begun.{x}").exists() for x in range(20, 60)) == 2)
    workers = workers_of(first.pid)
    assert len(workers) == 2

    first.send_signal(signal.SIGINT)

    assert first.wait(60) != 0
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert "KeyboardInterrupt" in first.stderr.read()
    assert programs.output(programs.start("second", source)) == str(list(range(60)))
    assert [programs.count(f"ran.{x}") for x in range(20)] == [1] * 20


def test_a_program_that_ends_without_a_close_keeps_all_and_leaves_nothing(programs: Programs) -> None:
    source = """
    @cached_job(code="none", executor="multiprocessing", retries=1)
    def job(x):
        count(f"ran.{x}")
        time.sleep(0.05)
        if x == 3 and not (HERE / "died").exists():
            (HERE / "died").touch()
            os._exit(1)
        return x

    futures = [job.submit(x) for x in range(8)]
    tell("submitted")
    """
    first = programs.start("first", source)
    programs.wait_for("first.submitted")
    workers = workers_of(first.pid)
    assert programs.output(first) == ""
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    check = """
    @cached_job(code="none")
    def job(x): ...
    print([job.is_cached(x) for x in range(8)])
    """
    assert programs.output(programs.start("second", check)) == str([True] * 8)


@pytest.mark.parametrize("size", [1, 2])
def test_workers_that_wait_for_each_others_keys_go_on(size, tmp_path, counter):
    @cached_job(executor="multiprocessing", max_workers=size)
    def part(name):
        counter.tick()
        time.sleep(0.2)
        return name

    @cached_job(executor="multiprocessing", max_workers=size)
    def whole(names):
        return [part(name) for name in names]

    first, second = whole.submit(["a", "b"]), whole.submit(["b", "a"])

    assert (first.result(PATIENCE), second.result(PATIENCE)) == (["a", "b"], ["b", "a"])
    assert counter.count == 2


def test_a_job_that_needs_what_is_queued_behind_it_runs_it_itself(tmp_path):
    @cached_job(executor="multiprocessing", max_workers=1)
    def inner(x):
        return x, os.getpid()

    @cached_job(executor="multiprocessing", max_workers=1)
    def outer(x):
        (tmp_path / "begun").touch()
        while not (tmp_path / "go_on").exists():
            time.sleep(0.01)
        return inner(x), os.getpid()

    first = outer.submit(1)
    assert until((tmp_path / "begun").exists)
    second = inner.submit(1)
    (tmp_path / "go_on").touch()

    (value, inner_pid), outer_pid = first.result(PATIENCE)
    assert (value, inner_pid) == (1, outer_pid)
    assert second.result(PATIENCE)[0] == 1


def test_threads_and_callbacks_may_submit_at_once():
    @cached_job(executor="multiprocessing")
    def work(x):
        return x

    follow_ups = []

    def follow(future):
        follow_ups.append(work.submit(future.result() + 1000))

    def ask(thread):
        for number in range(50):
            work.submit(thread * 50 + number).add_done_callback(follow)

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert until(lambda: len(follow_ups) == 300)
    assert sorted(future.result(PATIENCE) for future in follow_ups) == list(range(1000, 1300))
    work.cache.wait()
    assert leased(work, range(300)) == []


def test_an_argument_that_is_changed_after_the_submission_is_kept_as_it_was():
    import numpy as np

    @cached_job(executor="multiprocessing", max_workers=1)
    def total(array):
        return float(array.sum())

    array = np.zeros(100_000)
    futures = []
    for number in range(5):
        array[:] = number
        futures.append(total.submit(array))
    array[:] = 99

    assert [future.result(PATIENCE) for future in futures] == [number * 100_000 for number in range(5)]
    array[:] = 3
    assert total(array) == 300_000
    assert total.cache.info().hits == 1


def test_a_module_that_calls_its_function_when_it_is_imported_waits_for_nobody(
    programs: Programs, tmp_path: Path
):
    """A worker imports it to load the job, and what it asks for there is the very job that it is to run."""
    (tmp_path / "unguarded.py").write_text(
        "from bencher_job import cached_job\n"
        "class Point:\n    x = 2\n"
        "@cached_job(executor='multiprocessing')\ndef doubled(point):\n    return 2 * point.x\n"
        "value = doubled(Point())\n"
    )
    program = programs.start(
        "importer",
        "import unguarded; print(unguarded.value)",
        PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]),
    )
    assert program.communicate(timeout=PATIENCE - 10)[0] == "4\n"
