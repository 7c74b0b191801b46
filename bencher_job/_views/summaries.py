"""Describe a stored value in a few words, or as a tree, without unpickling it.

    pickle stream ──> description ──> {"accuracy": 0.5, "curve": "ndarray 100 float64"}

Numpy scalars, times, decimals, paths and similar types are shown as their values, dataclasses and other objects by
their attributes, arrays by shape and dtype, and anything else by its class.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final

from .._fields import of_configs
from .._record import LARGEST_INT_BITS
from .pickles import Array, Cell, Global, Made

LONGEST_CELL: Final = 120
"""Maximum length in characters of a value's text in a cell."""

MOST_NAMED: Final = 10
"""Maximum number of a value's parts that a cell shows."""

MOST_LOOKED_AT: Final = 1000
"""Maximum number of an object's attributes whose names are looked at, since an object may occur thousands of times."""


def _public_attributes(made: Made) -> dict[str, object] | None:
    """Return the attributes of an object, or None if some are private, since then they don't show its value."""
    found = _attributes(made)
    return None if not found or any(name.startswith("_") for name in islice(found, MOST_LOOKED_AT)) else found


def _attributes(made: Made) -> dict[str, Any] | None:
    """Return the attributes of an object by name, or None if its state doesn't contain them."""
    state = made.state
    if isinstance(state, tuple) and len(state) == 2:  # the attributes, and those in slots
        items = chain.from_iterable(part.items() for part in state if isinstance(part, dict))
        found = dict(islice(items, MOST_LOOKED_AT))
    elif isinstance(state, dict):
        inner = state.get("__dict__")
        found = inner if isinstance(inner, dict) else state
    else:
        return None
    return found if {*map(type, islice(found, MOST_LOOKED_AT))} <= {str} else None


def has_named_parts(value: object) -> bool:
    """Whether the parts of a value have names: it is plain data, or an object with public attributes."""
    return not isinstance(value, Made) or _public_attributes(value) is not None


def fields_of(value: object) -> dict[str, Cell]:
    """Return the parts of a result by name, as the columns of a table: those of a dict or object, or `result`.

    >>> fields_of({"accuracy": 0.5, "epochs": [1, 2]})
    {'accuracy': 0.5, 'epochs': '[1, 2]'}
    >>> fields_of(7)
    {'result': 7}
    """
    named = _public_attributes(value) if isinstance(value, Made) else value
    if isinstance(named, dict) and all(isinstance(name, str) for name in named):
        return {name: _cell(part) for name, part in named.items()}
    return {"result": _cell(value)}


def _cell(value: object) -> Cell:
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
    if (text := _atom(value)) is not None:
        return text
    if not depth:
        return "…"
    texts = []
    for label, part in islice(_parts(value), MOST_NAMED):
        before = (
            ""
            if label is None
            else f"{label}="
            if isinstance(value, Made)
            else f"{_short(label, depth - 1)}: "
        )
        texts.append(before + _short(part, depth - 1))
    if next(islice(_parts(value), MOST_NAMED, None), None):
        texts.append("…")
    if isinstance(value, tuple) and len(value) == 1:
        texts.append("")
    start, end = (
        (f"{_name(value)}(", ")") if isinstance(value, Made) else _BRACKETS.get(type(value), ("{", "}"))
    )
    return start + ", ".join(texts).rstrip(" " if texts[-1:] == [""] else "") + end


_BRACKETS: Final[dict[type, tuple[str, str]]] = {list: ("[", "]"), tuple: ("(", ")")}


def _parts(value: Any) -> Iterator[tuple[object, object]]:
    """Yield the parts of a compound value with their labels: keys, names of attributes, or None."""
    if isinstance(value, dict):
        yield from value.items()
    elif not isinstance(value, Made):
        yield from ((None, part) for part in value)
    elif (attributes := _attributes(value)) is not None:
        yield from attributes.items()
    else:
        state = value.state if isinstance(value.state, list | tuple) else ()
        yield from ((None, part) for part in chain(value.arguments, state, value.items))
        yield from value.keywords.items()


def _number_of_parts(value: Any) -> int:
    """Count the parts of a compound value, in no time however many there are."""
    if not isinstance(value, Made):
        return len(value)
    if (attributes := _attributes(value)) is not None:
        return len(attributes)
    state = value.state if isinstance(value.state, list | tuple) else ()
    return sum(map(len, (value.arguments, state, value.items, value.keywords)))


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
        case Global():
            text = f"<{value.name}>"
        case Made() if _attributes(value) and not _public_attributes(value):
            text = f"<{_name(value)}>"
        case Array() | datetime.date() | datetime.timedelta() | datetime.tzinfo():
            text = str(value)
    return text


def _name(made: Made) -> str:
    """Return the name of an object's class, or of the function that would make it."""
    return made.maker.name if isinstance(made.maker, Global) else "object"


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
    return _node(value, DEEPEST, iter(range(MOST_NODES)))


def _node(value: Any, depth: int, left: Iterator[int]) -> dict[str, Any]:
    """Return the node of a value, with `depth` levels below it, and as many nodes as are left."""
    match value:
        case Array():
            return {"kind": "array", "text": str(value), "first": list(value.first)}
        case str():
            left_out = max(0, len(value) - LONGEST_TEXT)
            return {"kind": "text", "text": value[:LONGEST_TEXT], "more": left_out}
        case None | bool():
            return {"kind": "constant", "text": str(value)}
        case int() | float():
            return {"kind": "number", "text": short_text(value, LONGEST_TEXT)}
        case Made():
            kind, text = "object", value.path or "object"
        case dict() | list() | tuple() | set() | frozenset():
            kind = "set" if isinstance(value, frozenset) else type(value).__name__
            text = f"{len(value)} item{'' if len(value) == 1 else 's'}"
        case _:
            return {"kind": "other", "text": short_text(value, LONGEST_TEXT)}
    shown: list[list[object]] = []
    for number, (label, part) in enumerate(islice(_parts(value), MOST_ITEMS if depth else 0)):
        if next(left, None) is None:
            break
        name = label if label is not None else str(number) if isinstance(value, list | tuple) else ""
        shown.append([name if isinstance(name, str) else short_text(name), _node(part, depth - 1, left)])
    return {"kind": kind, "text": text, "items": shown, "more": _number_of_parts(value) - len(shown)}


def common_fields(given: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the fields of configs that are the same in several calls, so that each call shows what differs.

    >>> common_fields([{"cfg.lr": 0.1, "cfg.layers": 2, "seed": 0}, {"cfg.lr": 0.2, "cfg.layers": 2, "seed": 0}])
    {'cfg.layers': 2}
    """
    if len(given) < 2:
        return {}
    first, *others = given
    return {
        name: first[name]
        for name in of_configs(first)
        if all(repr(each.get(name)) == repr(first[name]) for each in others)
    }


def without_fields(arguments: Mapping[str, Any], left_out: Collection[str]) -> Mapping[str, Any]:
    """Return arguments without some of them."""
    return {name: value for name, value in arguments.items() if name not in left_out}
