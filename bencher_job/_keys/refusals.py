"""Knows which things have no value that two of them could share, only an identity or a life of their own."""

from __future__ import annotations

from typing import Final

__all__ = ["NO_VALUE"]

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
