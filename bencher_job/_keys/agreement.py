"""Check that a worker has the same code as the process that made a key.

    Fingerprint -> Agreement ~~> worker: differences() -> names of the parts that are others there

Code that travels by value is the submitter's own, and brings the globals that it reads from its own module along. What
the worker imports by name may be newer, or a global may have been set at run time: each such part is surveyed there
again, and digested as here. Data and classes count as the worker found them when it first looked: what jobs do to them
there is the jobs' own doing, as a model that is loaded at the first call.
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
from .code import Facts, Place, accept_facts, place_of
from .files import content_digest
from .fingerprint import Fingerprint, Scope
from .graph import Edge, Part, Table, digest_graph
from .libraries import version_of
from .names import is_own_module, module_name, qualified_name
from .walker import Survey

__all__ = ["Agreement", "agreement_on", "refuse_other_code"]


_first_seen: Final[dict[str, tuple[bytes, ...]]] = {}
"""The digests of data and classes when this process first looked at them, by name."""

_MAIN: Final = frozenset({"__main__", "__mp_main__"})

Reference = tuple[Scope, str, str]
"""How much of its code counts, a module, and the dotted name of what it holds; nothing for the module itself."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a worker must hold to run a function under a key.

    Attributes:
        references: what the worker imports by name.
        digests: the digests of these and of all that they reach, by name.
        data: names of the values and the classes among these.
        contents: digests of files and folders.
        requirements: versions of distributions that the function is said to depend on.
        libraries: versions of the other distributions that count.
        facts: what is known of the code that travels by value.
    """

    references: tuple[Reference, ...]
    digests: Mapping[str, tuple[bytes, ...]]
    data: frozenset[str]
    contents: Mapping[str, bytes]
    requirements: Mapping[str, str]
    libraries: Mapping[str, str]
    facts: tuple[tuple[Place, Facts], ...]

    def differences(self) -> tuple[str, ...]:
        """Name what is not as the submitter holds it, in this process."""
        accept_facts(self.facts)
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
        while loaded != len(sys.modules):  # a survey that imports may add to a registry that it has passed
            loaded = len(sys.modules)
            found: dict[str, tuple[bytes, ...]] = {}
            for scope in {scope for scope, _, _ in self.references}:
                survey = Survey(scope)
                roots = tuple(
                    _survey(survey, module, name)
                    for wanted, module, name in self.references
                    if wanted == scope
                )
                found |= _by_name(digest_graph(roots, survey.parts)[1], survey.parts)
        return found


def agreement_on(fingerprint: Fingerprint, by_value: Collection[str] = (), root: object = None) -> Agreement:
    """Make the agreement on what a fingerprint was made of.

    `by_value` names modules that travel by value, and so does the function `root`, which its module holds cached.
    """
    references: list[Reference] = []
    digests: dict[str, tuple[bytes, ...]] = {}
    data: set[str] = set()
    contents: dict[str, bytes] = {}
    facts: list[tuple[Place, Facts]] = []
    for scope, parts in fingerprint.surveyed:
        named = _named(parts, frozenset(by_value), root)
        imported = _reached(named)
        references += [(scope, *name) for name in named.values()]
        digests |= _by_name(digest_graph(tuple(imported), parts)[1], imported)
        data.update(part.name for part in imported if _may_be_changed_by_jobs(part))
        for part in parts:
            if isinstance(part.origin, Path) and isinstance(part.content, bytes):
                contents[str(part.origin)] = part.content
            elif isinstance(part.origin, FunctionType) and part.facts is not None and part not in imported:
                facts.append((place_of(part.origin.__code__), part.facts))
    return Agreement(
        tuple(sorted(set(references))),
        digests,
        frozenset(data),
        contents,
        dict(fingerprint.requirements),
        dict(fingerprint.libraries),
        tuple(facts),
    )


def refuse_other_code(
    function: object, differing: tuple[str, ...], versions: tuple[tuple[str, str, str], ...] = ()
) -> None:
    """Refuse to run a function in a process where something differs from what its key was made of.

    `versions` has the libraries of other versions: name, the version in the key, and the one here.

    Raises:
        CodeMismatch: naming what differs.
    """
    differing += tuple(f"{name} {here} instead of {there}" for name, there, here in versions)
    if differing:
        name = qualified_name(function)
        raise CodeMismatch(
            f"The worker on {os.uname().nodename} holds other code than the process that submitted {name}, whose "
            f"key its result must not get. What differs: {', '.join(differing)}. Restart the workers where their "
            f"code is older or newer. A global that was set while the program ran is not set in a worker that imports "
            f"its module: pass it as an argument."
            + (" Install the same versions of the libraries there." if versions else ""),
            function=name,
            differs=differing,
        )


def _named(parts: Sequence[Part], by_value: frozenset[str], root: object) -> dict[Part, tuple[str, str]]:
    """Find the parts that a worker imports, with module and name."""
    followed = [part for part in parts if part.content != ()]
    code = [part for part in followed if isinstance(part.origin, FunctionType | type | ModuleType)]
    named = {
        part: name for part in code if part.origin is not root and (name := _name(part, by_value)) is not None
    }
    carried = by_value | {part.origin.__module__ for part in code if part not in named}
    for part in followed:
        if _is_value(part) and (name := _name(part, carried)) is not None:
            named[part] = name
    return named


def _name(part: Part, by_value: frozenset[str]) -> tuple[str, str] | None:
    """Say by which name a worker finds a part; none where it travels by value."""
    origin = part.origin
    if isinstance(origin, ModuleType):
        module, name = origin.__name__, ""
    elif isinstance(origin, FunctionType | type):
        module, name = origin.__module__, origin.__qualname__
    else:
        module, _, name = part.name.rpartition(".")
    loaded = sys.modules.get(module)
    if loaded is None or module in _MAIN or module in by_value or not is_own_module(loaded):
        return None
    try:
        found = operator.attrgetter(name)(loaded) if name else loaded
    except AttributeError:
        return None
    return (module, name) if _plain(found) is origin else None


def _may_be_changed_by_jobs(part: Part) -> bool:
    return (_is_value(part) or isinstance(part.origin, type)) and "<locals>" not in part.name


def _is_value(part: Part) -> bool:
    return isinstance(part.content, tuple) and part.content[:1] == ("value",)


def _plain(found: Any) -> Any:
    """What a cached function is around."""
    while getattr(type(found), "_bencher_job_cached", False):
        found = found.__wrapped__
    return found


def _import_all(modules: Iterable[str]) -> None:
    for module in dict.fromkeys(modules):
        with suppress(ImportError):  # then what it holds will be missing
            importlib.import_module(module)


def _survey(survey: Survey, module: str, name: str) -> Edge:
    try:
        loaded = importlib.import_module(module)
        found = operator.attrgetter(name)(loaded) if name else loaded
    except (ImportError, AttributeError):
        return ("missing", module, name)
    return survey.walk_global(_plain(found), f"{module_name(module)}.{name}" if name else module)


def _reached(parts: Iterable[Part]) -> dict[Part, None]:
    """All that parts lead to, and they themselves."""
    reached: dict[Part, None] = {}
    pending = list(parts)
    while pending:
        part = pending.pop()
        if part not in reached:
            reached[part] = None
            pending.extend(_led_to(part.content))
    return reached


def _led_to(edge: Edge) -> Iterator[Part]:
    if isinstance(edge, Part):
        yield edge
    elif isinstance(edge, tuple):
        for inner in edge:
            yield from _led_to(inner)
    elif isinstance(edge, Table):
        for inner in edge.code.values():
            yield from _led_to(inner)


def _by_name(own: Mapping[Part, bytes], parts: Iterable[Part]) -> dict[str, tuple[bytes, ...]]:
    named: dict[str, list[bytes]] = {}
    for part in parts:
        named.setdefault(part.name, []).append(own[part])
    return {name: tuple(sorted(digests)) for name, digests in named.items()}


def _content(path: str) -> bytes | None:
    try:
        return content_digest(Path(path))
    except OSError:
        return None
