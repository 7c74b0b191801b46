"""Knows how to get at a module and its attributes before the function that imports it has run."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from types import ModuleType
from typing import Any, Final

from .provenance import is_own_file, is_own_module
from .watch import ABSENT

__all__ = ["import_own", "is_lazy", "lazy_name", "module_attribute"]

_LAZY: Final = getattr(types, "LazyImportType", ())


def is_lazy(value: object) -> bool:
    """Whether a value is what the statement `lazy import` of Python 3.15 leaves until its name is first read."""
    return type(value) is _LAZY


def lazy_name(lazy: object) -> str:
    """Name what a lazy import is going to import.

    A name without a dot is that of the module that it binds. One with dots may be that of a module, of what a module
    defines, or of a submodule of what it binds.
    """
    return repr(lazy).removeprefix("<lazy_import '").removesuffix("'>")


def module_attribute(module: ModuleType, attribute: str) -> Any:
    """An attribute, or a submodule that nobody has imported yet."""
    try:
        return getattr(module, attribute)
    except AttributeError:
        if not hasattr(module, "__path__"):
            return ABSENT
    try:
        return importlib.import_module(f"{module.__name__}.{attribute}")
    except (Exception, SystemExit):  # noqa: BLE001 - as a function finds it that imports the submodule
        return ABSENT


def import_own(name: str) -> ModuleType | None:
    """Import a module if it is the user's own; what others wrote need not be loaded to be named."""
    top = name.partition(".")[0]
    if top not in sys.modules:
        spec = importlib.util.find_spec(top)
        if spec is None:
            raise ModuleNotFoundError(name)
        if not is_own_file(spec.origin):
            return None
    elif not is_own_module(sys.modules[top]):
        return None
    return importlib.import_module(name)
