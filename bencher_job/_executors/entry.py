"""The entry point of every worker: run a packed job and return how it ended.

    parcel -> execute -> RunResult( plain value | value file | value by value | error ) -> open -> Outcome

An exception, an exit or a result that cannot be pickled ends its own job only.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from enum import IntEnum
from functools import partial
from typing import Any, Final, NamedTuple, cast

from .._context import CURRENT, call_in, critical, runs_jobs
from .._errors import BencherJobError, CodeMismatch
from .._job import Job, run_job
from .._keys.libraries import other_versions
from .._keys.names import load_for
from .._loops import run_to_end
from .._media import job_context
from .._stores.blobs import LARGE, Blob, BlobLost, write_blob
from .._stores.codec import Payload, dump, dump_result
from .._stores.parts import Buffer
from .engine import (
    Files,
    OtherVersions,
    Outcome,
    Place,
    as_worker,
    describe,
    error_text,
    files_of,
    here,
    leave_if_forked,
    time_is_over,
)
from .packing import LoadedCall, Parcel, load, loaded_functions
from .pickling import ResultPickler, dump_error, dumps, load_error
from .surroundings import collected_records, handle_records, set_variables


def run_coroutine(job: Job, timeout: float | None) -> Outcome:
    """Run a job's coroutine in a new event loop in this thread."""
    return call_in(
        CURRENT.get(), lambda: run_to_end(outcome_of_coroutine(job, timeout)), surroundings=job.surroundings
    )


@critical
async def outcome_of_coroutine(job: Job, timeout: float | None) -> Outcome:
    """Run a job's coroutine in this loop. Its exception, or a `JobTimeout`, becomes the outcome's error."""
    value, error = None, None
    started, clock = time.time(), time.perf_counter()
    limit = asyncio.timeout(timeout)
    try:
        if job.may_change:
            await asyncio.to_thread(job.note_changes)
            started, clock = time.time(), time.perf_counter()
        CURRENT.set(job_context(job.job_key, job.media_folder))  # of this task
        async with limit:
            value = await _call_coroutine(job)
    except BaseException as raised:  # noqa: BLE001 - any exception ends this job only
        has_expired = isinstance(raised, TimeoutError) and limit.expired()
        error = time_is_over(job, timeout or 0.0) if has_expired else raised
    return Outcome(value, error, None, started, time.perf_counter() - clock, here())


@runs_jobs
async def _call_coroutine(job: Job) -> Any:
    return await cast("Awaitable[Any]", job.call())


class ResultKind(IntEnum):
    """What the payload of a run result holds."""

    PLAIN = 0
    """A value that plain pickle can pickle."""
    BY_VALUE = 1
    """A value that refers to classes or functions without an importable name."""
    ERROR = 2
    """An exception."""
    NOT_LOADED = 3
    """The exception of a worker that could not load the job and has not run it."""
    WANTS_FUNCTION = 4
    """Nothing: the job came without its function, and the worker has not loaded it, so nothing ran."""
    BLOB = 5
    """The value file that the worker wrote."""


LARGEST_INLINE: Final = 1 << 14
"""Size in bytes up to which a byte string is part of a message's head. Larger ones are sent as buffers."""

_KINDS: Final = tuple(ResultKind)
_ERRORS: Final = frozenset({ResultKind.ERROR, ResultKind.NOT_LOADED})
_dumps_result: Final = partial(dumps, pickler=ResultPickler)


class RunResult(NamedTuple):
    """How a run ended, as bytes, with its start time, duration and place, and the log records that came with it."""

    kind: ResultKind
    payload: Payload
    started: float
    seconds: float
    place: Place
    may_have_files: bool = True
    other_versions: OtherVersions = ()
    files: Files = ()
    records: tuple[bytes, ...] = ()

    def message(self) -> tuple[tuple[Any, ...], Sequence[Buffer]]:
        """Return a head of builtin types, and buffers that are not copied."""
        kind, (stream, buffers), *times, place, has_files, others, files, records = self
        rest = *times, tuple(place), has_files, others, files, records
        if len(stream) > LARGEST_INLINE:
            return (int(kind), None, *rest), (stream, *buffers)
        return (int(kind), bytes(stream), *rest), buffers

    @classmethod
    def of_message(cls, head: Sequence[Any], buffers: Sequence[Buffer]) -> RunResult:
        """Make a result from what `message()` returned."""
        kind, stream, started, seconds, place, *rest = head
        if stream is None:
            stream, *buffers = buffers
        return cls(_KINDS[kind], Payload(stream, tuple(buffers)), started, seconds, Place(*place), *rest)

    def parts(self) -> tuple[bytes, ...]:
        """Return the message as byte strings."""
        head, buffers = self.message()
        return pickle.dumps(head, protocol=5), *map(bytes, buffers)

    @classmethod
    def of_parts(cls, parts: Sequence[Buffer]) -> RunResult:
        """Make a result from what `parts()` returned."""
        return cls.of_message(pickle.loads(parts[0]), parts[1:])

    def open(self, label: object) -> Outcome:
        """Unpickle the result. If that fails, the outcome is an error that names the job by its label."""
        value, error, blob = None, None, None
        handle_records(self.records)
        function = label.function if isinstance(label, Job) else None
        try:
            if self.kind in _ERRORS:
                error = load_error(self.payload.stream)
            elif self.kind is ResultKind.BLOB:
                written = load_for(function, self.payload.load)
                value = load_for(function, partial(_value_of, written, label))
                blob = written
            else:
                value = load_for(function, self.payload.load)
        except BlobLost as lost:
            error = lost
        except BaseException as problem:  # noqa: BLE001 - a class's unpickling can raise anything
            what = "exception" if self.kind in _ERRORS else "result"
            error = BencherJobError(
                f"The {what} of {describe(label)} came back, but can't be unpickled here: "
                f"{error_text(problem)}. Return plain data, or fix the class's __reduce__."
            )
            error.__cause__ = problem
        is_plain = error is None and self.kind is ResultKind.PLAIN
        return Outcome(
            value,
            error,
            self.payload if is_plain else None,
            *self[2:6],
            blob,
            self.other_versions,
            self.files,
        )


def run_packed(
    body: bytes, function: PickledFunction | None, tell_begin: Callable[[], None] | None = None
) -> tuple[bytes, ...]:
    """Run a job that was sent apart from its function, or without it, and return the parts of its result.

    Never raises. The log records of the job travel with its result.
    """
    with collected_records() as records:
        try:
            run_result = execute(Parcel.of_pieces(body, function), tell_begin or _say_nothing)
        except BaseException as error:  # noqa: BLE001 - a damaged parcel must not end the worker
            run_result = _run_result(time.time(), 0.0, ResultKind.ERROR, Payload(dump_error(error)))
    return run_result._replace(records=tuple(records)).parts()


STUCK_SECONDS: Final = 0.1
"""Seconds that a batch may run before the jobs that it has not begun are returned."""

PickledFunction = tuple[Buffer, tuple[Buffer, ...]]

Ended = tuple[int, tuple[bytes, ...]]
"""The index of a job in its batch, and the parts of its run result."""


def run_batch(
    bodies: Sequence[bytes], functions: Sequence[PickledFunction], tell: Callable[[list[Ended], int], None]
) -> list[Ended]:
    """Run jobs in this worker, each with its function or all with one, and return their results.

    If the batch takes long, call `tell` on another thread with the results so far and the present job's index. The jobs
    behind it do not run, and are missing from the results.
    """
    lock, ended, begun, is_given_back = threading.Lock(), list[Ended](), -1, False

    def give_back() -> None:
        nonlocal is_given_back
        with lock:
            is_given_back, so_far = True, list(ended)
        tell(so_far, begun)

    timer = threading.Timer(STUCK_SECONDS, give_back)
    timer.daemon = True
    if len(bodies) > 1:
        timer.start()
    for place, body in enumerate(bodies):
        with lock:
            if is_given_back:
                break
            begun = place
        parts = run_packed(body, functions[place if len(functions) > 1 else 0])
        with lock:
            ended.append((place, parts))
    timer.cancel()
    return ended


def _say_nothing() -> None:
    pass


def execute(parcel: Parcel, tell_begin: Callable[[], None] = _say_nothing) -> RunResult:
    """Unpack a parcel, run the call and return its result. Never raises.

    `tell_begin` is called after loading, right before the function. A child that the job forked does not return
    from here: its process ends.
    """
    pid = os.getpid()
    started, clock, seconds = time.time(), 0.0, 0.0
    if not parcel.function.payload.stream and parcel.function.digest not in loaded_functions:
        return _run_result(started, 0.0, ResultKind.WANTS_FUNCTION, Payload(b""))
    try:
        call = _load(parcel)
        is_elsewhere = (
            call.elsewhere is not None
            and call.media_folder is not None
            and call.elsewhere.is_other_disk(call.media_folder)
        )
        with as_worker(call.submitter):
            tell_begin()
            started, clock = time.time(), time.perf_counter()
            value = copy_context().run(_run, call) if call.variables else _run(call)
        seconds = time.perf_counter() - clock
        kind, payload = _dump_value(value, call.function)
        leave_if_forked(pid)
        may_have_files = call.media_folder is not None and os.access(call.media_folder, os.F_OK)
        files = files_of(call.media_folder) if is_elsewhere and may_have_files and call.media_folder else ()
        others = other_versions(call.libraries) if call.libraries else ()
        if kind is ResultKind.PLAIN and payload.nbytes >= LARGE and not others:
            kind, payload = _as_blob(call, payload)
        return RunResult(kind, payload, started, seconds, here(), may_have_files, others, files)
    except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt end the job, not the worker
        leave_if_forked(pid, error)
        if clock and not seconds:
            seconds = time.perf_counter() - clock
        kind = ResultKind.ERROR if clock else ResultKind.NOT_LOADED
        return _run_result(started, seconds, kind, Payload(dump_error(error)))


def _run_result(started: float, seconds: float, kind: ResultKind, payload: Payload) -> RunResult:
    return RunResult(kind, payload, started, seconds, here())


def _load(parcel: Parcel) -> LoadedCall:
    try:
        return load(parcel)
    except CodeMismatch:
        raise
    except BaseException as problem:
        raise BencherJobError(
            f"A job's function or arguments can't be unpickled in the worker: {error_text(problem)}. "
            f"The worker must be able to import the same modules as the process that submits."
        ) from problem


def _run(call: LoadedCall) -> Any:
    set_variables(call.variables)
    if call.names is None:
        return call.function(*call.args, **call.kwargs)
    job_id, job_key, tag = call.names
    job = Job(job_id, call.function, call.kwargs, job_key, tag, positional=call.args)
    job.media_folder = call.media_folder
    return run_job(job)


def _dump_value(value: object, function: object) -> tuple[ResultKind, Payload]:
    with suppress(Exception):  # pickle by value what plain pickle refuses
        return ResultKind.PLAIN, dump_result(value, function)
    try:
        return ResultKind.BY_VALUE, dump(value, _dumps_result)
    except Exception as problem:
        raise BencherJobError(
            f"The job's result, a {type(value).__module__}.{type(value).__qualname__}, can't be pickled and so "
            f"can't leave the worker: {error_text(problem)}. Return plain data."
        ) from problem


def _as_blob(call: LoadedCall, payload: Payload) -> tuple[ResultKind, Payload]:
    """Write a large value to a file, if the submitter has named a folder and writing succeeds."""
    if call.terms is None or call.names is None:
        return ResultKind.PLAIN, payload
    _, key, _ = call.names
    blob = write_blob(call.terms, payload, key)
    return (ResultKind.PLAIN, payload) if blob is None else (ResultKind.BLOB, dump(blob))


def _value_of(blob: Blob, label: object) -> Any:
    """Load the value file that a worker wrote. Remove it if that fails.

    Raises:
        BlobLost: if the file is missing or damaged.
        BaseException: whatever unpickling raises.
    """
    if not isinstance(label, Job) or label.blob_writer is None:
        raise TypeError(f"{describe(label)} has no blob writer that a worker could have written to")
    try:
        return label.blob_writer.read(blob, label.job_key).load_in_place()
    except BaseException:
        label.blob_writer.discard(blob)
        raise


def unpack_value(run_result: RunResult, label: object) -> Any:
    """Unpickle a run result and return its value.

    Raises:
        BaseException: the job's own exception.
    """
    outcome = run_result.open(label)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
