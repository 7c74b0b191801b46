"""What has no value that two of them could share, only an identity or a life of its own, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from .exports import exported_name
from .provenance import is_own_class

__all__ = ["NO_VALUE", "leave_out", "tell_key"]

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
