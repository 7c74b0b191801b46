"""Canonical forms of values of Python, its standard library, and pydantic."""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import WRAPPER_ASSIGNMENTS
from pickle import PickleError
from typing import Any, Final

from .canonical import Attributes, ByName, CanonicalForm, Content, Parts, refuse
from .names import exported_name, holder_of, module_name, module_of

__all__ = ["VALUES", "zone_name"]


_OF_WRAPPERS: Final = frozenset({*WRAPPER_ASSIGNMENTS, "__annotate__", "__type_params__", "__wrapped__"})
"""Attributes that `functools.update_wrapper` sets on wrappers."""


def _bytes(value: Any) -> object:
    view = memoryview(value)
    return Content(view.nbytes, (view.cast("B"),))


def _memoryview(value: memoryview) -> object:
    content = value.cast("B") if value.c_contiguous and value.nbytes else value.tobytes()
    return Parts({"format": value.format, "shape": value.shape, "content": Content(value.nbytes, (content,))})


def _array(value: Any) -> object:
    if value.typecode in "fduw":
        return value.typecode, value.tolist()
    if sys.byteorder == "big":
        value = value[:]
        value.byteswap()
    return value.typecode, value.itemsize, value.tobytes()


def _items(value: dict[Any, Any]) -> dict[Any, Any]:
    """Return all items of a dict, even if a subclass hides some."""
    return dict(dict.items(value))


def _ordered(value: dict[Any, Any]) -> object:
    return Parts({"items": _items(value), "order": list(OrderedDict.__iter__(value))})


def _default_dict(value: Any) -> object:
    return Parts({"factory": Attributes(default_factory=value.default_factory), "items": _items(value)})


def _date_and_time(value: Any) -> object:
    date = value.year, value.month, value.day
    return Parts({"date": date, "time": _time_fields(value), "zone": Attributes(tzinfo=value.tzinfo)})


def _time(value: Any) -> object:
    return Parts({"time": _time_fields(value), "zone": Attributes(tzinfo=value.tzinfo)})


def _time_fields(value: Any) -> tuple[int, ...]:
    return value.hour, value.minute, value.second, value.microsecond, value.fold


def zone_name(value: Any) -> str | None:
    """Return the name of a `zoneinfo.ZoneInfo`; a zone from a file is refused."""
    try:
        value.__reduce__()
    except PickleError:
        reason = "a time zone that was read from a file may differ from the zone of that name"
        raise refuse(type(value), reason) from None
    name: str | None = value.key
    return name


def _builtin_function(value: Any) -> object:
    owner = value.__self__
    exported = exported_name(value)
    if exported is not None:
        return exported[1]
    if owner is None or isinstance(owner, type(sys)):
        name, said = value.__qualname__, module_of(value)
        module = holder_of(value, name, [said] if said else []) or said
        if not module:
            raise refuse(type(value), f"no module holds it under its name {name!r}")
        return f"{module_name(module)}.{name}"
    return Attributes(__self__=owner, __name__=value.__name__)


def _descriptor(value: Any) -> object:
    return Parts({"class": ByName(value.__objclass__), "name": value.__name__})


def _method_wrapper(value: Any) -> object:
    return Attributes(__self__=value.__self__, __name__=value.__name__)


def _method(value: Any) -> object:
    return Attributes(__self__=value.__self__, __func__=value.__func__)


def _wrapper(value: Any) -> object:
    return Attributes(__wrapped__=value.__wrapped__)


def _transparent(value: Any) -> object:
    wrapper = getattr(value, "_self_wrapper", None)
    return Attributes(__wrapped__=value.__wrapped__, _self_wrapper=wrapper)


def _property(value: property) -> object:
    return Attributes(fget=value.fget, fset=value.fset, fdel=value.fdel)


def _partial(value: Any) -> object:
    return Attributes(value.__dict__, func=value.func, args=value.args, keywords=value.keywords)


def _decimal(value: Any) -> object:
    text: str = sys.modules["decimal"].Decimal.__str__(value)
    return text.upper()  # the current context decides between "e" and "E"


def _tuple(value: tuple[object, ...]) -> object:
    plain = tuple.__getitem__(value, slice(None))
    fields = getattr(value, "_fields", None)
    if type(fields) is not tuple or len(fields) != len(plain):
        return plain
    return Parts({"fields": fields, "items": Attributes(zip(fields, plain, strict=True))})


_BASES = {
    "int": CanonicalForm(lambda value: int.__add__(value, 0)),
    "float": CanonicalForm(float.__pos__),
    "complex": CanonicalForm(complex.__pos__),
    "str": CanonicalForm(lambda value: str.__getitem__(value, slice(None))),
    "bytes": CanonicalForm(lambda value: bytes(memoryview(value))),
    "tuple": CanonicalForm(_tuple),
    "list": CanonicalForm(list.copy),
    "dict": CanonicalForm(_items),
    "set": CanonicalForm(lambda value: set(set.__iter__(value))),
    "frozenset": CanonicalForm(lambda value: frozenset(frozenset.__iter__(value))),
}
"""For objects of subclasses; the builtins themselves have their own encodings."""

_NUMBERS = {
    "decimal.Decimal": CanonicalForm(_decimal, leaf=True),
    "fractions.Fraction": CanonicalForm(lambda value: (value.numerator, value.denominator), leaf=True),
    "uuid.UUID": CanonicalForm(lambda value: value.int, leaf=True),
}
_TIMES = {
    "datetime.datetime": CanonicalForm(_date_and_time),
    "datetime.time": CanonicalForm(_time),
    "datetime.date": CanonicalForm(lambda value: (value.year, value.month, value.day), leaf=True),
    "datetime.timedelta": CanonicalForm(
        lambda value: (value.days, value.seconds, value.microseconds), leaf=True
    ),
    "datetime.timezone": CanonicalForm(lambda value: (value.utcoffset(None), value.tzname(None))),
    "zoneinfo.ZoneInfo": CanonicalForm(zone_name, leaf=True),
}
_PLACES = {
    **{
        f"pathlib.{name}": CanonicalForm(lambda value: value.parts, leaf=True)
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
    **{
        f"ipaddress.IPv{version}{name}": CanonicalForm(str, leaf=True)
        for version in (4, 6)
        for name in ("Interface", "Address", "Network")
    },
}
_CONTAINERS = {
    "collections.OrderedDict": CanonicalForm(_ordered, is_open=True),
    "collections.Counter": CanonicalForm(_items, is_open=True),
    "collections.defaultdict": CanonicalForm(_default_dict),
    "collections.deque": CanonicalForm(lambda value: Parts({"items": list(value), "maxlen": value.maxlen})),
    "collections.ChainMap": CanonicalForm(
        lambda value: Attributes(maps=value.maps), internal=frozenset({"maps"}), is_open=True
    ),
    "frozendict": CanonicalForm(dict),
    "mappingproxy": CanonicalForm(dict),
    "types.SimpleNamespace": CanonicalForm(lambda value: Attributes(value.__dict__)),
    "range": CanonicalForm(lambda value: (value.start, value.stop, value.step), leaf=True),
    "slice": CanonicalForm(lambda value: Attributes(start=value.start, stop=value.stop, step=value.step)),
    "ellipsis": CanonicalForm(lambda value: (), leaf=True),  # noqa: ARG005
    "NotImplementedType": CanonicalForm(lambda value: (), leaf=True),  # noqa: ARG005
}
_BUFFERS = {
    "bytearray": CanonicalForm(_bytes, leaf=True),
    "memoryview": CanonicalForm(_memoryview, leaf=True),
    "array.array": CanonicalForm(_array, leaf=True),
}
_CALLABLES = {
    "method": CanonicalForm(_method),
    "builtin_function_or_method": CanonicalForm(_builtin_function),
    "method-wrapper": CanonicalForm(_method_wrapper),
    "method_descriptor": CanonicalForm(_descriptor, leaf=True),
    "wrapper_descriptor": CanonicalForm(_descriptor, leaf=True),
    "classmethod_descriptor": CanonicalForm(_descriptor, leaf=True),
    "getset_descriptor": CanonicalForm(_descriptor, leaf=True),
    "member_descriptor": CanonicalForm(_descriptor, leaf=True),
    "staticmethod": CanonicalForm(lambda value: Attributes(__func__=value.__func__)),
    "classmethod": CanonicalForm(lambda value: Attributes(__func__=value.__func__)),
    "property": CanonicalForm(_property),
    "functools.partial": CanonicalForm(_partial),
    "functools._lru_cache_wrapper": CanonicalForm(_wrapper, internal=_OF_WRAPPERS, is_open=True),
    "wrapt.ObjectProxy": CanonicalForm(_transparent),
    "wrapt.BaseObjectProxy": CanonicalForm(_transparent),
    "_wrappers.ObjectProxy": CanonicalForm(_transparent, label="wrapt.ObjectProxy"),
}


def _model(model: Any) -> object:
    """Return what a pydantic model holds beside its fields; whether a field was set or defaulted doesn't count."""
    extra, private = model.__pydantic_extra__, model.__pydantic_private__
    return Parts({"extra": Attributes(extra or {}), "private": Attributes(private or {})})


def _random(value: Any) -> object:
    """Return the state of a generator; the shared one behind `random.random` counts by name."""
    shared = getattr(sys.modules["random"], "_inst", None)
    return "random" if value is shared else value.getstate()


_STATES = {
    "_struct.Struct": CanonicalForm(lambda value: value.format, leaf=True, label="struct.Struct"),
    "re.Pattern": CanonicalForm(lambda value: (value.pattern, value.flags), leaf=True),
    "pydantic.BaseModel": CanonicalForm(_model),
    "random.Random": CanonicalForm(_random, is_open=True),
}

VALUES: Final = _BASES | _NUMBERS | _TIMES | _PLACES | _CONTAINERS | _BUFFERS | _CALLABLES | _STATES
"""Canonical forms by the `rooted_name` of a class."""
