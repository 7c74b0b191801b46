"""Digest the graph of what a function reaches, and watch its nodes for changes.

    accuracy ──> helper ──> SCALE
        └──────> Model ──> Model.fit ──> helper

The graph may have cycles, since functions may call each other, so a digest can't simply follow the arrows.
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
    from .code import CodeInfo


ABSENT: Final = object()
GONE: Final = (KeyError, ValueError, AttributeError, RuntimeError, TypeError, OSError)
"""Errors of a check that mean a change: an object is gone, or changes during the check."""

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
    """Collects what a walk has read, and compiles it to one comparison of identities.

    Names, attributes and the members of plain containers are compared by identity, without reading the objects.
    Other mutable objects, such as arrays, are digested again at each check.
    """

    def __init__(self) -> None:
        self._conditions: dict[tuple[object, ...], str] = {}
        self._objects: dict[str, object] = {}

    def lookup(self, namespace: Mapping[str, Any], name: str, value: object) -> None:
        """Watch the value of a name in a namespace, or that the name is missing if `value` is ABSENT."""
        place = self._name(namespace)
        missing, same = f"{name!r} not in {place}", f"{place}[{name!r}] is {self._name(value)}"
        self._conditions[place, name] = missing if value is ABSENT else same

    def attribute(self, owner: object, attribute: str, value: object) -> None:
        """Watch an attribute."""
        place = self._name(owner)
        self._conditions[place, "." + attribute] = f"{place}.{attribute} is {self._name(value)}"

    def cell(self, cell: CellType) -> None:
        """Watch the value of a closure variable, or that it is unset."""
        try:
            self.attribute(cell, "cell_contents", cell.cell_contents)
        except ValueError:
            self.condition(functools.partial(is_empty, cell))

    def members(self, container: Collection[Any], but: frozenset[str] = frozenset()) -> None:
        """Watch the members of a container by identity, except for the names in `but`."""
        place = self._name(container)
        if but:
            check = f"{self._name(_others_check(container, but))}()"
        elif isinstance(container, Mapping):
            values, keys = self._name(tuple(container.values())), self._name(tuple(container))
            check = f"all(map(is_, {place}.values(), {values})) and all(map(is_, {place}, {keys}))"
        elif type(container) is set:
            check = (
                f"{self._name({id(member): member for member in container})}.keys() >= set(map(id, {place}))"
            )
        else:
            check = f"all(map(is_, {place}, {self._name(tuple(container))}))"
        self._conditions[place, "members"] = f"len({place}) == {len(container)} and {check}"

    def condition(self, check: Callable[[], bool]) -> None:
        """Watch any condition."""
        self._conditions["condition", id(check)] = f"{self._name(check)}()"

    def content(self, value: object, path: str) -> None:
        """Watch a value for changes in place, at any depth."""
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
                pending.extend(_members_of(inner))
                if kind is OrderedDict or kind is Counter:  # these may have attributes
                    self.members(vars(inner))
                    pending.extend(vars(inner).values())
            elif _is_plain_object(kind):
                self.attribute(inner, "__class__", kind)
                self.attribute(inner, "__dict__", vars(inner))
                pending.append(vars(inner))
            else:
                self.condition(_digest_check(inner, path))

    def compiled(self) -> Callable[[], bool]:
        """Compile the function that returns whether nothing has changed."""
        condition = " and\n    ".join(self._conditions.values()) or "True"
        namespace = {"is_": is_, **self._objects}
        exec(f"def unchanged():\n    return (\n    {condition})", namespace)  # noqa: S102 - three times faster than a loop
        check: Callable[[], bool] = namespace["unchanged"]  # type: ignore[assignment]
        return check

    def _name(self, value: object) -> str:
        name = f"o{id(value)}"
        self._objects[name] = value
        return name


def is_frozen(value: object) -> bool:
    """Whether nothing that counts in an object can change."""
    kind = type(value)
    if kind in _FROZEN or issubclass(kind, type | Enum | PurePath | logging.Logger):
        return True
    return f"{module_of(kind)}.{kind.__qualname__}" in _FROZEN_TOO


def _is_plain_object(cls: type) -> bool:
    """Whether objects of this class are keyed by exactly what is in their `__dict__`."""
    return cls.__dictoffset__ != 0 and all(
        base is object
        or (
            is_own_class(base)
            and _OF_ITS_OWN_KIND.isdisjoint(vars(base))
            and isinstance(vars(base).get("__dict__", _DICT), GetSetDescriptorType)
        )
        for base in cls.__mro__
    )


def _members_of(container: Any) -> Iterable[object]:
    return (*container, *container.values()) if type(container) in _MAPPINGS else tuple(container)


def _others_check(mapping: Any, names: frozenset[str]) -> Callable[[], bool]:
    others = {name: value for name, value in mapping.items() if name not in names}
    return lambda: all(mapping.get(name, ABSENT) is value for name, value in others.items())


def _digest_check(value: object, path: str) -> Callable[[], bool]:
    before = Encoder(code=_identity).digest(value, path)
    return lambda: Encoder(code=_identity).digest(value, path) == before


def _identity(obj: Any, _path: str) -> bytes:
    return id(obj).to_bytes(8, "big")


def is_empty(cell: CellType) -> bool:
    """Whether a closure variable is unset."""
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return True
    return False


@dataclass(eq=False, slots=True)
class Node:
    """A function, a class, a module or a global value that was reached. Its content may lead to any other node."""

    name: str
    origin: object
    content: Edge = ()
    info: CodeInfo | None = None

    @property
    def source(self) -> str | None:
        """The source of a function, if available, or the short text of a global value."""
        match self.content:
            case ("value", *_):
                shown = short_form(self.origin)
                return repr(shown) if shown is self.origin else str(shown)
        return None if self.info is None else self.info.source


@dataclass(eq=False, slots=True)
class Table:
    """A value that contains functions or classes: `{"add": add, "scale": (scale, 2.0)}`."""

    value: object
    path: str
    code: dict[int, Edge] = field(default_factory=dict)


Edge = str | bytes | Node | Table | tuple["Edge", ...]


def digest_graph(root: Edge, nodes: Iterable[Node]) -> tuple[bytes, dict[Node, bytes]]:
    """Digest a graph as a whole, and each node as `digest_nodes` does.

    The first label of a node is its name; the next label covers its content and the labels of the nodes that this
    leads to. The rounds end when one distinguishes no more nodes than the round before. Two graphs then have the same
    digest exactly if they unfold to the same tree, whichever object was met first (Moore's partition refinement).
    """
    labels = _names_of(nodes)
    own = refined = _refined(labels)
    while len(set(refined.values())) != len(set(labels.values())):
        labels, refined = refined, _refined(refined)
    everything = tuple(sorted(set(refined.values())))
    return digest(("graph", _resolved(root, refined), everything), "code"), own


def digest_nodes(nodes: Iterable[Node]) -> dict[Node, bytes]:
    """Digest each node with the names of the nodes that it leads to."""
    return _refined(_names_of(nodes))


def _names_of(nodes: Iterable[Node]) -> dict[Node, bytes]:
    return {node: digest(("name", node.name), "code") for node in nodes}


def _refined(labels: dict[Node, bytes]) -> dict[Node, bytes]:
    return {node: digest(("part", node.name, _resolved(node.content, labels)), "code") for node in labels}


def _resolved(edge: Edge, labels: dict[Node, bytes]) -> Any:
    """Replace nodes by their labels."""
    if isinstance(edge, Node):
        return labels[edge]
    if isinstance(edge, tuple):
        return tuple(_resolved(inner, labels) for inner in edge)
    if isinstance(edge, Table):
        return Encoder(code=_labeller(edge, labels)).digest(edge.value, edge.path)
    return edge


def _labeller(table: Table, labels: dict[Node, bytes]) -> Callable[[Any, str], bytes]:
    def label(obj: Any, _path: str) -> bytes:
        edge = table.code.get(id(obj), ("made anew", qualified_name(obj)))  # whenever the value is read
        return digest(_resolved(edge, labels), "code")

    return label
