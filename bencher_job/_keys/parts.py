"""Knows the graph of what a function reaches, and digests it although it may run in circles.

    accuracy ──> helper ──> SCALE
        └──────> Model ──> Model.fit ──> helper

Functions may call each other in any way, so a digest can't simply follow the arrows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._record import short_form
from .hashing import Encoder, digest
from .names import qualified_name

if TYPE_CHECKING:
    from .facts import Facts

__all__ = ["Edge", "Part", "Table", "digest_graph"]


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
