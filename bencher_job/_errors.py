"""The errors that this library raises and the warning that it gives.

    Exception
    └── BencherJobError                     every error of this library
        ├── UnkeyableArgument (TypeError)   an argument that can't be hashed
        ├── UntrustedCache                  a cache that another user can write to
        ├── SharedStoreError                a shared store that is set up wrongly
        ├── WorkerLost                      a worker process or its cluster died
        ├── JobTimeout (TimeoutError)       a job ran longer than its timeout
        └── CodeMismatch                    a worker has other code than the submitting process

    UserWarning
    └── CacheWarning                        the value is right, but the cache has a problem

An exception of a job's own function is none of these: it reaches the caller unchanged.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Final

_log: Final = logging.getLogger(__name__)


class BencherJobError(Exception):
    """Base of all errors that this library raises.

    Details are attributes, which survive pickling.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    error_type: type[BaseException], args: tuple[object, ...], state: dict[str, object]
) -> BaseException:
    error = error_type.__new__(error_type, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UnkeyableArgument(BencherJobError, TypeError):
    """A value can't be hashed, so the job has no key and doesn't run.

    Attributes:
        path: where the value is, as an expression: `cfg['model'].lock`.
        type_name: the value's type, with its module.
        reason: why it can't be hashed.
        remedy: what to do about it.
    """

    def __init__(self, path: str, type_name: str, reason: str, remedy: str = "") -> None:
        self.path = path
        self.type_name = type_name
        self.reason = reason
        self.remedy = remedy
        super().__init__(
            f"{path} has the type {type_name}, and no job key can be made of it: {reason}. {remedy}".rstrip()
        )


class UntrustedCache(BencherJobError):
    """Another user could have written to a cache directory, so nothing in it is unpickled.

    Attributes:
        path: the file or directory that another user owns or can write to.
        reason: which of the two it is.
    """

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"{path} {reason}, and unpickling another user's bytes would run their code. {remedy}"
        )


class SharedStoreError(BencherJobError):
    """A shared store is set up wrongly. If it only doesn't answer, that is a `CacheWarning`.

    Attributes:
        place: its URL or path.
        reason: what is wrong with it.
        remedy: what to do about it.
    """

    def __init__(self, place: str, reason: str, remedy: str) -> None:
        self.place = place
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"the shared store {place} {reason}. {remedy}")


class WorkerLost(BencherJobError):
    """The process that ran a job died, or the cluster that it ran on did.

    Attributes:
        job: a short description of the job.
        exit_code: the worker's exit code if it is known; a negative one is the signal that killed it.
        attempts: how many times the job ran. Its worker was lost each time.
    """

    def __init__(self, message: str, *, job: str | None = None, exit_code: int | None = None) -> None:
        self.job = job
        self.exit_code = exit_code
        self.attempts = 1
        super().__init__(message)

    def count_attempts(self, attempts: int) -> None:
        """Record in the message that this was the last of several runs of the job."""
        self.attempts = attempts
        self.args = (f"{self.args[0]} It was the last of {attempts} runs.",)


class JobTimeout(BencherJobError, TimeoutError):
    """A job ran longer than its `timeout`.

    It was ended, or runs on where the executor can't end it, and its result is dropped.

    Attributes:
        job: a short description of the job.
        seconds: the timeout.
    """

    def __init__(self, message: str, *, job: str | None = None, seconds: float | None = None) -> None:
        self.job = job
        self.seconds = seconds
        super().__init__(message)


class CodeMismatch(BencherJobError):
    """A worker has other code than the submitting process, or other content in a file that counts by content.

    Its result would be stored under the wrong key, so the job is refused.

    Attributes:
        function: the function's name.
        differs: names of the parts of the code that differ.
    """

    def __init__(self, message: str, *, function: str | None = None, differs: tuple[str, ...] = ()) -> None:
        self.function = function
        self.differs = differs
        super().__init__(message)


class CacheWarning(UserWarning):
    """The caller gets the right value, but it was not stored, or a stored entry could not be used."""


def warn_caller(message: str) -> None:
    """Emit a `CacheWarning` that points at the first line outside this package.

    In a thread of this package no caller could catch it, so there it is logged where warnings are errors.
    """
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - the only way to a caller's frame
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(message, CacheWarning, stacklevel=level)
    except CacheWarning:
        if frame.f_globals.get("__name__") != "threading":
            raise
        _log.warning("%s", message)
