"""Running jobs of this process, and waiting for jobs of other processes.

Callers of this process that ask for a key at the same time share one `RunningJob`. Its states are drawn in
`coordinator.py`.

    Waiter.look() -> None: another process computes the key; look again soon
                  -> Ended: its value, its exception, or neither, and then the job runs here

The other process may die, stop for long, or fail to store its value. One of the waiters then acquires the lease, and
the others wait for it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from enum import Enum
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from .._context import Surroundings, runs_jobs
from .._executors import Engine, Outcome, inside_worker, is_submitter
from .._future import JobFuture
from .._job import Job
from .._keys.names import load_for
from .._processes import renew_after_fork
from .._stores import Hit, Lease, LeasesUnavailable, Miss, Payload, Store, Wait

if TYPE_CHECKING:
    from .commits import Run


FIRST_PAUSE: Final = 0.001
LONGEST_PAUSE: Final = 0.1
"""Seconds between two looks at a job of another process. The first ones come soon, since many jobs are short."""

PAUSE_PER_SECOND: Final = 0.02
"""The longest pause per second of waiting, so that a wait gets at most two hundredths longer."""

WORKER_PATIENCE: Final = 60.0
"""Seconds that a worker waits for another process. Workers of two programs may wait for jobs that are queued behind
them; then one job runs twice."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class State(Enum):
    """Where a running job is on its way to a result."""

    ASKED = "asked"
    QUEUED = "queued"
    """On an engine that acquires the lease when a worker is free."""
    WAITING = "waiting"
    """Another process has the lease."""
    LEASED = "leased"
    RUNNING = "running"
    """In a thread of this process or on an engine, or between two attempts."""
    COMMITTING = "committing"
    RESOLVED = "resolved"


class RunningJob:
    """A job on its way to a result, and the futures of its callers.

    The first caller is the owner. It gets the value that the function returned, and the others get copies. An owner
    that runs the job in its own thread needs no future.

    Attributes:
        jobs: the running jobs of the store, of which it is one.
        is_in_line: whether the owner's thread runs the job.
        is_fresh: whether a stored result is not an answer.
        replaces: whether the caller wants the result to replace a stored one, on all machines.
        outcome: how the job ended, once that is known.
        lease: the lease of the key, which may not be held.
        waiter: what waits for another process, in the state `WAITING`.
        run: the latest attempt.
        engine: what runs the job, if not the cache's own engine.
        engine_future: the engine's future of the latest attempt.
        ended: for a run that can be cancelled: done when nothing of the run is left.
        attempt: the number of the latest attempt, from 1.
        is_needed_by_worker: whether a job that occupies a worker waits for this one.
        sends_value: whether the worker sends a large value too, because the file that it wrote was lost.
        surroundings: where it was called, unless the owner's thread runs it.
    """

    state = State.ASKED
    outcome: Outcome | None = None
    lease: Lease | None = None
    waiter: Waiter | None = None
    run: Run | None = None
    engine: Engine | None = None
    engine_future: Future[Any] | None = None
    ended: Future[None] | None = None
    attempt = 0
    is_needed_by_worker = False
    sends_value = False
    _cancelling: Engine | None = None

    def __init__(
        self,
        job: Job,
        store: Store,
        jobs: RunningJobs,
        future: JobFuture[Any] | None = None,
        *,
        is_fresh: bool = False,
        surroundings: Surroundings | None = None,
    ) -> None:
        self.job = job
        self.store = store
        self.jobs = jobs
        self.futures = [] if future is None else [future]
        self.is_in_line = future is None
        self.surroundings = surroundings
        self.is_fresh = self.replaces = is_fresh

    def new_lease(self) -> Lease:
        """Make a lease of the key, which is not acquired yet."""
        job = self.job
        return Lease(job.job_key, job.function_name, job.arguments, takes_entry=not self.is_fresh)

    def holds_lease(self) -> bool:
        """Whether the lease of the key is held."""
        return self.lease is not None and self.lease.held

    def release(self) -> None:
        """Release the lease of the key, if it is held."""
        if self.lease is not None and self.lease.held:
            self.store.leases.release([self.lease])
            self.lease = None

    def may_be_stored(self) -> bool:
        """Whether the key had an entry when the lease was acquired, stored perhaps since it was looked up."""
        return self.lease is not None and self.lease.has_entry and not self.is_fresh

    def cancel_by(self, engine: Engine) -> None:
        """Let an engine cancel the run even after it has begun, as a coroutine's can be."""
        self._cancelling = engine
        self.ended = self.ended or Future()

    def cancel(self) -> bool:
        """Cancel the run, if it has not begun or can be cancelled. Return whether it was."""
        if self.engine_future is None:
            return False
        if self._cancelling is None:
            return self.engine_future.cancel()
        return self._cancelling.end(self.engine_future)

    @runs_jobs
    def resolve(self, outcome: Outcome, payload: Payload | None = None) -> None:
        """Resolve all callers: the owner with the value itself, each other one with a copy."""
        self.outcome, self.state = outcome, State.RESOLVED
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)
        if not self.futures:
            return
        owner = None if self.is_in_line else self.futures[0]

        def give(future: JobFuture[Any]) -> None:
            if future.done():  # cancelled, or resolved by a thread that was interrupted then
                future.wake()
            elif outcome.error is not None:
                future.fail(outcome.error)
            elif future is owner:
                future.resolve(outcome.value)
            else:
                future.resolve(_copy_of(outcome.value, payload, self.job.function))

        for_each(self.futures[::-1], give)


class RunningJobs:
    """The running jobs of one store in this process, by key."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start empty in a forked child, which doesn't have the threads that run them."""
        self._lock = threading.Lock()
        self._by_key: dict[str, RunningJob] = {}

    def enter(self, running: RunningJob, future: JobFuture[Any] | None = None) -> RunningJob:
        """Enter a job, unless its key is running already; then the future joins that one. Return the key's job."""
        with self._lock:
            owned = self._by_key.setdefault(running.job.job_key, running)
            if owned is not running and future is not None:
                owned.futures.append(future)
        return owned

    def acquire_after(self, cancelled: RunningJob) -> None:
        """Acquire the lease for a job of the same key that began while a cancelled run still held it and cleaned up."""
        running = self._by_key.get(cancelled.job.job_key)
        if running is not None and running is not cancelled and running.state is State.RUNNING:
            acquire(running.store, [running])

    def has(self, key: str) -> bool:
        """Whether a job of this key is running."""
        return key in self._by_key

    def close_if_idle(self, close: Callable[[], None]) -> None:
        """Close a store unless another cache has running jobs, whose leases would be lost. No job enters until then."""
        with self._lock:
            if not self._by_key:
                close()

    def remove(self, running: RunningJob) -> None:
        """Remove a job, so that no caller joins it any more."""
        key = running.job.job_key
        with self._lock:
            if self._by_key.get(key) is running:
                del self._by_key[key]

    def leave(self, future: JobFuture[Any]) -> bool:
        """Remove a caller that cancels, and cancel the job with the last one. Return whether that was possible."""
        with (
            self._lock
        ):  # also while the engine is asked, so that no caller joins a job that is being cancelled
            key = future.job.job_key
            running = self._by_key.get(key)
            if running is None or future not in running.futures:
                return False
            if running.is_in_line or any(
                not other.done() for other in running.futures if other is not future
            ):
                running.futures.remove(future)
                return True
            if running.waiter is not None:
                running.waiter.give_up()
            elif not running.cancel():
                return False
            future.cancelled_run = None if running.ended is None else running
            del self._by_key[key]
            return True

    def stop_waiting(self, running: RunningJob) -> bool:
        """End the wait for another process. Return False if no caller wants the result any more."""
        with self._lock:
            waiter, running.waiter = running.waiter, None
            return waiter is None or not waiter.is_given_up

    def take_over(self, running: RunningJob) -> bool:
        """Take a job that has not begun from its engine, to run it here. Return whether that was possible."""
        with self._lock:
            running.is_needed_by_worker = True
            run = running.run
            if running.engine_future is None or run is None or run.is_withdrawn or run.is_taken_over:
                return False
            run.is_taken_over = True  # before the cancelled run ends
            run.is_taken_over = running.engine_future.cancel()
            if run.is_taken_over:
                running.engine_future, running.attempt = None, run.attempts_before
            return run.is_taken_over

    def abandon(self, running: RunningJob) -> None:
        """Remove a job that will not run, if it is there."""
        with self._lock:
            running.state = (
                State.RESOLVED
            )  # before its lease is released: its engine may be about to acquire one
            if running.waiter is not None:
                running.waiter.give_up()
            if self._by_key.get(running.job.job_key) is running:
                del self._by_key[running.job.job_key]


_by_store: weakref.WeakKeyDictionary[Store, RunningJobs] = weakref.WeakKeyDictionary()


def running_jobs(store: Store) -> RunningJobs:
    """Return the running jobs that all caches of one store share."""
    known = _by_store.get(store)
    return _by_store.setdefault(store, RunningJobs()) if known is None else known


def for_each(items: Iterable[T], act: Callable[[T], None]) -> None:
    """Call a function with each item, and then raise what the first failing call raised.

    A callback that calls `sys.exit()` must not keep other callers from their results.
    """
    problem: BaseException | None = None
    for item in items:
        try:
            act(item)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            problem = problem or error
    if problem is not None:
        raise problem


def _copy_of(value: object, payload: Payload | None, function: object) -> object:
    """Return a copy of a value, or the value itself if it can't be pickled or read back."""
    if payload is None:
        return value
    try:
        return load_for(function, payload.load)
    except Exception:  # noqa: BLE001 - a class's own unpickling; the next hit warns and runs the job again
        return value


class Ended(NamedTuple):
    """How a job of another process ended; without `hit` and `error` it is to run here, under its lease if possible.

    Attributes:
        hit: the stored value.
        error: the pickled exception.
    """

    hit: Hit | None = None
    error: bytes | None = None


RUN_HERE: Final = Ended()


class Waiter:
    """Waits until another process has computed a key, or acquires the lease when that process stores no result.

    Attributes:
        due: when to look again, by the monotonic clock.
        is_given_up: whether no caller wants the result any more.
        wake: put something into it to wake the waiting thread.
    """

    def __init__(
        self, store: Store, lease: Lease, wait: Wait | None = None, patience: float = math.inf
    ) -> None:
        self._store = store
        self._lease = lease
        self._key = lease.key
        self._wait = store.leases.wait(lease) if wait is None else wait
        self._since = time.monotonic()
        self._until = self._since + patience
        self.is_given_up = False
        self.wake: SimpleQueue[None] = SimpleQueue()
        self.due = 0.0

    def give_up(self) -> None:
        """Stop waiting at once."""
        self.is_given_up = True
        self.wake.put(None)

    def look(self) -> Ended | None:
        """Look at the state of the job. Return None while the other process computes it."""
        if self.is_given_up:
            return RUN_HERE
        try:
            found = self._wait.look()
            if found == "free":
                return self._after_its_end()
        except LeasesUnavailable as error:
            _log.warning("%s; the job of %s runs here as well", error, self._key)
            self._store.tally.unleased += 1
            return RUN_HERE
        if isinstance(found, bytes):
            return Ended(error=found)
        if time.monotonic() > self._until:
            _log.warning("a worker waited long enough for %s, and computes it as well", self._key)
            return RUN_HERE
        return None

    def wait(self) -> Ended:
        """Wait in this thread."""
        while (ended := self.look()) is None:
            _sleep(self.wake, self.pause())
        return ended

    def pause(self) -> float:
        """Return the seconds until the next look."""
        waited = time.monotonic() - self._since
        return min(max(FIRST_PAUSE, waited * PAUSE_PER_SECOND), LONGEST_PAUSE)

    def _after_its_end(self) -> Ended | None:
        hit = self._store.get(self._key)
        if not isinstance(hit, Miss):
            return Ended(hit)
        self._store.leases.acquire([self._lease])
        if not self._lease.held:
            return None  # another waiter was quicker
        if self._lease.has_entry:
            hit = self._store.get(self._key)
            if not isinstance(hit, Miss):
                return Ended(hit)
        return RUN_HERE


def _sleep(wake: SimpleQueue[None], seconds: float) -> None:
    """Sleep until something is put into a queue. Unlike an event's, its lock can't stay locked after Ctrl-C."""
    try:
        wake.get(timeout=seconds)
        while True:
            wake.get_nowait()
    except Empty:
        return


def acquire_or_wait(running: RunningJob) -> Waiter | None:
    """Acquire the lease of a job that is to run now. Return a waiter if another process has it.

    A worker doesn't wait for the process that it works for: there the job may be queued behind the worker's own.
    """
    store = running.store
    running.lease = lease = running.new_lease()
    try:
        store.leases.acquire([lease])
        if not lease.held and not running.may_be_stored():
            wait = store.leases.wait(lease)
            wait.look()
            owner = wait.owner
            if owner is None or not is_submitter(owner.host, owner.pid):
                return Waiter(store, lease, wait, WORKER_PATIENCE if inside_worker() else math.inf)
    except LeasesUnavailable as error:
        _log.warning("%s; the job of %s runs, even if another process computes it", error, lease.key)
        store.tally.unleased += 1
    return None


def acquire(store: Store, jobs: Sequence[RunningJob]) -> list[RunningJob]:
    """Acquire the leases of jobs of one store that begin together. Return those whose keys other processes have."""
    leases = []
    for running in jobs:
        running.lease = lease = running.new_lease()
        leases.append(lease)
    try:
        store.leases.acquire(leases)
    except LeasesUnavailable as error:
        _log.warning("%s; the jobs run, even if other processes compute them", error)
        store.tally.unleased += sum(not lease.held for lease in leases)
        return []
    return [running for running in jobs if not (running.holds_lease() or running.may_be_stored())]


def taken(store: Store, jobs: Sequence[RunningJob]) -> set[str]:
    """Return the keys of jobs of one store that other processes compute, as far as that is known."""
    try:
        return store.leases.taken([running.job.job_key for running in jobs])
    except LeasesUnavailable as error:
        _log.warning("%s", error)
        return set()


class WaiterThread:
    """Looks at the jobs of other processes for callers that don't block, in one thread that runs as long as needed.

    Its threads are in `resolving` while they resolve futures.
    """

    def __init__(self, resolving: set[int], name: str) -> None:
        self._resolving = resolving
        self._name = name
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start empty in a forked child."""
        self._lock = threading.Lock()
        self._waiters: dict[Waiter, Callable[[Ended], None]] = {}
        self._thread: threading.Thread | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()

    def add(self, waiter: Waiter, go_on: Callable[[Ended], None]) -> None:
        """Add a waiter. The thread calls `go_on`, which must not raise, when the job has ended."""
        waiter.wake = self._wake
        with self._lock:
            self._waiters[waiter] = go_on
            if self._thread is None or not self._thread.is_alive():
                self._thread = self._start(self._run)
        self._wake.put(None)

    def _start(self, act: Callable[..., None], *given: Any) -> threading.Thread:
        thread = threading.Thread(target=self._act, args=(act, given), name=self._name, daemon=True)
        thread.start()
        return thread

    def _act(self, act: Callable[..., None], given: tuple[Any, ...]) -> None:
        self._resolving.add(threading.get_ident())
        try:
            act(*given)
        finally:
            self._resolving.discard(threading.get_ident())

    def _all(self) -> list[tuple[Waiter, Callable[[Ended], None]]]:
        with self._lock:
            if not self._waiters:
                self._thread = None
            return list(self._waiters.items())

    def _run(self) -> None:
        while waiters := self._all():
            now, pause = time.monotonic(), LONGEST_PAUSE
            for waiter, go_on in waiters:
                if waiter.due > now and not waiter.is_given_up:
                    pause = min(pause, waiter.due - now)
                    continue
                ended = waiter.look()
                if ended is None:
                    pause = min(pause, waiter.pause())
                    waiter.due = now + waiter.pause()
                    continue
                with self._lock:
                    is_first = self._waiters.pop(waiter, None) is not None
                if is_first:
                    self._tell(go_on, ended)
            _sleep(self._wake, pause)

    def _tell(self, go_on: Callable[[Ended], None], ended: Ended) -> None:
        """Report the end of a job, in another thread if that unpickles something, which may hang."""
        if ended is not RUN_HERE:
            try:
                self._start(go_on, ended)
            except RuntimeError:  # the program ends
                go_on(ended)
        else:
            go_on(ended)
