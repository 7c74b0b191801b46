"""Knows the texts as which a store keeps what is known of an entry: its arguments, and its origin."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from .._record import LONGEST_SHORT_FORM, Origin, short_form

__all__ = [
    "arguments_to_json",
    "attributes_from",
    "attributes_to_bytes",
    "origin_from_json",
    "origin_to_json",
]

LARGEST_QUICK: Final = 1 << 62
"""Magnitude of a number below which it is finite, and has so few bits that it stands in a record as it is."""

MOST_ATTRIBUTES: Final = 64
LONGEST_ATTRIBUTES: Final = 4096
"""Of how many attributes, and how many bytes, an entry keeps digests; it keeps none of more."""

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


def attributes_to_bytes(attributes: Mapping[str, bytes]) -> bytes | None:
    """Write digests of attributes by name as the JSON that a store keeps with an entry, if they are few.

    >>> attributes_from(attributes_to_bytes({"model.rate": b"1234"}))
    {'model.rate': b'1234'}
    """
    if len(attributes) > MOST_ATTRIBUTES:
        return None
    text = json.dumps({name: digest.hex() for name, digest in attributes.items()}).encode()
    return text if len(text) <= LONGEST_ATTRIBUTES else None


def attributes_from(kept: object) -> dict[str, bytes]:
    """Read what `attributes_to_bytes` wrote; nothing where it is damaged."""
    try:
        return {name: bytes.fromhex(digest) for name, digest in json.loads(kept).items()}  # type: ignore[arg-type]
    except (TypeError, ValueError, AttributeError, RecursionError):
        return {}


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
