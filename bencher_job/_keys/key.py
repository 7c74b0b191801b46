"""Makes the key of a job: what the function is, what its arguments are, and under which version."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Any, Final, Literal

from .._errors import UnkeyableArgument
from .._options import libraries_of, names_of, tuple_of
from .arguments import NO_DEFAULT, Binder, Call, receiver_of
from .files import absolute
from .files import by_content as by_its_content
from .fingerprint import CodeTracker, Fingerprint, PastEdition
from .hashing import KEY_VERSION, UNCHANGEABLE, Known, Seen, digest, encode_arguments, join_key
from .names import qualified_name

__all__ = ["CodeScope", "Edition", "Identity", "JobKeys", "anchored_call", "edition_of", "identity_of"]

CodeScope = Literal["deep", "own", "none"]

LONGEST_VERSION: Final = 200
"""Length in characters to which the text of a version is cut for people."""

KEYS_KEPT: Final = 4096
"""How many keys of one function are kept at most, so that a call that is repeated costs no digest."""

_DIGEST: Final = 8
_REPEAT: Final = struct.Struct("<cQ")


@dataclass(frozen=True, slots=True, eq=False)
class Edition:
    """A function as it stands: what the keys of all its calls share.

    Attributes:
        prefix: 32 bytes that are the same in all processes as long as nothing of this changes.
        function: module and qualified name.
        parameters: what enters the key of the arguments: the names of the parameters, marked where they count by
            content, and the scope of the code where it is less than everything.
        version: the user's version as text, empty where there is none.
        fingerprint: what its code did.
    """

    prefix: bytes
    function: str
    parameters: tuple[str, ...]
    version: str
    fingerprint: Fingerprint

    def as_past(self) -> PastEdition:
        """Give what is kept of it with entries."""
        made = self.fingerprint
        return PastEdition(
            self.prefix,
            self.function,
            KEY_VERSION,
            made.digest.hex(),
            self.version,
            self.parameters,
            made.manifest,
            made.sources,
        )


Identity = tuple[str, bytes, Edition | None]
"""A job's key, and what it was made of: the encoded arguments, and the function as it stood."""


_State = tuple[Fingerprint, Edition, Binder, tuple[str, ...], tuple[object, ...], dict[bytes, str]]
"""What belongs to a fingerprint: the edition, the binder, its labels and defaults, and keys by encoded arguments."""


class JobKeys:
    """Makes the keys of one function's jobs.

    A key is the SHA-256, in 64 hexadecimal digits, of the bound arguments and of what all calls share: the key version,
    the function's fingerprint, the names of the parameters, and the user's `version`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        ignore: Collection[str] = (),
        version: object = None,
        code: CodeScope = "deep",
        depends_on: Iterable[object] = (),
        by_content: Collection[str] = (),
        libraries: bool | Collection[str] = True,
    ) -> None:
        self._function = function
        self.ignored = names_of("ignore", ignore)
        self._by_content = names_of("by_content", by_content)
        counted = libraries_of(libraries)
        self._libraries = counted is True
        depends_on = tuple_of("depends_on", depends_on)
        tracked: Any = function
        self._ignored_parameters = self.ignored
        if (receiver := receiver_of(function)) is not None and receiver in self.ignored:
            self._ignored_parameters = tuple(name for name in self.ignored if name != receiver)
            tracked, owner = function.__func__, function.__self__  # type: ignore[attr-defined]  # a bound method
            if code == "deep" and not isinstance(owner, type):  # the method may call others of its class
                depends_on = (*depends_on, type(owner))
        self.tracker = CodeTracker(tracked, code=code, depends_on=depends_on, libraries=counted)
        try:
            self._version = digest(version, "version")
        except UnkeyableArgument as error:
            raise TypeError(
                f"version={version!r} can't be part of a key: {error.reason}. Give a number or a text."
            ) from error
        self._version_text = "" if version is None else repr(version)[:LONGEST_VERSION]
        self._code = code
        self._methods = code == "deep"
        self._places = self._places_by_content(Binder(function, self._ignored_parameters))
        self._state: _State | None = None
        self._attributes: dict[str, dict[str, bytes]] = {}
        self._depended_on: tuple[Fingerprint | None, tuple[tuple[Path, bytes], ...]] = None, ()

    def _places_by_content(self, binder: Binder) -> tuple[int, ...]:
        """Where the parameters stand whose files count and not their names."""
        if unknown := [name for name in self._by_content if name not in binder.names]:
            raise ValueError(
                f"by_content={unknown[0]!r} is no parameter that enters the key. Name one that does: "
                f"{', '.join(binder.names) or 'there is none'}."
            )
        return tuple(binder.names.index(name) for name in self._by_content)

    @property
    def is_ready(self) -> bool:
        """Whether the function's code has been read, so that the key of a call with small arguments is quick."""
        return self._state is not None

    @property
    def binder(self) -> Binder:
        """Binds calls to the signature and the defaults that the function has now."""
        return self._state_under(self.tracker.current())[2]

    @property
    def edition(self) -> Edition:
        """The function as it stands now."""
        return self._state_under(self.tracker.current())[1]

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Make the key of one call.

        Raises:
            UnkeyableArgument: when no key can be made of an argument.
            TypeError: when the arguments don't fit the function.
        """
        return self.identity(args, kwargs)[0]

    def _state_of(self, edition: Edition | None) -> _State:
        state = self._state
        if state is None or edition is None or state[1] is not edition:
            state = self._state_under(self.tracker.current())
        return state

    def identity(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        known: Known | None = None,
        edition: Edition | None = None,
    ) -> Identity:
        """Make the key of one call, with what it is made of.

        Of several calls that share large arguments each of these is read once, as long as they share a `known`. With an
        `edition` that has just been looked at the code is not looked at again.

        Raises:
            UnkeyableArgument: when no key can be made of an argument.
            TypeError: when the arguments don't fit the function.
        """
        state = self._state
        if edition is None or state is None or state[1] is not edition:
            fingerprint = self.tracker.current()
            if state is None or state[0] is not fingerprint:
                state = self._state_under(fingerprint)
        _, edition, binder, labels, defaults, keys = state
        values = binder.bind(*args, **kwargs)
        if self._places:
            values = self._with_contents(binder, values)
        seen: Seen = []
        bound = encode_arguments(
            labels, values, defaults, methods=self._methods, libraries=self._libraries, known=known, seen=seen
        )
        key = keys.get(bound)
        if key is None:
            key = join_key(bound, edition.prefix)
            if len(keys) >= KEYS_KEPT:
                keys.clear()
            keys[bound] = key
            if seen:
                self._note(key, seen)
        return key, bound, edition

    def _note(self, key: str, seen: Seen) -> None:
        if len(self._attributes) >= KEYS_KEPT:
            self._attributes.clear()
        for path, names, encodings, digests in seen:
            if not digests:  # they are made once for all calls that share an object
                for name, encoding in zip(names, encodings, strict=True):
                    digests[f"{path}.{name}"] = sha256(encoding).digest()[:_DIGEST]
        digests = seen[0][3]
        for *_, more in seen[1:]:
            digests = {**digests, **more}
        self._attributes[key] = digests

    def attributes(self, key: str) -> Mapping[str, bytes]:
        """What the attributes were of objects that were arguments of a call, as digests: `model.rate`.

        Empty where its key was not made in this process.
        """
        return self._attributes.get(key, {})

    def check_of(self, edition: Edition | None) -> Callable[[], bool] | None:
        """Give what tells whether a call whose arguments can't change still has the key that it had in an edition.

        None where that depends on more than code and arguments, or what tells it is not at hand.
        """
        state = self._state
        if state is None or state[1] is not edition or self._places:
            return None
        if not all(default is NO_DEFAULT or type(default) in UNCHANGEABLE for default in state[4]):
            return None  # a default that can be changed in place is bound as it is at each call
        return self.tracker.check_of(state[0])

    @property
    def reads_files(self) -> bool:
        """Whether arguments count by the content of files."""
        return bool(self._by_content)

    def anchored(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Make the paths of a call absolute that count by content, so that its job reads the files that its key is of.

        The current folder may be another one where and when it runs.
        """
        if self._by_content:
            try:
                return self.binder.replaced(args, kwargs, self._by_content, absolute)
            except FileNotFoundError:  # the current folder is gone, as whoever makes the key will tell
                pass
        return args, kwargs

    def repeated(self, identity: Identity, repeat: int) -> Identity:
        """Make the key of one of several repeats of a call; the first has the key of the call itself."""
        _, bound, edition = identity
        if repeat == 0 or edition is None:
            return identity
        bound += _REPEAT.pack(b"*", repeat)
        key = join_key(bound, edition.prefix)
        if seen := self._attributes.get(identity[0]):
            self._attributes[key] = seen
        return key, bound, edition

    def _entering(self, binder: Binder) -> tuple[str, ...]:
        names = (f"{name} (by content)" if name in self._by_content else name for name in binder.names)
        return (*names, *(() if self._code == "deep" else (f"code={self._code}",)))

    def spelled(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], edition: Edition | None = None
    ) -> tuple[Call, dict[str, Any], tuple[tuple[object, object], ...]]:
        """Spell a call, name its arguments, and give what counts by content for it, with what stands for that now.

        With an `edition` that has just been looked at the code is not looked at again.

        Raises:
            UnkeyableArgument: when what counts by content is no file.
            TypeError: when the arguments don't fit the function.
        """
        state = self._state_of(edition)
        fingerprint, edition, binder = state[:3]
        call, arguments = binder.spelled(args, kwargs)
        if self._depended_on[0] is not fingerprint:
            self._depended_on = fingerprint, fingerprint.files
        has_files = self._places or self._depended_on[1]
        return call, arguments, self._files(args, kwargs, edition, binder) if has_files else ()

    def _files(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], edition: Edition, binder: Binder
    ) -> tuple[tuple[object, object], ...]:
        values = binder.bind(*args, **kwargs)
        contents = self._with_contents(binder, values)
        arguments = [(values[place], contents[place]) for place in self._places]
        return (*arguments, *((path, ("content", content)) for path, content in edition.fingerprint.files))

    def _with_contents(self, binder: Binder, values: tuple[object, ...]) -> tuple[object, ...]:
        contents = list(values)
        for place in self._places:
            try:
                contents[place] = by_its_content(values[place])
            except (OSError, TypeError) as error:
                raise UnkeyableArgument(
                    binder.names[place],
                    qualified_name(type(values[place])),
                    f"by_content: {error}".removesuffix("."),
                    "Pass the path of a file or a folder that can be read, "
                    f"or take {binder.names[place]!r} out of by_content.",
                ) from error
        return tuple(contents)

    def _state_under(self, fingerprint: Fingerprint) -> _State:
        """What belongs to a fingerprint, which threads see change as one."""
        state = self._state
        if state is None or state[0] is not fingerprint:
            binder = Binder(self._function, self._ignored_parameters)
            self._places = self._places_by_content(binder)
            prefix = digest((KEY_VERSION, fingerprint.digest, binder.names, self._version), "version")
            name = qualified_name(self._function)
            edition = Edition(prefix, name, self._entering(binder), self._version_text, fingerprint)
            state = self._state = fingerprint, edition, binder, binder.labels, binder.defaults, {}
        return state


def anchored_call(
    function: Callable[..., Any], positional: tuple[Any, ...], job_args: dict[str, Any]
) -> Call:
    """Make the paths of a call of any function absolute that count by content."""
    if getattr(type(function), "_bencher_job_cached", False):
        return function._anchored(positional, job_args)  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001
    return positional, job_args


def identity_of(
    function: Callable[..., Any], positional: Sequence[Any], job_args: Mapping[str, Any]
) -> Identity:
    """Make the key of a call of any function; a function that `cached_job` made answers for itself."""
    if getattr(type(function), "_bencher_job_cached", False):
        return function._identity(positional, job_args)  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001
    return _keys_of(function).identity(positional, job_args)


def edition_of(function: Callable[..., Any]) -> Edition:
    """Give any function as it stands now: the same object while nothing of it changes, if it is a plain function."""
    if getattr(type(function), "_bencher_job_cached", False):
        return function.cache.keys.edition  # type: ignore[attr-defined, no-any-return]
    return _keys_of(function).edition


def _keys_of(function: Callable[..., Any]) -> JobKeys:
    return _keys_of_function(function) if type(function) is FunctionType else JobKeys(function)


@functools.lru_cache(maxsize=256)
def _keys_of_function(function: FunctionType) -> JobKeys:
    return JobKeys(function)
