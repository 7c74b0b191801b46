"""Receive a run that has ended, commit its result, and count it.

engine's thread: put(item) -> queue -> writer: receive all that is there, write it in one go, which resolves futures
                                         └ one that is received for long: another thread goes on with the others

To receive is to unpickle, which runs code of the value's class, and that may hang.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar

from .. import _media
from .._errors import BencherJobError
from .._executors import Outcome, error_text
from .._job import Job
from .._keys import qualified_name
from .._keys.files import is_unchanged
from .._keys.fingerprint import Fingerprint, libraries_in_arguments
from .._keys.hashing import WITH_CODE
from .._keys.libraries import other_versions
from .._processes import renew_after_fork
from .._record import Draft, Origin
from .._stores import (
    Deposit,
    Entry,
    Lease,
    LeasesUnavailable,
    NullStore,
    Payload,
    Store,
    StoreFailure,
    discard,
    dump_result,
)
from .._timer import timer
from .._version import VERSION
from .running import Flight, flights_of

if TYPE_CHECKING:
    from .._origin import GitState

__all__ = [
    "MOST_HITS_KEPT",
    "UNLOADABLE",
    "BeginsJobs",
    "Counts",
    "Keeping",
    "Landing",
    "Returned",
    "Run",
    "Start",
    "Writer",
    "commit",
    "outcome_of",
]


MOST_HITS_KEPT: Final = 1000
"""How many hits are counted one by one before they are added up."""


class _Figures:
    def __init__(self) -> None:
        self.submitted = self.hits = self.joined = self.computed = 0
        self.retried = self.failed = self.unsaved = 0
        self.seconds_saved = 0.0


class Counts:
    """Counts what a cache does, in any thread.

    Attributes:
        seconds_of_hits: for each hit that is not added up yet, how long its function had run.
    """

    def __init__(self) -> None:
        self._figures = _Figures()
        self.seconds_of_hits: deque[float] = deque()  # to append to it takes no lock
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._reentrant = threading.RLock()

    @property
    def now(self) -> _Figures:
        """The figures; read them one by one, as they may change in between."""
        self.add_up()
        return self._figures

    def hit(self, seconds: float) -> None:
        """Count a job that was answered from the cache, and how long its function had run."""
        hits = self.seconds_of_hits
        hits.append(seconds)
        if len(hits) > MOST_HITS_KEPT:
            self.add_up()

    def add_up(self) -> None:
        """Add up the hits that were counted one by one."""
        with self._reentrant:
            self._add_up_hits()

    def _add_up_hits(self) -> None:
        hits, figures = self.seconds_of_hits, self._figures
        for _ in range(len(hits)):
            try:
                seconds = hits.popleft()
            except IndexError:  # a signal handler's hit has added up the rest
                return
            figures.seconds_saved += seconds
            figures.hits += 1
            figures.submitted += 1

    def joined(self) -> None:
        """Count a job that waits for one that is in flight."""
        with self._reentrant:
            self._figures.submitted += 1
            self._figures.joined += 1

    def computed(self, number: int) -> None:
        """Count jobs whose function is about to run."""
        with self._reentrant:
            self._figures.submitted += number
            self._figures.computed += number

    def not_computed(self) -> None:
        """Take a job back that was counted as computed, and was cancelled, refused or lost."""
        with self._reentrant:
            self._figures.computed -= 1

    def set_aside(self, number: int) -> None:
        """Take jobs back that were counted as computed, and are begun in another way or by another process."""
        with self._reentrant:
            self._figures.submitted -= number
            self._figures.computed -= number

    def retried(self) -> None:
        """Count a run that failed and is repeated."""
        with self._reentrant:
            self._figures.retried += 1

    def failed(self, *, elsewhere: bool = False) -> None:
        """Count a job that has failed; one that another process ran has not been counted as submitted yet."""
        with self._reentrant:
            self._figures.submitted += elsewhere
            self._figures.failed += 1

    def unsaved(self, number: int) -> None:
        """Count results that could not be kept."""
        with self._reentrant:
            self._figures.unsaved += number

    def clear(self) -> None:
        """Set all to zero."""
        with self._reentrant:
            self.seconds_of_hits.clear()
            self._figures = _Figures()

    def as_dict(self) -> dict[str, float]:
        """Give all figures of one moment, by name."""
        with self._reentrant:
            self._add_up_hits()
            return dict(vars(self._figures))


LARGEST_GROUP: Final = 256
"""How many results are committed together at most."""

PATIENCE: Final = 0.5
"""Seconds for which an item may be received before another thread goes on with the others."""

T = TypeVar("T")
R = TypeVar("R")


class _Line(Generic[T]):
    """A queue of items, and the thread that takes them from it.

    The writer comes with each item, so that an idle thread keeps nothing alive. It ends with its writer.

    Attributes:
        has_ended: set when all that came before the end of the queue is written.
    """

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[tuple[Writer[T, Any], T] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.has_ended = threading.Event()


@dataclass(slots=True, eq=False)
class _Group(Generic[T, R]):
    """What one thread is at.

    Attributes:
        line: where they come from.
        items: those that are not received yet.
        received: those that are, and are written together.
        item: the one that is being received, since `since`.
        is_left: whether another thread goes on with the others.
        is_given_up: whether nobody waits for the one any more.
        is_last: whether the thread ends with it.
    """

    line: _Line[T]
    items: deque[T]
    received: list[R] = field(default_factory=list)
    item: T | None = None
    since: float = 0.0
    is_left: bool = False
    is_given_up: bool = False
    is_last: bool = False


class Writer(Generic[T, R]):
    """Hands items from any thread to functions that receive and write them, in groups, on a thread of its own.

    `receive` makes of an item what is written, or None of one that nobody wants; it may take as long as it likes.
    `write` gets a group of those. `give_up` is asked now and then about an item that is being received for so many
    seconds: it gives what is written in its place, and what comes later goes to `drop`, or None to go on waiting.
    """

    def __init__(
        self,
        receive: Callable[[T], R | None],
        write: Callable[[Sequence[R]], None],
        give_up: Callable[[T, float], R | None],
        drop: Callable[[R], None],
        name: str,
    ) -> None:
        self._receive = receive
        self._write = write
        self._give_up = give_up
        self._drop = drop
        self._name = name
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the threads, which a forked child doesn't have."""
        self._lock = threading.Lock()
        self._threads: set[int] = set()
        self._groups: set[_Group[T, R]] = set()
        self._is_watched = False
        self._line: _Line[T] = _Line()

    def start(self) -> None:
        """Start the thread, if it isn't running: before the work whose items it will get.

        When the program ends no thread can be started any more, and items may still come.
        """
        timer.start()
        with self._lock:
            self._start_line()

    def _start_line(self) -> None:
        line = self._line
        if line.thread is None:
            line.thread = self._started(line, None)
            self._end = weakref.finalize(self, line.items.put, None)
            self._end.atexit = False

    def _started(self, line: _Line[T] | None, group: _Group[T, R] | None) -> threading.Thread:
        work = None if group is None else (self, group)
        thread = threading.Thread(target=_serve, args=(line, work), name=self._name, daemon=True)
        thread.start()
        return thread

    def is_here(self) -> bool:
        """Whether this is a thread of the writer's, which must not wait for what it will write itself."""
        return threading.get_ident() in self._threads

    def put(self, item: T) -> None:
        """Hand over an item; the thread is started again if it was closed meanwhile."""
        with self._lock:
            self._line.items.put((self, item))
            with suppress(RuntimeError):  # the program ends
                self._start_line()

    def close(self) -> None:
        """Wait until all that was handed over is written, and end the thread."""
        with self._lock:
            line = self._line
            if line.thread is None:
                return
            self._end()
            self._line = _Line()
        if not self.is_here():
            line.has_ended.wait()
            line.thread.join()

    def handle(self, group: _Group[T, R]) -> bool:
        """Receive and write a group; False where another thread has gone on with it meanwhile."""
        self._threads.add(threading.get_ident())
        try:
            return self._receive_all(group)
        finally:
            self._threads.discard(threading.get_ident())

    def _receive_all(self, group: _Group[T, R]) -> bool:
        self._watch(group)
        try:
            while group.items:
                group.since, group.item = time.monotonic(), group.items.popleft()
                received = self._receive(group.item)
                if not self._keep(group, received):
                    return False
                del received
        finally:
            self._groups.discard(group)
        self._write(group.received)
        return True

    def _keep(self, group: _Group[T, R], received: R | None) -> bool:
        """Keep what was received for the others of its group, or write it alone where they have gone on."""
        with self._lock:
            group.item = None
            is_left, is_given_up = group.is_left, group.is_given_up
            if received is not None and not is_left:
                group.received.append(received)
        if received is not None and is_given_up:
            self._drop(received)
        elif received is not None and is_left:
            self._write([received])
        return not is_left

    def _watch(self, group: _Group[T, R]) -> None:
        with self._lock:
            self._groups.add(group)
            is_watched, self._is_watched = self._is_watched, True
        if not is_watched:
            timer.add(PATIENCE, self._look)

    def _look(self) -> None:
        """Have another thread go on where one receives an item for long."""
        with self._lock:
            now = time.monotonic()
            for group in list(self._groups):
                item, seconds = group.item, now - group.since
                if item is None or seconds < PATIENCE:
                    continue
                if not group.is_left:
                    self._leave(group)
                instead = None if group.is_given_up else self._give_up(item, seconds)
                if instead is not None:
                    group.is_given_up = True
                    self._started(None, _Group(group.line, deque(), [instead]))
            self._is_watched = bool(self._groups)
        if self._is_watched:
            timer.add(PATIENCE, self._look)

    def _leave(self, group: _Group[T, R]) -> None:
        """Leave a thread alone with what it receives, and have another one go on with the rest."""
        rest: _Group[T, R] = _Group(group.line, group.items, group.received, is_last=group.is_last)
        group.is_left, group.items, group.received = True, deque(), []
        group.line.thread = self._started(group.line, rest)


def _serve(line: _Line[T] | None, work: tuple[Writer[T, Any], _Group[T, Any]] | None) -> None:
    """Write a group, and then what a line brings, unless another thread goes on with it."""
    is_left = False
    try:
        while work is not None or (line is not None and (work := _next(line)) is not None):
            writer, group = work
            is_left, is_last = not writer.handle(group), group.is_last
            del writer, group
            work = None  # while this thread waits, it keeps nothing
            if is_left or is_last:
                break
    finally:
        if line is not None and not is_left:
            line.has_ended.set()


def _next(line: _Line[T]) -> tuple[Writer[T, Any], _Group[T, Any]] | None:
    """Wait for an item, and take all that are there."""
    taken = line.items.get()
    if taken is None:
        return None
    writer, item = taken
    group: _Group[T, Any] = _Group(line, deque([item]))
    while len(group.items) < LARGEST_GROUP:
        try:
            taken = line.items.get_nowait()
        except queue.Empty:
            break
        if taken is None:
            group.is_last = True
            break
        group.items.append(taken[1])
    return writer, group


_log = logging.getLogger(__name__)


UNLOADABLE: Final[set[str]] = set()
"""Keys of entries that can't be unpickled here, as a warning has said, until their jobs have run again."""


class Keeping(NamedTuple):
    """How a cache keeps its results: for how many seconds, and how they are compressed."""

    ttl: float | None = None
    compression: str | None = None


class Start:
    """The beginning of a job on an engine that asks first.

    Attributes:
        is_set_aside: whether the job is not to run, since another process computes it or has done so.
    """

    __slots__ = ("_runner", "flight", "is_set_aside", "store")

    def __init__(self, runner: BeginsJobs, flight: Flight, store: Store) -> None:
        self._runner = runner
        self.flight = flight
        self.store = store
        self.is_set_aside = False

    def begin(self, starts: Sequence[Start]) -> list[bool]:
        """Acquire the leases of jobs that begin together; whether each is to run, or another process runs it."""
        return self._runner.begin(starts)

    def step_back(self, starts: Sequence[Start]) -> None:
        """Release the leases of jobs that had not begun after all, and wait again."""
        for start in starts:
            flights_of(start.store).give_back_lease(start.flight, partial(_give_back, start.store))


class BeginsJobs(Protocol):
    """What acquires the leases of jobs when they begin."""

    def begin(self, starts: Sequence[Start]) -> list[bool]:
        """Acquire the leases of jobs that begin together; whether each is to run, or another process runs it."""


class Run(NamedTuple):
    """One run of a job: who waits for it, where it runs, and where and how its result is kept."""

    flight: Flight
    job: Job
    store: Store
    keeping: Keeping
    executor: str
    git_state: GitState | None


@dataclass(slots=True, eq=False)
class Landing:
    """A run that has ended, and what came of it.

    Attributes:
        has_begun: whether it may have begun; False where it was cancelled before.
    """

    run: Run
    outcome: Outcome
    has_begun: bool = True

    @property
    def is_closed_off(self) -> bool:
        """Whether a result could not be kept because the store could not be opened."""
        store = self.run.store
        return isinstance(store, NullStore) and store.is_closed_off and self.outcome.error is None

    def payload(self) -> Payload:
        """Pickle the value, unless its worker has.

        Raises:
            Exception: whatever the pickling of the value raises.
        """
        given = self.outcome.payload
        return dump_result(self.outcome.value, self.run.job.function) if given is None else given

    def written(self) -> Deposit | None:
        """Give the file that the worker has written, if it has, and nobody has removed it meanwhile."""
        deposit, depository = self.outcome.deposit, self.run.job.depository
        is_there = deposit is not None and depository is not None and depository.has(deposit)
        return deposit if is_there else None

    def discard_written(self) -> None:
        """Remove the file that the worker has written, if it has."""
        deposit, depository = self.outcome.deposit, self.run.job.depository
        if deposit is not None and depository is not None:
            depository.discard(deposit)

    def pickled_for_all(self) -> Payload | None:
        """Pickle the value of which several get copies; None where it can't be, and they share it."""
        try:
            return self.payload()
        except Exception as error:  # noqa: BLE001 - pickling runs code of the value's class
            _log.warning(
                "the value of %r can't be copied, so all who asked share it: %s", self.run.job, error
            )
            return None

    def entry(self, payload: Payload | Deposit) -> Entry:
        """Make the entry of a value's bytes, or of the file that has them."""
        run, outcome = self.run, self.outcome
        job, state, ttl, lease = run.job, run.git_state, run.keeping.ttl, run.flight.lease
        media, place = job.media_folder if outcome.may_have_files else None, outcome.place
        origin = Origin(
            run.executor,
            place.host,
            place.pid,
            place.python,
            VERSION,
            place.platform,
            "" if state is None else state.commit,
            None if state is None else state.is_dirty,
        )
        return Entry(
            payload,
            Draft(
                job.job_key,
                qualified_name(job.function) if job.edition is None else job.edition.function,
                job.tag,
                job.arguments,
                outcome.started,
                outcome.seconds,
                os.path.basename(media) if media is not None and os.access(media, os.F_OK) else None,
                origin,
            ),
            job.bound,
            job.edition,
            lease if lease is not None and lease.held else None,
            run.keeping.compression,
            None if ttl is None else time.time() + ttl,
            attributes=None if job.keys is None else job.keys.attributes(job.job_key),
        )


class Returned(NamedTuple):
    """A run that an engine is done with, on its way to the writer."""

    run: Run
    done: Future[Any]
    receive: Callable[[Future[Any]], Outcome]

    def is_void(self) -> bool:
        """Whether another thread or process has taken the job over before it began."""
        start = self.run.job.start
        is_set_aside = isinstance(start, Start) and start.is_set_aside
        return is_set_aside or (self.run.flight.is_taken_over and self.done.cancelled())

    def received(self) -> Landing:
        """Say how the run ended, in this thread."""
        try:
            outcome, was_cancelled = self.receive(self.done), self.done.cancelled()
        except BaseException as error:  # noqa: BLE001 - unpickling runs code of the value's class
            outcome, was_cancelled = Outcome(error=error), False
        return Landing(self.run, outcome, has_begun=not was_cancelled)


def commit(landings: Sequence[Landing]) -> tuple[dict[Landing, Payload], list[str]]:
    """Put the results of runs that succeeded into their stores, and remove the media of those that failed.

    The leases of all are given back. Returns the bytes of values that no worker has written, and a sentence for each
    result that could not be kept; it is empty where the same was said of another one.
    """
    entries: dict[Store, list[Entry]] = {}
    payloads: dict[Landing, Payload] = {}
    unsaved: list[str] = []
    for landing in landings:
        run = landing.run
        UNLOADABLE.discard(run.job.job_key)
        if landing.outcome.error is not None:
            _fail(run, landing.outcome.error)
        elif run.store.keeps:
            job = run.job
            changed = _changed(job) if job.has_changed or job.files else None
            if changed is None:
                changed = _of_another_library(job, landing.outcome)
            if changed is not None:
                unsaved.append(changed)
                landing.discard_written()
                _give_back(run.store, run.flight.lease)
                continue
            try:
                written = None if landing.outcome.deposit is None else landing.written()
                if written is None:
                    payloads[landing] = landing.payload()
            except Exception as error:  # noqa: BLE001 - pickling runs code of the value's class
                unsaved.append(
                    f"The result of {run.job!r} can't be pickled ({type(error).__name__}: {error})"
                )
                _give_back(run.store, run.flight.lease)
            else:
                entry = landing.entry(payloads[landing] if written is None else written)
                entries.setdefault(run.store, []).append(entry)
    for store, group in entries.items():
        _put(store, group, unsaved)
    return payloads, unsaved


def _changed(job: Job) -> str | None:
    """Say what has changed since the key of a job was made, so that its result is that of another job."""
    if job.has_changed:
        return (
            f"An argument of {job!r} was changed after the call and before the job began, so it ran with the new "
            f"value, and its result is not kept under the key of the old one. Give each call objects of its own"
        )
    for value, then in job.files:
        if not is_unchanged(value, then):
            return f"{job!r} counts {value} by content, which has changed meanwhile"
    return None


_said: set[str] = set()
"""What was said of the libraries of functions, once in this process."""


def _of_another_library(job: Job, outcome: Outcome) -> str | None:
    """Say why nobody knows that a result is of the versions in its key; nothing where that was said before."""
    libraries = {} if job.edition is None else _libraries_of(job, job.edition.fingerprint)
    if not (outcome.other_versions or libraries):
        return None
    name = qualified_name(job.function)
    if others := outcome.other_versions:
        those = ", ".join(f"{each} {there} instead of {ours}" for each, ours, there in others)
        said = f"The result of {name} is not kept: a worker has {those}. Install the same versions there"
    elif others := other_versions(libraries):
        those = ", ".join(each for each, _, _ in others)
        versions = ", ".join(f"{then} is in the key, and here is {here}" for _, then, here in others)
        said = (
            f"The result of {name} is not kept: {those} was installed, upgraded or removed after this process started, "
            f"which may have loaded another version ({versions}). Start it again"
        )
    else:
        return None
    if said in _said:
        _log.info("%r: %s", job, said)
        return ""
    _said.add(said)
    return said


def _libraries_of(job: Job, fingerprint: Fingerprint) -> Mapping[str, str]:
    if fingerprint.counts_all and job.bound.startswith(WITH_CODE):
        return {**fingerprint.libraries, **libraries_in_arguments()}
    return fingerprint.libraries


def _fail(run: Run, error: BaseException) -> None:
    """Remove the media of a run that failed, and tell those who wait for it in other processes.

    Only the function's own exceptions are theirs as well. When this process was interrupted, or lost its worker, one of
    them runs the job.
    """
    if run.job.media_folder is not None:
        _media.discard(run.job.media_folder)
    is_its_own = isinstance(error, Exception) and not isinstance(error, BencherJobError | CancelledError)
    flights, store, lease = flights_of(run.store), run.store, run.flight.lease
    if is_its_own and lease is not None and lease.held and _is_waited_for(store, lease):
        from .._executors.exceptions import dump_error  # takes long to import

        if flights.take_lease(run.flight) is not None:
            store.publish_failure(lease, dump_error(error, for_same_program=True))
    flights.give_back_lease(run.flight, lambda given_back: _give_back(store, given_back))


def _is_waited_for(store: Store, lease: Lease) -> bool:
    try:
        return store.leases.is_waited_for(lease)
    except LeasesUnavailable as error:
        _log.warning("%s", error)
        return False


def _give_back(store: Store, lease: Lease | None) -> None:
    if lease is not None:
        store.leases.release([lease])


def _put(store: Store, entries: Sequence[Entry], unsaved: list[str]) -> None:
    try:
        store.put_many(entries)
    except Exception as error:  # noqa: BLE001 - whatever a store raises, those who wait get their values
        if not isinstance(error, StoreFailure):
            _log.warning("a store has failed", exc_info=True)
        if len(entries) > 1:  # one of them may be what doesn't fit
            for entry in entries:
                _put(store, [entry], unsaved)
        else:
            (entry,) = entries
            unsaved.append(
                f"The result of {entry.record} can't be kept in {store.directory} ({_told(error)})"
            )
            if isinstance(entry.payload, Deposit) and store.directory is not None:
                discard(store.directory, entry.payload)
            _give_back(store, entry.lease)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, StoreFailure) else error_text(error)


def outcome_of(done: Future[Any]) -> Outcome:
    """Say how the job of any future that is done has ended."""
    if done.cancelled():
        return Outcome(error=CancelledError())
    error = done.exception()
    return Outcome(error=error) if error is not None else Outcome(value=done.result(), started=time.time())
