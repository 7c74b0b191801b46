"""Run jobs for callers in an event loop whose cache has no workers.

    a coroutine function: a task in the event loop of a waiter, so that it can use objects of that loop
    a plain function: in a thread, one job at a time, so that the loop is not blocked

A loop can end before its task: it is closed or stopped, or all its tasks are cancelled. Then the job starts again in
the loop of another waiter, or in a new thread for a waiter outside any loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from .._context import CURRENT
from .._errors import BencherJobError
from .._loops import Caller
from .._options import Executors
from .engine import Engine, Outcome, leave_if_forked, run_inline
from .entry import outcome_of_coroutine
from .threads import ThreadPool

if TYPE_CHECKING:
    from .._job import Job


class LoopRun(Future[Outcome]):
    """The future of a job that runs as a task, in one event loop at a time."""

    def __init__(self, job: Job, engine: LoopEngine) -> None:
        super().__init__()
        self.job = job
        self._engine = engine
        self._lock = threading.Lock()
        self._place: object = None
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False
        self.loop: AbstractEventLoop | None = None
        """The loop that the job runs in."""

    def begin_in(self, caller: Caller) -> bool:
        """Start the job from its beginning in the caller's loop. False if that loop is closed."""
        with self._lock:
            place = self._place = object()
            before, self._task, self.loop = (self._task, self.loop), None, caller.loop
        _cancel(*before)
        try:
            caller.loop.call_soon_threadsafe(self._begin, place, context=caller.context)
        except RuntimeError:
            return False
        return True

    def _begin(self, place: object) -> None:
        """Start the task. Runs in the task's loop."""
        with self._lock:
            if place is not self._place or self.done():
                return
            if not self.running() and not self.set_running_or_notify_cancel():
                return
            self._task = asyncio.get_running_loop().create_task(self._run(place), name=self.job.job_id)
            if self._is_stopped:
                self._task.cancel()

    async def _run(self, place: object) -> None:
        outcome = await outcome_of_coroutine(self.job, self._engine.timeout)
        error = outcome.error
        with self._lock:
            if place is not self._place:  # the job has moved to another loop
                return
            is_lost = isinstance(error, GeneratorExit) or (
                isinstance(error, asyncio.CancelledError) and not self._is_stopped and _was_cancelled()
            )
        if not is_lost or not self._engine.move(self):
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                outcome = Outcome(
                    None, CancelledError(), None, outcome.started, outcome.seconds, outcome.place
                )
            self.set_result(outcome)
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise error

    def stop(self) -> bool:
        """Cancel the job, even if it runs. False if it has ended."""
        if self.cancel():
            return True
        with self._lock:
            if self.done():
                return False
            self._is_stopped = True
            _cancel(self._task, self.loop)
        return True

    def lose(self) -> None:
        """End the job as cancelled, because its loop will not run again."""
        with self._lock:
            self._place = None
        with suppress(InvalidStateError):  # it has just ended
            if not self.cancel():
                self.set_result(Outcome(error=CancelledError()))


def _cancel(task: asyncio.Task[None] | None, loop: AbstractEventLoop | None) -> None:
    if task is not None and loop is not None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(task.cancel)


def _was_cancelled() -> bool:
    """Whether this task was cancelled, as opposed to a coroutine that raised `CancelledError` itself."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class LoopEngine(Engine):
    """Run one job in the event loop of one of its waiters."""

    def __init__(self, timeout: float | None = None) -> None:
        source = None
        super().__init__(
            str(Executors.SERIAL), self._run_in_loops, source, ends_jobs=True, shares_arguments=True
        )
        self.timeout = timeout
        self._lock = threading.Lock()
        self._waiting: list[tuple[Future[Any], Caller | None]] = []
        self._run: LoopRun | None = None

    def join(self, future: Future[Any], caller: Caller | None) -> None:
        """Register a waiter. If the job's loop has stopped, the job moves to the new waiter."""
        with self._lock:
            self._waiting.append((future, caller))
            run = self._run
        if run is not None and not run.done() and run.loop is not None and not run.loop.is_running():
            self.move(run)

    def _run_in_loops(self, _executor: None, jobs: Sequence[Job]) -> list[Future[Any]]:
        return [self._run_in_loop(job) for job in jobs]

    def _run_in_loop(self, job: Job) -> Future[Any]:
        run = LoopRun(job, self)
        with self._lock:
            self._run = run
        _runs.add(run)
        if not self.move(run):
            run.lose()
        return run

    def move(self, run: LoopRun) -> bool:
        """Start a job in the loop or thread of another waiter. False if there is none."""
        with self._lock:
            waiting = [caller for future, caller in self._waiting if not future.done()]
        in_loops = [caller for caller in waiting if caller is not None and caller.loop is not run.loop]
        in_loops.sort(key=lambda caller: not caller.loop.is_running())
        for caller in in_loops:
            if run.begin_in(caller):
                return True
        if None in waiting:
            threading.Thread(target=_run_in_thread, args=(run,), name="bencher_job-loop", daemon=True).start()
            return True
        return False

    def end(self, future: Future[Any]) -> bool:
        """Cancel a job, even if it runs."""
        return future.stop() if isinstance(future, LoopRun) else future.cancel()


def _run_in_thread(run: LoopRun) -> None:
    async def until_it_ends() -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        run.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
        run.begin_in(Caller(loop, contextvars.copy_context()))
        await ended.wait()

    asyncio.run(until_it_ends())


class ThreadBesideLoop(Engine):
    """Run jobs one at a time in a thread, for callers in an event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPool(1)
        super().__init__(str(Executors.SERIAL), self._run_beside_loop, self._pool, shares_arguments=True)

    def _run_beside_loop(self, _executor: ThreadPool, jobs: Sequence[Job]) -> list[Future[Any]]:
        return [self._submit(job) for job in jobs]

    def _submit(self, job: Job) -> Future[Any]:
        context = contextvars.copy_context()
        if not CURRENT.get().keys:
            return self._pool.submit(context.run, _run_beside, job)
        own = ThreadPool(1)  # the shared thread may run the job that waits for this one
        future = own.submit(context.run, _run_beside, job)
        own.shutdown(wait=False)
        return future

    def release(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False)


def _run_beside(job: Job) -> Outcome:
    pid = os.getpid()
    if job.may_change:
        job.note_changes()
    outcome = run_inline(job)
    leave_if_forked(pid, outcome.error)
    return outcome


_runs: Final[weakref.WeakSet[LoopRun]] = weakref.WeakSet()


def refuse_to_wait_in(loop: AbstractEventLoop) -> None:
    """Refuse to block an event loop in which jobs run.

    Raises:
        BencherJobError: if a job runs in that loop.
    """
    for run in list(_runs):
        if not run.done() and run.loop is loop:
            raise BencherJobError(
                f"{run.job!r} runs in this event loop, which would stand still for ever if it waited here. Await the "
                f"calls in flight first."
            )


def lose_runs_of_stopped_loops() -> None:
    """End, at exit, the jobs whose loops have stopped."""
    for run in list(_runs):
        if not run.done() and run.loop is not None and not run.loop.is_running():
            run.lose()
