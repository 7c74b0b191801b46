"""`JobFunctionCache`: make jobs of one function's calls, and answer them.

    call ─> its bytes ─> MemoryEntry ─> a new value     if code and store are unchanged
                └─> else it is bound, its key is made and looked up; a call that memory answers twice becomes known

Only calls with immutable arguments are known. `marshal` makes their bytes: it distinguishes 1, 1.0 and True, and 0.0
and -0.0, so equal bytes are the same call.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from marshal import dumps
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Unpack, cast

from . import _options
from ._cache import FutureCache
from ._context import is_inside
from ._coordinator.commits import MOST_HITS_KEPT
from ._coordinator.running import running_jobs
from ._errors import warn_caller
from ._future import JobFuture
from ._job import ArgumentSnapshot, Job
from ._keys import UNCHANGEABLE, FunctionVersion, Identity, JobKeys, qualified_name
from ._keys.names import is_imported_copy
from ._loops import Caller, caller, is_coroutine_function
from ._options import (
    AnyExecutor,
    FunctionCacheArguments,
    Options,
    RunOptions,
    StoreOptions,
    accept,
    shows_options,
)
from ._record import Record, Selection
from ._stores import MISS, Miss, NullStore, Store, StoreFailure
from ._stores.base import SURE_FOR

if TYPE_CHECKING:
    import pandas

    from ._coordinator.commits import Counts
    from ._explain import EarlierVersions, Explanation
    from ._record import CallInfo, FunctionInfo
    from ._stores.memory import MemoryCache, MemoryEntry


_log = logging.getLogger(__name__)

LONGEST_CALL: Final = 256
"""Maximum size in bytes of a known call."""

MOST_CALLS: Final = 4096
"""Maximum number of known calls of one function."""


class KnownCalls(NamedTuple):
    """Calls that memory has answered. They stay valid while the code is unchanged and the cache has the same store."""

    unchanged: Callable[[], bool]
    epoch: int
    memory: MemoryCache | None
    calls: dict[bytes, MemoryEntry]


class Unanswered(NamedTuple):
    """A call that memory has not answered before, with its bytes if it may become a known call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    call: bytes | None = None


def _never() -> bool:
    return False


NOTHING_KNOWN: Final = KnownCalls(_never, -1, None, {})


def answering(cache: JobFunctionCache, counts: Counts, compute: Callable[..., Any]) -> Callable[..., Any]:
    """Make the function that answers known calls from memory, and passes the others to `compute`.

    It is one piece, because splitting it takes longer than all it does.
    """
    seconds_of_hits = counts.seconds_of_hits
    ttl = None if cache.lifetime is None else cache.lifetime.ttl

    def call(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()) if kwargs else args:
            if type(value) not in UNCHANGEABLE and not _is_flat_tuple(value):
                return compute(args, kwargs)
        try:
            known = dumps((args, kwargs) if kwargs else args, 2)
        except ValueError:  # a text of 2 GiB
            return compute(args, kwargs)
        if len(known) > LONGEST_CALL:
            return compute(args, kwargs)
        unchanged, epoch, memory, calls = cache.known
        try:
            if (
                (kept := calls.get(known)) is not None
                and unchanged()
                and epoch == _options.epoch
                and not cache.overwrite
            ):
                copy, now = kept.copy, monotonic()
                if now >= memory.sure_until and memory.changed_since(memory.read) is None:  # type: ignore[union-attr]
                    memory.sure_until = now + SURE_FOR  # type: ignore[union-attr]
                if (
                    now < memory.sure_until  # type: ignore[union-attr]
                    and kept.read is memory.read  # type: ignore[union-attr]
                    and (ttl is None or abs(time() - kept.ended) < ttl)
                ):
                    value = copy()  # type: ignore[misc]
                    kept.used = now
                    kept.is_recent = True
                    kept.uses = uses = kept.uses + 1
                    if uses == 1:
                        memory.note_first(kept)  # type: ignore[union-attr]
                    seconds_of_hits.append(kept.seconds)
                    if len(seconds_of_hits) > MOST_HITS_KEPT:
                        counts.add_up()
                    return value
        except Exception:  # noqa: BLE001 - code or a class that is gone: the long way reports it
            _log.debug("a call can't be answered at once", exc_info=True)
        return compute(args, kwargs, known)

    return call


def _is_flat_tuple(value: object) -> bool:
    return type(value) is tuple and UNCHANGEABLE.issuperset(map(type, value))


MISSES_CHECKED: Final = 16
"""How many jobs that begin together are looked up among results of other versions of libraries."""

MOST_ARGUMENTS: Final = 32
LONGEST_TEXT: Final = 1 << 14
"""Up to how many arguments, and of what length, an event loop makes the key itself."""


def _is_small(argument: object) -> bool:
    kind = type(argument)
    if kind is str or kind is bytes:
        return len(argument) <= LONGEST_TEXT  # type: ignore[arg-type]
    return kind is int or kind is float or argument is None or kind is bool


class JobFunctionCache(FutureCache):
    """The cache of one function: makes its jobs, answers them, and clears and lists its entries.

    Several functions may share a store, and by default they all do. This cache clears and lists the entries of the
    functions of its name: for a lambda or a closure, all that have the same module and qualified name.
    `ignore` may also name the parameter of a bound method's object. The options mean what they mean for `cached_job`;
    `tag_index` and `cache_samples` are those of `FutureCache`.
    """

    @shows_options(FunctionCacheArguments)
    def __init__(
        self,
        function: Callable[..., Any],
        overwrite: bool = RunOptions.overwrite,
        executor: AnyExecutor = RunOptions.executor,
        cache_name: str = StoreOptions.cache_name,
        tag_index: bool = StoreOptions.tag_index,
        size_limit: int = StoreOptions.size_limit,
        **options: Unpack[FunctionCacheArguments],
    ) -> None:
        accept(JobFunctionCache.__init__, options)
        given = {
            "overwrite": overwrite,
            "executor": executor,
            "cache_name": cache_name,
            "tag_index": tag_index,
            "size_limit": size_limit,
        }
        self._given: Mapping[str, Any] = {**given, **options}
        chosen = Options.of(self._given)
        self._of_coroutines = is_coroutine_function(function)
        self._configure(chosen)
        self.function = function
        self.tag = chosen.store.tag
        self._imported_copy = function if is_imported_copy(function) else None
        self.keys = JobKeys(function, chosen.key)
        self._earlier: EarlierVersions | None = None
        self._has_told_of_earlier = False
        self._function_name = qualified_name(self.function)
        self._answer_calls()

    def _answer_calls(self) -> None:
        self.known = NOTHING_KNOWN
        # Called like the function. The caller awaits a coroutine whose result is not in memory.
        self.answer = answering(self, self._counts, Unanswered if self._of_coroutines else self.value)

    def with_options(self, options: Mapping[str, Any]) -> JobFunctionCache:
        """Make a cache that has the store, the keys and the counts of this one, and other options of its calls."""
        other = copy.copy(self)
        other._parent = self  # noqa: SLF001 - its own class
        other._given = {**self._given, "overwrite": self.overwrite, **options}  # noqa: SLF001 - as above
        chosen = Options.of(other._given)  # noqa: SLF001 - as above
        other._configure(chosen)  # noqa: SLF001 - as above
        other.tag = chosen.store.tag
        other._answer_calls()  # noqa: SLF001 - as above
        return other

    @cached_property
    def name(self) -> str:
        """Module and qualified name of the function, as records show it."""
        return self._function_name

    def call(self, /, **kwargs: Any) -> JobFuture[Any]:
        """Submit a call with keyword arguments."""
        return self.submit_call((), kwargs)

    def job(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], identity: Identity | None = None, repeat: int = 0
    ) -> Job:
        """Make the job of a call, or of one of its repeats."""
        with self._reentrant:
            self.call_count += 1
            number = self.call_count
        function_version = None if identity is None else identity[2]
        if self.keys.reads_files:
            args, kwargs = self.keys.anchored(args, kwargs)
        (positional, job_args), arguments, files = self.keys.spelled(args, kwargs, function_version)
        if files:  # which may have changed since the key was made
            identity = None
        job = Job(
            f"{self.name}-{number}",
            self.function,
            job_args,
            positional=positional,
            arguments={"repeat": repeat, **arguments} if repeat else arguments,
            identity=identity or self.keys.identity(args, kwargs, repeat=repeat),
        )
        job.tag, job.files, job.keys = self.tag, files, self.keys
        return job

    def submit_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> JobFuture[Any]:
        """Submit a call."""
        asker = None if is_inside() else caller()
        if asker is not None and not self.makes_quick_keys(args, kwargs):
            args, kwargs = self.held(args, kwargs)
            return self.send_for(lambda: self.job(args, kwargs), asker, of_coroutine=self._of_coroutines)
        return self.submit(self.job(args, kwargs))

    def held(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copy the arguments of a call for a thread that makes the job, as far as that is quick."""
        return ArgumentSnapshot().call(*self.keys.anchored(args, kwargs), self.keys.ignored)

    def makes_quick_keys(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the key of a call takes microseconds: the code has been read, and the arguments are few and small."""
        keys = self.keys
        if not keys.is_ready or keys.reads_files or len(args) + len(kwargs) > MOST_ARGUMENTS:
            return False
        return all(map(_is_small, args)) and all(map(_is_small, kwargs.values()))

    def coroutine(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, fresh: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Make the coroutine of a call; with `fresh` the function runs again and its result replaces the stored one.

        Cancelling one caller leaves the others waiting. Cancelling the last one cancels the run, and waits for its end.

        Raises:
            TypeError: when the arguments don't fit the function, unless its code has not been read yet.
        """
        if self.keys.is_ready:
            self.keys.binder.bind(*args, **kwargs)
        coroutine = self._awaited(args, kwargs, fresh=fresh)
        coroutine.__qualname__ = self.name  # type: ignore[attr-defined]  # for Python's warning of a missing await
        return coroutine

    async def _awaited(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, fresh: bool) -> Any:
        answer = Unanswered(args, kwargs) if fresh else self.answer(*args, **kwargs)
        if type(answer) is not Unanswered:
            return answer
        identity = None
        if self.makes_quick_keys(args, kwargs):
            identity = self.keys.identity(args, kwargs)
            value = MISS if fresh else self.recall_call(identity, answer.call)
            if value is not MISS:
                return value
        else:
            args, kwargs = self.held(args, kwargs)
        asker = cast("Caller", caller())
        future = self.send_for(
            lambda: self.job(args, kwargs, identity), asker, of_coroutine=True, fresh=fresh
        )
        return await future.value_or_end()

    def value(self, args: tuple[Any, ...], kwargs: dict[str, Any], call: bytes | None = None) -> Any:
        """Return the value of a call, stored or computed. A hit makes the bytes of `call` known."""
        identity = self.keys.identity(args, kwargs)
        key = identity[0]
        if is_inside():
            value = self.recall(key)
            return (
                self._run_without_cache(self.job(args, kwargs, identity)).result() if value is MISS else value
            )
        store = self._opened()
        if not self.overwrite:
            found = store.get(key, self.mapped)
            value = MISS if isinstance(found, Miss) else self._load(key, found)
            if value is not MISS:
                if (
                    call is not None and self._imported_copy is None
                ):  # whose hits are unpickled in another way
                    self._learn(call, identity, value)
                return value
        return self.compute(self.job(args, kwargs, identity), store, fresh=self.overwrite)

    def _announce(self, jobs: Iterable[Job]) -> None:
        jobs = tuple(jobs)
        if _log.isEnabledFor(logging.INFO):
            super()._announce(jobs)
        if not (self.overwrite or self._has_told_of_earlier):
            for job in jobs[:MISSES_CHECKED]:
                if job.function_version is not None and job.function_version.fingerprint.libraries:
                    self._tell_of_earlier_versions(job, job.function_version)

    def _tell_of_earlier_versions(self, job: Job, version: FunctionVersion) -> None:
        """Warn once if there are results that were computed with other versions of libraries."""
        if self._has_told_of_earlier:
            return
        try:
            if self._earlier is None or self._earlier.current is not version:
                from ._explain import EarlierVersions  # few functions name libraries

                self._earlier = EarlierVersions(self._opened(), version)
            warning = self._earlier.warning(job.bound) if self._earlier else None
        except StoreFailure as error:  # of which lookups warn
            _log.warning("%s", error)
            return
        if warning is not None:
            self._has_told_of_earlier = True
            warn_caller(warning)

    def recall_call(self, identity: Identity, call: bytes | None) -> Any:
        """Return the value of a call from memory, or `MISS`. A hit makes the bytes of `call` known."""
        value = self.recall(identity[0])
        if call is not None and value is not MISS and self._imported_copy is None:
            self._learn(call, identity, value)
        return value

    def _learn(self, call: bytes, identity: Identity, value: object) -> None:
        """Make a call known, if an entry in memory has answered it twice, the second time with this value."""
        epoch, memory = _options.epoch, self._memory
        kept = None if memory is None or self._epoch != epoch else memory.cache.entries.get(identity[0])
        if memory is None or kept is None or kept.uses < 2:
            return
        if self.lifetime is not None and self.lifetime.valid is not None:  # which is asked at each hit
            return
        unchanged = self.keys.check_of(identity[2])
        if unchanged is None:
            return
        known = self.known
        if known.unchanged is not unchanged or known.epoch != epoch:
            known = self.known = KnownCalls(unchanged, epoch, memory.cache, {})
        if len(known.calls) >= MOST_CALLS:
            known.calls.clear()
        kept.learn(value)
        known.calls[call] = kept

    def peek(self, args: tuple[Any, ...], kwargs: dict[str, Any], default: Any = None) -> Any:
        """Return the stored value of a call, which counts as a hit, or the default. Nothing is computed."""
        key = self.keys.identity(args, kwargs)[0]
        found = self._find([key]) if self.is_there() else None  # nothing is made for a question
        if found is None or key not in found:
            return default
        self._counts.hit(found.seconds[key])
        return found[key]

    def remember(self, value: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Store a value as the result of a call, on all machines. Nothing is computed."""
        future: JobFuture[Any] = JobFuture.pending(self.job(args, kwargs), lambda _: False)
        done: Future[Any] = Future()
        done.set_result(value)
        self._coordinator.settle_here(future, done, self.cache, replaces=True)

    def refresh(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute a call again, replace its result, and return the value."""
        store = self.cache
        return self.compute(self.job(args, kwargs), store, fresh=True)

    def explain(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], store: Store | None = None
    ) -> Explanation:
        """Explain whether a call is stored, here or in another store, or why it would run. Nothing is computed."""
        from ._explain import (
            Cause,
            explain,  # slow to import, and few programs ask
        )

        keys = self.keys
        identity = keys.identity(args, kwargs)
        is_own = store is None
        if store is None:
            store = self.cache if self.is_there() else NullStore()  # nothing is made for a question
        version = identity[2] or keys.function_version
        _, arguments, _ = keys.spelled(args, kwargs, version)
        explanation = explain(store, identity, version, arguments, keys.ignored, keys.attributes)
        cause = None
        if self.overwrite:
            cause = Cause.OVERWRITE
        elif is_own and not store.keeps:
            cause = Cause.OFF if self.is_there() else None
        elif explanation.is_hit:
            record, lifetime = explanation.record, self.lifetime
            if record is not None and lifetime is not None and (fault := lifetime.fault(record)):
                cause = Cause.EXPIRED if fault.startswith("ttl") else Cause.INVALID
                explanation = replace(explanation, reason=fault)
        elif is_own and running_jobs(store).has(identity[0]):
            cause = Cause.IN_FLIGHT
        return explanation if cause is None else replace(explanation, cause=cause)

    def adopt(self, fingerprint: str | None = None, *, dry_run: bool = False) -> int:
        """Accept the results of this function's latest earlier code for its present code; return how many there were.

        Use it after an edit that changes no result, as a faster algorithm or a new name for a variable. `fingerprint`
        names another earlier code, as records show it, by its first digits. Nothing is computed; the entries are
        copied, so that the earlier code keeps its own, and a copy shares its media. With `dry_run` nothing is copied.

        Raises:
            BencherJobError: when no entry is of that code, or its keys were made of another version or other
                parameters.
        """
        from ._explain import adopt  # few programs adopt anything

        return adopt(self.cache, self.keys.function_version, fingerprint, dry_run=dry_run)

    def clear_cache(self) -> int:
        """Remove all results of this function, with their media, and return how many there were."""
        return self._clear(function=self.name)

    def clear_tag(self, tag: str) -> int:
        """Remove this function's results of a tag, or with `""` those without one; return how many there were."""
        return self._clear(function=self.name, tag=tag)

    def call_info(self) -> CallInfo:
        """Return the figures that `functools.lru_cache` gives: hits, misses, maxsize, currsize."""
        from ._record import CallInfo  # slow to import, and few programs ask

        functions = self.functions() if self.is_there() else []  # nothing is made for a question
        entries = sum(function.entries for function in functions if function.name == self.name)
        return CallInfo(self.worker_cache_call_count, self.worker_fn_call_count, None, entries)

    def export(self, path: str | os.PathLike[str], *, overwrite: bool = False, **chosen: Any) -> int:
        """Write the chosen entries of this function to one file, and return how many there were."""
        return super().export(path, overwrite=overwrite, **{"function": self.name, **chosen})

    def records(self, **chosen: Any) -> Iterator[Record]:
        """Iterate over the records of the chosen entries of this function, the oldest first.

        Entries of other versions of the function's code are left out, unless `versions="all"` or the first digits of a
        fingerprint ask for them; the default is "current".
        """
        function = chosen.setdefault("function", self.name)
        return super().records(**{"versions": "current" if function == self.name else "all", **chosen})

    def to_dataframe(self, **chosen: Any) -> pandas.DataFrame:
        """Return a table of the entries that are chosen as for `records`, one row per entry.

        Raises:
            BencherJobError: when pandas, of the extra `table`, is not installed.
        """
        table = super().to_dataframe(**chosen)
        if (
            table.empty
            and not chosen
            and (hidden := self._hidden(self._selection(function=self.name, versions="current")))
        ):
            warn_caller(f"{self.name} as it is now has no results. {hidden}.")
        return table

    def _versions(self, names: str | Iterable[str], function: str | None) -> set[tuple[str, str]]:
        if names != "current":
            return super()._versions(names, function)
        version = self.keys.function_version
        return {(version.fingerprint.digest.hex(), version.version), ("", "")}

    def _stale(self, function: FunctionInfo) -> set[tuple[str, str]]:
        if function.name != self.name:
            return set()
        failed = self.cache.history.failures(Selection(function=self.name))
        known = {each[:2] for each in function.versions}
        known.update((each.record.fingerprint, each.record.version) for each in failed)
        return known - self._versions("current", self.name)


JobFunctionCache.__module__ = "bencher_job"  # the package imports it on first use
