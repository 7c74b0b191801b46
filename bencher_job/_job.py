"""A job: a function, its arguments and its key, and how to run it.

numbers, texts, functions, ...                     themselves
lists, dicts, sets, arrays, and tuples of such     copies, unless they are large
what else there is                                 themselves, and to be looked at again
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

from ._inside import runs_jobs
from ._keys import Edition, Identity, JobKeys, anchored_call, edition_of, identity_of
from ._keys.fingerprint import libraries_in_arguments
from ._keys.hashing import WITH_CODE
from ._keys.libraries import other_versions
from ._loops import is_coroutine_function, run_to_end
from ._media import RUNNING, RunningJob, running_as
from ._text import is_writable

if TYPE_CHECKING:
    from ._keys.agreement import Agreement
    from ._stores.blobs import Depository

__all__ = ["Held", "Job", "Start", "can_not_change", "check_key", "check_text", "run_as", "run_job"]


MOST_ITEMS: Final = 10_000
"""How many items are copied for one job at most: copying them takes about a millisecond."""

LARGEST: Final = 1 << 20
"""How many bytes of arrays are copied for one job at most, since many jobs may wait."""

DEEPEST: Final = 100

_UNCHANGING: Final = frozenset(
    {
        bool, bytes, complex, float, int, str, type(None), range, slice, type(...), type(NotImplemented),
        datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone,
        pathlib.PosixPath, pathlib.PurePosixPath,
    }
)  # fmt: skip
_UNCHANGING_TOO: Final = {"decimal": "Decimal", "fractions": "Fraction", "uuid": "UUID"}
"""Classes by their modules, which take long to import."""

_NAMED: Final = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, Enum)
"""What is the same thing however often it is looked at; code that changes is seen otherwise."""


def can_not_change(values: Sequence[object]) -> bool:
    """Whether all values are of types that nobody can change in place, as most arguments are."""
    kinds = set(map(type, values))
    return _UNCHANGING.issuperset(kinds) or all(map(_is_unchanging, kinds))


def _is_unchanging(kind: type) -> bool:
    if kind in _UNCHANGING:
        return True
    name = _UNCHANGING_TOO.get(kind.__module__)
    return name is not None and getattr(sys.modules.get(kind.__module__), name, None) is kind


class Held:
    """Copies the arguments of one job; what stands in several places is copied once.

    Attributes:
        is_whole: whether all that can change was copied.
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
        """Copy the arguments of a call but for those whose names are left as they are.

        Where there are such names, nothing that comes by position is copied, since its name is not known here.
        """
        if left and positional:
            self.is_whole = False
            args = tuple(positional)
        else:
            args = tuple(map(self.copy, positional))
        return args, self.named(named, left)

    def named(self, values: Mapping[str, Any], left: Collection[str]) -> dict[str, Any]:
        """Copy values by their names but for those that are left as they are."""
        return {name: value if name in left else self.copy(value) for name, value in values.items()}

    def copy(self, value: Any) -> Any:
        """Give a copy, or the value itself where it can't change or be copied."""
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
        self._made[id(value)] = value, made  # it lives on, so that its id stays its own
        return made


LONGEST_KEY: Final = 16_383
"""Characters whose UTF-8 an entry has room for in any case."""


def check_text(option: str, text: str) -> None:
    """Check that a text is one, and can be written to a store.

    Raises:
        TypeError: when it is something else.
        ValueError: when it has half of a surrogate pair, for which UTF-8 has no bytes.
    """
    if not isinstance(text, str):
        raise TypeError(f"{option}={text!r} is no text. Give a text, or leave it out.")
    if not is_writable(text):
        raise ValueError(
            f"{option}={text!r} can't be written to a store: UTF-8 has no bytes for half of a surrogate pair. Give a "
            f"text without one."
        )


def check_key(key: str) -> None:
    """Check that a text can be the key of an entry.

    Raises:
        TypeError: when it is no text.
        ValueError: when it is too long, or has a character that no key may have.
    """
    check_text("job_key", key)
    if "\0" in key or len(key) > LONGEST_KEY:
        raise ValueError(
            f"job_key={key[:80]!r} can't be the key of an entry: it has {len(key):,} characters, or a null character "
            f"among them. Give a digest of it, such as hashlib.sha256(...).hexdigest()."
        )


class Start(Protocol):
    """What an engine asks before it begins a job; all of one run are of one class."""

    def begin(self, starts: Sequence[Any]) -> list[bool]:
        """Acquire the leases of jobs that begin together; whether each is to run, or another process runs it."""

    def step_back(self, starts: Sequence[Any]) -> None:
        """Release the leases of jobs that had not begun after all, and wait again."""


class Job:
    """One call of a function, with the key under which its result is kept.

    `job_id` names the job for people, in logs and errors. `job_args` are the function's keyword arguments; what can
    only be passed by position goes before them as `positional`. `arguments` are what records show: the arguments by the
    names of the parameters, `job_args` unless given. Without a `job_key` the key is made of the function and
    its arguments; the tag is never part of it. `identity` is a key together with what it was made of.

    A job pickles with its key, as far as its function and arguments do. In another process it runs only where the code
    is the one that the key was made of.

    Raises:
        UnkeyableArgument: when no key can be made of an argument.
        TypeError: when the arguments don't fit the function.
        ValueError: when a tag or a key is no text that can be written, or a key is too long.

    >>> job = Job("first", sorted, {"reverse": True}, positional=([1, 3, 2],))
    >>> run_job(job)
    [3, 2, 1]
    """

    __slots__ = (
        "agreement",
        "arguments",
        "bound",
        "depository",
        "edition",
        "files",
        "function",
        "has_changed",
        "job_args",
        "job_id",
        "job_key",
        "keys",
        "may_change",
        "media_folder",
        "positional",
        "start",
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
        if tag != "":  # which most jobs have
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
        self.job_key, self.bound, self.edition = identity
        self.tag = tag
        self.files: tuple[tuple[object, object], ...] = ()
        """What counts by content, with what stood for it when the key was made."""
        self.arguments = self.job_args if arguments is None else arguments
        self.media_folder: str | None = None
        self.keys: JobKeys | None = None
        """What made the key, where that was not the function's own default."""
        self.may_change = False
        """Whether what it runs with is held by others too, who may change it while the job waits."""
        self.has_changed = False
        """Whether it has run with other arguments than those that its key is of."""
        self.depository: Depository | None = None
        """Where a worker of this machine writes a large result."""
        self.agreement = b""
        """Of a job that was unpickled: the code that its key is of, to be found in the process that runs it."""
        self.start: Start | None = None
        """What an engine asks before it begins the job."""

    def for_run(self, folder: str | None, depository: Depository | None) -> Job:
        """Copy the job for one run, whose media go into a folder, and whose result, if it is large, to a depository."""
        run = Job.__new__(Job)
        run.job_id, run.function, run.positional, run.job_args = (
            self.job_id,
            self.function,
            self.positional,
            self.job_args,
        )
        run.job_key, run.bound, run.edition = self.job_key, self.bound, self.edition
        run.tag, run.files, run.arguments = self.tag, self.files, self.arguments
        run.keys, run.may_change, run.has_changed = self.keys, self.may_change, self.has_changed
        run.media_folder, run.depository = folder, depository
        run.agreement, run.start = self.agreement, None
        return run

    def __copy__(self) -> Job:
        return self.for_run(self.media_folder, self.depository)

    def __reduce__(self) -> tuple[Any, ...]:
        # Of what the key was made of, the code can't travel; a word on what it was does.
        agreement = self.agreement
        if self.edition is not None:
            with_code = self.edition.fingerprint.counts_all and self.bound.startswith(WITH_CODE)
            libraries = libraries_in_arguments() if with_code else {}
            agreement = _agreement_on(self.edition, tuple(libraries.items()))
        arguments = None if self.arguments is self.job_args else self.arguments
        call = self.job_id, self.function, self.job_args, self.job_key, self.tag, self.positional, arguments
        return _unpickled, (*call, self.files, self.media_folder, agreement)

    @runs_jobs
    def call(self) -> Any:
        """Call the function with the arguments, the plain one where it is cached: the job's own cache has been asked.

        Raises:
            CodeMismatch: when the job was pickled by a process with other code, or other versions of the libraries in
                its key.
            BaseException: what the function raises.
        """
        function = self.function
        if self.agreement:
            from ._keys.agreement import refuse_other_code  # takes long to import, and few jobs are unpickled

            # The value goes its own way, without a word on the versions, so that somebody would store it.
            others = other_versions(_agreed(self.agreement).libraries)
            refuse_other_code(function, _differences(self.agreement, edition_of(function)), others)
        if getattr(type(function), "_bencher_job_cached", False):
            function = function.__wrapped__  # type: ignore[attr-defined]
        return function(*self.positional, **self.job_args)

    def held(self) -> Job:
        """Copy the job with what its key is of, as it is now, so that nobody changes it while the job waits.

        What is ignored stays the caller's own, and so does what can't be copied or is large: it `may_change`.
        """
        if self.edition is None or can_not_change((*self.positional, *self.job_args.values())):
            return self
        held, ignored = Held(), () if self.keys is None else self.keys.ignored
        job = self.for_run(self.media_folder, self.depository)
        job.positional, job.job_args = held.call(self.positional, self.job_args, ignored)
        job.arguments = held.named(self.arguments, ignored)
        job.may_change, job.start = not held.is_whole, self.start
        return job

    def note_changes(self) -> None:
        """Look whether the arguments still are those that the key is of; to be called right before it runs."""
        if self.edition is None:
            return
        identity = identity_of if self.keys is None else _identity_by(self.keys)
        try:
            _, bound, _ = identity(self.function, self.positional, self.job_args)
        except Exception:  # noqa: BLE001 - no key can be made of what they are now
            self.has_changed = True
        else:
            self.has_changed = not self.bound.startswith(bound)  # after which the number of a repeat stands

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"<Job {self.job_id!r} of {name}, key {self.job_key[:12]}>"


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
    agreement: bytes,
) -> Job:
    job = Job(job_id, function, job_args, job_key, tag, positional=positional, arguments=arguments)
    job.files, job.media_folder, job.agreement = files, media_folder, agreement
    return job


@functools.lru_cache(maxsize=64)
def _agreement_on(edition: Edition, libraries: tuple[tuple[str, str], ...]) -> bytes:
    """Make the agreement on a function, and on versions of the libraries that the code of its arguments names."""
    from ._keys.agreement import agreement_on  # takes long to import, and few jobs are pickled

    agreed = agreement_on(edition.fingerprint)
    return pickle.dumps(replace(agreed, libraries={**agreed.libraries, **dict(libraries)}))


@functools.lru_cache(maxsize=64)
def _agreed(agreement: bytes) -> Agreement:
    agreed: Agreement = pickle.loads(agreement)
    return agreed


@functools.lru_cache(maxsize=64)
def _differences(agreement: bytes, _: Edition) -> tuple[str, ...]:
    """Look again only where the function is no longer the edition that it was: that takes milliseconds."""
    return _agreed(agreement).differences()


def _identity_by(keys: JobKeys) -> Callable[..., Identity]:
    return lambda _, positional, job_args: keys.identity(positional, job_args)


def run_job(job: Job) -> Any:
    """Run a job's function here and now, and return what it returns; nothing is looked up or kept.

    While the function runs, `current_job_key()` is the job's key and `gen_path()` leads to the run's own folder. A
    coroutine function runs in an event loop of its own.

    Raises:
        CodeMismatch: when the job was pickled by a process with other code.
        BencherJobError: for a coroutine function, in a thread whose event loop is running.
        BaseException: what the function raises.
    """
    return run_as(running_as(job.job_key, job.media_folder), job)


def run_as(running: RunningJob, job: Job) -> Any:
    """Run a job's function as the current job of this thread.

    Raises:
        CodeMismatch: when the job was pickled by a process with other code.
        BaseException: as `run_job` does.
    """
    before = RUNNING.get()
    try:  # and not a context, whose end Ctrl-C could keep from being reached
        RUNNING.set(running)
        value = job.call()
        if hasattr(value, "__await__") and is_coroutine_function(job.function):
            return run_to_end(value)
        return value
    finally:
        RUNNING.set(before)
