from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from bencher_job import Executors
from bencher_job._executors.threads import ThreadPool

PATIENCE = 60.0


def test_runs_calls_in_threads_of_this_process():
    with ThreadPool(2) as pool:
        assert list(pool.map(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16]
        assert pool.submit(os.getpid).result() == os.getpid()
        assert pool.submit(threading.current_thread).result() is not threading.current_thread()


def test_runs_as_many_calls_at_once_as_it_has_threads():
    together = threading.Barrier(3)
    with ThreadPool(3) as pool:
        assert sorted(
            future.result(PATIENCE) for future in [pool.submit(together.wait) for _ in range(3)]
        ) == [0, 1, 2]


def test_starts_threads_as_calls_come(until):
    with ThreadPool(4) as pool:
        assert repr(pool) == "<ThreadPool: 0 of 4 threads>"
        for _ in range(5):
            pool.submit(abs, -1).result()
            assert until(lambda: pool._idle._value > 0)
        assert repr(pool) == "<ThreadPool: 1 of 4 threads>"


def test_what_a_call_raises_is_its_own():
    with ThreadPool(1) as pool:
        for error in (ValueError("a"), SystemExit(3), KeyboardInterrupt()):
            assert pool.submit(_raise, error).exception(PATIENCE) is error
        assert pool.submit(abs, -1).result(PATIENCE) == 1


def _raise(error):
    raise error


def test_a_waiting_call_can_be_cancelled():
    go_on = threading.Event()
    with ThreadPool(1) as pool:
        running = pool.submit(go_on.wait, PATIENCE)
        waiting = pool.submit(abs, -1)

        assert waiting.cancel()
        go_on.set()

        assert running.result(PATIENCE) is True
        with pytest.raises(CancelledError):
            waiting.result()


def test_after_shutdown_nothing_is_taken_and_no_thread_is_left():
    pool = ThreadPool(2)
    futures = [pool.submit(time.sleep, 0.01) for _ in range(10)]

    pool.shutdown()

    assert all(future.done() and not future.cancelled() for future in futures)
    assert not any(thread.is_alive() for thread in pool._threads)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, -1)


def test_shutdown_can_cancel_what_waits():
    go_on = threading.Event()
    pool = ThreadPool(1)
    futures = [pool.submit(go_on.wait, PATIENCE) for _ in range(20)]

    pool.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    pool.shutdown()

    assert futures[0].done()
    assert all(future.cancelled() for future in futures[1:])


def test_many_threads_and_callbacks_may_submit():
    from_callbacks = []
    with ThreadPool(2) as pool:
        with ThreadPoolExecutor(8) as threads:
            futures = list(threads.map(lambda i: pool.submit(abs, -i), range(200)))
        for future in futures[:20]:
            future.add_done_callback(lambda _: from_callbacks.append(pool.submit(abs, -1)))

        assert [future.result(PATIENCE) for future in futures] == list(range(200))
        assert [future.result(PATIENCE) for future in from_callbacks] == [1] * 20


def test_a_forked_child_is_told_that_the_pool_is_not_its_own():
    with ThreadPool(1) as pool:
        pool.submit(abs, -1).result(PATIENCE)
        child = os.fork()
        if child == 0:
            try:
                pool.submit(abs, -1)
            except RuntimeError as error:
                os._exit(0 if "belongs to the parent" in str(error) else 3)
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_factory_makes_a_pool():
    with Executors.factory("threads") as pool:
        assert type(pool) is ThreadPool


def test_one_ctrl_c_ends_a_program_whose_threads_are_at_work(script):
    process = script.start("""
        import time
        from bencher_job import cached_job
        @cached_job(executor="threads", max_workers=2, code="none")
        def work(x):
            if x < 2:
                return x
            open(f"begun{x}", "w").write("x")
            time.sleep(600)
        print(work(0), work(1), flush=True)
        futures = [work.submit(x) for x in range(2, 50)]
        futures[0].result()
    """)
    for number in (2, 3):
        script.reported(f"begun{number}")

    os.killpg(process.pid, signal.SIGINT)

    _, errors = process.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0


def test_a_program_that_ends_waits_for_what_it_submitted(script):
    process = script.start("""
        import time
        from bencher_job import cached_job
        @cached_job(executor="threads", code="none")
        def work(x):
            time.sleep(0.2)
            open(f"done{x}", "w").write("x")
            return x
        futures = [work.submit(x) for x in range(4)]
    """)

    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert sorted(path.name for path in script.folder.glob("done*")) == ["done0", "done1", "done2", "done3"]
    again = script.start("""
        import json
        from bencher_job import cached_job
        @cached_job(executor="threads", code="none")
        def work(x): ...
        print(json.dumps([work.is_cached(x) for x in range(4)]))
    """)
    assert again.communicate(timeout=PATIENCE)[0].strip() == "[true, true, true, true]"


def test_an_interrupt_of_one_who_asks_a_future_leaves_it_to_the_others():
    go_on = threading.Event()
    entered = threading.Condition.__enter__.__code__

    def interrupt(frame, event, _arg):
        if frame.f_code is entered and event == "return":
            raise KeyboardInterrupt
        return interrupt

    with ThreadPool(1) as pool, ThreadPoolExecutor(1) as other:
        future = pool.submit(go_on.wait, PATIENCE)
        before = sys.gettrace()
        sys.settrace(interrupt)
        try:
            future.add_done_callback(lambda _: None)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        go_on.set()
        assert other.submit(future.result, 10).result() is True
