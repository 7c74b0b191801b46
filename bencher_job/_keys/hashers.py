"""Choose the hasher for the objects of each class."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from enum import Enum
from marshal import dumps
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from .arrays import ARRAYS
from .canonical import (
    NO_VALUE,
    VALUES,
    Attributes,
    CanonicalForm,
    Parts,
    Raised,
    Refusal,
    error_text,
    refuse,
    rooted_name,
)
from .frames import FRAMES
from .names import is_own_class, is_own_module, module_name, module_of, qualified_name
from .objects import LIBRARIES, own_attributes, reduced

if TYPE_CHECKING:
    from .hashing import Encoder


Hasher = Callable[["Encoder", Any], bytes]

_CANONICAL_FORMS: Final = {**VALUES, **ARRAYS, **FRAMES, **LIBRARIES}
_HEAP_TYPE: Final = 1 << 9
_KEYED_BY_VALUE: Final = frozenset(
    {bool, bytes, complex, float, int, str, type(None)}
    | {dict, frozenset, list, set, tuple}
    | {FunctionType, object}
)
_registered: Final[dict[type, Callable[[Any], object]]] = {}
_hashers: Final[dict[tuple[type, bool], Hasher]] = {}
"""By class, and whether it has a `__job_key__`, which may be set later."""


def register_hasher(type_: type, function: Callable[[Any], object]) -> None:
    """Hash objects of a class that isn't yours, and of its subclasses, by what `function(value)` returns.

    The returned value is hashed together with the class's name. A hasher that is registered for a subclass, or a
    `__job_key__` that a subclass defines, takes precedence.

    Raises:
        TypeError: when `type_` isn't a class.
        ValueError: when it is a builtin that is always keyed by value.

    >>> class Connection:
    ...     def __init__(self, url):
    ...         self.url, self.socket = url, object()
    >>> register_hasher(Connection, lambda connection: connection.url)
    """
    if not isinstance(type_, type):
        raise TypeError(f"type_ must be a class, not {type(type_).__name__}")
    if type_ in _KEYED_BY_VALUE:
        raise ValueError(
            f"{type_.__name__} is always keyed by value. Register a hasher for a class of your own."
        )
    _registered[type_] = function
    _hashers.clear()


register_hasher.__module__ = "bencher_job"  # the package imports it on first use


def hasher_for(cls: type) -> Hasher:
    """Return the hasher for objects of exactly this class."""
    key = cls, hasattr(cls, "__job_key__")
    hasher = _hashers.get(key)
    if hasher is None:
        if len(_hashers) > 10_000:  # else classes that are made at run time would live for ever
            _hashers.clear()
        hasher = _hashers[key] = _of_the_user(cls) or _with_its_code(cls, _of_the_library(cls))
    return hasher


def _with_its_code(cls: type, hasher: Hasher) -> Hasher:
    if not is_own_class(cls) or issubclass(cls, type):
        return hasher

    def with_its_code(encoder: Encoder, value: Any) -> bytes:
        try:
            encoding = hasher(encoder, value)
        except Refusal as refusal:
            refusal.note_holder(cls)
            raise
        return encoder.with_methods(encoding, cls)

    return with_its_code


def _of_the_user(cls: type) -> Hasher | None:
    for base in cls.__mro__:
        if base in _registered:
            return _by_hasher(cls, _registered[base])
        if "__job_key__" in base.__dict__:
            return _by_job_key(cls)
    return None


def _of_the_library(cls: type) -> Hasher:
    if issubclass(cls, type):
        made = _CANONICAL_FORMS.get(rooted_name(cls))
        return _class if made is None else _by_base(cls, cls, made)
    if issubclass(cls, ModuleType):
        return _module
    if getattr(cls, "_bencher_job_cached", False):
        return _cached_function
    if issubclass(cls, Enum):
        return _by_form(b"o", qualified_name(cls), _enum_member, leaf=True)
    names = [(base, rooted_name(base)) for base in cls.__mro__ if base is not object or cls is object]
    reasons = [NO_VALUE[name] for _, name in names if name in NO_VALUE]
    forms = [(base, _CANONICAL_FORMS[name]) for base, name in names if name in _CANONICAL_FORMS]
    if not isinstance(getattr(cls, "__next__", hasher_for), FunctionType):  # it is written in C
        reasons.append(NO_VALUE["generator"])
    if reasons:
        return _refused(reasons[0])
    return _by_base(cls, *forms[0]) if forms else _by_reduction(cls)


def _by_form(
    tag: bytes,
    label: str,
    function: Callable[[Any], object],
    *,
    leaf: bool = False,
    holder: tuple[type, str | None] | None = None,
    step: str = "",
) -> Hasher:
    """Make a hasher of a function that returns the canonical form of an object.

    An object that refers to nothing that could refer back to it is a `leaf`. An error names the class of `holder` and
    what to do about it, and has `step` in its path.
    """
    header = tag + dumps(label, 2)

    def encoding_of(encoder: Encoder, value: Any) -> bytes:
        form = function(value)
        try:
            return encoder.wrap(header, form)
        except Refusal as refusal:
            if holder is not None:
                refusal.note_holder(*holder)
            refusal.steps += [step] if step else []
            raise

    def hasher(encoder: Encoder, value: Any) -> bytes:
        known = encoder.graph.enter(value)
        return encoder.graph.leave(value, encoding_of(encoder, value)) if known is None else known

    return encoding_of if leaf else hasher


def _by_base(cls: type, base: type, canonical_form: CanonicalForm) -> Hasher:
    label = canonical_form.label or rooted_name(base)
    same_library = module_of(cls).partition(".")[0] == module_of(base).partition(".")[0]
    is_open = canonical_form.is_open and (cls.__dictoffset__ or not canonical_form.is_whole)
    function = _with_attributes(canonical_form) if is_open else canonical_form.function
    if canonical_form.is_whole and (same_library or not cls.__dictoffset__):
        return _by_form(b"o", qualified_name(cls), function, leaf=canonical_form.leaf)
    if cls is base or (canonical_form.sealed and same_library):
        return _by_form(b"o", label, function, leaf=canonical_form.leaf)
    reduces = cls.__reduce__ is not base.__reduce__ or cls.__reduce_ex__ is not base.__reduce_ex__
    if reduces and module_of(base) == "builtins":
        return _by_reduction(cls)

    def extended(value: Any) -> object:
        return Parts(
            {
                label: canonical_form.function(value),
                "and": own_attributes(value, base, canonical_form.internal | _kept_accessors(cls)),
            }
        )

    return _by_form(b"o", qualified_name(cls), extended)


def _with_attributes(canonical_form: CanonicalForm) -> Callable[[Any], object]:
    def with_attributes(value: Any) -> object:
        cls = type(value)
        given = vars(value).keys() - canonical_form.internal - _kept_accessors(cls)
        if canonical_form.keeps_private:
            given = {name for name in given if not (name.startswith("_") or hasattr(cls, name))}
        if not given:
            return canonical_form.function(value)
        attributes = Attributes({name: vars(value)[name] for name in given})
        return Parts({"value": canonical_form.function(value), "attributes": attributes})

    return with_attributes


def _kept_accessors(cls: type) -> AbstractSet[str]:
    """Return the attributes in which pandas and polars cache accessors, such as `.str` or a registered namespace."""
    accessors: AbstractSet[str] = getattr(cls, "_accessors", frozenset())
    return accessors


def _enum_member(member: Any) -> object:
    value = member._value_
    return member._name_, value if type(value) in {int, str, float, bool, bytes} else None


def _by_hasher(cls: type, function: Callable[[Any], object]) -> Hasher:
    name = qualified_name(cls)

    def form(value: Any) -> object:
        try:
            return function(value)
        except (RecursionError, MemoryError):
            raise
        except Exception as error:
            raise refuse(cls, f"its registered hasher raised {error_text(error)}") from error

    return _by_form(
        b"r", name, form, holder=(cls, f"let the hasher registered for {name} return a value that has a key")
    )


def _by_job_key(cls: type) -> Hasher:
    name = qualified_name(cls)

    def form(value: Any) -> object:
        try:
            return value.__job_key__()
        except (RecursionError, MemoryError):
            raise
        except Exception as error:
            error.add_note(f"Raised by {name}.__job_key__ while a job key was made.")
            raise Raised(error) from error

    remedy = f"let {cls.__qualname__}.__job_key__ return a value that has a key"
    return _by_form(b"k", name, form, holder=(cls, remedy), step=".__job_key__()")


def _by_reduction(cls: type) -> Hasher:
    return _by_form(b"o", qualified_name(cls), reduced, holder=(cls, None))


def _class(encoder: Encoder, cls: type) -> bytes:
    return encoder.code(cls) if cls.__flags__ & _HEAP_TYPE else encoder.name(cls)


def _module(encoder: Encoder, module: ModuleType) -> bytes:
    if is_own_module(module):
        return encoder.code(module)
    return encoder.wrap(b"o" + dumps("module", 2), module_name(module.__name__))


def _cached_function(encoder: Encoder, function: Any) -> bytes:
    return encoder.encode(function.__wrapped__)  # caching does not change what it does


def _refused(reason: str) -> Hasher:
    def hasher(_encoder: Encoder, value: Any) -> bytes:
        raise refuse(type(value), reason)

    return hasher
