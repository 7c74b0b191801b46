"""Choose how the objects of each class are hashed."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from enum import Enum
from marshal import dumps
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from .arrays import ARRAYS
from .canonical import NO_VALUE, Attributes, Parts, Raised, Refusal, StandIn, refuse, rooted_name, told
from .frames import FRAMES
from .library_objects import LIBRARIES
from .names import is_own_class, is_own_module, module_name, module_of, qualified_name
from .reduction import own_attributes, reduced
from .values import VALUES

if TYPE_CHECKING:
    from .hashing import Encoder

__all__ = ["Treatment", "register_hasher", "treatment_for"]


Treatment = Callable[["Encoder", Any], bytes]

_STAND_INS: Final = {**VALUES, **ARRAYS, **FRAMES, **LIBRARIES}
_HEAP_TYPE: Final = 1 << 9
_KEYED_BY_VALUE: Final = frozenset(
    {
        FunctionType,
        bool,
        bytes,
        complex,
        dict,
        float,
        frozenset,
        int,
        list,
        object,
        set,
        str,
        tuple,
        type(None),
    }
)
_hashers: Final[dict[type, Callable[[Any], object]]] = {}
_found: Final[dict[type, Treatment]] = {}


def register_hasher(type_: type, function: Callable[[Any], object]) -> None:
    """Let `function(value)` stand for a value of a class that isn't yours, and of its subclasses.

    What it returns is hashed together with the class's name. A hasher of the subclass itself, or a
    `__job_key__` that the subclass defines, comes before it.

    Raises:
        TypeError: when `type_` isn't a class.
        ValueError: when it is a builtin that a key is always made of by value.

    >>> class Connection:
    ...     def __init__(self, url):
    ...         self.url, self.socket = url, object()
    >>> register_hasher(Connection, lambda connection: connection.url)
    """
    if not isinstance(type_, type):
        raise TypeError(f"register_hasher takes a class, not {type_!r}. Pass the class of the values.")
    if type_ in _KEYED_BY_VALUE:
        raise ValueError(f"{type_.__name__} is always keyed by value. Register a class of your own.")
    _hashers[type_] = function
    _found.clear()


def treatment_for(cls: type) -> Treatment:
    """How objects of exactly this class are hashed."""
    treatment = _found.get(cls)
    if treatment is None:
        if len(_found) > 10_000:  # classes made on the fly would otherwise live for ever
            _found.clear()
        treatment = _found[cls] = _of_the_user(cls) or _with_its_code(cls, _of_the_library(cls))
    return treatment


def _with_its_code(cls: type, treatment: Treatment) -> Treatment:
    if not is_own_class(cls) or issubclass(cls, type):
        return treatment

    def with_its_code(encoder: Encoder, value: Any) -> bytes:
        try:
            encoding = treatment(encoder, value)
        except Refusal as refusal:
            refusal.passes(cls)
            raise
        return encoder.with_methods(encoding, cls)

    return with_its_code


def _of_the_user(cls: type) -> Treatment | None:
    for base in cls.__mro__:
        if base in _hashers:
            return _by_hasher(cls, _hashers[base])
        if "__job_key__" in base.__dict__:
            return _by_job_key
    return None


def _of_the_library(cls: type) -> Treatment:
    if issubclass(cls, type):
        made = _STAND_INS.get(rooted_name(cls))
        return _class if made is None else _by_base(cls, cls, made)
    if issubclass(cls, ModuleType):
        return _module
    if issubclass(cls, Enum):
        return _by_stand_in(qualified_name(cls), _enum_member, leaf=True)
    names = [(base, rooted_name(base)) for base in cls.__mro__ if base is not object or cls is object]
    reasons = [NO_VALUE[name] for _, name in names if name in NO_VALUE]
    stand_ins = [(base, _STAND_INS[name]) for base, name in names if name in _STAND_INS]
    if not isinstance(getattr(cls, "__next__", _no_iterator), FunctionType):
        reasons.append("an iterator is used up by looking at it; pass a list")
    if reasons:
        return _refused(reasons[0])
    return _by_base(cls, *stand_ins[0]) if stand_ins else _by_reduction


def _no_iterator() -> None:
    """Stand for the `__next__` that a class has not."""


def _header(tag: bytes, label: str) -> bytes:
    return tag + dumps(label, 2)


def _by_stand_in(label: str, function: Callable[[Any], object], *, leaf: bool) -> Treatment:
    header = _header(b"o", label)

    def leaf_treatment(encoder: Encoder, value: Any) -> bytes:
        return encoder.wrap(header, function(value))

    def treatment(encoder: Encoder, value: Any) -> bytes:
        known = encoder.graph.enter(value)
        if known is not None:
            return known
        return encoder.graph.leave(value, encoder.wrap(header, function(value)))

    return leaf_treatment if leaf else treatment


def _by_base(cls: type, base: type, stand_in: StandIn) -> Treatment:
    label = stand_in.label or rooted_name(base)
    same_library = module_of(cls).partition(".")[0] == module_of(base).partition(".")[0]
    is_open = stand_in.is_open and (cls.__dictoffset__ or not stand_in.is_whole)
    function = _with_attributes(stand_in) if is_open else stand_in.function
    if stand_in.is_whole and (same_library or not cls.__dictoffset__):
        return _by_stand_in(qualified_name(cls), function, leaf=stand_in.leaf)
    if cls is base or (stand_in.sealed and same_library):
        return _by_stand_in(label, function, leaf=stand_in.leaf)
    reduces = cls.__reduce__ is not base.__reduce__ or cls.__reduce_ex__ is not base.__reduce_ex__
    if reduces and module_of(base) == "builtins":
        return _by_reduction

    def extended(value: Any) -> object:
        return Parts(
            {
                label: stand_in.function(value),
                "and": own_attributes(value, base, stand_in.internal | _kept_accessors(cls)),
            }
        )

    return _by_stand_in(qualified_name(cls), extended, leaf=False)


def _with_attributes(stand_in: StandIn) -> Callable[[Any], object]:
    def with_attributes(value: Any) -> object:
        cls = type(value)
        given = vars(value).keys() - stand_in.internal - _kept_accessors(cls)
        if stand_in.keeps_private:
            given = {name for name in given if not (name.startswith("_") or hasattr(cls, name))}
        if not given:
            return stand_in.function(value)
        attributes = Attributes({name: vars(value)[name] for name in given})
        return Parts({"value": stand_in.function(value), "attributes": attributes})

    return with_attributes


def _kept_accessors(cls: type) -> AbstractSet[str]:
    """Names under which pandas and polars keep in an object what `.str` or a registered namespace once gave."""
    accessors: AbstractSet[str] = getattr(cls, "_accessors", frozenset())
    return accessors


def _enum_member(member: Any) -> object:
    value = member._value_
    return member._name_, value if type(value) in {int, str, float, bool, bytes} else None


def _by_hasher(cls: type, function: Callable[[Any], object]) -> Treatment:
    header = _header(b"r", qualified_name(cls))

    def treatment(encoder: Encoder, value: Any) -> bytes:
        known = encoder.graph.enter(value)
        if known is not None:
            return known
        try:
            stand_in = function(value)
        except (RecursionError, MemoryError):
            raise
        except Exception as error:
            reason = f"the function that register_hasher was given for it raised {told(error)}"
            raise refuse(cls, reason) from error
        try:
            encoding = encoder.wrap(header, stand_in)
        except Refusal as refusal:
            name = qualified_name(cls)
            refusal.passes(
                cls, f"let the function that register_hasher was given for {name} return what can be keyed"
            )
            raise
        return encoder.graph.leave(value, encoding)

    return treatment


def _has_job_key(cls: type) -> bool:
    return any("__job_key__" in base.__dict__ for base in cls.__mro__)


def _by_job_key(encoder: Encoder, value: Any) -> bytes:
    known = encoder.graph.enter(value)
    if known is not None:
        return known
    name = qualified_name(type(value))
    try:
        key = value.__job_key__()
    except (RecursionError, MemoryError):
        raise
    except Exception as error:
        error.add_note(f"It was raised by {name}.__job_key__, which a job key was to be made of.")
        raise Raised(error) from error
    try:
        encoding = encoder.wrap(_header(b"k", name), key)
    except Refusal as refusal:
        cls = type(value)
        refusal.passes(cls, f"let {cls.__qualname__}.__job_key__ return what can be keyed")
        refusal.steps.append(".__job_key__()")
        raise
    return encoder.graph.leave(value, encoding)


def _by_reduction(encoder: Encoder, value: Any) -> bytes:
    if _has_job_key(type(value)):  # given to the class after its objects were first met
        return _by_job_key(encoder, value)
    known = encoder.graph.enter(value)
    if known is not None:
        return known
    header = _header(b"o", qualified_name(type(value)))
    try:
        encoding = encoder.wrap(header, reduced(value))
    except Refusal as refusal:
        refusal.passes(type(value))
        raise
    return encoder.graph.leave(value, encoding)


def _class(encoder: Encoder, cls: type) -> bytes:
    return encoder.code(cls) if cls.__flags__ & _HEAP_TYPE else encoder.name(cls)


def _module(encoder: Encoder, module: ModuleType) -> bytes:
    if is_own_module(module):
        return encoder.code(module)
    return encoder.wrap(_header(b"o", "module"), module_name(module.__name__))


def _refused(reason: str) -> Treatment:
    def treatment(_encoder: Encoder, value: Any) -> bytes:
        if _has_job_key(type(value)):
            return _by_job_key(_encoder, value)
        raise refuse(type(value), reason)

    return treatment
