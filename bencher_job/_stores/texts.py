"""Knows the texts as which a store keeps what is known of an entry: its arguments, and its origin."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from .._record import LONGEST_SHORT_FORM, Origin, short_form

__all__ = ["arguments_to_json", "origin_from_json", "origin_to_json"]

LARGEST_QUICK: Final = 1 << 62
"""Magnitude of a number below which it is finite, and has so few bits that it stands in a record as it is."""

_FIRST_ORIGIN: Final = ("executor", "host", "pid", "python", "library")
"""What an origin was in the tables of version 2, without names."""


def arguments_to_json(arguments: Mapping[str, object]) -> str:
    """Write arguments as the JSON text that a store keeps with an entry.

    Plain values are written here, since `json.dumps` takes longer to begin than to write so little.
    """
    texts = []
    for name, value in arguments.items():
        kind = type(value)
        if kind is str and len(value) <= LONGEST_SHORT_FORM:  # type: ignore[arg-type]
            text = encode_basestring_ascii(value)  # type: ignore[arg-type]
        elif (kind is float or kind is int) and -LARGEST_QUICK < value < LARGEST_QUICK:  # type: ignore[operator]
            text = repr(value)
        else:
            text = json.dumps(short_form(value))
        texts.append(_name_to_json(name) + text)
    return f"{{{', '.join(texts)}}}"


@functools.lru_cache(maxsize=1024)
def _name_to_json(name: str) -> str:
    return f"{json.dumps(name)}: "


def origin_to_json(origin: Origin) -> str:
    """Write what many records have in common as text."""
    return json.dumps(origin._asdict())


def origin_from_json(text: str | None) -> dict[str, Any]:
    """Read what `origin_to_json` wrote, in the tables of any version.

    Raises:
        ValueError: when the text is something else.
        TypeError: when it is none.
    """
    try:
        origin = json.loads(text or "{}")
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if isinstance(origin, list):
        origin = dict(zip(_FIRST_ORIGIN, origin, strict=True))
    if not isinstance(origin, dict) or not all(
        isinstance(value, str | int | None) for value in origin.values()
    ):
        raise TypeError("what is known of its run is none")
    return {name: value for name, value in origin.items() if name in Origin._fields}
