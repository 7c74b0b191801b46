"""Check that a worker has the same code as the process that made a key.

    Fingerprint -> CodeCheck ~~> worker: differences() -> names of what differs there

Code that is sent by value is the submitter's own, with the globals that it reads from its own module. A module that the
worker imports by name may be newer, and a global may have been set at run time. The worker therefore walks and digests
each of these again. Data and classes count as the worker first saw them: later changes are made by the jobs themselves,
for example by a model that is loaded at the first call.
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from .._errors import CodeMismatch
from .._options import CodeScope
from .code import CodeInfo, Place, accept_code_info, place_of
from .files import content_digest
from .fingerprint import Fingerprint
from .graph import Edge, Node, Table, digest_nodes
from .libraries import version_of
from .names import MAIN_MODULES, is_own_module, module_name, qualified_name
from .walker import Walker

_first_seen: Final[dict[str, tuple[bytes, ...]]] = {}
"""The digests of data and classes when this process first read them, by name."""

Reference = tuple[CodeScope, str, str]
"""A scope, a module, and a dotted name in the module; the name is empty for the module itself."""


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """The code and data that a worker must have to run a function under a key.

    Attributes:
        references: the objects that the worker imports by name.
        digests: the digests of these and of all that they reach, by name.
        data: the names in `digests` that are values or classes.
        contents: digests of files and folders.
        requirements: versions of the distributions in `depends_on`.
        libraries: versions of the other distributions that count.
        code_infos: the code info of functions that are sent by value.
    """

    references: tuple[Reference, ...]
    digests: Mapping[str, tuple[bytes, ...]]
    data: frozenset[str]
    contents: Mapping[str, bytes]
    requirements: Mapping[str, str]
    libraries: Mapping[str, str]
    code_infos: tuple[tuple[Place, CodeInfo], ...]

    def differences(self) -> tuple[str, ...]:
        """Return the names of what differs between this process and the submitter, sorted."""
        accept_code_info(self.code_infos)
        found = self._found()
        for name in self.data & found.keys():
            found[name] = _first_seen.setdefault(name, found[name])
        differing = {name for name, digests in self.digests.items() if found.get(name) != digests}
        differing |= {path for path, content in self.contents.items() if _content(path) != content}
        differing |= {name for name, version in self.requirements.items() if version_of(name) != version}
        return tuple(sorted(differing))

    def _found(self) -> dict[str, tuple[bytes, ...]]:
        _import_all(module for _, module, _ in self.references)
        loaded = -1
        while loaded != len(sys.modules):  # a walk that imports may add to a registry that it has passed
            loaded = len(sys.modules)
            found: dict[str, tuple[bytes, ...]] = {}
            for scope in {scope for scope, _, _ in self.references}:
                walker = Walker(scope)
                for wanted, module, name in self.references:
                    if wanted == scope:
                        _walk(walker, module, name)
                found |= _by_name(digest_nodes(walker.nodes), walker.nodes)
        return found


def code_check_for(
    fingerprint: Fingerprint, by_value: Collection[str] = (), root: object = None
) -> CodeCheck:
    """Make the code check for a fingerprint.

    The modules in `by_value` are sent by value, and so is `root`, the function inside a cached function.
    """
    references: list[Reference] = []
    digests: dict[str, tuple[bytes, ...]] = {}
    data: set[str] = set()
    contents: dict[str, bytes] = {}
    infos: list[tuple[Place, CodeInfo]] = []
    for scope, nodes in fingerprint.walked:
        named = _named(nodes, frozenset(by_value), root)
        imported = _reachable(named)
        references += [(scope, *name) for name in named.values()]
        digests |= _by_name(digest_nodes(nodes), imported)
        data.update(node.name for node in imported if _may_be_changed_by_jobs(node))
        for node in nodes:
            if isinstance(node.origin, Path) and isinstance(node.content, bytes):
                contents[str(node.origin)] = node.content
            elif isinstance(node.origin, FunctionType) and node.info is not None and node not in imported:
                infos.append((place_of(node.origin.__code__), node.info))
    return CodeCheck(
        tuple(sorted(set(references))),
        digests,
        frozenset(data),
        contents,
        dict(fingerprint.requirements),
        dict(fingerprint.libraries),
        tuple(infos),
    )


def refuse_other_code(
    function: object, differing: tuple[str, ...], versions: tuple[tuple[str, str, str], ...] = ()
) -> None:
    """Refuse to run a function in a process whose code or data differs from the submitter's.

    `versions` has the libraries of other versions: the name, the version in the key, and the version here.

    Raises:
        CodeMismatch: when anything differs.
    """
    differing += tuple(f"{name} {here} instead of {there}" for name, there, here in versions)
    if differing:
        name = qualified_name(function)
        raise CodeMismatch(
            f"The worker on {os.uname().nodename} has other code than the process that submitted {name}, so its "
            f"result does not belong to the job's key. What differs: {', '.join(differing)}. Restart workers whose "
            f"code is older or newer. A global that was set at run time is not set in a worker that imports its "
            f"module: pass it as an argument."
            + (" Install the same versions of the libraries there." if versions else ""),
            function=name,
            differs=differing,
        )


def _named(nodes: Sequence[Node], by_value: frozenset[str], root: object) -> dict[Node, tuple[str, str]]:
    """Find the nodes that a worker imports, with module and name."""
    followed = [node for node in nodes if node.content != ()]
    code = [node for node in followed if isinstance(node.origin, FunctionType | type | ModuleType)]
    named = {
        node: name for node in code if node.origin is not root and (name := _name(node, by_value)) is not None
    }
    carried = by_value | {node.origin.__module__ for node in code if node not in named}
    for node in followed:
        if _is_value(node) and (name := _name(node, carried)) is not None:
            named[node] = name
    return named


def _name(node: Node, by_value: frozenset[str]) -> tuple[str, str] | None:
    """Return the module and name that a worker imports a node by; None if it is sent by value."""
    origin = node.origin
    if isinstance(origin, ModuleType):
        module, name = origin.__name__, ""
    elif isinstance(origin, FunctionType | type):
        module, name = origin.__module__, origin.__qualname__
    else:
        module, _, name = node.name.rpartition(".")
    loaded = sys.modules.get(module)
    if loaded is None or module in MAIN_MODULES or module in by_value or not is_own_module(loaded):
        return None
    try:
        found = operator.attrgetter(name)(loaded) if name else loaded
    except AttributeError:
        return None
    return (module, name) if _plain(found) is origin else None


def _may_be_changed_by_jobs(node: Node) -> bool:
    return (_is_value(node) or isinstance(node.origin, type)) and "<locals>" not in node.name


def _is_value(node: Node) -> bool:
    return isinstance(node.content, tuple) and node.content[:1] == ("value",)


def _plain(found: Any) -> Any:
    """Unwrap cached functions."""
    while getattr(type(found), "_bencher_job_cached", False):
        found = found.__wrapped__
    return found


def _import_all(modules: Iterable[str]) -> None:
    for module in dict.fromkeys(modules):
        with suppress(ImportError):  # its names are then missing
            importlib.import_module(module)


def _walk(walker: Walker, module: str, name: str) -> None:
    try:
        loaded = importlib.import_module(module)
        found = operator.attrgetter(name)(loaded) if name else loaded
    except (ImportError, AttributeError):
        return  # the name is then missing
    walker.walk_global(_plain(found), f"{module_name(module)}.{name}" if name else module)


def _reachable(nodes: Iterable[Node]) -> dict[Node, None]:
    """Return these nodes and all that they lead to."""
    reached: dict[Node, None] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in reached:
            reached[node] = None
            pending.extend(_led_to(node.content))
    return reached


def _led_to(edge: Edge) -> Iterator[Node]:
    if isinstance(edge, Node):
        yield edge
    elif isinstance(edge, tuple):
        for inner in edge:
            yield from _led_to(inner)
    elif isinstance(edge, Table):
        for inner in edge.code.values():
            yield from _led_to(inner)


def _by_name(own: Mapping[Node, bytes], nodes: Iterable[Node]) -> dict[str, tuple[bytes, ...]]:
    named: dict[str, list[bytes]] = {}
    for node in nodes:
        named.setdefault(node.name, []).append(own[node])
    return {name: tuple(sorted(digests)) for name, digests in named.items()}


def _content(path: str) -> bytes | None:
    try:
        return content_digest(Path(path))
    except OSError:
        return None
