"""Fingerprint the code and data that a function reaches, and notice when any of it changes.

    function ──> Survey: parts, edges ──> digest, manifest
                     └──> Watch ──> one comparison per call

A survey walks, in milliseconds; a watch compares, in a fraction of a microsecond.
"""

from __future__ import annotations

import itertools
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import is_
from pathlib import Path, PurePath
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, Final, Literal, NamedTuple

from .._errors import UnkeyableArgument
from .._processes import renew_after_fork
from .._record import short_form
from .files import content_digest
from .graph import GONE, Edge, Part, Watch, digest_graph
from .hashing import digest, set_code_hasher
from .libraries import distributions_of, normalized, version_of
from .members import attributes_of_function, name_libraries
from .names import defines_own_code, module_name, qualified_name
from .walker import Survey, attributes_in

__all__ = [
    "CodeTracker",
    "Fingerprint",
    "Libraries",
    "PastEdition",
    "Scope",
    "code_fingerprint",
    "dependency",
    "fingerprint",
    "libraries_in_arguments",
]


def dependency(survey: Survey, wanted: object) -> Edge:
    """Reach one entry of `depends_on`.

    Raises:
        ValueError: when a distribution isn't installed or a path can't be read.
    """
    if isinstance(wanted, str):
        return _distribution(survey, wanted)
    if isinstance(wanted, PurePath):
        return _files(survey, Path(wanted))
    if isinstance(wanted, ModuleType) and (found := distributions_of(wanted.__name__)):
        survey.distributions.update(found)
        return "distribution", *itertools.chain.from_iterable(found)
    return survey.walk(wanted, "depends_on")


def _distribution(survey: Survey, name: str) -> Edge:
    name = name.removeprefix("dist:")
    version = version_of(name)
    if version is None:
        raise ValueError(
            f"depends_on has {name!r}, and no distribution of that name is installed. Install it, or pass "
            f"the module or the function itself, or pathlib.Path({name!r}) for a file."
        )
    survey.distributions[normalized(name)] = version
    return "distribution", name, version


def _files(survey: Survey, path: Path) -> Edge:
    path = path.absolute()
    content = _content(path)
    survey.parts.append(Part(path.name, path, content))
    survey.watch.condition(lambda: content_digest(path) == content)
    return "files", content


def _content(path: Path) -> bytes:
    try:
        return content_digest(path)
    except FileNotFoundError:
        raise ValueError(
            f"depends_on has {str(path)!r}, which doesn't exist. Create it, or leave it out."
        ) from None
    except OSError as error:
        raise ValueError(f"depends_on has {str(path)!r}, which can't be read: {error}.") from error


class PastEdition(NamedTuple):
    """A function as it stood when results of it were kept.

    Attributes:
        prefix: what the keys of its calls share.
        key_version: the version of how keys are made.
        fingerprint: digest of its code, in hexadecimal.
        version: the user's version as text.
        parameters: names of the parameters that entered the key.
        manifest: what each part contributed, by its name.
        sources: the text of each part, where it was at hand.
    """

    prefix: bytes
    function: str
    key_version: int
    fingerprint: str
    version: str
    parameters: tuple[str, ...]
    manifest: Mapping[str, str]
    sources: Mapping[str, str]


Scope = Literal["deep", "own", "none"]
Libraries = bool | tuple[str, ...]
"""Whether the libraries that code names count, or the names of those that do."""

_LIKE_DIGEST: Final = re.compile(r"[0-9a-f]{16}")
_SHOWN: Final = 16  # hexadecimal digits of a part's digest in a manifest


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a function and all that it reaches did when somebody looked.

    Attributes:
        digest: 32 bytes; two functions that do the same, with the same versions of libraries, have the same.
        manifest: what each part contributes, by its name: a short digest of a function, a class or a global
            value, the version of a distribution, "not tracked" for what can't be keyed.
        untracked: the names of globals that can't be keyed: loggers, locks, connections.
        sources: the source text of each function in the manifest, where it is at hand; the short text of each value.
        surveyed: all that was reached, and how far the walk went: from the function, and from each thing that it is
            said to depend on.
        requirements: versions of the distributions that the function is said to depend on.
        code: the digest without the versions of libraries.
        libraries: versions of the other distributions that count.
        counts_all: whether all libraries count that code names, that of arguments included.
    """

    digest: bytes
    manifest: Mapping[str, str]
    untracked: tuple[str, ...]
    sources: Mapping[str, str] = field(default_factory=_nothing, compare=False, repr=False)
    surveyed: tuple[tuple[Scope, tuple[Part, ...]], ...] = field(default=(), compare=False, repr=False)
    requirements: Mapping[str, str] = field(default_factory=_nothing, compare=False, repr=False)
    code: bytes = field(default=b"", compare=False, repr=False)
    libraries: Mapping[str, str] = field(default_factory=_nothing, compare=False, repr=False)
    counts_all: bool = field(default=True, compare=False, repr=False)

    @property
    def files(self) -> tuple[tuple[Path, bytes], ...]:
        """The files and folders that the function is said to depend on, with the digests of their contents."""
        parts = [part for _, reached in self.surveyed[1:] for part in reached]
        return tuple(
            (part.origin, part.content)
            for part in parts
            if isinstance(part.origin, Path) and isinstance(part.content, bytes)
        )

    @property
    def scope(self) -> Scope:
        """How far the walk from the function went."""
        return self.surveyed[0][0]


_NEVER_MADE: Final = Fingerprint(b"", _nothing(), ())


class CodeTracker:
    """Watches the code and data that one function reaches.

    Nothing is looked at before the first fingerprint is asked for.
    """

    def __init__(
        self,
        function: Any,
        *,
        code: Scope = "deep",
        depends_on: Iterable[object] = (),
        libraries: Libraries = True,
        is_argument: bool = False,
    ) -> None:
        if code not in {"deep", "own", "none"}:
            raise ValueError(f"code={code!r} is no scope. Use 'deep', 'own' or 'none'.")
        self._function = function
        self._scope: Scope = code
        self._is_argument = is_argument  # nobody knows which of its attributes are looked at
        self._depends_on = tuple(depends_on)
        self._libraries = libraries
        self._signature: tuple[object, ...] = ()
        self._state: tuple[Callable[[], bool], Fingerprint, bool] = _never, _NEVER_MADE, False
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._reentrant = threading.RLock()

    def current(self) -> Fingerprint:
        """Look whether anything has changed, and make the fingerprint anew if so; the same object if not.

        Another object means that the function may have another signature or other defaults, too.
        """
        unchanged, fingerprint, _ = self._state
        try:
            if unchanged():
                return fingerprint
        except GONE:
            pass
        return self._look()

    @property
    def latest(self) -> Fingerprint:
        """The fingerprint that was made last."""
        return self._state[1]

    def check_of(self, fingerprint: Fingerprint) -> Callable[[], bool] | None:
        """Give what tells whether all is as it was when this fingerprint was made; None where it is not at hand.

        It raises one of `GONE` where something is gone.
        """
        unchanged, latest, is_compiled = self._state
        return unchanged if is_compiled and latest is fingerprint else None

    def _look(self) -> Fingerprint:
        """Survey without the lock: the modules that this imports may ask for the fingerprint themselves."""
        name = _root_name(self._function)
        loaded = -1
        while loaded != len(sys.modules):  # a survey that imports adds submodules to packages it has passed
            loaded = len(sys.modules)
            watch, surveys, roots = self._survey(name)
        made = _digested(name, surveys, roots, self._counted(surveys))
        made = replace(_with_receiver(made, self._function), counts_all=self._libraries is True)
        signature = _watch_signature(self._function, watch)
        with self._reentrant:
            before = self._state[1]
            if made == before and _are_same(signature, self._signature):
                made = before

            def first_check() -> bool:
                """Compile the comparison when it is first needed: many a function is looked at once."""
                unchanged = watch.compiled()
                self._state = unchanged, made, True
                return unchanged()

            self._signature = signature
            self._state = first_check, made, False
        return made

    def _survey(self, name: str) -> tuple[Watch, list[Survey], list[Edge]]:
        watch = Watch()
        surveys = [Survey(self._scope, watch)]
        roots = [surveys[0].walk(self._function, name)]
        if self._is_argument and type(self._function) is FunctionType:
            watch.members(vars(self._function))
            for attribute in attributes_of_function(self._function):
                surveys[0].walk_global(vars(self._function)[attribute], f"{name}.{attribute}")
        if self._is_argument:
            _forget_library_of_argument(surveys[0], roots[0])
        else:
            self._name_libraries(surveys[0])
        for wanted in self._depends_on:
            survey = Survey("deep", watch)
            roots.append(dependency(survey, wanted))
            surveys.append(survey)
        return watch, surveys, roots

    def _name_libraries(self, survey: Survey) -> None:
        """Note the libraries that the function names itself, where the walk has not read it for that."""
        function = getattr(self._function, "__func__", self._function)
        if type(function) is FunctionType and self._scope != "none":
            is_own = defines_own_code(function.__code__, function.__globals__.get("__name__"))
            if self._scope == "own" or not is_own:
                name_libraries(survey, function)

    def _counted(self, surveys: Iterable[Survey]) -> dict[str, str]:
        """Give the versions of the libraries that count."""
        if self._libraries is True:
            return {name: version for survey in surveys for name, version in survey.distributions.items()}
        return {normalized(name): _version_of(name) for name in self._libraries or ()}


def fingerprint(
    function: Any,
    code: Scope = "deep",
    depends_on: Iterable[object] = (),
    libraries: Libraries = True,
) -> Fingerprint:
    """Make the fingerprint of a function once.

    >>> def double(x): return x + x
    >>> def twice(y): return y + y  # another name, so another fingerprint
    >>> fingerprint(double) == fingerprint(double), fingerprint(double).digest == fingerprint(twice).digest
    (True, False)
    """
    return CodeTracker(function, code=code, depends_on=depends_on, libraries=libraries).current()


def _version_of(name: str) -> str:
    version = version_of(name)
    if version is None:
        owners = " or ".join(owner for owner, _ in distributions_of(name))
        remedy = (
            f"The module {name} belongs to {owners}: name that" if owners else "Install it, or leave it out"
        )
        raise ValueError(f"libraries has {name!r}, and no distribution of that name is installed. {remedy}.")
    return version


def _forget_library_of_argument(survey: Survey, root: Edge) -> None:
    """Let a library's function or class that is an argument count by its name, as its objects do."""
    match root:
        case ("foreign", str(name)):
            for library, _ in distributions_of(name):
                survey.distributions.pop(library, None)


def _never() -> bool:
    return False


def _watch_signature(function: Any, watch: Watch) -> tuple[object, ...]:
    """Watch all that calls are bound by, whoever wrote the function and however little of it counts."""
    seen: list[object] = []
    while not any(function is one for one in seen):
        seen.append(function)
        if isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, partial):
            function = function.func
        elif type(function) is FunctionType:
            code, defaults, keywords = function.__code__, function.__defaults__, function.__kwdefaults__
            watch.attribute(function, "__code__", code)
            watch.attribute(function, "__defaults__", defaults)
            if code.co_kwonlyargcount:
                watch.attribute(function, "__kwdefaults__", keywords)
            if keywords:
                watch.members(keywords)
            seen += [code, defaults, keywords, *(keywords or {}).values()]
            function = vars(function).get("__wrapped__", function)
    return tuple(seen)


def _are_same(objects: tuple[object, ...], others: tuple[object, ...]) -> bool:
    return len(objects) == len(others) and all(map(is_, objects, others))


def _root_name(function: Any) -> str:
    """The name that people know a callable by: the function's behind a partial, the class's of an object."""
    if isinstance(function, ModuleType):
        return module_name(function.__name__)
    while isinstance(function, partial | MethodType):
        function = function.func if isinstance(function, partial) else function.__func__
    return qualified_name(function if hasattr(function, "__qualname__") else type(function))


def _with_receiver(made: Fingerprint, function: Any) -> Fingerprint:
    """Show the attributes of the object that a method is bound to, which counts as a whole."""
    owner = function.__self__ if isinstance(function, MethodType) else None
    if owner is None or isinstance(owner, type | ModuleType) or hasattr(type(owner), "__job_key__"):
        return made
    manifest, sources = dict(made.manifest), dict(made.sources)
    for name, value in attributes_in(owner).items():
        path = f"self.{name}"
        try:
            manifest[path] = digest(value, path).hex()[:_SHOWN]
        except UnkeyableArgument:
            continue
        sources[path] = str(short_form(value))
    return replace(made, manifest=MappingProxyType(manifest), sources=MappingProxyType(sources))


def _digested(
    name: str, surveys: list[Survey], roots: list[Edge], libraries: Mapping[str, str]
) -> Fingerprint:
    """Put the surveys of a function and of what it depends on together."""
    digests: list[bytes] = []
    manifest: dict[str, str] = {}
    sources: dict[str, str] = {}
    for survey, root in zip(surveys, roots, strict=True):
        whole, own = digest_graph(root, survey.parts)
        digests.append(whole)
        for part, part_digest in sorted(own.items(), key=lambda item: (item[0].name, item[1])):
            if part.content == ():
                continue  # known by its name only
            shown = _free_name(part.name, part_digest.hex()[:_SHOWN], manifest)
            manifest[shown] = part_digest.hex()[:_SHOWN]
            if (text := part.source) is not None:
                sources[shown] = text
        manifest.update(dict.fromkeys(survey.untracked, "not tracked"))
    digests[1:] = sorted(digests[1:])
    code = whole = digest(("fingerprint", name, tuple(digests)), "code")
    requirements = dict(_requirements(roots[1:]))
    libraries = {library: libraries[library] for library in sorted(libraries.keys() - requirements.keys())}
    if libraries:
        whole = digest(("fingerprint with libraries", code, tuple(libraries.items())), "code")
    for library, version in sorted({**libraries, **requirements}.items()):
        shown = f"version {version}" if _LIKE_DIGEST.fullmatch(version) else version
        manifest[_free_name(library, shown, manifest)] = shown
    return Fingerprint(
        whole,
        MappingProxyType(dict(sorted(manifest.items()))),
        tuple(sorted({path for survey in surveys for path in survey.untracked})),
        MappingProxyType(sources),
        tuple((survey.scope, tuple(survey.parts)) for survey in surveys),
        MappingProxyType(requirements),
        code,
        MappingProxyType(libraries),
    )


def _requirements(edges: Iterable[Edge]) -> Iterator[tuple[str, str]]:
    """Name and version of each distribution that edges lead to."""
    for edge in edges:
        match edge:
            case ("distribution", *found):
                names = (normalized(str(name)) for name in found[::2])
                yield from zip(names, map(str, found[1::2]), strict=True)


def _free_name(name: str, shown: str, manifest: Mapping[str, str]) -> str:
    """Number the second and further parts of one name, as closures from one factory are."""
    number, free = 1, name
    while manifest.get(free, shown) != shown:
        number += 1
        free = f"{name}#{number}"
    return free


class _InArguments:
    """Keys functions, classes and modules that are arguments, and remembers the latest of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._trackers: OrderedDict[int, CodeTracker] = OrderedDict()
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._reentrant = threading.RLock()

    def __call__(self, obj: Any, _path: str, *, libraries: bool) -> bytes:
        """Make the digest of a function, a class or a module with all that it reaches."""
        made = self.fingerprint(obj)
        return made.digest if libraries else made.code

    def fingerprint(self, obj: Any) -> Fingerprint:
        """Make the fingerprint of a function, a class or a module."""
        with self._reentrant:  # a tracker keeps its object, so that no other can have this identity
            tracker = self._trackers.pop(id(obj), None) or CodeTracker(obj, is_argument=True)
            self._trackers[id(obj)] = tracker
            if len(self._trackers) > self._size:
                self._trackers.popitem(last=False)
        return tracker.current()

    def libraries(self) -> dict[str, str]:
        """Give the versions of the libraries that count with what was met last."""
        with self._reentrant:
            latest = [tracker.latest for tracker in self._trackers.values()]
        return {name: version for each in latest for name, version in each.libraries.items()}


_in_arguments: Final = _InArguments(size=512)
set_code_hasher(_in_arguments)


def code_fingerprint(obj: Any) -> Fingerprint:
    """Make the fingerprint of a function or a class, as it counts where it is an argument."""
    return _in_arguments.fingerprint(obj)


def libraries_in_arguments() -> dict[str, str]:
    """Give the versions of the libraries that the code of arguments names, as far as it was met of late."""
    return _in_arguments.libraries()
