"""Knows what code and data a function reaches: it walks from name to name through the user's own code."""

from __future__ import annotations

import functools
import importlib.util
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

from .._errors import UnkeyableArgument
from .classes import attributes_of
from .facts import Facts, facts_of
from .hashing import Encoder
from .instances import own_classes_in
from .modules import import_own, module_attribute
from .names import module_name
from .parts import Edge, Part, Table
from .provenance import defines_own_code, distribution_of, is_own_class, is_own_module
from .watch import ABSENT, Watch, is_empty

if TYPE_CHECKING:
    from .reads import Import

__all__ = ["Survey"]

Scope = Literal["deep", "own", "none"]

# What these mean follows from where a module lies, which is no part of a key.
_OF_THE_MODULE: Final = frozenset(
    f"__{name}__"
    for name in ("builtins", "cached", "doc", "file", "loader", "name", "package", "path", "spec")
)
# What Python and the annotations of a module leave in its namespace.
_NO_MEMBERS: Final = _OF_THE_MODULE | {
    f"__{name}__" for name in ("annotate", "annotate_func", "annotations", "conditional_annotations")
}
_COPIED_BY_WRAPS: Final = frozenset({*functools.WRAPPER_ASSIGNMENTS, "__type_params__", "__wrapped__"})
# Values of these, where they are only written to, are not read: a list of calls, a counter.
_PLAIN: Final = frozenset({bool, bytearray, dict, float, int, list, set, str})
# What is around a function, and under which names it holds what it is around.
_AROUND: Final[dict[type, tuple[str, ...]]] = {
    MethodType: ("__func__", "__self__"),
    classmethod: ("__func__",),
    functools.cached_property: ("func",),
    functools.partial: ("func", "args", "keywords"),
    functools.partialmethod: ("func", "args", "keywords"),
    functools.singledispatchmethod: ("func", "dispatcher"),
    property: ("fget", "fset", "fdel"),
    staticmethod: ("__func__",),
}
_LRU_CACHE: Final = type(functools.lru_cache(len))


class Survey:
    """One walk over all that an object reaches.

    `refer` gives the edge that leads to an object and queues what is new; `walk` follows the queue.
    """

    def __init__(self, scope: Scope = "deep", watch: Watch | None = None) -> None:
        self.watch = watch or Watch()
        self.parts: list[Part] = []
        self.untracked: dict[str, str] = {}
        self.distributions: dict[str, str] = {}
        self._scope = scope
        self._follows = scope != "none"
        self._known: dict[int, Part] = {}
        self._values: dict[tuple[int, str], Edge] = {}
        self._queue: deque[tuple[Callable[[Any, Part], Edge], Any, Part]] = deque()
        self._open: set[int] = set()

    def walk(self, function: object, name: str) -> Edge:
        """Reach all that there is to reach from an object."""
        root = self.refer(function, name)
        self._follows = self._scope == "deep"
        while self._queue:
            scan, obj, part = self._queue.popleft()
            part.content = scan(obj, part)
        return root

    def refer(self, value: Any, path: str) -> Edge:
        """Make the edge that leads to a value; `path` says where it stands."""
        kind = type(value)
        edge: Edge
        if kind is FunctionType:
            edge = self._refer_function(value)
        elif issubclass(kind, type):
            edge = self._refer_class(value)
        elif issubclass(kind, ModuleType):
            edge = self._refer_module(value)
        elif kind in _AROUND:
            around = ((name, getattr(value, name)) for name in _AROUND[kind])
            edge = (kind.__name__, *(self.refer(inner, f"{path}.{name}") for name, inner in around))
        elif kind is _LRU_CACHE or getattr(kind, "_bencher_job_cached", False):
            edge = self.refer(value.__wrapped__, path)  # remembering changes nothing
        elif callable(value) and _wrapped(value) is not ABSENT:
            edge = self._refer_wrapper(value, path)
        else:
            edge = self._refer_value(value, path)
        return edge

    def distribution(self, module: str) -> tuple[str, str] | None:
        """Find the distribution that a module belongs to, and show it with its version in the manifest."""
        found = distribution_of(module)
        if found is not None:
            name, version = found
            self.distributions[name] = version
        return found

    def follow(self, value: Any, attributes: Iterable[str], name: str) -> Edge:
        """Follow a chain of attributes through the user's modules, to what it ends at, or a function's attribute."""
        rest = list(attributes)
        while isinstance(value, ModuleType) and rest:
            if not is_own_module(value):
                return self._foreign(".".join((value.__name__, *rest)), value.__name__)
            attribute = rest.pop(0)
            name = f"{module_name(value.__name__)}.{attribute}"
            if attribute in _OF_THE_MODULE:
                return ("of the module", attribute)
            found = module_attribute(value, attribute)
            self.watch.lookup(vars(value), attribute, vars(value).get(attribute, ABSENT))
            if found is ABSENT:
                return ("missing", name)
            value = found
        return self._with_attribute(self._named(value, name), value, rest, name)

    def _with_attribute(self, edge: Edge, value: Any, attributes: list[str], name: str) -> Edge:
        """Add to the edge that leads to a value the attribute that is read off it, if it is a function."""
        while getattr(type(value), "_bencher_job_cached", False):
            value = value.__wrapped__
            attributes = attributes[attributes[:1] == ["__wrapped__"] :]
        if type(value) is not FunctionType or not attributes or hasattr(FunctionType, attributes[0]):
            return edge
        attribute = attributes[0]
        found = vars(value).get(attribute, ABSENT)
        self.watch.lookup(vars(value), attribute, found)
        return edge if found is ABSENT else (edge, self._named(found, f"{name}.{attribute}"))

    def _refer_function(self, function: FunctionType) -> Edge:
        module = function.__globals__.get("__name__")
        name = f"{module_name(module or function.__module__ or '')}.{function.__code__.co_qualname}"
        if not defines_own_code(function.__code__, module):
            return (*self._foreign(name, module or ""), *self._refer_decorated(function, name))
        return self._part(function, name, self._scan_function)

    def _refer_decorated(self, function: FunctionType, name: str) -> tuple[Edge, ...]:
        """Follow a function of somebody else's to what it decorates of the user's."""
        if id(function) in self._open:
            return ()
        self._open.add(id(function))
        try:
            inner = tuple(self.refer(code, name) for code in _code_in(function))
            return (*inner, *self._refer_registry(function, name))
        finally:
            self._open.discard(id(function))

    def _refer_registry(self, function: FunctionType, name: str) -> tuple[Edge, ...]:
        """Follow the implementations of a `functools.singledispatch`."""
        registry = vars(function).get("registry")
        if not isinstance(registry, Mapping):
            return ()
        self.watch.members(registry)
        classes = sorted(registry, key=_type_name)
        return tuple((self.refer(cls, name), self.refer(registry[cls], name)) for cls in classes)

    def _refer_class(self, cls: type) -> Edge:
        name = _type_name(cls)
        if not is_own_class(cls):
            return self._foreign(name, cls.__module__)
        return self._part(cls, name, self._scan_class)

    def _refer_module(self, module: ModuleType) -> Edge:
        """A module that is handed on as a whole counts with all that it defines and imports."""
        name = module_name(module.__name__)
        if not is_own_module(module):
            return self._foreign(name, module.__name__)
        return self._part(module, name, self._scan_module)

    def _refer_wrapper(self, wrapper: Any, path: str) -> Edge:
        """A callable object that a decorator put around another: the one inside, and the state around it."""
        kind = type(wrapper)
        inner: Edge = self.refer(_wrapped(wrapper), path)
        if is_own_class(kind):
            self.watch.members(vars(wrapper))
            state = sorted(item for item in vars(wrapper).items() if item[0] not in _COPIED_BY_WRAPS)
            return ("wrapper", self.refer(kind, path), self._refer_items(state, path), inner)
        around = getattr(wrapper, "_self_wrapper", None)  # wrapt's
        outer = () if around is None else (self.refer(around, path),)
        return ("wrapper", self._foreign(_type_name(kind), kind.__module__), *outer, inner)

    def _foreign(self, name: str, module: str) -> tuple[Edge, ...]:
        """What others wrote is named and not walked; an upgrade alone makes no other job."""
        self.distribution(module)
        return ("foreign", name)

    def _part(self, obj: Any, name: str, scan: Callable[[Any, Part], Edge]) -> Part:
        part = self._known.get(id(obj))
        if part is None:
            part = self._known[id(obj)] = Part(name, obj)
            self.parts.append(part)
            if self._follows:
                self._queue.append((scan, obj, part))
        return part

    def _named(self, value: Any, name: str) -> Edge:
        """Give a global value a place of its own in the manifest."""
        edge = self._values.get((id(value), name))
        if edge is None:
            edge = self.refer(value, name)
            if not isinstance(edge, Part) and not (isinstance(edge, tuple) and edge[0] == "foreign"):
                edge = Part(name, value, content=("value", edge))
                self.parts.append(edge)
            self._values[id(value), name] = edge
        return edge

    def _refer_value(self, value: Any, path: str) -> Edge:
        table = Table(value, path)

        def collect(obj: Any, _path: str) -> bytes:
            if id(obj) not in table.code:
                table.code[id(obj)] = self.refer(obj, path)
            return b""

        try:
            self.watch.content(value, path)  # first, so that a change in between is noticed at the next check
            encoded = Encoder(code=collect).digest(value, path)
        except UnkeyableArgument as refusal:
            return self._refer_refused(value, path, refusal)
        classes = (self.refer(cls, path) for cls in own_classes_in(value))
        return ("data", table if table.code else encoded, *classes)

    def _refer_refused(self, value: Any, path: str, refusal: UnkeyableArgument) -> Edge:
        """Take apart what can't be keyed as a whole, so that one lock hides nothing but itself."""
        kind = type(value)
        if id(value) in self._open:
            return ("cycle",)
        items: Iterable[tuple[object, object]] | None = None
        if kind is dict and all(type(key) is str for key in value):
            items = sorted(value.items())
        elif kind in {list, tuple}:
            items = enumerate(value)
        elif is_own_class(kind) and hasattr(value, "__dict__"):
            items = sorted(vars(value).items())
        if items is None:
            self.untracked[path] = refusal.type_name
            return ("not tracked", _type_name(kind))
        self._open.add(id(value))
        try:
            if kind is not tuple:
                self.watch.members(value if kind in {dict, list} else vars(value))
            own = (self.refer(kind, path),) if is_own_class(kind) else ()
            return ("items", _type_name(kind), *own, self._refer_items(items, path))
        finally:
            self._open.discard(id(value))

    def _refer_items(self, items: Iterable[tuple[object, object]], path: str) -> Edge:
        return tuple((str(key), self.refer(item, f"{path}[{key!r}]")) for key, item in items)

    def _scan_function(self, function: FunctionType, part: Part) -> Edge:
        code = function.__code__
        facts = facts_of(code, function.__globals__)
        part.source = facts.source
        self.watch.attribute(function, "__code__", code)
        if code.co_argcount:
            self.watch.attribute(function, "__defaults__", function.__defaults__)
        if code.co_kwonlyargcount:
            self.watch.attribute(function, "__kwdefaults__", function.__kwdefaults__)
        defaults = function.__defaults__ or ()
        names = code.co_varnames[: code.co_argcount][-len(defaults) :] if defaults else ()
        keywords = function.__kwdefaults__ or {}
        for key, value in keywords.items():
            self.watch.lookup(keywords, key, value)
        wrapped = vars(function).get("__wrapped__")
        return (
            "function",
            facts.digest,
            tuple((n, self.refer(v, f"{part.name}({n})")) for n, v in zip(names, defaults, strict=True)),
            tuple((n, self.refer(v, f"{part.name}({n})")) for n, v in sorted(keywords.items())),
            () if wrapped is None else self.refer(wrapped, part.name),
            tuple(self._scan_cells(function, facts, part)),
            (*self._scan_globals(function, facts), *self._scan_owner(function))
            if self._scope == "deep"
            else (),
        )

    def _scan_cells(self, function: FunctionType, facts: Facts, part: Part) -> Iterable[Edge]:
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for chain in facts.reads.cells:
            cell = cells[chain[0]]
            try:
                value = cell.cell_contents
            except ValueError:
                value = ABSENT
            if chain[0] in facts.written_only and type(value) in _PLAIN:
                continue
            self.watch.cell(cell)
            edge: Edge = ("missing",)
            if isinstance(value, ModuleType):
                edge = self.follow(value, chain[1:], chain[0])
            elif value is not ABSENT:
                path = f"{part.name}({chain[0]})"
                edge = self._with_attribute(self.refer(value, path), value, list(chain[1:]), path)
            yield (".".join(chain), edge)

    def _scan_globals(self, function: FunctionType, facts: Facts) -> Iterable[Edge]:
        namespace = function.__globals__
        module = module_name(namespace.get("__name__") or "")
        for chain in facts.reads.globals:
            name = chain[0]
            value = namespace.get(name, ABSENT)
            if name in _OF_THE_MODULE:
                yield ("of the module", name)
                continue
            if name in facts.written_only and type(value) in _PLAIN:
                continue
            self.watch.lookup(namespace, name, value)
            if value is not ABSENT:
                yield (".".join(chain), self.follow(value, chain[1:], f"{module}.{name}"))
                continue
            builtins = namespace.get("__builtins__", {})
            value = (vars(builtins) if isinstance(builtins, ModuleType) else builtins).get(name, ABSENT)
            yield (name, ("missing",) if value is ABSENT else self.refer(value, f"builtins.{name}"))
        for imported in facts.reads.imports:
            yield (repr(imported), self._scan_import(imported, namespace))

    def _scan_owner(self, method: FunctionType) -> Iterable[Edge]:
        """Reach the class of a method, since `self` leads to all the others of its methods."""
        *owners, name = method.__code__.co_qualname.split(".")
        if not owners or "<locals>" in owners:
            return
        namespace: Mapping[str, Any] = method.__globals__
        for owner in owners:
            cls = namespace.get(owner, ABSENT)
            self.watch.lookup(namespace, owner, cls)
            if not isinstance(cls, type):
                return
            namespace = vars(cls)
        if name in namespace:
            yield ("owner", self.refer(cls, name))

    def _scan_import(self, imported: Import, namespace: dict[str, Any]) -> Edge:
        """Follow an import inside a function: a module of the user's is imported for it, another named."""
        name = "." * imported.level + imported.module
        if imported.level:
            name = importlib.util.resolve_name(name, str(namespace.get("__package__") or ""))
        try:
            module = import_own(name)
        except ImportError:
            return ("missing", name)
        except Exception as error:  # noqa: BLE001 - the user's module may raise anything, and its function may expect it
            self.untracked[name] = type(error).__name__
            return ("missing", name)
        if module is None:
            return self._foreign(".".join((name, *imported.attributes)), name)
        return self.follow(module, imported.attributes, name)

    def _scan_class(self, cls: type, part: Part) -> Edge:
        self.watch.members(vars(cls))
        self.watch.attribute(cls, "__bases__", cls.__bases__)
        meta = type(cls)
        return (
            "class",
            tuple(self.refer(base, part.name) for base in cls.__bases__),
            () if meta is type else self.refer(meta, part.name),
            tuple((name, self.refer(value, f"{part.name}.{name}")) for name, value in attributes_of(cls)),
        )

    def _scan_module(self, module: ModuleType, part: Part) -> Edge:
        self.watch.members(vars(module))
        members = vars(module).copy()
        names = sorted(name for name in members if name not in _NO_MEMBERS)
        return ("module", tuple((name, self._member(members[name], f"{part.name}.{name}")) for name in names))

    def _member(self, value: Any, name: str) -> Edge:
        """Reach a member of a module, of which nobody knows whether it is used."""
        try:
            return self._named(value, name)
        except Exception as error:  # noqa: BLE001 - an object that nobody may use may raise anything when it is looked at
            self.untracked[name] = type(error).__name__
            return ("not tracked", _type_name(type(value)))


def _type_name(cls: type) -> str:
    return f"{module_name(cls.__module__)}.{cls.__qualname__}"


def _wrapped(value: Any) -> Any:
    """What a decorator's object says that it wraps."""
    if "__wrapped__" in dir(type(value)):  # a proxy shows the attributes of what it wraps as its own
        return value.__wrapped__
    return getattr(value, "__dict__", {}).get("__wrapped__", ABSENT)


def _code_in(function: FunctionType) -> list[Any]:
    """What a decorator's function encloses that is or may hold the user's code."""
    inner = [cell.cell_contents for cell in function.__closure__ or () if not is_empty(cell)]
    inner += [vars(function)[name] for name in ("__wrapped__",) if name in vars(function)]
    return [value for value in inner if _may_be_own_code(value)]


def _may_be_own_code(value: Any) -> bool:
    if isinstance(value, type):
        return is_own_class(value)
    return type(value) in {FunctionType, *_AROUND} or _wrapped(value) is not ABSENT
