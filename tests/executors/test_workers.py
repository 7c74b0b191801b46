"""Workers follow their settings."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest

from bencher_job import BencherJobError, WorkerLost, cached_job
from bencher_job._executors.pool import SlotPool

PATIENCE = 60.0


def test_a_worker_is_initialized_before_its_first_job(tmp_path):
    def prepare(name, value):
        os.environ[name] = value
        (tmp_path / str(os.getpid())).touch()

    with SlotPool(2, initializer=prepare, initargs=("PREPARED", "yes")) as pool:
        found = [
            pool.submit(lambda: (os.environ["PREPARED"], os.getpid())).result(PATIENCE) for _ in range(10)
        ]

    assert {value for value, _ in found} == {"yes"}
    assert {str(pid) for _, pid in found} <= {path.name for path in tmp_path.iterdir()}


def test_an_initializer_that_fails_ends_the_jobs_and_not_the_pool(tmp_path):
    def prepare():
        if not (tmp_path / "good").exists():
            raise LookupError("no model")

    with SlotPool(1, initializer=prepare) as pool:
        futures = [pool.submit(abs, -1) for _ in range(5)]
        for future in futures:
            with pytest.raises(
                BencherJobError, match=r"The initializer failed .* LookupError: no model"
            ) as caught:
                future.result(PATIENCE)
            assert isinstance(caught.value.__cause__, LookupError)
        (tmp_path / "good").touch()

        assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_workers_that_die_before_they_are_ready_are_given_up():
    with SlotPool(1, initializer=lambda: os._exit(5)) as pool:
        future = pool.submit(abs, -1)

        with pytest.raises(
            WorkerLost, match=r"abs was not begun: 8 worker processes in a row died"
        ) as caught:
            future.result(PATIENCE)
        assert caught.value.exit_code == 5


def test_an_initializer_that_cannot_be_sent_is_refused():
    with pytest.raises(BencherJobError, match=r"initializer=.* can't be sent to a worker"):
        SlotPool(1, initializer=print, initargs=(threading.Lock(),))


@pytest.mark.parametrize(
    ("options", "error", "reported"),
    [
        ({"initializer": 3}, TypeError, "initializer must be a function or None, not int"),
        ({"initargs": (3,)}, TypeError, r"initargs=\(3,\) has no initializer"),
        ({"start_method": "thread"}, ValueError, "start_method='thread' is not a way"),
        ({"max_tasks_per_worker": 0}, ValueError, "max_tasks_per_worker=0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, error, reported):
    with pytest.raises(error, match=reported):
        SlotPool(1, **options)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
class TestEachStartMethod:
    def test_runs_loses_and_replaces(self, method, until, is_gone):
        with SlotPool(2, start_method=method) as pool:
            pids = {pool.submit(os.getpid).result(PATIENCE) for _ in range(10)}
            assert os.getpid() not in pids
            with pytest.raises(WorkerLost) as caught:
                pool.submit(os._exit, 7).result(PATIENCE)
            assert caught.value.exit_code == 7
            with pytest.raises(WorkerLost) as caught:
                pool.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).result(PATIENCE)
            assert caught.value.exit_code == -signal.SIGKILL
            last = pool.submit(os.getpid).result(PATIENCE)
        assert until(lambda: all(is_gone(pid) for pid in {*pids, last}))

    def test_ends_what_runs_too_long(self, method, until):
        @cached_job(executor="multiprocessing", start_method=method, timeout=0.5)
        def hangs(tmp):
            sum(range(10**15))

        pool = hangs.cache.executor
        future = hangs.submit("x")
        assert until(lambda: any(slot.tasks for slot in pool._scheduler.workers))
        workers = [psutil.Process(slot.process.pid) for slot in pool._scheduler.workers if slot.tasks]
        assert "timeout of 0.5 s" in str(future.exception(PATIENCE))
        hangs.cache.close()
        assert until(lambda: not any(worker.is_running() for worker in workers))

    def test_leaves_with_a_parent_that_is_killed(self, method, script, until, is_gone):
        process = script.start(f"""
            import os, time, warnings
            warnings.simplefilter("ignore")
            from bencher_job._executors.pool import SlotPool
            def note(i): open(f"pid{{i}}", "w").write(str(os.getpid()))
            def sleeps(i): note(i); time.sleep(600)
            pool = SlotPool(2, start_method={method!r})
            futures = [pool.submit(sleeps, i) for i in range(2)]
            futures[0].result()
        """)
        pids = [int(script.reported(f"pid{i}")) for i in range(2)]

        process.kill()

        assert until(lambda: all(is_gone(pid) for pid in pids))

    def test_a_script_without_a_guard_runs_once(self, method, script):
        out = script.run(f"""
            import json, warnings
            warnings.simplefilter("ignore")
            with open("runs", "a") as file: file.write("x")
            from bencher_job import cached_job
            @cached_job(executor="multiprocessing", start_method={method!r})
            def double(x): return 2 * x
            json.dump([list(double.map(range(3))), open("runs").read()], open("out.json", "w"))
        """)
        assert out == [[0, 2, 4], "x"]


def test_a_fork_of_the_parent_keeps_no_worker_from_leaving(script, until, is_gone):
    process = script.start("""
        import os, time
        from bencher_job._executors.pool import SlotPool
        pool = SlotPool(1)
        pid = pool.submit(os.getpid).result()
        child = os.fork()
        if child == 0:
            time.sleep(600)
        open("pids", "w").write(f"{pid} {child} ")
        pool.submit(time.sleep, 600).result()
    """)
    assert until(lambda: script.reported("pids").endswith(" "))
    worker, child = map(int, script.reported("pids").split())

    process.kill()

    assert until(lambda: is_gone(worker))
    psutil.Process(child).kill()


def test_an_unused_pool_needs_no_end():
    assert repr(SlotPool(2)) == "<SlotPool: 0 of 2 workers>"


def test_a_worker_that_was_let_go_and_does_not_leave_is_killed(until, is_gone):
    def refuse_to_leave():
        thread = threading.Thread(target=time.sleep, args=(600,))
        thread.start()
        return os.getpid()

    pool = SlotPool(1)
    pid = pool.submit(refuse_to_leave).result(PATIENCE)
    begun = time.monotonic()

    pool.shutdown()

    assert is_gone(pid)
    assert time.monotonic() - begun < PATIENCE


def test_jobs_that_are_lost_or_cannot_be_sent_do_not_count_as_computed(tmp_path):
    """They count as failed. A job whose function raised has been computed."""

    def work(x):
        if x == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 1 / (x - 1)

    lossy = cached_job(executor="multiprocessing", cache_dir=tmp_path)(work)
    unsendable = cached_job(executor="multiprocessing", cache_dir=tmp_path, ignore=["lock"])(
        lambda lock: lock
    )
    assert type(lossy.submit(0).exception(60)) is WorkerLost
    assert type(lossy.submit(1).exception(60)) is ZeroDivisionError
    assert lossy(2) == 1
    info = lossy.cache.info()
    assert (info.submitted, info.computed, info.failed) == (3, 2, 2)

    assert isinstance(unsendable.submit(threading.Lock()).exception(60), BencherJobError)
    info = unsendable.cache.info()
    assert (info.submitted, info.computed, info.failed) == (1, 0, 1)
