"""The entry point of every worker: run a packed job and return how it ended.

    parcel -> execute -> RunResult( plain value | value file | value by value | error ) -> open_result -> Outcome

An exception, an exit or a result that cannot be pickled ends its own job only.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import reprlib
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from enum import IntEnum
from functools import partial
from typing import Any, Final, NamedTuple, cast

from .._context import CURRENT, call_in, critical, runs_jobs
from .._errors import BencherJobError, CodeMismatch, JobTimeout
from .._job import Job, run_job
from .._keys.libraries import other_versions
from .._keys.names import load_for
from .._loops import run_to_end
from .._media import job_context
from .._options import follow_override
from .._stores.blobs import LARGE, Blob, BlobLost, write_blob
from .._stores.codec import Payload, dump, dump_result
from .._stores.parts import Buffer
from .base import OtherVersions, Outcome, Place, as_worker, error_text, here, leave_if_forked, this_process
from .elsewhere import Files, files_of
from .exceptions import dump_error, load_error
from .logs import collected_records, handle
from .packing import LoadedCall, Parcel, is_loaded, load
from .pickling import ResultPickler, dumps
from .surroundings import set_variables
from .wire import LARGEST_INLINE, Message, encode_message

__all__ = [
    "STUCK_SECONDS",
    "Ended",
    "ResultKind",
    "RunResult",
    "describe",
    "execute",
    "open_result",
    "outcome_of_coroutine",
    "run_batch",
    "run_coroutine",
    "run_in_pieces",
    "run_packed",
    "time_is_over",
    "unpack_value",
]


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


_KINDS: Final = tuple(ResultKind)
_ERRORS: Final = frozenset({ResultKind.ERROR, ResultKind.NOT_LOADED})
_HEAD: Final = struct.Struct("<B??ddI")
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

    def parts(self) -> list[Buffer]:
        """Return the buffers to send, without copying."""
        place = self.place
        others = ("\t".join(each) for each in self.other_versions)
        names = "\n".join((place.host, place.python, place.platform, *others))
        has_more = self.files != () or bool(self.records)
        times = self.started, self.seconds
        head = _HEAD.pack(self.kind, self.may_have_files, has_more, *times, place.pid) + names.encode()
        more = [pickle.dumps((self.files, self.records))] if has_more else []
        return [head, *more, self.payload.stream, *self.payload.buffers]

    def message(self, number: int) -> list[Buffer]:
        """Return the buffers of a message about job `number` to the pool."""
        stream, buffers = self.payload
        inline = None
        if len(stream) > LARGEST_INLINE:
            buffers = stream, *buffers
        else:
            inline = bytes(stream)
        times = self.started, self.seconds
        head = number, int(self.kind), self.may_have_files, *times, inline, self.other_versions
        return encode_message(head, buffers)

    @classmethod
    def of_message(cls, message: Message, place: Place) -> RunResult:
        """Make a result from what `message()` returned."""
        (_, kind, may_have_files, started, seconds, stream, others), buffers = message
        if stream is None:
            stream, *buffers = buffers
        payload = Payload(stream, tuple(buffers))
        return cls(_KINDS[kind], payload, started, seconds, place, may_have_files, others)

    @classmethod
    def of_parts(cls, parts: Sequence[Buffer]) -> RunResult:
        """Make a result from what `parts()` returned."""
        kind, may_have_files, has_more, started, seconds, pid = _HEAD.unpack_from(parts[0])
        host, python, platform, *others = bytes(parts[0][_HEAD.size :]).decode().split("\n")
        place = Place(host, pid, python, platform)
        files, records = pickle.loads(parts[1]) if has_more else ((), ())
        stream, *buffers = parts[1 + has_more :]
        payload = Payload(stream, tuple(buffers))
        versions = tuple((name, there, here) for name, there, here in (each.split("\t") for each in others))
        return cls(
            ResultKind(kind), payload, started, seconds, place, may_have_files, versions, files, records
        )


def run_packed(blob: bytes, tell_begin: Callable[[], None] | None = None) -> tuple[bytes, ...]:
    """Run a packed job and return the parts of its result as plain bytes. Never raises."""
    try:
        run_result = _execute_and_collect(Parcel.of_bytes(blob), tell_begin or _say_nothing)
    except BaseException as error:  # noqa: BLE001 - a damaged parcel must not end the worker
        run_result = _run_result(time.time(), 0.0, ResultKind.ERROR, Payload(dump_error(error)))
    return tuple(bytes(part) for part in run_result.parts())


def run_in_pieces(body: bytes, function: PickledFunction | None) -> RunResult:
    """Run a job that was sent apart from its function, or without it. Never raises."""
    try:
        parcel = Parcel.of_pieces(body, function)
        if function is None and not is_loaded(parcel.function.digest):
            return _run_result(time.time(), 0.0, ResultKind.WANTS_FUNCTION, Payload(b""))
    except BaseException as error:  # noqa: BLE001 - as above
        return _run_result(time.time(), 0.0, ResultKind.ERROR, Payload(dump_error(error)))
    return _execute_and_collect(parcel, _say_nothing)


def _execute_and_collect(parcel: Parcel, tell_begin: Callable[[], None]) -> RunResult:
    """Execute a parcel. The log records of the job travel with its result."""
    with collected_records() as records:
        run_result = execute(parcel, tell_begin)
    return run_result._replace(records=tuple(records)) if records else run_result


STUCK_SECONDS: Final = 0.1
"""Seconds that a job may run before the jobs behind it in the batch are returned."""

PickledFunction = tuple[Buffer, tuple[Buffer, ...]]

Ended = tuple[int, tuple[bytes, ...]]
"""The index of a job in its batch, and the parts of its run result."""


class _Batch:
    """Jobs that run one after another in this worker."""

    def __init__(
        self,
        bodies: Sequence[bytes],
        functions: Sequence[PickledFunction],
        tell: Callable[[list[Ended], int], None],
    ) -> None:
        self._jobs = list(zip(bodies, functions, strict=True))
        self._tell = tell
        self._lock = threading.Lock()
        self._ended: list[Ended] = []
        self._begun = -1
        self._since = 0.0
        self._is_given_back = False

    def run(self) -> list[Ended]:
        for place, (body, function) in enumerate(self._jobs):
            with self._lock:
                if self._is_given_back:
                    break
                self._begun, self._since = place, time.monotonic()
            ended = place, tuple(map(bytes, run_in_pieces(body, function).parts()))
            with self._lock:
                self._ended.append(ended)
        return self._ended

    def look(self, now: float) -> None:
        """If the present job takes long, report the results and its index. The jobs behind it will not run here."""
        with self._lock:
            if self._is_given_back or now - self._since < STUCK_SECONDS:
                return
            self._is_given_back = True
            ended, begun = list(self._ended), self._begun
        self._tell(ended, begun)


class _Watch:
    """A thread that watches the batches of this worker for long jobs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches: set[_Batch] = set()
        self._has_batches = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, batch: _Batch) -> None:
        with self._lock:
            self._batches.add(batch)
            if self._thread is None or not self._thread.is_alive():  # a forked child lacks the thread
                self._thread = threading.Thread(target=self._run, name="bencher_job-batches", daemon=True)
                self._thread.start()
        self._has_batches.set()

    def remove(self, batch: _Batch) -> None:
        with self._lock:
            self._batches.discard(batch)

    def _run(self) -> None:
        while True:
            with self._lock:
                batches = list(self._batches)
                if not batches:
                    self._has_batches.clear()
            for batch in batches:
                batch.look(time.monotonic())
            self._has_batches.wait()
            time.sleep(STUCK_SECONDS / 2)


_watch: Final = _Watch()


def run_batch(
    bodies: Sequence[bytes], functions: Sequence[PickledFunction], tell: Callable[[list[Ended], int], None]
) -> list[Ended]:
    """Run jobs in this worker, each with its function or all with one, and return their results.

    If a job takes long, call `tell` on another thread with the results so far and the job's index. The jobs behind it
    do not run, and are missing from the results.
    """
    functions = list(functions) if len(functions) == len(bodies) else list(functions) * len(bodies)
    batch = _Batch(bodies, functions, tell)
    if len(bodies) == 1:
        return batch.run()
    _watch.add(batch)
    try:
        return batch.run()
    finally:
        _watch.remove(batch)


def _say_nothing() -> None:
    pass


def execute(parcel: Parcel, tell_begin: Callable[[], None] = _say_nothing) -> RunResult:
    """Unpack a parcel, run the call and return its result. Never raises.

    `tell_begin` is called after loading, right before the function. A child that the job forked does not return
    from here: its process ends.
    """
    pid = os.getpid()
    started, clock, seconds = time.time(), 0.0, 0.0
    try:
        call = _load(parcel)
        if call.submitter not in {None, this_process()}:
            follow_override(call.override)
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


def open_result(run_result: RunResult, label: object) -> Outcome:
    """Unpickle a run result. If that fails, the outcome is an error that names the job by its label."""
    value, error, payload, blob = None, None, None, None
    handle(run_result.records)
    try:
        if run_result.kind in _ERRORS:
            error = load_error(run_result.payload.stream)
        else:
            function = label.function if isinstance(label, Job) else None
            if run_result.kind is ResultKind.BLOB:
                blob = load_for(function, run_result.payload.load)
                value = load_for(function, partial(_value_of, blob, label))
            else:
                value = load_for(function, run_result.payload.load)
                payload = run_result.payload if run_result.kind is ResultKind.PLAIN else None
    except BlobLost as lost:
        error = lost
    except BaseException as problem:  # noqa: BLE001 - a class's unpickling can raise anything
        what = "exception" if run_result.kind in _ERRORS else "result"
        error = BencherJobError(
            f"The {what} of {describe(label)} came back, but can't be unpickled here: "
            f"{error_text(problem)}. Return plain data, or fix the class's __reduce__."
        )
        error.__cause__ = problem
    if error is not None:
        blob = None
    times = run_result.started, run_result.seconds
    return Outcome(
        value,
        error,
        payload,
        *times,
        run_result.place,
        run_result.may_have_files,
        blob,
        run_result.other_versions,
        run_result.files,
    )


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
    outcome = open_result(run_result, label)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def describe(label: object) -> str:
    """Describe a job with its abbreviated arguments, or another callable, for an error message.

    >>> describe(Job("a", sorted, {"reverse": True}, "key", positional=([2, 1],)))
    "job 'a', sorted([2, 1], reverse=True)"
    """
    if not isinstance(label, Job):
        return getattr(label, "__qualname__", None) or reprlib.repr(label)
    name = getattr(label.function, "__qualname__", type(label.function).__qualname__)
    arguments = [reprlib.repr(value) for value in label.positional]
    arguments += [f"{name}={reprlib.repr(value)}" for name, value in label.job_args.items()]
    return f"job {label.job_id!r}, {name}({', '.join(arguments)})"


def time_is_over(label: object, timeout: float) -> JobTimeout:
    """Make the error of a job that exceeded its timeout in seconds."""
    name = describe(label)
    return JobTimeout(
        f"{name} ran for longer than its timeout of {timeout:g} s, and was ended.", job=name, seconds=timeout
    )
