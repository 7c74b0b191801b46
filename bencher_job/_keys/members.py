"""What a function, a class or a module refers to."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, Flag
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from .code import Facts, facts_of
from .graph import ABSENT, Edge, Part
from .names import (
    defines_own_code,
    exported_name,
    foreign_name,
    is_own_file,
    is_own_module,
    module_name,
    module_of,
)

if TYPE_CHECKING:
    from .code import Import
    from .walker import Survey

__all__ = [
    "COPIED_BY_WRAPS",
    "OF_THE_MODULE",
    "attributes_of",
    "attributes_of_function",
    "import_own",
    "is_lazy",
    "lazy_name",
    "module_attribute",
    "name_libraries",
    "scan_class",
    "scan_function",
    "scan_module",
    "type_name",
]


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


_MADE_BY_PYTHON: Final = frozenset(
    {
        "__abstractmethods__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__attrs_attrs__",
        "__attrs_own_setattr__",
        "__attrs_props__",
        "__callable_proto_members_only__",
        "__class_vars__",
        "__classdictcell__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__mutable_keys__",
        "__non_callable_proto_members__",
        "__orig_bases__",
        "__parameters__",
        "__private_attributes__",
        "__protocol_attrs__",
        "__pydantic_fields__",
        "__qualname__",
        "__readonly_keys__",
        "__signature__",
        "__slotnames__",
        "__static_attributes__",
        "__type_params__",
        "__weakref__",
        "_abc_impl",
        "_is_protocol",
        "_is_runtime_protocol",
        "model_fields",
    }
)
_FIELD: Final = (
    "init",
    "repr",
    "hash",
    "compare",
    "eq",
    "order",
    "kw_only",
    "alias",
    "validator",
    "converter",
    "metadata",
)
_FIELD_OF_ATTRS: Final = ("eq_key", "order_key", "on_setattr")
_ADDED: Final = frozenset({"__getstate__", "__replace__", "__setstate__"})
_GENERATORS: Final = frozenset({"collections", "dataclasses", "enum", "typing"})
_MISSING: Final = type(dataclasses.MISSING)  # whose one object is another after a pickle round trip
_PARAMETERS: Final = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")


def attributes_of(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a class by name, generated ones as what they were generated from."""
    own = vars(cls)
    if issubclass(cls, Enum):
        yield "members", tuple((name, member.value) for name, member in cls.__members__.items())
    if "__dataclass_params__" in own:
        parameters = own["__dataclass_params__"]
        yield "parameters", tuple(getattr(parameters, name) for name in _PARAMETERS)
        yield "fields", tuple(_field(field) for field in dataclasses.fields(cls))
    if "__attrs_attrs__" in own:
        yield "fields", tuple(_field(field) for field in own["__attrs_attrs__"])
    if "__pydantic_fields__" in own or "model_fields" in own:
        fields = own.get("__pydantic_fields__") or own["model_fields"]
        yield "fields", tuple(fields.items())
    for name, value in sorted(own.items()):
        if name in _MADE_BY_PYTHON or name.startswith("__pydantic_") or _is_generated(name, value):
            continue
        if name == "__match_args__" and value == _match_arguments(cls):
            continue
        if issubclass(cls, Enum) and (name in cls.__members__ or _is_made_by_enum(cls, name, value)):
            continue
        if not isinstance(value, GetSetDescriptorType | MemberDescriptorType):  # `__slots__` names these
            yield name, value


def _match_arguments(cls: type) -> tuple[str, ...]:
    """What dataclasses, attrs and namedtuple make `__match_args__` of."""
    fields: Any = vars(cls).get("__attrs_attrs__")
    if "__dataclass_fields__" in vars(cls):
        fields = dataclasses.fields(cls)
    if fields is None:
        return tuple(vars(cls).get("_fields", ()))
    return tuple(field.name for field in fields if field.init and not field.kw_only)


def _field(field: Any) -> tuple[Any, ...]:
    default = field.default
    factory = getattr(field, "default_factory", None)
    if isinstance(default, _MISSING):
        default = "required"
    if isinstance(factory, _MISSING):
        factory = None
    metadata = tuple((name, _plain(getattr(field, name, None))) for name in _FIELD)
    metadata += tuple(
        (name, value) for name in _FIELD_OF_ATTRS if (value := getattr(field, name, None)) is not None
    )
    return field.name, default, factory, metadata


def _plain(value: Any) -> Any:
    return dict(value) if type(value).__name__ in {"frozendict", "mappingproxy"} else value


def _is_generated(name: str, value: Any) -> bool:
    """Whether dataclasses, attrs, namedtuple or typing wrote a method."""
    function = getattr(value, "__wrapped__", getattr(value, "__func__", value))
    if type(function) is not FunctionType:
        return type(value).__name__ == "_tuplegetter"
    module = str(function.__globals__.get("__name__"))
    return (
        function.__code__.co_qualname.startswith("__create_fn__.")
        or function.__code__.co_filename.startswith("<attrs generated")
        or module.startswith("namedtuple_")
        or (name.startswith("_") and module in _GENERATORS)
        or (name in _ADDED and not defines_own_code(function.__code__, module))
    )


def _is_made_by_enum(cls: type[Enum], name: str, value: Any) -> bool:
    """Whether `enum` put an attribute into a class: one of its own, or of its base's for all classes."""
    if not re.fullmatch(r"_.*_", name):
        return False
    first = next(base for base in cls.__mro__[1:] if issubclass(base, Enum))
    if name == "_boundary_":
        return not issubclass(cls, Flag) or getattr(first, name, None) is value
    function = getattr(value, "__func__", value)
    if type(function) is FunctionType:
        module = str(function.__globals__.get("__name__"))
        return not defines_own_code(function.__code__, module)
    if not name.startswith("__") or not callable(value):
        return not isinstance(value, property)
    return name in {"__new__", "__new_member__"} or getattr(first, name, None) is value


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
