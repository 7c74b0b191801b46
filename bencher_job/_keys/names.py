"""Name modules, classes and functions, and tell the user's own from those of libraries and Python.

A script is called `__main__` where it is run and by its own name where it is imported. Keys use the latter, since its
classes and functions are the same.

    pathlib._local.Path -> pathlib.Path, _io.open -> io.open, random.Random.choice of a hidden object -> random.choice

Modules inside a library move between versions; the names that programs import stay.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import operator
import os
import site
import sys
import sysconfig
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final, TypeVar

from .._context import CURRENT, call_in

T = TypeVar("T")

MAIN_MODULES: Final = frozenset({"__main__", "__mp_main__"})
_adopted: list[str] = []
_NAME_OF_CLASS: Final = type.__dict__["__qualname__"].__get__  # no metaclass can override these
_MODULE_OF_CLASS: Final = type.__dict__["__module__"].__get__


def main_name() -> str:
    """Return the module name of the running program; `__main__` if it has none, as in a notebook.

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
    """Use `name` for `__main__` in this process, which is a worker of that program."""
    _adopted[:] = [name]


def module_name(module: object) -> str:
    """Return the name of a module; `__main__` is replaced by the program's name."""
    if not isinstance(module, str):  # as of a module that somebody has renamed
        return ""
    return main_name() if module in MAIN_MODULES else module


def words(text: str) -> frozenset[str]:
    """Return the set of the words in a text."""
    return frozenset(text.split())


def is_in(module: str, names: Collection[str]) -> bool:
    """Whether a module has one of these names, or is in a package that has.

    >>> is_in("json.decoder", {"json"}), is_in("json5", {"json"})
    (True, False)
    """
    return any(f"{module}.".startswith(f"{name}.") for name in names)


def module_of(obj: Any) -> str:
    """Return the `__module__` of a class or a function; empty if it is not a str.

    >>> module_of(functools.partial), module_of(type("Nowhere", (), {"__module__": None}))
    ('functools', '')
    """
    try:
        module = _MODULE_OF_CLASS(obj) if issubclass(type(obj), type) else obj.__module__
    except AttributeError:
        return ""
    return module if type(module) is str else ""


def qualified_name(obj: Any) -> str:
    """Return module and qualified name of a class or a function, `collections.Counter`; a builtin's bare name.

    A partial has the name of its function, any other object the name of its class.
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


_arrived: Final[weakref.WeakValueDictionary[str, type]] = weakref.WeakValueDictionary()
"""The classes of the submitter's `__main__` that have come here by value, by qualified name; the latest of each."""


def note_arrival(cls: type) -> None:
    """Register a class that was pickled by value, so that `locate` finds it."""
    if cls.__module__ in MAIN_MODULES:
        _arrived[cls.__qualname__] = cls


def is_imported_copy(function: object) -> bool:
    """Whether a function is of the second copy of the program that runs: the one that `import` makes."""
    while isinstance(function, functools.partial):
        function = function.func
    module = module_of(function)
    return module not in MAIN_MODULES and module == main_name()


def load_for(function: object, load: Callable[[], T]) -> T:
    """Unpickle something for a function. If it is of the imported copy of the program, `locate` prefers that copy."""
    current, by_imported_copy = CURRENT.get(), is_imported_copy(function)
    if current.by_imported_copy == by_imported_copy:
        return load()
    return call_in(current._replace(by_imported_copy=by_imported_copy), load)


def locate(module: str, name: str) -> Any:
    """Find a class or a function that a stored value names; what the program that runs defines is its own.

    Raises:
        ImportError: when there is no such module.
        AttributeError: when it has no such name.

    >>> locate("collections", "Counter.update")
    <function Counter.update at ...>
    """
    find = operator.attrgetter(name)
    if module == main_name() and not CURRENT.get().by_imported_copy:
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


_IN_C: Final = WrapperDescriptorType | MethodDescriptorType
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_OURSELVES: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def is_own_module(module: ModuleType) -> bool:
    """Whether the user wrote this module; a module without a file, as in a notebook, is the user's."""
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.origin in {"built-in", "frozen"}:
        return False
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return is_own_file(file)
    paths = getattr(module, "__path__", None)
    return all(map(is_own_file, paths)) if paths else module.__name__ not in sys.builtin_module_names


def is_own_name(name: str | None) -> bool:
    """Whether the user wrote the module of this name; an unknown module and an adopted program are the user's."""
    if _adopted and name in MAIN_MODULES:  # `__main__` of a worker may be an engine's own script
        return True
    module = sys.modules.get(name or "")
    return name != "builtins" and (module is None or is_own_module(module))


def is_own_class(cls: type) -> bool:
    """Whether the user wrote this class in Python; `types.new_class` makes classes whose module is `types`."""
    module = module_of(cls)
    if module == "types" and vars(sys.modules["types"]).get(cls.__name__) is not cls:
        return True
    if not module:  # for example a class that a library made from a name
        methods = (value for value in vars(cls).values() if isinstance(value, FunctionType))
        return any(
            defines_own_code(method.__code__, method.__globals__.get("__name__")) for method in methods
        )
    return is_own_name(module) and not any(
        isinstance(attribute, _IN_C) and attribute.__objclass__ is cls for attribute in vars(cls).values()
    )


def defines_own_code(code: CodeType, module: str | None) -> bool:
    """Whether the user wrote a code object; without a file its module decides."""
    filename = code.co_filename
    if filename.startswith("<frozen "):
        return False
    return is_own_name(module) if filename.startswith("<") else is_own_file(filename)


def site_folder(file: str) -> str | None:
    """Return the folder of installed distributions that contains a file; None without one, and for our own files."""
    if file.startswith(_OURSELVES):
        return None
    parts = file.split(os.sep)
    positions = [position for position, part in enumerate(parts[:-1]) if part in _INSTALLED]
    return os.sep.join(parts[: positions[-1] + 1]) if positions else None


@functools.lru_cache(maxsize=4096)
def is_own_file(file: str | None) -> bool:
    """Whether the user wrote a file: it is neither installed nor in the standard library."""
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


_METHODS: Final = MethodType | BuiltinFunctionType
_HOMES: Final = {
    "genericpath": "os.path",
    "nt": "os",
    "ntpath": "os.path",
    "posix": "os",
    "posixpath": "os.path",
}
"""Modules of the standard library that are imported under another name."""
_RENAMED: Final = {
    "_thread.allocate_lock": "threading.Lock",
    "_thread.lock": "threading.Lock",
    "nt._path_normpath": "os.path.normpath",
    "posix._path_normpath": "os.path.normpath",
    "posix._path_splitroot_ex": "os.path.splitroot",
    "re.PatternError": "re.error",
}


def exported_name(value: Any) -> tuple[str, str] | None:
    """Return a foreign module that exports an object and the shortest such name; None if no module does.

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
    """Return the name of a foreign function or class."""
    exported = exported_name(value)
    if exported is not None:
        return exported[1]
    module = module_of(value)
    name = value.__qualname__
    if isinstance(value, FunctionType):  # `wraps` copies the name of the wrapped function
        module, name = str(value.__globals__.get("__name__") or module), value.__code__.co_qualname
    return f"{module_name(module)}.{name}"


def holder_of(value: object, name: str, known: Iterable[str] = ()) -> str | None:
    """Find a loaded module that holds an object under a name: a known one, or else preferably a compiled one.

    Python modules that import the object differ between processes.
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
    except Exception:  # noqa: BLE001 - a proxy may raise anything
        return None
    return found if type(found) is str else None


def _homes(module: str) -> Iterator[str]:
    """Yield the packages around a module, outer ones first, then the module; first without leading underscores."""
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
        else:  # a module with lazy imports
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = attrgetter(name)(loaded)
    except (AttributeError, ImportError):
        return False
    return found is value or (isinstance(value, _METHODS) and type(found) is type(value) and found == value)
