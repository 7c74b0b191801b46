"""Knows how a coroutine runs as a job, for so many seconds at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

from .. import _media
from .._inside import critical, runs_jobs
from .._loops import run_to_end
from .base import Outcome, here

if TYPE_CHECKING:
    from .._job import Job

__all__ = ["outcome_of_coroutine", "run_coroutine"]


def run_coroutine(job: Job, timeout: float | None) -> Outcome:
    """Run a job's coroutine to its end, in an event loop of its own in this thread."""
    return run_to_end(outcome_of_coroutine(job, timeout))


@critical
async def outcome_of_coroutine(job: Job, timeout: float | None) -> Outcome:
    """Run a job's coroutine here; whatever it raises is the outcome's error, a `JobTimeout` after so many seconds."""
    value, error = None, None
    started, clock = time.time(), time.perf_counter()
    limit = asyncio.timeout(timeout)
    try:
        if job.may_change:
            await asyncio.to_thread(job.note_changes)
            started, clock = time.time(), time.perf_counter()
        with _media.running(job.job_key, job.media_folder):
            async with limit:
                value = await _called(job)
    except BaseException as raised:  # noqa: BLE001 - whatever it is, it ends this job
        error = _out_of_time(job, timeout) if isinstance(raised, TimeoutError) and limit.expired() else raised
    return Outcome(value, error, None, started, time.perf_counter() - clock, here())


@runs_jobs
async def _called(job: Job) -> Any:
    return await cast("Awaitable[Any]", job.call())


def _out_of_time(job: Job, timeout: float | None) -> BaseException:
    from .envelope import time_is_over  # takes long to import

    return time_is_over(job, timeout or 0.0)
