"""Knows which classes a value is made of: the user's own bring their methods along, those of others their library."""

from __future__ import annotations

import gc
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import Final

from .names import module_of, qualified_name
from .provenance import is_own_class

__all__ = ["classes_in"]

_NO_INSTANCE: Final = frozenset({bool, bytes, complex, float, int, str, NoneType, FunctionType, ModuleType})
_CONTAINERS: Final = frozenset({"builtins", "collections", "functools", "types"})
"""Modules whose objects hold what the user has put into them."""


def classes_in(value: object) -> tuple[list[type], list[str]]:
    """Find the user's own classes of a value and of all that it holds, and modules whose libraries it is made with.

    What an object of others holds is their matter, but for objects of the user's own classes.
    """
    own: set[type] = set()
    modules: set[str] = set()
    seen: dict[int, object] = {}
    pending, behind = [value], list[object]()
    while pending or behind:
        rest = pending or behind  # what others hold comes last: the user may hold it as well
        inner = rest.pop()
        kind = type(inner)
        if kind in _NO_INSTANCE or id(inner) in seen or issubclass(kind, type):
            continue
        seen[id(inner)] = inner
        if is_own_class(kind):
            own.add(kind)
        elif kind is BuiltinFunctionType or module_of(kind) not in _CONTAINERS:
            module = getattr(inner, "__module__", None) if kind is BuiltinFunctionType else module_of(kind)
            if isinstance(module, str):  # else the method of an object, which follows
                modules.update([module] if rest is pending else [])
                rest = behind
        rest.extend(gc.get_referents(inner))
    return sorted(own, key=qualified_name), sorted(modules)
