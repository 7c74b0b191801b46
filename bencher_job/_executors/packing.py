"""Pack a job for another process, with its function sent once.

    job -> pack -> Parcel( function, by digest | arguments and names ) ~~> load -> LoadedCall

A function of `__main__`, a lambda and a closure are pickled by value, an importable function by name. A code check goes
with it, and a worker with other code does not run the job. A worker caches the functions that it loaded last, so its
jobs share what a function holds.
"""

from __future__ import annotations

import os
import pickle
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blake3 import blake3

from .. import _options
from .._context import Surroundings
from .._errors import CodeMismatch
from .._keys.files import is_unchanged
from .._processes import this_process as describe_process
from .._stores.codec import Payload, dump
from .._stores.parts import Buffer
from .pickling import (
    CallPickler,
    Recent,
    SeenDefinitions,
    check_arguments,
    check_function,
    code_check_of,
    dumps,
    made_by_value,
    modules_by_value,
)
from .surroundings import Arrival, SentVariable, arrival_here, sent_variables

if TYPE_CHECKING:
    from .._job import Job
    from .._keys.fingerprint import Fingerprint


LOADED_FUNCTIONS: Final = 16

_dumps_call: Final = partial(dumps, pickler=CallPickler)


Disk = tuple[str, int, int]


class Elsewhere(NamedTuple):
    """What a worker needs to know of the submitter's disk.

    Attributes:
        disk: identifies the folder of the store; None if there is none.
        inputs: paths that count by content, each with what the key was made from.
    """

    disk: Disk | None
    inputs: tuple[tuple[object, object], ...]

    @classmethod
    def of(cls, job: Job) -> Elsewhere:
        """Describe the disk of this process for the worker of a job."""
        disk = None if job.media_folder is None else _disk_of(job.media_folder)
        return cls(disk, tuple((_texts(value), content) for value, content in job.files))

    def check_inputs(self, function: object) -> None:
        """Refuse to read other files than those that the key was made from.

        Raises:
            CodeMismatch: naming the path.
        """
        for value, content in self.inputs:
            if not is_unchanged(value, content):
                name = getattr(function, "__qualname__", str(function))
                raise CodeMismatch(
                    f"{name} counts {value} by content, and the worker on {os.uname().nodename} has other content "
                    "there than the submitter, or none. Copy it to the worker, or put it where both find it.",
                    function=name,
                )

    def is_other_disk(self, media_folder: str) -> bool:
        """Whether files written here are not where the submitter looks for them, as far as this process can tell."""
        return self.disk is None or _disk_of(media_folder) != self.disk


def _texts(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_texts(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _disk_of(media_folder: str) -> Disk | None:
    try:
        status = os.stat(os.path.dirname(os.path.dirname(media_folder)))
    except OSError:
        return None
    return describe_process().boot, status.st_dev, status.st_ino


class LoadedCall(NamedTuple):
    """What a worker runs: a function with its arguments, and its job if it belongs to one.

    Attributes:
        submitter: host and pid of the process that packed it.
        variables: context variables of the caller.
        names: the job's id, key and tag.
        terms: how to write a large result to a value file.
        elsewhere: what a worker needs that may be on another machine.
        libraries: versions of the libraries in the job's key.
    """

    function: Callable[..., Any]
    submitter: tuple[str, int]
    variables: tuple[SentVariable, ...]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    names: tuple[str, str, str] | None
    media_folder: str | None
    terms: bytes | None
    elsewhere: Elsewhere | None
    libraries: Mapping[str, str]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SentFunction:
    """A pickled function with its digest. `payload` is empty for a worker that has loaded it."""

    digest: bytes
    payload: Payload


class Parcel(NamedTuple):
    """A packed call: its function and its arguments."""

    function: SentFunction
    body: Payload

    def of_its_own(self) -> Parcel:
        """Return a parcel that shares no memory with the caller's arguments, which may change before it is sent."""
        if not self.body.buffers:
            return self
        buffers = (
            buffer if isinstance(memoryview(buffer).obj, bytes) else bytes(buffer)
            for buffer in self.body.buffers
        )
        return Parcel(self.function, Payload(self.body.stream, tuple(buffers)))

    def in_one_piece(self) -> Parcel:
        """Return a parcel whose arguments are one byte string, as `of_pieces` takes it, and a copy."""
        body = self.function.digest, *self.body.in_band()
        return Parcel(self.function, Payload(pickle.dumps(body, protocol=5)))

    @classmethod
    def of_pieces(cls, body: Buffer, function: tuple[Buffer, tuple[Buffer, ...]] | None) -> Parcel:
        """Make a parcel from arguments in one piece, and a function unless the worker has loaded it."""
        digest, stream, buffers = pickle.loads(body)
        return cls(SentFunction(digest, Payload(*function or (b"",))), Payload(stream, buffers))


def pack(job: Job, *, local: bool = True) -> Parcel:
    """Pack a job for a worker on this machine, or with `local=False` on any machine.

    Raises:
        Exception: whatever pickling its function or an argument raises.
    """
    (parcel,) = pack_many([job], local=local)
    if isinstance(parcel, Exception):
        raise parcel
    return parcel


def pack_many(jobs: Iterable[Job], *, local: bool = True) -> Iterator[Parcel | Exception]:
    """Pack several jobs, as copies that may be sent later. Jobs with the same function share its bytes.

    If a job cannot be pickled, yield the exception in its place.
    """
    sent: SentFunction | None = None
    known: tuple[object, ...] = ()
    sender: _Sender | None = None
    surroundings: Surroundings | None = None
    for job in jobs:
        fingerprint = None if job.function_version is None else job.function_version.fingerprint
        try:
            with made_by_value():
                if sent is None or known != (id(job.function), id(fingerprint), job.code_check):
                    sent = sender = None  # which context variables are sent is known once the function is
                    sent = _sent_function(job.function, fingerprint, job.code_check)
                    known = id(job.function), id(fingerprint), job.code_check
                if sender is None or job.surroundings is not surroundings:
                    surroundings = job.surroundings
                    sender = _sender(surroundings)
                terms = job.blob_writer.terms if local and job.blob_writer is not None else None
                parcel = Parcel(sent, _body_of(job, fingerprint, sender, terms, local=local))
            yield parcel.of_its_own() if local else parcel.in_one_piece()
        except Exception as problem:  # noqa: BLE001 - a class's pickling can raise anything
            yield problem


def pack_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, local: bool = True
) -> Parcel:
    """Pack a plain call for a worker on this machine, or with `local=False` on any machine, as a copy.

    Raises:
        Exception: whatever pickling the function or an argument raises.
    """
    with made_by_value():
        body = _sender(None), args, kwargs, None, None, None, None, None
        parcel = Parcel(_pickled(function, b""), dump(body, _dumps_call))
    return parcel.of_its_own() if local else parcel.in_one_piece()


_Sender = tuple[Arrival, tuple[SentVariable, ...]]


def _sender(surroundings: Surroundings | None) -> _Sender:
    """Return what a worker needs to know about this process, and about where a job was called, by default here."""
    context, folder = surroundings or Surroundings.here()
    return arrival_here(folder), sent_variables(context, _dumps_call)


def _body_of(
    job: Job, fingerprint: Fingerprint | None, sender: _Sender, terms: bytes | None = None, *, local: bool
) -> Payload:
    elsewhere = None if local else Elsewhere.of(job)
    rest = (job.job_id, job.job_key, job.tag), job.media_folder, terms, elsewhere
    are_plain = _PLAIN.issuperset  # small values that plain pickle can pickle
    if are_plain(map(type, job.positional)) and are_plain(map(type, job.job_args.values())):
        return Payload(pickle.dumps((sender, job.positional, job.job_args, *rest, None), protocol=5))
    seen = None
    if fingerprint is not None and fingerprint.scope == "deep":
        seen = SeenDefinitions(with_libraries=fingerprint.counts_all)
    body = sender, job.positional, job.job_args, *rest, seen
    return dump(body, partial(dumps, pickler=partial(CallPickler, seen=seen)))


_PLAIN: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})


_sent: Final[Recent[tuple[object, ...], tuple[weakref.ref[Any], object, SentFunction]]] = Recent(16)
"""Functions that have been pickled, and have not changed as long as their fingerprints have not."""


def _sent_function(function: Any, fingerprint: Fingerprint | None, code_check: bytes = b"") -> SentFunction:
    """Pickle a function, or return the cached bytes if its fingerprint covers all that the function holds.

    Without a fingerprint, `code_check` is sent along; it may be empty.

    Raises:
        Exception: whatever pickling the function raises.
    """
    if getattr(type(function), "_bencher_job_cached", False):
        function = function.__wrapped__
    if fingerprint is None:
        return _pickled(function, code_check)
    if fingerprint.scope != "deep" or fingerprint.untracked:
        return _pickled(function, code_check_of(fingerprint, function))
    # A cached function inside it is pickled with its cache directory, hence the epoch of the options.
    place = id(function), id(fingerprint), modules_by_value(), _options.epoch
    known = _sent.use(place)
    if known is not None and known[0]() is function:
        return known[2]
    sent = _pickled(function, code_check_of(fingerprint, function))
    with suppress(TypeError):  # a bound method, which lives no longer than this call
        _sent.keep(place, (weakref.ref(function), fingerprint, sent))
    return sent


_in_transit: Final[weakref.WeakValueDictionary[bytes, SentFunction]] = weakref.WeakValueDictionary()
"""One copy of the function of all jobs that have not ended, by digest."""


def _pickled(function: Callable[..., Any], code_check: bytes) -> SentFunction:
    payload = dump((function, code_check), _dumps_call)
    hasher = blake3(payload.stream)
    for buffer in payload.buffers:
        hasher.update(buffer)
    digest = hasher.digest()
    kept = Payload(bytes(payload.stream), tuple(map(_copied, payload.buffers)))
    return _in_transit.setdefault(digest, SentFunction(digest, kept))


def _copied(buffer: Buffer) -> bytes | bytearray:
    """Copy memory, and keep it writable if it is, so that an array stays writable in the worker."""
    return bytes(buffer) if memoryview(buffer).readonly else bytearray(buffer)


def load(parcel: Parcel) -> LoadedCall:
    """Unpack a parcel in a worker. The arguments take over its buffers.

    Raises:
        CodeMismatch: if the code in this process differs from the code in the job's key.
        BaseException: whatever unpickling the function or an argument raises.
    """
    (submitter, variables), args, kwargs, names, media_folder, terms, elsewhere, seen = (
        parcel.body.load_in_place()
    )
    function, libraries = _load_function(parcel.function)
    if seen:
        libraries = {**libraries, **check_arguments(function, seen)}
    if elsewhere is not None:
        elsewhere.check_inputs(function)
    job = names, media_folder, terms, elsewhere
    return LoadedCall(function, submitter, variables, args, kwargs, *job, libraries)


loaded_functions: Final[Recent[bytes, tuple[Callable[..., Any], Mapping[str, str]]]] = Recent(
    LOADED_FUNCTIONS
)
"""The functions that this worker used last, by digest, with the versions of their libraries."""


def _load_function(sent: SentFunction) -> tuple[Callable[..., Any], Mapping[str, str]]:
    known = loaded_functions.use(sent.digest)
    if known is None:
        function, code_check = sent.payload.load_in_place()
        known = function, check_function(function, code_check) if code_check else {}
        loaded_functions.keep(sent.digest, known)
    return known
