"""`FutureCache`: look jobs up, run those that are not stored, and store their results."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from time import monotonic, time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack
from weakref import WeakSet

from . import _options
from ._context import is_inside, refuse_inside
from ._coordinator.commits import MOST_HITS_KEPT, Counts
from ._coordinator.coordinator import Coordinator, load, warn_unloadable
from ._coordinator.engines import do_outside
from ._coordinator.running import running_jobs
from ._errors import BencherJobError, warn_caller
from ._executors import inside_worker
from ._future import JobFuture, Settles, SubmittedFuture
from ._job import Job, run_job
from ._keys.names import load_for
from ._lifetime import Lifetime
from ._loops import Caller, SerialQueue, caller, is_coroutine_function
from ._options import (
    AnyExecutor,
    CacheArguments,
    Executors,
    Options,
    RunOptions,
    StoreOptions,
    accept,
    shows_options,
)
from ._processes import renew_after_fork
from ._record import Record, Records, Selection, hidden_text
from ._stores import (
    MISS,
    Hit,
    Hits,
    Miss,
    NullStore,
    Store,
    StoreFailure,
    Use,
    compression_named,
    export,
    import_,
    open_store,
    shrink,
    store_exists,
    verify,
)

if TYPE_CHECKING:
    import pandas

    from ._record import CacheInfo, FunctionInfo
    from ._stores.importing import Imported
    from ._stores.memory import MemoryTier
    from ._stores.verification import Audit


FIRST_PAUSE: Final = 0.1
"""Seconds after which a store that can't be opened is tried again; each failure doubles the pause."""

LONGEST_PAUSE: Final = 60.0

PATIENT_PAUSE: Final = 10
"""The shortest pause, as a multiple of the time that the attempt took: an attempt may wait for a lock."""

_log = logging.getLogger(__name__)


class Contents:
    """The stored results of a cache, at `<cache_dir>/<cache_name>`. The store is opened at first use.

    Attributes:
        size_limit: the size in bytes beyond which the least recently used entries are evicted.
        cache_dir: the folder that holds the cache, once it is opened; until then what was given.
        lifetime: which entries are answers; None if all are.
    """

    _function_name = ""
    """Module and qualified name of the function of all its jobs, if they have one."""

    _parent: FutureCache | None = None
    """The cache whose store this is, if it is not opened here."""

    def __init__(self, options: StoreOptions) -> None:
        self.size_limit = options.size_limit
        self.cache_dir = options.cache_dir
        self._cache_name = options.cache_name
        self._tag_index = options.tag_index
        self._cache_samples = options.cache_samples
        self._trusted = options.trusted
        self._shared = options.shared
        self.lifetime = Lifetime.of(options)
        self._store: Store | None = None
        self._memory: MemoryTier | None = None
        self._epoch = -1
        self._pause = 0.0
        self._try_again: float | None = None

    @property
    def cache(self) -> Store:
        """The store, opened at first use. If it can't be opened, jobs run without it, with a warning.

        Opening is tried again after growing pauses. The store is a container of values by job key:
        `len(cache.cache)`, `key in cache.cache`, `cache.cache[key]`, and iteration over the keys.

        Raises:
            UntrustedCache: when another user owns the store or can write to it.
            BencherJobError: in a signal handler, a `__del__` or a weakref callback that has interrupted the cache.
        """
        refuse_inside("The use of a cache")
        return self._opened()

    def _opened(self) -> Store:
        if (
            self._store is None
            or self._epoch != _options.epoch
            or (self._try_again is not None and monotonic() >= self._try_again)
        ):
            self._open()
        return self._store  # type: ignore[return-value]

    def is_there(self) -> bool:
        """Whether the store is open, on the disk, or shared. True if nothing is kept, since no store is made then."""
        if (self._store is not None and self._epoch == _options.epoch) or not self._keeps():
            return True
        shared = _options.shared_place(self._cache_name, self.cache_dir, self._shared)
        return shared is not None or store_exists(self.directory)

    @property
    def directory(self) -> Path:
        """The folder of the store, whether it is there or not."""
        return _options.store_directory(self._cache_name, self.cache_dir)

    def _keeps(self) -> bool:
        return self._cache_samples and _options.caching_is_on()

    def _open(self) -> None:
        if (parent := self._parent) is not None:
            self._store, self._memory = parent._opened(), parent._memory  # noqa: SLF001 - its own class
            self._epoch, self._try_again = parent._epoch, parent._try_again  # noqa: SLF001 - as above
            self.cache_dir = parent.cache_dir
            return
        store: Store = NullStore()
        self._memory = None
        closed_off = None if self._try_again is None or self._epoch != _options.epoch else self._store
        self._try_again = None
        if self._keeps():
            begin = monotonic()
            where: object = f"The cache {self._cache_name}"
            try:
                where = directory = self.directory
                if _options.override() is None:
                    # A later change of the current folder must not move the cache.
                    self.cache_dir = _options.cache_directory(self.cache_dir)
                place = _options.shared_place(self._cache_name, self.cache_dir, self._shared)
                store = self._memory = _open(
                    place, directory, self.size_limit, self._tag_index, self._trusted
                )
            except (StoreFailure, FileNotFoundError) as error:  # of the current folder, which may be gone
                _log.warning("%s can't be opened: %s", where, error)
                # The present store may have running jobs.
                self._store, self._epoch = closed_off or NullStore(is_closed_off=True), _options.epoch
                self._close_off(begin)
                if closed_off is None:
                    warn_caller(f"{where} can't be opened, so nothing is remembered until it can: {error}")
                return
        self._store, self._epoch, self._pause = store, _options.epoch, 0.0

    def _close_off(self, begin: float) -> None:
        """Set when to try again, after an attempt that began at `begin`."""
        now = monotonic()
        pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._pause = max(pause, PATIENT_PAUSE * (now - begin))
        self._try_again = now + self._pause

    def has(self, key: str) -> bool:
        """Whether a key has a result. If the store can't be read the answer is False, with a warning."""
        try:
            return bool(self.durations([key]))
        except StoreFailure as error:
            warn_caller(f"The cache in {self.directory} can't be read, so nothing is found: {error}")
            return False

    def durations(self, keys: Iterable[str]) -> dict[str, float]:
        """Return how long the functions of those entries ran that are answers, in seconds. No value is read.

        Raises:
            StoreFailure: when the store can't be read.
        """
        store = self.cache
        return store.durations(keys) if self.lifetime is None else self.lifetime.among(store, keys)

    def clear_cache(self) -> int:
        """Remove all results in the store, with their media, and return how many there were."""
        return self._clear()

    def clear_tag(self, tag: str) -> int:
        """Remove the results of a tag, or with `""` those without one, and their media; return how many there were."""
        return self._clear(tag=tag)

    def clear_stale(self) -> int:
        """Remove the results of earlier versions of the code, and return how many there were.

        A `JobFunctionCache` keeps those of its function's code as it is now, and touches no other function. Another
        cache keeps those of the version that was used last, of each function. Results whose key was given stay.
        """
        removed = 0
        for function in self.functions():
            if stale := self._stale(function):
                removed += self._clear(function=function.name, versions=stale)
        return removed

    def _stale(self, function: FunctionInfo) -> set[tuple[str, str]]:
        """Return the versions of a function's code whose entries can't be hit any more."""
        return {each[:2] for each in function.versions} - function.latest()

    def _clear(self, **chosen: Any) -> int:
        if not isinstance(tag := chosen.get("tag", ""), str):  # None would be all
            raise TypeError(
                f"tag must be a str, not {type(tag).__name__}. Clear everything with clear_cache()."
            )
        removed = self.cache.clear(Selection(**chosen))
        _log.info("removed %s entries from %s", removed, self.directory)
        return removed

    def shrink(
        self,
        *,
        size: int | None = None,
        entries: int | None = None,
        unused_for: float | timedelta | None = None,
    ) -> int:
        """Remove entries, the least recently used first, and return how many there were.

        The cache of a function looks at those of the function only.

        Args:
            size: the bytes that may stay, as `info().size` counts them.
            entries: the number of entries that may stay.
            unused_for: seconds, or a `timedelta`; entries that were last used earlier are removed.

        Raises:
            TypeError: when no limit is given, or one has the wrong type.
            ValueError: when a limit is below 0.
        """
        given: dict[str, Any] = {"size": size, "entries": entries, "unused_for": unused_for}
        limits = _options.Limits(**given)
        if not limits.is_some:
            raise TypeError("shrink needs a limit: size=, entries= or unused_for=")
        return shrink(self.cache, limits, self._function_name or None)

    def records(
        self,
        *,
        function: str | None = None,
        tag: str | None = None,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        where: Mapping[str, Any] | None = None,
        versions: str | Iterable[str] = "all",
    ) -> Iterator[Record]:
        """Iterate over the records of the chosen entries, the oldest first.

        Args:
            function: module and qualified name of the function.
            tag: the tag; "" for entries that have none.
            since: the earliest begin of the run. A `timedelta` counts back from now; a naive time is local.
            until: the time before which the run began, likewise.
            where: arguments by name: the value as records show it, or a predicate of it.
            versions: versions of the code, by the first digits of their fingerprints, or "all".
        """
        selection = self._selection(
            function=function, tag=tag, since=since, until=until, where=where, versions=versions
        )
        return Records(self.cache.records(selection), partial(self._hidden, selection))

    def _selection(self, *, versions: str | Iterable[str] = "all", **chosen: Any) -> Selection:
        named = None if versions == "all" else self._versions(versions, chosen.get("function"))
        return Selection(**{**chosen, "where": chosen.get("where") or {}}, versions=named)

    def _versions(self, names: str | Iterable[str], function: str | None) -> set[tuple[str, str]]:
        """Return the versions of the code that some names mean.

        Raises:
            TypeError: when a name is not a str.
            ValueError: when a name means no version that has entries.
        """
        known = [each for info in self.functions() if function in {None, info.name} for each in info.versions]
        found: set[tuple[str, str]] = set()
        for name in names if isinstance(names, Iterable) and not isinstance(names, str) else [names]:
            if not isinstance(name, str):
                raise TypeError(f"versions must be a str, or several, not {type(name).__name__}")
            named = {each[:2] for each in known if each.is_called(name)}
            if not named:
                labels = ", ".join(each.label for each in known if each.label) or "none"
                raise ValueError(
                    f"versions={name!r} means no version of the code that has entries. Use one of: {labels}."
                )
            found |= named
        return found

    def _hidden(self, selection: Selection) -> str:
        if selection.versions is None:
            return ""
        known = [
            each
            for info in self.functions()
            if selection.function in {None, info.name}
            for each in info.versions
        ]
        text = hidden_text(known, selection.versions)
        return text and f'{text}; versions="all" shows them'

    def functions(self) -> list[FunctionInfo]:
        """Return the figures of each function that has entries or failed jobs in the store, sorted by name."""
        return self.cache.functions()

    def verify(self, *, repair: bool = False) -> Audit:
        """Check the whole store: every entry's bytes, files without entries, entries without files, the database.

        With `repair=True` damaged entries are moved to quarantine, leftovers of killed processes are removed, and the
        figures are corrected. Other processes may go on using the store.

        Raises:
            BencherJobError: when nothing is kept; when a repair would set a store aside that is signed with another
                secret.
        """
        return verify(self.cache, repair=repair)

    def export(self, path: str | os.PathLike[str], *, overwrite: bool = False, **chosen: Any) -> int:
        """Write the entries that are chosen as for `records` to one file, with their media; return their number.

        The file is a tar archive that `import_` reads.

        Raises:
            BencherJobError: when nothing is kept, or the file is there and is not to be overwritten.
        """
        return export(self.cache, path, self._selection(**chosen), overwrite=overwrite)

    def import_(self, path: str | os.PathLike[str], *, trusted: bool = False) -> Imported:
        """Add the entries of a file that `export` has written. Entries that are already here stay as they are.

        Each is verified and none is unpickled, but a later hit unpickles it: import only what you trust. Absolute paths
        in values still lead to where the media were.

        Raises:
            UntrustedCache: when another user owns the file or can write to it, unless it is `trusted`.
            BencherJobError: when the file is not such an archive, or nothing is kept.
        """
        return import_(self.cache, path, trusted=trusted)


def _open(place: str | None, directory: Path, size_limit: int, tag_index: bool, trusted: bool) -> MemoryTier:
    """Open a local store, and the shared one behind it if there is a place."""
    if place is None:
        return open_store(directory, size_limit=size_limit, tag_index=tag_index, trusted=trusted)
    from ._shared import open_shared  # takes long to import, and few caches are shared

    return open_shared(place, directory, size_limit=size_limit, tag_index=tag_index, trusted=trusted)


class Prefetched(dict[str, Any]):
    """Values found in bulk, by key, for `FutureCache.submit`.

    Attributes:
        seconds: how long each job had run.
        store: the store that was read.
        fetched: how many of them came from a shared store.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.fetched = 0
        self.seconds: dict[str, float] = {}
        self.store = store


class FutureCache(Contents, Settles):
    """Runs jobs and remembers what they returned, under the keys that the jobs bring.

    Unlike a decorated function it computes every job again unless `overwrite=False` is given. The store lies in
    `<cache_dir>/<cache_name>` and keeps at most `size_limit` bytes. An index over tags, `tag_index`, makes `clear_tag`
    quick. `cache_samples=False` keeps nothing. The other options mean what they mean for `cached_job`.
    Nothing is opened or started before the first job.

    Attributes:
        executor_type: the member of `Executors`, or the class name of the executor that was given.
        overwrite: whether jobs that are remembered run all the same and replace what was remembered.
        mapped: whether large arrays of a hit are maps of its file.
        size_limit: the size in bytes beyond which the least recently used entries are evicted.
        cache_dir: the folder that holds the cache, once it is opened; until then what was given.
        call_count: how many jobs a `JobFunctionCache` has made of calls; a hit of a decorated function makes none.

    Raises:
        TypeError: when there is no such option, or its value has the wrong type.
        ValueError: when a value can't be used, or the executor can't do what an option asks of it.

    >>> with FutureCache(overwrite=False, cache_name="docs") as cache:
    ...     future = cache.submit(Job("power", pow, {"base": 2, "exp": 10}))
    ...     future.result()
    1024
    """

    _of_coroutines = False
    """Whether all its jobs are coroutine functions."""

    _counts: Counts
    _family: WeakSet[FutureCache]
    """The caches of one function with different options of calls, which share the store and the counts."""

    _imported_copy: object = None
    """The function of all its jobs, if it is of the imported copy of the program that runs."""

    @shows_options(CacheArguments)
    def __init__(
        self,
        executor: AnyExecutor = RunOptions.executor,
        overwrite: bool = True,
        cache_name: str = StoreOptions.cache_name,
        tag_index: bool = StoreOptions.tag_index,
        size_limit: int = int(20e9),
        cache_samples: bool = StoreOptions.cache_samples,
        **options: Unpack[CacheArguments],
    ) -> None:
        accept(FutureCache.__init__, options)
        given = {
            "executor": executor,
            "overwrite": overwrite,
            "cache_name": cache_name,
            "tag_index": tag_index,
            "size_limit": size_limit,
            "cache_samples": cache_samples,
        }
        self._configure(Options.of({**given, **options}))

    def _configure(self, options: Options) -> None:
        store, run = options.store, options.run
        super().__init__(store)
        compression_named(store.compression)  # a missing package is an error at once
        self._coordinator = Coordinator(options, self._announce, of_coroutines=self._of_coroutines)
        parent = self._parent
        self._family = WeakSet[FutureCache]() if parent is None else parent._family  # noqa: SLF001 - its own class
        self._family.add(self)
        if parent is not None:
            self._coordinator.counts = parent._counts  # noqa: SLF001 - as above
        self._counts = self._coordinator.counts
        self._engines = self._coordinator.engines
        self.executor_type = self._engines.executor_type
        self.overwrite = run.overwrite
        self.call_count = 0
        self.mapped = store.mmap
        self._serial_queue = SerialQueue()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make a new lock, after a fork."""
        self._reentrant = threading.RLock()

    @property
    def executor(self) -> Executor | None:
        """The executor, or None where jobs run in the calling thread."""
        return None if self.executor_type == Executors.SERIAL else self._engines.own.executor

    @property
    def worker_wrapper_call_count(self) -> int:
        """Jobs that were submitted."""
        return self._counts.now.submitted

    @property
    def worker_fn_call_count(self) -> int:
        """Jobs whose function ran."""
        return self._counts.now.computed

    @property
    def worker_cache_call_count(self) -> int:
        """Jobs that were answered from the cache."""
        return self._counts.now.hits

    def prefetch(self, keys: Iterable[str]) -> Prefetched:
        """Look keys up in bulk and return the stored values by key. Nothing is computed.

        A value counts as a hit when `submit` answers a job with it.
        """
        return self._find(keys, counts=False)

    def _find(self, keys: Iterable[str], *, counts: bool = True, judges: bool = True) -> Prefetched:
        keys = list(keys)
        store = self.cache
        found = Prefetched(store)
        lifetime = self.lifetime if judges else None

        def look_up(wanted: list[str]) -> Hits:
            hits = store.get_many(wanted, self.mapped, counts=counts)
            if lifetime is not None:
                hits.drop(lifetime.refused(store, hits, counts=counts))
            return hits

        hits = look_up(keys)
        if len(hits) < len(keys) and self._function_name:
            missing = [key for key in keys if key not in hits]
            found.fetched = store.fetch(self._function_name, missing)
            if found.fetched:
                hits.update(look_up(missing))
        found.seconds = hits.seconds()
        problems = load_for(self._imported_copy, partial(hits.load, found))
        for key, error in problems.items():
            del found.seconds[key]
            warn_unloadable(key, error)
        return found

    def look_up(self, keys: Sequence[str]) -> tuple[list[Any], Prefetched]:
        """Look keys up in bulk and count the hits. Return a value or `MISS` for each, and what `start` needs.

        With `overwrite=True` all are misses.
        """
        if self.overwrite:
            store = self.cache
            return [MISS] * len(keys), Prefetched(store)
        found = self._find(keys)
        self._counts.hit(*found.seconds.values())
        values = []
        for key in keys:
            value = found.pop(key, MISS)
            if value is MISS and key in found.seconds:  # it is asked for twice
                value = self._remembered(key, found.store.get(key, mapped=self.mapped))
            values.append(value)
        return values, found

    def start(self, job: Job, asked: Prefetched, asker: Caller | None = None) -> JobFuture[Any]:
        """Run a job that was not found in the store, or join it if it is running; for an `asker` in an event loop.

        Raises:
            BencherJobError: when the executor can't take jobs, or the job waits for itself.
        """
        if asker is not None:
            return self._coordinator.submit(job, asked.store, fresh=self.overwrite, caller=asker)
        return self._run(job, asked.store, fresh=self.overwrite, here=self.resolves_here())

    def start_many(self, jobs: Sequence[Job], asked: Prefetched) -> list[JobFuture[Any]]:
        """Run jobs that were not found in the store, or join those that are running. None of them runs in line.

        Raises:
            BencherJobError: when the executor can't take jobs.
        """
        return self._coordinator.submit_many(jobs, asked.store, fresh=self.overwrite)

    def _run(self, job: Job, store: Store, *, fresh: bool, here: bool) -> JobFuture[Any]:
        """Run a job or join it. `here`, in a callback of a future of this cache, it runs in line.

        The thread that calls such a callback resolves no other future before the callback has returned.
        """
        future = self._coordinator.submit(job, store, fresh=fresh, here=here)
        if here:
            future.refuse_to_wait_here()
        return future

    def compute(self, job: Job, store: Store, *, fresh: bool) -> Any:
        """Run a job or join it, wait for it, and return its value. It runs in this thread if it can.

        Raises:
            BencherJobError: when the executor can't take jobs, or the job waits for itself.
            BaseException: what the function raises.
        """
        outcome = self._coordinator.compute(job, store, fresh=fresh)
        if outcome is None:
            here = self._coordinator.resolves_here()
            return self._run(job, store, fresh=fresh, here=here).result()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    @property
    def runs_in_line(self) -> bool:
        """Whether a job that is started in this thread runs in it, before `start` returns."""
        return self._engines.is_serial or inside_worker() or self.resolves_here()

    @property
    def workers(self) -> int | None:
        """How many jobs run at once, or None if the executor does not say."""
        try:
            return self._engines.own.workers
        except BencherJobError:  # such an executor isn't there
            return None

    def submit(self, job: Job, prefetched: Mapping[str, Any] | None = None) -> JobFuture[Any]:
        """Answer a job from the store, join it if it is running, or run it.

        `prefetched` holds values by key, as `prefetch` gives them. What the function raises is raised by the future's
        `result()`, on every executor. In an event loop nothing blocks, and all errors are the future's: what would run
        in line runs in a thread, or as a task of the loop if it is a coroutine. For a signal handler that has
        interrupted this thread inside of the cache it runs here and without the cache.

        Raises:
            BencherJobError: when the executor can't take jobs, or the job waits for itself.
        """
        if is_inside():
            return self._run_without_cache(job)
        asker = caller()
        if asker is not None:
            value = self.recall(job.job_key)
            if value is not MISS:
                return JobFuture(job, value)
            snapshot = job.snapshot()
            return self.send_for(lambda: snapshot, asker, of_coroutine=is_coroutine_function(job.function))
        store = self._opened()
        if self.overwrite:
            return self._coordinator.submit(job, store, fresh=True)
        if prefetched is not None and job.job_key in prefetched:
            seconds = prefetched.seconds.get(job.job_key, 0.0) if isinstance(prefetched, Prefetched) else 0.0
            self._counts.hit(seconds)
            store.count_uses([Use(job.job_key, 1, time(), seconds)])
            return JobFuture(job, prefetched[job.job_key])
        value = self._remembered(job.job_key, store.get(job.job_key, mapped=self.mapped))
        return self._coordinator.submit(job, store) if value is MISS else JobFuture(job, value)

    def _run_without_cache(self, job: Job) -> JobFuture[Any]:
        """Run a job without the cache, for code that has interrupted this thread inside of it and can't wait for it."""
        future: JobFuture[Any] = JobFuture.pending(job, lambda _: False)
        try:
            future.resolve(run_job(job))
        except Exception as error:  # noqa: BLE001 - it is the future's
            future.fail(error)
        _log.info("%r has run without the cache", job)
        warn_caller(
            f"The job {job.job_id} has run without the cache: a signal handler, a __del__ or a weakref "
            f"callback called it while this thread was inside of bencher_job, or the program was ending."
        )
        return future

    def recall(self, key: str) -> Any:
        """Return a small value that is in memory, counted as a hit, or `MISS`. Never blocks."""
        memory = self._memory if self._epoch == _options.epoch and not self.overwrite else None
        ttl, valid = (None, None) if self.lifetime is None else self.lifetime
        # For `valid` the record is read.
        kept = None if memory is None or valid is not None else memory.at_hand(key, self.mapped, ttl)
        hit = None if kept is None else kept.hit
        return MISS if hit is None else self._load(key, hit)

    def send_for(
        self, make: Callable[[], Job], asker: Caller, *, of_coroutine: bool, fresh: bool = False
    ) -> JobFuture[Any]:
        """Let a thread make a job, look it up, and join or run it, for a caller in an event loop."""
        runs_in = asker.loop if of_coroutine and self.runs_in_line else None
        return SubmittedFuture(
            make, lambda job: self._begin(job, asker, fresh=fresh), self._serial_queue, runs_in
        )

    def _begin(self, job: Job, asker: Caller, *, fresh: bool) -> JobFuture[Any]:
        store = self.cache
        if not (fresh or self.overwrite):
            value = self._remembered(job.job_key, store.get(job.job_key, mapped=self.mapped))
            if value is not MISS:
                return JobFuture(job, value)
        return self._coordinator.submit(job, store, fresh=fresh or self.overwrite, caller=asker)

    def _load(self, key: str, hit: Hit) -> Any:
        """Unpickle a stored value and count the hit, or return `MISS`, with a warning if it can't be unpickled."""
        if self.lifetime is not None:
            store = self._opened()
            found = self.lifetime.current(store, self._function_name, key, hit, self.mapped)
            if isinstance(found, Miss):
                return MISS
            hit = found
        if self._imported_copy is not None:
            value = load(key, hit, self._imported_copy)
        else:
            try:
                value = hit.load()
            except Exception as error:  # noqa: BLE001 - a class that is gone or has changed raises what it likes
                warn_unloadable(key, error)
                return MISS
        if value is not MISS:
            hits = self._counts.seconds_of_hits
            hits.append(hit.seconds)
            if len(hits) > MOST_HITS_KEPT:
                self._counts.add_up()
        return value

    def _remembered(self, key: str, found: Hit | Miss) -> Any:
        """Return the value of a hit, which is counted, or `MISS`."""
        return MISS if isinstance(found, Miss) else self._load(key, found)

    def settle(self, future: JobFuture[Any], done: Future[Any]) -> None:
        """Store the result of any future under its job's key, then resolve the job's own future."""
        if self.resolves_here():  # where somebody may wait for it at once
            self._coordinator.settle_here(future, done, self._opened())
        else:
            self._coordinator.settle(future, done, self._opened())

    def keep(self, future: JobFuture[Any], value: Any) -> None:
        """Store a value under a job's key, then resolve the job's own future."""
        done: Future[Any] = Future()
        done.set_result(value)
        self._coordinator.settle_here(future, done, self._opened())

    def resolves_here(self) -> bool:
        """Whether this thread resolves futures of this cache, as in a callback of one."""
        return self._coordinator.resolves_here()

    def is_in_flight(self, key: str) -> bool:
        """Whether a job of this key is running in this process."""
        return running_jobs(self.cache).has(key)

    def _announce(self, jobs: Iterable[Job]) -> None:
        if _log.isEnabledFor(logging.INFO):
            for job in jobs:
                self.overwrite_msg(job, ", so it runs")

    def overwrite_msg(self, job: Job, suffix: str) -> None:
        """Log that a job is about to run, and whether it replaces a result."""
        fact = "replaces what is in the cache" if self.overwrite else "is not in the cache"
        _log.info("the job %s %s%s", job.job_id, fact, suffix)

    def clear_call_counts(self) -> None:
        """Set all counts to zero. Results stay."""
        self._counts.clear()
        with self._reentrant:
            self.call_count = 0

    def to_dataframe(self, **chosen: Any) -> pandas.DataFrame:
        """Return a table of the entries that are chosen as for `records`, one row per entry.

        Its columns are the arguments, the fields of the result (or `result`), and the fields of records. If two of
        these have the same name, the first keeps it, and the others become `result.name` or `job.name`.

        Raises:
            BencherJobError: when pandas, of the extra `table`, is not installed.
        """
        from ._views.table import to_dataframe  # few programs need it

        return to_dataframe(self.records(**chosen), partial(self._find, counts=False, judges=False))

    def info(self) -> CacheInfo:
        """Return the figures of this cache."""
        from ._record import CacheInfo  # slow to import, and few programs ask

        store = self.cache
        entries, size, total = store.figures()
        return CacheInfo(
            **self._counts.as_dict(),  # type: ignore[arg-type]
            damaged=store.tally.damaged,
            evicted=store.tally.evicted,
            expired=store.tally.expired,
            unleased=store.tally.unleased,
            total=total,
            entries=entries,
            size=size,
            size_limit=self.size_limit,
            shared=store.shared,
        )

    def stats(self) -> str:
        """Return a line of text on this cache: size, limit, entries, hits, time saved."""
        return str(self.info())

    def wait(self) -> None:
        """Wait until each running job has ended and its result is stored.

        Raises:
            BencherJobError: where it would wait for itself: in a callback of a future of this cache, in a job of this
                cache that runs in a thread, in an event loop that such a job runs in, and in a signal handler, a
                `__del__` or a weakref callback that has interrupted this thread inside of the cache.
        """
        refuse_inside("To wait for the jobs in flight")
        self._refuse_to_wait_here()
        for each in list(self._family):
            each._coordinator.wait()  # noqa: SLF001 - its own class

    def _refuse_to_wait_here(self) -> None:
        if any(each.resolves_here() for each in list(self._family)):
            raise BencherJobError(
                f"A callback of a future can't wait for the jobs in flight of the cache {self._cache_name!r}: its "
                f"thread must be done with it first. Call wait() and close() elsewhere."
            )

    def close(self) -> None:
        """Wait for the running jobs, then release workers and files. The next job opens the cache again.

        The files stay open while another cache on the same store has jobs in flight. In a signal handler, a `__del__`
        or a weakref callback that has interrupted this thread inside of the cache, a thread closes it as soon as this
        one is outside, and the end of the program waits for that.

        Raises:
            BencherJobError: where it would wait for itself, as for `wait`.
        """
        if is_inside():
            do_outside(self.close)
            return
        self._refuse_to_wait_here()
        for each in list(self._family):
            each._coordinator.finish(wait=True)  # noqa: SLF001 - its own class
            each._engines.release()  # noqa: SLF001 - as above
        if self._store is not None:
            running_jobs(self._store).close_if_idle(self._store.close)

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
        if self._store is None:
            where: object = "not opened"
        else:
            where = (self._store.folder or "no folder") if self._store.keeps else "nothing is kept"
        return f"<{type(self).__name__} {self._cache_name!r} on {self.executor_type}, {where}>"


FutureCache.__module__ = "bencher_job"  # the package imports it on first use
