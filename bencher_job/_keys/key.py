"""Make the key of a job from its function, its arguments and the user's version."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from .._errors import UnkeyableArgument
from .._options import KeyOptions
from .arguments import NO_DEFAULT, ArgsAndKwargs, Binder, receiver_of
from .files import absolute
from .files import by_content as by_its_content
from .fingerprint import CodeTracker, Fingerprint, StoredFunctionVersion
from .hashing import KEY_VERSION, UNCHANGEABLE, Known, Seen, digest, encode_arguments, join_key
from .names import qualified_name

LONGEST_VERSION: Final = 200
"""Characters to which the text of a version is cut for display."""

KEYS_KEPT: Final = 4096
"""How many keys of one function are kept, to save a digest when a call is repeated."""

_DIGEST: Final = 8
_REPEAT: Final = struct.Struct("<cQ")


@dataclass(frozen=True, slots=True, eq=False)
class FunctionVersion:
    """The current version of a function: everything that the keys of all its calls share.

    Attributes:
        prefix: 32 bytes, the same in all processes as long as nothing changes.
        function: module and qualified name.
        parameters: the names of the parameters that enter the key, marked if they count by content, and the scope of
            the code if it is not "deep".
        version: the user's version as text, empty if there is none.
        fingerprint: the fingerprint of its code.
    """

    prefix: bytes
    function: str
    parameters: tuple[str, ...]
    version: str
    fingerprint: Fingerprint

    def as_stored(self) -> StoredFunctionVersion:
        """Return what the store keeps with entries."""
        made = self.fingerprint
        return StoredFunctionVersion(
            self.prefix,
            self.function,
            KEY_VERSION,
            made.digest.hex(),
            self.version,
            self.parameters,
            made.manifest,
            made.sources,
        )


Identity = tuple[str, bytes, FunctionVersion | None]
"""A job's key and its inputs: the encoded arguments and the function version."""


_State = tuple[Fingerprint, FunctionVersion, Binder, tuple[str, ...], tuple[object, ...], dict[bytes, str]]
"""A fingerprint with its function version, binder, the binder's labels and defaults, and keys by encoded arguments."""


_ALL_DEFAULTS: Final = KeyOptions()


class JobKeys:
    """Makes the keys of one function's jobs.

    A key is the SHA-256, in 64 hexadecimal digits, of the bound arguments and of the prefix: the key version, the
    function's fingerprint, the names of the parameters, and the user's `version`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        options: KeyOptions = _ALL_DEFAULTS,
    ) -> None:
        self._function = function
        self.ignored = options.ignore
        self._by_content = options.by_content
        self._by_function = options.keys or {}
        self.reads_files = bool(options.by_content)
        """Whether some parameters count by the content of files."""
        self._libraries = options.libraries is True
        code, version = options.code, options.version
        depends_on = (*options.depends_on, *self._by_function.values())
        tracked: Any = function
        self._ignored_parameters = self.ignored
        if (receiver := receiver_of(function)) is not None and receiver in self.ignored:
            self._ignored_parameters = tuple(name for name in self.ignored if name != receiver)
            tracked, owner = function.__func__, function.__self__  # type: ignore[attr-defined]  # a bound method
            if code == "deep" and not isinstance(owner, type):  # the method may call others of its class
                depends_on = (*depends_on, type(owner))
        self.tracker = CodeTracker(tracked, code=code, depends_on=depends_on, libraries=options.libraries)
        try:
            self._version = digest(version, "version")
        except UnkeyableArgument as error:
            raise TypeError(
                f"version must be a value that a key can be made of, such as an int or a str, not "
                f"{type(version).__name__}: {error.reason}"
            ) from error
        self._version_text = "" if version is None else repr(version)[:LONGEST_VERSION]
        self._code = code
        self._methods = code == "deep"
        self._places = self._places_of(Binder(function, self._ignored_parameters))
        self._state: _State | None = None
        self.attributes: dict[str, dict[str, bytes]] = {}
        """For keys made in this process: digests of the attributes of objects among the arguments, `model.rate`."""
        self._depended_on: tuple[Fingerprint | None, tuple[tuple[Path, bytes], ...]] = None, ()

    def _places_of(self, binder: Binder) -> tuple[tuple[int, Callable[[Any], object]], ...]:
        """Return the positions of the parameters that something else stands for, and the functions that make it."""
        for option, names in (("by_content", self._by_content), ("keys", self._by_function)):
            if unknown := [name for name in names if name not in binder.names]:
                raise ValueError(
                    f"{option}={unknown[0]!r} is not a parameter that enters the key. Such parameters are: "
                    f"{', '.join(binder.names) or 'none'}."
                )
        if both := sorted(self._by_function.keys() & set(self._by_content)):
            raise ValueError(f"{both[0]!r} is in by_content and in keys. Leave it out of one of them.")
        functions = {**dict.fromkeys(self._by_content, by_its_content), **self._by_function}
        return tuple((binder.names.index(name), function) for name, function in functions.items())

    @property
    def is_ready(self) -> bool:
        """Whether the function's code has been read, so that keys of small arguments are made quickly."""
        return self._state is not None

    @property
    def binder(self) -> Binder:
        """The binder for the current signature and defaults."""
        return self._state_under(self.tracker.current())[2]

    @property
    def function_version(self) -> FunctionVersion:
        """The current function version."""
        return self._state_under(self.tracker.current())[1]

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Make the key of one call.

        Raises:
            UnkeyableArgument: when an argument has no key.
            TypeError: when the arguments don't fit the function.
        """
        return self.identity(args, kwargs)[0]

    def identity(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        known: Known | None = None,
        function_version: FunctionVersion | None = None,
        repeat: int = 0,
    ) -> Identity:
        """Make the key of one call or of a repeat of it, and return it with its inputs.

        Args:
            args: the positional arguments.
            kwargs: the keyword arguments.
            known: shared by several calls, so that large arguments that they have in common are read once.
            function_version: the current function version, if it was just checked; the code is not checked again.
            repeat: the number of the repeat; 0 has the key of the call itself.

        Raises:
            UnkeyableArgument: when an argument has no key.
            TypeError: when the arguments don't fit the function.
        """
        state = self._state
        if function_version is None or state is None or state[1] is not function_version:
            fingerprint = self.tracker.current()
            if state is None or state[0] is not fingerprint:
                state = self._state_under(fingerprint)
        _, function_version, binder, labels, defaults, keys = state
        values = binder.bind(*args, **kwargs)
        if self._places:
            values = self._with_stand_ins(binder, values)
        seen: Seen = []
        bound = encode_arguments(
            labels, values, defaults, methods=self._methods, libraries=self._libraries, known=known, seen=seen
        )
        if repeat:
            bound += _REPEAT.pack(b"*", repeat)
        key = keys.get(bound)
        if key is None:
            key = join_key(bound, function_version.prefix)
            if known is None:  # a single call, which may be repeated
                if len(keys) >= KEYS_KEPT:
                    keys.clear()
                keys[bound] = key
            if seen and key not in self.attributes:
                self._note(key, seen)
        return key, bound, function_version

    def _note(self, key: str, seen: Seen) -> None:
        if len(self.attributes) >= KEYS_KEPT:
            self.attributes.clear()
        for path, names, encodings, digests in seen:
            if not digests:  # they are made once for all calls that share an object
                for name, encoding in zip(names, encodings, strict=True):
                    digests[f"{path}.{name}"] = sha256(encoding).digest()[:_DIGEST]
        digests = seen[0][3]
        for *_, more in seen[1:]:
            digests = {**digests, **more}
        self.attributes[key] = digests

    def check_of(self, function_version: FunctionVersion | None) -> Callable[[], bool] | None:
        """Return the function that checks whether calls with immutable arguments still have the keys of this version.

        None if their keys depend on more than code and arguments, or if no check is available.
        """
        state = self._state
        if state is None or state[1] is not function_version or self._places:
            return None
        for default in state[4]:
            if default is not NO_DEFAULT and type(default) not in UNCHANGEABLE:
                return None  # a mutable default is bound in its current state at each call
        return self.tracker.check_of(state[0])

    def anchored(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ArgsAndKwargs:
        """Make paths that count by content absolute, so that the job reads the files that its key was made from.

        The current folder may be a different one when the job runs.
        """
        if self._by_content:
            try:
                return self.binder.replaced(args, kwargs, self._by_content, absolute)
            except FileNotFoundError:  # the current folder is gone: making the key reports it
                pass
        return args, kwargs

    def _entering(self, binder: Binder) -> tuple[str, ...]:
        marks = {
            **dict.fromkeys(self._by_content, " (by content)"),
            **dict.fromkeys(self._by_function, " (by keys)"),
        }
        names = (name + marks.get(name, "") for name in binder.names)
        return (*names, *(() if self._code == "deep" else (f"code={self._code}",)))

    def spelled(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], function_version: FunctionVersion | None = None
    ) -> tuple[ArgsAndKwargs, dict[str, Any], tuple[tuple[object, object], ...]]:
        """Return the canonical spelling of a call, its arguments by name, and pairs of files with their contents.

        The pairs hold each value that counts by content, and its `by_content`. A `function_version` that was just
        checked saves checking the code again.

        Raises:
            UnkeyableArgument: when a value that counts by content is not a file or a folder.
            TypeError: when the arguments don't fit the function.
        """
        state = self._state
        if state is None or function_version is None or state[1] is not function_version:
            state = self._state_under(self.tracker.current())
        fingerprint, function_version, binder = state[:3]
        call, arguments = binder.spell(*args, **kwargs)
        if call is None:
            call = args, dict(kwargs)
        if self._depended_on[0] is not fingerprint:
            self._depended_on = fingerprint, fingerprint.files
        has_files = self._by_content or self._depended_on[1]
        return call, arguments, self._files(args, kwargs, function_version, binder) if has_files else ()

    def _files(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        function_version: FunctionVersion,
        binder: Binder,
    ) -> tuple[tuple[object, object], ...]:
        values = binder.bind(*args, **kwargs)
        places = [place for place, function in self._places if function is by_its_content]
        contents = self._with_stand_ins(binder, values)
        arguments = [(values[place], contents[place]) for place in places]
        return (
            *arguments,
            *((path, ("content", content)) for path, content in function_version.fingerprint.files),
        )

    def _with_stand_ins(self, binder: Binder, values: tuple[object, ...]) -> tuple[object, ...]:
        """Replace the values of parameters that count by content, or by a function in `keys`."""
        replaced = list(values)
        for place, function in self._places:
            name, value = binder.names[place], values[place]
            try:
                replaced[place] = function(value)
            except Exception as error:
                option, reason, remedy = (
                    "keys",
                    f"{type(error).__name__}: {error}",
                    "Pass a value that it takes",
                )
                if function is by_its_content:
                    option, reason = "by_content", str(error)
                    remedy = "Pass the path of a file or a folder that can be read"
                raise UnkeyableArgument(
                    name,
                    qualified_name(type(value)),
                    f"{option}: {reason}".removesuffix("."),
                    f"{remedy}, or take {name!r} out of {option}.",
                ) from error
        return tuple(replaced)

    def _state_under(self, fingerprint: Fingerprint) -> _State:
        """Return the state for a fingerprint; it is replaced as a whole, since threads share it."""
        state = self._state
        if state is None or state[0] is not fingerprint:
            binder = Binder(self._function, self._ignored_parameters)
            self._places = self._places_of(binder)
            keyed = tuple(self._by_function)  # in alphabetical order, as the fingerprint has the functions
            parts = (KEY_VERSION, fingerprint.digest, binder.names, self._version, *keyed)
            prefix = digest(parts, "version")
            name = qualified_name(self._function)
            function_version = FunctionVersion(
                prefix, name, self._entering(binder), self._version_text, fingerprint
            )
            state = self._state = fingerprint, function_version, binder, binder.labels, binder.defaults, {}
        return state


def anchored_call(
    function: Callable[..., Any], positional: tuple[Any, ...], job_args: dict[str, Any]
) -> ArgsAndKwargs:
    """Make paths in a call of any function absolute if they count by content."""
    if getattr(type(function), "_bencher_job_cached", False):
        return function._anchored(positional, job_args)  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001
    return positional, job_args


def identity_of(
    function: Callable[..., Any], positional: Sequence[Any], job_args: Mapping[str, Any]
) -> Identity:
    """Make the key of a call of any function, with its options if it is a cached function."""
    if getattr(type(function), "_bencher_job_cached", False):
        return function._identity(positional, job_args)  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001
    return _keys_of(function).identity(positional, job_args)


def function_version_of(function: Callable[..., Any]) -> FunctionVersion:
    """Return the current version of any function; of a plain function the same object until it changes."""
    if getattr(type(function), "_bencher_job_cached", False):
        return function.cache.keys.function_version  # type: ignore[attr-defined, no-any-return]
    return _keys_of(function).function_version


def _keys_of(function: Callable[..., Any]) -> JobKeys:
    return _keys_of_function(function) if type(function) is FunctionType else JobKeys(function)


@functools.lru_cache(maxsize=256)
def _keys_of_function(function: FunctionType) -> JobKeys:
    return JobKeys(function)
