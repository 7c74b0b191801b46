"""Real programs under `python -m scoop`; its launcher's exit code is always 0, so they tell by files."""

from __future__ import annotations

import pytest

SCOOP = ("-m", "scoop", "-q", "-n", "3")


def test_runs_jobs_in_workers_as_any_executor_does(script):
    out = script.run(
        """
        import concurrent.futures as cf, json, os, threading
        from bencher_job import Executors, Job, cached_job
        from bencher_job._executors import engine_for, inside_worker

        class Point:
            def __init__(self, x): self.x = x

        def make(x): return Point(x)

        def fail(): raise LookupError("a", 1)

        def outcome(engine, function, *args):
            future = engine.submit(Job("name", function, {}, "key", positional=args))
            future.exception(20)
            return engine.receive(future)

        if __name__ == "__main__":
            offset, out = 40, {}
            with Executors.factory("scoop") as executor:
                out["map"] = list(executor.map(lambda x: x + offset, range(100)))
                out["same class"] = type(executor.submit(make, 1).result(20)) is Point
                out["elsewhere"] = executor.submit(os.getpid).result(20) != os.getpid()
                called = threading.Event()
                executor.submit(abs, -1).add_done_callback(lambda future: called.set())
                out["called back"] = called.wait(20)
                with cf.ThreadPoolExecutor(8) as threads:
                    futures = list(threads.map(lambda i: executor.submit(abs, -i), range(100)))
                out["threads"] = [future.result(20) for future in futures] == list(range(100))
                out["unpicklable"] = type(executor.submit(threading.Lock).exception(20)).__name__
                out["exit"] = type(executor.submit(exit).exception(20)).__name__
            try:
                executor.submit(abs, -1)
            except RuntimeError as error:
                out["after"] = str(error)
            engine = engine_for("scoop")
            error = outcome(engine, fail).error
            out["error"] = [type(error).__name__, error.args, "in fail" in str(error.__cause__)]
            out["inside"] = outcome(engine, inside_worker).value
            out["large"] = len(outcome(engine, bytes, 5_000_000).value)
            nested = outcome(engine, lambda: engine_for("scoop").submit(Job("a", abs, {}, "k")))
            out["nested"] = str(nested.error)
            json.dump(out, open("out.json", "w"))
        """,
        *SCOOP,
    )

    assert out["map"] == list(range(40, 140))
    assert all(out[name] is True for name in ("same class", "elsewhere", "called back", "threads", "inside"))
    assert (out["unpicklable"], out["exit"]) == ("BencherJobError", "SystemExit")
    assert out["after"] == "cannot schedule new futures after shutdown"
    assert out["error"] == ["LookupError", ["a", 1], True]
    assert out["large"] == 5_000_000
    assert "root program only" in out["nested"]


@pytest.mark.parametrize("death", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_dead_worker_fails_what_is_pending_and_hangs_nothing(script, death):
    out = script.run(
        f"""
        import concurrent.futures as cf, json, os, time
        from bencher_job import Executors

        def die(): {death}

        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            kept = executor.submit(abs, -1).result(20)
            futures = [executor.submit(time.sleep, 600), executor.submit(die), executor.submit(abs, -1)]
            begun = time.monotonic()
            lost = [repr(future.exception(20)) for future in futures[:2]]
            seconds = time.monotonic() - begun
            try:
                executor.submit(abs, -1)
            except Exception as error:
                after = repr(error)
            json.dump([kept, lost, seconds, after], open("out.json", "w"))
        """,
        *SCOOP,
    )

    kept, lost, seconds, after = out
    assert kept == 1
    assert all(error.startswith("WorkerLost('SCOOP lost") for error in lost)
    assert seconds < 3
    assert after.startswith("WorkerLost('SCOOP takes no more jobs")


def test_what_is_pending_when_the_script_ends_is_finished_and_kept(script):
    process = script.start(
        """
        import time
        from bencher_job import cached_job

        @cached_job(executor="scoop")
        def late(x):
            time.sleep(0.3)
            return x

        if __name__ == "__main__":
            for x in range(4):
                late.submit(x)
        """,
        *SCOOP,
    )
    process.communicate(timeout=20)

    out = script.run("""
        import json
        from bencher_job import cached_job

        @cached_job
        def late(x):
            time.sleep(0.3)
            return x

        json.dump([record.key for record in late.cache.cache.records()], open("out.json", "w"))
    """)

    assert len(out) == 4


def test_a_script_that_fails_ends(script):
    process = script.start(
        """
        import time
        from bencher_job import Executors
        if __name__ == "__main__":
            Executors.factory("scoop").submit(time.sleep, 600)
            raise ValueError("on purpose")
        """,
        *SCOOP,
    )

    output, errors = process.communicate(timeout=20)

    assert "on purpose" in output + errors


def test_a_program_without_workers_is_refused(script):
    out = script.run(
        """
        import json
        from bencher_job import Executors
        if __name__ == "__main__":
            try:
                Executors.factory("scoop")
            except Exception as error:
                json.dump(repr(error), open("out.json", "w"))
        """,
        *SCOOP[:-1],
        "1",
    )

    assert out.startswith("BencherJobError('executor=SCOOP has no worker with -n 1")


def test_an_idle_pump_uses_no_time(script):
    out = script.run(
        """
        import json, time
        from bencher_job import Executors
        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            executor.submit(abs, -1).result(20)
            before = time.process_time()
            executor.submit(time.sleep, 1.5).result(20)
            json.dump(time.process_time() - before, open("out.json", "w"))
        """,
        *SCOOP,
    )

    assert out < 0.2
