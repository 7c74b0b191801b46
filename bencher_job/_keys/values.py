"""Canonical forms of the values of Python, its standard library, and pydantic."""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import WRAPPER_ASSIGNMENTS
from pickle import PickleError
from typing import Any, Final

from .canonical import Attributes, Content, Named, Parts, StandIn, refuse
from .names import exported_name, holder_of, module_name, module_of

__all__ = ["VALUES", "zone_name"]


_OF_WRAPPERS: Final = frozenset({*WRAPPER_ASSIGNMENTS, "__annotate__", "__type_params__", "__wrapped__"})
"""Attributes that `functools.update_wrapper` gives to every wrapper."""


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
    """All items of a dict, whichever of them an object of a subclass shows."""
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
    """The name of a `zoneinfo.ZoneInfo`, which stands for it unless it was read from a file."""
    try:
        value.__reduce__()
    except PickleError:
        reason = "a time zone that was read from a file may differ from the one of its name"
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
            raise refuse(type(value), f"no module has it under its name {name!r}")
        return f"{module_name(module)}.{name}"
    return Attributes(__self__=owner, __name__=value.__name__)


def _descriptor(value: Any) -> object:
    return Parts({"class": Named(value.__objclass__), "name": value.__name__})


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
    return text.upper()  # the current context says whether there is an "e" or an "E"


def _path(value: Any) -> object:
    return value.parts


def _address(value: Any) -> object:
    return str(value)


def _tuple(value: tuple[object, ...]) -> object:
    plain = tuple.__getitem__(value, slice(None))
    fields = getattr(value, "_fields", None)
    if type(fields) is not tuple or len(fields) != len(plain):
        return plain
    return Parts({"fields": fields, "items": Attributes(zip(fields, plain, strict=True))})


_BASES = {
    "int": StandIn(lambda value: int.__add__(value, 0)),
    "float": StandIn(float.__pos__),
    "complex": StandIn(complex.__pos__),
    "str": StandIn(lambda value: str.__getitem__(value, slice(None))),
    "bytes": StandIn(lambda value: bytes(memoryview(value))),
    "tuple": StandIn(_tuple),
    "list": StandIn(list.copy),
    "dict": StandIn(_items),
    "set": StandIn(lambda value: set(set.__iter__(value))),
    "frozenset": StandIn(lambda value: frozenset(frozenset.__iter__(value))),
}
"""What an object of a subclass holds as one of these; the builtins themselves don't come here."""

_NUMBERS = {
    "decimal.Decimal": StandIn(_decimal, leaf=True),
    "fractions.Fraction": StandIn(lambda value: (value.numerator, value.denominator), leaf=True),
    "uuid.UUID": StandIn(lambda value: value.int, leaf=True),
}
_TIMES = {
    "datetime.datetime": StandIn(_date_and_time),
    "datetime.time": StandIn(_time),
    "datetime.date": StandIn(lambda value: (value.year, value.month, value.day), leaf=True),
    "datetime.timedelta": StandIn(lambda value: (value.days, value.seconds, value.microseconds), leaf=True),
    "datetime.timezone": StandIn(lambda value: (value.utcoffset(None), value.tzname(None))),
    "zoneinfo.ZoneInfo": StandIn(zone_name, leaf=True),
}
_PLACES = {
    **{
        f"pathlib.{name}": StandIn(_path, leaf=True)
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
    **{
        f"ipaddress.IPv{version}{name}": StandIn(_address, leaf=True)
        for version in (4, 6)
        for name in ("Interface", "Address", "Network")
    },
}
_CONTAINERS = {
    "collections.OrderedDict": StandIn(_ordered, is_open=True),
    "collections.Counter": StandIn(_items, is_open=True),
    "collections.defaultdict": StandIn(_default_dict),
    "collections.deque": StandIn(lambda value: Parts({"items": list(value), "maxlen": value.maxlen})),
    "collections.ChainMap": StandIn(
        lambda value: Attributes(maps=value.maps), internal=frozenset({"maps"}), is_open=True
    ),
    "frozendict": StandIn(dict),
    "mappingproxy": StandIn(dict),
    "types.SimpleNamespace": StandIn(lambda value: Attributes(value.__dict__)),
    "range": StandIn(lambda value: (value.start, value.stop, value.step), leaf=True),
    "slice": StandIn(lambda value: Attributes(start=value.start, stop=value.stop, step=value.step)),
    "ellipsis": StandIn(lambda value: (), leaf=True),  # noqa: ARG005
    "NotImplementedType": StandIn(lambda value: (), leaf=True),  # noqa: ARG005
}
_BUFFERS = {
    "bytearray": StandIn(_bytes, leaf=True),
    "memoryview": StandIn(_memoryview, leaf=True),
    "array.array": StandIn(_array, leaf=True),
}
_CALLABLES = {
    "method": StandIn(_method),
    "builtin_function_or_method": StandIn(_builtin_function),
    "method-wrapper": StandIn(_method_wrapper),
    "method_descriptor": StandIn(_descriptor, leaf=True),
    "wrapper_descriptor": StandIn(_descriptor, leaf=True),
    "classmethod_descriptor": StandIn(_descriptor, leaf=True),
    "getset_descriptor": StandIn(_descriptor, leaf=True),
    "member_descriptor": StandIn(_descriptor, leaf=True),
    "staticmethod": StandIn(lambda value: Attributes(__func__=value.__func__)),
    "classmethod": StandIn(lambda value: Attributes(__func__=value.__func__)),
    "property": StandIn(_property),
    "functools.partial": StandIn(_partial),
    "functools._lru_cache_wrapper": StandIn(_wrapper, internal=_OF_WRAPPERS, is_open=True),
    "wrapt.ObjectProxy": StandIn(_transparent),
    "wrapt.BaseObjectProxy": StandIn(_transparent),
    "_wrappers.ObjectProxy": StandIn(_transparent, label="wrapt.ObjectProxy"),
}


def _model(model: Any) -> object:
    """What a pydantic model holds beside its fields; which of them were left to a default doesn't count."""
    extra, private = model.__pydantic_extra__, model.__pydantic_private__
    return Parts({"extra": Attributes(extra or {}), "private": Attributes(private or {})})


def _random(value: Any) -> object:
    """What a generator gives next; the one behind `random.random` by name, since everybody draws from it."""
    shared = getattr(sys.modules["random"], "_inst", None)
    return "random" if value is shared else value.getstate()


_STATES = {
    "_struct.Struct": StandIn(lambda value: value.format, leaf=True, label="struct.Struct"),
    "re.Pattern": StandIn(lambda value: (value.pattern, value.flags), leaf=True),
    "pydantic.BaseModel": StandIn(_model),
    "random.Random": StandIn(_random, is_open=True),
}

VALUES: Final = _BASES | _NUMBERS | _TIMES | _PLACES | _CONTAINERS | _BUFFERS | _CALLABLES | _STATES
"""By the name that `rooted_name` gives to a class."""
