"""The key changes with the meaning of the code, and not with its layout."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from types import ModuleType

import pytest

from .keys import code_key

Load = Callable[..., ModuleType]


def key_of_body(load: Load, body: str) -> str:
    return code_key(load("def f(x):\n" + textwrap.indent(body, "    ")).f)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("return x", "'docstring'\nreturn x"),
        ("y: int = x", "y = x"),
        ("y: int\nreturn x", "return x"),
        ("def g(y: int) -> str: return y", "def g(y):\n    'doc'\n    return y"),
        ("return 'ab'", 'return "a" "b"'),
        ("return f'a{x}b'", "return 'a' f'{x}' f'b'"),
        ("return 0x10", "return 16"),
        ("return u'a'", "return 'a'"),
        ("return (x)", "return x"),
    ],
)
def test_equivalent_code_has_the_same_key(load: Load, one: str, other: str) -> None:
    assert key_of_body(load, one) == key_of_body(load, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("return 1", "return 1.0"),
        ("return 1", "return True"),
        ("return '1'", "return b'1'"),
        ("return 0.0", "return -0.0"),
        ("return 1", "return 1j"),
        ("return None", "return ..."),
        ("return x[1:]", "return x[:1]"),
        ("return x, y", "return [x, y]"),
        ("return {x: y, **z}", "return {x: y, z: z}"),
        ("return f'{x!r}'", "return f'{x!s}'"),
        ("return f'{x:>3}'", "return f'{x:<3}'"),
        ("return f'{x}'", "return f'{{x}}'"),
        ("return (x, (y, z))", "return ((x, y), z)"),
        ("if x:\n    y()\nz()", "if x:\n    y()\n    z()"),
        ("class C:\n    y: int = 1", "class C:\n    y: str = 1"),
        ("def g(y=1): pass", "def g(y=2): pass"),
        ("return lambda y=1: y", "return lambda y=2: y"),
        ("@a\ndef g(): pass", "@b\ndef g(): pass"),
        ("return 'a', 'b'", "return 'a,', 'b'"),
    ],
)
def test_different_code_has_another_key(load: Load, one: str, other: str) -> None:
    assert key_of_body(load, one) != key_of_body(load, other)
