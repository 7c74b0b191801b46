"""Check options, and read settings from the environment.

a run fails -> was it the last one? is it a failure that passes? -> wait, each time twice as long -> run again
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from ._errors import BencherJobError, JobTimeout, WorkerLost
from ._text import is_writable

__all__ = [
    "DEFAULT_CACHE_NAME",
    "Attempts",
    "RetryOn",
    "cache_directory",
    "caching_is_on",
    "follow_override",
    "is_overridden",
    "libraries_of",
    "names_of",
    "override",
    "override_cache_directory",
    "seconds_of",
    "store_directory",
    "tuple_of",
]


def tuple_of(option: str, given: Iterable[Any]) -> tuple[Any, ...]:
    """Give the members of an option that takes several; a text by itself is one.

    Raises:
        TypeError: when it is no collection.
    """
    if isinstance(given, str):
        return (given,)
    try:
        return tuple(given)
    except TypeError:
        raise TypeError(f"{option}={given!r} is no list. Give a list or a tuple, even of one.") from None


def names_of(option: str, given: Iterable[str]) -> tuple[str, ...]:
    """Give the names in an option that takes names of parameters.

    Raises:
        TypeError: when one of them is no text.
    """
    names = tuple_of(option, given)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{option} has {name!r}, which is no name. Give names of parameters as texts.")
    return names


def libraries_of(given: bool | Iterable[str]) -> bool | tuple[str, ...]:
    """Give the option `libraries`: True, False, or the names of those that count.

    Raises:
        TypeError: when it is something else.
    """
    if isinstance(given, bool):
        return given
    try:
        names = tuple_of("libraries", given)
    except TypeError:
        names = (given,)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"libraries must be True, False or names of distributions, not {type(name).__name__}"
            )
    return names


DEFAULT_CACHE_NAME: Final = "fcache"

_NO_NAME: Final = frozenset("\0/")
_ON: Final = {"", "on", "1", "true", "yes"}
_OFF: Final = {"off", "0", "false", "no"}

_override: Path | None = None
epoch = 0
"""Grows whenever caches that are open may lie elsewhere from now on."""


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
    except (TypeError, ValueError, RuntimeError) as error:  # the last one of an unknown user's home
        raise BencherJobError(f"{option}={cache_dir!r} is no path of a folder: {error}") from error


def store_directory(cache_name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Resolve the folder of one cache: `<cache_dir>/<cache_name>`.

    Raises:
        BencherJobError: when the name is no plain folder name.
    """
    is_text = isinstance(cache_name, str) and _NO_NAME.isdisjoint(cache_name) and is_writable(cache_name)
    if not is_text or cache_name in {"", ".", ".."}:
        raise BencherJobError(
            f"cache_name={cache_name!r} is not the name of a folder. "
            f"Use a plain name, and cache_dir= to say where the cache lies."
        )
    return cache_directory(cache_dir) / cache_name


def caching_is_on() -> bool:
    """Whether results are looked up and kept: the variable `BENCHER_JOB` turns it `off`.

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
    """Give the one directory that all caches lie in at present, or None."""
    return None if _override is None else os.fspath(_override)


def follow_override(directory: str | None) -> None:
    """Let the caches of a worker lie where those of the process lie whose job it runs.

    A worker may have begun under another override, or inherited one by a fork, whose folder is gone.
    """
    global _override, epoch  # noqa: PLW0603 - settings of the process
    if directory != override():
        _override = None if directory is None else Path(directory)
        epoch += 1


def is_overridden() -> bool:
    """Whether all caches lie in a temporary folder at present."""
    return _override is not None


@contextmanager
def override_cache_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Let all caches that are opened meanwhile lie in one directory, whatever they ask for."""
    global _override, epoch  # noqa: PLW0603 - settings of the process
    before, _override = _override, Path(directory).absolute()
    epoch += 1
    try:
        yield _override
    finally:
        _override = before
        epoch += 1


FIRST_PAUSE: Final = 0.1
"""Seconds before the second run; each further pause is twice as long."""

LONGEST_PAUSE: Final = 10.0
"""Seconds that a pause is never longer than."""

RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempts:
    """How often and how long the jobs of a cache may run.

    Attributes:
        retries: how many times a job runs again at most.
        retry_on: the exceptions after which it does; a lost worker is always one.
        timeout: seconds that a run may take; None for as long as it takes.

    Raises:
        TypeError: when one of them is not what it should be.
        ValueError: when one of them is below its least value.
    """

    retries: int = 0
    retry_on: RetryOn = Exception
    timeout: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.retries, int) or isinstance(self.retries, bool):
            raise TypeError(
                f"retries={self.retries!r} is no whole number. Give how many times a job runs again."
            )
        if self.retries < 0:
            raise ValueError(f"retries={self.retries} is less than none. Give 0 or more.")
        if not _is_choice(self.retry_on):
            raise TypeError(
                f"retry_on={self.retry_on!r} chooses no exceptions. Give an exception type, a tuple of them, or a "
                f"function that takes an exception and says whether the job should run again."
            )

    def pause(self, error: BaseException | None, attempt: int) -> float | None:
        """Give the seconds to wait before the next run, after an attempt (from 1) has failed; None for no next run.

        Each pause is a random part, half of it at least, of 0.1, 0.2, 0.4 seconds and so on, up to 10: jobs that failed
        together don't come back together.
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


def _is_choice(retry_on: Any) -> bool:
    types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    are_exceptions = all(isinstance(each, type) and issubclass(each, Exception) for each in types)
    return are_exceptions or (callable(retry_on) and not isinstance(retry_on, type))


def seconds_of(option: str, value: float | timedelta | None, remedy: str) -> float | None:
    """Give an option that is a time in seconds; the remedy says what may be given instead.

    Raises:
        TypeError: when it is no time.
        ValueError: when it is not above 0.
    """
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"{option}={value!r} is no time. Give seconds, a timedelta, or {remedy}.")
    if not seconds > 0:
        raise ValueError(f"{option}={value!r} is no time that passes. Give more than 0 seconds, or {remedy}.")
    return None if seconds == math.inf else float(seconds)
