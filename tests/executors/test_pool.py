from __future__ import annotations

import functools
import multiprocessing
import os
import random
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed, wait

import numpy as np
import psutil
import pytest

from bencher_job import BencherJobError, Executors, WorkerLost
from bencher_job._executors import inside_worker
from bencher_job._executors.pool import SlotPool

PATIENCE = 60.0


def make_unloadable():
    class Unloadable:
        def __reduce__(self):
            return int, ("not a number",)

    return Unloadable()


def test_runs_calls_in_other_processes_in_order(running_pool):
    assert list(running_pool.map(lambda x: (x * x, os.getpid() == os.getppid()), range(20))) == [
        (x * x, False) for x in range(20)
    ]
    assert running_pool.submit(os.getpid).result() != os.getpid()


def test_closures_partials_methods_and_local_classes_travel(running_pool):
    class Local:
        def __init__(self, n):
            self.n = n

        def add(self, other):
            return Local(self.n + other)

    result = running_pool.submit(functools.partial(Local(3).add, 4)).result()

    assert type(result) is Local
    assert result.n == 7


def test_the_traceback_of_a_function_by_value_shows_its_source(running_pool):
    with pytest.raises(ValueError, match=r"^wrong$") as caught:
        running_pool.submit(lambda: int("7") and _raise(ValueError("wrong"))).result()

    printed = "".join(traceback.format_exception(caught.value))
    assert __file__ in printed
    assert 'int("7") and _raise' in printed.partition("RemoteTraceback")[2].partition("direct cause")[0]


def _raise(error):
    raise error


def test_starts_processes_as_jobs_come(until):
    with SlotPool(4) as pool:
        assert repr(pool) == "<SlotPool: 0 of 4 workers>"
        for _ in range(5):
            pool.submit(abs, -1).result()
            assert until(lambda: all(slot.room() and not slot.tasks for slot in pool._scheduler.workers))
        assert repr(pool) == "<SlotPool: 1 of 4 workers>"


def test_a_large_result_arrives_whole_and_writable(running_pool):
    array = running_pool.submit(np.arange, 2_000_000).result()

    np.testing.assert_array_equal(array, np.arange(2_000_000))
    array[0] = 5


def test_a_function_that_a_worker_no_longer_has_is_sent_again(pool):
    functions = [lambda x, number=number: x + number for number in range(40)]

    for _ in range(3):
        assert [pool.submit(function, 1).result() for function in functions] == [*range(1, 41)]


@pytest.mark.parametrize(
    ("die", "code", "reported"),
    [
        (lambda: os._exit(7), 7, "exit code 7"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), -signal.SIGSEGV, "SIGSEGV"),
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            -signal.SIGKILL,
            "SIGKILL, as the system does when memory",
        ),
    ],
)
def test_a_job_that_kills_its_worker_costs_itself_only(pool, die, code, reported):
    before = [pool.submit(lambda x: x, i) for i in range(20)]
    culprit = pool.submit(die)
    after = [pool.submit(lambda x: x, i) for i in range(20)]

    with pytest.raises(WorkerLost, match=reported) as caught:
        culprit.result(PATIENCE)
    assert caught.value.exit_code == code
    assert "<lambda>" in caught.value.job
    assert [f.result(PATIENCE) for f in before + after] == [*range(20), *range(20)]


def test_a_worker_that_the_pool_has_killed_is_reported_as_such(pool):
    """The error does not say that memory ran out."""

    def close_all():
        os.closerange(3, 1000)
        time.sleep(600)

    with pytest.raises(WorkerLost) as caught:
        pool.submit(close_all).result(PATIENCE)
    assert "the pool ended it, because it had closed its connection to the pool" in str(caught.value)
    assert "memory" not in str(caught.value)


def test_an_idle_worker_that_is_killed_is_replaced(pool):
    pid = pool.submit(os.getpid).result()

    os.kill(pid, signal.SIGKILL)

    assert pool.submit(os.getpid).result(PATIENCE) != pid


@pytest.mark.parametrize("events", [selectors.EVENT_READ, selectors.EVENT_READ | selectors.EVENT_WRITE])
def test_an_event_that_follows_the_death_of_a_worker_ends_no_other_job(events):
    """The system may report the death first, and then what the worker had sent before."""
    with SlotPool(1) as pool:
        pool.submit(abs, -1).result(PATIENCE)
        scheduler = pool._scheduler
        (slot,) = scheduler.workers

        def die_and_be_heard():
            slot.process.kill()
            slot.process.join()
            scheduler._handle_death(slot, selectors.EVENT_READ)
            scheduler._exchange(slot, events)

        scheduler.call(die_and_be_heard)

        assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_jobs_that_shutdown_cancels_are_over_while_another_still_runs(tmp_path):
    def work():
        while not (tmp_path / "go").exists():
            time.sleep(0.01)

    pool = SlotPool(1)
    running = pool.submit(work)
    while not running.running():
        time.sleep(0.01)
    waiting = [pool.submit(abs, -1) for _ in range(3)]

    pool.shutdown(wait=False, cancel_futures=True)

    done, pending = wait(waiting, PATIENCE)
    assert (len(done), pending, running.done()) == (3, set(), False)
    (tmp_path / "go").touch()
    assert running.result(PATIENCE) is None


def test_random_kills_cost_no_more_than_a_job_each(pool):
    chance = random.Random(7)
    kills = 0
    futures = [pool.submit(lambda i: bytes(1_000_000) + bytes([i]), i) for i in range(100)]
    for number, _ in enumerate(as_completed(futures)):
        workers = list(pool._scheduler.workers)
        if number % 10 == 5 and workers:
            os.kill(chance.choice(workers).process.pid, signal.SIGKILL)
            kills += 1

    lost = [f for f in futures if f.exception(PATIENCE) is not None]
    assert kills > 0
    assert len(lost) <= kills
    assert all(isinstance(f.exception(), WorkerLost) for f in lost)
    assert all(f.result()[-1] == i for i, f in enumerate(futures) if f not in lost)
    assert pool.submit(abs, -1).result(PATIENCE) == 1


@pytest.mark.parametrize(
    "job",
    [
        lambda: threading.Lock(),
        make_unloadable,
        lambda: (_ for _ in ()),
    ],
)
def test_a_result_that_cannot_travel_costs_its_own_job(running_pool, job):
    good = [running_pool.submit(abs, -i) for i in range(10)]

    with pytest.raises(BencherJobError, match="pickled"):
        running_pool.submit(job).result(PATIENCE)
    assert [f.result(PATIENCE) for f in good] == list(range(10))


def test_an_argument_that_cannot_travel_ends_in_the_future(running_pool):
    with pytest.raises(BencherJobError, match="can't be sent to a worker"):
        running_pool.submit(id, threading.Lock()).result(PATIENCE)
    with pytest.raises(BencherJobError, match="can't be unpickled in the worker"):
        running_pool.submit(id, make_unloadable()).result(PATIENCE)


def test_exits_and_interrupts_of_a_job_reach_its_caller(running_pool):
    with pytest.raises(SystemExit, match="3"):
        running_pool.submit(sys.exit, 3).result(PATIENCE)
    with pytest.raises(SystemExit):
        running_pool.submit(exec, "raise SystemExit").result(PATIENCE)
    assert running_pool.submit(abs, -1).result(PATIENCE) == 1


def test_a_worker_knows_that_it_is_one(running_pool):
    assert running_pool.submit(inside_worker).result() is True
    assert inside_worker() is False


def test_a_job_may_use_multiprocessing(running_pool):
    def nested():
        with multiprocessing.get_context("spawn").Pool(1) as inner:
            return inner.map(abs, [-1, -2])

    assert running_pool.submit(nested).result(PATIENCE) == [1, 2]


def test_a_process_that_a_job_left_behind_does_not_hide_its_death(tmp_path, until, is_gone):
    reported = tmp_path / "child"

    def leave_a_child_and_die():
        child = os.fork()  # which inherits the worker's end of the connection
        if child == 0:
            time.sleep(600)
        reported.write_text(str(child))
        os._exit(4)

    with SlotPool(1) as pool, pytest.raises(WorkerLost, match="exit code 4"):
        pool.submit(leave_a_child_and_die).result(PATIENCE)
    assert until(lambda: is_gone(int(reported.read_text())))


def test_kill_ends_a_running_job_with_all_that_it_started(pool, tmp_path, until, is_gone):
    pids = tmp_path / "pids"

    def wait_for_a_child():
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        pids.write_text(f"{os.getpid()} {child.pid} ")
        child.wait()

    future = pool.submit(wait_for_a_child)
    assert until(lambda: pids.exists() and pids.read_text().endswith(" "))

    assert pool.kill(future)
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    assert until(lambda: all(is_gone(int(pid)) for pid in pids.read_text().split()))
    assert not pool.kill(future)
    assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_kill_leaves_the_future_of_something_else_alone(pool):
    foreign = Future()
    with SlotPool(1) as other:
        others = other.submit(time.sleep, 0.2)
        for future in (foreign, others):
            assert not pool.kill(future)
            assert not future.cancelled()
        assert others.result(PATIENCE) is None
    foreign.set_result("left alone")
    assert foreign.result() == "left alone"


def test_kill_ends_a_loop_that_lets_no_other_thread_run(until):
    with SlotPool(1) as pool:
        future = pool.submit(sum, range(10**15))
        queued = pool.submit(abs, -1)
        assert until(future.running)

        assert pool.kill(future)

        with pytest.raises(CancelledError):
            future.result(PATIENCE)
        assert queued.result(PATIENCE) == 1


def test_a_waiting_job_can_be_cancelled():
    with SlotPool(1) as pool:
        running = pool.submit(time.sleep, 0.2)
        waiting = pool.submit(abs, -1)

        assert waiting.cancel()

        assert running.result(PATIENCE) is None
        with pytest.raises(CancelledError):
            waiting.result()


def test_after_shutdown_nothing_is_taken_and_no_process_is_left():
    pool = SlotPool(2)
    pids = {pool.submit(os.getpid).result() for _ in range(10)}
    last = pool.submit(time.sleep, 0.1)

    pool.shutdown()

    assert last.done()
    assert all(not psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, -1)


def test_shutdown_can_cancel_what_waits():
    pool = SlotPool(1)
    futures = [pool.submit(time.sleep, 0.05) for _ in range(20)]

    pool.shutdown(cancel_futures=True)

    assert all(future.done() for future in futures)
    assert futures[-1].cancelled()


def test_a_forgotten_pool_lets_its_workers_go(until):
    pool = SlotPool(1)
    pid = pool.submit(os.getpid).result()

    del pool

    assert until(lambda: not psutil.pid_exists(pid))


def test_jobs_are_told_while_no_process_can_be_started_and_run_when_one_can():
    """All waiting jobs end, although no event wakes the pool."""
    with SlotPool(2) as pool:
        with pytest.raises(WorkerLost):
            pool.submit(os._exit, 3).result(PATIENCE)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_first_free_descriptor(), before[1]))
        try:
            errors = [pool.submit(abs, -1) for _ in range(4)]
            errors = [future.exception(PATIENCE) for future in errors]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert [type(error) for error in errors] == [WorkerLost] * 4
    assert "no worker process could be started" in str(errors[-1])


def _first_free_descriptor():
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def test_many_threads_and_callbacks_may_submit(running_pool, until):
    from_callbacks = []
    with ThreadPoolExecutor(8) as threads:
        futures = list(threads.map(lambda i: running_pool.submit(abs, -i), range(200)))
    for future in futures[:20]:
        future.add_done_callback(lambda _: from_callbacks.append(running_pool.submit(abs, -1)))

    assert [future.result(PATIENCE) for future in futures] == list(range(200))
    assert until(lambda: len(from_callbacks) == 20)
    assert [future.result(PATIENCE) for future in from_callbacks] == [1] * 20


def test_no_workers_are_refused():
    with pytest.raises(ValueError, match="max_workers=0"):
        SlotPool(0)


def test_the_factory_makes_a_pool_each_time():
    with Executors.factory("multiprocessing") as one, Executors.factory(Executors.MULTIPROCESSING) as other:
        assert one is not other
        assert one.submit(abs, -1).result(PATIENCE) == 1
    assert Executors.factory("serial") is None


def test_a_script_without_a_guard_runs_once(script):
    out = script.run("""
        import json, os
        from bencher_job import Executors
        with open("runs", "a") as file: file.write("x")
        class Point:
            def __init__(self, x): self.x = x
        def make(x): return Point(x)
        pool = Executors.factory("MULTIPROCESSING")
        points = list(pool.map(make, range(3)))
        out = [all(type(p) is Point for p in points), [p.x for p in points], open("runs").read()]
        json.dump(out, open("out.json", "w"))
    """)

    assert out == [True, [0, 1, 2], "x"]


def test_an_exit_without_shutdown_leaves_nothing(script, until, is_gone):
    process = script.start("""
        import os, subprocess
        from bencher_job._executors.pool import SlotPool
        pool = SlotPool(2)
        def child():
            sleeper = subprocess.Popen(["sleep", "600"])
            open("pids", "w").write(f"{os.getpid()} {sleeper.pid}")
            sleeper.wait()
        pool.submit(child)
        while not os.path.exists("pids") or " " not in open("pids").read(): pass
    """)

    assert process.wait(PATIENCE) == 0
    assert until(lambda: all(is_gone(int(pid)) for pid in script.reported("pids").split()))


def test_ctrl_c_ends_a_program_with_a_queue_at_once(script, until, is_gone):
    process = script.start("""
        import os, time
        from bencher_job._executors.pool import SlotPool
        def work(i):
            open(f"pid{i}", "w").write(str(os.getpid()))
            time.sleep(600)
        pool = SlotPool(2)
        futures = [pool.submit(work, i) for i in range(50)]
        futures[0].result()
    """)
    pids = [int(script.reported("pid0")), int(script.reported("pid1"))]

    os.killpg(process.pid, signal.SIGINT)

    process.wait(PATIENCE)
    assert until(lambda: all(is_gone(pid) for pid in pids))
    assert "KeyboardInterrupt" in process.stderr.read()


def test_workers_leave_with_a_parent_that_is_killed(script, until, is_gone):
    process = script.start("""
        import os, time
        from bencher_job._executors.pool import SlotPool
        def note(i): open(f"pid{i}", "w").write(str(os.getpid()))
        def sleeps(): note(0); time.sleep(600)
        def never_yields(): note(1); sum(range(10**15))
        pool = SlotPool(3)
        futures = [pool.submit(sleeps), pool.submit(never_yields), pool.submit(lambda: note(2))]
        futures[0].result()
    """)
    pids = [int(script.reported(f"pid{i}")) for i in range(3)]

    process.kill()

    assert until(lambda: all(is_gone(pid) for pid in pids))


def test_a_forked_child_makes_a_pool_of_its_own(script):
    out = script.run("""
        import json, os
        from bencher_job import Job
        from bencher_job._executors import engine_for
        engine = engine_for("multiprocessing")
        def value():
            future = engine.submit(Job("a", abs, {}, "key", positional=(-3,)))
            future.exception()
            return engine.receive(future).value
        value()
        child = os.fork()
        if child == 0:
            open("child", "w").write(str(value()))
            raise SystemExit(0)
        os.waitpid(child, 0)
        json.dump([value(), open("child").read()], open("out.json", "w"))
    """)

    assert out == [3, "3"]


def test_a_child_that_a_job_forks_ends_without_answering():
    def fork():
        child = os.fork()
        return child or "the child's"

    with SlotPool(1) as pool:
        first = pool.submit(fork).result(PATIENCE)
        os_pid = pool.submit(os.getpid).result(PATIENCE)
        answers = [pool.submit(lambda x: (x, os.getpid()), i).result(PATIENCE) for i in range(50)]

        assert pool.submit(os.waitpid, first, 0).result(PATIENCE) == (first, 0)

    assert answers == [(i, os_pid) for i in range(50)]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda: None, 0),
        (lambda: sys.exit(), 0),
        (lambda: sys.exit(3), 3),
        (lambda: sys.exit("text"), 1),
        (lambda: 1 / 0, 1),
    ],
)
def test_a_child_that_a_job_forks_ends_as_python_would_end_it(running_pool, end, code):
    def fork_and_wait():
        child = os.fork()
        if child == 0:
            return end()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert running_pool.submit(fork_and_wait).result(PATIENCE) == code


def test_a_forked_child_neither_waits_for_its_parents_threads_nor_uses_its_pool(script):
    out = script.run("""
        import json, os, threading, time
        from bencher_job import Job
        from bencher_job._executors import engine as engines, engine_for, pickling
        from bencher_job._executors.pool import SlotPool
        engine = engine_for("multiprocessing")
        def value():
            future = engine.submit(Job("a", abs, {}, "key", positional=(-3,)))
            future.exception()
            return engine.receive(future).value
        value()
        pool = SlotPool(1)
        running = pool.submit(time.sleep, 1)
        while not running.running(): pass
        held, go_on = threading.Event(), threading.Event()
        def hold():
            with engines._shared.turn, pickling.by_value(json):
                held.set()
                go_on.wait()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        child = os.fork()
        if child == 0:
            killed = pool.kill(running)
            with pickling.by_value(os):
                engine.release()
                open("child", "w").write(json.dumps([value(), killed]))
            engine.release()
            os._exit(0)
        deadline = time.monotonic() + 60
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, 9)
            time.sleep(0.01)
        go_on.set()
        reported = json.load(open("child")) if os.path.exists("child") else None
        json.dump([reported, running.exception() is None, value()], open("out.json", "w"))
    """)

    assert out == [[3, False], True, 3]


def test_what_comes_home_is_the_programs_own(script):
    out = script.run("""
        import dataclasses, enum, json
        from bencher_job._executors.pool import SlotPool
        LIMIT = 1
        class Base:
            count = 0
            def scale(self): return LIMIT
            @property
            def limit(self): return LIMIT
        class R(Base):
            class Inner:
                def __init__(self, x): self.x = x
            def own(self): return LIMIT
        @dataclasses.dataclass
        class D:
            x: int
        class E(enum.Enum):
            A = 1
        class Err(Exception):
            def __init__(self, a, b):
                super().__init__(a)
                self.a, self.b = a, b
        def plain(): return LIMIT
        def make(): return {"r": [R()], "d": (D(2),), "e": E.A, "inner": R.Inner(5), "class": R,
                            "function": plain, "method": R().own, "made": lambda: (plain, LIMIT)}
        def fail():
            try: raise Err(1, 2)
            except Err as cause: raise Err(3, R()) from cause
        classes = Base, R, R.Inner, D, E, Err
        before = [dict(vars(each)) for each in classes]
        with SlotPool(1) as pool:
            future = pool.submit(make)
            Base.count = LIMIT = 7
            made = future.result()
            error = pool.submit(fail).exception()
            second = pool.submit(make).result()
        before[0]["count"] = 7
        same = [
            {k: v for k, v in vars(each).items() if k != "__slotnames__"}.items() == old.items()
            and all(vars(each)[k] is old[k] for k in old)
            for each, old in zip(classes, before)
        ]
        json.dump({
            "definitions": same,
            "instances": [type(x) is c for x, c in [
                (made["r"][0], R), (made["d"][0], D), (made["inner"], R.Inner), (second["r"][0], R)]],
            "enum": made["e"] is E.A,
            "values": [made["d"][0].x, made["inner"].x, made["r"][0].scale(), made["r"][0].limit],
            "class": made["class"] is R,
            "functions": [made["function"] is plain, made["method"].__func__ is R.own, made["made"]()[0] is plain],
            "errors": [type(error) is Err, type(error.__cause__) is Err, error.a, type(error.b) is R],
        }, open("out.json", "w"))
    """)

    assert out == {
        "definitions": [True] * 6,
        "instances": [True] * 4,
        "enum": True,
        "values": [2, 5, 7, 7],
        "class": True,
        "functions": [True] * 3,
        "errors": [True, True, 3, True],
    }


def test_a_class_that_a_job_makes_travels_by_value(pool):
    class Sent:
        pass

    def make():
        class Made(Sent):
            def answer(self):
                return type(self).__mro__[1] is Sent

        return Made()

    made = pool.submit(make).result(PATIENCE)

    assert isinstance(made, Sent)
    assert made.answer()
    assert pool.submit(lambda: type(made) is not Sent and made.answer()).result(PATIENCE)


def test_a_class_that_is_defined_anew_meanwhile_is_found_by_name(script):
    out = script.run("""
        import gc, json, os, time
        from bencher_job._executors.pool import SlotPool
        class R: pass
        def make():
            while not os.path.exists("go"): time.sleep(0.01)
            return R()
        with SlotPool(1) as pool:
            future = pool.submit(make)
            class R: pass
            gc.collect()
            open("go", "w").close()
            json.dump(type(future.result()) is R, open("out.json", "w"))
    """)

    assert out is True
