"""Knows how what is known of an entry is written as text, and read from text that may say anything."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from types import NoneType
from typing import Any, Final, TypeVar

from ..._keys import PastEdition
from ..._record import Record
from ..entries.signature import UNSIGNED
from .archive import Unwhole

__all__ = [
    "bound_from",
    "bound_to_text",
    "edition_from",
    "edition_to_dict",
    "expires_from",
    "from_json",
    "record_from",
    "record_to_dict",
    "to_json",
]

T = TypeVar("T")

_PLAIN: Final = (str, int, float, NoneType)
_ACCEPTED: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "float": (float, int),
    "bool | None": (bool, NoneType),
    "datetime": (str,),
    "Mapping[str, Any]": (dict,),
}
"""What stands for a field of a record, by its annotation; `_PLAIN` for others."""


def to_json(body: dict[str, Any]) -> bytes:
    """Write a JSON object that ends with a digest of the rest of it."""
    return json.dumps({**body, "digest": _digest_of(body)}).encode()


def _digest_of(body: dict[str, Any]) -> str:
    return UNSIGNED.hasher(json.dumps(body, sort_keys=True).encode()).hexdigest()


def from_json(text: bytes) -> dict[str, Any]:
    """Read what `to_json` has written.

    Raises:
        Unwhole: when it is something else.
    """
    try:
        body = json.loads(text)
        if isinstance(body, dict) and body.pop("digest", None) == _digest_of(body):
            return body
    except (ValueError, RecursionError):
        pass
    raise Unwhole("what is known of it doesn't match its digest")


def record_to_dict(record: Record) -> dict[str, Any]:
    """Give what JSON can hold of a record, which is all."""
    plain = {each.name: getattr(record, each.name) for each in fields(Record)}
    return plain | {"arguments": dict(record.arguments), "created": record.created.isoformat()}


def record_from(given: Mapping[str, Any]) -> Record:
    """Make the record of an entry, from the fields that a record has in this or another version.

    Raises:
        Unwhole: when they are none of a record.
    """
    try:
        known = {each.name: given[each.name] for each in fields(Record) if each.name in given}
        for each in fields(Record):
            if each.name in known:
                _check_field(each.name, known[each.name], str(each.type))
        return Record(**{**known, "created": _moment(known["created"])})
    except (KeyError, TypeError, ValueError) as error:
        raise Unwhole(f"its record is none: {error!r}") from error


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"the time {text} is without a zone")
    return moment


def _check_field(name: str, value: object, annotation: str) -> None:
    """Refuse what doesn't fit the column of a field."""
    if not isinstance(value, _ACCEPTED.get(annotation, _PLAIN)):
        raise TypeError(f"{name} is a {type(value).__name__}")
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(f"{name} is too large")
    if isinstance(value, str):
        value.encode()


def bound_to_text(bound: bytes | None) -> str | None:
    """Write encoded arguments as text."""
    return None if bound is None else base64.b64encode(bound).decode()


def bound_from(text: str | None) -> bytes:
    """Read encoded arguments.

    Raises:
        ValueError: when the text is something else.
        TypeError: when it is no text.
    """
    return b"" if text is None else base64.b64decode(text, validate=True)


def expires_from(seconds: object) -> float | None:
    """Read the time when an entry becomes a miss.

    Raises:
        Unwhole: when it is none.
    """
    if seconds is None or (type(seconds) in {int, float} and math.isfinite(float(seconds))):  # type: ignore[arg-type]
        return seconds  # type: ignore[return-value]
    raise Unwhole(f"it expires at {seconds!r}, which is no time")


def edition_to_dict(past: PastEdition) -> dict[str, Any]:
    """Give what JSON can hold of an edition, which is all but its prefix."""
    plain = {name: value for name, value in past._asdict().items() if name != "prefix"}
    return plain | {"manifest": dict(past.manifest), "sources": dict(past.sources)}


def edition_from(body: Mapping[str, Any], prefix: bytes) -> PastEdition:
    """Make an edition of what `edition_to_dict` gave.

    Raises:
        Unwhole: when it is something else.
    """
    try:
        manifest, sources = (_of_type(dict, body[name]) for name in ("manifest", "sources"))
        return PastEdition(
            prefix,
            _of_type(str, body["function"]),
            _of_type(int, body["key_version"]),
            _of_type(str, body["fingerprint"]),
            _of_type(str, body["version"]),
            tuple(_of_type(str, name) for name in _of_type(list, body["parameters"])),
            {name: _of_type(str, text) for name, text in manifest.items()},
            {name: _of_type(str, text) for name, text in sources.items()},
        )
    except (KeyError, TypeError) as error:
        raise Unwhole(f"its edition is none: {error!r}") from error


def _of_type(wanted: type[T], given: object) -> T:
    """Give what is of a type.

    Raises:
        TypeError: when it is of another.
    """
    if type(given) is not wanted:
        raise TypeError(f"{given!r} is a {type(given).__name__}, and should be a {wanted.__name__}")
    return given
