"""Digest the graph of what a function reaches, and watch its parts for changes.

    accuracy ──> helper ──> SCALE
        └──────> Model ──> Model.fit ──> helper

Functions may call each other in any way, so a digest can't simply follow the arrows.
"""

from __future__ import annotations

import datetime
import functools
import logging
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from operator import is_
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CellType,
    EllipsisType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import TYPE_CHECKING, Any, Final

from .._record import short_form
from .hashing import Encoder, digest
from .names import is_own_class, module_of, qualified_name

if TYPE_CHECKING:
    from .code import Facts

__all__ = ["ABSENT", "GONE", "Edge", "Part", "Table", "Watch", "digest_graph", "is_empty", "is_frozen"]


ABSENT: Final = object()
GONE: Final = (KeyError, ValueError, AttributeError, RuntimeError, TypeError, OSError)
"""What a check raises where something that was there is not, or changes at this moment: it has changed."""

_FROZEN: Final = frozenset(
    {bool, bytes, complex, float, int, range, str, EllipsisType, NoneType, FunctionType, BuiltinFunctionType}
    | {datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone}
    | {re.Pattern, ModuleType}
)
_FROZEN_TOO: Final = frozenset(
    {"_struct.Struct", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"}
)  # whose modules take long to import
_OF_ITS_OWN_KIND: Final = frozenset(
    f"__{name}__" for name in ("class", "getattribute", "getstate", "job_key", "reduce", "reduce_ex", "slots")
)
_DICT: Final = vars(type)["__dict__"]
_SEQUENCES: Final = frozenset({list, deque})
_MAPPINGS: Final = frozenset({dict, OrderedDict, defaultdict, Counter, MappingProxyType})


class Watch:
    """Collects what was looked at, and compiles it to one comparison of identities.

    Names, attributes and the members of plain containers are compared by identity, which needs no look at the
    objects. Other mutable objects, as arrays, are digested again at each check.
    """

    def __init__(self) -> None:
        self._conditions: dict[tuple[object, ...], str] = {}
        self._objects: dict[str, object] = {}

    def lookup(self, namespace: Mapping[str, Any], name: str, value: object) -> None:
        """Watch what a name in a namespace means, or that it means nothing where `value` is ABSENT."""
        place = self._name(namespace)
        missing, same = f"{name!r} not in {place}", f"{place}[{name!r}] is {self._name(value)}"
        self._conditions[place, name] = missing if value is ABSENT else same

    def attribute(self, owner: object, attribute: str, value: object) -> None:
        """Watch an attribute."""
        place = self._name(owner)
        self._conditions[place, "." + attribute] = f"{place}.{attribute} is {self._name(value)}"

    def cell(self, cell: CellType) -> None:
        """Watch the content of a closure variable, or that it has none."""
        try:
            self.attribute(cell, "cell_contents", cell.cell_contents)
        except ValueError:
            self.condition(functools.partial(is_empty, cell))

    def members(self, container: Collection[Any], but: frozenset[str] = frozenset()) -> None:
        """Watch that a container has the same members, each by identity, but for those of some names."""
        check = _members_check(container) if not but else _others_check(container, but)
        self._conditions[self._name(container), "members"] = f"{self._name(check)}()"

    def condition(self, check: Callable[[], bool]) -> None:
        """Watch any condition."""
        self._conditions["condition", id(check)] = f"{self._name(check)}()"

    def content(self, value: object, path: str) -> None:
        """Watch a value for changes in place, as deep as it goes."""
        seen: set[int] = set()
        pending: list[object] = [value]
        while pending:
            inner = pending.pop()
            if id(inner) in seen or is_frozen(inner):
                continue
            seen.add(id(inner))
            kind = type(inner)
            if kind is tuple or kind is frozenset:
                pending.extend(inner)  # type: ignore[arg-type]
            elif kind is functools.partial:
                pending.extend((inner.args, inner.keywords))  # type: ignore[attr-defined]
            elif kind is MethodType:
                pending.append(inner.__self__)  # type: ignore[attr-defined]
            elif kind in _SEQUENCES or kind in _MAPPINGS or kind is set:
                self.members(inner)  # type: ignore[arg-type]
                pending.extend(_parts_of(inner))
                if kind is OrderedDict or kind is Counter:  # which may have attributes
                    self.members(vars(inner))
                    pending.extend(vars(inner).values())
            elif _is_plain_object(kind):
                self.attribute(inner, "__class__", kind)
                self.attribute(inner, "__dict__", vars(inner))
                pending.append(vars(inner))
            else:
                self.condition(_digest_check(inner, path))

    def compiled(self) -> Callable[[], bool]:
        """Make the function that tells whether all is as it was."""
        condition = " and\n    ".join(self._conditions.values()) or "True"
        namespace = dict(self._objects)
        exec(f"def unchanged():\n    return (\n    {condition})", namespace)  # noqa: S102 - three times faster than a loop
        check: Callable[[], bool] = namespace["unchanged"]  # type: ignore[assignment]
        return check

    def _name(self, value: object) -> str:
        name = f"o{id(value)}"
        self._objects[name] = value
        return name


def is_frozen(value: object) -> bool:
    """Whether an object can't change, as far as it counts."""
    kind = type(value)
    if kind in _FROZEN or issubclass(kind, type | Enum | PurePath | logging.Logger):
        return True
    return f"{module_of(kind)}.{kind.__qualname__}" in _FROZEN_TOO


def _is_plain_object(cls: type) -> bool:
    """Whether all that an object of this class holds lies in its `__dict__`, and counts as it lies there."""
    return cls.__dictoffset__ != 0 and all(
        base is object
        or (
            is_own_class(base)
            and _OF_ITS_OWN_KIND.isdisjoint(vars(base))
            and isinstance(vars(base).get("__dict__", _DICT), GetSetDescriptorType)
        )
        for base in cls.__mro__
    )


def _parts_of(container: Any) -> Iterable[object]:
    return (*container, *container.values()) if type(container) in _MAPPINGS else tuple(container)


def _members_check(container: Any) -> Callable[[], bool]:
    size = len(container)
    if isinstance(container, Mapping):
        keys, values = tuple(container), tuple(container.values())
        return lambda: (
            len(container) == size
            and all(map(is_, container.values(), values))
            and all(map(is_, container, keys))
        )
    if type(container) is set:
        kept = {id(member): member for member in container}
        return lambda: len(container) == size and all(id(member) in kept for member in container)
    items = tuple(container)
    return lambda: len(container) == size and all(map(is_, container, items))


def _others_check(mapping: Any, names: frozenset[str]) -> Callable[[], bool]:
    others = {name: value for name, value in mapping.items() if name not in names}
    size = len(mapping)
    return lambda: (
        len(mapping) == size and all(mapping.get(name, ABSENT) is value for name, value in others.items())
    )


def _digest_check(value: object, path: str) -> Callable[[], bool]:
    before = Encoder(code=_identity).digest(value, path)
    return lambda: Encoder(code=_identity).digest(value, path) == before


def _identity(obj: Any, _path: str) -> bytes:
    return id(obj).to_bytes(8, "big")


def is_empty(cell: CellType) -> bool:
    """Whether a closure variable has no value (yet)."""
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return True
    return False


@dataclass(eq=False, slots=True)
class Part:
    """One thing that is reached: a function, a class, a global value; its content may lead to any other."""

    name: str
    origin: object
    content: Edge = ()
    facts: Facts | None = None

    @property
    def source(self) -> str | None:
        """The text of a function's definition, where it is at hand, or the short text of a global value."""
        match self.content:
            case ("value", *_):
                shown = short_form(self.origin)
                return repr(shown) if shown is self.origin else str(shown)
        return None if self.facts is None else self.facts.source


@dataclass(eq=False, slots=True)
class Table:
    """A value that holds functions or classes somewhere inside: `{"add": add, "scale": (scale, 2.0)}`."""

    value: object
    path: str
    code: dict[int, Edge] = field(default_factory=dict)


Edge = str | bytes | Part | Table | tuple["Edge", ...]


def digest_graph(root: Edge, parts: Iterable[Part]) -> tuple[bytes, dict[Part, bytes]]:
    """Digest a graph as a whole, and each part by itself with the names of those that it leads to.

    A part's first label is its name, its next covers its content and the labels that this leads to. Rounds of
    this follow until one tells no more parts apart than the one before. Two graphs then agree exactly where
    they unfold to the same tree, whatever object was met first (Moore's partition refinement).
    """
    parts = list(parts)
    labels = {part: digest(("name", part.name), "code") for part in parts}
    own: dict[Part, bytes] = {}
    while True:
        refined = {
            part: digest(("part", part.name, _resolved(part.content, labels)), "code") for part in parts
        }
        own = own or refined
        if len(set(refined.values())) == len(set(labels.values())):
            break
        labels = refined
    everything = tuple(sorted(set(refined.values())))
    return digest(("graph", _resolved(root, refined), everything), "code"), own


def _resolved(edge: Edge, labels: dict[Part, bytes]) -> Any:
    """Put labels in the place of parts."""
    if isinstance(edge, Part):
        return labels[edge]
    if isinstance(edge, tuple):
        return tuple(_resolved(inner, labels) for inner in edge)
    if isinstance(edge, Table):
        return Encoder(code=_labeller(edge, labels)).digest(edge.value, edge.path)
    return edge


def _labeller(table: Table, labels: dict[Part, bytes]) -> Callable[[Any, str], bytes]:
    def label(obj: Any, _path: str) -> bytes:
        edge = table.code.get(id(obj), ("made anew", qualified_name(obj)))  # at each look at the value
        return digest(_resolved(edge, labels), "code")

    return label
