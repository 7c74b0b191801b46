"""Fingerprint the code and data that a function reaches, and notice when any of it changes.

    function ──> Walker: nodes, edges ──> digest, manifest
                     └──> Watch ──> one comparison per call

A walk takes milliseconds, a comparison a fraction of a microsecond.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import is_
from pathlib import Path, PurePath
from types import FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, Final, NamedTuple

from .._errors import UnkeyableArgument
from .._options import CodeScope
from .._record import short_form
from .files import content_digest
from .graph import GONE, Edge, Node, Watch, digest_graph
from .hashing import digest, set_code_hasher
from .libraries import distributions_of, normalized, version_of
from .members import attributes_of_function, name_libraries
from .names import defines_own_code, module_name, qualified_name
from .walker import Walker, attributes_in


def dependency(walker: Walker, wanted: object) -> Edge:
    """Make the edge to one entry of `depends_on`.

    Raises:
        ValueError: when a distribution isn't installed or a path can't be read.
    """
    if isinstance(wanted, str):
        return _distribution(walker, wanted)
    if isinstance(wanted, PurePath):
        return _files(walker, Path(wanted))
    if isinstance(wanted, ModuleType) and (found := distributions_of(wanted.__name__)):
        walker.distributions.update(found)
        return "distribution", *itertools.chain.from_iterable(found)
    return walker.walk(wanted, "depends_on")


def _distribution(walker: Walker, name: str) -> Edge:
    name = name.removeprefix("dist:")
    version = version_of(name)
    if version is None:
        raise ValueError(
            f"depends_on has {name!r}, and no distribution of that name is installed. Install it, or pass "
            f"the module or the function itself, or pathlib.Path({name!r}) for a file."
        )
    walker.distributions[normalized(name)] = version
    return "distribution", name, version


def _files(walker: Walker, path: Path) -> Edge:
    path = path.absolute()
    content = _content(path)
    walker.nodes.append(Node(path.name, path, content))
    walker.watch.condition(lambda: content_digest(path) == content)
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


class StoredFunctionVersion(NamedTuple):
    """A version of a function as the store keeps it.

    Attributes:
        prefix: the part that the keys of all its calls share.
        function: module and qualified name.
        key_version: the `KEY_VERSION` of its keys.
        fingerprint: the digest of its code, in hexadecimal.
        version: the user's version as text.
        parameters: names of the parameters that entered the key.
        manifest: the contribution of each part, by its name.
        sources: the text of each part, if it was available.
    """

    prefix: bytes
    function: str
    key_version: int
    fingerprint: str
    version: str
    parameters: tuple[str, ...]
    manifest: Mapping[str, str]
    sources: Mapping[str, str]


Libraries = bool | tuple[str, ...]
"""Whether the libraries that code names count, or the names of the libraries that do."""

_LIKE_DIGEST: Final = re.compile(r"[0-9a-f]{16}")
_SHOWN: Final = 16  # hexadecimal digits of a part's digest in a manifest


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The code and data of a function, and of all that it reaches, at one moment.

    Attributes:
        digest: 32 bytes, equal for functions that do the same with the same versions of libraries.
        manifest: the contribution of each part, by its name: a short digest of a function, a class or a global
            value, the version of a distribution, or "not tracked" for what has no key.
        untracked: the names of globals that have no key: loggers, locks, connections.
        sources: the source of each function in the manifest, if available, and the short text of each value.
        walked: scope and nodes of each walk: first from the function, then from each entry of `depends_on`.
        requirements: versions of the distributions in `depends_on`.
        code: the digest without the versions of libraries.
        libraries: versions of the other distributions that count.
        counts_all: whether all libraries count that code names, including the code of arguments.
    """

    digest: bytes
    manifest: Mapping[str, str]
    untracked: tuple[str, ...]
    sources: Mapping[str, str] = field(default_factory=_nothing, compare=False, repr=False)
    walked: tuple[tuple[CodeScope, tuple[Node, ...]], ...] = field(default=(), compare=False, repr=False)
    requirements: Mapping[str, str] = field(default_factory=_nothing, compare=False, repr=False)
    code: bytes = field(default=b"", compare=False, repr=False)
    libraries: Mapping[str, str] = field(default_factory=_nothing, compare=False, repr=False)
    counts_all: bool = field(default=True, compare=False, repr=False)

    @property
    def files(self) -> tuple[tuple[Path, bytes], ...]:
        """The files and folders in `depends_on`, with the digests of their contents."""
        return tuple(
            (node.origin, node.content)
            for _, reached in self.walked[1:]
            for node in reached
            if isinstance(node.origin, Path) and isinstance(node.content, bytes)
        )

    @property
    def scope(self) -> CodeScope:
        """The scope of the walk from the function."""
        return self.walked[0][0]


_NEVER_MADE: Final = Fingerprint(b"", _nothing(), ())


class CodeTracker:
    """Tracks the code and data that one function reaches.

    Nothing is read before the first call of `current`.
    """

    def __init__(
        self,
        function: Any,
        *,
        code: CodeScope = "deep",
        depends_on: Iterable[object] = (),
        libraries: Libraries = True,
        is_argument: bool = False,
    ) -> None:
        self._function = function
        self._scope: CodeScope = code
        self._is_argument = is_argument  # all its attributes count, since any may be read
        self._depends_on = tuple(depends_on)
        self._libraries = libraries
        self._signature: tuple[object, ...] = ()
        self._state: tuple[Callable[[], bool], Fingerprint, bool] = _never, _NEVER_MADE, False

    def current(self) -> Fingerprint:
        """Return the fingerprint, the same object as long as nothing has changed.

        A new object means that the signature or the defaults may have changed, too.
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
        """The latest fingerprint."""
        return self._state[1]

    def check_of(self, fingerprint: Fingerprint) -> Callable[[], bool] | None:
        """Return the function that checks whether nothing has changed since this fingerprint; None if there is none.

        The check may raise one of `GONE`, which means a change.
        """
        unchanged, latest, is_compiled = self._state
        return unchanged if is_compiled and latest is fingerprint else None

    def _look(self) -> Fingerprint:
        """Walk again; modules that are imported here may ask for the fingerprint themselves."""
        name = _root_name(self._function)
        loaded = -1
        while loaded != len(
            sys.modules
        ):  # a walk that imports adds submodules to packages that it has passed
            loaded = len(sys.modules)
            watch, walkers, roots = self._walks(name)
        made = _digested(name, walkers, roots, self._counted(walkers))
        made = replace(_with_receiver(made, self._function), counts_all=self._libraries is True)
        signature = _watch_signature(self._function, watch)
        before = self._state[1]
        if made == before and _are_same(signature, self._signature):
            made = before

        def first_check() -> bool:
            """Compile the comparison at the first check: many functions are fingerprinted once only."""
            unchanged = watch.compiled()
            self._state = unchanged, made, True
            return unchanged()

        self._signature = signature
        self._state = first_check, made, False
        return made

    def _walks(self, name: str) -> tuple[Watch, list[Walker], list[Edge]]:
        watch = Watch()
        walkers = [Walker(self._scope, watch)]
        roots = [walkers[0].walk(self._function, name)]
        if self._is_argument and type(self._function) is FunctionType:
            watch.members(vars(self._function))
            for attribute in attributes_of_function(self._function):
                walkers[0].walk_global(vars(self._function)[attribute], f"{name}.{attribute}")
        if self._is_argument:
            _forget_library_of_argument(walkers[0], roots[0])
        else:
            self._name_libraries(walkers[0])
        for wanted in self._depends_on:
            walker = Walker("deep", watch)
            roots.append(dependency(walker, wanted))
            walkers.append(walker)
        return watch, walkers, roots

    def _name_libraries(self, walker: Walker) -> None:
        """Add the libraries that the function itself names, if the walk has not done so."""
        function = getattr(self._function, "__func__", self._function)
        if type(function) is FunctionType and self._scope != "none":
            is_own = defines_own_code(function.__code__, function.__globals__.get("__name__"))
            if self._scope == "own" or not is_own:
                name_libraries(walker, function)

    def _counted(self, walkers: Iterable[Walker]) -> dict[str, str]:
        """Return the versions of the libraries that count."""
        if self._libraries is True:
            return {name: version for walker in walkers for name, version in walker.distributions.items()}
        return {normalized(name): _version_of(name) for name in self._libraries or ()}


def _version_of(name: str) -> str:
    version = version_of(name)
    if version is None:
        owners = " or ".join(owner for owner, _ in distributions_of(name))
        remedy = (
            f"The module {name} belongs to {owners}: name that" if owners else "Install it, or leave it out"
        )
        raise ValueError(f"libraries has {name!r}, and no distribution of that name is installed. {remedy}.")
    return version


def _forget_library_of_argument(walker: Walker, root: Edge) -> None:
    """Drop the version of the library whose function or class is the argument, which counts by its name."""
    match root:
        case ("foreign", str(name)):
            for library, _ in distributions_of(name):
                walker.distributions.pop(library, None)


def _never() -> bool:
    return False


def _watch_signature(function: Any, watch: Watch) -> tuple[object, ...]:
    """Watch the signature that calls are bound to, also of foreign functions and of scopes below 'deep'."""
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
    """Return the name of a callable: of the function in a partial or a method, of the class of an object."""
    if isinstance(function, ModuleType):
        return module_name(function.__name__)
    while isinstance(function, partial | MethodType):
        function = function.func if isinstance(function, partial) else function.__func__
    return qualified_name(function if hasattr(function, "__qualname__") else type(function))


def _with_receiver(made: Fingerprint, function: Any) -> Fingerprint:
    """Add the attributes of a method's object to the manifest; the object is keyed as a whole."""
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
    name: str, walkers: list[Walker], roots: list[Edge], libraries: Mapping[str, str]
) -> Fingerprint:
    """Combine the walks from a function and from its `depends_on` to a fingerprint."""
    digests: list[bytes] = []
    manifest: dict[str, str] = {}
    sources: dict[str, str] = {}
    for walker, root in zip(walkers, roots, strict=True):
        whole, own = digest_graph(root, walker.nodes)
        digests.append(whole)
        for node, node_digest in sorted(own.items(), key=lambda item: (item[0].name, item[1])):
            if node.content == ():
                continue  # counts by its name only
            shown = _free_name(node.name, node_digest.hex()[:_SHOWN], manifest)
            manifest[shown] = node_digest.hex()[:_SHOWN]
            if (text := node.source) is not None:
                sources[shown] = text
        manifest.update(dict.fromkeys(walker.untracked, "not tracked"))
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
        tuple(sorted({path for walker in walkers for path in walker.untracked})),
        MappingProxyType(sources),
        tuple((walker.scope, tuple(walker.nodes)) for walker in walkers),
        MappingProxyType(requirements),
        code,
        MappingProxyType(libraries),
    )


def _requirements(edges: Iterable[Edge]) -> Iterator[tuple[str, str]]:
    """Yield name and version of each distribution that edges lead to."""
    for edge in edges:
        match edge:
            case ("distribution", *found):
                names = (normalized(str(name)) for name in found[::2])
                yield from zip(names, map(str, found[1::2]), strict=True)


def _free_name(name: str, shown: str, manifest: Mapping[str, str]) -> str:
    """Number the second and further nodes of one name, such as closures from one factory."""
    number, free = 1, name
    while manifest.get(free, shown) != shown:
        number += 1
        free = f"{name}#{number}"
    return free


_TRACKERS_KEPT: Final = 512
_trackers: Final[dict[int, CodeTracker]] = {}
"""The trackers of recent functions, classes and modules that were arguments, by identity."""


def code_fingerprint(obj: Any) -> Fingerprint:
    """Make the fingerprint of a function, a class or a module that is an argument."""
    tracker = _trackers.get(id(obj))  # it keeps its object alive, so the id stays unique
    if tracker is None:
        if len(_trackers) >= _TRACKERS_KEPT:
            _trackers.pop(next(iter(_trackers)), None)
        tracker = _trackers[id(obj)] = CodeTracker(obj, is_argument=True)
    return tracker.current()


def libraries_in_arguments() -> dict[str, str]:
    """Return the versions of the libraries that the code of recent arguments names."""
    latest = [tracker.latest for tracker in list(_trackers.values())]
    return {name: version for each in latest for name, version in each.libraries.items()}


def _digest_of_argument(obj: Any, _path: str, *, libraries: bool) -> bytes:
    made = code_fingerprint(obj)
    return made.digest if libraries else made.code


set_code_hasher(_digest_of_argument)
