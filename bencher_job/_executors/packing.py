"""Pack a job for another process, with its function sent once.

Parcel -> split -> function, one copy for all jobs of it | rest ~~> join -> Parcel

    job -> pack -> Parcel( function, by digest | arguments and names ) -> load -> function, Call

A function of `__main__`, a lambda and a closure travel by value, what can be imported by name: with it goes the
agreement on what a worker must find there, and one that finds other code runs nothing. A function
larger than 64 kB is written once to a file for the workers of this machine, and travels inside the parcel to
all others. Each worker keeps the functions that it loaded last: what a function holds is shared by the jobs
that run there.
"""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blake3 import blake3

from .. import _options
from .._keys.names import adopt_main_name, main_name
from .._processes import renew_after_fork
from .._stores.codec import Buffer, Payload, dump
from .base import this_process
from .pickling import (
    Met,
    OutwardPickler,
    agreement_of,
    check_arguments,
    check_function,
    dumps,
    modules_by_value,
)

if TYPE_CHECKING:
    from .._job import Job
    from .._keys.fingerprint import Fingerprint

__all__ = [
    "LOADED_FUNCTIONS",
    "Call",
    "FunctionBytes",
    "Parcel",
    "SentFunction",
    "SplitParcel",
    "function_files",
    "is_loaded",
    "join",
    "load",
    "pack",
    "pack_call",
    "pack_many",
    "read_function",
    "split",
]


KEPT_FILES: Final = 8


class FunctionFile:
    """A function's bytes in a file, which goes when nothing that was sent refers to it any more."""

    def __init__(self, folder: str, digest: bytes, payload: Payload) -> None:
        self.path = os.path.join(folder, digest.hex())
        with open(f"{self.path}.part", "wb") as file:
            pickle.dump(payload.in_band(), file, protocol=5)
        os.replace(file.name, self.path)
        weakref.finalize(self, _in_this_process, os.getpid(), _unlink, self.path)


class FunctionFiles:
    """The files of the large functions that were sent last, in a folder of this process's own."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have no files yet, as a forked child has none."""
        self._lock = threading.Lock()
        self._folder: str | None = None
        self._sent: weakref.WeakValueDictionary[bytes, FunctionFile] = weakref.WeakValueDictionary()
        self._last: OrderedDict[bytes, FunctionFile] = OrderedDict()

    def file_of(self, digest: bytes, payload: Payload) -> FunctionFile:
        """Write a function's bytes to a file, unless it is there."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="bencher_job-")  # readable by this user only
                atexit.register(
                    _in_this_process, os.getpid(), shutil.rmtree, self._folder, ignore_errors=True
                )
            file = self._sent.get(digest)
            if file is None:
                file = self._sent[digest] = FunctionFile(self._folder, digest, payload)
            self._last[digest] = file
            self._last.move_to_end(digest)
            if len(self._last) > KEPT_FILES:
                self._last.popitem(last=False)
            return file


def read_function(path: str) -> Payload:
    """Read the bytes of a function from its file."""
    with open(path, "rb") as file:
        return Payload(*pickle.load(file))


def _in_this_process(pid: int, act: Callable[..., object], *args: object, **kwargs: object) -> None:
    if os.getpid() == pid:  # a forked child has its parent's exit hooks, but not its files
        act(*args, **kwargs)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


function_files: Final = FunctionFiles()

_NOTHING: Final = Payload(b"")


class FunctionBytes:
    """The bytes of one function, by its digest."""

    __slots__ = ("__weakref__", "blob", "digest")

    def __init__(self, digest: bytes, blob: bytes) -> None:
        self.digest = digest
        self.blob = blob


@dataclass(frozen=True, slots=True)
class SplitParcel:
    """A packed job whose function may be there already where it goes."""

    function: FunctionBytes
    rest: bytes


class _OnTheWay:
    """The functions of all jobs that have not come back yet, one copy of each."""

    def __init__(self) -> None:
        self._functions: weakref.WeakValueDictionary[bytes, FunctionBytes] = weakref.WeakValueDictionary()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def bytes_of(self, parcel: Parcel) -> FunctionBytes:
        with self._lock:
            sent = parcel.function
            known = self._functions.get(sent.digest)
            if known is None:
                blob = pickle.dumps(sent.payload.in_band(), protocol=5)
                known = self._functions[sent.digest] = FunctionBytes(sent.digest, blob)
            return known


_on_the_way: Final = _OnTheWay()


def split(parcel: Parcel) -> SplitParcel:
    """Take a parcel apart; what it holds is copied, so that nobody can change it any more."""
    return SplitParcel(_on_the_way.bytes_of(parcel), _with_function(parcel, _NOTHING).to_bytes())


def join(rest: bytes, function: bytes | None) -> Parcel:
    """Put a parcel together again; without the function's bytes its worker must have loaded it before."""
    parcel = Parcel.of_bytes(rest)
    return parcel if function is None else _with_function(parcel, Payload(*pickle.loads(function)))


def _with_function(parcel: Parcel, payload: Payload) -> Parcel:
    return parcel._replace(function=SentFunction(parcel.function.digest, payload))


FILE_FROM: Final = 1 << 16
"""Size in bytes above which a function is written to a file for local workers."""

LOADED_FUNCTIONS: Final = 16
KEPT_FUNCTIONS: Final = 16

_dumps_outward: Final = partial(dumps, pickler=OutwardPickler)


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
    override: str | None = None
    """The directory that all caches of that process lie in, where there is one."""
    terms: bytes | None = None
    """How a large result is written here, as a depository says."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """The versions of libraries that are in the job's key."""


@dataclass(frozen=True, slots=True)
class SentFunction:
    """A pickled function, by its digest: here, or in a file for the workers of this machine."""

    digest: bytes
    payload: Payload
    file: str = ""
    keeps: object = None
    """What must live as long as this does."""


class Parcel(NamedTuple):
    """A packed call: the function and the arguments."""

    function: SentFunction
    body: Payload

    def of_its_own(self) -> Parcel:
        """Give a parcel that shares no memory with the caller's arguments, which may change before it is sent."""
        if not self.body.buffers:
            return self
        buffers = (
            buffer if isinstance(memoryview(buffer).obj, bytes) else bytes(buffer)
            for buffer in self.body.buffers
        )
        return Parcel(self.function, Payload(self.body.stream, tuple(buffers)))

    def to_bytes(self) -> bytes:
        """Give one run of bytes, for executors that pickle what they send."""
        sent = self.function
        fields = (sent.digest, sent.file, *sent.payload.in_band(), *self.body.in_band())
        return pickle.dumps(fields, protocol=5)

    @classmethod
    def of_bytes(cls, blob: bytes) -> Parcel:
        """Make the parcel of what `to_bytes()` gave."""
        digest, file, function, function_buffers, body, body_buffers = pickle.loads(blob)
        return cls(
            SentFunction(digest, Payload(function, function_buffers), file), Payload(body, body_buffers)
        )


def pack(job: Job, *, local: bool = True) -> Parcel:
    """Pack a job for a worker, of this machine or of any.

    Raises:
        Exception: whatever the pickling of its function or of an argument raises.
    """
    fingerprint = None if job.edition is None else job.edition.fingerprint
    sent = sent_functions(job.function, fingerprint, local, job.agreement)
    return Parcel(sent, _body_of(job, fingerprint, _whence()))


def pack_many(jobs: Iterable[Job]) -> Iterator[Parcel | Exception]:
    """Pack jobs that come together, for workers of this machine: a function that several of them have goes once.

    What the pickling of a job raises is given in its place.
    """
    sent: SentFunction | None = None
    function: Any = None
    fingerprint: Fingerprint | None = None
    agreement = b""
    whence = _whence()
    for job in jobs:
        its_own = None if job.edition is None else job.edition.fingerprint
        try:
            if (
                sent is None
                or job.function is not function
                or its_own is not fingerprint
                or job.agreement != agreement
            ):
                function, fingerprint, agreement = job.function, its_own, job.agreement
                sent = None
                sent = sent_functions(function, fingerprint, True, agreement)
            terms = None if job.depository is None else job.depository.terms
            parcel = Parcel(sent, _body_of(job, its_own, whence, terms))
        except Exception as problem:  # noqa: BLE001 - a class's own pickling can raise anything
            yield problem
        else:
            yield parcel


def pack_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, local: bool = True
) -> Parcel:
    """Pack a plain call for a worker, of this machine or of any.

    Raises:
        Exception: whatever the pickling of the function or of an argument raises.
    """
    body = args, kwargs, None, None, None, None, None, None, None
    return Parcel(_pickled(function, b"", local), dump(body, _dumps_outward))


_Whence = tuple[str | None, tuple[str, int], str | None]


def _whence() -> _Whence:
    """Say what a worker is to know of this process."""
    return main_name(), this_process(), _options.override()


def _body_of(
    job: Job, fingerprint: Fingerprint | None, whence: _Whence, terms: bytes | None = None
) -> Payload:
    rest = (job.job_id, job.job_key, job.tag), job.media_folder, *whence, terms
    are_plain = _PLAIN.issuperset  # what anybody's pickle makes alike, and what is small
    if are_plain(map(type, job.positional)) and are_plain(map(type, job.job_args.values())):
        return Payload(pickle.dumps((job.positional, job.job_args, *rest, None), protocol=5))
    met = None
    if fingerprint is not None and fingerprint.scope == "deep":
        met = Met(with_libraries=fingerprint.counts_all)
    body = job.positional, job.job_args, *rest, met
    return dump(body, partial(dumps, pickler=partial(OutwardPickler, met=met)))


_PLAIN: Final = frozenset({bool, bytes, complex, float, int, str, type(None)})


class _SentFunctions:
    """The functions that were packed last, so that one which hasn't changed is not pickled again."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Know none, as in a forked child: their files are the parent's."""
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[object, ...], tuple[weakref.ref[Any], object, SentFunction]] = (
            OrderedDict()
        )

    def __call__(
        self, function: Any, fingerprint: Fingerprint | None, local: bool, agreement: bytes = b""
    ) -> SentFunction:
        """Pack a function; a fingerprint that sees all that it holds tells that it is as it was.

        Without a fingerprint, `agreement` says what its worker has to hold, if anything.

        Raises:
            Exception: whatever the pickling of the function raises.
        """
        if getattr(type(function), "_bencher_job_cached", False):
            function = function.__wrapped__
        if fingerprint is None:
            return _pickled(function, agreement, local)
        if fingerprint.scope != "deep" or fingerprint.untracked:
            return _pickled(function, agreement_of(fingerprint, function), local)
        # A cached function that it holds says where its cache lies.
        place = id(function), id(fingerprint), modules_by_value(), local, _options.epoch
        with self._lock:
            known = self._made.get(place)
        if known is not None and known[0]() is function:
            return known[2]
        sent = _pickled(function, agreement_of(fingerprint, function), local)
        try:
            reference = weakref.ref(function)
        except TypeError:  # as a bound method's, which would live no longer than this
            return sent
        with self._lock:
            self._made[place] = reference, fingerprint, sent
            if len(self._made) > KEPT_FUNCTIONS:
                self._made.popitem(last=False)
        return sent


sent_functions: Final = _SentFunctions()


def _pickled(function: Callable[..., Any], agreement: bytes, local: bool) -> SentFunction:
    payload = dump((function, agreement), _dumps_outward)
    hasher = blake3(payload.stream)
    for buffer in payload.buffers:
        hasher.update(buffer)
    digest = hasher.digest()
    if not local or payload.nbytes <= FILE_FROM:
        return SentFunction(digest, Payload(bytes(payload.stream), tuple(map(_copied, payload.buffers))))
    file = function_files.file_of(digest, payload)
    return SentFunction(digest, Payload(b""), file.path, keeps=file)


def _copied(buffer: Buffer) -> bytes | bytearray:
    """Copy memory to some that can be written to where it can, and so can the array that it becomes elsewhere."""
    return bytes(buffer) if memoryview(buffer).readonly else bytearray(buffer)


def load(parcel: Parcel) -> Call:
    """Unpack a parcel in a worker; its buffers become the arguments' own.

    Raises:
        CodeMismatch: when this process holds other code than the one that made the job's key.
        BaseException: whatever the unpickling of the function or of an argument raises.
    """
    args, kwargs, names, media_folder, main, submitter, override, terms, met = parcel.body.load_in_place()
    if main is not None:
        adopt_main_name(main)
    function, libraries = _functions.function_of(parcel.function)
    if met:
        libraries = {**libraries, **check_arguments(function, met)}
    return Call(function, args, kwargs, names, media_folder, submitter, override, terms, libraries)


def is_loaded(digest: bytes) -> bool:
    """Whether this worker keeps a function, as one of those that it used last."""
    return _functions.has(digest)


class _LoadedFunctions:
    """The functions that this worker used last, by digest, with the versions of their libraries."""

    def __init__(self) -> None:
        self._functions: OrderedDict[bytes, tuple[Callable[..., Any], Mapping[str, str]]] = OrderedDict()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def has(self, digest: bytes) -> bool:
        with self._lock:
            return digest in self._functions

    def function_of(self, sent: SentFunction) -> tuple[Callable[..., Any], Mapping[str, str]]:
        with self._lock:
            if (known := self._functions.get(sent.digest)) is not None:
                self._functions.move_to_end(sent.digest)
                return known
        payload = read_function(sent.file) if sent.file else sent.payload
        function: Callable[..., Any]
        function, agreement = payload.load_in_place()
        loaded = function, check_function(function, agreement) if agreement else {}
        with self._lock:
            self._functions[sent.digest] = loaded
            if len(self._functions) > LOADED_FUNCTIONS:
                self._functions.popitem(last=False)
        return loaded


_functions: Final = _LoadedFunctions()
