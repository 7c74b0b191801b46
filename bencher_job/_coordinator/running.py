"""Running jobs of this process, and the callers that wait for them.

    turn_or_wait ─> Turn: run the job, and commit under the claim
                 └> Waiting ── look, again and again ─> Hit | Raised | Turn

The owner of a key that dies leaves its turn to one of those who wait; so does one that was stopped for long. Of all who
wait for a key one looks often, and the others look when that one has seen something.

board(future) -> leads: runs the job, commits, and lands the flight
              -> joins: waits for the one who leads
"""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from .._executors import Engine, is_submitter
from .._future import InLineResult, JobFuture
from .._inside import runs_jobs
from .._job import Job
from .._keys.names import seen_by
from .._processes import renew_after_fork
from .._stores import Hit, Lease, LeasesUnavailable, Miss, Payload, Store, Wait

__all__ = [
    "GIVEN_UP",
    "PROCEED",
    "Asker",
    "Ended",
    "Flight",
    "Flights",
    "GivenUp",
    "Proceed",
    "Raised",
    "Standby",
    "Waiting",
    "flights_of",
    "for_each",
    "lease_or_wait",
]


SHORTEST_PAUSE: Final = 0.001
LONGEST_PAUSE: Final = 0.1
"""Seconds between two looks: the first comes soon, since many a job is short."""

PAUSE_PER_SECOND: Final = 0.02
"""How long a pause is at most for each second that was waited, so that a wait gets two hundredths longer by it."""

WORKER_PATIENCE: Final = 60.0
"""Seconds that a worker waits for another process at most. Two programs' workers could wait for jobs that are queued
behind them; then one job runs twice."""

_log = logging.getLogger(__name__)


class Proceed:
    """The type of `PROCEED`."""


PROCEED: Final = Proceed()
"""The job is to run now, under its lease; without one where leases are unavailable."""


class Raised:
    """The job raised in the other process; its exception, pickled."""

    def __init__(self, error: bytes) -> None:
        self.error = error


class GivenUp:
    """The type of `GIVEN_UP`."""


GIVEN_UP: Final = GivenUp()
"""Nobody waits any more."""

Ended = Hit | Raised | Proceed | GivenUp


class Waiting:
    """One job that another process computes; its lease is acquired when that process has not stored a result.

    Attributes:
        news: set when it is worth another look at once.
        due: when it is worth another look, by the monotonic clock.
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
        self.news = threading.Event()
        self.due = 0.0

    def give_up(self) -> None:
        """Wait no more: the next look, which comes at once, says so."""
        self.is_given_up = True
        self.news.set()

    def look(self) -> Ended | None:
        """Look how the job stands; None while the other process is at it."""
        if self.is_given_up:
            return GIVEN_UP
        try:
            found = self._wait.look()
            if found == "free":
                return self._after_its_end()
        except LeasesUnavailable as error:
            _log.warning("%s; the job of %s runs here as well", error, self._key)
            self._store.tally.unleased += 1
            return PROCEED
        if isinstance(found, bytes):
            return Raised(found)
        if time.monotonic() > self._until:
            _log.warning("a worker waited long enough for %s, and computes it as well", self._key)
            return PROCEED
        return None

    def until_it_ends(self) -> Ended:
        """Wait in this thread."""
        while (ended := self.look()) is None:
            self.news.wait(self.pause())
            self.news.clear()
        return ended

    def pause(self) -> float:
        """Give the seconds until it is worth another look, unless there is news before."""
        waited = time.monotonic() - self._since
        return min(max(SHORTEST_PAUSE, waited * PAUSE_PER_SECOND), LONGEST_PAUSE)

    def _after_its_end(self) -> Ended | None:
        hit = self._store.get(self._key)
        if not isinstance(hit, Miss):
            return hit
        self._store.leases.acquire([self._lease])
        if not self._lease.held:
            return None  # another one was quicker
        if self._lease.has_entry:
            hit = self._store.get(self._key)
            if not isinstance(hit, Miss):
                return hit
        return PROCEED


def lease_or_wait(store: Store, lease: Lease, *, in_worker: bool) -> Waiting | None:
    """Acquire the lease of a job that is to run, or wait for the process that has its key.

    A worker doesn't wait for the process that it works for: the job may be queued behind its own.
    """
    leases = store.leases
    try:
        leases.acquire([lease])
        if lease.held:
            return None
        wait = leases.wait(lease)
        wait.look()
        owner = wait.owner
        if owner is not None and is_submitter(owner.host, owner.pid):
            return None
        return Waiting(store, lease, wait, WORKER_PATIENCE if in_worker else math.inf)
    except LeasesUnavailable as error:
        _log.warning("%s; the job of %s runs, even if another process computes it", error, lease.key)
        store.tally.unleased += 1
        return None


class Standby:
    """Looks after the jobs of a cache that wait while their threads don't, in a thread of its own as long as needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have nobody wait, as in a forked child."""
        self._lock = threading.Lock()
        self._waiting: list[tuple[Waiting, Callable[[Ended], None]]] = []
        self._is_running = False
        self._threads: set[int] = set()
        self._news = threading.Event()

    def is_here(self) -> bool:
        """Whether this is a thread of its own, which must not wait for what it will end itself."""
        return threading.get_ident() in self._threads

    def add(self, waiting: Waiting, go_on: Callable[[Ended], None]) -> None:
        """Have somebody wait; `go_on` is called in the thread, and must not raise."""
        with self._lock:
            waiting.news = self._news
            self._waiting.append((waiting, go_on))
            self._news.set()
            if not self._is_running:
                self._is_running = True
                self._start(self._run)

    def _start(self, act: Callable[..., None], *given: Any) -> None:
        threading.Thread(target=self._act, args=(act, given), name=self._name, daemon=True).start()

    def _act(self, act: Callable[..., None], given: tuple[Any, ...]) -> None:
        self._threads.add(threading.get_ident())
        try:
            act(*given)
        finally:
            self._threads.discard(threading.get_ident())

    def _tell(self, go_on: Callable[[Ended], None], ended: Ended) -> None:
        """Tell one who waited how that has ended; apart from the others if that unpickles something, which may hang."""
        if isinstance(ended, Hit | Raised):
            try:
                self._start(go_on, ended)
            except RuntimeError:  # the program ends
                go_on(ended)
        else:
            go_on(ended)

    def _all_waiting(self) -> list[tuple[Waiting, Callable[[Ended], None]]]:
        with self._lock:
            self._is_running = bool(self._waiting)
            return list(self._waiting)

    def _remove(self, one: tuple[Waiting, Callable[[Ended], None]]) -> None:
        with self._lock:
            self._waiting.remove(one)

    def _run(self) -> None:
        while waiting := self._all_waiting():
            now, pause = time.monotonic(), LONGEST_PAUSE
            for one in waiting:
                if one[0].due > now and not one[0].is_given_up:
                    pause = min(pause, one[0].due - now)
                    continue
                ended = one[0].look()
                if ended is None:
                    pause = min(pause, one[0].pause())
                    one[0].due = now + one[0].pause()
                    continue
                self._remove(one)
                self._tell(one[1], ended)
            self._news.wait(pause)
            self._news.clear()


T = TypeVar("T")

Asker = JobFuture[Any] | InLineResult
"""What the result of a job is given to."""


class Flight:
    """One run of a job, and the futures of all who asked for it; the first of them leads."""

    lease: Lease | None = None
    """The lease of its key, which may not be held; None where its store has none, or another flight took it over."""
    waiting: Waiting | None = None
    engine: Engine | None = None
    """What runs it, where that isn't its cache's own engine."""
    engine_future: Future[Any] | None = None
    ends_runs: Engine | None = None
    """What ends its run when nobody waits any more, also when it has begun; None where it then goes on."""
    landed: Future[None] | None = None
    """Done when nothing of the run is left, of one that can be ended."""
    is_taken_over = False
    has_run = False
    """Whether a run of the job has ended, so that the next one is a repetition."""
    is_needed_by_worker = False
    """Whether a job that itself takes a worker's place waits for this one."""
    sends_value = False
    """Whether its worker sends a large value too, as the file that one has written was lost."""
    attempt = 0
    """Which run of the job this is, from 1."""
    is_abandoned = False
    """Whether nobody will hear of its end, after an interrupt or where its engine takes no job."""
    is_fresh = False
    """Whether its result replaces what is remembered."""

    def __init__(self, future: Asker, flights: Flights | None = None) -> None:
        self._flights = flights
        self.job: Job = future.job
        self.futures: list[Asker] = [future]

    def land(self) -> None:
        """End this flight: from now on nobody joins it."""
        if self._flights is not None:
            self._flights.land(self)
        self._tell_of_landing()

    def holds_lease(self) -> bool:
        """Whether it has acquired the lease of its key."""
        return self.lease is not None and self.lease.held

    def may_be_stored(self) -> bool:
        """Whether its result, if it is not to be replaced, has been stored since it was looked up."""
        return self.lease is not None and self.lease.has_entry and not self.is_fresh

    def inherit_lease(self) -> bool:
        """Take the lease of a flight of this key that was cancelled and has not ended yet; whether there was one."""
        return self._flights is not None and self._flights.hand_on_lease(self)

    def _tell_of_landing(self) -> None:
        if self.landed is not None and not self.landed.done():
            self.landed.set_result(None)

    def may_be_ended_by(self, engine: Engine) -> None:
        """Say what ends the run when nobody waits any more, also when it has begun."""
        self.ends_runs = engine
        self.landed = self.landed or Future()

    def end(self) -> bool:
        """Cancel the run, which may have begun where somebody can end it; whether it could be."""
        if self.engine_future is None:
            return False
        return (
            self.engine_future.cancel() if self.ends_runs is None else self.ends_runs.end(self.engine_future)
        )

    def take_lease(self) -> Lease | None:
        """Take the lease away, to give it back or to another flight."""
        lease, self.lease = self.lease, None
        return lease

    @runs_jobs
    def resolve(self, value: object, payload: Payload | None) -> None:
        """Give the value to the one who leads, and to each other a copy of its own where it has been pickled."""
        first = self.futures[0]
        for_each(
            self.futures[::-1],
            lambda future: future.resolve(
                value if future is first else _copy_of(value, payload, self.job.function)
            ),
        )

    @runs_jobs
    def fail(self, error: BaseException) -> None:
        """Give the exception to all."""
        self._tell_of_landing()
        for_each(self.futures, lambda future: future.fail(error))


class Flights:
    """The flights of one store's keys in this process."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget all flights, whose threads a forked child doesn't have."""
        self._lock = threading.Lock()
        self._by_key: dict[str, Flight] = {}
        self._left: dict[str, Flight] = {}

    def board(self, future: JobFuture[Any], engine: Engine | None = None) -> tuple[Flight, bool]:
        """Join the flight of a future's key, or begin one on an engine of its own; also whether it was begun."""
        with self._lock:
            flight = self._by_key.get(future.job.job_key)
            if flight is None:
                flight = self._by_key[future.job.job_key] = Flight(future, self)
                flight.engine = engine
                return flight, True
            flight.futures.append(future)
            return flight, False

    def begin(self, result: InLineResult) -> Flight | None:
        """Begin a flight that runs in line; None where one of its key is there already, which is to be joined."""
        key = result.job.job_key
        with self._lock:
            if key in self._by_key:
                return None
            flight = self._by_key[key] = Flight(result, self)
            return flight

    def board_many(
        self, futures: Sequence[JobFuture[Any]], leading: list[Flight]
    ) -> list[tuple[JobFuture[Any], Flight]]:
        """Join or begin the flights of futures; those that were begun are appended, those that were joined given.

        Whoever is interrupted meanwhile finds all that were begun.
        """
        joined = []
        with self._lock:
            for future in futures:
                key = future.job.job_key
                flight = self._by_key.get(key)
                if flight is None:
                    flight = Flight(future, self)
                    leading.append(flight)
                    self._by_key[key] = flight
                else:
                    flight.futures.append(future)
                    joined.append((future, flight))
        return joined

    def has(self, key: str) -> bool:
        """Whether a job of this key is in flight."""
        return key in self._by_key

    def close_if_idle(self, close: Callable[[], None]) -> None:
        """Have a store closed unless a job of another cache is in flight, whose lease would be given up with it.

        Nobody boards meanwhile.
        """
        with self._lock:
            if not self._by_key:
                close()

    def land(self, flight: Flight) -> None:
        """Forget a flight."""
        key = flight.job.job_key
        with self._lock:
            if self._by_key.get(key) is flight:
                del self._by_key[key]
            if self._left and self._left.get(key) is flight:
                del self._left[key]

    def hand_on_lease(self, flight: Flight) -> bool:
        """Give a flight the lease of one of its key that was cancelled and has not ended yet; whether there was one.

        Else the key would be without a lease when that one ends, and another process would run the job as well.
        """
        if not self._left:  # as is seldom otherwise; whoever has begun a flight sees who has left one before
            return False
        with self._lock:
            left = self._left.pop(flight.job.job_key, None)
            if left is None or left.lease is None:
                return False
            flight.lease = left.take_lease()
            return True

    def take_lease(self, flight: Flight) -> Lease | None:
        """Take the lease of a flight away, unless another flight has it by now."""
        with self._lock:
            return flight.take_lease()

    def give_back_lease(self, flight: Flight, give_back: Callable[[Lease], None]) -> None:
        """Have the lease of a flight whose job has failed given back, unless another flight has it by now.

        A caller that asks for the key in that time waits, and acquires the lease then.
        """
        with self._lock:
            lease = flight.take_lease()
            if lease is not None:
                give_back(lease)

    def leave(self, future: JobFuture[Any]) -> bool:
        """Let one who waits give up; the last one takes the job with it, if it has not begun. Whether that was so."""
        with self._lock:  # also while the engine is asked, so that nobody joins what is being cancelled
            flight = self._by_key.get(future.job.job_key)
            if flight is None or future not in flight.futures:
                return False
            if len(flight.futures) > 1:
                flight.futures.remove(future)
                return True
            if flight.waiting is not None:
                flight.waiting.give_up()
            elif flight.engine_future is None or not flight.end():
                return False
            future.took_along = None if flight.landed is None else flight
            del self._by_key[future.job.job_key]
            if flight.holds_lease() and flight.waiting is None:
                self._left[future.job.job_key] = flight
            return True

    def go_on(self, flight: Flight) -> bool:
        """End the wait of a flight for another process; False when nobody waits for it any more."""
        with self._lock:
            is_given_up = flight.waiting is not None and flight.waiting.is_given_up
            flight.waiting = None
            return not is_given_up

    def take_over(self, flight: Flight) -> bool:
        """Take a job that has not begun from its engine, to run it here; whether that was possible."""
        with self._lock:
            flight.is_needed_by_worker = True
            if flight.engine_future is None or flight.is_taken_over:
                return False
            flight.is_taken_over = True
            if not flight.engine_future.cancel():
                flight.is_taken_over = False
            return flight.is_taken_over

    def wait_in_line(self, flight: Flight, waiting: Future[Any]) -> None:
        """Have a job wait that is to run again; to cancel what stands for its run is to cancel the job."""
        with self._lock:
            flight.engine_future = waiting

    def abandon(self, future: Asker, error: BaseException) -> Lease | None:
        """End the flight that a future leads, if it does, because nobody will run its job any more; give its lease."""
        with self._lock:
            flight = self._by_key.get(future.job.job_key)
            if flight is None or flight.futures[0] is not future:
                return None
            del self._by_key[future.job.job_key]
            flight.is_abandoned = True  # before its lease is released: its engine may be about to acquire one
            if flight.waiting is not None:
                flight.waiting.give_up()
        flight.fail(error)
        return flight.lease


def for_each(items: Iterable[T], act: Callable[[T], None]) -> None:
    """Do something with all items, and only then raise what the first that failed has raised.

    A callback that calls `sys.exit()` must not keep others from their results.
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
    """Make one's own copy of a value; one that can't be pickled, or not be read back, is shared."""
    if payload is None:
        return value
    try:
        with seen_by(function):
            return payload.load()
    except Exception:  # noqa: BLE001 - a class's own unpickling; the next hit warns of it and runs the job again
        return value


_flights_by_store: weakref.WeakKeyDictionary[Store, Flights] = weakref.WeakKeyDictionary()


def flights_of(store: Store) -> Flights:
    """Give the flights that all caches on one store share."""
    known = _flights_by_store.get(store)
    return (
        _flights_by_store.setdefault(store, Flights()) if known is None else known
    )  # one step for other threads
