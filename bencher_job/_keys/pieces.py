"""Knows what an object holds that can't be keyed as a whole, and which objects hold the user's code."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict, deque
from collections.abc import Iterable
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final

from .._errors import UnkeyableArgument
from .hashing import Encoder
from .names import qualified_name
from .provenance import defines_own_code, is_own_class
from .watch import ABSENT, Watch

__all__ = ["attributes_in", "items_in", "leads_to_own_code", "watch_pieces", "wrapped_in"]

_DEEPEST: Final = 3
_MOST: Final = 1000
_CODE: Final = FunctionType | MethodType | type
_AROUND_CODE: Final = (
    classmethod
    | functools.cached_property
    | functools.partial
    | functools.partialmethod
    | functools.singledispatchmethod
    | property
    | staticmethod
)


def wrapped_in(value: Any) -> Any:
    """What a decorator's object says that it wraps."""
    if "__wrapped__" in dir(type(value)):  # a proxy shows the attributes of what it wraps as its own
        return getattr(value, "__wrapped__", ABSENT)  # of a slot that may be empty
    return _dict_of(value).get("__wrapped__", ABSENT)


def items_in(value: Any) -> list[tuple[object, object]]:
    """List the items of a container with their keys; those of a dict and a set in an order of their own."""
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
    """What an object keeps in attributes: the user's with its slots, another where it holds the user's code there."""
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


def watch_pieces(watch: Watch, value: Any) -> None:
    """Watch that an object holds the same things."""
    if isinstance(value, dict | list | deque | set):
        watch.members(value)
    if isinstance(value, defaultdict):
        watch.attribute(value, "default_factory", value.default_factory)
    if type(value) is SimpleNamespace or is_own_class(type(value)):
        if everything := _dict_of(value):
            watch.members(everything)
        for name, slot in _slots_of(type(value)):
            held = _slot(value, slot)
            if held is ABSENT:
                watch.condition(functools.partial(_is_empty_slot, value, slot))
            elif not name.startswith("__"):
                watch.attribute(value, name, held)


def leads_to_own_code(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether a value is the user's code, or may hold some where others keep what they were given.

    What is in a dict or a list counts if it is code itself: others keep results there.
    """
    kind = type(value)
    if isinstance(value, type):
        return is_own_class(value)
    if isinstance(value, _CODE | _AROUND_CODE) or is_own_class(kind) or wrapped_in(value) is not ABSENT:
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
        held = getattr(value, "__dict__", None)
    except Exception:  # noqa: BLE001 - a proxy may raise anything, and holds nothing then
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
