import asyncio
import concurrent.futures
import contextvars
import ctypes
import dataclasses
import io
import itertools
import multiprocessing
import queue
import random
import socket
import sqlite3
import sys
import threading
import types
import weakref
from pathlib import Path

import pytest
import wrapt

from bencher_job import UnkeyableArgument, register_hasher

from .keys import arguments, key_of


def generator():
    yield 1


async def coroutine():
    pass


class Target:
    pass


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


@dataclasses.dataclass
class Config:
    lock: object


def closed(resource):
    resource.close()
    return resource


def a_frame():
    return sys._getframe()


def a_coroutine():
    made = coroutine()
    made.close()
    return made


def a_traceback():
    try:
        raise KeyError
    except KeyError as error:
        return error.__traceback__


def a_context_token():
    return contextvars.ContextVar("token").set(1)


WITHOUT_VALUE = {
    "lock": threading.Lock,
    "reentrant lock": threading.RLock,
    "condition": threading.Condition,
    "event": threading.Event,
    "semaphore": threading.Semaphore,
    "thread local": threading.local,
    "thread": lambda: threading.Thread(target=print),
    "process lock": multiprocessing.get_context("spawn").Lock,
    "process": lambda: multiprocessing.get_context("spawn").Process(target=print),
    "asyncio lock": asyncio.Lock,
    "future": concurrent.futures.Future,
    "executor": lambda: concurrent.futures.ThreadPoolExecutor(1),
    "file": lambda: closed(Path(__file__).open()),  # noqa: SIM115
    "text stream": lambda: io.StringIO("a"),
    "byte stream": lambda: io.BytesIO(b"a"),
    "socket": lambda: closed(socket.socket()),
    "database": lambda: closed(sqlite3.connect(":memory:")),
    "generator": generator,
    "coroutine": a_coroutine,
    "list iterator": lambda: iter([1]),
    "zip": lambda: zip([1], [2], strict=True),
    "count": lambda: itertools.count(),
    "frame": a_frame,
    "traceback": a_traceback,
    "weak reference": lambda: weakref.ref(Target),
    "weak dict": weakref.WeakValueDictionary,
    "context variable": lambda: contextvars.ContextVar("variable"),
    "context": contextvars.copy_context,
    "context token": a_context_token,
    "pointer": lambda: ctypes.pointer(ctypes.c_int(1)),
    "queue": queue.Queue,
    "simple queue": queue.SimpleQueue,
    "system random": random.SystemRandom,
    "object": object,
}


@pytest.mark.parametrize("make", WITHOUT_VALUE.values(), ids=WITHOUT_VALUE)
def test_a_value_without_a_key_is_refused_at_any_depth(make):
    value = make()
    for wrapped in (value, [value], {"a": value}, {"a": (1, {2: value})}, Holder(attribute=value)):
        with pytest.raises(UnkeyableArgument) as caught:
            key_of(wrapped)
        assert caught.value.type_name.rpartition(".")[2] == type(value).__qualname__.rpartition(".")[2]


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "cfg"),
        ([1, LOCK], "cfg[1]"),
        ({"model": LOCK}, "cfg['model']"),
        ({1: LOCK}, "cfg[1]"),
        ({(1, 2): LOCK}, "cfg[<tuple>]"),
        ({"model": Holder(lock=LOCK)}, "cfg['model'].lock"),
        (Config(LOCK), "cfg.lock"),
        (types.SimpleNamespace(lock=[LOCK]), "cfg.lock[0]"),
        (types.MappingProxyType({"a": LOCK}), "cfg['a']"),
        (Holder(items=({"deep": [0, Config(LOCK)]},)), "cfg.items[0]['deep'][1].lock"),
        (LOCK.acquire, "cfg.__self__"),
    ],
)
def test_the_error_names_the_place_and_the_type(value, path):
    with pytest.raises(UnkeyableArgument, match="a lock has no value, only an identity") as caught:
        arguments.key(1, value)
    assert caught.value.path == path
    assert caught.value.type_name == "_thread.lock"


def test_a_long_path_is_abridged():
    value = LOCK
    for _ in range(60):
        value = [value]
    with pytest.raises(UnkeyableArgument) as caught:
        key_of(value)
    assert caught.value.path == "value" + "[0]" * 10 + "..." + "[0]" * 10


class Unspeakable(Exception):
    def __str__(self):
        raise LookupError


class Broken:
    def __init__(self, error):
        self.error = error

    def __reduce_ex__(self, protocol):
        raise self.error


class Registered(Broken):
    pass


@pytest.mark.parametrize("cls", [Broken, Registered])
@pytest.mark.parametrize(
    ("error", "text"),
    [(RuntimeError("not today"), "raised RuntimeError: not today"), (Unspeakable(), r"raised Unspeakable\.")],
)
def test_the_refusal_quotes_the_error_of_a_reduction_or_of_a_hasher(cls, error, text):
    register_hasher(Registered, lambda value: value.__reduce_ex__(4))
    with pytest.raises(UnkeyableArgument, match=text) as caught:
        key_of([cls(error)])
    assert caught.value.__cause__ is error


def test_a_partial_of_wrapt_is_refused_since_it_hides_its_arguments():
    with pytest.raises(UnkeyableArgument, match=r"pass functools\.partial"):
        key_of(wrapt.PartialCallableObjectProxy(max, 1))


class Wrong:
    def __job_key__(self):
        raise LookupError("my own mistake")


def test_an_error_in_a_job_key_reaches_the_caller():
    with pytest.raises(LookupError, match="my own mistake"):
        key_of([Wrong()])


class Partly:
    def __job_key__(self):
        return {"lock": LOCK}


def test_the_path_leads_through_a_job_key():
    with pytest.raises(UnkeyableArgument) as caught:
        key_of(Partly())
    assert caught.value.path == "value.__job_key__()['lock']"
