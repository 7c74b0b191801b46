"""Knows how a stored value is told of in a few words without unpickling it: as the cells of a table.

    pickle stream ──> description ──> {"accuracy": 0.5, "curve": "ndarray 100 float64"}

Scalars of numpy, times, decimals, paths and the like are told as what they are, dataclasses and other objects by their
attributes, arrays by shape and type. Of anything else the class is named.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from itertools import islice
from typing import Final

from .._record import LARGEST_INT_BITS
from .familiar import Array, Cell, told
from .pickles import Made, Named

__all__ = ["Cell", "attributes_of", "class_name", "fields_of", "is_told", "parts_of", "short_text"]

LONGEST_CELL: Final = 120
"""Characters to which the text of a value is cut in a cell."""

MOST_NAMED: Final = 10
"""How many parts of a value are named in a cell."""


def attributes_of(made: Made) -> dict[object, object] | None:
    """Give the attributes of an object by name, where its state tells them."""
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
    """Give the attributes of an object, unless some are private: then it is shown otherwise than it is kept."""
    found = attributes_of(made)
    return None if not found or any(str(name).startswith("_") for name in found) else found


def is_told(value: object) -> bool:
    """Whether the parts of a value at its top are named: it is plain, or an object with public attributes."""
    value = told(value)
    return not isinstance(value, Made) or _public_attributes(value) is not None


def fields_of(value: object) -> dict[str, Cell]:
    """Name the parts of a result, as a table of entries does: those of a dict or an object, or else `result`.

    >>> fields_of({"accuracy": 0.5, "epochs": [1, 2]})
    {'accuracy': 0.5, 'epochs': '[1, 2]'}
    >>> fields_of(7)
    {'result': 7}
    """
    value = told(value)
    named = _public_attributes(value) if isinstance(value, Made) else value
    if isinstance(named, dict) and all(isinstance(name, str) for name in named):
        return {name: _cell(part) for name, part in named.items()}
    return {"result": _cell(value)}


def _cell(value: object) -> Cell:
    value = told(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value.bit_length() <= LARGEST_INT_BITS:
        return value
    return value[:LONGEST_CELL] if isinstance(value, str) else short_text(value)


def short_text(value: object, longest: int = LONGEST_CELL) -> str:
    """Describe a value in a few words.

    >>> short_text([1, {"a": 2.5}])
    "[1, {'a': 2.5}]"
    """
    text = _short(value, 4)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _short(value: object, depth: int) -> str:
    value = told(value)
    if (text := _atom(value)) is not None:
        return text
    start, parts, end = _opened(value, depth - 1) if depth else ("…", [], "")
    texts = [f"{label}{_short(part, depth - 1)}" for label, part in parts[:MOST_NAMED]]
    return start + ", ".join([*texts, *(["…"] if len(parts) > MOST_NAMED else [])]) + end


def _opened(value: object, depth: int) -> tuple[str, Sequence[tuple[str, object]], str]:
    """Give what stands before the parts of a value, the first of them behind their labels, and what stands after."""
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
    """Give the text of what has no parts, or whose parts say nothing; None of anything else."""
    text: str | None = None
    match value:
        case str() | bytes():
            text = repr(value[:LONGEST_CELL])
        case int() if value.bit_length() > LARGEST_INT_BITS:
            text = f"<int of {value.bit_length()} bits>"
        case None | int() | float():
            text = repr(value)
        case bytearray() | memoryview():
            text = f"<{memoryview(value).nbytes} bytes>"
        case Array() | datetime.date() | datetime.timedelta():
            text = str(value)
        case Named():
            text = f"<{value.name}>"
        case Made() if attributes_of(value) and not _public_attributes(value):
            text = f"<{class_name(value)}>"
    return text


def class_name(made: Made) -> str:
    """Give the name of an object's class, or of the function that would make it."""
    if isinstance(made.maker, Named):
        return made.maker.name
    return "object"


def parts_of(made: Made) -> list[tuple[str, object]]:
    """Give what is known of an object, each part with what stands before it."""
    attributes = attributes_of(made)
    if attributes is not None:
        return [(f"{name}=", part) for name, part in attributes.items()]
    keywords = [(f"{name}=", part) for name, part in made.keywords.items()]
    state = made.state if isinstance(made.state, list | tuple) else ()
    return [*(("", part) for part in (*made.arguments, *state, *made.items)), *keywords]
