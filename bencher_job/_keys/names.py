"""Knows by which name a module, a class or a function goes in every process.

A script that is run is called `__main__` there and by its own name where it is imported. Its classes and
functions are the same ones, so a key names them by the latter.
"""

from __future__ import annotations

import functools
import sys
from pathlib import PurePath
from typing import Any, Final

__all__ = ["adopt_main_name", "main_name", "module_name", "module_of", "qualified_name"]

_MAIN: Final = frozenset({"__main__", "__mp_main__"})
_adopted: list[str] = []
_NAME_OF_CLASS: Final = type.__dict__["__qualname__"].__get__  # which no metaclass can do otherwise
_MODULE_OF_CLASS: Final = type.__dict__["__module__"].__get__


def main_name() -> str:
    """Name of the program that runs, as a module: `__main__` where it has none, as in a notebook.

    >>> module_name("json.decoder"), module_name("__main__") == main_name()
    ('json.decoder', True)
    """
    if _adopted:
        return _adopted[-1]
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
