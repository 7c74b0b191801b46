"""Knows what there is in a function, a class or a module that leads on: names, defaults, closures, members."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from .classes import attributes_of
from .exports import exported_name, foreign_name
from .facts import Facts, facts_of
from .modules import import_own, is_lazy, lazy_name
from .names import module_name, module_of
from .parts import Edge, Part
from .watch import ABSENT

if TYPE_CHECKING:
    from .reach import Survey
    from .reads import Import

__all__ = [
    "COPIED_BY_WRAPS",
    "OF_THE_MODULE",
    "attributes_of_function",
    "name_libraries",
    "scan_class",
    "scan_function",
    "scan_module",
    "type_name",
]

# What these mean follows from where a module lies, which is no part of a key.
OF_THE_MODULE: Final = frozenset(
    f"__{name}__"
    for name in ("builtins", "cached", "doc", "file", "loader", "name", "package", "path", "spec")
)
COPIED_BY_WRAPS: Final = frozenset({*functools.WRAPPER_ASSIGNMENTS, "__type_params__", "__wrapped__"})
# What Python and the annotations of a module leave in its namespace.
_NO_MEMBERS: Final = OF_THE_MODULE | {
    f"__{name}__" for name in ("annotate", "annotate_func", "annotations", "conditional_annotations")
}
# Values of these, where they are only written to, are not read: a list of calls, a counter.
_PLAIN: Final = frozenset({bool, bytearray, dict, float, int, list, set, str})


def attributes_of_function(function: FunctionType) -> list[str]:
    """Name the attributes that a function was given, but for what `functools.wraps` gives it."""
    return sorted(name for name in vars(function) if name not in COPIED_BY_WRAPS)


def scan_function(survey: Survey, function: FunctionType, part: Part) -> Edge:
    """Give what a function leads to: defaults, what it wraps, closure variables, globals, the class of a method."""
    code = function.__code__
    facts = facts_of(code, function.__globals__)
    part.facts = facts
    survey.watch.attribute(function, "__code__", code)
    if code.co_argcount:
        survey.watch.attribute(function, "__defaults__", function.__defaults__)
    if code.co_kwonlyargcount:
        survey.watch.attribute(function, "__kwdefaults__", function.__kwdefaults__)
    defaults = function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount][-len(defaults) :] if defaults else ()
    keywords = function.__kwdefaults__ or {}
    for key, value in keywords.items():
        survey.watch.lookup(keywords, key, value)
    wrapped = vars(function).get("__wrapped__")
    survey.counted[part] = frozenset(attributes_of_function(function))
    return (
        "function",
        facts.digest,
        tuple((n, survey.refer(v, f"{part.name}({n})")) for n, v in zip(names, defaults, strict=True)),
        tuple((n, survey.refer(v, f"{part.name}({n})")) for n, v in sorted(keywords.items())),
        () if wrapped is None else survey.refer(wrapped, part.name),
        tuple(_cells_of(survey, function, facts, part)),
        (*_globals_of(survey, function, facts), *_owner_of(survey, function))
        if survey.scope == "deep"
        else (),
    )


def _cells_of(survey: Survey, function: FunctionType, facts: Facts, part: Part) -> Iterable[Edge]:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for chain in facts.reads.cells:
        cell = cells[chain[0]]
        try:
            value = cell.cell_contents
        except ValueError:
            value = ABSENT
        if chain[0] in facts.written_only and type(value) in _PLAIN:
            continue
        survey.watch.cell(cell)
        edge: Edge = ("missing",)
        if issubclass(type(value), ModuleType):
            edge = survey.follow(value, chain[1:], chain[0])
        elif value is not ABSENT:
            path = f"{part.name}({chain[0]})"
            edge = survey.with_attribute(survey.refer(value, path), value, list(chain[1:]), path)
        yield (".".join(chain), edge)


def _globals_of(survey: Survey, function: FunctionType, facts: Facts) -> Iterable[Edge]:
    namespace = function.__globals__
    module = module_name(namespace.get("__name__") or "")
    for chain in facts.reads.globals:
        name = chain[0]
        value = namespace.get(name, ABSENT)
        if name in OF_THE_MODULE:
            yield ("of the module", name)
            continue
        if name in facts.written_only and type(value) in _PLAIN:
            continue
        if is_lazy(value):
            yield (".".join(chain), survey.lazy_import(value, chain[1:], namespace, name, f"{module}.{name}"))
            continue
        survey.watch.lookup(namespace, name, value)
        if value is not ABSENT:
            yield (".".join(chain), survey.follow(value, chain[1:], f"{module}.{name}"))
            continue
        builtins = namespace.get("__builtins__", {})
        builtins = vars(builtins) if isinstance(builtins, ModuleType) else builtins
        value = builtins.get(name, ABSENT)
        survey.watch.lookup(builtins, name, value)
        yield (name, ("missing",) if value is ABSENT else survey.refer(value, f"builtins.{name}"))
    for imported in facts.reads.imports:
        yield (repr(imported), _import_of(survey, imported, namespace))


def name_libraries(survey: Survey, function: FunctionType) -> None:
    """Note the libraries that a function names itself, whether its code is followed or not."""
    namespace = function.__globals__
    reads = facts_of(function.__code__, namespace).reads
    for chain in reads.globals:
        value = namespace.get(chain[0], ABSENT)
        if value is ABSENT or chain[0] in OF_THE_MODULE:
            continue
        survey.watch.lookup(namespace, chain[0], value)
        if is_lazy(value):
            survey.foreign(".".join((lazy_name(value), *chain[1:])))
        elif isinstance(value, ModuleType):
            survey.foreign(".".join((value.__name__, *chain[1:])))
        elif isinstance(value, FunctionType | type):
            survey.foreign(foreign_name(value))
        elif (exported := exported_name(value)) is not None:
            survey.foreign(exported[1])
    for imported in reads.imports:
        if not imported.level:
            survey.foreign(".".join((imported.module, *imported.attributes)))


def _owner_of(survey: Survey, method: FunctionType) -> Iterable[Edge]:
    """Reach the class of a method, since `self` leads to all the others of its methods."""
    *owners, name = method.__code__.co_qualname.split(".")
    if not owners or "<locals>" in owners:
        return
    namespace: Mapping[str, Any] = method.__globals__
    for owner in owners:
        cls = namespace.get(owner, ABSENT)
        survey.watch.lookup(namespace, owner, cls)
        if not isinstance(cls, type):
            return
        namespace = vars(cls)
    if name in namespace:
        yield ("owner", survey.refer(cls, name))


def _import_of(survey: Survey, imported: Import, namespace: dict[str, Any]) -> Edge:
    """Follow an import inside a function: a module of the user's is imported for it, another named."""
    name = "." * imported.level + imported.module
    try:
        if imported.level:
            name = importlib.util.resolve_name(name, str(namespace.get("__package__") or ""))
        module = import_own(name)
    except ImportError:
        survey.watch.lookup(sys.modules, name, sys.modules.get(name, ABSENT))
        return ("missing", name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module may raise anything, and its function may expect it
        survey.untracked[name] = type(error).__name__
        return ("missing", name)
    if module is None:
        return survey.foreign(".".join((name, *imported.attributes)))
    survey.watch.lookup(sys.modules, name, module)  # who takes it out has it imported anew by the function
    return survey.follow(module, imported.attributes, name)


def scan_class(survey: Survey, cls: type, part: Part) -> Edge:
    """Give what a class leads to: bases, metaclass, attributes."""
    counted = _only_counted(cls)
    survey.watch.members(vars(cls), counted)
    survey.watch.attribute(cls, "__bases__", cls.__bases__)
    survey.counted[part] = counted
    meta = type(cls)
    return (
        "class",
        tuple(survey.refer(base, part.name) for base in cls.__bases__),
        () if meta is type else survey.refer(meta, part.name),
        tuple(
            (name, survey.refer(value, f"{part.name}.{name}"))
            for name, value in attributes_of(cls)
            if name not in counted
        ),
    )


def _only_counted(cls: type) -> frozenset[str]:
    """Find the attributes of a class that its methods change and never look at, as a number of its objects."""
    methods = [getattr(value, "__func__", value) for value in vars(cls).values()]
    methods += [value.fget for value in vars(cls).values() if isinstance(value, property)]
    facts = [facts_of(each.__code__, each.__globals__) for each in methods if type(each) is FunctionType]
    changed = {name for each in facts for name in each.counted}
    looked_at = {name for each in facts for name in each.looked_at}
    return frozenset(name for name in changed - looked_at if type(vars(cls).get(name)) in _PLAIN)


def scan_module(survey: Survey, module: ModuleType, part: Part) -> Edge:
    """Give what a module leads to, which is all that it holds."""
    survey.watch.members(vars(module))
    members = vars(module).copy()
    names = sorted(name for name in members if name not in _NO_MEMBERS)
    return ("module", tuple((name, _member(survey, module, name, members[name], part)) for name in names))


def _member(survey: Survey, module: ModuleType, key: str, value: Any, part: Part) -> Edge:
    """Reach a member of a module, of which nobody knows whether it is used."""
    name = f"{part.name}.{key}"
    try:
        if is_lazy(value):
            return survey.lazy_import(value, (), vars(module), key, name)
        return survey.global_value(value, name)
    except Exception as error:  # noqa: BLE001 - an object that nobody may use may raise anything when it is looked at
        survey.untracked[name] = type(error).__name__
        return ("not tracked", type_name(type(value)))


def type_name(cls: type) -> str:
    """Module and qualified name of a class, with the program that runs under its own name."""
    return f"{module_name(module_of(cls))}.{cls.__qualname__}"
