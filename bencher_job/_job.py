"""A job: a function, its arguments and its key, and how to run it.

While a job waits, it holds a snapshot of its arguments:

    numbers, strings, functions, ...                   the objects themselves
    lists, dicts, sets, arrays, and tuples of these    copies, unless they are large
    anything else                                      the objects themselves, keyed again before the job runs
"""

from __future__ import annotations

import datetime
import functools
import pathlib
import pickle
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

from ._context import Surroundings, call_in, runs_jobs
from ._keys import (
    FunctionVersion,
    Identity,
    JobKeys,
    anchored_call,
    function_version_of,
    identity_of,
    qualified_name,
)
from ._keys.fingerprint import libraries_in_arguments
from ._keys.hashing import WITH_CODE
from ._keys.libraries import other_versions
from ._loops import is_coroutine_function, run_to_end
from ._media import job_context
from ._options import check_text

if TYPE_CHECKING:
    from ._keys.code_check import CodeCheck
    from ._stores.blobs import BlobWriter


MOST_ITEMS: Final = 10_000
"""Maximum number of items copied for one job. Copying them takes about a millisecond."""

LARGEST: Final = 1 << 20
"""Maximum size in bytes of the arrays copied for one job, since many jobs may wait."""

DEEPEST: Final = 100
"""Maximum depth of nesting to which arguments are copied."""

_UNCHANGING: Final = frozenset(
    {
        bool, bytes, complex, float, int, str, type(None), range, slice, type(...), type(NotImplemented),
        datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone,
        pathlib.PosixPath, pathlib.PurePosixPath,
    }
)  # fmt: skip
_UNCHANGING_TOO: Final = {"decimal": "Decimal", "fractions": "Fraction", "uuid": "UUID"}
"""Classes by their modules, which are slow to import."""

_NAMED: Final = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, Enum)
"""Types whose objects are identified by name. Changes of their code are detected by the fingerprint."""


def can_not_change(values: Sequence[object]) -> bool:
    """Whether all values are of immutable types, as most arguments are."""
    kinds = set(map(type, values))
    return _UNCHANGING.issuperset(kinds) or all(map(_is_unchanging, kinds))


def _is_unchanging(kind: type) -> bool:
    if kind in _UNCHANGING:
        return True
    name = _UNCHANGING_TOO.get(kind.__module__)
    return name is not None and getattr(sys.modules.get(kind.__module__), name, None) is kind


class ArgumentSnapshot:
    """Copies the arguments of one job. An object that occurs several times is copied once.

    Attributes:
        is_whole: whether everything mutable was copied.
    """

    def __init__(self) -> None:
        self.is_whole = True
        self._items = MOST_ITEMS
        self._nbytes = LARGEST
        self._depth = 0
        self._made: dict[int, tuple[object, object]] = {}

    def call(
        self, positional: Sequence[Any], named: Mapping[str, Any], left: Collection[str]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Copy the arguments of a call, except those named in `left`.

        If any are named, no positional argument is copied, since its name is not known here.
        """
        if left and positional:
            self.is_whole = False
            args = tuple(positional)
        else:
            args = tuple(map(self.copy, positional))
        return args, self.named(named, left)

    def named(self, values: Mapping[str, Any], left: Collection[str]) -> dict[str, Any]:
        """Copy named values, except those named in `left`."""
        return {name: value if name in left else self.copy(value) for name, value in values.items()}

    def copy(self, value: Any) -> Any:
        """Return a copy, or the value itself if it is immutable or can't be copied."""
        if _is_unchanging(type(value)) or isinstance(value, _NAMED):
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        self._items -= 1
        if self._items < 0 or self._depth > DEEPEST:
            return self._itself(value)
        self._depth += 1
        try:
            return self._copied(value)
        finally:
            self._depth -= 1

    def _copied(self, value: Any) -> Any:
        kind = type(value)
        if kind is list:
            made: Any = self._note(value, [])
            made.extend(map(self.copy, value))
        elif kind is dict:
            made = self._note(value, {})
            made.update((self.copy(key), self.copy(item)) for key, item in value.items())
        elif kind is tuple:
            items = tuple(map(self.copy, value))
            is_same = all(item is before for item, before in zip(items, value, strict=True))
            made = self._note(value, value if is_same else items)
        elif kind is set or kind is frozenset:
            made = self._note(value, kind(map(self.copy, value)))
        elif kind is bytearray:
            made = self._bytes(value, len(value))
        else:
            made = self._array(value)
        return made

    def _array(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
            return self._itself(value)
        if isinstance(value, numpy.generic):
            return value
        if type(value) is not numpy.ndarray or value.dtype.hasobject:
            return self._itself(value)
        if value.flags.owndata and not value.flags.writeable:
            return value
        return self._bytes(value, value.nbytes)

    def _bytes(self, value: Any, size: int) -> Any:
        if size > self._nbytes:
            return self._itself(value)
        self._nbytes -= size
        return self._note(value, value.copy())

    def _itself(self, value: Any) -> Any:
        self.is_whole = False
        return self._note(value, value)

    def _note(self, value: Any, made: Any) -> Any:
        self._made[id(value)] = value, made  # the reference keeps the id from being used again
        return made


LONGEST_KEY: Final = 16_383
"""Maximum length of a key in characters: an entry has room for their UTF-8 in any case."""


def check_key(key: str) -> None:
    """Check that a str can be the key of an entry.

    Raises:
        TypeError: when it is not a str.
        ValueError: when it is too long, or has a character that no key may have.
    """
    check_text("job_key", key)
    if "\0" in key or len(key) > LONGEST_KEY:
        raise ValueError(
            f"job_key={key[:80]!r} can't be the key of an entry: it has {len(key):,} characters, or a null character. "
            f"Give a digest of it, such as hashlib.sha256(...).hexdigest()."
        )


class Start(Protocol):
    """What an engine asks before it begins a job; all of one run are of one class."""

    def begin(self, starts: Sequence[Any]) -> list[bool]:
        """Acquire the leases of jobs that begin together; whether each is to run, or another process runs it."""

    def step_back(self, starts: Sequence[Any]) -> None:
        """Release the leases of jobs that had not begun after all, and wait again."""


class Job:
    """One call of a function, with the key under which its result is kept.

    `job_id` names the job for people, in logs and errors. `job_args` are the keyword arguments of the function, and
    `positional` the arguments that can only be passed by position. `arguments` are the named arguments that records
    show, by default `job_args`. Without a `job_key` the key is made of the function and its arguments; the tag is
    never part of it. `identity` is a key together with the inputs that it was made of.

    A job pickles with its key if its function and arguments can be pickled. In another process it runs only if the
    code there is the code in the key.

    Raises:
        UnkeyableArgument: when no key can be made of an argument.
        TypeError: when the arguments don't fit the function, or the tag or key is not a str.
        ValueError: when the tag or key can't be encoded as UTF-8, or the key is too long.

    >>> job = Job("first", sorted, {"reverse": True}, positional=([1, 3, 2],))
    >>> run_job(job)
    [3, 2, 1]
    """

    __slots__ = (
        "arguments",
        "blob_writer",
        "bound",
        "code_check",
        "files",
        "function",
        "function_name",
        "function_version",
        "has_changed",
        "job_args",
        "job_id",
        "job_key",
        "keys",
        "may_change",
        "media_folder",
        "positional",
        "start",
        "surroundings",
        "tag",
    )

    def __init__(
        self,
        job_id: str,
        function: Callable[..., Any],
        job_args: Mapping[str, Any],
        job_key: str | None = None,
        tag: str = "",
        *,
        positional: Sequence[Any] = (),
        arguments: Mapping[str, Any] | None = None,
        identity: Identity | None = None,
    ) -> None:
        if tag != "":  # most jobs have no tag
            check_text("tag", tag)
        self.job_id = job_id
        self.function = function
        self.job_args = dict(job_args)
        self.positional = tuple(positional)
        if job_key is not None:
            check_key(job_key)
            identity = job_key, b"", None
        elif identity is None:
            self.positional, self.job_args = anchored_call(function, self.positional, self.job_args)
            identity = identity_of(function, self.positional, self.job_args)
        self.job_key, self.bound, self.function_version = identity
        version = self.function_version
        self.function_name = qualified_name(function) if version is None else version.function
        """Module and qualified name of the function, as in records."""
        self.tag = tag
        self.files: tuple[tuple[object, object], ...] = ()
        """Arguments that count by content, each with its canonical form at the time of the key."""
        self.arguments = self.job_args if arguments is None else arguments
        self.media_folder: str | None = None
        self.keys: JobKeys | None = None
        """The maker of the key, if that was not the function's default."""
        self.may_change = False
        """Whether the caller shares arguments with the job, and so may change them while it waits."""
        self.has_changed = False
        """Whether it ran with arguments other than those in its key."""
        self.blob_writer: BlobWriter | None = None
        """Where a worker on this machine writes a large result."""
        self.code_check = b""
        """For an unpickled job: the code in its key, which the process that runs it must have."""
        self.start: Start | None = None
        """What an engine asks before it begins the job."""
        self.surroundings: Surroundings | None = None
        """Where it was called, if it may run elsewhere."""

    def for_run(self, folder: str | None, blob_writer: BlobWriter | None) -> Job:
        """Copy the job for one run, with a folder for its media and a place for a large result."""
        run = Job.__new__(Job)
        run.job_id, run.function, run.positional, run.job_args = (
            self.job_id,
            self.function,
            self.positional,
            self.job_args,
        )
        run.job_key, run.bound, run.function_version = self.job_key, self.bound, self.function_version
        run.function_name, run.tag = self.function_name, self.tag
        run.files, run.arguments = self.files, self.arguments
        run.keys, run.may_change, run.has_changed = self.keys, self.may_change, self.has_changed
        run.media_folder, run.blob_writer = folder, blob_writer
        run.code_check, run.start, run.surroundings = self.code_check, None, self.surroundings
        return run

    def __copy__(self) -> Job:
        return self.for_run(self.media_folder, self.blob_writer)

    def __reduce__(self) -> tuple[Any, ...]:
        # The code in the key can't be pickled, so a description of it is.
        code_check = self.code_check
        if self.function_version is not None:
            with_code = self.function_version.fingerprint.counts_all and self.bound.startswith(WITH_CODE)
            libraries = libraries_in_arguments() if with_code else {}
            code_check = _check_of(self.function_version, tuple(libraries.items()))
        arguments = None if self.arguments is self.job_args else self.arguments
        call = self.job_id, self.function, self.job_args, self.job_key, self.tag, self.positional, arguments
        return _unpickled, (*call, self.files, self.media_folder, code_check)

    @runs_jobs
    def call(self) -> Any:
        """Call the function with the arguments. A cached function's plain one is called: the cache was checked before.

        Raises:
            CodeMismatch: when the job was pickled by a process with other code, or other versions of the libraries in
                its key.
            BaseException: what the function raises.
        """
        function = self.function
        if self.code_check:
            from ._keys.code_check import refuse_other_code  # slow to import, and few jobs are unpickled

            # The value goes its own way, without a word on the versions, so that somebody would store it.
            others = other_versions(_loaded_check(self.code_check).libraries)
            refuse_other_code(function, _differences(self.code_check, function_version_of(function)), others)
        if getattr(type(function), "_bencher_job_cached", False):
            function = function.__wrapped__  # type: ignore[attr-defined]
        return function(*self.positional, **self.job_args)

    def snapshot(self) -> Job:
        """Copy the job with a snapshot of its arguments, so that the caller can't change them while it waits.

        Ignored arguments are shared with the caller, as are large ones and those that can't be copied; with the
        latter two the job `may_change`.
        """
        if self.function_version is None or can_not_change((*self.positional, *self.job_args.values())):
            return self
        snapshot, ignored = ArgumentSnapshot(), () if self.keys is None else self.keys.ignored
        job = self.for_run(self.media_folder, self.blob_writer)
        job.positional, job.job_args = snapshot.call(self.positional, self.job_args, ignored)
        job.arguments = snapshot.named(self.arguments, ignored)
        job.may_change, job.start = not snapshot.is_whole, self.start
        return job

    def note_changes(self) -> None:
        """Set `has_changed` if the arguments no longer match the key. Call this right before the job runs."""
        if self.function_version is None:
            return
        identity = identity_of if self.keys is None else _identity_by(self.keys)
        try:
            _, bound, _ = identity(self.function, self.positional, self.job_args)
        except Exception:  # noqa: BLE001 - the changed arguments have no key
            self.has_changed = True
        else:
            self.has_changed = not self.bound.startswith(bound)  # the number of a repeat follows

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"<Job {self.job_id!r} of {name}, key {self.job_key[:12]}>"


Job.__module__ = "bencher_job"  # the package imports it on first use


def _unpickled(
    job_id: str,
    function: Callable[..., Any],
    job_args: dict[str, Any],
    job_key: str,
    tag: str,
    positional: tuple[Any, ...],
    arguments: Mapping[str, Any] | None,
    files: tuple[tuple[object, object], ...],
    media_folder: str | None,
    code_check: bytes,
) -> Job:
    job = Job(job_id, function, job_args, job_key, tag, positional=positional, arguments=arguments)
    job.files, job.media_folder, job.code_check = files, media_folder, code_check
    return job


@functools.lru_cache(maxsize=64)
def _check_of(function_version: FunctionVersion, libraries: tuple[tuple[str, str], ...]) -> bytes:
    """Pickle the code check of a function, with versions of the libraries that the code of its arguments names."""
    from ._keys.code_check import code_check_for  # slow to import, and few jobs are pickled

    check = code_check_for(function_version.fingerprint)
    return pickle.dumps(replace(check, libraries={**check.libraries, **dict(libraries)}))


@functools.lru_cache(maxsize=64)
def _loaded_check(code_check: bytes) -> CodeCheck:
    check: CodeCheck = pickle.loads(code_check)
    return check


@functools.lru_cache(maxsize=64)
def _differences(code_check: bytes, _: FunctionVersion) -> tuple[str, ...]:
    """Compare again only if the function's version has changed, since comparing takes milliseconds."""
    return _loaded_check(code_check).differences()


def _identity_by(keys: JobKeys) -> Callable[..., Identity]:
    return lambda _, positional, job_args: keys.identity(positional, job_args)


def run_job(job: Job) -> Any:
    """Run a job's function in this thread and return its result. Nothing is looked up or stored.

    While the function runs, `current_job_key()` returns the job's key and `gen_path()` a path in the run's own folder.
    A coroutine function runs in an event loop of its own.

    Raises:
        CodeMismatch: when the job was pickled by a process with other code.
        BencherJobError: for a coroutine function, in a thread whose event loop is running.
        BaseException: what the function raises.
    """
    context = job_context(job.job_key, job.media_folder)
    return call_in(context, result_of, job, surroundings=job.surroundings)


run_job.__module__ = "bencher_job"  # the package imports it on first use


def result_of(job: Job) -> Any:
    """Call a job's function in the current context, and run the coroutine that it may return."""
    value = job.call()
    if hasattr(value, "__await__") and is_coroutine_function(job.function):
        return run_to_end(value)
    return value
