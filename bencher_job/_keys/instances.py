"""Knows which of the user's classes a value is made of, since it brings their methods along."""

from __future__ import annotations

import gc
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType

from .names import qualified_name
from .provenance import is_own_class

__all__ = ["own_classes_in"]

_NO_INSTANCE = frozenset(
    {bool, bytes, complex, float, int, str, NoneType, FunctionType, BuiltinFunctionType, ModuleType}
)


def own_classes_in(value: object) -> list[type]:
    """Find the user's own classes of a value and of all that it holds, sorted by name."""
    found: set[type] = set()
    seen: dict[int, object] = {}
    pending = [value]
    while pending:
        inner = pending.pop()
        kind = type(inner)
        if kind in _NO_INSTANCE or id(inner) in seen or issubclass(kind, type):
            continue
        seen[id(inner)] = inner
        if is_own_class(kind):
            found.add(kind)
        pending.extend(gc.get_referents(inner))
    return sorted(found, key=qualified_name)
