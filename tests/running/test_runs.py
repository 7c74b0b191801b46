from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest

from bencher_job import (
    BencherJobError,
    Executors,
    FutureCache,
    JobFunctionCache,
    JobTimeout,
    WorkerLost,
    cached_job,
    gen_path,
)
from bencher_job._stores import Lease

PATIENCE = 60.0
OWN = ["serial", "threads", "multiprocessing"]


@pytest.fixture(params=[*OWN, "ProcessPoolExecutor"])
def executor(request):
    """Each kind of executor in turn."""
    if request.param in OWN:
        yield request.param
        return
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as made:
        yield made


def until(holds, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_leased(function, *args):
    return function.cache.cache.leases.owner_of(function.key(*args)) is not None


def note(folder, what):
    with open(Path(folder) / "notes", "a") as file:
        file.write(what + "\n")


def notes(folder):
    path = Path(folder) / "notes"
    return path.read_text().split() if path.exists() else []


def test_a_job_that_fails_runs_again(executor, counter):
    @cached_job(executor=executor, retries=3, retry_on=ValueError)
    def shaky(x):
        counter.tick()
        if counter.count < 3:
            raise ValueError(counter.count)
        return x

    assert shaky(1) == 1
    assert shaky(1) == 1
    info = shaky.cache.info()
    assert (counter.count, info.retried, info.computed, info.failed, info.hits) == (3, 2, 1, 0, 1)
    assert not is_leased(shaky, 1)
    shaky.cache.close()


def test_a_job_is_given_up_after_so_many_runs(executor, counter, caplog):
    @cached_job(executor=executor, retries=2)
    def failing(x):
        counter.tick()
        raise ValueError(f"no {x}")

    with pytest.raises(ValueError, match=r"^no 1$"):
        failing(1)

    assert counter.count == 3
    assert not failing.is_cached(1)
    assert not is_leased(failing, 1)
    info = failing.cache.info()
    assert (info.retried, info.failed) == (2, 1)
    messages = [record.getMessage() for record in caplog.records if "<Job" in record.getMessage()]
    assert [message.partition(" of <Job")[0] for message in messages[:2]] == ["run 1 of 3", "run 2 of 3"]
    assert "failed for the last of 3 times: ValueError: no 1" in messages[2]
    failing.cache.close()


def test_what_is_not_to_be_tried_again_is_not(executor, counter):
    @cached_job(executor=executor, retries=5, retry_on=(KeyError, OSError))
    def failing(x):
        counter.tick()
        raise ValueError(x)

    with pytest.raises(ValueError, match="1"):
        failing(1)
    assert counter.count == 1
    failing.cache.close()


def test_a_job_that_kills_its_workers_is_given_up_and_the_others_are_not(counter):
    @cached_job(executor="multiprocessing", retries=2, retry_on=())
    def work(x):
        if x == 3:
            counter.tick()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    sweep = work.sweep({"x": range(8)}).run()

    assert [row["result"] for row in sweep.results] == [0, 1, 2, 4, 5, 6, 7]
    (failure,) = sweep.failures
    assert type(failure.error) is WorkerLost
    assert (failure.error.attempts, failure.error.exit_code) == (3, -signal.SIGKILL)
    assert "work(x=3)" in failure.error.job
    assert str(failure.error).endswith("It was the last of 3 runs.")
    assert counter.count == 3
    assert not is_leased(work, 3)


def test_a_worker_that_is_lost_once_costs_nothing(tmp_path):
    @cached_job(executor="multiprocessing", retries=1)
    def work(x):
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(3)
        return x

    assert work(4) == 4
    assert work.cache.info().retried == 1


@pytest.mark.parametrize("executor", ["threads", "multiprocessing"])
def test_a_job_that_waits_for_its_next_run_holds_no_place(executor, tmp_path):
    @cached_job(executor=executor, retries=1, max_workers=1)
    def work(x):
        note(tmp_path, x)
        if x == "shaky" and notes(tmp_path).count("shaky") == 1:
            raise ValueError(x)
        return x

    work("warm")
    futures = [work.submit(x) for x in ("shaky", "next", "last")]

    assert [future.result(PATIENCE) for future in futures] == ["shaky", "next", "last"]
    assert notes(tmp_path) == ["warm", "shaky", "next", "last", "shaky"]


def test_a_thread_that_waits_for_a_job_that_runs_again_runs_it_itself(tmp_path):
    """The only place of the pool is taken by the one who waits."""
    failed = threading.Event()

    @cached_job(executor="threads", max_workers=1, retries=2)
    def inner(x):
        note(tmp_path, "inner")
        if notes(tmp_path).count("inner") < 3:
            raise ValueError(x)
        return x

    @cached_job(executor="threads", max_workers=1)
    def outer(x):
        failed.wait(PATIENCE)
        return inner(x)

    first = inner.submit(1)
    second = outer.submit(1)
    failed.set()

    assert second.result(PATIENCE) == 1
    assert first.result(PATIENCE) == 1
    assert notes(tmp_path).count("inner") == 3


def test_a_queued_job_that_a_waiting_thread_takes_over_keeps_its_attempts(counter):
    asked = threading.Event()

    @cached_job(executor="threads", max_workers=1, retries=1)
    def inner(x):
        counter.tick()
        if counter.count == 1:
            raise ValueError(x)
        return x

    @cached_job(executor="threads", max_workers=1)
    def outer(x):
        asked.wait(PATIENCE)
        return inner(x)

    waiting = outer.submit(1)
    queued = inner.submit(1)
    asked.set()

    assert (waiting.result(PATIENCE), queued.result(PATIENCE)) == (1, 1)
    assert counter.count == 2


def test_a_queued_job_that_another_one_computed_in_vain_keeps_its_attempts(tmp_path):
    @cached_job(executor="multiprocessing", max_workers=1, retries=1)
    def work(x):
        note(tmp_path, x)
        if x == "long":
            assert until((tmp_path / "go on").exists)
        elif notes(tmp_path).count(x) == 1:
            raise ValueError(x)
        return x

    futures = [work.submit(x) for x in ("long", "shaky", "last")]
    assert until(lambda: notes(tmp_path) == ["long"])
    leases, lease = work.cache.cache.leases, Lease(work.key("shaky"))
    leases.acquire([lease])
    assert lease.held
    (tmp_path / "go on").touch()
    assert futures[2].result(PATIENCE) == "last"
    assert notes(tmp_path)[:2] == ["long", "last"]
    leases.release([lease])

    assert futures[1].result(PATIENCE) == "shaky"
    assert notes(tmp_path).count("shaky") == 2


def test_a_run_that_failed_leaves_no_files(executor, counter):
    @cached_job(executor=executor, retries=1)
    def writes(text):
        path = gen_path("out", suffix=".txt")
        Path(path).write_text(text)
        counter.tick()
        if counter.count == 1:
            raise ValueError(text)
        return path

    path = Path(writes("hello"))

    assert path.read_text() == "hello"
    assert [folder.name for folder in writes.cache.cache.directory.joinpath("media").iterdir()] == [
        path.relative_to(writes.cache.cache.directory / "media").parts[0]
    ]
    writes.cache.close()


def test_a_job_ends_when_its_time_is_over_and_its_processes_with_it(tmp_path):
    @cached_job(executor="multiprocessing", timeout=0.5)
    def hangs(seconds):
        child = subprocess.Popen(["sleep", str(seconds)], start_new_session=True)
        (tmp_path / "pids").write_text(f"{os.getpid()} {child.pid}")
        child.wait()

    with pytest.raises(
        JobTimeout, match=r"hangs\(seconds=600\) ran for longer than its timeout of 0\.5 s"
    ) as caught:
        hangs(600)

    assert caught.value.seconds == 0.5
    assert "hangs(seconds=600)" in caught.value.job
    assert until(lambda: not any(is_running(pid) for pid in (tmp_path / "pids").read_text().split()))
    assert not is_leased(hangs, 600)
    assert not hangs.is_cached(600)
    assert isinstance(caught.value, TimeoutError)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_loop_that_lets_no_other_thread_run_ends_when_its_time_is_over():
    @cached_job(executor="multiprocessing", timeout=timedelta(seconds=0.5))
    def loops(number):
        return sum(range(number))

    futures = [loops.submit(number) for number in (10**15, 10, 20)]

    assert [type(future.exception(PATIENCE)) for future in futures] == [JobTimeout, type(None), type(None)]


def test_the_time_counts_from_the_begin_of_a_run():
    @cached_job(executor="multiprocessing", timeout=3, max_workers=1)
    def slow(x):
        time.sleep(0.8)
        return x

    assert list(slow.map(range(4))) == [0, 1, 2, 3]


def test_a_job_whose_time_is_over_may_run_again(counter):
    @cached_job(executor="multiprocessing", timeout=1, retries=1)
    def hangs_once(x):
        counter.tick()
        if counter.count == 1:
            time.sleep(600)
        return x

    assert hangs_once(1) == 1
    assert hangs_once.cache.info().retried == 1


def test_where_a_job_cannot_be_ended_the_caller_is_told_and_what_comes_later_is_dropped(tmp_path):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:

        @cached_job(executor=processes, timeout=0.3)
        def slow(x):
            Path(gen_path("file")).write_text("late")
            (tmp_path / "begun").touch()
            while not (tmp_path / "go_on").exists():
                time.sleep(0.01)
            return x

        with pytest.raises(JobTimeout, match="ProcessPoolExecutor can't end it, so it may still run there"):
            slow(1)
        assert not is_leased(slow, 1)
        (tmp_path / "go_on").touch()
        assert processes.submit(abs, -1).result(PATIENCE) == 1  # behind the late one

        assert not slow.is_cached(1)
        media = slow.cache.cache.directory / "media"
        assert until(lambda: list(media.iterdir()) == [])
        assert slow(1) == 1


@pytest.mark.parametrize("executor", ["serial", "threads", Executors.THREADS])
def test_a_timeout_that_cannot_be_kept_is_refused_at_once(executor):
    with pytest.raises(ValueError, match=r"timeout=5 can't be kept by executor=(SERIAL|THREADS)"):

        @cached_job(executor=executor, timeout=5)
        def never(x):
            return x


def test_a_timeout_of_a_thread_pool_is_refused_at_once():
    with ThreadPoolExecutor(1) as threads, pytest.raises(ValueError, match="executor=ThreadPoolExecutor"):
        cached_job(executor=threads, timeout=5)(abs)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"executor": "serial", "max_workers": 0}, ValueError, "max_workers=0 starts no worker"),
        ({"executor": "serial", "start_method": "thread"}, ValueError, "not a way to start a worker"),
        ({"executor": "serial", "initargs": (1,)}, TypeError, "has no initializer"),
        ({"executor": "scoop", "max_workers": 2}, ValueError, "executor=SCOOP"),
        (
            {"executor": "threads", "max_tasks_per_worker": 2},
            ValueError,
            "Use it with executor='multiprocessing'",
        ),
        ({"executor": "multiprocessing", "max_workers": 0}, ValueError, "max_workers=0 starts no worker"),
        (
            {"executor": "multiprocessing", "max_workers": "2"},
            TypeError,
            "max_workers must be an int or None, not str",
        ),
        ({"executor": "multiprocessing", "max_tasks_per_worker": 0}, ValueError, "max_tasks_per_worker=0"),
        ({"retries": -1}, ValueError, "retries=-1"),
        ({"timeout": 0}, ValueError, "timeout=0"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options, error, told):
    with pytest.raises(error, match=told):
        cached_job(**options)(abs)


POOL_OPTIONS = {
    "max_workers": 2,
    "max_tasks_per_worker": 3,
    "start_method": "fork",
    "initializer": print,
    "initargs": ("ready",),
}


@pytest.mark.parametrize("form", [cached_job, lambda **options: lambda f: JobFunctionCache(f, **options)])
def test_serial_accepts_all_options_of_a_pool_since_the_executor_is_the_callers_choice(form):
    for count in range(len(POOL_OPTIONS) + 1):
        form(executor="serial", **dict([*POOL_OPTIONS.items()][:count]))(abs)
    FutureCache(Executors.SERIAL, **POOL_OPTIONS)


def test_serial_calls_the_initializer_once_before_the_first_job():
    seen = []

    @cached_job(executor="serial", initializer=seen.append, initargs=("initialized",), max_workers=2)
    def numbered(x):
        seen.append(x)
        return x

    assert seen == []
    assert [numbered(1), numbered(2)] == [1, 2]
    assert seen == ["initialized", 1, 2]


def test_serial_calls_the_initializer_before_jobs_of_an_event_loop():
    seen = []

    @cached_job(executor="serial", initializer=seen.append, initargs=("initialized",))
    async def fetched(x):
        seen.append(x)
        return x

    @cached_job(executor="serial", initializer=seen.append, initargs=("initialized too",))
    def plain(x):
        seen.append(x)
        return x

    async def both():
        return [await fetched(1), await plain.submit(2)]

    assert asyncio.run(both()) == [1, 2]
    assert seen == ["initialized", 1, "initialized too", 2]


def test_no_job_of_serial_runs_before_its_initializer_succeeds():
    seen = []

    def load():
        seen.append("load")
        if len(seen) == 1:
            raise LookupError("no model")

    @cached_job(executor="serial", initializer=load)
    def numbered(x):
        seen.append(x)
        return x

    with pytest.raises(BencherJobError, match=r"The initializer failed .* LookupError: no model") as caught:
        numbered(1)
    assert isinstance(caught.value.__cause__, LookupError)
    assert numbered(1) == 1
    assert seen == ["load", "load", 1]


def test_threads_that_share_a_serial_cache_wait_for_its_initializer():
    began, may_go_on, seen = threading.Event(), threading.Event(), []

    def load():
        began.set()
        assert may_go_on.wait(PATIENCE)
        assert numbered(0) == 0  # an initializer may run jobs itself
        seen.append("loaded")

    @cached_job(executor="serial", initializer=load)
    def numbered(x):
        seen.append(x)
        return x

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(numbered, 1)
        assert began.wait(PATIENCE)
        second = threads.submit(numbered, 2)
        may_go_on.set()
        assert {first.result(PATIENCE), second.result(PATIENCE)} == {1, 2}
    assert seen[:2] == [0, "loaded"]


def test_options_of_an_executor_of_ones_own_are_refused():
    with (
        ThreadPoolExecutor(1) as threads,
        pytest.raises(ValueError, match="set up the executor that you pass"),
    ):
        cached_job(executor=threads, max_workers=3)(abs)


def test_a_worker_is_replaced_after_so_many_jobs():
    @cached_job(executor="multiprocessing", max_workers=1, max_tasks_per_worker=3)
    def pid(x):
        return os.getpid()

    pids = list(pid.map(range(8)))

    assert [pids.count(each) for each in dict.fromkeys(pids)] == [3, 3, 2]


def test_functions_with_the_same_settings_share_their_workers():
    def pid(x):
        return os.getpid()

    one, other, third = (
        cached_job(executor="multiprocessing", max_workers=size, version=version)(pid)
        for version, size in enumerate((1, 1, 2))
    )

    assert one(0) == other(0) != third(0)


def test_a_function_with_options_of_its_executor_runs_inside_of_a_job(write_module, counter, tmp_path):
    module = write_module(
        "inner_module",
        f"""
        from bencher_job import cached_job

        @cached_job(executor="multiprocessing", timeout=60, max_workers=3, retries=1, cache_dir={str(tmp_path)!r})
        def by_name(counter, x):
            counter.tick()
            if counter.count == 1:
                raise ValueError(x)
            return x
        """,
    )

    @cached_job(executor="multiprocessing", timeout=60, max_workers=3, retries=1)
    def by_value(x):
        return x

    @cached_job(executor="multiprocessing")
    def outer(x):
        return module.by_name(counter, x), by_value(x)

    assert outer(3) == (3, 3)
    assert counter.count == 2
    assert by_value.is_cached(3)


def test_an_error_of_this_library_is_final(counter):
    @cached_job(executor="multiprocessing", retries=3)
    def gives_a_lock(x):
        counter.tick()
        return threading.Lock()

    with pytest.raises(BencherJobError, match="can't be pickled"):
        gives_a_lock(1)
    assert counter.count == 1


class Unfathomable(Future):
    """A future of a user's executor that can't say how its job is."""

    def running(self):
        raise ConnectionError("the scheduler is gone")

    def cancel(self):
        raise ConnectionError("the scheduler is gone")


class Forgetful(Executor):
    """An executor whose futures never end, and can't tell how they are."""

    def submit(self, fn, /, *args, **kwargs):
        return Unfathomable()


def test_a_job_ends_in_time_whose_executor_cannot_tell_how_it_is(caplog):
    @cached_job(executor=Forgetful(), timeout=0.2)
    def slow(x):
        return x

    futures = [slow.submit(number) for number in range(3)]
    for future in futures:
        with pytest.raises(JobTimeout, match="Forgetful can't end it"):
            future.result(PATIENCE)
    assert "its executor can't tell whether" in caplog.text
