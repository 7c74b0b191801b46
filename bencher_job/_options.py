"""The options of caches, each once, and the settings that come from the environment.

    cached_job(**given)          -> accept: names, then values -> JobFunctionCache(function, **given)
    JobFunctionCache, FutureCache -> Options.of(given): KeyOptions, StoreOptions, RunOptions, PoolOptions

To add an option, add a row to one of the four groups and its type to the arguments above them, describe it in the
docstring of `cached_job` and in docs/reference/options.md, and use it.
"""

from __future__ import annotations

import concurrent.futures
import inspect
import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import auto
from functools import partial
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Final,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypedDict,
    TypeVar,
    get_args,
)

from strenum import StrEnum

from ._cores import InnerThreads, cores
from ._errors import BencherJobError, JobTimeout, WorkerLost
from ._mounts import is_shared, local_folder
from ._record import Record
from ._text import did_you_mean, is_writable

_log = logging.getLogger(__name__)


FIRST_PAUSE: Final = 0.1
"""Seconds before the second run; each further pause is twice as long."""

LONGEST_PAUSE: Final = 10.0
"""The longest pause in seconds."""


class Executors(StrEnum):
    """Where jobs run. Names of members are case-insensitive.

    >>> Executors("multiprocessing")
    <Executors.MULTIPROCESSING: 'MULTIPROCESSING'>
    """

    SERIAL = auto()
    """In the calling thread."""

    THREADS = auto()
    """In threads of this process, for functions that release the GIL or wait for I/O."""

    MULTIPROCESSING = auto()
    """In processes of this machine."""

    SCOOP = auto()
    """In the workers of a program started by `python -m scoop`, on one or many machines."""

    RAY = auto()
    """On a Ray cluster. `Ray(...)` has the options."""

    SLURM = auto()
    """In workers that Slurm starts. `Slurm(...)` has the options."""

    @classmethod
    def _missing_(cls, value: object) -> Executors | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None

    @staticmethod
    def factory(provider: Executors | str) -> concurrent.futures.Executor | None:
        """Make a new executor. Return None for SERIAL, which needs none.

        Raises:
            ValueError: if no executor has that name.
            BencherJobError: if SCOOP is not running. The message says how to start it.
        """
        make = MAKERS.get(Executors(provider))
        return None if make is None else make()


Executors.__module__ = "bencher_job"  # the package imports it on first use


MAKERS: Final[dict[Executors, Callable[[], concurrent.futures.Executor]]] = {}
"""The function that makes each member's executor. The package fills it, because it may import the engines."""


# What callers may give

CodeScope = Literal["deep", "own", "none"]
"""How far a walk goes: everywhere, only to the function's defaults and closure variables, or nowhere."""

ExecutorName = Literal[
    "serial", "SERIAL", "threads", "THREADS", "multiprocessing", "MULTIPROCESSING", "scoop", "SCOOP", "slurm", "SLURM",
    "ray", "RAY",
]  # fmt: skip
"""The names of `Executors`, as type checkers know them. A Dask scheduler's address passes as a `Client`."""


class Submits(Protocol):
    """Anything that runs jobs: a `concurrent.futures.Executor`, or a cluster's client."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Run a job, and return its future."""


class StartsExecutor(Protocol):
    """An engine with options of its own: `Slurm(...)`, `Ray(...)`."""

    def new_executor(self, patience: float | None) -> Any:
        """Make its executor."""


AnyExecutor = Executors | ExecutorName | Submits | StartsExecutor

StartMethod = Literal["spawn", "forkserver", "fork"]
Keep = Callable[[Any], object] | Callable[[Any, Record], object]
RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]


class _CallArguments(TypedDict, total=False):
    ttl: float | timedelta | None
    keep: Keep | None
    valid: Callable[[Record], object] | None
    mmap: bool
    compression: Literal["zstd", "lz4"] | None
    retries: int
    retry_on: RetryOn
    timeout: float | timedelta | None
    patience: float | timedelta | None
    max_workers: int | None
    max_tasks_per_worker: int | None
    initializer: Callable[..., object] | None
    initargs: Sequence[Any]
    start_method: StartMethod | None
    inner_threads: int | None
    gpus: int | Sequence[int | str] | None


class CacheArguments(_CallArguments, total=False):
    """Keyword arguments of `FutureCache`, besides those that it also takes by position."""

    cache_dir: str | os.PathLike[str] | None
    shared: str | os.PathLike[str] | None
    trusted: bool


class CallArguments(_CallArguments, total=False):
    """Keyword arguments of `with_options`: those that change neither the key nor the store."""

    executor: AnyExecutor
    tag: str
    overwrite: bool


class _FunctionArguments(TypedDict, total=False):
    tag: str
    ignore: Collection[str]
    keys: Mapping[str, Callable[[Any], object]] | None
    version: object
    code: CodeScope
    depends_on: Iterable[object]
    by_content: Collection[str]
    libraries: bool | Collection[str]


class _PositionalArguments(TypedDict, total=False):
    executor: AnyExecutor
    cache_name: str
    size_limit: int
    overwrite: bool


class FunctionCacheArguments(_FunctionArguments, CacheArguments, total=False):
    """Keyword arguments of `JobFunctionCache`, besides those that it also takes by position."""

    cache_samples: bool


class DecoratorArguments(_PositionalArguments, _FunctionArguments, CacheArguments, total=False):
    """Keyword arguments of `cached_job`, which takes no option by position."""


# How they are checked: each function takes the option's name and what was given, and returns what the package uses.


def _wrong_type(option: str, wanted: str, given: object) -> TypeError:
    return TypeError(f"{option} must be {wanted}, not {_type_name(given)}")


def _type_name(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


def _of(kind: Any, wanted: str) -> Callable[[str, Any], Any]:
    """Make the check that a value is of a type."""

    def check(option: str, given: Any) -> Any:
        if not isinstance(given, kind):
            raise _wrong_type(option, wanted, given)
        return given

    return check


_str = _of(str, "a str")
_bool = _of(bool, "a bool")
_str_or_none = _of(str | None, "a str or None")
_path = _of(str | os.PathLike | None, "a str, a path or None")
_function = _of(Callable | None, "a function or None")


def check_text(option: str, given: object) -> str:
    """Check that an option is a str that can be written to a store.

    Raises:
        TypeError: when it is of another type.
        ValueError: when it has a lone surrogate, which UTF-8 can't encode.
    """
    text: str = _str(option, given)
    if not is_writable(text):
        raise ValueError(
            f"{option}={given!r} can't be written to a store: UTF-8 can't encode a lone surrogate. Give a str without "
            f"one."
        )
    return text


def _int(option: str, given: object, least: int, low: str, remedy: str, wanted: str = "an int") -> int:
    if not isinstance(given, int) or isinstance(given, bool):
        raise _wrong_type(option, wanted, given)
    if given < least:
        raise ValueError(f"{option}={given} {low}. {remedy}.")
    return int(given)


def _count(option: str, given: object, low: str, otherwise: str) -> int | None:
    remedy = f"Give 1 or more, or {otherwise}"
    return None if given is None else _int(option, given, 1, low, remedy, "an int or None")


def _limit(option: str, given: object) -> int | None:
    return None if given is None else _int(option, given, 0, "is below 0", "Give 0 or more", "an int or None")


def _seconds(option: str, given: object, otherwise: str) -> float | None:
    if given is None:
        return None
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise _wrong_type(option, "a number of seconds, a timedelta or None", given)
    if not seconds > 0:
        raise ValueError(f"{option}={given!r} is not above 0. Give more than 0 seconds, or {otherwise}.")
    return None if seconds == math.inf else float(seconds)


def _choice(option: str, given: object, choices: tuple[str, ...], what: str) -> Any:
    if given not in choices:
        names = ", ".join(map(repr, choices))
        raise ValueError(f"{option}={given!r} is not {what}. Use one of {names}.")
    return given


def _scope(option: str, given: object) -> Any:
    return _choice(option, _str(option, given), get_args(CodeScope), "a scope")


def _start_method(option: str, given: object) -> Any:
    if _str_or_none(option, given) is None:
        return None
    return _choice(option, given, get_args(StartMethod), "a way to start a worker")


def _tuple(option: str, given: Any, wanted: str = "an iterable", of: Any = object) -> tuple[Any, ...]:
    """Make a tuple of an option that takes several things; a str by itself is one of them."""
    try:
        several = (given,) if isinstance(given, str) else tuple(given)
    except TypeError:
        raise _wrong_type(option, wanted, given) from None
    for each in several:
        if not isinstance(each, of):
            raise TypeError(f"{option} must be {wanted}, not of {_type_name(each)}")
    return several


def _gpus(option: str, given: Any) -> int | tuple[str, ...] | None:
    if given is None or isinstance(given, int):
        return _count(option, given, "leaves workers no GPU", "None to leave them all")
    wanted = "an int, a sequence of ids or None"
    ids = _tuple(option, given, wanted, int | str)
    if bool in map(type, ids):
        raise TypeError(f"{option} must be {wanted}, not of bool")
    if not ids:
        raise ValueError(
            f"{option}={given!r} has no id. Give one or more, or None to leave workers all GPUs."
        )
    return tuple(map(str, ids))


def _names(option: str, given: object) -> tuple[str, ...]:
    return _tuple(option, given, "a collection of str", str)


def _libraries(option: str, given: object) -> bool | tuple[str, ...]:
    if isinstance(given, bool):
        return given
    return _tuple(option, given, "True, False or names of distributions", str)


def required_parameters(function: Callable[..., object]) -> int:
    """Return how many parameters of a function have no default; 1 if it doesn't say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(each.default is each.empty and each.kind not in _STARS for each in parameters)


_STARS: Final = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _predicate(option: str, given: object, takes: tuple[str, ...]) -> Any:
    if _function(option, given) is None:
        return None
    if inspect.iscoroutinefunction(given):
        raise TypeError(f"{option} must be a plain function, not a coroutine function")
    wanted = required_parameters(given)  # type: ignore[arg-type]
    if wanted > len(takes):
        raise TypeError(
            f"{option} must be a function of {' or of '.join(takes)}, and it takes {wanted} parameters"
        )
    return given


def _key_functions(option: str, given: Any) -> dict[str, Callable[[Any], object]] | None:
    if given is None:
        return None
    wanted = "a mapping of parameter names to functions"
    if not isinstance(given, Mapping):
        raise _wrong_type(option, wanted, given)
    for name, function in given.items():
        if not isinstance(name, str) or not callable(function):
            raise TypeError(f"{option} must be {wanted}, not of {_type_name(name)} to {_type_name(function)}")
    return dict(sorted(given.items()))


def _exceptions(option: str, given: Any) -> Any:
    if callable(given) and not isinstance(given, type):
        return given
    for each in given if isinstance(given, tuple) else (given,):
        if not (isinstance(each, type) and issubclass(each, Exception)):
            raise _wrong_type(option, "an exception type, a tuple of them or a function", each)
    return given


# The table


def _option(
    default: object, check: Callable[..., object] = lambda _option, given: given, **details: object
) -> Any:
    """Make a row: a field with its default, and the function that checks a value, with its details."""
    return field(default=default, metadata={"check": partial(check, **details)})


class _Checked:
    """Base of the groups, which checks their values when one is made."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Pick the options of this group from all that were given."""
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})

    def __post_init__(self) -> None:
        values = vars(self)
        for name, given in values.items():
            row = self.__dataclass_fields__[name]
            if given is not row.default:
                values[name] = row.metadata["check"](name, given)


@dataclass(frozen=True, kw_only=True)
class KeyOptions(_Checked):
    """What the key of a job is made of."""

    ignore: tuple[str, ...] = _option((), _names)
    version: object = _option(None)  # `JobKeys` checks it
    code: CodeScope = _option("deep", _scope)
    depends_on: tuple[Any, ...] = _option((), _tuple)
    by_content: tuple[str, ...] = _option((), _names)
    keys: Mapping[str, Callable[[Any], object]] | None = _option(None, _key_functions)
    libraries: bool | tuple[str, ...] = _option(True, _libraries)


@dataclass(frozen=True, kw_only=True)
class StoreOptions(_Checked):
    """Where results are kept, how, and for how long. `ttl` is in seconds."""

    cache_name: str = _option("fcache", _str)  # `store_directory` checks it
    cache_dir: str | os.PathLike[str] | None = _option(None, _path)
    shared: str | os.PathLike[str] | None = _option(None, _path)  # `open_shared` checks it
    tag: str = _option("", check_text)
    tag_index: bool = _option(True, _bool)
    size_limit: int = _option(
        int(10e9),
        _int,
        least=1,
        low="leaves no room for entries",
        remedy="Give a size in bytes, such as int(10e9)",
    )
    cache_samples: bool = _option(True, _bool)
    ttl: float | None = _option(None, _seconds, otherwise="None to keep results for good")
    keep: Keep | None = _option(None, _predicate, takes=("the result", "the result and the record"))
    valid: Callable[[Record], object] | None = _option(None, _predicate, takes=("the record",))
    mmap: bool = _option(False, _bool)
    compression: str | None = _option(None, _str_or_none)  # `compression_named` checks it
    trusted: bool = _option(False, _bool)


@dataclass(frozen=True, kw_only=True)
class RunOptions(_Checked):
    """Whether, where, how often and how long jobs run. `timeout` and `patience` are in seconds."""

    executor: AnyExecutor | Any = _option(Executors.SERIAL)  # `executor_name` checks it
    overwrite: bool = _option(False, _bool)
    retries: int = _option(0, _int, least=0, low="is below 0", remedy="Give 0 or more")
    retry_on: RetryOn = _option(Exception, _exceptions)
    timeout: float | None = _option(None, _seconds, otherwise="None to let jobs run on")
    patience: float | None = _option(None, _seconds, otherwise="None to let jobs wait")

    def pause(self, error: BaseException | None, attempt: int) -> float | None:
        """Return the seconds to wait before the next run, after an attempt (from 1) has failed; None for no next run.

        Each pause is a random part, at least half, of 0.1, 0.2, 0.4 seconds and so on, up to 10, so that jobs that
        failed together don't run again together.
        """
        if attempt > self.retries or not isinstance(error, Exception) or not self._passes(error):
            return None
        import random  # takes long to import, and few runs fail

        longest = min(FIRST_PAUSE * 2.0 ** min(attempt - 1, 64), LONGEST_PAUSE)
        return longest * random.uniform(0.5, 1)  # noqa: S311 - nothing depends on its being secret

    def _passes(self, error: Exception) -> bool:
        """Whether another run may end better."""
        if isinstance(error, WorkerLost):
            return True
        if isinstance(error, CancelledError):
            return False
        if isinstance(error, BencherJobError) and not isinstance(error, JobTimeout):
            return False  # what can't be sent or read today can't be in a second
        if isinstance(self.retry_on, type | tuple):
            return isinstance(error, self.retry_on)
        try:
            return bool(self.retry_on(error))
        except BaseException:  # noqa: BLE001 - the job's own error is what the caller must get
            _log.exception("retry_on=%r failed on %r, which is therefore final", self.retry_on, error)
            return False


@dataclass(frozen=True, kw_only=True)
class PoolOptions(_Checked):
    """How many workers there are, and how each of them is set up. Functions with the same options share them."""

    max_workers: int | None = _option(None, _count, low="starts no worker", otherwise="None for all cores")
    max_tasks_per_worker: int | None = _option(
        None, _count, low="leaves a worker no job", otherwise="None for no limit"
    )
    initializer: Callable[..., object] | None = _option(None, _function)
    initargs: tuple[Any, ...] = _option((), _tuple)
    start_method: StartMethod | None = _option(None, _start_method)
    inner_threads: int | None = _option(
        None, _count, low="leaves a worker no thread", otherwise="None for its share of the cores"
    )
    gpus: int | tuple[str, ...] | None = _option(None, _gpus)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initializer is None and self.initargs:
            raise TypeError(
                f"initargs={self.initargs!r} has no initializer to go to. Give one, or leave it out."
            )

    @property
    def size(self) -> int:
        """The largest number of workers."""
        return self.max_workers or len(self.devices()) or cores()

    def devices(self) -> tuple[str, ...]:
        """Return the ids of the GPUs that the workers share. A number takes the first that this process may use."""
        if isinstance(self.gpus, tuple):
            return self.gpus
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        ids = map(str, range(self.gpus or 0)) if visible is None else filter(None, visible.split(","))
        return tuple(ids)[: self.gpus or 0]

    def variables(self, index: int) -> dict[str, str]:
        """Return the environment variables of the worker with an index."""
        devices = self.devices()
        given = {"CUDA_VISIBLE_DEVICES": devices[index % len(devices)]} if devices else {}
        return {"BENCHER_JOB_WORKER": str(index), **given}

    def inner(self) -> InnerThreads:
        """Return how many threads the libraries may start in a worker that starts now."""
        return InnerThreads.of(self.size, self.inner_threads)

    def given(self) -> dict[str, Any]:
        """Return the options that are not left open, by name."""
        values = {row.name: getattr(self, row.name) for row in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != ()}


@dataclass(frozen=True, kw_only=True)
class Limits(_Checked):
    """How much a cache may hold: bytes, entries, and the seconds since an entry was used."""

    size: int | None = _option(None, _limit)
    entries: int | None = _option(None, _limit)
    unused_for: float | None = _option(None, _seconds, otherwise="leave it out to look at no times")

    @property
    def is_some(self) -> bool:
        """Whether there is a limit."""
        return (self.size, self.entries, self.unused_for) != (None, None, None)


OPTIONS: Final = {
    row.name: row for group in (KeyOptions, StoreOptions, RunOptions, PoolOptions) for row in fields(group)
}
"""All options by name."""


CHECKED_ALONE: Final = frozenset(StoreOptions.__dataclass_fields__) - {"compression"}
"""Options that are checked without the function, the executor and other packages."""


class Options(NamedTuple):
    """All options of one cache, checked."""

    key: KeyOptions
    store: StoreOptions
    run: RunOptions
    pool: PoolOptions

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Check what was given, and take the defaults of all else.

        Raises:
            TypeError: when a value has the wrong type.
            ValueError: when a value can't be used.
        """
        return cls(KeyOptions.of(given), StoreOptions.of(given), RunOptions.of(given), PoolOptions.of(given))


def accept(function: Any, given: Mapping[str, Any]) -> None:
    """Check that a function which `shows_options` takes each of the keyword arguments that it was given.

    Raises:
        TypeError: when it doesn't take one, with the name that may have been meant.
    """
    parameters = function.__signature__.parameters
    for name in given:
        if name not in parameters or parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY:
            known = [repr(each.name) for each in parameters.values() if each.kind is not each.POSITIONAL_ONLY]
            raise TypeError(
                f"{function.__qualname__}() got an unexpected keyword argument {name!r}"
                f"{did_you_mean(repr(name), known)}"
            )


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values, and return them in the form that the package uses.

    Raises:
        TypeError: when a value has the wrong type.
        ValueError: when a value can't be used.
    """
    return {name: OPTIONS[name].metadata["check"](name, value) for name, value in given.items()}


_F = TypeVar("_F", bound=Callable[..., Any])


def shows_options(arguments: type) -> Callable[[_F], _F]:
    """Write the options that a function takes as `**options` into its signature, with their defaults and types.

    `help`, Sphinx and IPython read them there; type checkers read `arguments`, a `TypedDict`.
    """

    def decorate(function: _F) -> _F:
        signature = inspect.signature(function)
        *own, _ = signature.parameters.values()
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=OPTIONS[name].default,
                annotation=getattr(given, "__forward_arg__", given),
            )
            for name, given in arguments.__annotations__.items()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        function.__annotations__.update(arguments.__annotations__)  # for `typing.get_type_hints`
        return function

    return decorate


# The environment

_NO_NAME: Final = frozenset("\0/")
_ON: Final = {"", "on", "1", "true", "yes"}
_OFF: Final = {"off", "0", "false", "no"}

_override: Path | None = None
epoch = 0
"""A counter that changes when open caches may have to move to another folder."""


def _set_override(directory: Path | None) -> None:
    global _override, epoch  # noqa: PLW0603 - settings of the process
    _override = directory
    epoch += 1


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Resolve the folder that holds caches, as an absolute path; nothing is created.

    In this order: the argument, the variable `BENCHER_JOB_CACHE_DIR`, `cachedir` in the current folder.
    Inside `bencher_job.testing.temporary_cache()` it is always the temporary folder.
    """
    if _override is not None:
        return _override
    option = "cache_dir"
    if cache_dir is None:
        option, cache_dir = "BENCHER_JOB_CACHE_DIR", os.environ.get("BENCHER_JOB_CACHE_DIR") or "cachedir"
    try:
        chosen = Path(cache_dir)
        if b"\0" in os.fsencode(chosen):
            raise ValueError("it has a null character")  # noqa: TRY301 - what Python says of it comes late
        return chosen.expanduser().absolute()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno, "the current folder, in which it would lie, is gone", str(chosen)
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: the home of an unknown user
        raise BencherJobError(f"{option}={cache_dir!r} is not the path of a folder: {error}") from error


def store_directory(cache_name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Resolve the folder of one cache: `<cache_dir>/<cache_name>`, or that of its local store if that one is shared.

    Raises:
        BencherJobError: when the name is not a plain folder name.
    """
    is_text = isinstance(cache_name, str) and _NO_NAME.isdisjoint(cache_name) and is_writable(cache_name)
    if not is_text or cache_name in {"", ".", ".."}:
        raise BencherJobError(
            f"cache_name={cache_name!r} is not the name of a folder. "
            f"Use a plain name, and cache_dir= to say where the cache lies."
        )
    directory = cache_directory(cache_dir) / cache_name
    return local_folder(directory) if is_shared(directory) else directory


def shared_place(
    cache_name: str, cache_dir: str | os.PathLike[str] | None, shared: str | os.PathLike[str] | None
) -> str | None:
    """Resolve the shared store of one cache, as a path or URL; None if it has none.

    In this order: the argument, the variable `BENCHER_JOB_SHARED`, the cache's folder if it is on a network file
    system.
    """
    if _override is not None:
        return None
    chosen = shared or os.environ.get("BENCHER_JOB_SHARED")
    if chosen:
        return os.fspath(chosen)
    directory = cache_directory(cache_dir) / cache_name
    return os.fspath(directory) if is_shared(directory) else None


def caching_is_on() -> bool:
    """Whether results are looked up and kept. The variable `BENCHER_JOB` turns caching off.

    Raises:
        BencherJobError: when the variable holds neither `on` nor `off`.
    """
    word = os.environ.get("BENCHER_JOB", "").strip().lower()
    if word in _ON:
        return True
    if word in _OFF:
        return False
    raise BencherJobError(
        f"BENCHER_JOB={word!r} is neither on nor off. Set it to off to turn caching off, or unset it."
    )


def override() -> str | None:
    """Return the directory that all caches lie in at present, or None."""
    return None if _override is None else os.fspath(_override)


def follow_override(directory: str | None) -> None:
    """Put the caches of a worker where those of the process lie whose job it runs.

    A worker may have started under another override, or inherited one by a fork, whose folder is gone.
    """
    if directory != override():
        _set_override(None if directory is None else Path(directory))


@contextmanager
def override_cache_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Put all caches that are opened inside the context into one directory, whatever their options."""
    before, chosen = _override, Path(directory).absolute()
    _set_override(chosen)
    try:
        yield chosen
    finally:
        _set_override(before)
