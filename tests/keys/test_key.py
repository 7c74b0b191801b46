"""The key of a call depends on the current function, with its signature and its defaults."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

from bencher_job import UnkeyableArgument, cached_job

MISSING = object()
LOCK = threading.Lock()


class Labelled:
    def __init__(self, label: object) -> None:
        self.label = label


def test_calls_that_share_arguments_have_the_keys_of_single_ones() -> None:
    first, second = Labelled([1]), [Labelled(1), Labelled(2)]
    shared = [first, second, [first, second], {"a": first}, 3, ()]

    @cached_job
    def f(x: Any, y: Any) -> int:
        return 1

    calls = list(itertools.product(shared, shared))
    for call in calls[::2]:
        f(*call)
    assert list(f.map(*zip(*calls, strict=True))) == [1] * len(calls)
    assert {record.key for record in f.cache.records()} == {f.key(*call) for call in calls}
    assert f.cache.info().computed == len(calls)


@pytest.fixture
def function() -> Any:
    def f(a: object, c: object = 1, *, k: object = 1) -> object:
        return a, c, k

    return f


@pytest.mark.parametrize("code", ["deep", "own", "none"])
def test_swapped_defaults_are_bound(function: Any, code: Any) -> None:
    cached = cached_job(code=code)(function)
    old = cached.key(0)
    assert cached(0) == (0, 1, 1)
    function.__defaults__ = (5,)
    function.__kwdefaults__ = {"k": 7}
    assert cached.key(0) == cached.key(0, 5, k=7) != old
    assert cached(0) == (0, 5, 7)
    function.__kwdefaults__["k"] = 8
    assert cached(0) == (0, 5, 8)
    function.__defaults__, function.__kwdefaults__ = (1,), {"k": 1}
    assert cached.key(0) == old


def test_swapped_code_has_its_own_signature(function: Any) -> None:
    cached = cached_job(function)
    cached.key(0)
    function.__code__ = (lambda a, b, c, *, k: (a, b, c, k)).__code__
    with pytest.raises(TypeError, match="missing"):
        cached.key(0)
    assert cached.key(0, 1) == cached.key(a=0, b=1, c=1, k=1)
    assert cached(0, 2) == (0, 2, 1, 1)


@pytest.mark.parametrize("default", [MISSING, LOCK], ids=["sentinel", "lock"])
@pytest.mark.parametrize("code", ["deep", "own", "none"])
def test_a_default_without_a_key_counts_as_the_default(default: object, code: Any) -> None:
    def f(x: object, missing: object = default, after: object = 1) -> object:
        return x, missing, after

    key = cached_job(code=code)(f).key
    assert key([1]) == key([1], default)
    assert len({key([1]), key([1], None), key([2]), key([1], after=2)}) == 4
    for unkeyable in (object(), [default], threading.Lock()):
        with pytest.raises(UnkeyableArgument, match="missing"):
            key([1], unkeyable)
    with pytest.raises(UnkeyableArgument, match="x"):
        key(default)


def test_a_default_that_contains_a_value_without_a_key_is_refused() -> None:
    def f(x: object, settings: object = {"lock": LOCK, "rate": 1}) -> object:
        return x, settings

    with pytest.raises(UnkeyableArgument, match="lock"):
        cached_job(f).key(1)


def test_a_default_with_a_key_counts_by_its_value() -> None:
    def f(x: object, y: object = (1, (2,))) -> object:
        return x, y

    assert cached_job(f).key(1) == cached_job(f).key(1, (1, (2,)))


def test_a_default_that_changes_in_place_is_read_at_each_call() -> None:
    extra = [1]

    @cached_job
    def f(x: int, more: list[int] = extra) -> int:
        return x + sum(more)

    assert [f(1) for _ in range(5)] == [2] * 5
    extra.append(5)
    assert f(1) == 7
    extra.pop()
    assert f(1) == 2


def test_a_parameter_may_have_any_name() -> None:
    def f(self: object, args: object, function: object) -> object:
        return self, args, function

    key = cached_job(f).key
    assert key(1, 2, 3) == key(self=1, args=2, function=3)
