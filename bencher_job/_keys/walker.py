"""Walk from a function to all code and data that it reaches."""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import itertools
import sys
import typing
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import (
    BuiltinFunctionType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
    SimpleNamespace,
)
from typing import Any, Final

from .._errors import UnkeyableArgument
from .._options import CodeScope
from .canonical import Raised, error_text
from .graph import ABSENT, Edge, Node, Table, Watch, is_empty, is_frozen
from .hashing import Encoder, digest
from .libraries import distributions_of
from .members import (
    COPIED_BY_WRAPS,
    OF_THE_MODULE,
    class_members,
    function_members,
    import_own,
    is_lazy,
    lazy_name,
    module_attribute,
    module_members,
    type_name,
)
from .names import (
    defines_own_code,
    exported_name,
    foreign_name,
    is_own_class,
    is_own_module,
    module_name,
    module_of,
    qualified_name,
)
from .objects import dict_of, options_of

_NO_INSTANCE: Final = frozenset({bool, bytes, complex, float, int, str, NoneType, FunctionType, ModuleType})
_CONTAINERS: Final = frozenset({"builtins", "collections", "functools", "types"})
"""Modules whose objects contain what the user has put into them."""


def classes_in(value: object) -> tuple[list[type], list[str]]:
    """Find the user's own classes of a value and of all that it contains, and the modules of its foreign classes.

    Inside an object of a foreign class only objects of the user's own classes count.
    """
    own: set[type] = set()
    modules: set[str] = set()
    seen: dict[int, object] = {}
    pending, behind = [value], list[object]()
    while pending or behind:
        rest = (
            pending or behind
        )  # the content of foreign objects comes last: own objects may contain it as well
        inner = rest.pop()
        kind = type(inner)
        if kind in _NO_INSTANCE or id(inner) in seen or issubclass(kind, type):
            continue
        seen[id(inner)] = inner
        if is_own_class(kind):
            own.add(kind)
        elif kind is BuiltinFunctionType or module_of(kind) not in _CONTAINERS:
            module = getattr(inner, "__module__", None) if kind is BuiltinFunctionType else module_of(kind)
            if isinstance(module, str):  # else it is a method of an object, which follows
                modules.update([module] if rest is pending else [])
                rest = behind
        rest.extend(gc.get_referents(inner))
    return sorted(own, key=qualified_name), sorted(modules)


_DEEPEST: Final = 3
_MOST: Final = 1000
# Wrappers of functions, with the attributes that hold what they wrap.
_AROUND: Final[dict[type, tuple[str, ...]]] = {
    MethodType: ("__func__", "__self__"),
    classmethod: ("__func__",),
    contextlib._AsyncGeneratorContextManager: ("func", "args", "kwds"),  # noqa: SLF001 - the public bases lack these
    contextlib._GeneratorContextManager: ("func", "args", "kwds"),  # noqa: SLF001
    functools.cached_property: ("func",),
    functools.partial: ("func", "args", "keywords"),
    functools.partialmethod: ("func", "args", "keywords"),
    functools.singledispatchmethod: ("func", "dispatcher"),
    property: ("fget", "fset", "fdel"),
    staticmethod: ("__func__",),
}
_CODE: Final = (FunctionType, type, *_AROUND)


def wrapped_in(value: Any) -> Any:
    """Return the `__wrapped__` of a decorator's object, or ABSENT."""
    if "__wrapped__" in dir(type(value)):  # a proxy forwards the attributes of the wrapped object
        return getattr(value, "__wrapped__", ABSENT)  # the slot may be empty
    return _dict_of(value).get("__wrapped__", ABSENT)


def items_in(value: Any) -> list[tuple[object, object]]:
    """List the items of a container with their keys; dicts and sets in a canonical order."""
    if isinstance(value, dict):
        if all(type(key) is str for key in value):
            return sorted(value.items())
        return sorted(value.items(), key=lambda item: _order(item[0]))
    if isinstance(value, list | tuple | deque):
        return list(enumerate(value))
    if isinstance(value, set | frozenset):
        return list(enumerate(sorted(value, key=_order)))
    return []


def attributes_in(value: Any) -> dict[str, object]:
    """Return the attributes of an object: all with slots for an own class, else only those that lead to own code."""
    kind = type(value)
    if isinstance(value, defaultdict) and not is_own_class(kind):
        return {"default_factory": value.default_factory}
    everything = _dict_of(value)
    if kind is SimpleNamespace:
        return everything
    if not is_own_class(kind):
        return {name: held for name, held in everything.items() if leads_to_own_code(held)}
    slots = {name: _slot(value, slot) for name, slot in _slots_of(kind)}
    return everything | {name: held for name, held in slots.items() if held is not ABSENT}


def watch_members(watch: Watch, value: Any) -> None:
    """Watch the members and attributes of an object."""
    if isinstance(value, dict | list | deque | set):
        watch.members(value)
    if isinstance(value, defaultdict):
        watch.attribute(value, "default_factory", value.default_factory)
    watch.members(_dict_of(value))
    for name, slot in _slots_of(type(value)):
        held = _slot(value, slot)
        if held is ABSENT:
            watch.condition(functools.partial(_is_empty_slot, value, slot))
        elif not name.startswith("__"):
            watch.attribute(value, name, held)


def leads_to_own_code(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether a value is the user's code, or contains some where libraries keep what they were given.

    In a dict or a list only members that are code themselves count, since libraries keep results there.
    """
    kind = type(value)
    if isinstance(value, type):
        return is_own_class(value)
    if isinstance(value, _CODE) or is_own_class(kind) or wrapped_in(value) is not ABSENT:
        return True
    if kind is tuple:
        return depth > 0 and any(leads_to_own_code(inner, depth - 1) for inner in value[:_MOST])
    if kind in {list, dict}:
        inside: Iterable[object] = value.values() if kind is dict else value
        return any(_is_own_code(inner) for inner in itertools.islice(tuple(inside), _MOST))
    if isinstance(value, ModuleType) or depth == 0:
        return False
    held = tuple(_dict_of(value).values())
    return any(leads_to_own_code(inner, depth - 1) for inner in held[:_MOST])


def _is_own_code(value: object) -> bool:
    if isinstance(value, FunctionType):
        return defines_own_code(value.__code__, value.__globals__.get("__name__"))
    return isinstance(value, type) and is_own_class(value)


def _dict_of(value: object) -> dict[str, object]:
    try:
        held = dict_of(value)
    except Exception:  # noqa: BLE001 - a proxy may raise anything
        return {}
    return held if type(held) is dict else {}


def _slots_of(kind: type) -> list[tuple[str, MemberDescriptorType]]:
    return [
        (name, slot)
        for cls in kind.__mro__
        if is_own_class(cls)
        for name, slot in vars(cls).items()
        if isinstance(slot, MemberDescriptorType)
    ]


def _slot(value: object, slot: MemberDescriptorType) -> object:
    try:
        held: object = slot.__get__(value)
    except AttributeError:
        return ABSENT
    return held


def _is_empty_slot(value: object, slot: MemberDescriptorType) -> bool:
    return _slot(value, slot) is ABSENT


def _order(key: object) -> bytes:
    try:
        return Encoder(code=lambda code, _path: qualified_name(code).encode()).digest(key)
    except UnkeyableArgument:
        return b""


_MembersOf = Callable[["Walker", Any, Node], Edge]

_TYPE_ALIAS: Final = getattr(typing, "TypeAliasType", None)  # of Python 3.12
_LRU_CACHE: Final = type(functools.lru_cache(len))


class Walker:
    """One walk over all that an object reaches.

    `refer` returns the edge to an object and queues new objects; `walk` works through the queue.
    """

    def __init__(self, scope: CodeScope = "deep", watch: Watch | None = None) -> None:
        self.watch = watch or Watch()
        self.nodes: list[Node] = []
        self.untracked: dict[str, str] = {}
        self.distributions: dict[str, str] = {}
        self.scope = scope
        self._follows = True
        self.if_read: dict[Node, frozenset[str]] = {}
        """Attributes that count only if some code reads an attribute of that name: those of functions, and those of
        classes that their own methods only write."""
        self._known: dict[int, Node] = {}
        self._values: dict[tuple[int, str], Edge] = {}
        self._queue: deque[tuple[_MembersOf, Any, Node]] = deque()
        self._open: set[int] = set()

    def walk(self, function: object, name: str) -> Edge:
        """Walk to everything that an object reaches, and return the edge to the object."""
        return self._walk(self.refer, function, name)

    def walk_global(self, value: object, name: str) -> Edge:
        """Walk to everything that a global value reaches, and return the edge to the value."""
        return self._walk(self.global_value, value, name)

    def _walk(self, begin: Callable[[Any, str], Edge], value: object, name: str) -> Edge:
        try:
            return self._walked(begin, value, name)
        except (UnkeyableArgument, MemoryError):
            raise
        except Raised as raised:
            error: Exception = raised.error
        except RecursionError:
            reason = "what it reaches is nested deeper than Python's recursion limit"
            error = UnkeyableArgument(name, qualified_name(type(value)), reason)
        except Exception as met:
            reason = f"reading what it reaches raised {error_text(met)}"
            raise UnkeyableArgument(name, qualified_name(type(value)), reason) from met
        raise error

    def _walked(self, begin: Callable[[Any, str], Edge], value: object, name: str) -> Edge:
        self._follows = self.scope != "none"
        root = begin(value, name)
        self._follows = self.scope == "deep"
        while self._queue:
            members_of, obj, node = self._queue.popleft()
            node.content = members_of(self, obj, node)
            if not self._queue:
                self._walk_attributes_read()  # they may lead further
        return root

    def _walk_attributes_read(self) -> None:
        """Walk to the attributes in `if_read` whose names some code reads."""
        infos = [node.info for node in self.nodes if node.info is not None]
        attributes_read = frozenset(name for each in infos for name in each.uses.attributes_read)
        for node, names in self.if_read.items():
            owner: Any = node.origin
            for name in sorted(names & attributes_read):
                value = vars(owner).get(name, ABSENT)
                self.watch.lookup(vars(owner), name, value)
                self.global_value(value, f"{node.name}.{name}")

    def refer(self, value: Any, path: str) -> Edge:
        """Make the edge to a value; `path` names the value."""
        try:
            return self._refer(value, path)
        except (UnkeyableArgument, Raised, RecursionError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - its class may raise anything
            name = qualified_name(type(value))
            self.untracked[path] = name
            return ("not tracked", name)

    def _refer(self, value: Any, path: str) -> Edge:
        kind = type(value)
        edge: Edge
        if kind is FunctionType:
            edge = self._refer_function(value)
        elif issubclass(kind, type):
            edge = self._refer_class(value)
        elif issubclass(kind, ModuleType):
            edge = self._refer_module(value)
        elif (exported := exported_name(value)) is not None:
            edge = self.foreign(exported[1])
        elif kind in _AROUND:
            around = ((name, getattr(value, name)) for name in _AROUND[kind])
            edge = (kind.__name__, *(self.refer(inner, f"{path}.{name}") for name, inner in around))
        elif kind is _LRU_CACHE or getattr(kind, "_bencher_job_cached", False):
            edge = self.refer(value.__wrapped__, path)  # caching does not change what it does
        elif kind is _TYPE_ALIAS:
            edge = self._refer_alias(value, path)
        elif callable(value) and wrapped_in(value) is not ABSENT:
            edge = self._refer_wrapper(value, path)
        else:
            edge = self._refer_value(value, path)
        return edge

    def follow(self, value: Any, attributes: Iterable[str], name: str) -> Edge:
        """Follow a chain of attributes through the user's modules to its end, or to a function's attribute."""
        rest = list(attributes)
        makers: list[Edge] = []
        while issubclass(type(value), ModuleType) and rest:
            if not is_own_module(value):
                return self.foreign(".".join((value.__name__, *rest)))
            attribute = rest.pop(0)
            name = f"{module_name(value.__name__)}.{attribute}"
            if attribute in OF_THE_MODULE:
                return ("of the module", attribute)
            held = vars(value).get(attribute, ABSENT)
            if is_lazy(held):
                return self.lazy_import(held, rest, vars(value), attribute, name)
            found = module_attribute(value, attribute)
            held = vars(value).get(attribute, ABSENT)
            self.watch.lookup(vars(value), attribute, held)
            if held is ABSENT:
                makers += self._maker_of_attributes(value)
            if found is ABSENT:
                return ("missing", name, *makers)
            value = found
        edge = self.with_attribute(self.global_value(value, name), value, rest, name)
        return (edge, *makers) if makers else edge

    def lazy_import(
        self, lazy: Any, attributes: Iterable[str], namespace: dict[str, Any], key: str, name: str
    ) -> Edge:
        """Follow what a lazy import will bind, and attributes of it. A foreign module is not loaded."""
        self.watch.lookup(namespace, key, lazy)
        try:
            module = lazy_name(lazy)
            if "." not in module and import_own(module) is None:
                return self.foreign(".".join((module, *attributes)))
            value = lazy.resolve()
        except ImportError:
            return ("missing", name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the module may raise anything, and the function may expect it
            self.untracked[name] = type(error).__name__
            return ("missing", name)
        namespace[key] = value  # as Python does when the name is first read
        self.watch.lookup(namespace, key, value)
        return self.follow(value, attributes, name)

    def _maker_of_attributes(self, module: ModuleType) -> Iterator[Edge]:
        """Refer to the module's `__getattr__`, if it has one."""
        maker = vars(module).get("__getattr__", ABSENT)
        self.watch.lookup(vars(module), "__getattr__", maker)
        if maker is not ABSENT:
            yield self.global_value(maker, f"{module_name(module.__name__)}.__getattr__")

    def with_attribute(self, edge: Edge, value: Any, attributes: list[str], name: str) -> Edge:
        """Add to the edge of a function the attribute that is read from it."""
        while getattr(type(value), "_bencher_job_cached", False):
            value = value.__wrapped__
            attributes = attributes[attributes[:1] == ["__wrapped__"] :]
        if type(value) is not FunctionType or not attributes or hasattr(FunctionType, attributes[0]):
            return edge
        attribute = attributes[0]
        found = vars(value).get(attribute, ABSENT)
        self.watch.lookup(vars(value), attribute, found)
        return edge if found is ABSENT else (edge, self.global_value(found, f"{name}.{attribute}"))

    def _refer_function(self, function: FunctionType) -> Edge:
        module = function.__globals__.get("__name__")
        name = f"{module_name(module or module_of(function))}.{function.__code__.co_qualname}"
        if not defines_own_code(function.__code__, module):
            name = foreign_name(function)
            return (*self.foreign(name), *self._refer_decorated(function, name))
        return self._node(function, name, function_members)

    def _refer_decorated(self, function: FunctionType, name: str) -> tuple[Edge, ...]:
        """Follow a foreign function to the user's code that it decorates, and to its settings."""
        if id(function) in self._open:
            return ()
        self._open.add(id(function))
        try:
            inner = tuple(self.refer(code, name) for code in _code_in(function))
            made_with = tuple((key, self.refer(value, name)) for key, value in _settings_of(function))
            return (*inner, *made_with, *self._refer_registry(function, name))
        finally:
            self._open.discard(id(function))

    def _refer_registry(self, function: FunctionType, name: str) -> tuple[Edge, ...]:
        """Follow the implementations of a `functools.singledispatch`."""
        registry = vars(function).get("registry")
        if not isinstance(registry, Mapping):
            return ()
        self.watch.members(registry)
        classes = sorted(registry, key=type_name)
        return tuple((self.refer(cls, name), self.refer(registry[cls], name)) for cls in classes)

    def _refer_class(self, cls: type) -> Edge:
        if not is_own_class(cls):
            return self.foreign(foreign_name(cls))
        return self._node(cls, type_name(cls), class_members)

    def _refer_module(self, module: ModuleType) -> Edge:
        """Refer to a module as a whole, which counts with all that it defines and imports."""
        name = module_name(module.__name__)
        if not is_own_module(module):
            return self.foreign(name)
        return self._node(module, name, module_members)

    def _refer_wrapper(self, wrapper: Any, path: str) -> Edge:
        """Refer to a decorator's callable object: to the wrapped object and to the decorator's state."""
        if id(wrapper) in self._open:
            return ("cycle",)
        self._open.add(id(wrapper))
        try:
            return ("wrapper", *self._parts_of_wrapper(wrapper, path), self.refer(wrapped_in(wrapper), path))
        finally:
            self._open.discard(id(wrapper))

    def _parts_of_wrapper(self, wrapper: Any, path: str) -> Iterator[Edge]:
        kind = type(wrapper)
        if is_own_class(kind):
            watch_members(self.watch, wrapper)
            held = sorted(attributes_in(wrapper).items())
            yield self.refer(kind, path)
            yield self._refer_items(((key, item) for key, item in held if key not in COPIED_BY_WRAPS), path)
        else:
            yield self.foreign(type_name(kind))
        for name in ("_self_wrapper", "_self_enabled"):  # wrapt's
            if (around := getattr(wrapper, name, None)) is not None:
                yield self.refer(around, path)
        if (options := options_of(wrapper)) is not None:
            yield digest(options, path)

    def _refer_alias(self, alias: Any, path: str) -> Edge:
        """Refer to the value of `type A = ...`, which Python evaluates when it is read."""
        try:
            meant = alias.__value__
        except (AttributeError, NameError):
            return ("alias", str(alias.__name__))
        return ("alias", str(alias.__name__), self.refer(meant, path))

    def foreign(self, name: str) -> tuple[Edge, ...]:
        """Refer to foreign code by its name, and note the version of its distribution."""
        self.distributions.update(distributions_of(name))
        return ("foreign", name)

    def _node(self, obj: Any, name: str, members_of: _MembersOf) -> Node:
        node = self._known.get(id(obj))
        if node is None:
            node = self._known[id(obj)] = Node(name, obj)
            self.nodes.append(node)
            if self._follows:
                self._queue.append((members_of, obj, node))
        return node

    def global_value(self, value: Any, name: str) -> Edge:
        """Refer to a global value, which gets its own entry in the manifest."""
        edge = self._values.get((id(value), name))
        if edge is None:
            edge = self.refer(value, name)
            if not isinstance(edge, Node) and not (isinstance(edge, tuple) and edge[0] == "foreign"):
                edge = Node(name, value, content=("value", edge))
                self.nodes.append(edge)
            self._values[id(value), name] = edge
        return edge

    def _refer_value(self, value: Any, path: str) -> Edge:
        table = Table(value, path)

        def collect(obj: Any, _path: str) -> bytes:
            if id(obj) not in table.code:
                table.code[id(obj)] = self.refer(obj, path)
            return b""

        try:
            self.watch.content(
                value, path
            )  # first, so that a change during the digest is noticed at the next check
            encoded = Encoder(code=collect).digest(value, path)
        except UnkeyableArgument as refusal:
            return self._refer_refused(value, path, refusal)
        except (RecursionError, MemoryError):
            raise
        except Exception as error:  # the error of a `__job_key__` reaches the caller
            raise Raised(error) from error
        own, modules = classes_in(value)
        for module in modules:
            self.foreign(module)
        return ("data", table if table.code else encoded, *(self.refer(cls, path) for cls in own))

    def _refer_refused(self, value: Any, path: str, refusal: UnkeyableArgument) -> Edge:
        """Refer to the members of a value that has no key as a whole, so that a lock hides nothing but itself."""
        kind = type(value)
        if id(value) in self._open:
            return ("cycle",)
        own = (self.refer(kind, path),) if is_own_class(kind) else ()
        if not own:
            self.foreign(type_name(kind))
        items, attributes = items_in(value), attributes_in(value)
        watch_members(self.watch, value)
        self._open.add(id(value))
        try:
            members = self._refer_items(items, path), self._refer_items(sorted(attributes.items()), path)
        finally:
            self._open.discard(id(value))
        if not any(name.startswith(path) for name in self.untracked):
            self.untracked[path] = refusal.type_name
        return ("not tracked" if members == ((), ()) else "items", type_name(kind), *own, *members)

    def _refer_items(self, items: Iterable[tuple[object, object]], path: str) -> Edge:
        return tuple(
            (
                str(key) if type(key) in {int, str} else self.refer(key, path),
                type_name(type(key)),
                self.refer(item, f"{path}[{_shown(key)}]"),
            )
            for key, item in items
        )


def _shown(key: object) -> str:
    return repr(key) if type(key) in {bool, bytes, float, int, str} else f"<{type_name(type(key))}>"


def _code_in(function: FunctionType) -> list[Any]:
    """List the closure variables of a decorator's function that lead to own code."""
    inner = [cell.cell_contents for cell in function.__closure__ or () if not is_empty(cell)]
    inner += [vars(function)[name] for name in ("__wrapped__",) if name in vars(function)]
    return [value for value in inner if leads_to_own_code(value)]


def _settings_of(function: FunctionType) -> list[tuple[str, Any]]:
    """List the constants that a function made by a library's function encloses; they tell it from others of its name.

    A function that the library exports needs none: its name is enough. Variables that it changes, and mutable values,
    are its state and don't count.
    """
    module = str(function.__globals__.get("__name__")).partition(".")[0]
    if module in sys.stdlib_module_names or exported_name(function) is not None:
        return []
    code = function.__code__
    changed = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_DEREF"}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    held = {name: cell.cell_contents for name, cell in cells if name not in changed and not is_empty(cell)}
    defaults = function.__defaults__ or ()
    held |= zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True)
    held |= function.__kwdefaults__ or {}
    return sorted((name, value) for name, value in held.items() if _is_constant(value))


def _is_constant(value: Any) -> bool:
    if type(value) in {tuple, frozenset}:
        return all(map(_is_constant, value))
    return is_frozen(value) and (type(value) is not BuiltinFunctionType or exported_name(value) is not None)
