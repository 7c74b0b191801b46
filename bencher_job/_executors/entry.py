"""The entry point of every worker: run a packed job, and report how it ended.

    parcel -> execute -> Report( plain value | its file, if large | value by value | error ) -> open_report -> Outcome

No exception, no exit and nothing that can't be pickled leaves the envelope, so it costs its own job only.
"""

from __future__ import annotations

import asyncio
import os
import reprlib
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from functools import partial
from typing import Any, Final, NamedTuple, cast

from .. import _media
from .._errors import BencherJobError, CodeMismatch, JobTimeout
from .._inside import critical, runs_jobs
from .._job import Job, run_job
from .._keys.libraries import other_versions
from .._keys.names import seen_by
from .._loops import run_to_end
from .._options import follow_override
from .._stores.blobs import LARGE, Deposit, DepositLost, write_deposit
from .._stores.codec import Buffer, Payload, dump
from .._stores.located import dump_result
from .base import OtherVersions, Outcome, Place, as_worker, here, leave_if_forked, this_process, told
from .exceptions import dump_error, load_error
from .packing import Call, Parcel, is_loaded, join, load
from .pickling import HomewardPickler, dumps
from .wire import LARGEST_INLINE, Message, frame

__all__ = [
    "Kind",
    "Report",
    "describe",
    "execute",
    "open_report",
    "outcome_of_coroutine",
    "run_coroutine",
    "run_packed",
    "run_split",
    "time_is_over",
    "unpack_value",
]


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

    return time_is_over(job, timeout or 0.0)


class Kind(IntEnum):
    """What the payload of a report holds."""

    PLAIN = 0
    """A value, as anybody's pickle makes it."""
    BY_VALUE = 1
    """A value with parts that have no importable name."""
    ERROR = 2
    NOT_LOADED = 3
    """The error of a worker that could not load the job as its submitter has it, and has run nothing."""
    WANTS_FUNCTION = 4
    """Nothing: the job came without its function, which the worker does not keep, so it has run nothing."""
    DEPOSITED = 5
    """Which file the worker has written a large value to."""


_KINDS: Final = tuple(Kind)
_ERRORS: Final = frozenset({Kind.ERROR, Kind.NOT_LOADED})
_HEAD: Final = struct.Struct("<B?ddI")
_homeward: Final = partial(dumps, pickler=HomewardPickler)


class Report(NamedTuple):
    """How a run ended, as bytes, with when, how long, and where it ran."""

    kind: Kind
    payload: Payload
    started: float
    seconds: float
    place: Place
    may_have_files: bool = True
    other_versions: OtherVersions = ()

    def parts(self) -> list[Buffer]:
        """Give the buffers to be sent, none of them copied."""
        place = self.place
        others = ("\t".join(each) for each in self.other_versions)
        names = "\n".join((place.host, place.python, place.platform, *others))
        head = (
            _HEAD.pack(self.kind, self.may_have_files, self.started, self.seconds, place.pid) + names.encode()
        )
        return [head, self.payload.stream, *self.payload.buffers]

    def message(self, number: int) -> list[Buffer]:
        """Give the pieces of a message to the pool, which knows the place, about the job of a number."""
        stream, buffers = self.payload
        inline = None
        if len(stream) > LARGEST_INLINE:
            buffers = stream, *buffers
        else:
            inline = bytes(stream)
        times = self.started, self.seconds
        head = number, int(self.kind), self.may_have_files, *times, inline, self.other_versions
        return frame(head, buffers)

    @classmethod
    def of_message(cls, message: Message, place: Place) -> Report:
        """Make the report of what `message()` gave."""
        (_, kind, may_have_files, started, seconds, stream, others), buffers = message
        if stream is None:
            stream, *buffers = buffers
        payload = Payload(stream, tuple(buffers))
        return cls(_KINDS[kind], payload, started, seconds, place, may_have_files, others)

    @classmethod
    def of_parts(cls, parts: Sequence[Buffer]) -> Report:
        """Make the report of what `parts()` gave."""
        kind, may_have_files, started, seconds, pid = _HEAD.unpack_from(parts[0])
        host, python, platform, *others = bytes(parts[0][_HEAD.size :]).decode().split("\n")
        place = Place(host, pid, python, platform)
        payload = Payload(parts[1], tuple(parts[2:]))
        versions = tuple((name, there, here) for name, there, here in (each.split("\t") for each in others))
        return cls(Kind(kind), payload, started, seconds, place, may_have_files, versions)


def run_packed(blob: bytes) -> tuple[bytes, ...]:
    """Run a packed job in whatever worker this is; it never raises and returns plain bytes."""
    try:
        report = execute(Parcel.of_bytes(blob))
    except BaseException as error:  # noqa: BLE001 - not even a damaged parcel may harm the worker
        report = _report(time.time(), 0.0, Kind.ERROR, Payload(dump_error(error)))
    return tuple(bytes(part) for part in report.parts())


def run_split(rest: bytes, function: bytes | None) -> Report:
    """Run a job that came in two parts, or without its function; it never raises."""
    try:
        parcel = join(rest, function)
        if function is None and not is_loaded(parcel.function.digest):
            return _report(time.time(), 0.0, Kind.WANTS_FUNCTION, Payload(b""))
    except BaseException as error:  # noqa: BLE001 - as above
        return _report(time.time(), 0.0, Kind.ERROR, Payload(dump_error(error)))
    return execute(parcel)


def _say_nothing() -> None:
    pass


def execute(parcel: Parcel, tell_begin: Callable[[], None] = _say_nothing) -> Report:
    """Unpack a parcel, run what it holds, and report how that ended; it never raises.

    `tell_begin` is called when all is loaded, right before the function. A child that the job has forked does not
    return from here: it has a process of its own to end.
    """
    pid = os.getpid()
    started, clock, seconds = time.time(), 0.0, 0.0
    try:
        call = _load(parcel)
        if call.submitter not in {None, this_process()}:
            follow_override(call.override)
        with as_worker(call.submitter):
            tell_begin()
            started, clock = time.time(), time.perf_counter()
            value = _run(call)
        seconds = time.perf_counter() - clock
        kind, payload = _dump_value(value, call.function)
        leave_if_forked(pid)
        may_have_files = call.media_folder is not None and os.access(call.media_folder, os.F_OK)
        others = other_versions(call.libraries) if call.libraries else ()
        if kind is Kind.PLAIN and payload.nbytes >= LARGE and not others:
            kind, payload = _deposited(call, payload)
        return Report(kind, payload, started, seconds, here(), may_have_files, others)
    except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt end this job, not the worker
        leave_if_forked(pid, error)
        if clock and not seconds:
            seconds = time.perf_counter() - clock
        kind = Kind.ERROR if clock else Kind.NOT_LOADED
        return _report(started, seconds, kind, Payload(dump_error(error)))


def _report(started: float, seconds: float, kind: Kind, payload: Payload) -> Report:
    return Report(kind, payload, started, seconds, here())


def _load(parcel: Parcel) -> Call:
    try:
        return load(parcel)
    except CodeMismatch:
        raise
    except BaseException as problem:
        raise BencherJobError(
            f"A job's function or arguments can't be unpickled in the worker: {told(problem)}. "
            f"The worker must be able to import the same modules as the process that submits."
        ) from problem


def _run(call: Call) -> Any:
    if call.names is None:
        return call.function(*call.args, **call.kwargs)
    job_id, job_key, tag = call.names
    job = Job(job_id, call.function, call.kwargs, job_key, tag, positional=call.args)
    job.media_folder = call.media_folder
    return run_job(job)


def _dump_value(value: object, function: object) -> tuple[Kind, Payload]:
    with suppress(Exception):  # whatever plain pickle refuses may still go by value
        return Kind.PLAIN, dump_result(value, function)
    try:
        return Kind.BY_VALUE, dump(value, _homeward)
    except Exception as problem:
        raise BencherJobError(
            f"The job's result, a {type(value).__module__}.{type(value).__qualname__}, can't be pickled and so "
            f"can't leave the worker: {told(problem)}. Return plain data."
        ) from problem


def _deposited(call: Call, payload: Payload) -> tuple[Kind, Payload]:
    """Write a large value to a file, if its submitter wants it and it can be."""
    if call.terms is None or call.names is None:
        return Kind.PLAIN, payload
    _, key, _ = call.names
    deposit = write_deposit(call.terms, payload, key)
    return (Kind.PLAIN, payload) if deposit is None else (Kind.DEPOSITED, dump(deposit))


def open_report(report: Report, label: object) -> Outcome:
    """Unpickle a report; what can't be unpickled here is an error that names the job by its label."""
    value, error, payload, deposit = None, None, None, None
    try:
        if report.kind in _ERRORS:
            error = load_error(report.payload.stream)
        else:
            with seen_by(label.function if isinstance(label, Job) else None):
                if report.kind is Kind.DEPOSITED:
                    deposit = report.payload.load()
                    value = _value_of(deposit, label)
                else:
                    value = report.payload.load()
                    payload = report.payload if report.kind is Kind.PLAIN else None
    except DepositLost as lost:
        error = lost
    except BaseException as problem:  # noqa: BLE001 - a class's own unpickling can raise anything
        what = "exception" if report.kind in _ERRORS else "result"
        error = BencherJobError(
            f"The {what} of {describe(label)} came back, but can't be unpickled here: "
            f"{told(problem)}. Return plain data, or mend the class's __reduce__."
        )
        error.__cause__ = problem
    if error is not None:
        deposit = None
    times = report.started, report.seconds
    return Outcome(
        value, error, payload, *times, report.place, report.may_have_files, deposit, report.other_versions
    )


def _value_of(deposit: Deposit, label: object) -> Any:
    """Load the value that a worker has written; what can't be loaded is removed.

    Raises:
        DepositLost: when the file is not there, or not what was written.
        BaseException: whatever the unpickling raises.
    """
    if not isinstance(label, Job) or label.depository is None:
        raise TypeError(f"{describe(label)} has no depository that a worker could have written to")
    try:
        return label.depository.read(deposit, label.job_key).load_in_place()
    except BaseException:
        label.depository.discard(deposit)
        raise


def unpack_value(report: Report, label: object) -> Any:
    """Unpickle a report and give its value.

    Raises:
        BaseException: the job's own exception.
    """
    outcome = open_report(report, label)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def describe(label: object) -> str:
    """Name a job, with its arguments in short, or another callable, for an error message.

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
    """Make the error of a job that ran for longer than its timeout, in seconds."""
    name = describe(label)
    return JobTimeout(
        f"{name} ran for longer than its timeout of {timeout:g} s, and was ended.", job=name, seconds=timeout
    )
