"""Describe a stored value in a few words, or as a tree, without unpickling it.

    pickle stream ──> description ──> {"accuracy": 0.5, "curve": "ndarray 100 float64"}

Numpy scalars, times, decimals, paths and similar types are shown as their values, dataclasses and other objects by
their attributes, arrays by shape and dtype, and anything else by its class.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from .._record import LARGEST_INT_BITS
from .pickles import Array, Cell, Global, Made, decoded

__all__ = [
    "Cell",
    "attributes_of",
    "class_name",
    "common_fields",
    "fields_of",
    "has_named_parts",
    "outline_of",
    "parts_of",
    "short_text",
    "without_fields",
]


LONGEST_CELL: Final = 120
"""Maximum length in characters of a value's text in a cell."""

MOST_NAMED: Final = 10
"""Maximum number of a value's parts that a cell shows."""


def attributes_of(made: Made) -> dict[object, object] | None:
    """Return the attributes of an object by name, or None if its state doesn't contain them."""
    state = made.state
    if isinstance(state, tuple) and len(state) == 2:  # the attributes, and those in slots
        found = {name: value for part in state if isinstance(part, dict) for name, value in part.items()}
    elif isinstance(state, dict):
        inner = state.get("__dict__")
        found = inner if isinstance(inner, dict) else state
    else:
        return None
    return found if all(isinstance(name, str) for name in found) else None


def _public_attributes(made: Made) -> dict[object, object] | None:
    """Return the attributes of an object, or None if some are private, since then they don't show its value."""
    found = attributes_of(made)
    return None if not found or any(str(name).startswith("_") for name in found) else found


def has_named_parts(value: object) -> bool:
    """Whether the parts of a value have names: it is plain data, or an object with public attributes."""
    value = decoded(value)
    return not isinstance(value, Made) or _public_attributes(value) is not None


def fields_of(value: object) -> dict[str, Cell]:
    """Return the parts of a result by name, as the columns of a table: those of a dict or object, or `result`.

    >>> fields_of({"accuracy": 0.5, "epochs": [1, 2]})
    {'accuracy': 0.5, 'epochs': '[1, 2]'}
    >>> fields_of(7)
    {'result': 7}
    """
    value = decoded(value)
    named = _public_attributes(value) if isinstance(value, Made) else value
    if isinstance(named, dict) and all(isinstance(name, str) for name in named):
        return {name: _cell(part) for name, part in named.items()}
    return {"result": _cell(value)}


def _cell(value: object) -> Cell:
    value = decoded(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value.bit_length() <= LARGEST_INT_BITS:
        return value
    return _cut(value) if isinstance(value, str) else short_text(value)


def _cut(text: str) -> str:
    """Shorten a text to what a cell shows: its beginning, or the end of a path, which has the file's name."""
    if len(text) > LONGEST_CELL and text.startswith("/"):
        return f"…{text[1 - LONGEST_CELL :]}"
    return text[:LONGEST_CELL]


def short_text(value: object, longest: int = LONGEST_CELL) -> str:
    """Describe a value in a few words.

    >>> short_text([1, {"a": 2.5}])
    "[1, {'a': 2.5}]"
    """
    text = _short(value, 4)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _short(value: object, depth: int) -> str:
    value = decoded(value)
    if (text := _atom(value)) is not None:
        return text
    start, parts, end = _brackets(value, depth - 1) if depth else ("…", [], "")
    texts = [f"{label}{_short(part, depth - 1)}" for label, part in parts[:MOST_NAMED]]
    return start + ", ".join([*texts, *(["…"] if len(parts) > MOST_NAMED else [])]) + end


def _brackets(value: object, depth: int) -> tuple[str, Sequence[tuple[str, object]], str]:
    """Return the opening bracket of a value, its first parts with their labels, and the closing bracket."""
    match value:
        case dict():
            pairs = islice(value.items(), MOST_NAMED + 1)
            return "{", [(f"{_short(key, depth)}: ", part) for key, part in pairs], "}"
        case Made():
            return f"{class_name(value)}(", parts_of(value), ")"
        case list() | tuple() | set() | frozenset():
            parts = [("", part) for part in islice(value, MOST_NAMED + 1)]
            start, end = {list: ("[", "]"), tuple: ("(", ")")}.get(type(value), ("{", "}"))
            return start, parts, f",{end}" if type(value) is tuple and len(value) == 1 else end
    return f"<{type(value).__name__}>", [], ""


def _atom(value: object) -> str | None:
    """Return the text of a value without parts, or whose parts are meaningless; None for others."""
    text: str | None = None
    match value:
        case str():
            text = repr(_cut(value))
        case bytes():
            text = repr(value[:LONGEST_CELL])
        case int() if value.bit_length() > LARGEST_INT_BITS:
            text = f"<int of {value.bit_length()} bits>"
        case None | int() | float():
            text = repr(value)
        case bytearray() | memoryview():
            text = f"<{memoryview(value).nbytes} bytes>"
        case Array() | datetime.date() | datetime.timedelta():
            text = str(value)
        case Global():
            text = f"<{value.name}>"
        case Made() if attributes_of(value) and not _public_attributes(value):
            text = f"<{class_name(value)}>"
    return text


def class_name(made: Made) -> str:
    """Return the name of an object's class, or of the function that would make it."""
    if isinstance(made.maker, Global):
        return made.maker.name
    return "object"


def parts_of(made: Made) -> list[tuple[str, object]]:
    """Return the parts of an object with their labels."""
    attributes = attributes_of(made)
    if attributes is not None:
        return [(f"{name}=", part) for name, part in attributes.items()]
    keywords = [(f"{name}=", part) for name, part in made.keywords.items()]
    state = made.state if isinstance(made.state, list | tuple) else ()
    return [*(("", part) for part in (*made.arguments, *state, *made.items)), *keywords]


LONGEST_TEXT: Final = 4_000
"""Maximum length of a text in characters."""

DEEPEST: Final = 8
"""Maximum number of levels in an outline."""

MOST_ITEMS: Final = 100
"""Maximum number of items per level."""

MOST_NODES: Final = 2_000
"""Maximum number of items in an outline."""


def outline_of(value: object) -> dict[str, Any]:
    """Return a value as a tree of plain data: `kind`, `text`, and `items` with a label and a node each.

    Levels and items are limited; `more` counts those that a node leaves out.
    """
    return _Outline().node(value, DEEPEST)


class _Outline:
    """Limits the nodes of an outline, so that a value that contains itself terminates."""

    def __init__(self) -> None:
        self._left = MOST_NODES

    def node(self, value: object, depth: int) -> dict[str, Any]:
        """Return the node of a value, with `depth` levels below it."""
        self._left -= 1
        value = decoded(value)
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
        kind, text, pairs = _branch(value)
        shown: list[list[object]] = []
        if depth:
            for label, part in pairs[:MOST_ITEMS]:
                if self._left <= 0:
                    break
                shown.append([label, self.node(part, depth - 1)])
        return {"kind": kind, "text": text, "items": shown, "more": len(pairs) - len(shown)}


def _branch(value: Any) -> tuple[str, str, Sequence[tuple[str, object]]]:
    """Return the kind of a compound value, its text, and its parts with their labels."""
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


def common_fields(given: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the fields of configs that are the same in several calls, so that each call shows what differs.

    >>> common_fields([{"cfg.lr": 0.1, "cfg.layers": 2, "seed": 0}, {"cfg.lr": 0.2, "cfg.layers": 2, "seed": 0}])
    {'cfg.layers': 2}
    """
    if len(given) < 2:
        return {}
    first, *others = given
    configs = {name.partition(".")[0] for name in first if "." in name}
    return {
        name: value
        for name, value in first.items()
        if name.partition(".")[0] in configs and all(repr(each.get(name)) == repr(value) for each in others)
    }


def without_fields(arguments: Mapping[str, Any], left_out: Collection[str]) -> Mapping[str, Any]:
    """Return arguments without some of them."""
    return {name: value for name, value in arguments.items() if name not in left_out}
