"""Find the members of functions, classes and modules, and make the edges to them."""

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

from .code import CLOUDPICKLED, CodeInfo, code_info_of
from .graph import ABSENT, Edge, Node
from .names import (
    defines_own_code,
    exported_name,
    foreign_name,
    is_own_file,
    is_own_module,
    module_name,
    module_of,
    words,
)

if TYPE_CHECKING:
    from .code import Import
    from .walker import Walker


_LAZY: Final = getattr(types, "LazyImportType", ())


def is_lazy(value: object) -> bool:
    """Whether a value is the placeholder that `lazy import` of Python 3.15 binds until the name is first read."""
    return type(value) is _LAZY


def lazy_name(lazy: object) -> str:
    """Return the name that a lazy import will import.

    A name without a dot is the module that it binds. A name with dots may be a module, an attribute of a module, or a
    submodule of the package that it binds.
    """
    return repr(lazy).removeprefix("<lazy_import '").removesuffix("'>")


def module_attribute(module: ModuleType, attribute: str) -> Any:
    """Return an attribute of a module, importing a submodule if necessary; ABSENT if there is none."""
    try:
        return getattr(module, attribute)
    except AttributeError:
        if not hasattr(module, "__path__"):
            return ABSENT
    try:
        return importlib.import_module(f"{module.__name__}.{attribute}")
    except (Exception, SystemExit):  # noqa: BLE001 - a function that imports the submodule fails in the same way
        return ABSENT


def import_own(name: str) -> ModuleType | None:
    """Import a module if it is the user's own, else return None; a foreign module need not be loaded."""
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


_MADE_BY_PYTHON: Final = words(
    """
    __abstractmethods__ __annotate__ __annotate_func__ __annotations__ __annotations_cache__ __attrs_attrs__
    __attrs_own_setattr__ __attrs_props__ __callable_proto_members_only__ __class_vars__ __classdictcell__
    __dataclass_fields__ __dataclass_params__ __dict__ __doc__ __firstlineno__ __module__ __mutable_keys__
    __non_callable_proto_members__ __orig_bases__ __parameters__ __private_attributes__ __protocol_attrs__
    __pydantic_fields__ __qualname__ __readonly_keys__ __signature__ __slotnames__ __static_attributes__
    __type_params__ __weakref__ _abc_impl _is_protocol _is_runtime_protocol model_fields
    """
)
_FIELD: Final = (
    *("init", "repr", "hash", "compare", "eq", "order", "kw_only"),
    *("alias", "validator", "converter", "metadata"),
)
_FIELD_OF_ATTRS: Final = ("eq_key", "order_key", "on_setattr")
_ADDED: Final = frozenset({"__getstate__", "__replace__", "__setstate__"})
_GENERATORS: Final = frozenset({"collections", "dataclasses", "enum", "typing"})
_MISSING: Final = type(dataclasses.MISSING)  # an instance is not the same object after a pickle round trip
_PARAMETERS: Final = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")


def attributes_of(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a class by name; generated ones are replaced by their inputs."""
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
    """Return the `__match_args__` that dataclasses, attrs or namedtuple generate."""
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
    """Whether `enum` added an attribute to a class, by itself or copied from the base."""
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


# These depend on where a module lies, which is not part of a key.
OF_THE_MODULE: Final = frozenset(
    f"__{name}__"
    for name in ("builtins", "cached", "doc", "file", "loader", "name", "package", "path", "spec")
)
COPIED_BY_WRAPS: Final = frozenset({*functools.WRAPPER_ASSIGNMENTS, "__type_params__", "__wrapped__"})
# What Python and the annotations of a module leave in its namespace.
_NO_MEMBERS: Final = OF_THE_MODULE | {
    f"__{name}__" for name in ("annotate", "annotate_func", "annotations", "conditional_annotations")
}
# Values of these types don't count if a function only writes to them: a list of calls, a counter.
_PLAIN: Final = frozenset({bool, bytearray, dict, float, int, list, set, str})


def attributes_of_function(function: FunctionType) -> list[str]:
    """List the names of a function's attributes, without those that `functools.wraps` sets."""
    return sorted(name for name in vars(function) if name not in COPIED_BY_WRAPS)


def function_members(walker: Walker, function: FunctionType, node: Node) -> Edge:
    """Make the edge to a function's defaults, wrapped function, closure variables, globals, and class of a method."""
    code = function.__code__
    info = code_info_of(code, function.__globals__)
    node.info = info
    walker.watch.attribute(function, "__code__", code)
    if code.co_argcount:
        walker.watch.attribute(function, "__defaults__", function.__defaults__)
    if code.co_kwonlyargcount:
        walker.watch.attribute(function, "__kwdefaults__", function.__kwdefaults__)
    defaults = function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount][-len(defaults) :] if defaults else ()
    keywords = function.__kwdefaults__ or {}
    for key, value in keywords.items():
        walker.watch.lookup(keywords, key, value)
    wrapped = vars(function).get("__wrapped__")
    walker.if_read[node] = frozenset(attributes_of_function(function))
    return (
        "function",
        info.digest,
        tuple((n, walker.refer(v, f"{node.name}({n})")) for n, v in zip(names, defaults, strict=True)),
        tuple((n, walker.refer(v, f"{node.name}({n})")) for n, v in sorted(keywords.items())),
        () if wrapped is None else walker.refer(wrapped, node.name),
        tuple(_cells_of(walker, function, info, node)),
        (*_globals_of(walker, function, info), *_owner_of(walker, function))
        if walker.scope == "deep"
        else (),
    )


def _cells_of(walker: Walker, function: FunctionType, info: CodeInfo, node: Node) -> Iterable[Edge]:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for chain in info.free_names.cells:
        cell = cells[chain[0]]
        try:
            value = cell.cell_contents
        except ValueError:
            value = ABSENT
        if chain[0] in info.uses.written_only and type(value) in _PLAIN:
            continue
        walker.watch.cell(cell)
        edge: Edge = ("missing",)
        if issubclass(type(value), ModuleType):
            edge = walker.follow(value, chain[1:], chain[0])
        elif value is not ABSENT:
            path = f"{node.name}({chain[0]})"
            edge = walker.with_attribute(walker.refer(value, path), value, list(chain[1:]), path)
        yield (".".join(chain), edge)


def _globals_of(walker: Walker, function: FunctionType, info: CodeInfo) -> Iterable[Edge]:
    namespace = function.__globals__
    module = module_name(namespace.get("__name__") or "")
    for chain in info.free_names.globals:
        name = chain[0]
        value = namespace.get(name, ABSENT)
        if name in OF_THE_MODULE:
            yield ("of the module", name)
            continue
        if name in info.uses.written_only and type(value) in _PLAIN:
            continue
        if is_lazy(value):
            yield (".".join(chain), walker.lazy_import(value, chain[1:], namespace, name, f"{module}.{name}"))
            continue
        walker.watch.lookup(namespace, name, value)
        if value is not ABSENT:
            yield (".".join(chain), walker.follow(value, chain[1:], f"{module}.{name}"))
            continue
        builtins = namespace.get("__builtins__", {})
        builtins = vars(builtins) if isinstance(builtins, ModuleType) else builtins
        value = builtins.get(name, ABSENT)
        walker.watch.lookup(builtins, name, value)
        yield (name, ("missing",) if value is ABSENT else walker.refer(value, f"builtins.{name}"))
    for imported in info.free_names.imports:
        yield (repr(imported), _import_of(walker, imported, namespace))


def name_libraries(walker: Walker, function: FunctionType) -> None:
    """Add the libraries that a function itself names, even if its code is not followed."""
    namespace = function.__globals__
    free_names = code_info_of(function.__code__, namespace).free_names
    for chain in free_names.globals:
        value = namespace.get(chain[0], ABSENT)
        if value is ABSENT or chain[0] in OF_THE_MODULE:
            continue
        walker.watch.lookup(namespace, chain[0], value)
        if is_lazy(value):
            walker.foreign(".".join((lazy_name(value), *chain[1:])))
        elif isinstance(value, ModuleType):
            walker.foreign(".".join((value.__name__, *chain[1:])))
        elif isinstance(value, FunctionType | type):
            walker.foreign(foreign_name(value))
        elif (exported := exported_name(value)) is not None:
            walker.foreign(exported[1])
    for imported in free_names.imports:
        if not imported.level:
            walker.foreign(".".join((imported.module, *imported.attributes)))


def _owner_of(walker: Walker, method: FunctionType) -> Iterable[Edge]:
    """Refer to the class of a method, since `self` gives access to the other methods."""
    *owners, name = method.__code__.co_qualname.split(".")
    if not owners or "<locals>" in owners:
        return
    namespace: Mapping[str, Any] = method.__globals__
    if method.__code__.co_filename == CLOUDPICKLED and owners[0] not in namespace:
        # cloudpickle has replaced the method by a copy, whose globals are only those that it names
        namespace = vars(sys.modules.get(str(namespace.get("__name__")), method))
    for owner in owners:
        cls = namespace.get(owner, ABSENT)
        walker.watch.lookup(namespace, owner, cls)
        if not isinstance(cls, type):
            return
        namespace = vars(cls)
    if name in namespace:
        yield ("owner", walker.refer(cls, name))


def _import_of(walker: Walker, imported: Import, namespace: dict[str, Any]) -> Edge:
    """Follow an import inside a function: import the user's own module, name a foreign one."""
    name = "." * imported.level + imported.module
    try:
        if imported.level:
            name = importlib.util.resolve_name(name, str(namespace.get("__package__") or ""))
        module = import_own(name)
    except ImportError:
        walker.watch.lookup(sys.modules, name, sys.modules.get(name, ABSENT))
        return ("missing", name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the module may raise anything, and the function may expect it
        walker.untracked[name] = type(error).__name__
        return ("missing", name)
    if module is None:
        return walker.foreign(".".join((name, *imported.attributes)))
    walker.watch.lookup(sys.modules, name, module)  # if it is removed, the function imports it again
    return walker.follow(module, imported.attributes, name)


def class_members(walker: Walker, cls: type, node: Node) -> Edge:
    """Make the edge to a class's bases, metaclass and attributes."""
    if_read = _only_written(cls)
    walker.watch.members(vars(cls), if_read)
    walker.watch.attribute(cls, "__bases__", cls.__bases__)
    walker.if_read[node] = if_read
    meta = type(cls)
    return (
        "class",
        tuple(walker.refer(base, node.name) for base in cls.__bases__),
        () if meta is type else walker.refer(meta, node.name),
        tuple(
            (name, walker.refer(value, f"{node.name}.{name}"))
            for name, value in attributes_of(cls)
            if name not in if_read
        ),
    )


def _only_written(cls: type) -> frozenset[str]:
    """Find the attributes of a class that its methods write and never read, such as a count of its objects."""
    methods = [getattr(value, "__func__", value) for value in vars(cls).values()]
    methods += [value.fget for value in vars(cls).values() if isinstance(value, property)]
    infos = [code_info_of(each.__code__, each.__globals__) for each in methods if type(each) is FunctionType]
    written = {name for each in infos for name in each.uses.attributes_written}
    attributes_read = {name for each in infos for name in each.uses.attributes_read}
    return frozenset(name for name in written - attributes_read if type(vars(cls).get(name)) in _PLAIN)


def module_members(walker: Walker, module: ModuleType, node: Node) -> Edge:
    """Make the edge to everything in a module's namespace."""
    walker.watch.members(vars(module))
    members = vars(module).copy()
    names = sorted(name for name in members if name not in _NO_MEMBERS)
    return ("module", tuple((name, _member(walker, module, name, members[name], node)) for name in names))


def _member(walker: Walker, module: ModuleType, key: str, value: Any, node: Node) -> Edge:
    """Refer to a member of a module, which may not be used at all."""
    name = f"{node.name}.{key}"
    try:
        if is_lazy(value):
            return walker.lazy_import(value, (), vars(module), key, name)
        return walker.global_value(value, name)
    except Exception as error:  # noqa: BLE001 - an unused object may raise anything when it is read
        walker.untracked[name] = type(error).__name__
        return ("not tracked", type_name(type(value)))


def type_name(cls: type) -> str:
    """Return module and qualified name of a class; `__main__` is replaced by the program's name."""
    return f"{module_name(module_of(cls))}.{cls.__qualname__}"
