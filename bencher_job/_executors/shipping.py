"""Knows how a job becomes bytes that run in another process, with its function sent once.

    job -> pack -> Parcel( function, by digest | arguments and names ) -> load -> function, Call

A function of `__main__`, a lambda and a closure travel by value, what can be imported by name: with it goes the
agreement on what a worker must find there, and one that finds other code runs nothing. A function
larger than 64 kB is written once to a file for the workers of this machine, and travels inside the parcel to
all others. Each worker keeps the functions that it loaded last: what a function holds is shared by the jobs
that run there.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from blake3 import blake3

from .._forks import renew_after_fork
from .._keys.names import adopt_main_name, main_name
from .._stores.codec import Buffer, Payload, dump
from .agreements import MetByName, agreement_of, check_arguments, check_function
from .base import this_process
from .function_files import function_files, read_function
from .pickling import OutwardPickler, dumps

if TYPE_CHECKING:
    from .._job import Job

__all__ = ["LOADED_FUNCTIONS", "Call", "Parcel", "is_loaded", "load", "pack", "pack_call"]

FILE_FROM: Final = 1 << 16
"""Size in bytes above which a function is written to a file for local workers."""

LOADED_FUNCTIONS: Final = 16
_DIGEST_SIZE: Final = 32


_outward: Final = partial(dumps, pickler=OutwardPickler)


@dataclass(frozen=True, slots=True)
class Call:
    """What a worker runs: a function and its arguments, as a job where it is one."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    names: tuple[str, str, str] | None = None
    """The job's id, key and tag."""
    media_folder: str | None = None
    submitter: tuple[str, int] | None = None
    """Host and number of the process that has packed it."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A packed call: the function with its digest, in a file or here, and the arguments."""

    digest: bytes
    function: Payload
    body: Payload
    file: str = ""
    keeps: object = None
    """What must live as long as this parcel does."""

    def parts(self) -> list[Buffer]:
        """Give the buffers that a worker of this machine gets; its function is small or in a file."""
        return [
            self.digest + os.fsencode(self.file),
            self.function.stream,
            self.body.stream,
            *self.body.buffers,
        ]

    @classmethod
    def of_parts(cls, parts: Sequence[Buffer]) -> Parcel:
        """Make the parcel of what `parts()` gave."""
        head = bytes(parts[0])
        body = Payload(parts[2], tuple(parts[3:]))
        return cls(head[:_DIGEST_SIZE], Payload(parts[1]), body, os.fsdecode(head[_DIGEST_SIZE:]))

    def to_bytes(self) -> bytes:
        """Give one run of bytes, for executors that pickle what they send."""
        fields = (self.digest, self.file, *self.function.in_band(), *self.body.in_band())
        return pickle.dumps(fields, protocol=5)

    @classmethod
    def of_bytes(cls, blob: bytes) -> Parcel:
        """Make the parcel of what `to_bytes()` gave."""
        digest, file, function, function_buffers, body, body_buffers = pickle.loads(blob)
        return cls(digest, Payload(function, function_buffers), Payload(body, body_buffers), file)


def pack(job: Job, *, local: bool = True) -> Parcel:
    """Pack a job for a worker, of this machine or of any.

    Raises:
        Exception: whatever the pickling of its function or of an argument raises.
    """
    function = job.function
    if getattr(type(function), "_bencher_job_cached", False):
        function = function.__wrapped__  # type: ignore[attr-defined]
    names = (job.job_id, job.job_key, job.tag)
    fingerprint = None if job.edition is None else job.edition.fingerprint
    agreement = b"" if fingerprint is None else agreement_of(fingerprint, function)
    met = MetByName() if fingerprint is not None and fingerprint.scope == "deep" else None
    body = job.positional, job.job_args, names, job.media_folder, main_name(), this_process(), met
    return _pack(function, body, local, agreement)


def pack_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, local: bool = True
) -> Parcel:
    """Pack a plain call for a worker, of this machine or of any.

    Raises:
        Exception: whatever the pickling of the function or of an argument raises.
    """
    return _pack(function, (args, kwargs, None, None, None, None, None), local)


def _pack(function: Callable[..., Any], body: tuple[Any, ...], local: bool, agreement: bytes = b"") -> Parcel:
    payload = dump((function, agreement), _outward)
    hasher = blake3(payload.stream)
    for buffer in payload.buffers:
        hasher.update(buffer)
    digest = hasher.digest()
    packed = dump(body, partial(dumps, pickler=partial(OutwardPickler, met=body[-1])))
    if not local or payload.nbytes <= FILE_FROM:
        return Parcel(digest, payload, packed)
    file = function_files.file_of(digest, payload)
    return Parcel(digest, Payload(b""), packed, file.path, keeps=file)


def load(parcel: Parcel) -> Call:
    """Unpack a parcel in a worker; its buffers become the arguments' own.

    Raises:
        CodeMismatch: when this process holds other code than the one that made the job's key.
        BaseException: whatever the unpickling of the function or of an argument raises.
    """
    args, kwargs, names, media_folder, main, submitter, met = parcel.body.load_in_place()
    if main is not None:
        adopt_main_name(main)
    function = _functions.function_of(parcel)
    if met:
        check_arguments(function, met)
    return Call(function, args, kwargs, names, media_folder, submitter)


def is_loaded(digest: bytes) -> bool:
    """Whether this worker keeps a function, as one of those that it used last."""
    return _functions.has(digest)


class _LoadedFunctions:
    """The functions that this worker used last, by digest."""

    def __init__(self) -> None:
        self._functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def has(self, digest: bytes) -> bool:
        with self._lock:
            return digest in self._functions

    def function_of(self, parcel: Parcel) -> Callable[..., Any]:
        with self._lock:
            if (known := self._functions.get(parcel.digest)) is not None:
                self._functions.move_to_end(parcel.digest)
                return known
        payload = parcel.function
        if parcel.file:
            payload = read_function(parcel.file)
        function: Callable[..., Any]
        function, agreement = payload.load_in_place()
        if agreement:
            check_function(function, agreement)
        with self._lock:
            self._functions[parcel.digest] = function
            if len(self._functions) > LOADED_FUNCTIONS:
                self._functions.popitem(last=False)
        return function


_functions: Final = _LoadedFunctions()
