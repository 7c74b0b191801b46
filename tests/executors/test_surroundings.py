"""A job runs where it was called: folder, environment and context variables are the caller's."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import chdir
from multiprocessing import get_context
from pathlib import Path

import pytest

from bencher_job import cached_job
from bencher_job.testing import CallCounter

PATIENCE = 60.0
EXECUTORS = ["serial", "threads", "multiprocessing", "ProcessPoolExecutor", "ThreadPoolExecutor"]

user = contextvars.ContextVar("user", default="nobody")
lock = contextvars.ContextVar("lock", default=None)


@pytest.fixture(params=EXECUTORS)
def executor(request):
    if request.param == "ProcessPoolExecutor":
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as made:
            yield made
    elif request.param == "ThreadPoolExecutor":
        with ThreadPoolExecutor(1) as made:
            yield made
    else:
        yield request.param


def who(x):
    before = user.get()
    user.set("the job before")
    return before


def called_as(name, function, *args):
    context = contextvars.copy_context()
    context.run(user.set, name)
    return context.run(function, *args)


def test_context_variables_are_those_at_the_call(executor, tmp_path):
    """What one job sets, the next one does not see."""
    function = cached_job(executor=executor, cache_dir=tmp_path)(who)
    names = ["ann", "bob", "ann"]
    futures = [called_as(name, function.submit, number) for number, name in enumerate(names)]
    assert [future.result(PATIENCE) for future in futures] == names
    assert called_as("carol", function, 10) == "carol"
    assert function(11) == "nobody"
    assert called_as("dora", list, function.map([20, 21])) == ["dora", "dora"]
    function.cache.close()


def test_context_variables_of_a_task_reach_its_jobs(executor, tmp_path):
    function = cached_job(executor=executor, cache_dir=tmp_path)(who)

    async def as_user(name):
        user.set(name)
        return await function.submit(name)

    async def both():
        return await asyncio.gather(as_user("ann"), as_user("bob"))

    assert asyncio.run(both()) == ["ann", "bob"]
    function.cache.close()


def test_a_coroutine_in_a_thread_has_the_variables_of_its_caller(tmp_path):
    async def later(x):
        await asyncio.sleep(0)
        return user.get()

    for timeout in (None, PATIENCE):
        options = {"executor": "threads", "timeout": timeout, "cache_dir": tmp_path / str(timeout)}
        function = cached_job(**options)(later)
        assert called_as("ann", lambda function=function: function.submit(1).result(PATIENCE)) == "ann"
        function.cache.close()


SCRIPT = """
    import json
    from contextvars import ContextVar
    from bencher_job import cached_job

    level = ContextVar("level")
    unit = ContextVar("unit", default="mm")

    class Unit:
        def __init__(self, name):
            self.name = name

    @cached_job(executor="multiprocessing", max_workers=1, cache_dir="c")
    def seen(x):
        return level.get("none"), getattr(unit.get(), "name", unit.get())

    found = [seen(0)]
    level.set(5)
    unit.set(Unit("inch"))
    found.append(seen(1))
    json.dump(found, open("out.json", "w"))
"""


def test_context_variables_of_a_script_reach_functions_that_go_by_value(script):
    assert script.run(SCRIPT) == [["none", "mm"], [5, "inch"]]


def held(x):
    return lock.get() is not None, user.get()


def test_a_variable_whose_value_cannot_be_pickled_stays_behind(tmp_path):
    function = cached_job(executor="multiprocessing", cache_dir=tmp_path)(held)
    context = contextvars.copy_context()
    context.run(lock.set, threading.Lock())
    context.run(user.set, "ann")
    assert context.run(function, 1) == (False, "ann")
    function.cache.close()


class OfSubmitter:
    """An object that no other process can unpickle."""

    def __reduce__(self):
        return _only_in, (os.getpid(),)


def _only_in(pid):
    if os.getpid() != pid:
        raise RuntimeError("not here")


def test_a_variable_whose_value_cannot_be_unpickled_is_left_out(tmp_path, caplog):
    function = cached_job(executor="multiprocessing", cache_dir=tmp_path)(held)
    context = contextvars.copy_context()
    context.run(lock.set, OfSubmitter())
    context.run(user.set, "ann")
    assert context.run(function, 1) == (False, "ann")
    assert "lock can't be unpickled in a worker" in caplog.text
    function.cache.close()


def where(x):
    return os.getcwd(), os.environ.get("BENCHER_JOB_TEST_WHERE"), os.environ["OMP_NUM_THREADS"]


def test_a_queued_job_runs_in_the_folder_of_its_call_and_with_the_present_environment(tmp_path, monkeypatch):
    def leave(x):
        os.chdir("/")

    options = {"executor": "multiprocessing", "max_workers": 1, "inner_threads": 3, "cache_dir": tmp_path}
    function, leaving = (cached_job(**options)(each) for each in (where, leave))
    assert function(0) == (os.getcwd(), None, "3")
    futures, wanted = [], []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("BENCHER_JOB_TEST_WHERE", str(number))
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        with chdir(folder):
            leaving.submit(number)
            futures.append(function.submit(number + 1))
        wanted.append((str(folder), str(number), "3"))
    assert [future.result(PATIENCE) for future in futures] == wanted
    monkeypatch.delenv("BENCHER_JOB_TEST_WHERE")
    assert function(10) == (os.getcwd(), None, "3")
    function.cache.close()
    leaving.cache.close()


def test_a_worker_whose_folder_was_removed_goes_on(script):
    """With jobs that are called there, and with others."""
    program = """
        import json, os
        from bencher_job import cached_job

        here = os.getcwd()
        os.mkdir("gone")
        os.chdir("gone")
        options = {"executor": "multiprocessing", "max_workers": 1, "cache_dir": os.path.join(here, "c")}
        function = cached_job(**options)(lambda x: 2 * x)
        found = [function(1)]
        os.rmdir(os.path.join(here, "gone"))
        found.append(function(2))
        os.chdir(here)
        found.append(cached_job(**options)(lambda x: os.getcwd())(1) == here)
        json.dump(found, open("out.json", "w"))
    """
    assert script.run(program) == [2, 4, True]


TAKE_OVER = """
    import json, os, sys, time
    from contextvars import ContextVar
    from pathlib import Path
    from bencher_job import cached_job
    user = ContextVar("user", default="nobody")

    @cached_job(executor=EXECUTOR, cache_dir="c")
    def work(x):
        if not Path("running").exists():
            Path("running").write_text("yes")
            time.sleep(600)
        return user.get()

    user.set("ann")
    future = work.submit(1)
    user.set("bob")
    Path("waiting").write_text("yes") if Path("running").exists() else None
    json.dump(future.result(), open("out.json", "w"))
"""


@pytest.mark.parametrize("executor", ["'serial'", "'threads'", "'multiprocessing'"])
def test_a_job_that_waited_for_another_process_has_the_variables_of_its_call(script, tmp_path, executor):
    """Threads of the library start it."""
    other = type(script)(tmp_path)
    first = other.start(TAKE_OVER.replace("EXECUTOR", executor))
    assert other.reported("running")
    script.start(TAKE_OVER.replace("EXECUTOR", executor))
    assert executor == "'serial'" or script.reported("waiting")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    errors = script.process.communicate(timeout=PATIENCE)[1]
    assert json.loads((tmp_path / "out.json").read_text()) == "ann", errors


def test_calls_count_once(tmp_path):
    """The key does not depend on where a job runs."""
    counter = CallCounter(tmp_path / "calls")

    def work(x):
        counter.tick()
        return user.get()

    function = cached_job(executor="threads", cache_dir=tmp_path)(work)
    assert [called_as(name, function, 1) for name in ("ann", "bob")] == ["ann", "ann"]
    with chdir(Path("/")):
        assert function(1) == "ann"
    assert counter.count == 1
    function.cache.close()


def test_a_variable_that_only_the_function_holds_arrives_with_its_first_job(tmp_path):
    held_by_it = contextvars.ContextVar("held_by_it", default="mm")

    def unit(x):
        return held_by_it.get()

    function = cached_job(executor="multiprocessing", max_workers=1, cache_dir=tmp_path)(unit)
    context = contextvars.copy_context()
    context.run(held_by_it.set, "inch")
    assert context.run(function, 1) == "inch"
    function.cache.close()
