"""Knows whose code a module is: the user's own, an installed distribution's, or the standard library's."""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from types import CodeType, FunctionType, MethodDescriptorType, ModuleType, WrapperDescriptorType
from typing import Final

from .names import module_of

__all__ = [
    "defines_own_code",
    "is_own_class",
    "is_own_file",
    "is_own_module",
    "is_own_name",
    "site_folder",
]

_IN_C: Final = WrapperDescriptorType | MethodDescriptorType
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_OURSELVES: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def is_own_module(module: ModuleType) -> bool:
    """Whether the user wrote this module; one without a file, as a notebook's, is the user's."""
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.origin in {"built-in", "frozen"}:
        return False
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return is_own_file(file)
    paths = getattr(module, "__path__", None)
    return all(map(is_own_file, paths)) if paths else module.__name__ not in sys.builtin_module_names


def is_own_name(name: str | None) -> bool:
    """Whether the user wrote the module of this name; an unknown one is the user's."""
    module = sys.modules.get(name or "")
    return name != "builtins" and (module is None or is_own_module(module))


def is_own_class(cls: type) -> bool:
    """Whether the user wrote this class, in Python; one that `types.new_class` made says that it is of `types`."""
    module = module_of(cls)
    if module == "types" and vars(sys.modules["types"]).get(cls.__name__) is not cls:
        return True
    if not module:  # as of a class that a library made of a name
        methods = (value for value in vars(cls).values() if isinstance(value, FunctionType))
        return any(
            defines_own_code(method.__code__, method.__globals__.get("__name__")) for method in methods
        )
    return is_own_name(module) and not any(
        isinstance(attribute, _IN_C) and attribute.__objclass__ is cls for attribute in vars(cls).values()
    )


def defines_own_code(code: CodeType, module: str | None) -> bool:
    """Whether the user wrote a code object of a module; what has no file goes by the module."""
    filename = code.co_filename
    if filename.startswith("<frozen "):
        return False
    return is_own_name(module) if filename.startswith("<") else is_own_file(filename)


def site_folder(file: str) -> str | None:
    """Give the folder of installed distributions that a file lies in; None where it lies in none, or is our own."""
    if file.startswith(_OURSELVES):
        return None
    parts = file.split(os.sep)
    positions = [position for position, part in enumerate(parts[:-1]) if part in _INSTALLED]
    return os.sep.join(parts[: positions[-1] + 1]) if positions else None


@functools.lru_cache(maxsize=4096)
def is_own_file(file: str | None) -> bool:
    """Whether the user wrote a file: it lies neither with what is installed nor in the standard library."""
    if file in {None, "built-in", "frozen"}:
        return file is None
    path = os.path.abspath(str(file))
    if path.startswith(_OURSELVES) or not _INSTALLED.isdisjoint(path.split(os.sep)):
        return False
    return not path.startswith(_foreign_folders())


@functools.cache
def _foreign_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[scheme] for scheme in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(site.getsitepackages(), [site.getusersitepackages(), os.path.dirname(os.__file__)])
    folders |= {os.path.realpath(folder) for folder in folders}
    return tuple(os.path.abspath(folder) + os.sep for folder in sorted(folders))
