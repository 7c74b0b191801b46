"""Canonical forms: the plain values that an object is hashed by, and those of Python's own values.

An object that isn't a builtin container is hashed by its class's label and its canonical form. The form consists of
plain values and of the types below. It holds exactly what two objects of the class must share to be the same.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import WRAPPER_ASSIGNMENTS
from operator import attrgetter
from pickle import PickleError
from typing import Any, Final, NamedTuple

from .._errors import UnkeyableArgument
from .names import exported_name, holder_of, is_own_class, module_name, module_of, qualified_name

_LOCK: Final = "a lock has no value, only an identity"
_STREAM: Final = (
    "reading a stream moves its position, and its content may change; pass the content or the path"
)
_ITERATOR: Final = "reading an iterator exhausts it; pass a list"
_RUNNING: Final = "it is running code"
_WEAK: Final = "the object of a weak reference may vanish at any time"
_PROCESS: Final = "it is work in progress in this process"
_CONNECTION: Final = "a connection has no value of its own"
_CONTEXT: Final = "its value depends on the current context; pass the value"
_ADDRESS: Final = "an address means nothing in another process"

_BY_REASON: Final = {
    _LOCK: """
        _thread.lock _thread.RLock _thread._local threading.Barrier threading.Condition threading.Event
        threading.Semaphore threading._RLock multiprocessing.SemLock
        asyncio.Condition asyncio.Event asyncio.Lock asyncio.Semaphore
    """,
    _STREAM: "_io._IOBase io.IOBase mmap.mmap tempfile._TemporaryFileWrapper",
    _ITERATOR: "async_generator generator",
    _RUNNING: "coroutine frame traceback",
    _WEAK: """
        weakref.CallableProxyType weakref.ProxyType weakref.ReferenceType weakref.finalize
        weakref.WeakKeyDictionary weakref.WeakSet weakref.WeakValueDictionary
    """,
    _PROCESS: """
        _asyncio.Future asyncio.AbstractEventLoop asyncio.Future concurrent.Executor concurrent.Future
        multiprocessing.BaseProcess subprocess.Popen threading.Thread
    """,
    _CONNECTION: """
        _socket.socket _ssl._SSLContext sqlite3.Connection sqlite3.Cursor
        multiprocessing.Queue multiprocessing.SimpleQueue multiprocessing._ConnectionBase
        _queue.SimpleQueue queue.Queue
    """,
    _CONTEXT: "_contextvars.Context _contextvars.ContextVar _contextvars.Token",
    _ADDRESS: "_ctypes.CFuncPtr _ctypes._Pointer ctypes.c_char_p ctypes.c_void_p ctypes.c_wchar_p",
    "it hides its arguments; pass functools.partial": (
        "PartialCallableObjectProxy _wrappers.PartialCallableObjectProxy wrapt.PartialCallableObjectProxy"
    ),
    "it is a query plan, not data; pass the result of its collect()": "polars.LazyFrame",
    "the operating system's random generator has no state; pass random.Random(seed)": "random.SystemRandom",
    "a bare object() has no value, only an identity; use a member of an Enum": "object",
}

NO_VALUE: Final = {name: reason for reason, names in _BY_REASON.items() for name in names.split()}
"""Why objects of a class and of its subclasses have no key, by the `rooted_name` of the class."""


def ignore_remedy(parameter: str, steps: Sequence[str]) -> str:
    """Describe how to leave this value, and nothing else, out of the key.

    Args:
        parameter: the parameter that the value was passed in, with its stars.
        steps: the path from the parameter's value to it.
    """
    if not steps and not parameter.startswith("*"):
        ignored = repr(parameter)
    elif parameter.startswith("**") and len(steps) == 1 and steps[0] != f"[{parameter[2:]!r}]":
        ignored = steps[0][1:-1]
    else:
        return (
            "pass it as a keyword argument of its own, and leave that out of the key with ignore=(its name,)"
        )
    return f"leave it out of the key with ignore=({ignored},) if results don't depend on it"


def key_remedy(cls: type) -> str:
    """Describe how to give the objects of a class a key; empty if a program can't name the class.

    >>> import sqlite3
    >>> key_remedy(sqlite3.Connection)
    'call register_hasher(sqlite3.Connection, function), where function(value) returns what identifies it'
    """
    same = "returns what identifies it"
    if is_own_class(cls):
        name = cls.__qualname__.rpartition("<locals>.")[2]
        return f"give the class {name} a method __job_key__(self) that {same}" if _is_written(cls) else ""
    exported = exported_name(cls)
    if exported is None or exported[0] == "builtins":
        return ""
    return f"call register_hasher({exported[1]}, function), where function(value) {same}"


def _is_written(cls: type) -> bool:
    """Whether a class was probably made by a `class` statement, not by a call."""
    if "<locals>" in cls.__qualname__:
        return True
    try:
        return isinstance(attrgetter(cls.__qualname__)(sys.modules.get(module_of(cls))), type)
    except AttributeError:
        return False


class Attributes(dict[str, object]):
    """Values under the object's own names; the path in an error shows them as `.name`."""


class Parts(dict[str, object]):
    """Values under our names, which the path in an error omits."""


class ByName(NamedTuple):
    """A class or a function that is hashed by its name, not by its code."""

    obj: object


class Content(NamedTuple):
    """The bytes of a large buffer, block by block, to avoid copying it as a whole."""

    nbytes: int
    blocks: Iterable[bytes | bytearray | memoryview]


class Refusal(Exception):  # internal: it becomes an UnkeyableArgument
    """A value has no key. Each container that this passes through adds its step to the path.

    Attributes:
        steps: the path from the refused value outwards.
        remedy: what to do about a class on this path: the innermost of the user's classes, or else the outermost class.
    """

    def __init__(self, type_name: str, reason: str, remedy: str = "") -> None:
        super().__init__(type_name, reason)
        self.type_name = type_name
        self.reason = reason
        self.steps: list[str] = []
        self.remedy = remedy
        self._is_final = False

    def as_error(self, parameter: str) -> UnkeyableArgument:
        """Return the error for the caller; `parameter` has its stars."""
        steps = self.steps[::-1]
        remedies = [ignore_remedy(parameter, steps), self.remedy]
        if len(steps) > 20:
            steps = [*steps[:10], "...", *steps[-10:]]
        path = parameter.lstrip("*") + "".join(steps)
        return UnkeyableArgument(path, self.type_name, self.reason, sentence(*remedies))

    def note_holder(self, cls: type, remedy: str | None = None) -> None:
        """Note that an object of this class holds the value, and what to do about the class."""
        if not self._is_final:
            self.remedy = remedy or key_remedy(cls) or self.remedy
            self._is_final = remedy is not None or is_own_class(cls)


class Raised(Exception):  # internal: the caller gets `error`
    """A user's `__job_key__` raised an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class CanonicalForm(NamedTuple):
    """How to make the canonical form of the objects of a class and of its subclasses.

    Attributes:
        function: returns the form of an object.
        label: the name of the class in the key; by default its `rooted_name`.
        leaf: whether an object refers to nothing that could refer back to it.
        internal: private attributes of the class, which don't count in an object of a subclass.
        sealed: whether the library's own subclasses are hashed under `label` too.
        is_open: whether an object of the class itself can have attributes, which then count.
        keeps_private: whether names that begin with an underscore, and names that the class has as well, are internal,
            too.
        is_whole: whether the form covers objects of the library's own subclasses, and of subclasses without a
            `__dict__`, as a whole; these are hashed under their own class's name.
    """

    function: Callable[[Any], object]
    label: str = ""
    leaf: bool = False
    sealed: bool = False
    is_whole: bool = False
    internal: frozenset[str] = frozenset()
    is_open: bool = False
    keeps_private: bool = False


def rooted_name(cls: type) -> str:
    """Return the name of a class with its top-level package, without the modules between, which depend on the version.

    >>> from collections import OrderedDict
    >>> from json.decoder import JSONDecoder
    >>> rooted_name(OrderedDict), rooted_name(JSONDecoder), rooted_name(dict)
    ('collections.OrderedDict', 'json.JSONDecoder', 'dict')
    """
    library = module_of(cls).partition(".")[0]
    return cls.__qualname__ if library in {"", "builtins"} else f"{library}.{cls.__qualname__}"


def error_text(error: BaseException) -> str:
    """Return the type and the text of an error."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - its `__str__` may raise anything
        return type(error).__name__


def refuse(cls: type, reason: str) -> Refusal:
    """Make the refusal of a value of this class."""
    return Refusal(qualified_name(cls), reason, key_remedy(cls))


def sentence(*remedies: str) -> str:
    """Join remedies to a sentence."""
    text = ", or ".join(filter(None, remedies))
    return f"{text[:1].upper()}{text[1:]}." if text else ""


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
    form = Attributes(__wrapped__=value.__wrapped__, _self_wrapper=getattr(value, "_self_wrapper", None))
    enabled = getattr(value, "_self_enabled", None)
    return form if enabled is None else Attributes(form, _self_enabled=enabled)


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


def _model(model: Any) -> object:
    """Return what a pydantic model holds beside its fields; whether a field was set or defaulted doesn't count."""
    extra, private = model.__pydantic_extra__, model.__pydantic_private__
    return Parts({"extra": Attributes(extra or {}), "private": Attributes(private or {})})


def _random(value: Any) -> object:
    """Return the state of a generator; the shared one behind `random.random` counts by name."""
    shared = getattr(sys.modules["random"], "_inst", None)
    return "random" if value is shared else value.getstate()


VALUES: Final = {
    # for objects of subclasses; the builtins themselves have their own encodings
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
    # numbers
    "decimal.Decimal": CanonicalForm(_decimal, leaf=True),
    "fractions.Fraction": CanonicalForm(lambda value: (value.numerator, value.denominator), leaf=True),
    "uuid.UUID": CanonicalForm(lambda value: value.int, leaf=True),
    # times
    "datetime.datetime": CanonicalForm(_date_and_time),
    "datetime.time": CanonicalForm(_time),
    "datetime.date": CanonicalForm(lambda value: (value.year, value.month, value.day), leaf=True),
    "datetime.timedelta": CanonicalForm(
        lambda value: (value.days, value.seconds, value.microseconds), leaf=True
    ),
    "datetime.timezone": CanonicalForm(lambda value: (value.utcoffset(None), value.tzname(None))),
    "zoneinfo.ZoneInfo": CanonicalForm(zone_name, leaf=True),
    # paths and addresses
    **{
        f"pathlib.{name}": CanonicalForm(lambda value: value.parts, leaf=True)
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
    **{
        f"ipaddress.IPv{version}{name}": CanonicalForm(str, leaf=True)
        for version in (4, 6)
        for name in ("Interface", "Address", "Network")
    },
    # containers
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
    # buffers
    "bytearray": CanonicalForm(_bytes, leaf=True),
    "memoryview": CanonicalForm(_memoryview, leaf=True),
    "array.array": CanonicalForm(_array, leaf=True),
    # callables
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
    "wrapt.ObjectProxy": CanonicalForm(_transparent, internal=_OF_WRAPPERS),
    "wrapt.BaseObjectProxy": CanonicalForm(_transparent, internal=_OF_WRAPPERS),
    **{
        name: CanonicalForm(_transparent, label="wrapt.ObjectProxy", internal=_OF_WRAPPERS)
        for name in ("ObjectProxy", "_wrappers.ObjectProxy")  # of wrapt 1, whose classes in C name no package
    },
    # objects with a state
    "_struct.Struct": CanonicalForm(lambda value: value.format, leaf=True, label="struct.Struct"),
    "re.Pattern": CanonicalForm(lambda value: (value.pattern, value.flags), leaf=True),
    "pydantic.BaseModel": CanonicalForm(_model),
    "random.Random": CanonicalForm(_random, is_open=True),
}
"""Canonical forms by the `rooted_name` of a class."""
