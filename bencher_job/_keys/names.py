"""Knows by which name a module, a class or a function goes in every process.

A script that is run is called `__main__` there and by its own name where it is imported. Its classes and
functions are the same ones, so a key names them by the latter.
"""

from __future__ import annotations

import functools
import sys
from pathlib import PurePath
from typing import Any, Final

__all__ = ["adopt_main_name", "main_name", "module_name", "qualified_name"]

_MAIN: Final = frozenset({"__main__", "__mp_main__"})
_adopted: list[str] = []


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


def qualified_name(obj: Any) -> str:
    """Module and qualified name of a class or a function, `collections.Counter`; a builtin's bare name.

    A partial goes by the name of its function, another callable by that of its class.
    """
    if isinstance(obj, functools.partial):
        return qualified_name(obj.func)
    name: str | None = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    if name is None:
        return qualified_name(type(obj))
    module: str | None = getattr(obj, "__module__", None)
    return name if module is None or module == "builtins" else f"{module_name(module)}.{name}"
