"""Knows how a job becomes bytes that run in another process, with its function sent once.

    job -> pack -> Parcel( function, by digest | arguments and names ) -> load -> function, Call

A function of `__main__`, a lambda and a closure travel by value, what can be imported by name. A function
larger than 64 kB is written once to a file for the workers of this machine, and travels inside the parcel to
all others. Each worker keeps the functions that it loaded last: what a function holds is shared by the jobs
that run there.

    class R -> token and definition ~~> worker: a class of its own, noted with the token
    class R <- token                <~~ worker: an instance of that class

What a worker got by value comes home as a reference. A definition that came home would be applied to the class
that it was made of, and undo what the program has done to it: its methods would be others, with the worker's
globals.
"""

from __future__ import annotations

import atexit
import io
import operator
import os
import pickle
import shutil
import sys
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

import cloudpickle
from blake3 import blake3

from .._forks import renew_after_fork
from .._keys.names import adopt_main_name, main_name
from .._stores.codec import Buffer, Payload, dump

if TYPE_CHECKING:
    from .._job import Job

__all__ = ["Call", "HomewardPickler", "Parcel", "by_value", "dumps", "load", "pack", "pack_call"]

FILE_FROM: Final = 1 << 16
"""Size in bytes above which a function is written to a file for local workers."""

LOADED_FUNCTIONS: Final = 16
KEPT_FILES: Final = 8
_DIGEST_SIZE: Final = 32


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles by value what has no name in an importable module; a cached function decides for itself."""

    def reducer_override(self, obj: Any) -> Any:
        """Let a cached function say how it travels: cloudpickle takes it for the one that it wraps."""
        if getattr(type(obj), "_bencher_job_cached", False):
            return obj.reduce_for_worker(
                by_value=obj.__module__ in cloudpickle.list_registry_pickle_by_value()
            )
        if isinstance(obj, io.TextIOWrapper):  # cloudpickle would make another kind of file of it
            raise pickle.PicklingError("an open file can't be sent to another process; send its path")
        return super().reducer_override(obj)


def dumps(
    value: object,
    protocol: int = pickle.HIGHEST_PROTOCOL,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    pickler: type[Pickler] = Pickler,
) -> bytes:
    """Pickle anything that can be, by value where it has no importable name."""
    with io.BytesIO() as file:
        pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


class _Registry:
    """cloudpickle's list of the modules that go by value, for one thread at a time."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self.lock = threading.RLock()


_registry: Final = _Registry()


@contextmanager
def by_value(module: ModuleType | None) -> Iterator[None]:
    """Pickle what a module defines by value meanwhile, as if it could not be imported."""
    if module is None or module.__name__ == "__main__":  # whose things go by value anyway
        yield
        return
    with _registry.lock:
        cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            cloudpickle.unregister_pickle_by_value(module)


_known: Final[weakref.WeakValueDictionary[str, Any]] = weakref.WeakValueDictionary()
"""What was sent from here or has arrived here, by token."""

_tokens: Final[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()
"""The tokens of what has arrived here."""


class OutwardPickler(Pickler):
    """Pickles a call for a worker, which notes the classes and functions that it gets by value."""

    def reducer_override(self, obj: Any) -> Any:
        """Add a token to the definition of a class, and of a function that has a name."""
        reduced = super().reducer_override(obj)
        if not (_is_definable(obj) and isinstance(reduced, tuple) and len(reduced) == 6):
            return reduced
        make, args, *rest = reduced
        if isinstance(obj, type):
            token = args[-2]  # the class's own in cloudpickle, the same as long as the class lives
        elif _find_by_name(obj.__module__, obj.__qualname__) is obj:
            token = f"{obj.__module__}:{obj.__qualname__}"
        else:  # a closure has a state, which travels
            return reduced
        _known[token] = obj
        return (_arrive, (token, make, args), *rest)


class HomewardPickler(Pickler):
    """Pickles what a job ended with; whatever came from the sender goes back as a reference to the sender's own."""

    def reducer_override(self, obj: Any) -> Any:
        """Refer to what came from elsewhere, and define what was made here."""
        token = _tokens.get(obj) if _is_definable(obj) else None
        if token is None:
            return super().reducer_override(obj)
        return _come_home, (token, obj.__module__, obj.__qualname__)


def _is_definable(obj: Any) -> bool:
    real = type(obj)  # a wrapper claims to be of its function's
    return issubclass(real, type | FunctionType)


def _arrive(token: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    made = make(*args)
    _tokens[made] = token
    _known.setdefault(token, made)
    return made


def _come_home(token: str, module: str, qualname: str) -> Any:
    known = _known.get(token)
    if known is None:  # a notebook has defined it anew meanwhile
        known = _find_by_name(module, qualname)
    if known is None:
        raise LookupError(f"{module}.{qualname}, which was sent with the job, is no longer here")
    return known


def _find_by_name(module: str | None, qualname: str) -> Any:
    try:
        return operator.attrgetter(qualname)(sys.modules.get(module or ""))
    except AttributeError:
        return None


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
        fields = (self.digest, self.file, *_in_band(self.function), *_in_band(self.body))
        return pickle.dumps(fields, protocol=5)

    @classmethod
    def of_bytes(cls, blob: bytes) -> Parcel:
        """Make the parcel of what `to_bytes()` gave."""
        digest, file, function, function_buffers, body, body_buffers = pickle.loads(blob)
        return cls(digest, Payload(function, function_buffers), Payload(body, body_buffers), file)


def _in_band(payload: Payload) -> tuple[Buffer, tuple[pickle.PickleBuffer, ...]]:
    return payload.stream, tuple(pickle.PickleBuffer(buffer) for buffer in payload.buffers)


def pack(job: Job, *, local: bool = True) -> Parcel:
    """Pack a job for a worker, of this machine or of any.

    Raises:
        Exception: whatever the pickling of its function or of an argument raises.
    """
    function = job.function
    if getattr(type(function), "_bencher_job_cached", False):
        function = function.__wrapped__  # type: ignore[attr-defined]
    folder = None if job.media_folder is None else os.fspath(job.media_folder)
    names = (job.job_id, job.job_key, job.tag)
    return _pack(function, (job.positional, job.job_args, names, folder, main_name()), local)


def pack_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, local: bool = True
) -> Parcel:
    """Pack a plain call for a worker, of this machine or of any.

    Raises:
        Exception: whatever the pickling of the function or of an argument raises.
    """
    return _pack(function, (args, kwargs, None, None, None), local)


def _pack(function: Callable[..., Any], body: tuple[Any, ...], local: bool) -> Parcel:
    payload = dump(function, _outward)
    hasher = blake3(payload.stream)
    for buffer in payload.buffers:
        hasher.update(buffer)
    digest = hasher.digest()
    if not local or payload.nbytes <= FILE_FROM:
        return Parcel(digest, payload, dump(body, _outward))
    file = _files.file_of(digest, payload)
    return Parcel(digest, Payload(b""), dump(body, _outward), file.path, keeps=file)


def load(parcel: Parcel) -> Call:
    """Unpack a parcel in a worker; its buffers become the arguments' own.

    Raises:
        BaseException: whatever the unpickling of the function or of an argument raises.
    """
    args, kwargs, names, media_folder, main = parcel.body.load_in_place()
    if main is not None:
        adopt_main_name(main)
    return Call(_functions.function_of(parcel), args, kwargs, names, media_folder)


class _LoadedFunctions:
    """The functions that this worker used last, by digest."""

    def __init__(self) -> None:
        self._functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def function_of(self, parcel: Parcel) -> Callable[..., Any]:
        with self._lock:
            if (known := self._functions.get(parcel.digest)) is not None:
                self._functions.move_to_end(parcel.digest)
                return known
        payload = parcel.function
        if parcel.file:
            with open(parcel.file, "rb") as file:
                payload = Payload(*pickle.load(file))
        function: Callable[..., Any] = payload.load_in_place()
        with self._lock:
            self._functions[parcel.digest] = function
            if len(self._functions) > LOADED_FUNCTIONS:
                self._functions.popitem(last=False)
        return function


class _FunctionFile:
    """A function's bytes in a file, which goes when nothing that was sent refers to it any more."""

    def __init__(self, folder: str, digest: bytes, payload: Payload) -> None:
        self.path = os.path.join(folder, digest.hex())
        with open(f"{self.path}.part", "wb") as file:
            pickle.dump(_in_band(payload), file, protocol=5)
        os.replace(file.name, self.path)
        weakref.finalize(self, _in_this_process, os.getpid(), _unlink, self.path)


class _FunctionFiles:
    """The files of the large functions that were sent last, in a folder of this process's own."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = threading.Lock()
        self._folder: str | None = None
        self._sent: weakref.WeakValueDictionary[bytes, _FunctionFile] = weakref.WeakValueDictionary()
        self._last: OrderedDict[bytes, _FunctionFile] = OrderedDict()

    def file_of(self, digest: bytes, payload: Payload) -> _FunctionFile:
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="bencher_job-")  # readable by this user only
                atexit.register(
                    _in_this_process, os.getpid(), shutil.rmtree, self._folder, ignore_errors=True
                )
            file = self._sent.get(digest)
            if file is None:
                file = self._sent[digest] = _FunctionFile(self._folder, digest, payload)
            self._last[digest] = file
            self._last.move_to_end(digest)
            if len(self._last) > KEPT_FILES:
                self._last.popitem(last=False)
            return file


def _in_this_process(pid: int, act: Callable[..., object], *args: object, **kwargs: object) -> None:
    if os.getpid() == pid:  # a forked child has its parent's exit hooks, but not its files
        act(*args, **kwargs)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


_functions: Final = _LoadedFunctions()
_files: Final = _FunctionFiles()
