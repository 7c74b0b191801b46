"""Knows what the jobs of one cache run on: an engine that is made with the first of them, and others beside loops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .._errors import BencherJobError
from .._executors import (
    Engine,
    Executors,
    PoolSettings,
    check_limits,
    engine_for,
    executor_name,
    inside_worker,
    told,
)
from .._forks import renew_after_fork
from .._job import Job
from .._loops import is_coroutine_function

if TYPE_CHECKING:
    from .limits import Limits

__all__ = ["Engines"]


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
        self, executor: Any, settings: PoolSettings, timeout: float | None, *, of_coroutines: bool = False
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
                self._settings.initializer(*self._settings.initargs)  # type: ignore[misc]  # there is one
            except Exception as error:
                raise BencherJobError(
                    f"The initializer failed in this process: {told(error)}. No job runs before it succeeds."
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
                    from .limits import Limits  # takes long to import, and few jobs have a timeout

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
