"""Compiled functions are keyed by the Python function and the options, not by their compiled versions."""

import functools

import numpy as np
import pytest

from bencher_job import cached_job

from .keys import key_of

numba = pytest.importorskip("numba")

pytestmark = pytest.mark.filterwarnings("ignore")


def python(step):
    if step == 1:
        return lambda x: x + 1
    return lambda x: x + 2


def filling():
    def fill(x, y):
        y[0] = x[0] + 1

    return fill


def reading(step):
    if step == 1:
        return lambda x: x[0] + 1
    return lambda x: x[0] + 2


COMPILED = {
    "njit": (lambda step, **options: numba.njit(**options)(python(step)), {"fastmath": True}),
    "vectorize": (lambda step, **options: numba.vectorize(**options)(python(step)), {"fastmath": True}),
    "typed vectorize": (
        lambda step, types=("f8(f8)",), **options: numba.vectorize(list(types), **options)(python(step)),
        {"types": ("f8(f8)", "i8(i8)")},
    ),
    "cfunc": (lambda step, **options: numba.cfunc("f8(f8)", **options)(python(step)), {"fastmath": True}),
    "stencil": (lambda step, **options: numba.stencil(**options)(reading(step)), {"cval": 3.0}),
}


def key(function, *args):
    return cached_job(function).key(*args)


def argument(x):
    return x


def calling(compiled):
    def call(x):
        return compiled(x)

    return call


PLACES = {
    "argument": lambda compiled: key(argument, compiled),
    "in an argument": lambda compiled: key(argument, {"a": [compiled]}),
    "in a closure": lambda compiled: key(calling(compiled), 1),
    "as the function": lambda compiled: key(compiled, 1),
}


@functools.cache
def compiled(kind):
    """A function, the same again, another one, and the first one with other options."""
    make, options = COMPILED[kind]
    return make(1), make(1), make(2), make(1, **options)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", COMPILED)
def test_the_python_function_and_the_options_count(kind, place):
    one, same, *others = map(PLACES[place], compiled(kind))
    assert one == same
    assert one not in others
    assert one != PLACES[place](python(1))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", COMPILED)
def test_compiled_versions_do_not_count(kind, place):
    made, key_of = COMPILED[kind][0](1), PLACES[place]
    before = key_of(made)
    if kind == "cfunc":
        assert made.ctypes(1.0) == 2.0
    else:
        made(np.ones(4))
    assert key_of(made) == before


def test_a_typed_container_counts_by_its_content():
    one, other = numba.typed.List([1, 2]), numba.typed.List([1, 2])
    assert key_of(one) == key_of(other)
    other.append(3)
    assert key_of(one) != key_of(other)
    assert key_of(one) != key_of(numba.typed.List([1.0, 2.0]))
    assert key_of(one) != key_of([1, 2])
