"""Answer a job that is not remembered: run it once, wherever it is asked for.

run ─> in flight here? join it
    └> claimed by another process? wait for its end
    └> run it
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Final

from .. import _media
from .._errors import BencherJobError, warn_caller
from .._executors import inside_worker
from .._future import InLineResult, JobFuture
from .._inside import critical
from .._job import Job
from .._keys.names import seen_by
from .._loops import Caller
from .._stores import MISS, Hit, Lease, LeasesUnavailable, Miss, Store
from .commits import UNLOADABLE, Counts, Start
from .running import Ended, Flight, Proceed, Raised, Standby, Waiting, flights_of, lease_or_wait
from .runs import Runs, finish_at_exit

__all__ = ["Runner", "load", "warn_unloadable"]


_log = logging.getLogger(__name__)

ROOM: Final = 40
"""Frames that are left when a job begins, so that it can be given up wherever it fails."""


def load(key: str, hit: Hit, function: object = None) -> Any:
    """Unpickle what was found of a key, or give `MISS` with a warning.

    `function` is the job's, where its module may be an imported copy of the program that runs.
    """
    try:
        if function is None:
            return hit.load()
        with seen_by(function):
            return hit.load()
    except Exception as error:  # noqa: BLE001 - a class that is gone or has changed raises what it likes
        warn_unloadable(key, error)
        return MISS


def warn_unloadable(key: str, error: Exception) -> None:
    """Warn that the value of an entry can't be unpickled here, once until its job has run again.

    The same entry may be met in memory, on the disk, and once more before the job begins.
    """
    if key in UNLOADABLE:
        return
    UNLOADABLE.add(key)
    warn_caller(
        f"The entry {key} can't be unpickled ({type(error).__name__}: {error}), so its job runs again. "
        f"Has a class of its value moved?"
    )


class Runner:
    """Sees to it that each job of one cache runs once, wherever it is asked for.

    Attributes:
        runs: what runs those that are not in flight already.
    """

    def __init__(self, name: str, counts: Counts, runs: Runs, *, mapped: bool) -> None:
        self.runs = runs
        runs.asked = self
        self._counts = counts
        self._mapped = mapped
        self._standby = Standby(f"bencher_job-standby-{name}")

    def resolves_here(self) -> bool:
        """Whether this thread resolves futures, as in a callback of one: it can't wait for others that it resolves."""
        return self.runs.is_writing() or self._standby.is_here()

    @critical
    def run(
        self,
        job: Job,
        store: Store,
        *,
        fresh: bool = False,
        here: bool = False,
        caller: Caller | None = None,
    ) -> JobFuture[Any]:
        """Join the job in flight or run it, on the engine or `here`.

        A `fresh` job replaces what is remembered. For a `caller` in an event loop, who is not here, it runs where that
        loop goes on meanwhile.

        Raises:
            BencherJobError: when the executor can't take jobs, or the job waits for itself.
        """
        _refuse_to_begin_without_room()
        _refuse_to_wait_for_itself(job)
        flights = flights_of(store)
        future: JobFuture[Any] = JobFuture.pending(job, flights.leave, self.resolves_here)
        engine = None if caller is None else self.runs.engines.beside_loop(job)
        try:
            flight, leads = flights.board(future, engine)
            if flight.engine is not None:
                flight.engine.join(future, caller)
            if leads:
                self._lead(flight, store, fresh=fresh, here=here)
            else:
                self._counts.joined()
                if inside_worker() and flights.take_over(flight):  # its place may be behind this very job
                    self._counts.set_aside(1)
                    flight.engine = engine
                    self._lead(flight, store, fresh=flight.is_fresh, here=False)
        except BaseException as error:
            self.runs.abandon(future, store, error)
            raise
        return future

    @critical
    def run_in_line(self, job: Job, store: Store, *, fresh: bool = False) -> InLineResult | None:
        """Run a job in this thread, for one who does nothing but wait for it; None where it is in flight already.

        Raises:
            BencherJobError: when the job waits for itself.
        """
        _refuse_to_begin_without_room()
        _refuse_to_wait_for_itself(job)
        result = InLineResult(job)
        try:
            flight = flights_of(store).begin(result)
            if flight is None:
                return None
            self._lead(flight, store, fresh=fresh, here=True)
        except BaseException as error:
            self.runs.abandon(result, store, error)
            raise
        return result

    @critical
    def run_many(self, jobs: Sequence[Job], store: Store, *, fresh: bool = False) -> list[JobFuture[Any]]:
        """Join those in flight, and run the others on the engine: leased, looked up and handed out together.

        Raises:
            BencherJobError: when the executor can't take jobs.
        """
        _refuse_to_begin_without_room()
        flights = flights_of(store)
        leave, resolves_here = flights.leave, self.resolves_here
        futures: list[JobFuture[Any]] = [JobFuture.pending(job, leave, resolves_here) for job in jobs]
        leading: list[Flight] = []
        try:
            for future, flight in flights.board_many(futures, leading):
                if flight.engine is not None:
                    flight.engine.join(future, None)
                self._counts.joined()
            self._lead_many(leading, store, fresh=fresh)
        except BaseException as error:
            for flight in leading:
                if flight.engine_future is None and flight.waiting is None:
                    self.runs.abandon(flight.futures[0], store, error)
            raise
        return futures

    def _lead_many(self, flights: Sequence[Flight], store: Store, *, fresh: bool) -> None:
        for flight in flights:
            flight.is_fresh = fresh
        if self.runs.engines.own.asks_to_begin:
            self._queue(flights, store)
            return
        ours, others = _leased(store, flights) if store.keeps else (list(flights), [])
        stored = [flight for flight in ours if flight.may_be_stored()]
        if stored:
            found = store.get_many([flight.job.job_key for flight in stored], mapped=self._mapped)
            landed = {
                flight
                for flight in stored
                if (hit := found.get(flight.job.job_key)) is not None and self._land_on(hit, flight, store)
            }
            ours = [flight for flight in ours if flight not in landed]
        self.runs.start_many(ours, store)
        for flight in others:
            self._lead(flight, store, fresh=fresh, here=False)

    def _queue(self, flights: Sequence[Flight], store: Store) -> None:
        """Submit jobs to an engine that asks before it begins each, but for those that other processes compute."""
        taken = _taken(store, flights) if store.keeps else set()
        self.runs.start_many([flight for flight in flights if flight.job.job_key not in taken], store)
        for flight in flights:
            if flight.job.job_key in taken:
                self._stand_by(flight, store)

    def _lead(self, flight: Flight, store: Store, *, fresh: bool, here: bool) -> None:
        """Run a flight's job, or have it wait for the process that computes its key."""
        in_worker = inside_worker()
        here = here or (flight.engine is None and (in_worker or self.runs.engines.is_serial))
        flight.is_fresh = fresh
        if not here and self._engine_asks(flight):
            self._queue([flight], store)
            return
        waiting = None
        if store.keeps and not flight.holds_lease() and not flight.inherit_lease():
            flight.lease = lease = Lease(flight.job.job_key, flight.job.function_name)
            waiting = lease_or_wait(store, lease, in_worker=in_worker)
        if waiting is None:
            hit = store.get(flight.job.job_key, mapped=self._mapped) if flight.may_be_stored() else MISS
            if isinstance(hit, Miss) or not self._land_on(hit, flight, store):
                self.runs.start(flight, store, here=here)
        elif here:
            self._go_on(flight, store, waiting.until_it_ends(), here=here)
        else:
            self._stand_by(flight, store, waiting)

    def _engine_asks(self, flight: Flight) -> bool:
        """Whether the lease of a flight is acquired when its engine begins the job."""
        return (flight.engine or self.runs.engines.own).asks_to_begin

    def _land_on(self, hit: Hit, flight: Flight, store: Store) -> bool:
        """End a flight with what another one has computed meanwhile; False where that can't be read."""
        value = load(flight.job.job_key, hit, flight.job.function)
        if value is MISS:
            return False
        self._counts.hit(hit.seconds)
        self._release(flight, store)
        flight.land()
        flight.futures[0].cached = True
        flight.resolve(value, hit.payload)
        return True

    @staticmethod
    def _release(flight: Flight, store: Store) -> None:
        if flight.lease is not None and flight.lease.held:
            store.leases.release([flight.lease])

    def _stand_by(self, flight: Flight, store: Store, waiting: Waiting | None = None) -> None:
        """Have a flight wait for another process, without a thread of its own."""
        if waiting is None:
            flight.lease = lease = Lease(flight.job.job_key, flight.job.function_name)
            waiting = Waiting(store, lease)
        flight.waiting, flight.job = waiting, flight.job.snapshot()
        self.runs.expect(1)
        finish_at_exit(self.runs)

        def go_on(ended: Ended) -> None:
            try:
                self._go_on(flight, store, ended, here=False)
            except BaseException as error:  # noqa: BLE001 - an engine that takes no job: whoever waits is told
                self.runs.abandon(flight.futures[0], store, error)
            finally:
                self.runs.count_landed(1)

        self._standby.add(waiting, go_on)

    def begin(self, starts: Sequence[Start]) -> list[bool]:
        """Acquire the leases of flights whose jobs an engine is about to begin; whether each is to run."""
        by_store: dict[Store, list[Flight]] = {}
        for start in starts:
            if not (start.flight.holds_lease() or start.flight.inherit_lease()):
                by_store.setdefault(start.store, []).append(start.flight)
        left = set[Flight]()
        for store, flights in by_store.items():
            _, others = _leased(store, flights)
            stored = [each for each in flights if each.may_be_stored()]
            abandoned = [each for each in flights if each.is_abandoned]
            store.leases.release([each.lease for each in (*stored, *abandoned) if each.lease is not None])
            left.update(others, stored, abandoned)
        for start in starts:
            start.is_set_aside = start.flight in left
            if start.is_set_aside and not start.flight.is_abandoned:
                self._counts.set_aside(1)
                self._stand_by(start.flight, start.store)
        return [not start.is_set_aside for start in starts]

    def _go_on(self, flight: Flight, store: Store, ended: Ended, *, here: bool) -> None:
        """End a flight as its job has ended in another process, or run it if that has died."""
        if not flights_of(store).go_on(flight):
            self._release(flight, store)
        elif isinstance(ended, Proceed):
            if flight.holds_lease() and not here and self._engine_asks(flight):
                self._release(flight, store)  # until the job begins
            self.runs.start(flight, store, here=here)
        elif isinstance(ended, Raised):
            self._fail_as(ended, flight, store, here=here)
        elif isinstance(ended, Hit) and not self._land_on(ended, flight, store):
            self._lead(flight, store, fresh=True, here=here)

    def _fail_as(self, raised: Raised, flight: Flight, store: Store, *, here: bool) -> None:
        """End a flight with the exception of another process; one that can't be read here is raised anew."""
        from .._executors.exceptions import load_error  # takes long to import

        try:
            error = load_error(raised.error)
        except Exception as problem:  # noqa: BLE001 - a class's own unpickling can raise anything
            _log.warning("the exception of %s can't be unpickled here: %s", flight.job, problem)
            self._lead(flight, store, fresh=True, here=here)
        else:
            self._counts.failed(elsewhere=True)
            flight.land()
            flight.fail(error)


def _refuse_to_begin_without_room() -> None:
    """Refuse to begin what could not be ended: where the stack is full, giving up a job fails as its run does."""
    try:
        sys._getframe(sys.getrecursionlimit() - ROOM)  # noqa: SLF001 - the one way to ask that takes no time
    except ValueError:  # the stack is not that deep
        return
    raise RecursionError(
        "maximum recursion depth exceeded: a cached call takes some frames of its own. Recurse less deep, or raise "
        "the limit with sys.setrecursionlimit()."
    )


def _refuse_to_wait_for_itself(job: Job) -> None:
    if job.job_key in _media.running_keys():
        raise BencherJobError(
            f"{job!r} asks for its own result while it runs, so it would wait for itself for ever."
        )


def _leased(store: Store, flights: Sequence[Flight]) -> tuple[list[Flight], list[Flight]]:
    """Acquire the leases of flights; gives the flights that may run, and those whose keys other processes have."""
    leases = []
    for flight in flights:
        flight.lease = Lease(flight.job.job_key, flight.job.function_name)
        leases.append(flight.lease)
    try:
        store.leases.acquire(leases)
    except LeasesUnavailable as error:
        _log.warning("%s; the jobs run, even if other processes compute them", error)
        store.tally.unleased += sum(not lease.held for lease in leases)
        return list(flights), []
    ours = [flight for flight, lease in zip(flights, leases, strict=True) if lease.held]
    others = [flight for flight, lease in zip(flights, leases, strict=True) if not lease.held]
    return ours, others


def _taken(store: Store, flights: Sequence[Flight]) -> set[str]:
    """Give the keys of flights that other processes compute, as far as that can be known."""
    try:
        return store.leases.taken([flight.job.job_key for flight in flights])
    except LeasesUnavailable as error:
        _log.warning("%s", error)
        return set()
