"""What runs the jobs of one cache, its timeouts, and what is finished when the program ends."""

from __future__ import annotations

import _thread
import atexit
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .. import _media
from .._context import is_inside, runs_jobs
from .._errors import BencherJobError, JobTimeout
from .._executors import (
    Engine,
    Executors,
    check_limits,
    describe,
    engine_for,
    error_text,
    executor_name,
    inside_worker,
)
from .._job import Job
from .._loops import is_coroutine_function
from .._options import PoolOptions
from .._processes import renew_after_fork
from .._timer import timer

LOOKS_PER_TIMEOUT: Final = 20
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks at running jobs: a timeout is noticed so late at most."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Limited:
    future: Future[Any]
    job: Job
    returned: Callable[[Future[Any], BaseException | None], None]
    begun: float | None = None


class Timeouts:
    """The timeouts of one cache's jobs on an engine that can't end them.

    The time counts from when the executor reports that a job runs.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout
        self._pause = min(max(timeout / LOOKS_PER_TIMEOUT, SHORTEST_PAUSE), LONGEST_PAUSE)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start empty in a forked child."""
        self._lock = threading.Lock()
        self._watched: dict[Future[Any], _Limited] = {}
        self._is_looking = False

    def watch(
        self, future: Future[Any], job: Job, returned: Callable[[Future[Any], BaseException | None], None]
    ) -> None:
        """Call `returned` once: with the future when it is done, or before that with a `JobTimeout` as well."""
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
            limited.future.cancel()  # some engines give up what they have not begun

    def _has_begun(self, limited: _Limited) -> bool:
        """Whether a job runs. If its executor can't say, it counts as running, so that its time ends."""
        try:
            return self._engine.has_begun(limited.future)
        except Exception as error:  # noqa: BLE001 - the future is of an executor of the user's
            _log.warning("its executor can't tell whether %r runs: %r", limited.job, error)
            return True

    def _verdict(self, job: Job) -> JobTimeout:
        name = describe(job)
        return JobTimeout(
            f"{name} ran for longer than its timeout of {self._timeout:g} s. {self._engine.name} can't end it, so it "
            f"may still run there; its result will be dropped.",
            job=name,
            seconds=self._timeout,
        )


class Engines:
    """What the jobs of one cache run on. Nothing is started before the first job.

    Attributes:
        executor_type: the member of `Executors`, or the class name of the executor that was given.
        is_serial: whether each job runs in the calling thread.
        is_initialized: whether no initializer has to be called in this process before a job.

    Raises:
        TypeError: when `executor` is not an executor.
        ValueError: when it does not support an option.
    """

    def __init__(
        self,
        executor: Any,
        settings: PoolOptions,
        timeout: float | None,
        patience: float | None = None,
        *,
        of_coroutines: bool = False,
    ) -> None:
        check_limits(executor, settings, timeout, patience, of_coroutines=of_coroutines)
        self.executor_type = executor_name(executor)
        self.is_serial = self.executor_type == Executors.SERIAL
        self._executor = executor
        self._settings = settings
        self._timeout = timeout
        self._patience = patience
        self._own: Engine | None = None
        self._beside: Engine | None = None
        self._timeouts: Timeouts | None = None
        self.is_initialized = not self.is_serial or settings.initializer is None
        self._calls_initializer = False
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the locks in a forked child."""
        self._lock = threading.Lock()
        self._initializing = threading.RLock()  # the initializer may run jobs

    @runs_jobs
    def _call_initializer(self) -> None:
        self._settings.initializer(*self._settings.initargs)  # type: ignore[misc]  # there is one

    def initialize_here(self) -> None:
        """Call the initializer before the first job of SERIAL, for which this process is the worker.

        Raises:
            BencherJobError: when it fails. Then the job must not run, and the next job calls it again.
        """
        if self.is_initialized:
            return
        with self._initializing:
            if self.is_initialized or self._calls_initializer:
                return
            self._calls_initializer = True
            try:
                self._call_initializer()
            except Exception as error:
                raise BencherJobError(
                    f"The initializer failed in this process: {error_text(error)}. No job runs before it succeeds."
                ) from error
            else:
                self.is_initialized = True
            finally:
                self._calls_initializer = False

    @property
    def own(self) -> Engine:
        """The cache's own engine, made with the first job, since some are slow to import."""
        with self._lock:
            if self._own is None:
                engine = engine_for(self._executor, self._settings, self._timeout, self._patience)
                if self._timeout is not None and not engine.ends_jobs:
                    self._timeouts = Timeouts(engine, self._timeout)
                self._own = engine
            return self._own

    def beside_loop(self, job: Job) -> Engine | None:
        """Return the engine for a caller in an event loop, or None for the cache's own engine.

        A coroutine runs in the caller's loop. A plain function that would run in line runs in a thread.
        """
        if not (self.is_serial or inside_worker()):
            return None
        self.initialize_here()
        from .._executors.loop import LoopEngine, ThreadBesideLoop  # slow to import

        if is_coroutine_function(job.function):
            return LoopEngine(self._timeout)
        with self._lock:
            if self._beside is None:
                self._beside = ThreadBesideLoop()
            return self._beside

    def watch(self, future: Future[Any], job: Job, returned: Callable[..., None]) -> None:
        """Call `returned` when a run on the cache's own engine has ended, or has exceeded a timeout."""
        if self._timeouts is None:
            future.add_done_callback(returned)
        else:
            self._timeouts.watch(future, job, returned)

    def may_need_this_thread(self) -> bool:
        """Whether a job that this thread runs may occupy a worker that other jobs of the cache need."""
        is_in_pool = self._own is not None and self._own.shares_arguments and inside_worker()
        return is_in_pool or self._beside is not None

    def release(self) -> None:
        """Release the engines."""
        for engine in (self._own, self._beside):
            if engine is not None:
                engine.release()
        self._beside = None


LOOK_EVERY: Final = 0.001
"""Seconds between two looks at whether a thread is outside of the library."""


class Finishes(Protocol):
    """An object that may have running jobs when the program ends."""

    def finish(self, *, wait: bool) -> None:
        """Commit what has been computed. With `wait`, first wait for the jobs that still run."""


_owners: weakref.WeakSet[Finishes] = weakref.WeakSet()


def finish_at_exit(owner: Finishes) -> None:
    """Finish submitted jobs when the program ends, as `concurrent.futures` does.

    After Ctrl-C only what is done is stored. Call this when an engine has been started: exit hooks run in reverse
    order, so this one then runs before the engine's own, while the workers are still there.
    """
    if not _owners:
        atexit.unregister(_finish)
        atexit.register(_finish)
    _owners.add(owner)


class _Postponed:
    """A call that a thread makes as soon as another thread is outside of the library."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._thread = threading.get_ident()
        self._is_done = threading.Event()

    def run(self) -> None:
        try:
            while self._is_inside():
                time.sleep(LOOK_EVERY)
            self._act()
        except Exception:  # noqa: BLE001 - no caller waits for it
            _log.exception("a call that was postponed for a signal handler has failed")
        finally:
            self._is_done.set()
            _postponed.discard(self)

    def _is_inside(self) -> bool:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - the one way to ask
        return frame is not None and is_inside(frame)

    def finish(self, *, wait: bool) -> None:
        """Wait until the call has ended, with `wait`."""
        if wait:
            self._is_done.wait()


_postponed: set[_Postponed] = set()


def do_outside(act: Callable[[], None]) -> None:
    """Make a call in another thread as soon as this one is outside of the library. The end of the program waits for it.

    The thread is started with `_thread`: starting one with `threading` may need a lock that this thread holds.
    """
    if sys.is_finalizing():  # running jobs have been finished
        return
    postponed = _Postponed(act)
    _postponed.add(postponed)
    finish_at_exit(postponed)
    _thread.start_new_thread(postponed.run, ())


def _finish() -> None:
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    for owner in list(_owners):
        owner.finish(wait=not interrupted)
