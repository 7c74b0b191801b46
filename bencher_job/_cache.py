"""Ties keys, stores and executors together: look up, join what is in flight, run, commit, resolve."""

from __future__ import annotations

import atexit
import importlib.metadata
import logging
import os
import platform
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache, cached_property
from types import TracebackType
from typing import Any

from . import _media, _settings
from ._errors import BencherJobError, warn_caller
from ._executors import Engine, Executors, Outcome, engine_for, inside_worker, run_inline
from ._flights import Flight, Flights, flights_of
from ._forks import renew_after_fork
from ._future import JobFuture
from ._job import Job
from ._keys import CodeScope, JobKeys, qualified_name
from ._record import CacheInfo, Record
from ._settings import DEFAULT_CACHE_NAME
from ._stores import MISS, Entry, Hit, NullStore, Store, StoreFailure, dump, open_store
from ._writer import Writer

__all__ = ["FutureCache", "JobFunctionCache", "Prefetched"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counts:
    """What a cache did in this process."""

    submitted: int = 0
    hits: int = 0
    joined: int = 0
    computed: int = 0
    failed: int = 0
    unsaved: int = 0
    seconds_saved: float = 0.0


class Prefetched(dict[str, Any]):
    """Values found in bulk, by key, for `FutureCache.submit`.

    Attributes:
        seconds: how long the function of each had run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}


class FutureCache:
    """Runs jobs and remembers what they returned, under the keys that the jobs bring.

    Unlike a decorated function it computes every job anew unless `overwrite=False` is given. `executor` is a member of
    `Executors` or its name, any `concurrent.futures.Executor`, or a Dask `Client`. The store lies in
    `<cache_dir>/<cache_name>` and keeps at most `size_limit` bytes; `cache_samples=False` keeps nothing.
    Nothing is opened or started before the first job.

    Attributes:
        overwrite: whether jobs that are remembered run all the same and replace what was remembered.
        size_limit: the size in bytes beyond which the least recently stored entries are evicted.
        call_count: how many times `JobFunctionCache.call` was called.

    Raises:
        TypeError: when the executor is none.

    >>> with FutureCache(overwrite=False, cache_name="docs") as cache:
    ...     future = cache.submit(Job("power", pow, {"base": 2, "exp": 10}))
    ...     future.result()
    1024
    """

    def __init__(
        self,
        executor: Executors | str | Executor | Any = Executors.SERIAL,
        overwrite: bool = True,
        cache_name: str = DEFAULT_CACHE_NAME,
        tag_index: bool = True,
        size_limit: int = int(20e9),
        cache_samples: bool = True,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if size_limit <= 0:
            raise ValueError(f"size_limit={size_limit} leaves no room for entries. Give a size in bytes, such as int(10e9).")
        self._engine: Engine = engine_for(executor)
        self.overwrite = overwrite
        self.size_limit = int(size_limit)
        self.call_count = 0
        self._cache_name = cache_name
        self._cache_dir = cache_dir
        self._tag_index = tag_index
        self._cache_samples = cache_samples
        self._counts = _Counts()
        self._store: Store | None = None
        self._flights = Flights()
        self._epoch = -1
        self._writer: Writer[_Landing] = Writer(self._settle_group, f"bencher_job-writer-{cache_name}")
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the locks anew, and forget the jobs that only the parent can finish."""
        self._lock = threading.Lock()
        self._airborne = 0
        self._landed = threading.Condition(threading.Lock())

    @property
    def executor_type(self) -> str:
        """The member of `Executors`, or the class name of the executor that was given."""
        return self._engine.name

    @property
    def executor(self) -> Executor | None:
        """The executor, or None where jobs run in the calling thread."""
        return self._engine.executor

    @property
    def cache(self) -> Store:
        """The store, opened at first use. Where it can't be opened, jobs run with a warning as if it weren't there.

        Raises:
            UntrustedCache: when another user owns the store or can write to it.
        """
        if self._store is None or self._epoch != _settings.epoch:
            self._open()
        return self._store  # type: ignore[return-value]

    def _open(self) -> None:
        store: Store = NullStore()
        if self._cache_samples and _settings.caching_is_on():
            directory = _settings.store_directory(self._cache_name, self._cache_dir)
            try:
                store = open_store(directory, size_limit=self.size_limit, tag_index=self._tag_index)
            except StoreFailure as error:
                _log.warning("%s can't be opened: %s", directory, error)
                warn_caller(f"{directory} can't be opened ({error}), so nothing is remembered. See cache_dir=.")
        self._store, self._flights, self._epoch = store, flights_of(store), _settings.epoch

    @property
    def worker_wrapper_call_count(self) -> int:
        """Jobs that were submitted."""
        return self._counts.submitted

    @property
    def worker_fn_call_count(self) -> int:
        """Jobs whose function ran."""
        return self._counts.computed

    @property
    def worker_cache_call_count(self) -> int:
        """Jobs that were answered from the cache."""
        return self._counts.hits

    def prefetch(self, keys: Iterable[str]) -> Prefetched:
        """Look keys up in bulk: the values that are remembered, by key. Nothing is computed."""
        found = Prefetched()
        for key, hit in self.cache.get_many(keys).items():
            value = self._load(key, hit)
            if value is not MISS:
                found[key] = value
                found.seconds[key] = hit.seconds
        return found

    def submit(self, job: Job, prefetched: Mapping[str, Any] | None = None) -> JobFuture[Any]:
        """Answer a job from what is remembered, or join it in flight, or run it.

        `prefetched` holds values by key, as `prefetch` gives them. What the function raises is raised by the future's
        `result()`, on every executor.

        Raises:
            BencherJobError: when the executor can't take jobs, or the job waits for itself.
        """
        store = self.cache
        puts = store.puts
        if self.overwrite:
            return self._run(job, store, puts, fresh=True)
        if prefetched is not None and job.job_key in prefetched:
            seconds = prefetched.seconds.get(job.job_key, 0.0) if isinstance(prefetched, Prefetched) else 0.0
            self._count_hit(seconds)
            return JobFuture(job, prefetched[job.job_key])
        value = self._remembered(job.job_key, store)
        return self._run(job, store, puts) if value is MISS else JobFuture(job, value)

    def _remembered(self, key: str, store: Store) -> Any:
        """Give the remembered value of a key, counted as a hit, or `MISS`."""
        hit = store.get(key)
        if hit is MISS:
            return MISS
        value = self._load(key, hit)  # type: ignore[arg-type]
        if value is not MISS:
            self._count_hit(hit.seconds)  # type: ignore[union-attr]
        return value

    def _load(self, key: str, hit: Hit) -> Any:
        try:
            return hit.load()
        except Exception as error:  # noqa: BLE001 - a class that is gone or has changed raises what it likes
            warn_caller(
                f"The entry {key} can't be unpickled ({type(error).__name__}: {error}), so its job runs again. "
                f"Has a class of its value moved?"
            )
            return MISS

    def _count_hit(self, seconds: float) -> None:
        counts = self._counts
        with self._lock:
            counts.submitted += 1
            counts.hits += 1
            counts.seconds_saved += seconds

    def _run(self, job: Job, store: Store, puts: int, *, fresh: bool = False) -> JobFuture[Any]:
        """Join the job in flight or run it. `puts` tells whether the store has changed since it was asked."""
        if job.job_key in _media.running_keys():
            raise BencherJobError(f"{job!r} asks for its own result while it runs, so it would wait for itself for ever.")
        future: JobFuture[Any] = JobFuture.pending(job, self._flights.leave)
        flight, leads = self._flights.board(future)
        if not leads:
            with self._lock:
                self._counts.submitted += 1
                self._counts.joined += 1
            return future
        try:
            if not fresh and store.puts != puts:
                value = self._remembered(job.job_key, store)
                if value is not MISS:
                    flight.land()
                    future.cached = True
                    flight.resolve(value, None)
                    return future
            with self._lock:
                self._counts.submitted += 1
                self._counts.computed += 1
            self.overwrite_msg(job, " starting job...")
            self._take_off(flight, store)
        except BaseException as error:
            flight.land()
            flight.fail(error)
            raise
        return future

    def _take_off(self, flight: Flight, store: Store) -> None:
        job = flight.job
        folder = None if store.directory is None else _media.run_folder(store.directory, job.job_key)
        run = job.in_folder(folder)
        if self._engine.name == Executors.SERIAL or inside_worker():
            outcome = run_inline(run)
            self._finish([_Landing(flight, store, run, outcome, Executors.SERIAL)])
            if isinstance(outcome.error, KeyboardInterrupt):
                raise outcome.error
            return
        engine = self._engine
        engine_future = flight.engine_future = engine.submit(run)
        with self._landed:
            self._airborne += 1
        _finish_jobs_at_exit(self)
        engine_future.add_done_callback(
            lambda done: self._writer.put(_Landing(flight, store, run, lambda: engine.receive(done), engine.name))
        )

    def settle(self, future: JobFuture[Any], done: Future[Any]) -> None:
        """Keep the result of a future of any kind under its job's key, then resolve the job's own future with it."""
        with self._landed:
            self._airborne += 1
        self._writer.put(_Landing(Flight(future), self.cache, future.job, lambda: _outcome_of(done), "future"))

    def _settle_group(self, landings: Sequence[_Landing]) -> None:
        try:
            self._finish(landings)
        except BaseException as error:
            _log.exception("results can't be kept")
            for landing in landings:
                landing.flight.land()
                landing.flight.fail(error)
        finally:
            with self._landed:
                self._airborne -= len(landings)
                self._landed.notify_all()

    def _finish(self, landings: Sequence[_Landing]) -> None:
        """Commit what succeeded, and then give everybody who waits the value or the exception."""
        entries: dict[Store, list[Entry]] = {}
        ended = [(landing, landing.outcome() if callable(landing.outcome) else landing.outcome) for landing in landings]
        payloads = []
        for landing, outcome in ended:
            entry = self._entry(landing, outcome) if outcome.error is None else None
            payloads.append(entry and entry.payload)
            if entry is not None:
                entries.setdefault(landing.store, []).append(entry)
            elif outcome.error is not None and landing.run.media_folder is not None:
                _media.discard(landing.run.media_folder)
        for store, group in entries.items():
            self._put(store, group)
        for (landing, outcome), payload in zip(ended, payloads, strict=True):
            landing.flight.land()
            if outcome.error is None:
                landing.flight.resolve(outcome.value, payload)
            else:
                with self._lock:
                    self._counts.failed += 1
                landing.flight.fail(outcome.error)

    def _entry(self, landing: _Landing, outcome: Outcome) -> Entry | None:
        """Make the entry of a result; None where nothing is kept or the value can't be pickled."""
        job = landing.run
        if landing.store.directory is None:
            return None
        payload = outcome.payload
        if payload is None:
            try:
                payload = dump(outcome.value)
            except Exception as error:  # noqa: BLE001 - pickling runs code of the value's class
                self._warn_unsaved(f"The result of {job!r} can't be pickled ({type(error).__name__}: {error})")
                return None
        media = job.media_folder
        return Entry(
            payload,
            Record(
                key=job.job_key,
                function=qualified_name(job.function),
                tag=job.tag,
                arguments=job.arguments,
                created=datetime.fromtimestamp(outcome.started, UTC),
                seconds=outcome.seconds,
                media=media.name if media is not None and media.is_dir() else None,
                executor=landing.executor,
                host=outcome.host,
                pid=outcome.pid,
                python=platform.python_version(),
                library=_library_version(),
            ),
        )

    def _put(self, store: Store, entries: Sequence[Entry]) -> None:
        try:
            store.put_many(entries)
        except StoreFailure as error:
            if len(entries) > 1:  # one of them may be what doesn't fit
                for entry in entries:
                    self._put(store, [entry])
            else:
                self._warn_unsaved(f"The result of {entries[0].record} can't be kept in {store.directory} ({error})")

    def _warn_unsaved(self, fact: str) -> None:
        with self._lock:
            self._counts.unsaved += 1
        _log.warning("%s", fact)
        warn_caller(f"{fact}. The caller gets it, and the next call computes it again.")

    def overwrite_msg(self, job: Job, suffix: str) -> None:
        """Log that a job is about to run, and whether it replaces what is remembered."""
        _log.info("%s %s cache%s", job.job_id, "OVERWRITING" if self.overwrite else "NOT in", suffix)

    def clear_call_counts(self) -> None:
        """Set all counts to zero; nothing that is remembered changes."""
        with self._lock:
            self._counts = _Counts()
            self.call_count = 0

    def clear_cache(self) -> int:
        """Forget all results in the store, with their media; how many there were."""
        return self._clear()

    def clear_tag(self, tag: str) -> int:
        """Forget the results of a tag, with their media; how many there were."""
        return self._clear(tag=tag)

    def _clear(self, **chosen: str | None) -> int:
        removed = self.cache.clear(**chosen)
        _log.info("removed %s entries from %s", removed, self.cache.directory)
        return removed

    def records(self) -> Iterator[Record]:
        """Give the record of each entry, the oldest first."""
        return self.cache.records()

    def info(self) -> CacheInfo:
        """Give the figures of this cache."""
        store = self.cache
        with self._lock:
            counts = {field.name: getattr(self._counts, field.name) for field in fields(_Counts)}
        return CacheInfo(
            **counts,
            damaged=store.tally.damaged,
            evicted=store.tally.evicted,
            entries=store.count(),
            size=store.size(),
            size_limit=self.size_limit,
        )

    def stats(self) -> str:
        """Describe this cache in a line for people: size, limit, entries, hits, time saved."""
        return str(self.info())

    def wait(self) -> None:
        """Wait until each job in flight has ended and its result is kept."""
        with self._landed:
            self._landed.wait_for(lambda: self._airborne == 0)

    def close(self) -> None:
        """Wait for the jobs in flight, then give back workers and files. The next job opens the cache again."""
        self.wait()
        self._writer.close()
        self._engine.release()
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> FutureCache:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "not opened" if self._store is None else self._store.directory or "nothing is kept"
        return f"<{type(self).__name__} {self._cache_name!r} on {self.executor_type}, {where}>"


@dataclass(slots=True, eq=False)
class _Landing:
    """A run that has ended: what came of it, and who waits."""

    flight: Flight
    store: Store
    run: Job
    outcome: Outcome | Callable[[], Outcome]
    executor: str


@cache
def _library_version() -> str:
    return importlib.metadata.version("bencher-job")


def _outcome_of(done: Future[Any]) -> Outcome:
    if done.cancelled():
        return Outcome(error=BencherJobError("The future that this job waited for was cancelled."))
    error = done.exception()
    return Outcome(error=error) if error is not None else Outcome(value=done.result())


class JobFunctionCache(FutureCache):
    """The cache of one function: makes its jobs, answers them, and clears what is its own.

    Several functions may share a store, by default they all do; what this cache clears and lists are the entries of its
    own function. `ignore` names parameters that don't enter the key, `version` is a value that does, `code` says how much of
    the function's code does.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        overwrite: bool = False,
        executor: Executors | str | Executor | Any = Executors.SERIAL,
        cache_name: str = DEFAULT_CACHE_NAME,
        tag_index: bool = True,
        size_limit: int = int(10e9),
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_samples: bool = True,
        tag: str = "",
        ignore: Collection[str] = (),
        version: object = None,
        code: CodeScope = "deep",
    ) -> None:
        super().__init__(executor, overwrite, cache_name, tag_index, size_limit, cache_samples, cache_dir=cache_dir)
        self.function = function
        self.tag = tag
        self.keys = JobKeys(function, ignore=ignore, version=version, code=code)

    @cached_property
    def name(self) -> str:
        """Module and qualified name of the function, as records show it."""
        return qualified_name(self.function)

    def call(self, **kwargs: Any) -> JobFuture[Any]:
        """Submit a call with keyword arguments."""
        return self.submit_call((), kwargs)

    def job(self, args: Sequence[Any], kwargs: Mapping[str, Any], key: str | None = None) -> Job:
        """Make the job of a call."""
        with self._lock:
            self.call_count += 1
            number = self.call_count
        positional, job_args = self.keys.binder.call(args, kwargs)
        return Job(
            f"{self.name}-{number}",
            self.function,
            job_args,
            self.keys.key(args, kwargs) if key is None else key,
            self.tag,
            positional=positional,
            arguments=self.keys.binder.arguments(args, kwargs),
        )

    def submit_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> JobFuture[Any]:
        """Submit a call as it was written."""
        return self.submit(self.job(args, kwargs))

    def value(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Give the value of a call, remembered or computed."""
        key = self.keys.key(args, kwargs)
        store = self.cache
        puts = store.puts
        if not self.overwrite:
            value = self._remembered(key, store)
            if value is not MISS:
                return value
        return self._run(self.job(args, kwargs, key), store, puts, fresh=self.overwrite).result()

    def refresh(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Compute a call anew, replace what was remembered, and give the value."""
        store = self.cache
        return self._run(self.job(args, kwargs), store, store.puts, fresh=True).result()

    def clear_cache(self) -> int:
        """Forget all results of this function, with their media; how many there were."""
        return self._clear(function=self.name)

    def clear_tag(self, tag: str) -> int:
        """Forget this function's results of a tag, with their media; how many there were."""
        return self._clear(function=self.name, tag=tag)

    def records(self) -> Iterator[Record]:
        """Give the record of each entry of this function, the oldest first."""
        return self.cache.records(function=self.name)


_caches_with_jobs: weakref.WeakSet[FutureCache] = weakref.WeakSet()


def _finish_jobs_at_exit(cache: FutureCache) -> None:
    """Have the jobs of a cache finished, or dropped, when the program ends.

    The hook is set after an engine has set its own, and so runs before it: the workers are still there.
    """
    if not _caches_with_jobs:
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
    _caches_with_jobs.add(cache)


def _at_exit() -> None:
    """Wait for what was submitted, as `concurrent.futures` does; after Ctrl-C keep only what is done."""
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    for cache in list(_caches_with_jobs):
        if not interrupted:
            cache.wait()
        cache._writer.close()  # noqa: SLF001 - its own module
