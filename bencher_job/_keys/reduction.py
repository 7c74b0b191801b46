"""Make the canonical form of any object from its pickle reduction."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from types import ModuleType
from typing import Any, Final

from .canonical import Attributes, ByName, Parts, Refusal, error_text, refuse, rooted_name
from .library_objects import FILLED_IN
from .names import module_name, module_of

__all__ = ["own_attributes", "reduced"]


_MISSING: Final = object()
_DERIVED: Final = frozenset({"_attrs_cached_hash"})
"""Attributes that an object computes from its other attributes at first use."""
_CACHED_PROPERTIES: Final = frozenset({"cached_property", "lazyproperty", "reify"})


def reduced(value: Any) -> object:
    """Reduce an object as `pickle` does, to a constructor with its arguments, state and items.

    The constructor counts by its name. The values of cached properties are left out, since they follow from the
    rest. The fields of a dataclass count even if only the class holds their values.
    """
    cls = type(value)
    reduction = _reduction(value, cls)
    if isinstance(reduction, str):
        return Parts({"global": f"{_home(value, cls)}.{reduction}"})
    if type(reduction) is not tuple or not 2 <= len(reduction) <= 6 or type(reduction[1]) is not tuple:
        raise refuse(cls, "its __reduce_ex__ must return a str or a tuple that pickle accepts")
    function, arguments, state, items, pairs = (*reduction, None, None, None)[:5]
    bare = function is copyreg.__newobj__ and len(arguments) == 1 and arguments[0] is cls  # type: ignore[attr-defined]
    if bare and items is None and pairs is None:
        return Attributes() if state is None else _attributes(value, cls, state)
    parts = Parts(
        {
            "function": _maker(function),
            "arguments": tuple(ByName(argument) if argument is cls else argument for argument in arguments),
        }
    )
    if state is not None:
        parts["state"] = _attributes(value, cls, state)
    if items is not None:
        parts["items"] = list(items)
    if pairs is not None:
        parts["pairs"] = dict(pairs)
    return parts


def own_attributes(value: Any, base: type, internal: frozenset[str] = frozenset()) -> object:
    """Return what an object has beyond an object of `base`: its attributes, or what its `__getstate__` returns.

    Attributes in `internal` are left out.
    """
    cls = type(value)
    if cls.__getstate__ is not base.__getstate__:
        return _attributes(value, cls, value.__getstate__())
    everything: dict[str, object] = getattr(value, "__dict__", {})
    attributes = {name: content for name, content in everything.items() if name not in internal}
    for name in _slots(cls.__mro__[: cls.__mro__.index(base)]):
        if (content := getattr(value, name, _MISSING)) is not _MISSING:
            attributes[name] = content
    return _attributes(value, cls, attributes)


def _reduction(value: Any, cls: type) -> Any:
    # Libraries such as tblib, which distributed imports, register reducers for all exceptions to keep tracebacks.
    reducer = None if issubclass(cls, BaseException) else copyreg.dispatch_table.get(cls)
    try:
        return value.__reduce_ex__(4) if reducer is None else reducer(value)
    except (Refusal, RecursionError, MemoryError):
        raise
    except Exception as error:
        raise refuse(cls, f"reducing it as pickle does raised {error_text(error)}") from error


def _home(value: Any, cls: type) -> str:
    return module_name(module_of(value) or module_of(cls))


def _maker(function: Any) -> object:
    """Return the form of a constructor: its name, unless it is a method that is bound to an object."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return Parts({"class": ByName(owner), "method": function.__name__})
    by_name = hasattr(function, "__qualname__") and (owner is None or isinstance(owner, ModuleType))
    return ByName(function) if by_name else function


def _attributes(value: Any, cls: type, state: Any) -> object:
    """Return an object's state as attributes by name, if its state has this shape."""
    fields: dict[str, Any] = getattr(cls, "__dataclass_fields__", {})
    match state:
        case (None | dict(), dict() as slots):
            state = {**(state[0] or {}), **slots}
        case list() if fields and len(state) == len(fields):
            state = dict(zip(fields, state, strict=True))
    if type(state) is not dict or not all(type(name) is str for name in state):
        return state
    filled_in = {name for names in _filled_in(cls) for name in names(state)}
    attributes = Attributes(
        {
            name: content
            for name, content in state.items()
            if name not in filled_in and not _is_derived(cls, name)
        }
    )
    for name in fields:
        if name not in attributes and (content := getattr(value, name, _MISSING)) is not _MISSING:
            attributes[name] = content
    return attributes


@functools.lru_cache(maxsize=1024)
def _filled_in(cls: type) -> list[Callable[[dict[str, Any]], Collection[str]]]:
    return [FILLED_IN[name] for name in map(rooted_name, cls.__mro__) if name in FILLED_IN]


def _is_derived(cls: type, name: str) -> bool:
    for base in cls.__mro__:
        if name in base.__dict__:
            return _is_cached_property(base.__dict__[name])
    return name in _DERIVED


def _is_cached_property(descriptor: Any) -> bool:
    """Whether a class's attribute is a cached property, of `functools` or of another library."""
    kind = type(descriptor)
    if issubclass(kind, cached_property):
        return True
    return kind.__name__ in _CACHED_PROPERTIES and getattr(descriptor, "fset", None) is None


def _slots(classes: Iterable[type]) -> Iterator[str]:
    for cls in classes:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                yield f"_{cls.__name__.lstrip('_')}{name}"
            elif name not in {"__dict__", "__weakref__"}:
                yield name
