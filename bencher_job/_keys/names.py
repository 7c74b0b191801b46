"""Knows by which name a module, a class or a function goes in every process.

A script that is run is called `__main__` there and by its own name where it is imported. Its classes and
functions are the same ones, so a key names them by the latter.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import operator
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, Final

__all__ = [
    "adopt_main_name",
    "is_imported_copy",
    "locate",
    "main_name",
    "module_name",
    "module_of",
    "note_arrival",
    "qualified_name",
    "seen_by",
]

_MAIN: Final = frozenset({"__main__", "__mp_main__"})
_adopted: list[str] = []
_NAME_OF_CLASS: Final = type.__dict__["__qualname__"].__get__  # which no metaclass can do otherwise
_MODULE_OF_CLASS: Final = type.__dict__["__module__"].__get__


def main_name() -> str:
    """Name of the program that runs, as a module: `__main__` where it has none, as in a notebook.

    >>> module_name("json.decoder"), module_name("__main__") == main_name()
    ('json.decoder', True)
    """
    return _adopted[-1] if _adopted else _name_of_program()


def _name_of_program() -> str:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return _stem(file) if file and not file.startswith("<") else "__main__"


@functools.lru_cache(maxsize=8)
def _stem(file: str) -> str:
    return PurePath(file).stem


def adopt_main_name(name: str) -> None:
    """Let `__main__` mean `name` in this process: a worker does what its parent's program asks."""
    _adopted[:] = [name]


def module_name(module: str) -> str:
    """The name of a module, with the program that runs under its own name."""
    return main_name() if module in _MAIN else module


def module_of(obj: Any) -> str:
    """The name of the module that a class or a function says it is of; empty where it says nothing of use.

    >>> module_of(functools.partial), module_of(type("Nowhere", (), {"__module__": None}))
    ('functools', '')
    """
    try:
        module = _MODULE_OF_CLASS(obj) if issubclass(type(obj), type) else obj.__module__
    except AttributeError:
        return ""
    return module if type(module) is str else ""


def qualified_name(obj: Any) -> str:
    """Module and qualified name of a class or a function, `collections.Counter`; a builtin's bare name.

    A partial goes by the name of its function, another callable by that of its class.
    """
    if isinstance(obj, functools.partial):
        return qualified_name(obj.func)
    if issubclass(type(obj), type):
        name: object = _NAME_OF_CLASS(obj)
    else:
        name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    if type(name) is not str:
        return qualified_name(type(obj))
    module = module_of(obj)
    return name if module in {"", "builtins"} else f"{module_name(module)}.{name}"


class _Seen(threading.local):
    by_imported_copy = False


_seen: Final = _Seen()
_arrived: Final[weakref.WeakValueDictionary[str, type]] = weakref.WeakValueDictionary()
"""The classes of the submitter's `__main__` that have come here by value, by qualified name; the latest of each."""


def note_arrival(cls: type) -> None:
    """Note a class that has come here by value, so that `locate` finds it."""
    if cls.__module__ in _MAIN:
        _arrived[cls.__qualname__] = cls


def is_imported_copy(function: object) -> bool:
    """Whether a function is of the second copy of the program that runs: the one that `import` makes."""
    while isinstance(function, functools.partial):
        function = function.func
    module = module_of(function)
    return module not in _MAIN and module == main_name()


@contextmanager
def seen_by(function: object) -> Iterator[None]:
    """Let `locate` prefer the imported copy of the program meanwhile, if the function is of that copy."""
    before = _seen.by_imported_copy
    _seen.by_imported_copy = is_imported_copy(function)
    try:
        yield
    finally:
        _seen.by_imported_copy = before


def locate(module: str, name: str) -> Any:
    """Find a class or a function that a stored value names; what the program that runs defines is its own.

    Raises:
        ImportError: when there is no such module.
        AttributeError: when it has no such name.

    >>> locate("collections", "Counter.update")
    <function Counter.update at ...>
    """
    find = operator.attrgetter(name)
    if module == main_name() and not _seen.by_imported_copy:
        program = sys.modules["__main__"]
        if module == _name_of_program() and _is_program(module, getattr(program, "__file__", None)):
            return find(program)
        if (arrived := _arrived.get(name)) is not None:
            return arrived
    return find(sys.modules.get(module) or importlib.import_module(module))


@functools.lru_cache(maxsize=8)
def _is_program(module: str, file: str | None) -> bool:
    """Whether a module is what runs, and not another one whose file has the same name."""
    if module in sys.modules:
        other = getattr(sys.modules[module], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        other = None if spec is None else spec.origin
    try:
        return other is None or file is None or os.path.samefile(other, file)
    except OSError:  # one of them is gone
        return True
