"""The errors that this library raises and the warning that it gives.

    Exception
    └── BencherJobError                     catches all of ours
        ├── UnkeyableArgument (TypeError)   a value that no key can be made of
        ├── UntrustedCache                  a cache that another user can write to
        ├── SharedStoreError                a shared store that is not set up right
        ├── WorkerLost                      a worker process died, or its engine did
        ├── JobTimeout (TimeoutError)       a job ran longer than its timeout
        └── CodeMismatch                    a worker holds other code than the submitter

    UserWarning
    └── CacheWarning                        the value is right, the cache is not

What a job's own function raises is none of these: it reaches the caller unchanged.
"""

from __future__ import annotations

import sys
import warnings

__all__ = [
    "BencherJobError",
    "CacheWarning",
    "CodeMismatch",
    "JobTimeout",
    "SharedStoreError",
    "UnkeyableArgument",
    "UntrustedCache",
    "WorkerLost",
    "warn_caller",
]


class BencherJobError(Exception):
    """Base of all errors that this library raises.

    What an error knows it carries as attributes, which survive pickling.
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
    """No key can be made of a value, so the job is refused rather than keyed by half.

    Attributes:
        path: where the value stands, as an expression: `cfg['model'].lock`.
        type_name: the value's type, with its module.
        reason: why no key can be made of it.
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
    """A cache directory could hold another user's bytes, so nothing in it is unpickled.

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
    """A shared store can't be used as it is set up. One that only doesn't answer is a `CacheWarning`.

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
    """The process that ran a job died, or the engine that it ran on did.

    Attributes:
        job: a short description of the job.
        exit_code: the worker's exit code where it is known, negative for the signal that killed it.
        attempts: how many times the job was run, and its worker lost.
    """

    def __init__(self, message: str, *, job: str | None = None, exit_code: int | None = None) -> None:
        self.job = job
        self.exit_code = exit_code
        self.attempts = 1
        super().__init__(message)

    def count_attempts(self, attempts: int) -> None:
        """Say that this was the last of some runs of the job."""
        self.attempts = attempts
        self.args = (f"{self.args[0]} It was the last of {attempts} runs.",)


class JobTimeout(BencherJobError, TimeoutError):
    """A job took longer than its `timeout`, and was ended or, where its executor can't do that, left to itself.

    Attributes:
        job: a short description of the job.
        seconds: the timeout that it went past.
    """

    def __init__(self, message: str, *, job: str | None = None, seconds: float | None = None) -> None:
        self.job = job
        self.seconds = seconds
        super().__init__(message)


class CodeMismatch(BencherJobError):
    """A worker holds other code than the submitter, so its result would lie under the submitter's key.

    Or it finds other content at a path that counts by content.

    Attributes:
        function: the function's name.
        differs: names of the parts of the code that differ.
    """

    def __init__(self, message: str, *, function: str | None = None, differs: tuple[str, ...] = ()) -> None:
        self.function = function
        self.differs = differs
        super().__init__(message)


class CacheWarning(UserWarning):
    """The value that the caller gets is right, but the cache could not keep it or had to set something aside."""


def warn_caller(message: str) -> None:
    """Give a `CacheWarning` that points at the first line outside this package."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - the only way to a caller's frame
    package = __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, CacheWarning, stacklevel=level)
