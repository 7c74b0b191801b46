"""Knows by which name what others wrote is imported, wherever in their library it is defined at present.

    pathlib._local.Path -> pathlib.Path, _io.open -> io.open, random.Random.choice of a hidden object -> random.choice

Modules inside a library move from version to version; the names that people import from it stay.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from .names import module_name, module_of
from .provenance import is_own_class, is_own_name

__all__ = ["exported_name", "foreign_name", "holder_of"]

_METHODS: Final = MethodType | BuiltinFunctionType
_HOMES: Final = {
    "genericpath": "os.path",
    "nt": "os",
    "ntpath": "os.path",
    "posix": "os",
    "posixpath": "os.path",
}
"""Modules of the standard library that nobody means by their own name."""
_RENAMED: Final = {
    "_thread.allocate_lock": "threading.Lock",
    "_thread.lock": "threading.Lock",
    "nt._path_normpath": "os.path.normpath",
    "posix._path_normpath": "os.path.normpath",
    "posix._path_splitroot_ex": "os.path.splitroot",
    "re.PatternError": "re.error",
}


def exported_name(value: Any) -> tuple[str, str] | None:
    """Find the shortest name under which a module of others holds an object, with the module; none if none does.

    >>> import io, json, random
    >>> exported_name(open), exported_name(json.JSONDecoder), exported_name(random.choice)
    (('io', 'io.open'), ('json', 'json.JSONDecoder'), ('random', 'random.choice'))
    """
    if is_own_class(type(value)):
        return None
    module = _module_of(value)
    names = [name for name in (_text(value, "__qualname__"), _text(value, "__name__")) if name]
    if module is None or not names or is_own_name(module):
        return None
    if (renamed := _RENAMED.get(f"{module}.{names[0]}")) is not None:
        home, _, name = renamed.rpartition(".")
        if _holds(home, name, value):
            return home, renamed
    for home in _homes(module):
        for name in names:
            if _holds(home, name, value):
                return home, f"{home}.{name}"
    return None


def foreign_name(value: FunctionType | type) -> str:
    """The name that a function or a class of others goes by."""
    exported = exported_name(value)
    if exported is not None:
        return exported[1]
    module = module_of(value)
    name = value.__qualname__
    if isinstance(value, FunctionType):  # `wraps` gives it the name of what it wraps
        module, name = str(value.__globals__.get("__name__") or module), value.__code__.co_qualname
    return f"{module_name(module)}.{name}"


def holder_of(value: object, name: str, known: Iterable[str] = ()) -> str | None:
    """Find a loaded module that has an object under a name: a known one, else the compiled one that made it.

    Others may have it as well, in one process and not in another.
    """

    def holds(module: str) -> bool:
        loaded = sys.modules.get(module)
        return isinstance(loaded, ModuleType) and vars(loaded).get(name) is value

    for module in known:
        if holds(module):
            return module
    return min(filter(holds, list(sys.modules)), key=_rank, default=None)


def _rank(module: str) -> tuple[bool, str]:
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return file.endswith((".py", ".pyc")), module


def _module_of(value: Any) -> str | None:
    owner = getattr(value, "__self__", None) if isinstance(value, _METHODS) else None
    if owner is None or isinstance(owner, ModuleType):
        return _text(value, "__module__")
    return module_of(owner if isinstance(owner, type) else type(owner))


def _text(value: Any, attribute: str) -> str | None:
    try:
        found = getattr(value, attribute, None)
    except Exception:  # noqa: BLE001 - a proxy may raise anything, and has no name then
        return None
    return found if type(found) is str else None


def _homes(module: str) -> Iterator[str]:
    """Yield the packages around a module, outer ones first, and it itself, without underscores at first."""
    parts = module.split(".")
    public = [part.lstrip("_") for part in parts]
    if module in _HOMES:
        yield _HOMES[module]
    if all(public):
        yield from (".".join(public[:length]) for length in range(1, len(parts) + 1))
    yield module


def _holds(module: str, name: str, value: Any) -> bool:
    loaded = sys.modules.get(module)
    if loaded is None:
        return False
    try:
        if name.partition(".")[0] in vars(loaded):
            found = attrgetter(name)(loaded)
        else:  # a module that imports what it exports when it is asked
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = attrgetter(name)(loaded)
    except (AttributeError, ImportError):
        return False
    return found is value or (isinstance(value, _METHODS) and type(found) is type(value) and found == value)
