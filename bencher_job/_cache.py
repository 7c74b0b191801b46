"""Ties keys, stores and executors together: look up, join what is in flight, run, commit, resolve."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, Self

from . import _media, _settings
from ._errors import BencherJobError, warn_caller
from ._executors import Engine, Executors, engine_for, executor_name, inside_worker, run_inline
from ._exit import finish_at_exit
from ._flights import Flight, Flights, flights_of
from ._forks import renew_after_fork
from ._future import JobFuture
from ._job import Job
from ._landing import Landing, Returned, commit, outcome_of
from ._record import CacheInfo, Record
from ._settings import DEFAULT_CACHE_NAME
from ._stores import MISS, Hit, Miss, NullStore, Store, StoreFailure, open_store
from ._writer import Writer

__all__ = ["FutureCache", "Prefetched"]

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
    `<cache_dir>/<cache_name>` and keeps at most `size_limit` bytes; `cache_samples=False` keeps nothing. An index over
    tags, `tag_index`, makes `clear_tag` quick.
    Nothing is opened or started before the first job.

    Attributes:
        executor_type: the member of `Executors`, or the class name of the executor that was given.
        overwrite: whether jobs that are remembered run all the same and replace what was remembered.
        size_limit: the size in bytes beyond which the least recently stored entries are evicted.
        cache_dir: the folder that holds the cache, once it is opened; until then what was given.
        call_count: how many jobs a `JobFunctionCache` has made of calls; a hit of a decorated function makes none.

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
        if not isinstance(size_limit, int):
            raise TypeError(
                f"size_limit={size_limit!r} is no whole number. Give a size in bytes, such as int(10e9)."
            )
        if size_limit <= 0:
            raise ValueError(
                f"size_limit={size_limit} leaves no room for entries. Give a size in bytes, such as int(10e9)."
            )
        self.executor_type = executor_name(executor)
        self._executor = executor
        self._engine: Engine | None = None
        self.overwrite = overwrite
        self.size_limit = int(size_limit)
        self.call_count = 0
        self._cache_name = cache_name
        self.cache_dir = cache_dir
        self._tag_index = tag_index
        self._cache_samples = cache_samples
        self._counts = _Counts()
        self._store: Store | None = None
        self._is_closed_off = False
        self._flights = Flights()
        self._epoch = -1
        self._writer: Writer[Returned] = Writer(self._settle_group, f"bencher_job-writer-{cache_name}")
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the locks anew, and forget the jobs that only the parent can finish."""
        self._lock = threading.Lock()
        self._airborne = 0
        self._landing = threading.Lock()
        self._landed = threading.Condition(self._landing)

    def _engine_at_work(self) -> Engine:
        """Give what runs the jobs; it is made with the first job, since some take long to import."""
        with self._lock:
            if self._engine is None:
                self._engine = engine_for(self._executor)
            return self._engine

    @property
    def executor(self) -> Executor | None:
        """The executor, or None where jobs run in the calling thread."""
        return None if self.executor_type == Executors.SERIAL else self._engine_at_work().executor

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
        self._is_closed_off = False
        if self._cache_samples and _settings.caching_is_on():
            directory = _settings.store_directory(self._cache_name, self.cache_dir)
            if not _settings.is_overridden():
                self.cache_dir = (
                    directory.parent
                )  # found once: a later change of the current folder moves nothing
            try:
                store = open_store(directory, size_limit=self.size_limit, tag_index=self._tag_index)
            except StoreFailure as error:
                _log.warning("%s can't be opened: %s", directory, error)
                warn_caller(f"{directory} can't be opened, so nothing is remembered: {error}")
                self._is_closed_off = True
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

    def _run(
        self, job: Job, store: Store, puts: int, *, fresh: bool = False, here: bool = False
    ) -> JobFuture[Any]:
        """Join the job in flight or run it, on the engine or `here`.

        `puts` tells whether the store has changed since it was asked.
        """
        if job.job_key in _media.running_keys():
            raise BencherJobError(
                f"{job!r} asks for its own result while it runs, so it would wait for itself for ever."
            )
        flights = self._flights
        future: JobFuture[Any] = JobFuture.pending(job, flights.leave)
        try:
            flight, leads = flights.board(future)
            if not leads:
                with self._lock:
                    self._counts.submitted += 1
                    self._counts.joined += 1
                if inside_worker() and flights.take_over(
                    flight
                ):  # its place in the queue may be behind this very job
                    self._run_here(flight, store)
                return future
            if not fresh and store.puts != puts:
                hit = store.get(job.job_key)
                value = MISS if isinstance(hit, Miss) else self._load(job.job_key, hit)
                if not isinstance(hit, Miss) and value is not MISS:
                    self._count_hit(hit.seconds)
                    flight.land()
                    future.cached = True
                    flight.resolve(value, hit.payload)
                    return future
            with self._lock:
                self._counts.submitted += 1
                self._counts.computed += 1
            self.overwrite_msg(job, ", so it runs")
            if here or self.executor_type == Executors.SERIAL or inside_worker():
                self._run_here(flight, store)
            else:
                self._take_off(flight, store)
        except BaseException as error:
            flights.abandon(future, error)
            raise
        return future

    def _run_of(self, flight: Flight, store: Store) -> Job:
        folder = None if store.directory is None else _media.run_folder(store.directory, flight.job.job_key)
        return flight.job.in_folder(folder)

    def _run_here(self, flight: Flight, store: Store) -> None:
        """Run a flight's job in this thread, commit and resolve."""
        run = self._run_of(flight, store)
        outcome = run_inline(run)
        self._finish([Landing(flight, run, store, Executors.SERIAL, outcome)])
        if isinstance(outcome.error, KeyboardInterrupt):
            raise outcome.error

    def _take_off(self, flight: Flight, store: Store) -> None:
        """Give a flight's job to the engine; the writer will commit and resolve it."""
        run = self._run_of(flight, store)
        self._writer.start()
        engine = self._engine_at_work()
        engine_future = flight.engine_future = engine.submit(run)
        with self._landing:
            self._airborne += 1
        finish_at_exit(self)
        engine_future.add_done_callback(
            lambda done: self._writer.put(Returned(flight, run, store, engine.name, done, engine.receive))
        )

    def settle(self, future: JobFuture[Any], done: Future[Any]) -> None:
        """Keep the result of a future of any kind under its job's key, then resolve the job's own future with it."""
        with self._landing:
            self._airborne += 1
        store = self.cache
        self._writer.start()
        self._writer.put(Returned(Flight(future), future.job, store, "future", done, outcome_of))

    def _settle_group(self, group: Sequence[Returned]) -> None:
        """Receive what has come back, commit it together and resolve; on the writer's thread."""
        landings = [each.received() for each in group if not each.is_void()]
        try:
            self._finish(landings)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            _log.exception("results can't be kept")
            for landing in landings:
                landing.flight.land()
                landing.flight.fail(error)
        finally:
            with self._landing:
                self._airborne -= len(group)
                self._landed.notify_all()

    def _finish(self, landings: Sequence[Landing]) -> None:
        """Commit what succeeded, and then give everybody who waits the value or the exception."""
        payloads, unsaved = commit(landings)
        for landing in landings:
            landing.flight.land()
            if landing.outcome.error is None:
                landing.flight.resolve(landing.outcome.value, payloads.get(landing))
            else:
                with self._lock:
                    self._counts.failed += 1
                landing.flight.fail(landing.outcome.error)
        if self._is_closed_off:
            with self._lock:
                self._counts.unsaved += sum(landing.outcome.error is None for landing in landings)
        for fact in unsaved:  # last: whoever makes errors of warnings gets the value all the same
            self._warn_unsaved(fact)

    def _warn_unsaved(self, fact: str) -> None:
        with self._lock:
            self._counts.unsaved += 1
        _log.warning("%s", fact)
        warn_caller(f"{fact}. The caller gets it, and the next call computes it again.")

    def is_in_flight(self, key: str) -> bool:
        """Whether a job of this key is on its way in this process."""
        return self._flights.has(key)

    def overwrite_msg(self, job: Job, suffix: str) -> None:
        """Log that a job is about to run, and whether it replaces what is remembered."""
        fact = "replaces what is in the cache" if self.overwrite else "is not in the cache"
        _log.info("the job %s %s%s", job.job_id, fact, suffix)

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
        with self._landing:
            self._landed.wait_for(lambda: self._airborne == 0)

    def finish(self, *, wait: bool) -> None:
        """Commit what has come back, and what is still in flight if it is to be waited for."""
        if wait:
            self.wait()
        self._writer.close()

    def close(self) -> None:
        """Wait for the jobs in flight, then give back workers and files. The next job opens the cache again."""
        self.finish(wait=True)
        if self._engine is not None:
            self._engine.release()
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "not opened" if self._store is None else self._store.directory or "nothing is kept"
        return f"<{type(self).__name__} {self._cache_name!r} on {self.executor_type}, {where}>"
