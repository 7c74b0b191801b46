"""Knows how a job that is not remembered runs: once, wherever it is asked for, and committed before it is told.

run ─> in flight here? join it
└─> claimed by another process? wait for its end
└─> engine, or this thread ─> Landing ─> commit ─> resolve
└─ writer: one thread commits what comes back from engines, in groups
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from . import _media
from ._counts import Counts
from ._errors import BencherJobError, warn_caller
from ._executors import Engine, Executors, engine_for, executor_name, inside_worker, run_inline
from ._exit import finish_at_exit
from ._flights import Flight, flights_of
from ._forks import renew_after_fork
from ._future import JobFuture
from ._job import Job
from ._landing import Keeping, Landing, Returned, Run, commit, outcome_of
from ._standby import Ended, Raised, Standby, Turn, Waiting, turn_or_wait
from ._stores import MISS, Hit, Miss, Store
from ._writer import Writer

if TYPE_CHECKING:
    from ._origin import GitState

__all__ = ["Runner", "load", "warn_unloadable"]

_log = logging.getLogger(__name__)


def load(key: str, hit: Hit) -> Any:
    """Unpickle what was found of a key, or give `MISS` with a warning."""
    try:
        return hit.load()
    except Exception as error:  # noqa: BLE001 - a class that is gone or has changed raises what it likes
        warn_unloadable(key, error)
        return MISS


def warn_unloadable(key: str, error: Exception) -> None:
    """Tell that the value of an entry can't be unpickled here."""
    warn_caller(
        f"The entry {key} can't be unpickled ({type(error).__name__}: {error}), so its job runs again. "
        f"Has a class of its value moved?"
    )


def _git_state_of(job: Job) -> GitState | None:
    from ._origin import git_state_of  # takes long to import, and only a job that runs needs it

    return git_state_of(job.function)


class Runner:
    """Runs the jobs of one cache.

    Nothing is started before the first job. `announce` is called with each job that is about to run.

    Raises:
        TypeError: when the executor is none.
    """

    def __init__(
        self,
        executor: Any,
        name: str,
        keeping: Keeping,
        counts: Counts,
        announce: Callable[[Job], None],
        *,
        mapped: bool,
    ) -> None:
        self.executor_type = executor_name(executor)
        self._executor = executor
        self._engine: Engine | None = None
        self._keeping = keeping
        self._counts = counts
        self._announce = announce
        self._mapped = mapped
        self._standby = Standby(f"bencher_job-standby-{name}")
        self._writer: Writer[Returned] = Writer(self._settle_group, f"bencher_job-writer-{name}")
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the locks anew, and forget the jobs that only the parent can finish."""
        self._lock = threading.Lock()
        self._airborne = 0
        self._landing = threading.Lock()
        self._landed = threading.Condition(self._landing)

    @property
    def engine(self) -> Engine:
        """What runs the jobs; it is made with the first job, since some take long to import."""
        with self._lock:
            if self._engine is None:
                self._engine = engine_for(self._executor)
            return self._engine

    def is_writing(self) -> bool:
        """Whether this thread is the one that commits, which can't wait for what it will commit itself."""
        return self._writer.is_here()

    def run(
        self, job: Job, store: Store, puts: int, *, fresh: bool = False, here: bool = False
    ) -> JobFuture[Any]:
        """Join the job in flight or run it, on the engine or `here`.

        `puts` tells whether the store has changed since it was asked. A `fresh` job replaces what is remembered.

        Raises:
            BencherJobError: when the executor can't take jobs, or the job waits for itself.
        """
        if job.job_key in _media.running_keys():
            raise BencherJobError(
                f"{job!r} asks for its own result while it runs, so it would wait for itself for ever."
            )
        flights = flights_of(store)
        future: JobFuture[Any] = JobFuture.pending(job, flights.leave)
        try:
            flight, leads = flights.board(future)
            if leads:
                self._lead(flight, store, puts, fresh=fresh, here=here)
            else:
                self._counts.joined()
                if inside_worker() and flights.take_over(flight):  # its place may be behind this very job
                    self._run_here(flight, store)
        except BaseException as error:
            self._abandon(future, store, error)
            raise
        return future

    def _abandon(self, future: JobFuture[Any], store: Store, error: BaseException) -> None:
        """End the flight that a future leads, because nobody will run its job."""
        claim = flights_of(store).abandon(future, error)
        if claim is not None:
            store.claims.release([claim])

    def _lead(self, flight: Flight, store: Store, puts: int, *, fresh: bool, here: bool) -> None:
        """Run a flight's job, or have it wait for the process that computes its key."""
        in_worker = inside_worker()
        here = here or in_worker or self.executor_type == Executors.SERIAL
        key = flight.job.job_key
        turn = turn_or_wait(store, key, in_worker=in_worker) if store.directory is not None else Turn(None)
        if isinstance(turn, Turn):
            flight.claim = turn.claim
            hit = MISS if fresh or store.puts == puts else store.get(key, mapped=self._mapped)
            if isinstance(hit, Miss) or not self._land_on(hit, flight, store):
                self._start(flight, store, here=here)
        elif here:
            self._go_on(flight, store, turn.until_it_ends(), here=here)
        else:
            self._stand_by(flight, store, turn)

    def _land_on(self, hit: Hit, flight: Flight, store: Store) -> bool:
        """End a flight with what another one has computed meanwhile; False where that can't be read."""
        value = load(flight.job.job_key, hit)
        if value is MISS:
            return False
        self._counts.hit(hit.seconds)
        if flight.claim is not None:
            store.claims.release([flight.claim])
        flight.land()
        flight.futures[0].cached = True
        flight.resolve(value, hit.payload)
        return True

    def _stand_by(self, flight: Flight, store: Store, waiting: Waiting) -> None:
        """Have a flight wait for another process, without a thread of its own."""
        flight.waiting = waiting
        with self._landing:
            self._airborne += 1
        finish_at_exit(self)

        def go_on(ended: Ended) -> None:
            try:
                self._go_on(flight, store, ended, here=False)
            except BaseException as error:  # noqa: BLE001 - an engine that takes no job: whoever waits is told
                self._abandon(flight.futures[0], store, error)
            finally:
                self._count_landed(1)

        self._standby.add(waiting, go_on)

    def _go_on(self, flight: Flight, store: Store, ended: Ended, *, here: bool) -> None:
        """End a flight as its job has ended in another process, or run it if that has died."""
        if not flights_of(store).go_on(flight):
            if isinstance(ended, Turn) and ended.claim is not None:
                store.claims.release([ended.claim])
        elif isinstance(ended, Turn):
            flight.claim = ended.claim
            self._start(flight, store, here=here)
        elif isinstance(ended, Raised):
            self._fail_as(ended, flight, store, here=here)
        elif isinstance(ended, Hit) and not self._land_on(ended, flight, store):
            self._lead(flight, store, store.puts, fresh=True, here=here)

    def _fail_as(self, raised: Raised, flight: Flight, store: Store, *, here: bool) -> None:
        """End a flight with the exception of another process; one that can't be read here is raised anew."""
        from ._executors.raised import load_error  # takes long to import

        try:
            error = load_error(raised.error)
        except Exception as problem:  # noqa: BLE001 - a class's own unpickling can raise anything
            _log.warning("the exception of %s can't be unpickled here: %s", flight.job, problem)
            self._lead(flight, store, store.puts, fresh=True, here=here)
        else:
            self._counts.failed(elsewhere=True)
            flight.land()
            flight.fail(error)

    def _start(self, flight: Flight, store: Store, *, here: bool) -> None:
        self._counts.computed()
        self._announce(flight.job)
        if here:
            self._run_here(flight, store)
        else:
            self._take_off(flight, store)

    def _run_of(self, flight: Flight, store: Store, executor: str) -> Run:
        folder = None if store.directory is None else _media.run_folder(store.directory, flight.job.job_key)
        job = flight.job.in_folder(folder)
        return Run(flight, job, store, self._keeping, executor, _git_state_of(flight.job))

    def _run_here(self, flight: Flight, store: Store) -> None:
        """Run a flight's job in this thread, commit and resolve."""
        run = self._run_of(flight, store, Executors.SERIAL)
        outcome = run_inline(run.job)
        self._finish([Landing(run, outcome)])
        if isinstance(outcome.error, KeyboardInterrupt):
            raise outcome.error

    def _take_off(self, flight: Flight, store: Store) -> None:
        """Give a flight's job to the engine; the writer will commit and resolve it."""
        self._writer.start()
        engine = self.engine
        run = self._run_of(flight, store, engine.name)
        engine_future = flight.engine_future = engine.submit(run.job)
        with self._landing:
            self._airborne += 1
        finish_at_exit(self)
        engine_future.add_done_callback(lambda done: self._writer.put(Returned(run, done, engine.receive)))

    def settle(self, future: JobFuture[Any], done: Future[Any], store: Store) -> None:
        """Keep the result of a future of any kind under its job's key, then resolve the job's own future with it."""
        with self._landing:
            self._airborne += 1
        self._writer.start()
        run = Run(Flight(future), future.job, store, self._keeping, "future", _git_state_of(future.job))
        self._writer.put(Returned(run, done, outcome_of))

    def _settle_group(self, group: Sequence[Returned]) -> None:
        """Receive what has come back, commit it together and resolve; on the writer's thread."""
        landings = [each.received() for each in group if not each.is_void()]
        try:
            self._finish(landings)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            _log.exception("results can't be kept")
            for landing in landings:
                landing.run.flight.land()
                landing.run.flight.fail(error)
        finally:
            self._count_landed(len(group))

    def _count_landed(self, number: int) -> None:
        with self._landing:
            self._airborne -= number
            self._landed.notify_all()

    def _finish(self, landings: Sequence[Landing]) -> None:
        """Commit what succeeded, and then give everybody who waits the value or the exception."""
        payloads, unsaved = commit(landings)
        for landing in landings:
            landing.run.flight.land()
            if landing.outcome.error is None:
                landing.run.flight.resolve(landing.outcome.value, payloads.get(landing))
            else:
                self._counts.failed()
                landing.run.flight.fail(landing.outcome.error)
        self._counts.unsaved(sum(landing.is_closed_off for landing in landings) + len(unsaved))
        for fact in unsaved:  # last: whoever makes errors of warnings gets the value all the same
            _log.warning("%s", fact)
            warn_caller(f"{fact}. The caller gets it, and the next call computes it again.")

    def finish(self, *, wait: bool) -> None:
        """Commit what has come back, and what is still in flight if it is to be waited for."""
        if wait:
            self.wait()
        self._writer.close()

    def wait(self) -> None:
        """Wait until each job in flight has ended and its result is kept."""
        with self._landing:
            self._landed.wait_for(lambda: self._airborne == 0)

    def release(self) -> None:
        """Give the engine back."""
        if self._engine is not None:
            self._engine.release()
