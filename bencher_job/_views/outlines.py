"""Knows how all of a stored value is told of without unpickling it: as a tree that a page or a terminal can show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .familiar import Array, told
from .pickles import Made
from .values import parts_of, short_text

__all__ = ["outline_of"]

LONGEST_TEXT: Final = 4_000
"""Characters to which a text is cut."""

DEEPEST: Final = 8
"""How many levels are shown."""

MOST_ITEMS: Final = 100
"""How many items of each level are shown."""

MOST_NODES: Final = 2_000
"""How many items are shown in all."""


def outline_of(value: object) -> dict[str, Any]:
    """Give a value as a tree of plain data: `kind`, `text`, and `items` of a label and a node each.

    It shows so many levels and items; `more` counts those that are left out of a node.
    """
    return _Outline().node(value, DEEPEST)


class _Outline:
    """Counts the nodes of one outline, so that a value that refers to itself ends as well."""

    def __init__(self) -> None:
        self._left = MOST_NODES

    def node(self, value: object, depth: int) -> dict[str, Any]:
        """Give the node of a value, which shows so many levels."""
        self._left -= 1
        value = told(value)
        if isinstance(value, Array):
            return {"kind": "array", "text": str(value), "first": list(value.first)}
        if isinstance(value, dict | list | tuple | set | frozenset | Made):
            return self._tree(value, depth)
        if isinstance(value, str):
            left_out = max(0, len(value) - LONGEST_TEXT)
            return {"kind": "text", "text": value[:LONGEST_TEXT], "more": left_out}
        if value is None or isinstance(value, bool):
            return {"kind": "constant", "text": str(value)}
        kind = "number" if isinstance(value, int | float) else "other"
        return {"kind": kind, "text": short_text(value, LONGEST_TEXT)}

    def _tree(self, value: Any, depth: int) -> dict[str, Any]:
        kind, text, pairs = _opened(value)
        shown: list[list[object]] = []
        if depth:
            for label, part in pairs[:MOST_ITEMS]:
                if self._left <= 0:
                    break
                shown.append([label, self.node(part, depth - 1)])
        return {"kind": kind, "text": text, "items": shown, "more": len(pairs) - len(shown)}


def _opened(value: Any) -> tuple[str, str, Sequence[tuple[str, object]]]:
    """Give the kind of what has parts, what it is called, and its parts behind their labels."""
    if isinstance(value, Made):
        parts = [(label.rstrip("="), part) for label, part in parts_of(value)]
        return "object", value.path or "object", parts
    text = f"{len(value)} item{'' if len(value) == 1 else 's'}"
    if isinstance(value, dict):
        return (
            "dict",
            text,
            [(key if isinstance(key, str) else short_text(key), part) for key, part in value.items()],
        )
    if isinstance(value, set | frozenset):
        return "set", text, [("", part) for part in value]
    return type(value).__name__, text, [(str(number), part) for number, part in enumerate(value)]
