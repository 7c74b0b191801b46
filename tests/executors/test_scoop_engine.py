"""The engine of SCOOP as its scheduler uses it, and the share of the cores that a worker has."""

from __future__ import annotations

import pytest

from bencher_job._cores import InnerThreads
from tests.environment import needs_scoop
from tests.executors import test_scoop

pytest.importorskip("scoop", reason="the extra scoop is not installed")
pytestmark = needs_scoop
run = test_scoop.run


def test_runs_calls_in_workers_as_any_executor_does(run):
    out = run(
        """
        from bencher_job._executors import engine_for, inside_worker

        class Point:
            def __init__(self, x): self.x = x

        def make(x): return Point(x)

        def fail(): raise LookupError("a", 1)

        def outcome(engine, function, *args):
            future = engine.submit(Job("name", function, {}, "key", positional=args))
            future.exception(60)
            return engine.receive(future)

        if __name__ == "__main__":
            offset, out = 40, {}
            with Executors.factory("scoop") as executor:
                out["map"] = list(executor.map(lambda x: x + offset, range(300)))
                out["same class"] = type(executor.submit(make, 1).result(60)) is Point
                out["elsewhere"] = executor.submit(os.getpid).result(60) != os.getpid()
                with cf.ThreadPoolExecutor(8) as threads:
                    futures = list(threads.map(lambda i: executor.submit(abs, -i), range(400)))
                out["threads"] = [future.result(60) for future in futures] == list(range(400))
                out["unpicklable"] = type(executor.submit(threading.Lock).exception(60)).__name__
                out["exit"] = type(executor.submit(exit).exception(60)).__name__
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
            tell(out)
        """
    )

    assert out["map"] == list(range(40, 340))
    assert all(out[name] is True for name in ("same class", "elsewhere", "threads", "inside"))
    assert (out["unpicklable"], out["exit"]) == ("BencherJobError", "SystemExit")
    assert out["after"] == "cannot schedule new futures after shutdown"
    assert out["error"] == ["LookupError", ["a", 1], True]
    assert out["large"] == 5_000_000
    assert "root program only" in out["nested"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_has_its_share_of_the_threads_of_libraries(run, workers):
    both, share, same = run(
        f"""
        import numpy, threadpoolctl
        from tests.environment import load_openmp
        from bencher_job._cores import cores

        def found(x):
            import numpy
            load_openmp()
            reported = {{each["num_threads"] for each in threadpoolctl.threadpool_info()}}
            return [*reported, int(os.environ["OMP_NUM_THREADS"])]

        if __name__ == "__main__":
            load_openmp()
            here = [each["num_threads"] for each in threadpoolctl.threadpool_info()]
            share = cached_job(executor="scoop", version="share")(found)
            wanted = cached_job(executor="scoop", inner_threads=1)(found)
            both = [list(each.map(range(n, n + 4))) for n in (0, 4) for each in (share, wanted)]
            same = here == [each["num_threads"] for each in threadpoolctl.threadpool_info()]
            tell([both, max(1, cores() // {workers}), same])
        """,
        *("-m", "scoop", "-q", "-n", str(workers + 1)),
        **dict.fromkeys(InnerThreads.of(1, 1).variables, ""),
    )
    assert both == [[[share] * 2] * 4, [[1] * 2] * 4] * 2
    assert same
