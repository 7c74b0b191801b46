"""Knows whose code a module is: the user's own, an installed distribution's, or the standard library's."""

from __future__ import annotations

import functools
import os
import re
import site
import sys
import sysconfig
from pathlib import Path
from types import CodeType, FunctionType, MethodDescriptorType, ModuleType, WrapperDescriptorType
from typing import Final

from .names import module_of

__all__ = [
    "defines_own_code",
    "distribution_of",
    "is_own_class",
    "is_own_file",
    "is_own_module",
    "is_own_name",
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
    """Whether the user wrote this class, in Python."""
    module = module_of(cls)
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


def distribution_of(module: str) -> tuple[str, str] | None:
    """Find name and version of the distribution that installed a module; nothing for the standard library."""
    loaded = sys.modules.get(module) or sys.modules.get(module.partition(".")[0])
    file = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), None)
    if file is None or file.startswith(_OURSELVES):
        return None
    return _distribution_of_file(file)


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


@functools.lru_cache(maxsize=4096)
def _distribution_of_file(file: str) -> tuple[str, str] | None:
    """Go by the name of the package first, which is mostly the distribution's, then by the lists of files."""
    parts = Path(os.path.abspath(file)).parts
    positions = [position for position, part in enumerate(parts[:-1]) if part in _INSTALLED]
    if not positions:
        return None
    folder = os.path.join(*parts[: positions[-1] + 1])
    inside = parts[positions[-1] + 1 :]
    installed = _distributions_in(folder)
    name = _normalized(inside[0].partition(".")[0])
    if name in installed and len(inside) > 1:
        return installed[name][:2]
    wanted = f"\n{'/'.join(inside)},"
    for distribution, version, metadata in installed.values():
        try:
            record = Path(metadata, "RECORD").read_text("utf-8", "replace")
        except OSError:
            continue
        if wanted in f"\n{record}":
            return distribution, version
    return inside[0].partition(".")[0], "unknown"


@functools.lru_cache(maxsize=64)
def _distributions_in(folder: str) -> dict[str, tuple[str, str, str]]:
    """Map normalized names of the distributions in a folder to name, version and metadata folder.

    Listing a folder takes a tenth of a millisecond, `importlib.metadata.packages_distributions` hundreds.
    """
    found = {}
    for entry in os.scandir(folder):
        match = re.fullmatch(r"(.+?)-([^-]+)\.dist-info", entry.name)
        if match:
            name = _normalized(match[1])
            found[name] = name, match[2], entry.path
    return found


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
