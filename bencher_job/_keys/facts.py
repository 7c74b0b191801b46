"""Knows what holds of a code object once and for all: what it does, what it reads, how it was written."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from types import CodeType
from typing import Any

from .bytecode import bytecode_digest
from .reads import Reads, reads_of
from .source import source_of

__all__ = ["Facts", "facts_of"]

_facts: dict[int, tuple[weakref.ref[CodeType], Facts]] = {}


@dataclass(frozen=True, slots=True)
class Facts:
    """What holds of one code object.

    Attributes:
        digest: what it does: of its syntax where its source is at hand, otherwise of its bytecode.
        reads: the names that it reads from outside.
        source: the text of its definition, where it is at hand.
        written_only: names whose values it changes but never looks at.
    """

    digest: bytes
    reads: Reads
    source: str | None
    written_only: frozenset[str]


def facts_of(code: CodeType, namespace: dict[str, Any]) -> Facts:
    """Read a code object, once: its file may be edited later, while it stays as it is."""
    known = _facts.get(id(code))
    if known is not None and known[0]() is code:
        return known[1]
    source = source_of(code, namespace)
    if source is None:
        facts = Facts(bytecode_digest(code), reads_of(code), None, frozenset())
    else:
        facts = Facts(source.digest, reads_of(code), source.text, source.written_only)
    key = id(code)
    _facts[key] = weakref.ref(code, lambda _gone: _facts.pop(key, None)), facts
    return facts
