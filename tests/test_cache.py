"""FutureCache and JobFunctionCache: look up, join what is in flight, run, commit, resolve."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path

import pytest

from bencher_job import (
    BencherJobError,
    CacheWarning,
    Executors,
    FutureCache,
    Job,
    JobFunctionCache,
    JobFuture,
    UnkeyableArgument,
    cached_job,
)
from bencher_job.testing import CallCounter
from tests.environment import unmeasured


def count(counter: CallCounter, value: object = None) -> object:
    counter.tick()
    return value


def job(counter: CallCounter, value: object = None, **options: object) -> Job:
    return Job("job", count, {"counter": counter, "value": value}, **options)


def test_the_defaults_are_those_of_the_design() -> None:
    cache = FutureCache()
    assert (cache.executor_type, cache.executor, cache.overwrite, cache.size_limit) == (
        Executors.SERIAL,
        None,
        True,
        20_000_000_000,
    )
    of_function = JobFunctionCache(count)
    assert (of_function.overwrite, of_function.size_limit) == (False, 10_000_000_000)
    assert (cache.call_count, cache.worker_wrapper_call_count, cache.worker_fn_call_count) == (0, 0, 0)
    assert cache.worker_cache_call_count == 0


def test_a_cache_opens_nothing_before_its_first_job(cache_folder: Path) -> None:
    FutureCache()
    JobFunctionCache(count)
    assert list(cache_folder.iterdir()) == []


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, float("nan")])
def test_falsy_values_are_results(counter: CallCounter, value: object) -> None:
    with FutureCache(overwrite=False) as cache:
        results = [cache.submit(job(counter, value)).result() for _ in range(2)]
    assert repr(results) == repr([value, value])
    assert counter.count == 1


def test_overwrite_computes_anew_and_replaces(counter: CallCounter) -> None:
    with FutureCache(overwrite=True) as overwriting, FutureCache(overwrite=False) as reading:
        for value in ("old", "new"):
            overwriting.submit(job(counter, value, job_key="key")).result()
        assert reading.submit(job(counter, "unused", job_key="key")).result() == "new"
    assert counter.count == 2


def test_counts_tell_submissions_executions_and_hits(counter: CallCounter) -> None:
    with FutureCache(overwrite=False) as cache:
        for _ in range(3):
            cache.submit(job(counter))
        assert (
            cache.worker_wrapper_call_count,
            cache.worker_fn_call_count,
            cache.worker_cache_call_count,
        ) == (3, 1, 2)
        cache.clear_call_counts()
        assert cache.info().submitted == cache.info().hits == cache.info().computed == 0
        assert cache.info().entries == 1


def test_stats_are_a_line_for_people(counter: CallCounter) -> None:
    with FutureCache(overwrite=False, size_limit=int(10e9)) as cache:
        cache.submit(job(counter))
        cache.submit(job(counter))
        assert cache.stats().startswith("cache size :0MB / 10000MB, 1 entry; 1 hit, 1 computed, ")


def test_without_samples_nothing_is_kept(counter: CallCounter, cache_folder: Path) -> None:
    with FutureCache(overwrite=False, cache_samples=False) as cache:
        for _ in range(2):
            assert cache.submit(job(counter, 5)).result() == 5
    assert counter.count == 2
    assert list(cache_folder.iterdir()) == []


def test_what_is_read_and_answers_no_job_is_no_hit(counter: CallCounter) -> None:
    with FutureCache(overwrite=False) as cache:
        jobs = [job(counter, number, job_key=f"key-{number}") for number in range(3)]
        for each in jobs:
            cache.submit(each).result()
        found = cache.prefetch(each.job_key for each in jobs)
        assert len(cache.to_dataframe()) == 3
        assert cache.info().total.hits == 0
        assert cache.submit(jobs[1], found).result() == 1
        assert (cache.info().hits, cache.info().total.hits) == (1, 1)
        cache.submit(jobs[2]).result()
        assert (cache.info().hits, cache.info().total.hits) == (2, 2)


def test_prefetched_values_answer_without_the_store(counter: CallCounter) -> None:
    with FutureCache(overwrite=False) as cache:
        jobs = [job(counter, number) for number in range(5)]
        for each in jobs[:3]:
            cache.submit(each)
        found = cache.prefetch(each.job_key for each in jobs)
        assert found == {each.job_key: number for number, each in enumerate(jobs[:3])}
        cache.clear_cache()
        assert [cache.submit(each, found).result() for each in jobs[:3]] == [0, 1, 2]
    assert counter.count == 3


def test_the_tag_is_not_part_of_the_key(counter: CallCounter) -> None:
    assert job(counter, tag="a").job_key == job(counter, tag="b").job_key


def test_clear_tag_takes_that_tag_only(counter: CallCounter) -> None:
    with FutureCache(overwrite=False) as cache:
        for number, tag in enumerate(["a", "a", "b"]):
            cache.submit(job(counter, number, tag=tag))
        assert cache.clear_tag("a") == 2
        assert [record.tag for record in cache.records()] == ["b"]
        assert cache.clear_cache() == 1


@pytest.mark.parametrize("tag_index", [True, False])
@pytest.mark.parametrize("tag", ["", "a", "b", "no such tag"])
def test_clear_tag_removes_what_records_of_that_tag_lists(
    counter: CallCounter, tag: str, tag_index: bool
) -> None:
    with FutureCache(overwrite=False, tag_index=tag_index) as cache:
        for number, each in enumerate(["", "a", "", "b", "a"]):
            cache.submit(job(counter, number, tag=each))
        chosen, everything = ({record.key for record in cache.records(tag=each)} for each in (tag, None))
        assert cache.clear_tag(tag) == len(chosen)
        assert {record.key for record in cache.records()} == everything - chosen


def test_clear_tag_of_a_function_takes_what_has_no_tag() -> None:
    plain, tagged = cached_job(abs), cached_job(tag="a")(abs)
    other = cached_job(round)
    assert (plain(-1), tagged(-2), other(3)) == (1, 2, 3)
    assert plain.cache.clear_tag("") == 1
    assert sorted(record.tag for record in plain.cache.records()) == ["a"]
    assert other.is_cached(3)


@pytest.mark.parametrize("tag", [None, 5, b"a"])
def test_clear_tag_takes_a_text_only_since_none_would_be_all(counter: CallCounter, tag: object) -> None:
    with FutureCache(overwrite=False) as cache:
        cache.submit(job(counter)).result()
        with pytest.raises(TypeError, match="tag must be a str, not"):
            cache.clear_tag(tag)  # type: ignore[arg-type]
        assert len(list(cache.records())) == 1


@pytest.mark.parametrize("samples", [True, False])
def test_its_store_is_a_container_of_values_by_key(counter: CallCounter, samples: bool) -> None:
    with FutureCache(overwrite=False, cache_samples=samples) as cache:
        jobs = [job(counter, value) for value in (None, 0, [1], {"a": 2.5})]
        for each in jobs:
            cache.submit(each).result()
        kept = jobs if samples else []
        assert len(cache.cache) == len(kept)
        assert list(cache.cache) == [each.job_key for each in kept]
        assert [cache.cache[key] for key in cache.cache] == [each.job_args["value"] for each in kept]
        assert all((each.job_key in cache.cache) is samples for each in jobs)
        with pytest.raises(KeyError, match="no such key"):
            cache.cache["no such key"]


def test_a_damaged_entry_is_not_in_the_container(counter: CallCounter) -> None:
    with FutureCache(overwrite=False) as cache:
        each = job(counter, "x" * 100_000)
        cache.submit(each).result()
        (file,) = (cache.directory).rglob("*.val")
        file.write_bytes(b"damaged")
        cache.close()
        with pytest.warns(CacheWarning, match="is damaged"), pytest.raises(KeyError):
            cache.cache[each.job_key]


def test_an_unkeyable_argument_is_refused_at_once(counter: CallCounter) -> None:
    with pytest.raises(UnkeyableArgument, match="value"):
        job(counter, threading.Lock())


def test_an_exception_is_kept_in_the_future_and_not_in_the_store(counter: CallCounter) -> None:
    def fail() -> None:
        counter.tick()
        raise LookupError("no such thing")

    with FutureCache(overwrite=False) as cache:
        for _ in range(2):
            future = cache.submit(Job("job", fail, {}))
            with pytest.raises(LookupError, match="no such thing"):
                future.result()
        assert (cache.info().entries, cache.info().failed) == (0, 2)
    assert counter.count == 2


def test_a_result_that_can_not_be_pickled_is_returned_with_a_warning() -> None:
    with FutureCache(overwrite=False) as cache:
        with pytest.warns(CacheWarning, match=r"result of <Job 'job' .* can't be pickled") as warned:
            result = cache.submit(Job("job", lambda: threading.Lock(), {})).result()
        assert result.acquire()
        assert warned[0].filename == __file__
        assert (cache.info().unsaved, cache.info().entries) == (1, 0)


def test_a_value_that_no_longer_unpickles_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with FutureCache(overwrite=False) as cache:
        first = Job("job", lambda: Fragile(), {}, job_key="key")
        cache.submit(first)
        monkeypatch.setattr(Fragile, "__setstate__", _refuse)
        with pytest.warns(CacheWarning, match="can't be unpickled"):
            assert isinstance(cache.submit(first).result(), Fragile)


@pytest.mark.parametrize("where", ["on the disk", "in memory", "read ahead", "prefetched"])
def test_that_a_class_has_moved_is_told_once(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    jobs = [Job(f"job {x}", lambda x: Fragile(), {"x": x}, job_key=f"key {x}") for x in range(8)]
    with FutureCache(overwrite=False) as cache:
        for job in jobs:
            cache.submit(job)
    if where == "in memory":
        for job in jobs:
            cache.submit(job)
    elif where == "read ahead":
        for job in jobs[:5]:
            cache.submit(job)
    monkeypatch.setattr(Fragile, "__setstate__", _refuse)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = cache.prefetch([jobs[7].job_key]) if where == "prefetched" else None
        assert isinstance(cache.submit(jobs[7], found).result(), Fragile)
        assert isinstance(cache.submit(jobs[6]).result(), Fragile)
    assert [str(each.message).split()[3] for each in told] == ["7", "6"]
    with pytest.warns(CacheWarning, match="key 7 can't be unpickled"):  # what has been stored since
        cache.submit(jobs[7])
    cache.close()


def test_that_a_class_has_moved_is_told_once_by_a_decorated_function(monkeypatch: pytest.MonkeyPatch) -> None:
    @cached_job(code="none")
    def make(x: int) -> Fragile:
        return Fragile()

    for x in range(40):
        make(x)
    make.cache.close()
    for x in range(20):
        make(x)
    monkeypatch.setattr(Fragile, "__setstate__", _refuse)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for x in range(10, 40):
            make(x)
    assert len(told) == len({str(each.message) for each in told}) == 30


class Fragile:
    def __init__(self) -> None:
        self.state = 1

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)


def _refuse(*_args: object) -> None:
    raise AttributeError("this class has changed")


def test_a_store_that_could_not_be_opened_for_a_moment_is_opened_later(tmp_path: Path) -> None:
    """Here because the process had no file descriptor to spare."""
    script = """
        import os, resource, sys, time, warnings
        from bencher_job import cached_job

        @cached_job(code="none", cache_dir=sys.argv[1])
        def double(x):
            return 2 * x

        @cached_job(code="none", cache_dir=sys.argv[1] + "-of-another")
        def imports(x):
            return x

        imports(1)  # all that needs files too
        imports.cache.close()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, before[1]))
            assert [double(x) for x in range(5)] == [0, 2, 4, 6, 8]
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert len(told) == 1, [str(each.message) for each in told]
            assert "can't be opened" in str(told[0].message), told[0].message
            deadline = time.monotonic() + 60
            while not double.is_cached(1) and time.monotonic() < deadline:
                assert double(1) == 2
            assert double.is_cached(1)
            assert len(told) == 1, [str(each.message) for each in told]
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "cachedir"],
        capture_output=True,
        text=True,
        env={**unmeasured(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.given_folders
def test_a_store_that_can_not_be_opened_costs_the_memory_but_not_the_value(
    counter: CallCounter, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = JobFunctionCache(count, cache_dir=tmp_path / "file")
    with pytest.warns(CacheWarning, match="can't be opened"):
        assert cache.call(counter=counter, value=1).result() == 1
    assert cache.call(counter=counter, value=1).result() == 1
    assert counter.count == 2


def test_thirty_two_threads_that_ask_for_one_key_run_it_once(counter: CallCounter) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow() -> list[int]:
        counter.tick()
        started.set()
        go_on.wait(60)
        return [1]

    with FutureCache(overwrite=False) as cache, ThreadPoolExecutor(32) as threads:
        futures = [
            threads.submit(lambda: cache.submit(Job("slow", slow, {}, job_key="key")).result())
            for _ in range(32)
        ]
        started.wait(60)
        while cache.worker_wrapper_call_count < 32:
            pass
        go_on.set()
        values = [future.result(60) for future in futures]
    assert counter.count == 1
    assert values == [[1]] * 32
    assert len({id(value) for value in values}) == 32
    assert cache.info().joined == 31


def test_all_who_wait_get_the_exception_and_the_next_asker_computes_again(counter: CallCounter) -> None:
    go_on = threading.Event()

    def fail() -> None:
        counter.tick()
        go_on.wait(60)
        raise LookupError

    with FutureCache(overwrite=False) as cache, ThreadPoolExecutor(4) as threads:
        futures = [
            threads.submit(lambda: cache.submit(Job("f", fail, {}, job_key="k")).exception())
            for _ in range(4)
        ]
        while cache.worker_wrapper_call_count < 4:
            pass
        go_on.set()
        assert [type(future.result(60)) for future in futures] == [LookupError] * 4
        assert counter.count == 1
        cache.submit(Job("f", fail, {}, job_key="k"))
    assert counter.count == 2


def test_overwriting_shares_what_is_in_flight(counter: CallCounter) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        counter.tick()
        started.set()
        go_on.wait(60)
        return 1

    with FutureCache(overwrite=True) as cache, ThreadPoolExecutor(1) as thread:
        first = thread.submit(lambda: cache.submit(Job("slow", slow, {}, job_key="k")).result())
        started.wait(60)
        second = cache.submit(Job("slow", slow, {}, job_key="k"))
        go_on.set()
        assert (first.result(60), second.result(60)) == (1, 1)
    assert counter.count == 1


def test_a_job_that_asks_for_itself_is_told_so() -> None:
    with FutureCache(overwrite=False) as cache:
        me: list[Job] = []
        me.append(Job("me", lambda: cache.submit(me[0]).result(), {}, job_key="k"))
        with pytest.raises(BencherJobError, match="asks for its own result"):
            cache.submit(me[0]).result()


def test_two_functions_in_one_cache_never_answer_for_each_other() -> None:
    def plus(x: int) -> int:
        return x + 1

    def minus(x: int) -> int:
        return x - 1

    with JobFunctionCache(plus) as one, JobFunctionCache(minus) as other:
        assert (one.call(x=1).result(), other.call(x=1).result()) == (2, 0)
        assert one.clear_cache() == 1
        assert other.call(x=1).cached


def test_a_record_says_what_ran(counter: CallCounter) -> None:
    with JobFunctionCache(count, tag="nightly") as cache:
        cache.call(counter=counter, value="x" * 1000).result()
        (record,) = cache.records()
    assert (record.function, record.tag, record.executor, record.pid) == (
        f"{__name__}.count",
        "nightly",
        "SERIAL",
        os.getpid(),
    )
    assert len(record.arguments["value"]) < 500
    assert record.size > 0


def test_a_future_of_any_kind_is_kept_before_it_resolves(counter: CallCounter) -> None:
    with FutureCache(overwrite=False) as cache:
        engine: Future[int] = Future()
        future = JobFuture(job(counter, job_key="key"), future=engine, cache=cache)
        engine.set_result(42)
        assert future.result(60) == 42
        assert cache.submit(job(counter, job_key="key")).cached
    assert counter.count == 0


def test_futures_work_with_wait_and_as_completed(counter: CallCounter) -> None:
    with FutureCache(executor=ThreadPoolExecutor(2), overwrite=False) as cache:
        futures = [cache.submit(job(counter, number)) for number in range(10)]
        assert sorted(future.result() for future in as_completed(futures, 30)) == list(range(10))
        assert wait(futures).not_done == set()


def test_a_queued_job_can_be_cancelled_and_one_that_waits_for_it_keeps_it(counter: CallCounter) -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as threads, FutureCache(executor=threads, overwrite=False) as cache:
        blocking = threads.submit(go_on.wait, 30)
        alone = cache.submit(job(counter, "alone"))
        shared = [cache.submit(job(counter, "shared")) for _ in range(2)]
        assert alone.cancel()
        assert shared[0].cancel()
        go_on.set()
        blocking.result()
        assert shared[1].result(60) == "shared"
        assert (alone.cancelled(), shared[0].cancelled()) == (True, True)
    assert counter.count == 1


@pytest.mark.parametrize("executor", ["threads", "multiprocessing"])
def test_a_job_that_was_cancelled_before_it_ran_counts_neither_as_computed_nor_as_failed(
    executor: str, tmp_path: Path
) -> None:
    with FutureCache(executor=executor, max_workers=1, overwrite=False) as cache:
        go_on = tmp_path / "go on"
        blocking = cache.submit(Job("blocking", until_exists, {"path": go_on}, job_key="blocking"))
        waiting = [cache.submit(Job("waiting", abs, {}, str(n), positional=(n,))) for n in range(5)]
        assert all(future.cancel() for future in waiting[1:])
        go_on.touch()
        assert (blocking.result(60), waiting[0].result(60)) == (True, 0)
        cache.wait()
        info = cache.info()
        assert (info.submitted, info.computed, info.failed, info.entries) == (6, 2, 0, 2)


def until_exists(path: Path) -> bool:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()


def test_results_are_kept_when_the_program_ends_without_reading_them(cache_folder: Path) -> None:
    script = """
        import time
        from bencher_job import cached_job
        @cached_job(executor="multiprocessing", cache_dir="CACHE")
        def slow(x):
            time.sleep(0.2)
            return x
        for x in range(6):
            slow.submit(x)
    """
    script = textwrap.dedent(script).replace("CACHE", str(cache_folder))
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
    assert FutureCache().info().entries == 6


def test_caching_can_be_turned_off(
    counter: CallCounter, monkeypatch: pytest.MonkeyPatch, cache_folder: Path
) -> None:
    monkeypatch.setenv("BENCHER_JOB", "off")
    with JobFunctionCache(count) as cache:
        for _ in range(2):
            cache.call(counter=counter).result()
    assert counter.count == 2
    assert list(cache_folder.iterdir()) == []


def test_a_size_limit_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="size_limit=0 leaves no room"):
        FutureCache(size_limit=0)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_cache_name_that_is_no_folder_name_is_refused(name: str, counter: CallCounter) -> None:
    with pytest.raises(BencherJobError, match="not the name of a folder"):
        FutureCache(cache_name=name).submit(job(counter))


def test_a_job_that_waits_for_one_queued_behind_it_runs_it_itself(counter: CallCounter) -> None:
    """One thread is enough for jobs that call each other."""
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as threads, FutureCache(executor=threads, overwrite=False) as cache:
        inner = job(counter, "inner")

        def outer() -> object:
            go_on.wait(60)
            return cache.submit(inner).result(60)

        first = cache.submit(Job("outer", outer, {}, job_key="outer"))
        second = cache.submit(inner)
        go_on.set()
        assert (first.result(60), second.result(60)) == ("inner", "inner")
    assert counter.count == 1


@pytest.mark.parametrize("turn", range(5))
def test_who_asks_after_a_cancellation_gets_the_value(counter: CallCounter, turn: int) -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as threads, FutureCache(executor=threads, overwrite=False) as cache:
        threads.submit(go_on.wait, 30)
        cancelled = cache.submit(job(counter, turn))
        assert cancelled.cancel()
        asked_again = cache.submit(job(counter, turn))
        go_on.set()
        assert asked_again.result(60) == turn
    assert counter.count == 1


def test_a_callback_may_call_a_cached_function(counter: CallCounter) -> None:
    with ThreadPoolExecutor(1) as threads, JobFunctionCache(count, executor=threads) as cache:
        seen: list[object] = []
        called = threading.Event()

        def callback(_future: JobFuture[object]) -> None:
            seen.append(cache.value((), {"counter": counter, "value": "in the callback"}))
            called.set()

        cache.call(counter=counter, value="first").add_done_callback(callback)
        assert called.wait(60)
    assert seen == ["in the callback"]


@pytest.mark.parametrize("waits", ["result", "exception", "wait", "close"])
def test_a_callback_that_would_wait_for_itself_is_told_so(waits: str) -> None:
    go_on = threading.Event()
    with ThreadPoolExecutor(2) as threads, FutureCache(executor=threads, overwrite=False) as cache:
        slow = cache.submit(Job("slow", go_on.wait, {"timeout": 30}, job_key="slow"))
        told: Future[str] = Future()

        def callback(_future: JobFuture[object]) -> None:
            try:
                getattr(slow if waits in ("result", "exception") else cache, waits)()
            except BencherJobError as error:
                told.set_result(str(error))

        begun = threading.Event()
        first = cache.submit(Job("first", begun.wait, {"timeout": 30}, job_key="first"))
        first.add_done_callback(callback)
        begun.set()
        try:
            assert "callback of a future can't wait" in told.result(60)
        finally:
            go_on.set()
        assert slow.result(60) is True


@pytest.mark.parametrize("waits", ["wait", "close"])
def test_a_job_in_a_thread_that_would_wait_for_itself_is_told_so(waits: str) -> None:
    with FutureCache(executor="threads", overwrite=False) as cache:
        future = cache.submit(Job("waits", getattr(cache, waits), {}, job_key="waits"))
        with pytest.raises(BencherJobError, match="outside of jobs"):
            future.result(60)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """No garbage of other tests is collected, whose finalizers would find the stack full."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_a_call_on_a_full_stack_fails_and_nobody_waits_for_it(executor: str) -> None:
    def at_depth(depth: int) -> object:
        return at_depth(depth - 1) if depth else cache.value((), {"x": 1})

    with ThreadPoolExecutor(1) as stacks, JobFunctionCache(lambda x: x, executor=executor) as cache:
        cache.value((), {"x": 0})
        failed = 0
        for depth in range(sys.getrecursionlimit() - 100, sys.getrecursionlimit()):
            error = stacks.submit(at_depth, depth).exception(60)
            assert error is None or isinstance(error, RecursionError)
            failed += error is not None
            assert stacks.submit(at_depth, 0).result(60) == 1
            cache.clear_cache()
        assert 0 < failed < 100


class Shapeless:
    @property
    def shape(self) -> object:
        raise RuntimeError("no shape yet")

    def __repr__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize(
    "value", [10**5000, -(10**5000), "x" * 10**6, Shapeless()], ids=["large", "small", "long", "odd"]
)
def test_an_argument_that_makes_no_text_costs_the_record_and_not_the_value(
    counter: CallCounter, value: object
) -> None:
    with JobFunctionCache(count) as cache:
        for _ in range(2):
            assert type(cache.call(counter=counter, value=value).result()) is type(value)
        (record,) = cache.records()
    assert len(record.arguments["value"]) < 500
    assert counter.count == 1


def test_a_warning_made_an_error_costs_no_other_job_its_value(tmp_path: Path) -> None:
    script = """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        from bencher_job import FutureCache, Job
        results = [threading.Lock, lambda: 1, lambda: 2]
        with ThreadPoolExecutor(3) as threads, FutureCache(executor=threads, cache_name="strict") as cache:
            futures = [cache.submit(Job(str(n), f, {}, job_key=str(n))) for n, f in enumerate(results)]
            assert futures[0].result(60).acquire()
            assert [future.result(60) for future in futures[1:]] == [1, 2]
            assert cache.info().unsaved == 1
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    environment = os.environ | {"BENCHER_JOB_CACHE_DIR": str(tmp_path)}
    subprocess.run(command, check=True, timeout=60, env=environment, stderr=subprocess.DEVNULL)


def test_a_size_limit_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="size_limit must be an int, not str"):
        FutureCache(size_limit="5GB")


def test_temporary_caches_leave_no_file_open() -> None:
    from bencher_job.testing import temporary_cache

    cache = JobFunctionCache(abs)

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = []
    for _ in range(4):
        with temporary_cache():
            cache.submit_call((-1,), {})
        before.append(open_files())
    assert before[1] == before[-1]


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_closing_a_cache_leaves_jobs_of_another_on_its_store_their_leases(executor: str) -> None:
    began, may_end = threading.Event(), threading.Event()

    @cached_job(executor=executor, code="none")
    def slow(x: int) -> int:
        began.set()
        assert may_end.wait(60)
        return x

    with ThreadPoolExecutor(1) as caller, FutureCache() as other:
        waits = caller.submit(slow, 1)
        assert began.wait(60)
        other.submit(Job("other", abs, {}, "other", positional=(-1,))).result()
        other.close()
        may_end.set()
        assert waits.result() == 1
    assert slow.is_cached(1)
    slow.cache.close()


def test_a_change_of_the_current_folder_moves_no_cache(tmp_path: Path) -> None:
    script = """
        import os, pickle
        from bencher_job import cached_job
        f = cached_job(lambda x: x + 1)
        os.mkdir("elsewhere")
        assert f(1) == 2
        os.chdir("elsewhere")
        assert f.is_cached(1)
        assert pickle.loads(pickle.dumps(f)).is_cached(1)
        assert os.listdir(".") == []
    """
    environment = {name: value for name, value in os.environ.items() if name != "BENCHER_JOB_CACHE_DIR"}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=60)


def test_entries_move_as_one_file_and_the_store_that_gets_them_is_clean(tmp_path: Path) -> None:
    @cached_job(tag="nightly")
    def square(x: int) -> int:
        return x * x

    @cached_job
    def cube(x: int) -> int:
        return x**3

    for x in range(4):
        square(x), cube(x)
    assert square.cache.export(tmp_path / "some.tar", where={"x": lambda x: x > 1}) == 2
    with FutureCache() as everything:
        assert everything.export(tmp_path / "all.tar") == 8
        everything.clear_cache()
        assert everything.import_(tmp_path / "some.tar").added == 2
        assert [square.is_cached(x) for x in range(4)] == [False, False, True, True]
        imported = everything.import_(tmp_path / "all.tar")
        assert (imported.added, imported.skipped) == (6, 2)
        audit = everything.verify()
        assert (audit.is_clean, audit.entries) == (True, 8)
    assert (square(3), square.cache.info().computed) == (9, 4)


def test_where_nothing_is_kept_there_is_nothing_to_verify_or_move(tmp_path: Path) -> None:
    with FutureCache(cache_samples=False) as cache:
        for ask in (
            cache.verify,
            lambda: cache.export(tmp_path / "a"),
            lambda: cache.import_(tmp_path / "a"),
        ):
            with pytest.raises(BencherJobError, match="Nothing is kept here"):
                ask()


@pytest.mark.parametrize("executor", ["multiprocessing", "threads"])
def test_a_cache_that_is_dropped_without_close_leaves_no_thread_process_or_descriptor(
    tmp_path: Path, executor: str
) -> None:
    script = """
        import gc, os, sys, threading, time
        from multiprocessing import resource_tracker
        import psutil
        from bencher_job import FutureCache, Job

        def left():
            gc.collect()
            return (
                # The timer serves all caches of the process.
                sorted(thread.name for thread in threading.enumerate() if thread.name != "bencher_job-timer"),
                len(os.listdir("/proc/self/fd")),
                sum(child.pid != resource_tracker._resource_tracker._pid for child in psutil.Process().children()),
            )

        def use(number):
            cache = FutureCache(sys.argv[2], cache_dir=sys.argv[1], max_workers=1)
            assert cache.submit(Job("job", abs, {}, positional=(-number,))).result() == number

        if __name__ == "__main__":
            after = []
            deadline = time.monotonic() + 60
            for number in range(6):  # SQLite closes one descriptor later, and uses it again
                use(number)
                while (left()[0], left()[2]) != (["MainThread"], 0):
                    assert time.monotonic() < deadline, left()
                    time.sleep(0.01)
                after.append(left())
            assert after[1:] == [after[1]] * 5, after
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(script))
    ended = subprocess.run(
        [sys.executable, path, tmp_path / "cachedir", executor],
        capture_output=True,
        text=True,
        env={**unmeasured(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert ended.returncode == 0, ended.stderr


def test_a_job_in_flight_outlives_the_cache_that_is_dropped() -> None:
    begin = threading.Event()

    def wait_and_count() -> int:
        assert begin.wait(60)
        return 7

    future = FutureCache("threads", overwrite=False).submit(Job("job", wait_and_count, {}, job_key="key"))
    gc.collect()
    begin.set()
    assert future.result(60) == 7
    with FutureCache(overwrite=False) as cache:
        assert cache.has("key")
