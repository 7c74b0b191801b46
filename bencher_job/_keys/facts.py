"""Knows what holds of a code object once and for all: what it does, what it reads, how it was written."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from types import CodeType
from typing import Any, Final, NamedTuple

from .bytecode import bytecode_digest, nested
from .reads import Reads, reads_of
from .source import source_of

__all__ = ["Facts", "Place", "accept_facts", "facts_of", "place_of"]

Place = tuple[str, int, str]
"""File, first line and qualified name of a code object."""

_FACTS_ACCEPTED: Final = 4096

_facts: dict[int, tuple[weakref.ref[CodeType], Facts]] = {}
_accepted: dict[Place, Facts] = {}


class Facts(NamedTuple):
    """What holds of one code object.

    Attributes:
        digest: what it does: of its syntax where its source is at hand, otherwise of its bytecode.
        reads: the names that it reads from outside.
        source: the text of its definition, where it is at hand.
        written_only: names whose values it changes and never looks at, where the source is at hand.
        counted: attributes of its class that it changes, where the source is at hand.
        looked_at: attributes, of whatever object, whose values may count.
        bytecode: digest of what it was compiled to.
    """

    digest: bytes
    reads: Reads
    source: str | None
    written_only: frozenset[str]
    counted: frozenset[str]
    looked_at: frozenset[str]
    bytecode: bytes


def facts_of(code: CodeType, namespace: dict[str, Any]) -> Facts:
    """Read a code object, once: its file may be edited later, while it stays as it is."""
    known = _facts.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    bytecode = bytecode_digest(code)
    accepted = _accepted.get(place_of(code))
    if accepted is not None and accepted.bytecode == bytecode:
        facts = accepted
    elif (source := source_of(code, namespace)) is None:
        nothing: frozenset[str] = frozenset()
        names = frozenset(name for inner in nested(code) for name in inner.co_names)
        facts = Facts(bytecode, reads_of(code), None, nothing, nothing, names, bytecode)
    else:
        facts = Facts(
            source.digest,
            reads_of(source.plain).without(source.annotations_only),
            source.text,
            source.written_only,
            *source.attributes,
            bytecode,
        )
    key = id(code)
    _facts[key] = weakref.ref(code, lambda _gone: _facts.pop(key, None)), facts
    return facts


def place_of(code: CodeType) -> Place:
    """Say where a code object was written, as it says itself."""
    return code.co_filename, code.co_firstlineno, code.co_qualname


def accept_facts(facts: Iterable[tuple[Place, Facts]]) -> None:
    """Believe what the process that sends code knows of it, and this one may not: its source."""
    for place, known in facts:
        _accepted.pop(place, None)
        _accepted[place] = known
    while len(_accepted) > _FACTS_ACCEPTED:
        del _accepted[next(iter(_accepted))]
