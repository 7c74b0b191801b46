"""Pickle the classes of a script so that each of its copies gets its own."""

from __future__ import annotations

import io
import operator
import pickle
import sys
from collections.abc import Collection
from functools import partial
from types import FunctionType
from typing import Any

from .._keys.names import is_own_name, locate, main_name, module_name, module_of
from .codec import Payload, dump

__all__ = ["dump_result"]


def dump_result(value: object, function: object) -> Payload:
    """Pickle what a function has returned, so that the program and who imports it can both read it.

    A script's classes are `__main__`'s where it runs, and its module's where it is imported. A value that names them is
    pickled once more, and looks them up when it is read.

    Raises:
        Exception: as `dump`.
    """
    payload = dump(value)
    if pickle.STACK_GLOBAL not in payload.stream:  # it names no class or function
        return payload
    while isinstance(function, partial):
        function = function.func
    program = main_name()
    names = (
        {module_of(function), program}
        if program == "__main__"
        else {module_of(function), program, "__main__"}
    )
    named = {name for name in names if _name_in_stream(name) in payload.stream and is_own_name(name)}
    return dump(value, partial(_dumps_located, modules=named)) if named else payload


def _name_in_stream(name: str) -> bytes:
    encoded = name.encode()
    return pickle.SHORT_BINUNICODE + bytes([len(encoded) & 0xFF]) + encoded


class _LocatedPickler(pickle.Pickler):
    """Has the classes and functions of some modules looked up by name when the pickle is read."""

    modules: frozenset[str]

    def reducer_override(self, obj: Any) -> Any:
        if not issubclass(type(obj), type | FunctionType) or module_of(obj) not in self.modules:
            return NotImplemented
        try:
            found = operator.attrgetter(obj.__qualname__)(sys.modules[obj.__module__])
        except (KeyError, AttributeError):
            return NotImplemented
        return (locate, (module_name(obj.__module__), obj.__qualname__)) if found is obj else NotImplemented


def _dumps_located(value: object, *, modules: Collection[str], **options: Any) -> bytes:
    with io.BytesIO() as file:
        pickler = _LocatedPickler(file, **options)
        pickler.modules = frozenset(modules)
        pickler.dump(value)
        return file.getvalue()
