"""What type checkers make of the public API: checked by mypy and pyright, strict, and never run."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, assert_type

import bencher_job
from bencher_job import (
    CachedFunction,
    Executors,
    Explanation,
    FutureCache,
    Job,
    JobFunctionCache,
    JobFuture,
    Plan,
    Ray,
    Record,
    Slurm,
    Sweep,
    cached_job,
)

# A name that is misspelled, of a package that imports some when they are asked for.

_ = bencher_job.Sweeps  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]

# A bare decorator.


@cached_job
def accuracy(model: str, c: float = 1.0, *, seed: int = 0) -> dict[str, float]:
    """Score a model."""
    return {model: c + seed}


assert_type(accuracy("svm"), dict[str, float])
assert_type(accuracy("svm", 2.0, seed=1), dict[str, float])
assert_type(accuracy.submit("svm", seed=1), JobFuture[dict[str, float]])
assert_type(accuracy.submit("svm").result(timeout=1.0), dict[str, float])
assert_type(accuracy.map(["svm", "forest"]), Iterator[dict[str, float]])
assert_type(accuracy.refresh("svm"), dict[str, float])
assert_type(accuracy.forget("svm"), bool)
assert_type(accuracy.is_cached("svm", c=1.0), bool)
assert_type(accuracy.key("svm"), str)
assert_type(accuracy.explain("svm"), Explanation)
assert_type(accuracy.cache, JobFunctionCache)
assert_type(accuracy.__wrapped__("svm"), dict[str, float])
assert_type(accuracy.__name__, str)
assert_type(accuracy.cache_info().hits, int)
accuracy.cache_clear()
assert_type(bencher_job.__version__, str)
assert_type((len(accuracy.cache.cache), "key" in accuracy.cache.cache), tuple[int, bool])
assert_type(list(accuracy.cache.cache), list[str])
accuracy.sumbit("svm")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
accuracy()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
accuracy(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
accuracy("svm", depth=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
accuracy.submit("svm", c="much")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
accuracy.refresh()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
accuracy.key(b"svm")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
accuracy.sweep({"model": ["svm"]}, order="random")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(accuracy.sweep({"cfg.lr": [0.1]}, order="repeats", cfg=object()), Sweep)

a_function: Callable[[str], dict[str, float]] = accuracy
a_future: Future[dict[str, float]] = accuracy.submit("svm")

# With options, all of them at once or some beforehand.


@cached_job(executor=Executors.MULTIPROCESSING, tag="nightly", ignore=("verbose",), ttl=timedelta(days=1))
def error(n: int, verbose: bool = False) -> float:
    """Tell the error of a method."""
    return 1 / n if verbose else 0.0


assert_type(error(3), float)
assert_type(error.submit(3), JobFuture[float])
cached_job(executor=Slurm(2, time="1:00:00", cpus=4, gpus="a100:1", sbatch={"qos": "high"}), patience=600)
cached_job(executor=Ray(num_cpus=1, num_gpus=0.5, resources={"large_memory": 1}))
cached_job(executor="multiprocessing", gpus=[0, "GPU-1"])
Slurm(ram="8GB")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cached_job(max_cores=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
FutureCache(max_cores=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
FutureCache(retries="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
JobFunctionCache(abs, max_cores=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
JobFunctionCache(abs, ignore=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
JobFunctionCache(abs, False, "serial", "fcache", True, 10**9, tag="nightly", cache_samples=False)
assert_type(error.with_options(ttl=1, executor="threads", tag="nightly")(3), float)
assert_type(error.with_options(keep=None).submit(3), JobFuture[float])
assert_type(error.peek(3), float | None)
assert_type(error.peek(3, default="none"), float | str)
error.remember(0.1, 3)
error.remember(0.1, "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
error.with_options(version=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
error.with_options(ttl="day")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
error.cache.shrink(size=10**9, entries=100, unused_for=timedelta(days=30))
FutureCache(keep=lambda result: result is not None).shrink(entries=3)
cached_job(keep=lambda result: result is not None, valid=lambda record: record.seconds > 1)
cached_job(keep=lambda result, record: record.seconds > 1, keys={"model": lambda model: model.version})
cached_job(keep=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
cached_job(keys=["model"])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
cached_job(libraries=False)
cached_job(libraries=["numpy"])
cached_job(libraries=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
cached_job(code="shallow")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

nightly = functools.partial(cached_job, executor="multiprocessing", tag="nightly")


@nightly()
def loss(n: int) -> float:
    """Tell the loss of a model."""
    return n / 2


# Methods, class methods and static methods: what is bound is given.


class Model:
    """A model of some size."""

    def __init__(self, size: int) -> None:
        self.size = size

    @cached_job
    def score(self, x: float, *, rounds: int = 1) -> float:
        """Score an input."""
        return self.size * x * rounds

    @cached_job(tag="models")
    def name(self) -> str:
        """Name the model."""
        return str(self.size)

    @cached_job
    @classmethod
    def largest(cls, limit: int) -> int:
        """Find the largest size."""
        return limit

    @cached_job
    @staticmethod
    def scaled(x: float) -> float:
        """Scale an input."""
        return x


model = Model(3)
assert_type(model.score(0.5, rounds=2), float)
assert_type(model.score.submit(0.5), JobFuture[float])
assert_type(model.score.map([0.5, 1.0]), Iterator[float])
assert_type(model.score.key(0.5), str)
assert_type(Model.score(model, 0.5), float)
assert_type(model.name(), str)
assert_type(Model.largest(3), int)
assert_type(model.largest(3), int)
assert_type(Model.scaled(0.5), float)
assert_type(model.scaled(0.5), float)  # type: ignore[call-arg]  # mypy takes it for a method
assert_type(model.largest.submit(3), JobFuture[int])
assert_type(Model.scaled.submit(0.5), JobFuture[float])
model.score("much")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
model.score.submit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# Coroutine functions: a call is awaited, and all else is of the value.


@cached_job
async def fetch(url: str, *, depth: int = 1) -> bytes:
    """Fetch a page."""
    return url.encode() * depth


@cached_job(executor="threads", inner_threads=2)
def norm(x: float) -> float:
    """Compute with threads."""
    return abs(x)


assert_type(norm(1.0), float)
_ = FutureCache("multiprocessing", max_workers=2, inner_threads=1)


@cached_job(timeout=2.5)
async def size(url: str) -> int:
    """Tell the size of a page."""
    return len(await fetch(url))


class Client:
    """A client of some site."""

    @cached_job
    async def get(self, path: str) -> str:
        """Get a page."""
        return path


async def awaiting(client: Client) -> None:
    """Await everything."""
    assert_type(await fetch("a", depth=2), bytes)
    assert_type(fetch.submit("a"), JobFuture[bytes])
    assert_type(await fetch.submit("a"), bytes)
    assert_type(await fetch.refresh("a"), bytes)
    assert_type(fetch.map(["a"]), AsyncIterator[bytes])
    assert_type([page async for page in fetch.map(names())], list[bytes])
    assert_type(fetch.is_cached("a"), bool)
    assert_type(await size("a"), int)
    assert_type(size.submit("a").result(), int)
    assert_type(await client.get("a"), str)
    assert_type(await client.get.submit("a"), str)
    assert_type(await accuracy.submit("svm"), dict[str, float])
    assert_type(await fetch.sweep({"url": ["a"]}), Sweep)
    assert_type(await error.sweep({"n": [1]}).run_async(on_error="raise"), Sweep)
    async for done in fetch.sweep({"url": ["a"]}):
        assert_type(done, JobFuture[Any])
    await fetch()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fetch.submit(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    for page in fetch.map(["a"]):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        print(page)  # pyright: ignore[reportUnknownArgumentType]


async def names() -> AsyncIterator[str]:
    """Give names."""
    yield "a"


# Functions without a name of their own, and functions that take cached ones.

assert_type(cached_job(str.upper)("a"), str)


def twice(function: CachedFunction[[int], float]) -> float:
    """Call a cached function twice."""
    return function(1) + function.submit(2).result()


twice(loss)
twice(accuracy)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# Sweeps.

sweep = accuracy.sweep({"model": ["svm"], "c": [0.1, 1.0]}, repeats=3, seed=1)
assert_type(sweep, Sweep)
assert_type(sweep.plan(), Plan)
assert_type(sweep.run(progress=False), Sweep)
for done in sweep:
    assert_type(done, JobFuture[Any])
sweep.run(on_error="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# The classes underneath.

with FutureCache(executor=Executors.SERIAL, overwrite=False, cache_name="direct") as cache:
    assert_type(cache, FutureCache)
    assert_type(cache.submit(Job("power", pow, {"base": 2, "exp": 10})), JobFuture[Any])
    for record in cache.records(tag="nightly"):
        assert_type(record, Record)


class Cluster:
    """Anything with a method `submit`, as Dask's client."""

    def submit(self, func: Callable[..., object], *args: object, key: str | None = None) -> object:
        """Submit a call."""
        return func, args, key


cached_job(executor="serial")
cached_job(executor="THREADS")
cached_job(executor=Cluster())
cached_job(executor=ThreadPoolExecutor())
FutureCache(executor="multiprocessing")
cached_job(executor="treads")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
FutureCache(executor="treads")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cached_job(executor=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
