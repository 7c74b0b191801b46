"""The life of a job that is not stored, from the call to the committed result.

    asked ──> joined                        this process runs the key already: its result is for this caller too
      ├────> waiting ──> resolved           another process has the lease, and its value or exception arrives
      │         └──> leased                 it died, was stopped for long, or stored nothing
      ├────> queued ──> leased or waiting   on an engine that acquires the lease when a worker is free
      └────> leased ──> running ──> committing ──> resolved
                          └──> running      it failed, and is tried again after a pause

Each transition is one method of `Coordinator`:

    submit, submit_many, compute    asked
    _join                           joined
    _own, begin                     leased, after `running.acquire` or `running.acquire_or_wait`
    _wait, _go_on                   waiting, and out of it
    _start                          running on an engine, or queued there
    _run_here                       running in this thread
    _retry                          running again
    _finish                         committing
    _resolve                        resolved
    _abandon                        resolved with an error, from any state, because the job can't run

A job that an engine runs ends in the engine's thread. The commit thread then receives its result, commits it together
with others, and resolves the futures.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Final

from .. import _media
from .._context import CURRENT, Surroundings, critical
from .._errors import BencherJobError, JobTimeout, WorkerLost, warn_caller
from .._executors import (
    CallFuture,
    Engine,
    Executors,
    Outcome,
    describe,
    error_text,
    inside_worker,
    run_inline,
)
from .._future import JobFuture
from .._job import Job
from .._keys.names import load_for
from .._lifetime import Lifetime
from .._light_future import LightFuture
from .._loops import Caller, is_coroutine_function, running_loop
from .._options import Options
from .._origin import git_state_of
from .._processes import renew_after_fork
from .._stores import MISS, BlobLost, Hit, Lease, Miss, Store
from .._text import printable
from .._timer import timer
from .commits import UNLOADABLE, CommitThread, Counts, Run, commit
from .engines import Engines, finish_at_exit
from .running import (
    Ended,
    RunningJob,
    State,
    Waiter,
    WaiterThread,
    acquire,
    acquire_or_wait,
    for_each,
    running_jobs,
    taken,
)

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Seconds between two looks of a cache that is being closed at whether any worker can run its jobs."""

ROOM: Final = 40
"""Stack frames that must be left when a job begins, so that it can be abandoned wherever it fails."""

LOOP_ENGINE: Final = "bencher_job._executors.loop"
"""The module that runs jobs in event loops, if it has been imported."""


class Coordinator:
    """Runs each job of one cache once. Nothing is started before the first job.

    Attributes:
        engines: what the jobs run on.
        counts: the figures of the cache.
    """

    def __init__(
        self, options: Options, announce: Callable[[Iterable[Job]], None], *, of_coroutines: bool = False
    ) -> None:
        run = options.run
        self.engines = Engines(
            run.executor, options.pool, run.timeout, run.patience, of_coroutines=of_coroutines
        )
        self.counts = Counts()
        self._store_options = options.store
        self._lifetime = Lifetime.of(options.store)
        self._run_options = run
        self._announce = announce
        name = options.store.cache_name
        self._resolving: set[int] = set()
        self._waiters = WaiterThread(self._resolving, f"bencher_job-waiter-{name}")
        self._commits = CommitThread(
            self._commit, self._ended, self._give_up, self._resolving, f"bencher_job-writer-{name}"
        )
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget the jobs that only the parent can finish, in a forked child."""
        self._lock = threading.Lock()
        self._resolving.clear()
        self._unfinished: set[object] = set()
        self._until_finished: list[threading.Lock] = []

    # asked

    @critical
    def submit(
        self,
        job: Job,
        store: Store,
        *,
        fresh: bool = False,
        here: bool = False,
        caller: Caller | None = None,
    ) -> JobFuture[Any]:
        """Join the running job of this key, or run it on the engine or, with `here`, in this thread.

        A `fresh` job replaces the stored result. For a `caller` in an event loop it runs where it doesn't block that.

        Raises:
            BencherJobError: when the executor can't take jobs, or the job waits for itself.
        """
        _refuse_impossible(job)
        jobs = running_jobs(store)
        future: JobFuture[Any] = JobFuture.pending(job, jobs.leave, self.resolves_here)
        running = RunningJob(job, store, jobs, future, is_fresh=fresh, surroundings=Surroundings.here())
        running.engine = engine = None if caller is None else self.engines.beside_loop(job)
        try:
            owned = jobs.enter(running, future)
            if owned.engine is not None:
                owned.engine.join(future, caller)
            if owned is running:
                self._own(running, here=here)
            else:
                self._join(owned, engine)
        except BaseException as error:
            self._abandon(running, error)
            raise
        return future

    @critical
    def submit_many(self, jobs: Sequence[Job], store: Store, *, fresh: bool = False) -> list[JobFuture[Any]]:
        """Join running jobs, and run the others on the engine: leased, looked up and submitted together.

        Raises:
            BencherJobError: when the executor can't take jobs.
        """
        for job in jobs[:1]:
            _refuse_impossible(job)
        known = running_jobs(store)
        leave, resolves_here = known.leave, self.resolves_here
        futures: list[JobFuture[Any]] = [JobFuture.pending(job, leave, resolves_here) for job in jobs]
        here = Surroundings.here()
        entered = [
            RunningJob(future.job, store, known, future, is_fresh=fresh, surroundings=here)
            for future in futures
        ]
        owned: list[RunningJob] = []
        try:
            for running, future in zip(entered, futures, strict=True):
                other = known.enter(running, future)
                if other is running:
                    owned.append(running)
                    continue
                if other.engine is not None:
                    other.engine.join(future, None)
                self.counts.add(submitted=1, joined=1)
            self._own_many(owned, store)
        except BaseException as error:
            for running in entered:
                if running.engine_future is None and running.waiter is None:
                    self._abandon(running, error)
            raise
        return futures

    @critical
    def compute(self, job: Job, store: Store, *, fresh: bool = False) -> Outcome | None:
        """Run a job in this thread, and return how it ended.

        Return None if it is to be submitted: its key is running already, or it runs on an engine.

        Raises:
            BencherJobError: when the job waits for itself.
        """
        if not (self.engines.is_serial or threading.get_ident() in self._resolving or inside_worker()):
            return None
        _refuse_impossible(job)
        jobs = running_jobs(store)
        running = RunningJob(job, store, jobs, is_fresh=fresh)
        try:
            if jobs.enter(running) is not running:
                return None
            self._own(running, here=True)
        except BaseException as error:
            self._abandon(running, error)
            raise
        return running.outcome

    # joined

    def _join(self, owned: RunningJob, engine: Engine | None) -> None:
        """Count a caller that joined a job. A worker takes the job over if it may be queued behind the worker's own."""
        self.counts.add(submitted=1, joined=1)
        if inside_worker() and owned.jobs.take_over(owned):
            self.counts.add(submitted=-1, computed=-1)
            owned.engine = engine
            try:
                self._own(owned, here=False)
            except BaseException as error:
                self._abandon(owned, error)
                raise

    # leased

    def _own(self, running: RunningJob, *, here: bool) -> None:
        """Acquire the lease of a job and run it, unless another process computes it or has stored it."""
        store = running.store
        here = here or (running.engine is None and (self.engines.is_serial or inside_worker()))
        if not here and (running.engine or self.engines.own).asks_to_begin:
            self._queue([running], store)
            return
        waiter = None
        if store.keeps and (running.lease is None or not running.lease.held):
            waiter = acquire_or_wait(running)
        if waiter is not None and here:
            self._go_on(running, waiter.wait(), here=True)
        elif waiter is not None:
            self._wait(running, waiter)
        else:
            running.state = State.LEASED
            if not (running.may_be_stored() and self._answer_from_store(running)):
                self._begin(running, here=here)

    def _own_many(self, jobs: Sequence[RunningJob], store: Store) -> None:
        """Acquire the leases of jobs together, and run those that no process computes or has stored."""
        if self.engines.own.asks_to_begin:
            self._queue(jobs, store)
            return
        others = acquire(store, jobs) if store.keeps else []
        ours = [running for running in jobs if running not in others] if others else list(jobs)
        stored = [running.job.job_key for running in ours if running.may_be_stored()]
        if stored:
            found = store.get_many(stored, mapped=self._store_options.mmap)
            ours = [
                running
                for running in ours
                if (hit := found.get(running.job.job_key)) is None or not self._answer(running, hit)
            ]
        for running in ours:
            running.state = State.LEASED
        self._start_new(ours, store)
        for running in others:
            self._own(running, here=False)

    def _queue(self, jobs: Sequence[RunningJob], store: Store) -> None:
        """Submit jobs to an engine that asks before it begins each, except those that other processes compute."""
        others = taken(store, jobs) if store.keeps else set()
        for running in jobs:
            running.state = State.QUEUED
        self._start_new([running for running in jobs if running.job.job_key not in others], store)
        for running in jobs:
            if running.job.job_key in others:
                self._wait(running)

    def begin(self, runs: Sequence[Run]) -> list[bool]:
        """Acquire the leases of queued jobs that an engine is about to begin. Return for each whether it is to run."""
        unleased: dict[Store, list[RunningJob]] = {}
        for run in runs:
            running = run.running
            if not running.holds_lease():
                unleased.setdefault(running.store, []).append(running)
        withdrawn: set[RunningJob] = set()
        for store, jobs in unleased.items():
            others = acquire(store, jobs)
            unwanted = [each for each in jobs if each.may_be_stored() or each.state is State.RESOLVED]
            if unwanted:
                store.leases.release([each.lease for each in unwanted if each.lease is not None])
            withdrawn.update(others, unwanted)
        for run in runs:
            running = run.running
            run.is_withdrawn = running in withdrawn
            if not run.is_withdrawn:
                running.state = State.RUNNING
            elif running.state is not State.RESOLVED:
                running.attempt = run.attempts_before
                run.coordinator.counts.add(submitted=-1, computed=-1)
                run.coordinator._wait(running)  # noqa: SLF001 - its own class
        return [not run.is_withdrawn for run in runs]

    # waiting

    def _wait(self, running: RunningJob, waiter: Waiter | None = None) -> None:
        """Wait for another process, without blocking this thread."""
        if waiter is None:
            job = running.job
            running.lease = lease = Lease(job.job_key, job.function_name, job.arguments)
            waiter = Waiter(running.store, lease)
        running.run = running.engine_future = None
        running.waiter, running.job, running.state = waiter, running.job.snapshot(), State.WAITING

        def go_on(ended: Ended) -> None:
            try:
                self._go_on(running, ended, here=False)
            except BaseException as error:  # noqa: BLE001 - an engine that takes no job: the callers get the error
                self._abandon(running, error)
            finally:
                self._ended(waiter)

        finish_at_exit(self)
        try:
            self._unfinished.add(waiter)
            self._waiters.add(waiter, go_on)
        except BaseException:  # an interrupt
            self._ended(waiter)
            raise

    def _go_on(self, running: RunningJob, ended: Ended, *, here: bool) -> None:
        """End a job as another process has ended it, or run it here."""
        if not running.jobs.stop_waiting(running):
            running.release()
        elif ended.error is not None:
            self._fail_as(running, ended.error, here=here)
        elif ended.hit is not None:
            if not self._answer(running, ended.hit):
                running.is_fresh = True
                self._own(running, here=here)
        else:
            if running.holds_lease() and not here and (running.engine or self.engines.own).asks_to_begin:
                running.release()  # until the job begins
            self._begin(running, here=here)

    def _fail_as(self, running: RunningJob, pickled: bytes, *, here: bool) -> None:
        """End a job with the exception of another process. If it can't be unpickled, the job runs here."""
        from .._executors.pickling import load_error  # slow to import

        try:
            error = load_error(pickled)
        except Exception as problem:  # noqa: BLE001 - a class's own unpickling can raise anything
            _log.warning("the exception of %s can't be unpickled here: %s", running.job, problem)
            running.is_fresh = True
            self._own(running, here=here)
        else:
            self.counts.add(submitted=1, failed=1)
            running.jobs.remove(running)
            running.resolve(Outcome(error=error))

    def _answer_from_store(self, running: RunningJob) -> bool:
        hit = running.store.get(running.job.job_key, mapped=self._store_options.mmap)
        return isinstance(hit, Hit) and self._answer(running, hit)

    def _answer(self, running: RunningJob, hit: Hit) -> bool:
        """End a job with a value that was stored since it was looked up. Return False if it is not an answer."""
        if self._lifetime is not None:
            job, mapped = running.job, self._store_options.mmap
            found = self._lifetime.current(running.store, job.function_name, job.job_key, hit, mapped)
            if isinstance(found, Miss):
                running.replaces = True
                return False
            hit = found
        value = load(running.job.job_key, hit, running.job.function)
        if value is MISS:
            return False
        self.counts.hit(hit.seconds)
        running.release()
        running.jobs.remove(running)
        for future in running.futures[:1]:
            future.cached = True
        running.resolve(Outcome(value), hit.payload)
        return True

    # running

    def _begin(self, running: RunningJob, *, here: bool) -> None:
        """Run a job for the first time, or again where an engine gave it back."""
        if here:
            self.counts.add(submitted=1, computed=1)
            self._announce((running.job,))
            self._run_here(running)
        else:
            self._start_new([running], running.store)

    def _run_here(self, running: RunningJob) -> None:
        """Run a job in this thread until it succeeds or has no attempt left, commit and resolve it."""
        while True:
            run = self._run_of(running, Executors.SERIAL)
            running.attempt += 1
            running.state = State.RUNNING
            if running.attempt > 1:  # the attempt before may have changed the arguments
                run.job.note_changes()
            run.outcome = outcome = self._outcome_of(run.job)
            pause = None if outcome.error is None else self._pause_after(run)
            if pause is None:
                break
            if threading.get_ident() not in self._resolving:
                time.sleep(pause)
        self._finish([run])
        if isinstance(outcome.error, KeyboardInterrupt):
            raise outcome.error

    def _outcome_of(self, job: Job) -> Outcome:
        if not self.engines.is_initialized:
            try:
                self.engines.initialize_here()
            except BaseException as error:  # noqa: BLE001 - the job ends with it, and has not run
                return Outcome(error=error)
        timeout = self._run_options.timeout
        if timeout is None or not is_coroutine_function(job.function):
            return run_inline(job)
        from .._executors.entry import run_coroutine  # slow to import

        return run_coroutine(job, timeout)

    def _run_of(self, running: RunningJob, executor: str) -> Run:
        """Make the next attempt of a job, which writes its media to a folder of its own."""
        job, directory = running.job, running.store.folder
        folder = None if directory is None else _media.run_folder(directory, job.job_key)
        attempt = job.for_run(folder, None)
        attempt.surroundings = running.surroundings
        return Run(self, running, attempt, executor, git_state_of(job.function))

    @critical
    def _start_new(self, jobs: Sequence[RunningJob], store: Store) -> None:
        """Run jobs for the first time, on one engine."""
        if jobs:
            self.counts.add(submitted=len(jobs), computed=len(jobs))
            self._announce([running.job for running in jobs])
            self._start(jobs, store)
            finish_at_exit(self)

    def _start(self, jobs: Sequence[RunningJob], store: Store) -> None:
        """Submit jobs to their engine. If it raises, jobs without an `engine_future` have not been submitted."""
        self._commits.start()
        if self._run_options.retries:
            timer.start()
        engine = jobs[0].engine or self.engines.own
        function, is_coroutine = None, False
        for running in jobs:
            if running.job.function is not function:
                function = running.job.function
                is_coroutine = is_coroutine_function(function)
            if is_coroutine:
                running.cancel_by(engine)
            if not running.attempt and (engine.shares_arguments or self._run_options.retries):
                running.job = running.job.snapshot()
        runs, awaited = self._runs_on(engine, jobs, store), 0
        try:
            self._unfinished.update(runs)
            for run, done in zip(runs, engine.submit_many([run.job for run in runs]), strict=True):
                run.running.run, run.running.engine_future = run, done
                self._await(run, engine, done)
                awaited += 1
        except (
            BaseException
        ):  # an interrupt may come between two of them: nothing will hear of the end of the others
            for run in runs[awaited:]:
                run.running.engine_future = None
                self._ended(run)
            raise

    def _await(self, run: Run, engine: Engine, done: Future[Any]) -> None:
        """Hand a run over to the commit thread when its engine has ended it, or its timeout is over."""

        def returned(done: Future[Any], verdict: BaseException | None = None) -> None:
            if verdict is None:
                self._commits.put(run, partial(run.receive, done, engine.receive))
            else:
                self._commits.put(run, lambda: Outcome(error=verdict))

        if run.running.engine is None:
            self.engines.watch(done, run.job, returned)
        else:
            done.add_done_callback(returned)

    def _runs_on(self, engine: Engine, jobs: Sequence[RunningJob], store: Store) -> list[Run]:
        """Make the next attempts of jobs that are submitted together."""
        asks = engine.asks_to_begin and store.keeps
        blob_writer = store.blob_writer(self._store_options.compression)
        runs = []
        for running in jobs:
            run = self._run_of(running, engine.name)
            running.attempt += 1
            if not running.sends_value:
                run.job.blob_writer = blob_writer
            if asks and not running.holds_lease():
                run.job.start = run
            else:
                running.state = State.RUNNING
            if engine.shares_arguments:
                if self._run_options.retries:  # the next attempt begins with what this one can't change
                    run.job = run.job.snapshot()
            elif run.job.may_change:  # and has had time to, while the job waited
                run.job.note_changes()
            runs.append(run)
        return runs

    def _pause_after(self, run: Run) -> float | None:
        """Return the seconds to wait before a job that failed is tried again; None if it isn't.

        A job whose large value was lost between the worker and this process is tried again at once, and sends it then.
        """
        running, job, error = run.running, run.job, run.outcome.error
        attempt = running.attempt
        if error is None or attempt == 0:  # the future of another executor has no second attempt
            return None
        pause = self._run_options.pause(error, attempt)
        if isinstance(error, BlobLost):
            running.sends_value, pause = True, 0.0
        if pause is not None:
            self.counts.add(retried=1)
            _log.warning(
                "run %s of %s of %r failed and is repeated in %.2f s: %s",
                attempt,
                self._run_options.retries + 1,
                job,
                pause,
                error_text(error),
            )
            if job.media_folder is not None:
                try:
                    _media.discard(job.media_folder)
                except OSError as problem:  # clean_orphaned_media finds them later
                    _log.warning("the files of %r can't be removed: %s", job, problem)
        elif attempt > 1:
            _log.warning("%r failed for the last of %s times: %s", job, attempt, error_text(error))
            if isinstance(error, WorkerLost):
                error.count_attempts(attempt)
        return pause

    def _retry(self, run: Run) -> bool:
        """Run a job again that has failed on an engine. Return whether it does."""
        running, started = run.running, run.outcome.started or time.time()
        pause = self._pause_after(run)
        if pause is None:
            return False
        again = Run(self, running, run.job, run.executor, run.git_state)
        waiting: Future[Any] = (
            LightFuture()
        )  # stands for the engine's, so that a pausing job can be cancelled
        self._unfinished.add(again)
        running.run, running.engine_future = again, waiting

        def cancelled() -> Outcome | None:
            return None if again.is_taken_over else Outcome(error=CancelledError(), started=started)

        waiting.add_done_callback(lambda _: self._commits.put(again, cancelled))
        if pause:
            timer.add(pause, lambda: self._run_again(running, again, waiting))
        else:
            self._run_again(running, again, waiting)
        return True

    @critical
    def _run_again(self, running: RunningJob, again: Run, waiting: Future[Any]) -> None:
        """Run a job again after its pause, unless it was cancelled or taken over before."""
        if not waiting.set_running_or_notify_cancel():
            return
        running.engine_future = None
        try:
            if running.is_needed_by_worker:  # whose own job occupies a place that this one may need
                threading.Thread(
                    target=self._run_beside, args=(running, again), name="bencher_job-retry", daemon=True
                ).start()
                return
            self._start([running], running.store)
        except BaseException as error:  # noqa: BLE001 - an engine that takes no job: the callers get the error
            self._abandon(running, error)
        self._ended(again)

    def _run_beside(self, running: RunningJob, again: Run) -> None:
        try:
            self._run_here(running)
        except BaseException as error:  # noqa: BLE001 - the callers get the error
            self._abandon(running, error)
        finally:
            self._ended(again)

    # committing

    def _commit(self, runs: Sequence[Run]) -> None:
        """Commit finished runs together and resolve their futures, in the commit thread."""
        final = [run for run in runs if run.outcome.error is None or not self._retry(run)]
        try:
            self._finish(final)
        except BaseException as error:  # noqa: BLE001 - the callers get it, whatever it is
            _log.exception("results can't be kept, or a callback of a future has failed")
            for run in final:
                run.running.jobs.remove(run.running)
                run.running.resolve(Outcome(error=error))
        finally:
            for run in runs:
                self._ended(run)

    def _give_up(self, run: Run, seconds: float) -> Outcome | None:
        """End a job whose value takes longer to be unpickled than the job itself may run."""
        timeout = self._run_options.timeout
        if timeout is None or seconds < timeout:
            return None
        name = describe(run.job)
        error = JobTimeout(
            f"{name} has run in time, but its result could not be unpickled within another {timeout:g} s. Return "
            f"plain data, or mend the class's __setstate__.",
            job=name,
            seconds=timeout,
        )
        return Outcome(error=error)

    def _finish(self, runs: Sequence[Run]) -> None:
        """Commit the results of runs, and then give each caller the value or the exception."""
        for run in runs:
            run.running.state = State.COMMITTING
            run.running.outcome = run.outcome
        unsaved, winners = commit(runs, self._store_options)
        for run in runs if winners else ():
            if (hit := winners.get(run.job.job_key)) is not None:
                self._adopt(run, hit)
        if unsaved:
            self.counts.add(unsaved=len(unsaved))
        try:
            for_each(runs, self._resolve)
        finally:
            for fact in map(printable, filter(None, unsaved)):  # last: the user may turn warnings into errors
                _log.warning("%s", fact)
                warn_caller(f"{fact}. The caller gets it, and the next call computes it again.")

    def _adopt(self, run: Run, hit: Hit) -> None:
        """Resolve the callers of a job with what another machine stored first."""
        value = load(run.job.job_key, hit, run.job.function)
        if value is not MISS:
            run.payload = hit.payload
            run.running.outcome = run.outcome = run.outcome._replace(
                value=value, payload=hit.payload, blob=None
            )

    # resolved

    def _resolve(self, run: Run) -> None:
        """Resolve all callers with the outcome of a run."""
        running, outcome = run.running, run.outcome
        running.jobs.remove(running)
        if isinstance(outcome.error, CancelledError) and not outcome.started and running.attempt < 2:
            self.counts.add(computed=-1)
        elif outcome.error is not None:
            self.counts.add(failed=1, computed=-1 if _was_refused_or_lost(outcome) else 0)
        elif run.payload is None and outcome.blob is not None and len(running.futures) > 1:
            run.payload = run.pickled_for_all()
        running.resolve(outcome, run.payload)

    def _abandon(self, running: RunningJob, error: BaseException) -> None:
        """End a job that will not run, or whose run in this thread was interrupted, and release its lease.

        A job that an engine runs goes on, and its result is stored for later calls.
        """
        if running.engine_future is None:
            running.jobs.abandon(running)
            running.resolve(running.outcome or Outcome(error=error))
            running.release()

    # the results of other executors

    @critical
    def settle(self, future: JobFuture[Any], done: Future[Any], store: Store) -> None:
        """Store the result of any future under its job's key in the commit thread, and resolve the job's own future."""
        run = self._run_of_another(future, store)
        self._commits.start()
        self._unfinished.add(run)
        finish_at_exit(self)
        self._commits.put(run, partial(run.receive, done, _outcome_of))

    def settle_here(
        self, future: JobFuture[Any], done: Future[Any], store: Store, *, replaces: bool = False
    ) -> None:
        """Store the result of a future that is done in this thread, and resolve the job's own future."""
        run = self._run_of_another(future, store)
        run.running.replaces = replaces
        outcome = run.receive(done, _outcome_of)
        if outcome is not None:
            run.outcome = outcome
            self._finish([run])

    def _run_of_another(self, future: JobFuture[Any], store: Store) -> Run:
        job = future.job
        return Run(
            self,
            RunningJob(job, store, running_jobs(store), future),
            job,
            "future",
            git_state_of(job.function),
        )

    # the end

    def resolves_here(self) -> bool:
        """Whether this thread resolves futures, as in a callback of one, and so must not wait for others."""
        return threading.get_ident() in self._resolving

    def _ended(self, work: object) -> None:
        """Remove a run or a waiter from the unfinished ones."""
        with self._lock:
            self._unfinished.discard(work)
            waiting = []
            if not self._unfinished:
                waiting, self._until_finished = self._until_finished, waiting
        for lock in waiting:
            lock.release()

    def finish(self, *, wait: bool) -> None:
        """Commit what has been computed. With `wait`, first wait for the jobs that run or that a worker can run."""
        if wait:
            self.wait(gives_up=True)
        self._commits.close()

    def wait(self, *, gives_up: bool = False) -> None:
        """Wait until each running job has ended and its result is stored.

        With `gives_up`, end jobs of a cluster on which no worker can run any.

        Raises:
            BencherJobError: in an event loop or a thread that such a job needs.
        """
        key = _media.current_job_key()
        if key is not None and self._unfinished and self.engines.may_need_this_thread():
            raise BencherJobError(
                f"The job {key} can't wait for the jobs in flight of a cache that runs them in threads: it may be "
                f"one of them, or keep a place that they need. Call wait() and close() outside of jobs."
            )
        loops = sys.modules.get(LOOP_ENGINE)
        if loops is not None:
            loops.refuse_to_wait_in(running_loop())
            loops.lose_runs_of_stopped_loops()
        until_finished = self._released_by_the_last_job()
        while not until_finished.acquire(timeout=LOOK_SECONDS):
            if gives_up:
                self._end_stuck()

    def _end_stuck(self) -> None:
        """End the jobs of this cache if no worker can run any."""
        for work in self._unfinished.copy():
            if isinstance(work, Run) and isinstance(work.running.engine_future, CallFuture):
                work.running.engine_future.give_up()

    def _released_by_the_last_job(self) -> threading.Lock:
        """Return a lock that is held until nothing is unfinished. Unlike a condition, Ctrl-C can't keep it locked."""
        until_finished = threading.Lock()
        with self._lock:
            if self._unfinished:
                until_finished.acquire()
                self._until_finished.append(until_finished)
        return until_finished


def _refuse_impossible(job: Job) -> None:
    """Refuse a job that would wait for itself, or that begins near the recursion limit.

    Where the stack is full, abandoning a job fails as its run does, and its callers would wait for ever.
    """
    try:
        sys._getframe(sys.getrecursionlimit() - ROOM)  # noqa: SLF001 - the only quick way to see how deep the stack is
    except ValueError:  # not that deep
        pass
    else:
        raise RecursionError(
            "maximum recursion depth exceeded: a cached call takes some frames of its own. Recurse less deep, or raise "
            "the limit with sys.setrecursionlimit()."
        )
    if job.job_key in CURRENT.get().keys:
        raise BencherJobError(
            f"{job!r} asks for its own result while it runs, so it would wait for itself for ever."
        )


def _was_refused_or_lost(outcome: Outcome) -> bool:
    """Whether a run ended without the function's value or exception."""
    error = outcome.error
    return isinstance(error, BencherJobError) and not isinstance(error, JobTimeout) and not outcome.started


def _outcome_of(done: Future[Any]) -> Outcome:
    """Return the outcome of any future that is done."""
    if done.cancelled():
        return Outcome(error=CancelledError())
    error = done.exception()
    return Outcome(error=error) if error is not None else Outcome(value=done.result(), started=time.time())


def load(key: str, hit: Hit, function: object) -> Any:
    """Unpickle a stored value for a function, or return `MISS` with a warning if that fails."""
    try:
        return load_for(function, hit.load)
    except Exception as error:  # noqa: BLE001 - a class that is gone or has changed can raise anything
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
