"""A job pickles with its key, and runs in another process only under the code that its key is of."""

from __future__ import annotations

import copy
import functools
import pickle
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job import (
    CodeMismatch,
    Executors,
    FutureCache,
    Job,
    JobFunctionCache,
    JobFuture,
    cached_job,
    current_job_key,
    run_job,
)
from tests.conftest import WriteModule

CODE = """
    import helping
    def scaled(x):
        return helping.double(x) + 1
"""


@dataclass
class Scale:
    factor: int

    def of(self, x: Any) -> Any:
        return [self.factor, x]

    @cached_job
    def recalled(self, x: Any) -> Any:
        return [x]

    def __call__(self, x: Any) -> Any:
        return [self.factor, x, "called"]


def shown(x: Any, *more: Any, **named: Any) -> list[Any]:
    return [x, more, named]


def keyed(x: Any) -> tuple[Any, str | None]:
    return x, current_job_key()


@cached_job
def remembered(x: Any) -> Any:
    return [x]


@cached_job
async def recalled(x: Any) -> Any:
    return [x]


async def awaited(x: Any) -> Any:
    return [x]


FUNCTIONS = {
    "function": shown,
    "coroutine function": awaited,
    "bound method": Scale(2).of,
    "object": Scale(2),
    "partial": functools.partial(shown, named=1),
    "builtin": repr,
    "cached function": remembered,
    "class": Scale,
}


@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
@pytest.mark.parametrize(
    "function", [remembered, Scale(2).recalled, recalled], ids=["function", "method", "coroutine"]
)
def test_a_job_of_a_cached_function_runs_as_one_of_the_plain_function(function: Any, executor: str) -> None:
    with FutureCache(executor, overwrite=False) as cache:
        job = Job("id", function, {"x": 1})
        assert job.job_key == function.key(1)
        futures = [cache.submit(Job("id", function, {"x": 1})) for _ in range(2)]
        assert [future.result() for future in futures] == [[1], [1]]
        assert run_job(job) == [1]
        assert function.is_cached(1)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner)
        | st.frozensets(st.text())
    ),
    max_leaves=5,
)


def same(a: Job, b: Job) -> bool:
    names = ("job_id", "job_key", "job_args", "positional", "arguments", "tag", "media_folder", "files")
    return all(getattr(a, name) == getattr(b, name) for name in names)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_job_of_any_function_pickles_with_its_key(function: Any, protocol: int) -> None:
    for job in (
        Job("id", function, {}, positional=({"a": [1, 2.5]},), tag="nightly"),
        Job("id", function, {}, "a key", positional=(1,)),
        JobFunctionCache(function, version=3, tag="t").job(({"a": 1},), {}),
    ):
        again = pickle.loads(pickle.dumps(job, protocol))
        assert same(again, job)
        assert same(pickle.loads(pickle.dumps(again, protocol)), job)
        assert run_job(again) == run_job(job)


@given(VALUES)
def test_a_job_with_any_argument_pickles_with_its_key(value: Any) -> None:
    job = Job("id", keyed, {"x": value})
    again = pickle.loads(pickle.dumps(job))
    assert same(again, job)
    assert run_job(again) == (value, job.job_key)


def test_what_a_key_is_made_of_by_options_pickles_too(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("1")
    cache = JobFunctionCache(shown, ignore=("more",), by_content=("x",), code="own", depends_on=("pytest",))
    job = cache.job((tmp_path / "data", 1), {"a": np.arange(3)})
    again = pickle.loads(pickle.dumps(job))
    assert (again.job_key, again.files) == (job.job_key, job.files)
    assert run_job(again)[:2] == [tmp_path / "data", (1,)]


def test_copies_are_jobs_of_the_same_key() -> None:
    job = Job("id", keyed, {"x": [1]})
    shallow, deep = copy.copy(job), copy.deepcopy(job)
    assert same(shallow, job)
    assert shallow.function_version is job.function_version
    assert shallow.job_args is not job.job_args or shallow.job_args == job.job_args
    assert same(deep, job)
    assert deep.job_args["x"] is not job.job_args["x"]


@pytest.fixture(params=["spawn", "forkserver"])
def processes(request: pytest.FixtureRequest) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context(request.param)) as pool:
        yield pool


def test_anybody_s_pool_runs_a_job(processes: ProcessPoolExecutor) -> None:
    job = Job("id", keyed, {"x": [1]})
    assert processes.submit(run_job, job).result() == ([1], job.job_key)
    with FutureCache(overwrite=False) as cache:
        future = JobFuture(job, future=processes.submit(run_job, job), cache=cache)
        assert future.result() == ([1], job.job_key)
        assert cache.submit(job).cached


def test_a_pickled_job_runs_under_the_code_of_its_key_only(
    write_module: WriteModule, processes: ProcessPoolExecutor
) -> None:
    write_module("helping", "def double(x):\n    return x + x\n")
    scaled = write_module("edited", CODE).scaled
    job = Job("id", scaled, {"x": 1})
    given = Job("id", scaled, {"x": 1}, job_key="the caller answers for it")
    Path(sys.modules["helping"].__file__ or "").write_text("def double(x):\n    return 3 * x\n")
    for each in (job, pickle.loads(pickle.dumps(job))):
        with pytest.raises(CodeMismatch, match=r"edited\.scaled.*helping\.double"):
            processes.submit(run_job, each).result()
    assert processes.submit(run_job, given).result() == 4
    assert run_job(pickle.loads(pickle.dumps(job))) == 3


@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
def test_a_job_that_comes_from_a_process_with_other_code_is_not_stored(
    executor: str, write_module: WriteModule
) -> None:
    write_module("helping", "def double(x):\n    return x + x\n")
    job = Job("id", write_module("edited", CODE).scaled, {"x": 1})
    same_code = pickle.loads(pickle.dumps(job))
    from_elsewhere = pickle.dumps(job)
    with FutureCache(executor, overwrite=False) as cache:
        assert cache.submit(same_code).result() == 3
        cache.clear_cache()
    write_module("helping", "def double(x):\n    return 3 * x\n")
    job = pickle.loads(from_elsewhere)
    pool: Executor | str = Executors.factory(executor) or executor  # whose workers have imported nothing yet
    with FutureCache(pool, overwrite=False) as cache:
        with pytest.raises(CodeMismatch):
            cache.submit(job).result()
        assert list(cache.records()) == []
        named = Job("id", job.function, {"x": 1}, job_key="the caller answers for it")
        assert cache.submit(named).result() == 4
    if isinstance(pool, Executor):
        pool.shutdown()
