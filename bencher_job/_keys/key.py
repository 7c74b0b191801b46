"""Makes the key of a job: what the function is, what its arguments are, and under which version."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, Literal

from .._errors import UnkeyableArgument
from .arguments import Binder
from .fingerprint import CodeTracker, Fingerprint
from .hashing import KEY_VERSION, digest, digest_arguments

__all__ = ["CodeScope", "JobKeys", "job_key_of"]

CodeScope = Literal["deep", "own", "none"]


class JobKeys:
    """Makes the keys of one function's jobs.

    A key is the SHA-256, in 64 hexadecimal digits, of the key version, the function's fingerprint, the names of the
    parameters, the user's `version`, and the bound arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        ignore: Collection[str] = (),
        version: object = None,
        code: CodeScope = "deep",
        depends_on: Iterable[object] = (),
    ) -> None:
        self._function = function
        self._ignore = ignore if isinstance(ignore, str) else tuple(ignore)
        self.tracker = CodeTracker(function, code=code, depends_on=depends_on)
        try:
            self._version = digest(version, "version")
        except UnkeyableArgument as error:
            raise TypeError(
                f"version={version!r} can't be part of a key: {error.reason}. Give a number or a text."
            ) from error
        self._methods = code == "deep"
        self._state: tuple[Fingerprint | None, bytes, Binder] = None, b"", Binder(function, ignore)

    @property
    def binder(self) -> Binder:
        """Binds calls to the signature and the defaults that the function has now."""
        return self._state_under(self.tracker.current())[2]

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Make the key of one call.

        Raises:
            UnkeyableArgument: when no key can be made of an argument.
            TypeError: when the arguments don't fit the function.
        """
        fingerprint = self.tracker.current()
        state = self._state
        _, prefix, binder = state if state[0] is fingerprint else self._state_under(fingerprint)
        values = binder.bind(*args, **kwargs)
        return digest_arguments(prefix, binder.names, values, methods=self._methods, defaults=binder.defaults)

    def repeat_key(self, key: str, repeat: int) -> str:
        """Make the key of one of several repeats of a call; the first has the key of the call itself."""
        return key if repeat == 0 else digest_arguments(bytes.fromhex(key), ("repeat",), (repeat,))

    def _state_under(self, fingerprint: Fingerprint) -> tuple[Fingerprint | None, bytes, Binder]:
        """A fingerprint with the prefix and the binder that belong to it, which threads see change as one."""
        state = self._state
        if state[0] is not fingerprint:
            binder = Binder(self._function, self._ignore)
            shared = KEY_VERSION, fingerprint.digest, binder.names, self._version
            state = self._state = fingerprint, digest(shared, "version"), binder
        return state


def job_key_of(function: Callable[..., Any], positional: Sequence[Any], job_args: Mapping[str, Any]) -> str:
    """Make the key of a call of any function; a function that `cached_job` made answers for itself."""
    if getattr(type(function), "_bencher_job_cached", False):
        return function.key(*positional, **job_args)  # type: ignore[attr-defined, no-any-return]
    keys = _keys_of_function(function) if type(function) is FunctionType else JobKeys(function)
    return keys.key(positional, job_args)


@functools.lru_cache(maxsize=256)
def _keys_of_function(function: FunctionType) -> JobKeys:
    return JobKeys(function)
