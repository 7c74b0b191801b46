"""Knows how to get at a module and its attributes before the function that imports it has run."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from .provenance import is_own_file, is_own_module
from .watch import ABSENT

__all__ = ["import_own", "module_attribute"]


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
