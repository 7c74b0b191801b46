"""The key of a call depends on the current function, with its signature and its defaults."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job import UnkeyableArgument
from bencher_job._keys import JobKeys, Known
from bencher_job._options import CodeScope, KeyOptions

MISSING = object()
LOCK = threading.Lock()


class Labelled:
    def __init__(self, label: object) -> None:
        self.label = label


parts = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.builds(Labelled, st.integers()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(parts, parts, st.data())
def test_known_arguments_make_the_same_keys(first: Any, second: Any, data: st.DataObject) -> None:
    keys = JobKeys(lambda x, y=(), z=None: x)
    shared = [first, second, [first, second], {"a": first}]
    calls = data.draw(st.lists(st.lists(st.sampled_from(shared), min_size=1, max_size=3), max_size=5))
    known: Known = {}
    for call in calls:
        assert keys.identity(call, {}, known)[:2] == keys.identity(call, {})[:2]


@pytest.fixture
def function() -> Any:
    def f(a: object, c: object = 1, *, k: object = 1) -> object:
        return a, c, k

    return f


@pytest.mark.parametrize("code", ["deep", "own", "none"])
def test_swapped_defaults_are_bound(function: Any, code: CodeScope) -> None:
    keys = JobKeys(function, KeyOptions(code=code))
    old = keys.key((0,), {})
    assert keys.binder.call((0,), {}) == ((), {"a": 0, "c": 1, "k": 1})
    function.__defaults__ = (5,)
    function.__kwdefaults__ = {"k": 7}
    assert keys.binder.call((0,), {}) == ((), {"a": 0, "c": 5, "k": 7})
    assert keys.key((0,), {}) == keys.key((0, 5), {"k": 7}) != old
    function.__kwdefaults__["k"] = 8
    assert keys.binder.call((0,), {})[1]["k"] == 8
    function.__defaults__, function.__kwdefaults__ = (1,), {"k": 1}
    assert keys.key((0,), {}) == old


def test_swapped_code_has_its_own_signature(function: Any) -> None:
    keys = JobKeys(function)
    keys.key((0,), {})
    function.__code__ = (lambda a, b, c, *, k: (a, b, c, k)).__code__
    assert keys.binder.names == ("a", "b", "c", "k")
    with pytest.raises(TypeError, match="missing"):
        keys.key((0,), {})
    assert len(keys.key((0, 1), {})) == 64


@pytest.mark.parametrize("default", [MISSING, LOCK], ids=["sentinel", "lock"])
@pytest.mark.parametrize("code", ["deep", "own", "none"])
def test_a_default_without_a_key_counts_as_the_default(default: object, code: CodeScope) -> None:
    def f(x: object, missing: object = default, after: object = 1) -> object:
        return x, missing, after

    keys = JobKeys(f, KeyOptions(code=code))
    assert keys.key(([1],), {}) == keys.key(([1], default), {})
    others = [keys.key(*call) for call in ((([1], None), {}), (([2],), {}), (([1],), {"after": 2}))]
    assert len({keys.key(([1],), {}), *others}) == 4
    for unkeyable in (object(), [default], threading.Lock()):
        with pytest.raises(UnkeyableArgument, match="missing"):
            keys.key(([1], unkeyable), {})
    with pytest.raises(UnkeyableArgument, match="x"):
        keys.key((default,), {})


def test_a_default_that_contains_a_value_without_a_key_is_refused() -> None:
    def f(x: object, settings: object = {"lock": LOCK, "rate": 1}) -> object:
        return x, settings

    with pytest.raises(UnkeyableArgument, match="lock"):
        JobKeys(f).key((1,), {})


def test_a_default_with_a_key_counts_by_its_value() -> None:
    def f(x: object, y: object = (1, (2,))) -> object:
        return x, y

    assert JobKeys(f).key((1,), {}) == JobKeys(f).key((1, (1, (2,))), {})


def test_a_parameter_may_have_any_name() -> None:
    def f(self: object, args: object, function: object) -> object:
        return self, args, function

    keys = JobKeys(f)
    assert keys.key((1, 2, 3), {}) == keys.key((), {"self": 1, "args": 2, "function": 3})
