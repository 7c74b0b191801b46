"""Knows which attributes of a class its author wrote, and which a decorator or Python made of them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from enum import Enum, Flag
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, Final

from .provenance import defines_own_code

__all__ = ["attributes_of"]

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
