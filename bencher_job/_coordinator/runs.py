"""Run jobs on an engine or in line, again after failures that may pass.

start ─> engine ─> writer: one thread commits what comes back, in groups ─> resolve
   │        └ timeout: whoever waits is told, what comes back later is dropped
   └> this thread ──────────────────────> commit ─────────────────────────> resolve
failed, and to be tried again ─> wait, on no thread ─> start
"""

from __future__ import annotations

import _thread
import atexit
import itertools
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from .. import _media
from .._errors import BencherJobError, JobTimeout, WorkerLost, warn_caller
from .._executors import (
    Engine,
    Executors,
    Outcome,
    check_limits,
    engine_for,
    error_text,
    executor_name,
    inside_worker,
    run_inline,
)
from .._future import JobFuture
from .._inside import critical, is_inside, runs_jobs
from .._job import Job
from .._light_future import LightFuture
from .._loops import is_coroutine_function, running_loop
from .._options import PoolOptions, RunOptions
from .._origin import git_state_of
from .._processes import renew_after_fork
from .._stores import DepositLost, Payload, Store
from .._text import printable
from .._timer import timer
from .commits import BeginsJobs, Counts, Keeping, Landing, Returned, Run, Start, Writer, commit, outcome_of
from .running import Asker, Flight, flights_of, for_each

__all__ = ["Engines", "Finishes", "Limits", "Runs", "do_outside", "finish_at_exit"]


LOOKS_PER_TIMEOUT: Final = 20
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks, which come so late at most."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Limited:
    future: Future[Any]
    job: Job
    returned: Callable[[Future[Any], BaseException | None], None]
    begun: float | None = None


class Limits:
    """Watches the jobs of one cache on an engine that can't end them.

    The time counts from when the executor says that a job runs.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout
        self._pause = min(max(timeout / LOOKS_PER_TIMEOUT, SHORTEST_PAUSE), LONGEST_PAUSE)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Watch nothing, as in a forked child."""
        self._lock = threading.Lock()
        self._watched: dict[Future[Any], _Limited] = {}
        self._is_looking = False

    def watch(
        self, future: Future[Any], job: Job, returned: Callable[[Future[Any], BaseException | None], None]
    ) -> None:
        """Have `returned` called once: with the future when it is done, or before that with a `JobTimeout` as well."""
        timer.start()
        limited = _Limited(future, job, returned)
        with self._lock:
            self._watched[future] = limited
            starts, self._is_looking = not self._is_looking, True
        if starts:
            timer.add(self._pause, self._look)
        future.add_done_callback(lambda done: self._end(done, limited))

    def _end(self, done: Future[Any], limited: _Limited) -> None:
        with self._lock:
            is_in_time = self._watched.pop(done, None) is not None
        if is_in_time:
            limited.returned(done, None)
            return
        _log.warning("%r has ended after its timeout; its result is dropped", limited.job)
        if limited.job.media_folder is not None:
            _media.discard(limited.job.media_folder)

    def _look(self) -> None:
        over = []
        with self._lock:
            now = time.monotonic()
            for limited in self._watched.values():
                if limited.begun is None and self._has_begun(limited):
                    limited.begun = now
                elif limited.begun is not None and now - limited.begun >= self._timeout:
                    over.append(limited)
            for limited in over:
                del self._watched[limited.future]
            self._is_looking = bool(self._watched)
        if self._is_looking:
            timer.add(self._pause, self._look)
        for limited in over:
            limited.returned(limited.future, self._verdict(limited.job))
            try:
                limited.future.cancel()  # some engines give up what they have not begun
            except Exception as error:  # noqa: BLE001 - the future is of an executor of the user's
                _log.warning("%r can't be cancelled: %r", limited.job, error)

    def _has_begun(self, limited: _Limited) -> bool:
        """Whether a job runs; one of which its executor can't tell counts as running, so that its time ends."""
        try:
            return self._engine.has_begun(limited.future)
        except Exception as error:  # noqa: BLE001 - as above
            _log.warning("its executor can't tell whether %r runs: %r", limited.job, error)
            return True

    def _verdict(self, job: Job) -> JobTimeout:
        from .._executors.entry import describe  # takes long to import

        name = describe(job)
        return JobTimeout(
            f"{name} ran for longer than its timeout of {self._timeout:g} s. {self._engine.name} can't end it, so it "
            f"may still run there; its result will be dropped.",
            job=name,
            seconds=self._timeout,
        )


class Engines:
    """What the jobs of one cache run on; nothing is started before the first job.

    Attributes:
        executor_type: the member of `Executors`, or the class name of the executor that was given.
        is_serial: whether each job runs in the thread that asks for it.

    Raises:
        TypeError: when the executor is none.
        ValueError: when it can't do what is asked of it.
    """

    def __init__(
        self, executor: Any, settings: PoolOptions, timeout: float | None, *, of_coroutines: bool = False
    ) -> None:
        check_limits(executor, settings, timeout, of_coroutines=of_coroutines)
        self.executor_type = executor_name(executor)
        self.is_serial = self.executor_type == Executors.SERIAL
        self._executor = executor
        self._settings = settings
        self._timeout = timeout
        self._own: Engine | None = None
        self._beside: Engine | None = None
        self._limits: Limits | None = None
        self._is_initialized = not self.is_serial or settings.initializer is None
        self._calls_initializer = False
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the locks anew."""
        self._lock = threading.Lock()
        self._initializing = threading.RLock()  # the initializer may run jobs

    @runs_jobs
    def _call_initializer(self) -> None:
        self._settings.initializer(*self._settings.initargs)  # type: ignore[misc]  # there is one

    def initialize_here(self) -> None:
        """Call the initializer before the first job of SERIAL: this process stands for the worker.

        Raises:
            BencherJobError: when it fails, so that the job must not run; the next job calls it again.
        """
        if self._is_initialized:
            return
        with self._initializing:
            if self._is_initialized or self._calls_initializer:
                return
            self._calls_initializer = True
            try:
                self._call_initializer()
            except Exception as error:
                raise BencherJobError(
                    f"The initializer failed in this process: {error_text(error)}. No job runs before it succeeds."
                ) from error
            else:
                self._is_initialized = True
            finally:
                self._calls_initializer = False

    @property
    def own(self) -> Engine:
        """The cache's own engine; it is made with the first job, since some take long to import."""
        with self._lock:
            if self._own is None:
                engine = engine_for(self._executor, self._settings, self._timeout)
                if self._timeout is not None and not engine.ends_jobs:
                    self._limits = Limits(engine, self._timeout)
                self._own = engine
            return self._own

    def beside_loop(self, job: Job) -> Engine | None:
        """Give what runs a job for a caller in an event loop; None for the cache's own engine.

        A coroutine runs in the caller's loop, and a plain function in a thread, where jobs run in line otherwise.
        """
        if not (self.is_serial or inside_worker()):
            return None
        self.initialize_here()
        from .._executors.loop import LoopEngine, ThreadBesideLoop  # takes long to import

        if is_coroutine_function(job.function):
            return LoopEngine(self._timeout)
        with self._lock:
            if self._beside is None:
                self._beside = ThreadBesideLoop()
            return self._beside

    def watch(self, future: Future[Any], job: Job, returned: Callable[..., None]) -> None:
        """Have it told when a run on the cache's own engine ends, or has taken too long where it doesn't end such."""
        if self._limits is None:
            future.add_done_callback(returned)
        else:
            self._limits.watch(future, job, returned)

    def may_need_this_thread(self) -> bool:
        """Whether a job that this thread runs keeps a place that other jobs of the cache may need."""
        is_in_pool = self._own is not None and self._own.shares_arguments and inside_worker()
        return is_in_pool or self._beside is not None

    def release(self) -> None:
        """Give the engines back."""
        for engine in (self._own, self._beside):
            if engine is not None:
                engine.release()
        self._beside = None


LOOK_EVERY: Final = 0.001
"""Seconds between two looks whether a thread is outside of the library."""


class Finishes(Protocol):
    """What may have jobs in flight."""

    def finish(self, *, wait: bool) -> None:
        """Commit what has come back, and what is still in flight if it is to be waited for."""


_owners: weakref.WeakSet[Finishes] = weakref.WeakSet()


def finish_at_exit(owner: Finishes) -> None:
    """Have what was submitted finished when the program ends, as `concurrent.futures` does.

    After Ctrl-C only what is done is kept. Call it when an engine has been started: the hook is then set after the
    engine's own, and so runs before it, while the workers are still there.
    """
    if not _owners:
        atexit.unregister(_finish)
        atexit.register(_finish)
    _owners.add(owner)


class _Postponed:
    """What a thread does as soon as another one is outside of the library."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._thread = threading.get_ident()
        self._is_done = threading.Event()

    def run(self) -> None:
        try:
            while self._is_inside():
                time.sleep(LOOK_EVERY)
            self._act()
        except Exception:  # noqa: BLE001 - nobody waits for it who could be told
            _log.exception("what a signal handler wanted done has failed")
        finally:
            self._is_done.set()
            _postponed.discard(self)

    def _is_inside(self) -> bool:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the one way to ask
        return frame is not None and is_inside(frame)

    def finish(self, *, wait: bool) -> None:
        """Wait until it is done, if it is to be waited for."""
        if wait:
            self._is_done.wait()


_postponed: set[_Postponed] = set()


def do_outside(act: Callable[[], None]) -> None:
    """Have a thread do something as soon as this one is outside of the library, and the end of the program wait for it.

    `threading` waits for the start of a thread, which may need a lock of `threading` that this one holds.
    """
    if sys.is_finalizing():  # what was in flight has been finished
        return
    postponed = _Postponed(act)
    _postponed.add(postponed)
    finish_at_exit(postponed)
    _thread.start_new_thread(postponed.run, ())


def _finish() -> None:
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    for owner in list(_owners):
        owner.finish(wait=not interrupted)


LOOP_ENGINE: Final = "bencher_job._executors.loop"
"""The module that runs jobs in event loops, once it was needed."""


class Runs:
    """Runs jobs and commits what comes of them; nothing is started before the first job.

    `announce` is called with the jobs that are about to run.

    Attributes:
        engines: what they run on.
        asked: what an engine asks that acquires the lease of a job when it begins the job.
    """

    asked: BeginsJobs

    def __init__(
        self,
        engines: Engines,
        name: str,
        keeping: Keeping,
        counts: Counts,
        announce: Callable[[Iterable[Job]], None],
        attempts: RunOptions,
    ) -> None:
        self.engines = engines
        self._keeping = keeping
        self._counts = counts
        self._announce = announce
        self._attempts = attempts
        self._writer: Writer[Returned, Landing] = Writer(
            self._receive,
            self._settle_group,
            self._give_up,
            Landing.discard_written,
            f"bencher_job-writer-{name}",
        )
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew, and forget the jobs that only the parent can finish."""
        self._airborne = 0
        self._landing = threading.Lock()
        self._landed = threading.Condition(self._landing)

    def is_writing(self) -> bool:
        """Whether this thread is the one that commits, which can't wait for what it will commit itself."""
        return self._writer.is_here()

    def start(self, flight: Flight, store: Store, *, here: bool) -> None:
        """Run a flight's job for the first time."""
        if not here:
            self.start_many([flight], store)
            return
        self._counts.computed(1)
        self._announce((flight.job,))
        self.run_here(flight, store)

    @critical
    def start_many(self, flights: Sequence[Flight], store: Store) -> None:
        """Run the jobs of flights for the first time, on one engine."""
        self._counts.computed(len(flights))
        self._announce(flight.job for flight in flights)
        expected: list[int] = []
        try:
            self.expect(len(flights), expected)
            self._take_off(flights, store)
        except BaseException:  # an interrupt may come between two of them, and before the first
            if expected:
                self.count_landed(sum(flight.engine_future is None for flight in flights))
            raise
        finish_at_exit(self)

    def _runs_of(self, flights: Sequence[Flight], store: Store, engine: Engine) -> list[Run]:
        """Make the next runs of flights, which are submitted together."""
        asks = engine.asks_to_begin and store.keeps
        directory, keeping = store.directory, self._keeping
        keys = [flight.job.job_key for flight in flights]
        folders = itertools.repeat(None) if directory is None else _media.run_folders(directory, keys)
        depository = store.depository(keeping.compression)
        function = state = None
        runs = []
        for flight, folder in zip(flights, folders):  # noqa: B905 - there may be no end of folders
            flight.attempt += 1
            job = flight.job
            if job.function is not function:
                function, state = job.function, git_state_of(job.function)
            run = job.for_run(folder, None if flight.sends_value else depository)
            if asks and not flight.holds_lease():
                run.start = Start(self.asked, flight, store)
            runs.append(Run(flight, run, store, keeping, engine.name, state))
        return runs

    def run_here(self, flight: Flight, store: Store) -> None:
        """Run a flight's job in this thread until it is done or given up, commit and resolve."""
        while True:
            run = self._run_in_line(flight, store)
            if flight.attempt > 1:  # the run before may have changed them
                run.job.note_changes()
            outcome = self._outcome_of(run.job)
            landing = Landing(run, outcome)
            pause = self._pause_after(landing)
            if pause is None:
                break
            if not self.is_writing():
                time.sleep(pause)
        self._finish([landing])
        if isinstance(outcome.error, KeyboardInterrupt):
            raise outcome.error

    def _run_in_line(self, flight: Flight, store: Store) -> Run:
        """Make the next run of a flight, of whose result no worker writes a file."""
        flight.attempt += 1
        job, directory = flight.job, store.directory
        folder = None if directory is None else _media.run_folder(directory, job.job_key)
        state = git_state_of(job.function)
        return Run(flight, job.for_run(folder, None), store, self._keeping, Executors.SERIAL, state)

    def _outcome_of(self, job: Job) -> Outcome:
        try:
            self.engines.initialize_here()
        except BaseException as error:  # noqa: BLE001 - the job ends with it, and has not run
            return Outcome(error=error)
        if self._attempts.timeout is None or not is_coroutine_function(job.function):
            return run_inline(job)
        from .._executors.entry import run_coroutine  # takes long to import

        return run_coroutine(job, self._attempts.timeout)

    def _take_off(self, flights: Sequence[Flight], store: Store) -> None:
        """Give the jobs of flights to their engine; the writer will commit and resolve them.

        Where that fails, those without an `engine_future` are left to the caller.
        """
        if not flights:
            return
        self._writer.start()
        if self._attempts.retries:
            timer.start()
        engine = flights[0].engine or self.engines.own
        is_held = engine.shares_arguments or self._attempts.retries
        function, is_coroutine = None, False
        for flight in flights:
            if flight.job.function is not function:
                function = flight.job.function
                is_coroutine = is_coroutine_function(function)
            if is_coroutine:
                flight.may_be_ended_by(engine)
            if is_held and not flight.attempt:
                flight.job = flight.job.snapshot()
        runs, take_back = self._runs_on(engine, flights, store), self._take_back
        for run, engine_future in zip(runs, engine.submit_many([run.job for run in runs]), strict=True):
            run.flight.engine_future = engine_future
            try:
                self._await(run, engine_future, partial(take_back, run, engine))
            except BaseException:  # an interrupt: nobody will hear of its end
                run.flight.engine_future = None
                raise

    def _runs_on(self, engine: Engine, flights: Sequence[Flight], store: Store) -> list[Run]:
        runs = self._runs_of(flights, store, engine)
        if engine.shares_arguments and self._attempts.retries:
            # The next run of each begins with what this one can't change.
            return [run._replace(job=run.job.snapshot()) for run in runs]
        if not engine.shares_arguments:
            for run in runs:
                if run.job.may_change:  # and has had time to, while the job waited
                    run.job.note_changes()
        return runs

    def _await(self, run: Run, engine_future: Future[Any], returned: Callable[..., None]) -> None:
        if run.flight.engine is None:
            self.engines.watch(engine_future, run.job, returned)
        else:
            engine_future.add_done_callback(returned)

    def _take_back(
        self, run: Run, engine: Engine, done: Future[Any], verdict: BaseException | None = None
    ) -> None:
        """Hand a run over to the writer that an engine is done with, or of whose end there is a verdict already."""
        receive = engine.receive if verdict is None else lambda _: Outcome(error=verdict)
        self._writer.put(Returned(run, done, receive))

    @critical
    def settle(self, future: JobFuture[Any], done: Future[Any], store: Store) -> None:
        """Keep the result of a future of any kind under its job's key, then resolve the job's own future with it."""
        returned = self._settled(future, done, store)
        self._writer.start()
        self.expect(1)
        finish_at_exit(self)
        self._writer.put(returned)

    def settle_here(self, future: JobFuture[Any], done: Future[Any], store: Store) -> None:
        """Do as `settle` in this thread, with a future that is done."""
        self._finish([self._settled(future, done, store).received()])

    def _settled(self, future: JobFuture[Any], done: Future[Any], store: Store) -> Returned:
        state = git_state_of(future.job.function)
        run = Run(Flight(future), future.job, store, self._keeping, "future", state)
        return Returned(run, done, outcome_of)

    def _receive(self, returned: Returned) -> Landing | None:
        if returned.is_void():
            self.count_landed(1)
            return None
        return returned.received()

    def _give_up(self, returned: Returned, seconds: float) -> Landing | None:
        """End a job whose value takes longer to be unpickled than the job itself may run."""
        timeout = self._attempts.timeout
        if timeout is None or seconds < timeout:
            return None
        from .._executors.entry import describe  # takes long to import

        name = describe(returned.run.job)
        error = JobTimeout(
            f"{name} has run in time, but its result could not be unpickled within another {timeout:g} s. Return "
            f"plain data, or mend the class's __setstate__.",
            job=name,
            seconds=timeout,
        )
        return Landing(returned.run, Outcome(error=error))

    def _settle_group(self, received: Sequence[Landing]) -> None:
        """Commit together what has come back, and resolve; on the writer's thread."""
        landings = [each for each in received if each.outcome.error is None or not self._goes_on(each)]
        try:
            self._finish(landings)
        except BaseException as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            _log.exception("results can't be kept, or a callback of a future has failed")
            for landing in landings:
                landing.run.flight.land()
                landing.run.flight.fail(error)
        finally:
            self.count_landed(len(landings))

    def _pause_after(self, landing: Landing) -> float | None:
        """Say how long to wait before a job runs again that has just failed; None when it doesn't.

        One whose result a worker has written in vain runs again at once, and sends it then.
        """
        error = landing.outcome.error
        job, attempt = landing.run.job, landing.run.flight.attempt
        if error is None or attempt == 0:  # a future that was settled: its run was somebody else's
            return None
        pause = self._attempts.pause(error, attempt)
        if isinstance(error, DepositLost):
            landing.run.flight.sends_value, pause = True, 0.0
        if pause is not None:
            self._counts.retried()
            _log.warning(
                "run %s of %s of %r failed and is repeated in %.2f s: %s",
                attempt,
                self._attempts.retries + 1,
                job,
                pause,
                error_text(error),
            )
            self._discard_media(job)
        elif attempt > 1:
            _log.warning("%r failed for the last of %s times: %s", job, attempt, error_text(error))
            if isinstance(error, WorkerLost):
                error.count_attempts(attempt)
        return pause

    @staticmethod
    def _discard_media(job: Job) -> None:
        if job.media_folder is not None:
            try:
                _media.discard(job.media_folder)
            except OSError as error:  # clean_orphaned_media finds them later
                _log.warning("the files of %r can't be removed: %s", job, error)

    def _goes_on(self, landing: Landing) -> bool:
        """Have a job run again that has failed on an engine; whether it does."""
        run, pause = landing.run, self._pause_after(landing)
        if pause is None:
            return False
        run.flight.has_run = True
        waiting: Future[Any] = (
            LightFuture()
        )  # it stands for the engine's: a job that has not begun anew can be cancelled
        flights_of(run.store).wait_in_line(run.flight, waiting)
        waiting.add_done_callback(lambda done: self._writer.put(Returned(run, done, outcome_of)))
        if pause:
            timer.add(pause, lambda: self._go_on(run.flight, waiting, run.store))
        else:
            self._go_on(run.flight, waiting, run.store)
        return True

    @critical
    def _go_on(self, flight: Flight, waiting: Future[Any], store: Store) -> None:
        """Run a job again, unless it was cancelled or taken over meanwhile."""
        if not waiting.set_running_or_notify_cancel():
            return
        try:
            if flight.is_needed_by_worker:  # which keeps a place that this job may need
                threading.Thread(
                    target=self._run_beside, args=(flight, store), name="bencher_job-retry", daemon=True
                ).start()
            else:
                self._take_off([flight], store)
        except BaseException as error:  # noqa: BLE001 - an engine that takes no job: whoever waits is told
            self._abandon(flight, store, error)

    def _run_beside(self, flight: Flight, store: Store) -> None:
        try:
            self.run_here(flight, store)
        except BaseException as error:  # noqa: BLE001 - as above
            self._abandon(flight, store, error)
        else:
            self.count_landed(1)

    def _abandon(self, flight: Flight, store: Store, error: BaseException) -> None:
        self.abandon(flight.futures[0], store, error)
        self.count_landed(1)

    def abandon(self, future: Asker, store: Store, error: BaseException) -> None:
        """End the flight that a future leads, because nobody will run its job."""
        lease = flights_of(store).abandon(future, error)
        if lease is not None:
            store.leases.release([lease])

    def expect(self, number: int, expected: list[int] | None = None) -> None:
        """Count jobs that are to be waited for; that they are counted is noted, where an interrupt has to know it."""
        with self._landing:
            self._airborne += number
            if expected is not None:
                expected.append(number)

    def count_landed(self, number: int) -> None:
        """Count jobs that need no longer be waited for."""
        with self._landing:
            self._airborne -= number
            self._landed.notify_all()

    def _finish(self, landings: Sequence[Landing]) -> None:
        """Commit what succeeded, and then give everybody who waits the value or the exception."""
        payloads, unsaved = commit(landings)
        if lost := len(unsaved) + sum(landing.is_closed_off for landing in landings):
            self._counts.unsaved(lost)
        try:
            for_each(landings, lambda landing: self._resolve(landing, payloads.get(landing)))
        finally:
            for fact in map(printable, filter(None, unsaved)):  # last: they may be made errors
                _log.warning("%s", fact)
                warn_caller(f"{fact}. The caller gets it, and the next call computes it again.")

    def _resolve(self, landing: Landing, payload: Payload | None) -> None:
        flight, error = landing.run.flight, landing.outcome.error
        flight.land()
        if error is None:
            if payload is None and landing.outcome.deposit is not None and len(flight.futures) > 1:
                payload = landing.pickled_for_all()
            flight.resolve(landing.outcome.value, payload)
        else:
            is_cancelled = isinstance(error, CancelledError) and not (landing.has_begun or flight.has_run)
            is_refused = isinstance(error, BencherJobError) and not isinstance(error, JobTimeout)
            if is_cancelled or (is_refused and not landing.outcome.started):
                self._counts.not_computed()
            if not is_cancelled:
                self._counts.failed()
            flight.fail(error)

    def finish(self, *, wait: bool) -> None:
        """Commit what has come back, and what is still in flight if it is to be waited for."""
        if wait:
            self.wait()
        self._writer.close()

    def wait(self) -> None:
        """Wait until each job in flight has ended and its result is kept.

        Raises:
            BencherJobError: in an event loop or a thread that such a job runs in, which would stand still.
        """
        self._refuse_to_wait_in_job()
        loops = sys.modules.get(LOOP_ENGINE)
        if loops is not None:
            loops.refuse_to_wait_in(running_loop())
            loops.lose_runs_of_stopped_loops()
        with self._landing:
            self._landed.wait_for(lambda: self._airborne <= 0)

    def _refuse_to_wait_in_job(self) -> None:
        """Refuse to wait in a job that runs in a thread, and may be one of those in flight, or what they wait for."""
        key = _media.current_job_key()
        if key is not None and self._airborne > 0 and self.engines.may_need_this_thread():
            raise BencherJobError(
                f"The job {key} can't wait for the jobs in flight of a cache that runs them in threads: it may be "
                f"one of them, or keep a place that they need. Call wait() and close() outside of jobs."
            )
