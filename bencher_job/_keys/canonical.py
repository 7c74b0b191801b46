"""Canonical forms: what stands for a value while it is hashed.

An object that isn't a builtin container is hashed by its class's label and by a stand-in: plain values, or
nodes of the kinds below, that hold all of what makes two objects of the class the same, and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from .._errors import UnkeyableArgument
from .names import exported_name, is_own_class, module_of, qualified_name

__all__ = [
    "NO_VALUE",
    "Attributes",
    "Content",
    "Named",
    "Parts",
    "Raised",
    "Refusal",
    "StandIn",
    "leave_out",
    "refuse",
    "rooted_name",
    "tell_key",
    "told",
]


_LOCK: Final = "a lock has no value, only an identity"
_STREAM: Final = "reading moves a stream on, and what it reads may change; pass what it holds, or its path"
_ITERATOR: Final = "an iterator is used up by looking at it; pass a list"
_RUNNING: Final = "it is a piece of running code"
_WEAK: Final = "what a weak reference refers to may vanish at any time"
_PROCESS: Final = "it is work under way in this process"
_CONNECTION: Final = "a connection has no value, only another end"
_CONTEXT: Final = "its value depends on where it is looked at; pass the value"
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
    "it is a query plan, not data; pass what its collect() gives": "polars.LazyFrame",
    "the operating system's random generator has no state; pass random.Random(seed)": "random.SystemRandom",
    "a bare object() has no value, only an identity; use a member of an Enum": "object",
}

NO_VALUE: Final = {name: reason for reason, names in _BY_REASON.items() for name in names.split()}
"""By the name that `rooted_name` gives to a class: why objects of it and of its subclasses have no key."""


def leave_out(parameter: str, steps: Sequence[str]) -> str:
    """Say how to leave a value out of the key, and nothing else with it.

    Args:
        parameter: the parameter that it came in, with its stars.
        steps: the way from the parameter's value to it.
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


def tell_key(cls: type) -> str:
    """Say how the objects of a class can get a key; empty where nothing in a program can name the class.

    >>> import sqlite3
    >>> tell_key(sqlite3.Connection)
    'call register_hasher(sqlite3.Connection, function), where function(value) returns what makes two of them the same'
    """
    same = "returns what makes two of them the same"
    if is_own_class(cls):
        name = cls.__qualname__.rpartition("<locals>.")[2]
        return f"give the class {name} a method __job_key__(self) that {same}" if _is_written(cls) else ""
    exported = exported_name(cls)
    if exported is None or exported[0] == "builtins":
        return ""
    return f"call register_hasher({exported[1]}, function), where function(value) {same}"


def _is_written(cls: type) -> bool:
    """Whether a class comes of a `class` statement, as far as anybody can tell, and not of a call."""
    if "<locals>" in cls.__qualname__:
        return True
    try:
        return isinstance(attrgetter(cls.__qualname__)(sys.modules.get(cls.__module__)), type)
    except AttributeError:
        return False


class Attributes(dict[str, object]):
    """What an object holds under names of its own; an error's path goes through them as `.name`."""


class Parts(dict[str, object]):
    """What an object is made of, under names of ours, which no path mentions."""


class Named(NamedTuple):
    """A class or a function that is meant by its name, whatever its code."""

    obj: object


class Content(NamedTuple):
    """The bytes of a large buffer, block by block, so that they needn't be copied as a whole."""

    nbytes: int
    blocks: Iterable[bytes | bytearray | memoryview]


class Refusal(Exception):  # nobody sees it: it becomes an UnkeyableArgument
    """A value has no key; while this unwinds, each container it passes adds its step to the path.

    Attributes:
        steps: the way from the refused value outwards.
        remedy: what to do about a class on this way: the user's innermost, or else the outermost.
    """

    def __init__(self, type_name: str, reason: str, remedy: str = "") -> None:
        super().__init__(type_name, reason)
        self.type_name = type_name
        self.reason = reason
        self.steps: list[str] = []
        self.remedy = remedy
        self._is_final = False

    def at(self, parameter: str) -> UnkeyableArgument:
        """The error that the caller sees, for a value that came in a parameter, which has its stars."""
        steps = self.steps[::-1]
        remedies = [leave_out(parameter, steps), self.remedy]
        if len(steps) > 20:
            steps = [*steps[:10], "...", *steps[-10:]]
        path = parameter.lstrip("*") + "".join(steps)
        return UnkeyableArgument(path, self.type_name, self.reason, sentence(*remedies))

    def passes(self, cls: type, remedy: str | None = None) -> None:
        """Note that an object of a class holds the value, and what can be done about that class."""
        if not self._is_final:
            self.remedy = remedy or tell_key(cls) or self.remedy
            self._is_final = remedy is not None or is_own_class(cls)


class Raised(Exception):  # nobody sees it: the error that it carries reaches the caller
    """A `__job_key__` of the user's raised an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class StandIn(NamedTuple):
    """How the objects of one class, and of its subclasses, are taken apart.

    Attributes:
        function: gives what stands for an object.
        label: the class in the key; by default its own name below its library's.
        leaf: an object refers to none that could refer back to it.
        internal: attributes that the class keeps for itself, which don't count in an object of a subclass.
        sealed: the library's own subclasses go by `label` too, since which of them it is says nothing.
        is_open: an object of the class itself can be given attributes, which count.
        keeps_private: names that begin with an underscore, and those that its class has as well, are internal, too.
        is_whole: an object of the library's own subclasses, or of one that has no room for attributes, holds nothing
            else, and goes by the name of its class.
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
    """A class's name below its library's, without the modules between, which move from version to version.

    >>> from collections import OrderedDict
    >>> from json.decoder import JSONDecoder
    >>> rooted_name(OrderedDict), rooted_name(JSONDecoder), rooted_name(dict)
    ('collections.OrderedDict', 'json.JSONDecoder', 'dict')
    """
    library = module_of(cls).partition(".")[0]
    return cls.__qualname__ if library in {"", "builtins"} else f"{library}.{cls.__qualname__}"


def told(error: BaseException) -> str:
    """Name an error with its text, as far as it has one."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a foreign class's own text
        return type(error).__name__


def refuse(cls: type, reason: str) -> Refusal:
    """The refusal of a value of this class."""
    return Refusal(qualified_name(cls), reason, tell_key(cls))


def sentence(*remedies: str) -> str:
    """Join what can be done, as a sentence."""
    text = ", or ".join(filter(None, remedies))
    return f"{text[:1].upper()}{text[1:]}." if text else ""
