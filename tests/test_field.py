"""What users of other libraries report again and again: here each report has the answer that its author wished for.

The numbers are those of the reports: joblib's, diskcache's, loky's and exca's on GitHub.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bencher_job import CacheWarning, Cause, CodeMismatch, Executors, UntrustedCache, WorkerLost, cached_job
from bencher_job.testing import CallCounter
from tests.conftest import WriteModule
from tests.environment import unmeasured

STUDY = """
    from bencher_job import cached_job
    import steps
    CALLS = []
    @cached_job
    def score(x, y=1):
        CALLS.append(x)
        return steps.prepare(x) + y
"""
STEPS = """
    import deeper
    def prepare(x):
        return deeper.scale(x)
"""
DEEPER = """
    def scale(x):
        # by a factor
        return 2 * x
"""


@pytest.fixture
def score(write_module: WriteModule) -> Callable[..., object]:
    """Give the cached function of three modules, one of which is edited first, as if the program ran again."""

    def score(deeper: str = DEEPER, study: str = STUDY):
        for name, code in (("deeper", deeper), ("steps", STEPS), ("study", study)):
            module = write_module(name, code)
        return module.score

    return score


class TestStaleValues:
    def test_a_helper_of_a_helper_in_another_module_is_edited(self, score) -> None:
        """joblib 1621: the value of the old code was served."""
        assert score()(3) == 7
        assert score(DEEPER.replace("2 * x", "5 * x"))(3) == 16
        assert score().is_cached(3), "and the value of the old code is not lost"

    def test_a_default_is_changed(self, score) -> None:
        """diskcache 264: a call that leaves the argument out got the value of the old default."""
        assert score()(3) == 7
        assert score(study=STUDY.replace("y=1", "y=10"))(3) == 16

    def test_two_functions_of_one_name_take_turns(self) -> None:
        """joblib 1096 and 649: each got the other's value, or threw it away."""
        calls = []

        def make(value: str):
            @cached_job
            def f() -> str:
                calls.append(value)
                return value

            return f

        one, other = make("one"), make("other")
        assert [one(), other(), one(), other()] == ["one", "other"] * 2
        assert calls == ["one", "other"]

    def test_arguments_that_look_alike_in_a_flat_key(self) -> None:
        """diskcache 313: positional and keyword arguments ran into each other in the key."""

        @cached_job
        def f(*args: object, **kwargs: object) -> str:
            return f"{args} {kwargs}"

        values = {f("a", 1), f(a=1), f(("a", 1)), f("a", b=1), f("a", "b", 1), f(1), f(1.0), f(True), f("1")}
        assert len(values) == 9

    def test_a_worker_has_newer_code_than_the_submitter(self, write_module: WriteModule) -> None:
        """exca 111: what the newer code computed was kept under the older code's key."""
        module = write_module("newer", "def f(x):\n    return x\n")
        pool = Executors.factory("multiprocessing")
        f = cached_job(executor=pool)(module.f)
        f.key(1)
        Path(module.__file__).write_text("def f(x):\n    return -x\n")
        with pytest.raises(CodeMismatch, match=r"newer\.f"):
            f(1)
        assert not f.is_cached(1)
        pool.shutdown()


class TestNeedlessRuns:
    def test_a_comment_a_docstring_and_the_place_in_the_file_are_edited(self, score) -> None:
        """joblib 1533 and 1312."""
        score()(3)
        edited = "    import math  # news\n" + DEEPER.replace("# by a factor", "'Scale.'  # by another")
        again = score(edited)
        assert again.is_cached(3)

    def test_why_did_it_run_again(self, score) -> None:
        """joblib 1763."""
        score()(3)
        explanation = score(DEEPER.replace("2 * x", "5 * x")).explain(3)
        assert explanation.cause is Cause.CODE
        assert "deeper.scale: changed" in str(explanation)
        assert "+    return 5 * x" in str(explanation)

    def test_equal_arguments_that_share_their_parts_in_other_ways(self) -> None:
        """joblib 1283, 393 and 213: a key depended on which parts are one object."""

        @cached_job
        def f(x: object) -> int:
            return len(str(x))

        one, same = ["test"], ["test"]
        number = np.int64(10)
        assert f.key([{"a": one}, one]) == f.key([{"a": same}, one])
        assert f.key({"a": number, "b": number}) == f.key({"a": number, "b": np.int64(10)})
        assert f.key(["aa", "aa"]) == f.key(["aa", "aaZ"[:-1]])

    def test_an_argument_has_been_pickled(self) -> None:
        """joblib 231 and 1136: a round trip through pickle changed the key."""

        @cached_job
        def f(x: object) -> int:
            return len(str(x))

        for value in (
            {"dtype": np.dtype("int32"), "names": ["int32", "INT32".lower()]},
            np.zeros(3, dtype=[("a", "f8"), ("b", "i4")]),
            {"b", "a", ("c", 1)},
        ):
            assert f.key(value) == f.key(pickle.loads(pickle.dumps(value))) == f.key(copy.deepcopy(value))

    def test_a_call_is_spelled_in_another_way(self, score) -> None:
        """diskcache 264, and what functools does."""
        function = score()
        assert function.key(3) == function.key(3, 1) == function.key(x=3, y=1) == function.key(y=1, x=3)


class TestOneComputation:
    def test_threads_that_ask_at_once(self, counter: CallCounter) -> None:
        """joblib 1030 and 73, diskcache 165."""
        go_on = threading.Event()

        @cached_job(code="none")
        def slow(x: int) -> int:
            counter.tick()
            go_on.wait(60)
            return x

        with ThreadPoolExecutor(8) as threads:
            futures = [threads.submit(slow, 1) for _ in range(8)]
            go_on.set()
            assert [future.result() for future in futures] == [1] * 8
        assert counter.count == 1

    def test_a_cached_function_is_called_by_workers(self, write_module: WriteModule) -> None:
        """joblib 1035 and 1069: calling it in a worker threw away what was kept."""
        module = write_module(
            "nested",
            """
            from bencher_job import Executors, cached_job
            @cached_job
            def inner(x):
                return x + 1
            @cached_job(executor=Executors.MULTIPROCESSING)
            def outer(x):
                return inner(x) * 2
            """,
        )
        assert [module.inner(x) for x in range(4)] == [1, 2, 3, 4]
        assert list(module.outer.map(range(4))) == [2, 4, 6, 8]
        module.inner.cache.clear_call_counts()
        assert [module.inner(x) for x in range(4)] == [1, 2, 3, 4]
        assert module.inner.cache.info().hits == 4
        module.outer.cache.close()


class TestNothingIsLost:
    def test_a_worker_is_killed(self) -> None:
        """joblib 812: the whole run was lost."""

        @cached_job(executor=Executors.MULTIPROCESSING)
        def job(x: int) -> int:
            if x == 3:
                os.kill(os.getpid(), 9)
            return x

        futures = [job.submit(x) for x in range(8)]
        assert [future.exception() is None for future in futures] == [x != 3 for x in range(8)]
        assert isinstance(futures[3].exception(), WorkerLost)
        assert [job.is_cached(x) for x in range(8)] == [x != 3 for x in range(8)]
        job.cache.close()

    def test_a_result_can_not_be_kept(self) -> None:
        """joblib 952: it was silently not cached, for hours."""

        @cached_job
        def make() -> Callable[[], int]:
            return lambda: 1

        with pytest.warns(CacheWarning, match="can't be pickled") as caught:
            assert make()() == 1
        assert caught[0].filename == __file__
        assert make.cache.info().unsaved == 1

    def test_results_beyond_a_size_limit(self, caplog: pytest.LogCaptureFixture) -> None:
        """diskcache 117: they vanished, and nobody was told."""

        @cached_job(size_limit=300_000)
        def large(x: int) -> bytes:
            return bytes([x]) * 100_000

        for x in range(10):
            large(x)
        info = large.cache.info()
        assert info.evicted >= 6
        assert info.size <= 300_000 + 200_000
        assert "to stay within 300000 bytes" in caplog.text
        assert large.explain(0).cause is Cause.EVICTED

    def test_a_function_that_failed_gives_no_value(self) -> None:
        """cachier: those who waited for a call that failed got None."""

        @cached_job
        def fails(x: int) -> int:
            raise ValueError(x)

        for _ in range(2):
            with pytest.raises(ValueError, match="7"):
                fails(7)
        assert not fails.is_cached(7)


class TestForeignBytes:
    def test_a_cache_that_others_can_write_to(self, cache_folder: Path) -> None:
        """diskcache 357 (CVE-2025-69872): it unpickled what another user wrote."""

        @cached_job
        def f(x: int) -> int:
            return x

        f(1)
        f.cache.close()
        (cache_folder / "fcache").chmod(0o777)
        with pytest.raises(UntrustedCache, match="chmod -R go-w"):
            f(1)

    def test_a_database_that_is_damaged(self, cache_folder: Path) -> None:
        """diskcache 345: 'database disk image is malformed' reached the caller."""

        @cached_job
        def f(x: int) -> int:
            return x + 1

        f(1)
        f.cache.close()
        database = cache_folder / "fcache" / "cache.db"
        database.write_bytes(b"no database" * 1000)
        with pytest.warns(CacheWarning, match="set aside"):
            assert f(1) == 2
        assert f.is_cached(1)


class TestWhatShips:
    SCRIPT = """
        from bencher_job import Executors, cached_job
        OFFSET = 1
        class Model:
            def __init__(self, scale):
                self.scale = scale
            def __call__(self, x):
                return self.scale * x + OFFSET
        def make(scale):
            return lambda x: scale * x + OFFSET
        for function in (make(2), Model(2), lambda x: make(2)(x)):
            job = cached_job(executor=Executors.MULTIPROCESSING)(function)
            print(list(job.map([1, 2, 3])))
    """

    def test_lambdas_closures_and_objects_of_a_script_without_a_guard(self, tmp_path: Path) -> None:
        """loky 268."""
        script = tmp_path / "study.py"
        script.write_text(textwrap.dedent(self.SCRIPT))
        run = subprocess.run(
            [sys.executable, script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=unmeasured(),
            timeout=60,
            check=False,
        )
        assert (run.stdout, run.stderr) == ("[3, 5, 7]\n" * 3, "")
