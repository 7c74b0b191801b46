"""JobFuture keeps its result in any cache, and no exception in a callback leaves a future pending."""

from __future__ import annotations

import collections
import contextvars
import shelve
import threading
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import diskcache
import pytest

from bencher_job import BencherJobError, CacheWarning, FutureCache, Job, JobFuture, UntrustedCache, cached_job

PATIENCE = 60.0


def job(**options: Any) -> Job:
    return Job("id", dict, {"x": 1}, **options)


class Recording:
    """As small as a stand-in of a `diskcache.Cache` can be."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, str]] = []

    def set(self, key: str, value: Any, tag: str | None = None) -> None:
        self.kept.append((key, value, tag or ""))


class Mapping(collections.UserDict[str, Any]):
    pass


@pytest.fixture(params=["dict", "UserDict", "shelve", "Cache", "FanoutCache", "Index", "FutureCache"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each kind of cache in turn."""
    folder = str(tmp_path / "foreign")
    if request.param in {"dict", "UserDict"}:
        yield {"dict": dict, "UserDict": Mapping}[request.param]()
        return
    make = {
        "shelve": shelve.open,
        "Cache": diskcache.Cache,
        "FanoutCache": diskcache.FanoutCache,
        "Index": diskcache.Index,
        "FutureCache": lambda _: FutureCache(overwrite=False),
    }[request.param]
    made = make(folder)
    yield made
    (made.cache if request.param == "Index" else made).close()


def kept_in(cache: Any, key: str) -> Any:
    return (cache.cache if isinstance(cache, FutureCache) else cache)[key]


@pytest.mark.parametrize("value", [None, 0, [1, {"a": 2.5}], "x" * 100_000])
@pytest.mark.parametrize("is_done", [True, False])
def test_the_result_of_a_future_is_kept_under_the_job_s_key_before_it_resolves(
    cache: Any, value: Any, is_done: bool
) -> None:
    inner: Future[Any] = Future()
    if is_done:
        inner.set_result(value)
    future = JobFuture(job(), future=inner, cache=cache)
    found: list[Any] = []
    future.add_done_callback(lambda _: found.append(kept_in(cache, job().job_key)))
    if not is_done:
        assert not future.done()
        inner.set_result(value)
    assert future.result(PATIENCE) == value
    assert not future.cached
    wait([future])
    assert kept_in(cache, job().job_key) == value
    assert found in ([value], [])  # the callback may be under way still


@pytest.mark.parametrize("value", [None, 0, [1]])
def test_a_given_result_is_kept_at_once(cache: Any, value: Any) -> None:
    future = JobFuture(job(), res=value, cache=cache)
    assert (future.done(), future.result(), future.cached) == (True, value, False)
    assert kept_in(cache, job().job_key) == value


def test_exceptions_and_cancellations_are_not_kept(cache: Any) -> None:
    inner: Future[Any] = Future()
    error = LookupError("none")
    inner.set_exception(error)
    assert JobFuture(job(), future=inner, cache=cache).exception(PATIENCE) is error
    other: Future[Any] = Future()
    future = JobFuture(job(), future=other, cache=cache)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    assert job().job_key not in (cache.cache if isinstance(cache, FutureCache) else cache)


def test_the_tag_goes_to_what_takes_tags(tmp_path: Path) -> None:
    recording = Recording()
    JobFuture(job(tag="t"), res={"y": 1.0}, cache=recording)
    assert recording.kept == [(job().job_key, {"y": 1.0}, "t")]
    with diskcache.Cache(str(tmp_path / "foreign"), tag_index=True) as cache:
        JobFuture(job(tag="t"), res=1, cache=cache)
        assert cache.evict("t") == 1
    with FutureCache(overwrite=False) as own:
        JobFuture(job(tag="t"), res=1, cache=own)
        assert [record.tag for record in own.records(tag="t")] == ["t"]


@pytest.mark.parametrize(
    "foreign",
    [
        object(), "cachedir", 5, [], (), set(), frozenset(), threading.Event(), contextvars.ContextVar("set"),
        dict, diskcache.Cache, Future(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", ["res", "future"])
def test_what_is_no_cache_is_refused_at_once(foreign: Any, given: str) -> None:
    inner: Future[Any] = Future()
    with pytest.raises(
        TypeError, match=r"cache must be a FutureCache, a diskcache.Cache or a mutable mapping"
    ):
        JobFuture(job(), **{given: inner}, cache=foreign)
    inner.set_result(1)  # and nobody has asked to be told


# No exception in a callback leaves a future pending


class Odd(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


ERRORS = [OSError("disk full"), TypeError(), SystemExit(3), KeyboardInterrupt(), CancelledError(), Odd()]


class Broken(MutableMapping[str, Any]):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __setitem__(self, key: str, value: Any) -> None:
        raise self.error

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    __delitem__ = __getitem__

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class BrokenFuture(Future[Any]):
    """What a foreign executor may give: asking it for its end raises."""

    def __init__(self, broken: str, error: BaseException) -> None:
        super().__init__()
        setattr(self, broken, self._break)
        self._error = error

    def _break(self, *_: Any) -> Any:
        raise self._error


def in_thread(act: Callable[[], object]) -> None:
    """Call a function in a thread of its own, which may end with any exception."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(act).exception(PATIENCE)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.filterwarnings("ignore::bencher_job.CacheWarning")
def test_a_cache_that_fails_costs_the_entry_and_not_the_value(error: BaseException) -> None:
    inner: Future[Any] = Future()
    future = JobFuture(job(), future=inner, cache=Broken(error))
    in_thread(lambda: inner.set_result([1]))
    assert future.result(PATIENCE) == [1]
    failed: Future[Any] = Future()
    its_own = JobFuture(job(), future=failed, cache=Broken(error))
    in_thread(lambda: failed.set_exception(LookupError("its own")))
    assert isinstance(its_own.exception(PATIENCE), LookupError)


def test_a_cache_that_fails_is_told_of_by_a_warning() -> None:
    with pytest.warns(CacheWarning, match=r"can't be kept \(OSError: disk full\)"):
        assert JobFuture(job(), res=1, cache=Broken(OSError("disk full"))).result() == 1
    inner: Future[Any] = Future()
    future = JobFuture(job(), future=inner, cache=Broken(OSError("disk full")))
    with pytest.warns(CacheWarning, match=r"can't be kept \(OSError: disk full\)"):
        inner.set_result(2)
    assert future.result() == 2


@pytest.mark.filterwarnings("ignore::bencher_job.CacheWarning")
@pytest.mark.parametrize("given", ["res", "future"])
def test_a_cache_that_nobody_may_trust_costs_the_entry_and_not_the_value(given: str) -> None:
    with FutureCache() as first:
        first.submit(job()).result()
    first.directory.chmod(0o777)
    with FutureCache() as cache:
        with pytest.raises(UntrustedCache):
            cache.submit(job())
        inner: Future[Any] = Future()
        inner.set_result([1])
        future = JobFuture(job(), **{given: [1] if given == "res" else inner}, cache=cache)
        assert future.result(PATIENCE) == [1]


@pytest.mark.parametrize("broken", ["cancelled", "exception", "result"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("made", [None, dict, FutureCache])
def test_a_future_whose_end_can_not_be_read_ends_ours(
    broken: str, error: BaseException, made: Callable[[], Any] | None
) -> None:
    inner = BrokenFuture(broken, error)
    cache = None if made is None else made()
    future = JobFuture(job(), future=inner, cache=cache)
    in_thread(lambda: inner.set_result(1))
    if isinstance(error, CancelledError):
        with pytest.raises(CancelledError):
            future.exception(PATIENCE)
        assert future.cancelled()
    else:
        assert future.exception(PATIENCE) is error
    if isinstance(cache, FutureCache):
        cache.close()


@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_callback_that_raises_keeps_no_other_future_from_its_value(
    executor: str, error: BaseException
) -> None:
    gate = threading.Event()

    def fail(_: Any) -> None:
        raise error

    engine: Future[Any] = Future()
    with FutureCache(executor, overwrite=False) as cache:
        futures = []
        held = JobFuture(job(job_key="held"), future=engine, cache=cache)
        held.add_done_callback(lambda _: gate.wait(PATIENCE))
        engine.set_result(0)  # while its callback keeps the writer, results gather that it commits together
        for number in range(5):
            inner: Future[Any] = Future()
            future = JobFuture(job(job_key=str(number)), future=inner, cache=cache)
            future.add_done_callback(fail)
            futures.append(future)
            inner.set_result(number)
        gate.set()
        assert [future.result(PATIENCE) for future in futures] == [0, 1, 2, 3, 4]
        assert [cache.cache[str(number)] for number in range(5)] == [0, 1, 2, 3, 4]
        cache.wait()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_all_who_joined_a_job_get_its_value_though_the_callback_of_one_raises(error: BaseException) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        assert may_end.wait(PATIENCE)
        return 1

    def fail(_: Any) -> None:
        raise error

    with FutureCache("threads", overwrite=False) as cache:
        futures = [cache.submit(Job("id", slow, {}, job_key="key")) for _ in range(4)]
        for future in futures:
            future.add_done_callback(fail)
        assert begun.wait(PATIENCE)
        may_end.set()
        assert [future.result(PATIENCE) for future in futures] == [1, 1, 1, 1]
        cache.wait()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_retry_on_that_raises_is_a_no(error: BaseException) -> None:
    def choose(_: Exception) -> bool:
        raise error

    @cached_job(executor="threads", retries=2, retry_on=choose)
    def failing(x: int) -> int:
        raise LookupError(x)

    futures = [failing.submit(x) for x in range(3)]
    assert [type(future.exception(PATIENCE)) for future in futures] == [LookupError] * 3


def test_a_future_that_a_callback_can_not_wait_for_says_so() -> None:
    inner: Future[Any] = Future()
    never: Future[Any] = Future()
    seen: list[Any] = []
    with FutureCache(overwrite=False) as cache:
        waiting = JobFuture(job(job_key="waiting"), future=never, cache=cache)
        future = JobFuture(job(), future=inner, cache=cache)

        def ask(_: Any) -> None:
            seen.append(JobFuture(job(job_key="given"), res=1, cache=cache).result())
            done: Future[Any] = Future()
            done.set_result(2)
            seen.append(JobFuture(job(job_key="done"), future=done, cache=cache).result())
            try:
                waiting.result()
            except BencherJobError as error:
                seen.append(error)
            never.set_result(3)

        future.add_done_callback(ask)
        inner.set_result(0)
        assert waiting.result(PATIENCE) == 3
        assert seen[:2] == [1, 2]
        assert "can't wait for it" in str(seen[2])


def test_what_settles_is_kept_though_nobody_reads_it(cache_folder: Path) -> None:
    cache = FutureCache(overwrite=False)
    inner: Future[Any] = Future()
    JobFuture(job(), future=inner, cache=cache)
    inner.set_result(1)
    cache.wait()
    assert cache.cache[job().job_key] == 1
    cache.close()
