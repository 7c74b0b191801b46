"""Foreign code counts by the name that programs import, and with the user's code that it was given."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.environment import unmeasured

from .keys import code_key, key_of, tracked

Load = Callable[..., ModuleType]


MANY = """
    import contextlib, functools
    from abc import ABC, abstractmethod
    from argparse import ArgumentParser
    from asyncio import current_task, gather
    from bisect import bisect
    from collections import Counter, defaultdict, deque
    from collections.abc import Sequence
    from concurrent.futures import ProcessPoolExecutor
    from copy import deepcopy
    from csv import reader
    from datetime import datetime, timezone
    from decimal import Decimal, getcontext
    from enum import Enum, auto
    from fractions import Fraction
    from functools import lru_cache, partial, reduce
    from glob import glob
    from heapq import heappush
    from io import BytesIO, StringIO, open as io_open
    from itertools import chain, product
    from json import dumps
    from logging import getLogger
    from math import sqrt
    from multiprocessing import Pool
    from operator import add, itemgetter
    from os import environ, getcwd
    from os.path import islink, join, lexists, normpath
    from pathlib import Path, PurePath
    from pickle import loads
    from random import choice, gauss, random, seed
    from re import error, compile as compile_pattern
    from statistics import mean
    from struct import pack
    from subprocess import run
    from tempfile import mkdtemp
    from threading import Event, Lock
    from time import perf_counter
    from typing import Annotated, Literal, NamedTuple
    from urllib.parse import quote
    from uuid import uuid4
    from warnings import warn
    from zipfile import Path as ZipPath, ZipFile

    OPENERS = {"plain": open, "size": len}
    LOCK = Lock()
    LOG = getLogger("bench")

    @contextlib.contextmanager
    def opened(path):
        with open(path) as file:
            yield file

    @functools.singledispatch
    def shown(x):
        return str(x)

    @shown.register
    def _(x: int):
        return hex(x)

    class Kind(Enum):
        ONE = auto()

    class Step(ABC):
        @abstractmethod
        def run(self): ...

    class Pair(NamedTuple):
        a: int = 1

    class Folder(PurePath):
        pass

    @opened("a")
    def decorated():
        return 1

    def f(x):
        from concurrent.futures import ThreadPoolExecutor
        a = ArgumentParser, current_task, gather, bisect, Counter, defaultdict, deque, Sequence
        b = ProcessPoolExecutor, deepcopy, reader, datetime.now(timezone.utc), Decimal, getcontext, Fraction
        c = lru_cache, partial, reduce, glob, heappush, BytesIO, StringIO, io_open, chain.from_iterable, product
        d = dumps, sqrt, Pool, add, itemgetter, getcwd, islink, join, lexists, normpath, Path, loads
        e = choice, gauss, random, seed, error, compile_pattern, mean, pack, run, mkdtemp, Event, Lock
        g = perf_counter, Annotated, Literal, quote, uuid4, warn, ZipPath, ZipFile, open, print, ThreadPoolExecutor
        return a, b, c, d, e, g, OPENERS, LOCK, LOG, opened, shown, Kind, Step, Pair, Folder, decorated
"""


def test_names_of_the_standard_library_are_the_same_on_each_python(tmp_path: Path) -> None:
    """In a process of its own: other tests' libraries put functions of theirs into standard modules."""
    (tmp_path / "bench.py").write_text(textwrap.dedent(MANY))
    program = "import bench; from tests.keys.keys import code_key; print(code_key(bench.f)[:16])"
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = unmeasured() | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == "63c12ce4a6a6e091", ran.stderr


@pytest.mark.parametrize(
    "statement",
    ["from random import choice as draw, seed", "from numpy.random import choice as draw, seed"],
)
def test_a_method_of_a_hidden_generator_has_no_state(load: Load, statement: str) -> None:
    module = load(f"{statement}\ndef f(x):\n    seed(x)\n    return draw([1, 2])\n")
    tracker = tracked(module.f)
    before = tracker()
    module.f(1)
    module.f(2)
    assert tracker() == before


def test_an_own_generator_has_a_state(load: Load) -> None:
    module = load("import random\ndraw = random.Random(1).choice\ndef f(x):\n    return draw(x)\n")
    tracker = tracked(module.f)
    before = tracker()
    module.f([1, 2])
    assert tracker() != before


@pytest.mark.parametrize(
    "definition",
    [
        "class scaled(ContextDecorator):\n"
        "    def __init__(self, k): self.k = k\n"
        "    def __enter__(self): return 1\n"
        "    def __exit__(self, *error): pass\n",
        "@contextmanager\ndef scaled(k):\n    yield 1\n",
        "@contextmanager\ndef scaled(k=0, *, other=0):\n    yield 1\n",
    ],
    ids=["class", "generator", "defaults"],
)
def test_own_code_that_a_foreign_decorator_was_given_counts(load: Load, definition: str) -> None:
    source = (
        "from contextlib import ContextDecorator, contextmanager\n"
        + definition
        + "@scaled(3)\ndef g(x):\n    return x\ndef f(x):\n    return g(x)\n"
    )
    one = code_key(load(source).f)
    assert code_key(load(source).f) == one
    for changed in (
        source.replace("(3)", "(5)"),
        source.replace("return 1", "return 2").replace("yield 1", "yield 2"),
    ):
        assert code_key(load(changed).f) != one


LIBRARY = """
    import functools
    calls = {}

    def at_column(number, *, unit="m", ways=("a", len)):
        return lambda text, width=number * 2: (text, number, unit, ways, width)

    def counted(function):
        seen, count = {}, 0
        @functools.wraps(function)
        def counting(*args):
            nonlocal count
            count += 1
            seen[args] = count
            return function(*args)
        return counting
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A foreign module, as if it were installed."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "somebodys.py").write_text(textwrap.dedent(LIBRARY))
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("somebodys")
    sys.modules.pop("somebodys")


def test_functions_that_a_library_function_made_differ(library: ModuleType) -> None:
    made = [
        library.at_column(1),
        library.at_column(2),
        library.at_column(True),
        library.at_column(1, unit="s"),
        library.at_column(1, ways=("a", abs)),
        library.counted(library.at_column(1)),
        library.counted(library.at_column(2)),
        library.at_column,
        library.counted,
    ]
    assert len(set(map(key_of, made))) == len(made)
    assert key_of(library.at_column(1)) == key_of(made[0])


def test_functions_that_a_library_made_differ_as_globals(load: Load, library: ModuleType) -> None:
    module = load("import somebodys\nat = somebodys.at_column(1)\ndef f(x):\n    return at(x)\n")
    before = code_key(module.f)
    module.at = library.at_column(2)
    assert code_key(module.f) != before
    module.at = library.at_column(1)
    assert code_key(module.f) == before


def test_the_state_of_a_library_function_does_not_count(library: ModuleType) -> None:
    counting = library.counted(library.at_column(1))
    before = key_of(counting)
    counting("a")
    assert key_of(counting) == before


def test_a_builtin_that_was_replaced_is_noticed(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = tracked(load("def f(x):\n    return ascii(x)\n").f)
    before = tracker()
    with monkeypatch.context() as patch:
        patch.setattr("builtins.ascii", lambda x: "replaced")
        assert tracker() != before
    assert tracker() == before


@pytest.mark.parametrize("kind", ["OrderedDict", "Counter"])
def test_an_attribute_of_a_global_container_is_noticed(load: Load, kind: str) -> None:
    module = load(
        f"from collections import {kind}\nthing = {kind}(a=1)\ndef f(x):\n    return thing.unit, x\n"
    )
    tracker = tracked(module.f)
    before = tracker()
    assert tracker() == before
    module.thing.unit = "m"
    assert tracker() != before
