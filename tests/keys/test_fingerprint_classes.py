"""A class counts with everything in its definition, and without what Python or a decorator generates."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from .keys import code_key, key_of, parts_of, tracked

Load = Callable[..., ModuleType]

IMPORTS = """
import attrs

from enum import KEEP, STRICT, Enum, Flag
"""


@pytest.mark.parametrize(
    ("definition", "old", "new"),
    [
        (
            "class C(Enum):\n    A = 1\n    B = 2\n    @classmethod\n    def _missing_(cls, v): return cls.A",
            "cls.A",
            "cls.B",
        ),
        (
            "class C(Enum):\n    def _generate_next_value_(name, *a): return 1\n    A = 1",
            "return 1",
            "return 2",
        ),
        ("class C(Enum):\n    A = 1\n    __str__ = int.__repr__", "int", "str"),
        ("class C(Enum):\n    A = 1\n    def __str__(self): return 'a'", "'a'", "'b'"),
        (
            "class C(int, Enum):\n    A = 1\n    def __new__(cls, v):\n"
            "        one = int.__new__(cls, 1)\n        one._value_ = v\n        return one",
            "cls, 1)",
            "cls, 2)",
        ),
        ("class C(Flag, boundary=KEEP):\n    A = 1", "KEEP", "STRICT"),
        ("class C:\n    __match_args__ = ('a', 'b')", "'a', 'b'", "'b', 'a'"),
        ("class C:\n    def __getstate__(self): return 1", "return 1", "return 2"),
        ("class C:\n    def __setstate__(self, s): return 1", "return 1", "return 2"),
        ("@attrs.define(order=True)\nclass C:\n    a = attrs.field(eq=True)", "eq=True", "eq=str"),
        ("@attrs.define(order=True)\nclass C:\n    a = attrs.field(order=str)", "order=str", "order=len"),
        (
            "@attrs.define\nclass C:\n    a = attrs.field(on_setattr=attrs.setters.frozen)",
            "attrs.setters.frozen",
            "attrs.setters.validate",
        ),
    ],
)
def test_an_edit_of_a_class_counts(load: Load, definition: str, old: str, new: str) -> None:
    source = IMPORTS + definition + "\ndef f(x):\n    return C\n"
    one = code_key(load(source).f)
    assert code_key(load(source).f) == one
    assert code_key(load(source.replace(old, new)).f) != one


def test_additions_of_enum_and_dataclass_are_the_same_on_each_python(load: Load) -> None:
    module = load("""
        from dataclasses import dataclass
        from enum import Enum, Flag, IntEnum, IntFlag, StrEnum, auto
        class A(Enum):
            ONE = 1
        class B(IntEnum):
            ONE = auto()
        class C(StrEnum):
            ONE = auto()
        class D(Flag):
            ONE = auto()
            TWO = auto()
            BOTH = ONE | TWO
        class E(IntFlag):
            ONE = auto()
        class F(str, Enum):
            ONE = "one"
            def __str__(self):
                return self.value
        @dataclass(slots=True, frozen=True)
        class G:
            x: int = 1
        def f(x):
            return A, B, C, D, E, F, G
    """)
    assert code_key(module.f)[:16] == "3161ac8457537f3f"


COUNTED = """
class Counted:
    made = 0
    known = {}
    names = []
    def __init__(self, n):
        self.n = n
        Counted.made += 1
        type(self).known[n] = n
        self.names.append(n)
    @classmethod
    def make(cls, n):
        cls.made += 1
        return cls(n)
    def run(self):
        return self.n
def f(x):
    return Counted(x).run()
def g(x):
    return Counted(x).run(), Counted.made, getattr(Counted, "known"), x.names
"""


def test_an_attribute_that_methods_only_write_does_not_count(load: Load) -> None:
    module = load(COUNTED)
    keys = tracked(module.f), lambda: key_of(module.Counted)
    before = [key() for key in keys]
    module.Counted.make(1)
    assert [key() for key in keys] == before
    module.Counted.run = lambda self: 2
    assert all(key() != then for key, then in zip(keys, before, strict=True))


@pytest.mark.parametrize("change", ["C.made += 1", "C.known['a'] = 1", "C.names.append(1)"])
def test_an_attribute_that_methods_only_write_counts_if_other_code_reads_it(load: Load, change: str) -> None:
    module = load(COUNTED)
    tracker = tracked(module.g)
    before = tracker()
    exec(change, {"C": module.Counted})
    assert tracker() != before


@pytest.mark.parametrize(
    "body", ["return cls.made", "cls.made += 1\n        return getattr(cls, 'made')", "self.made += 1"]
)
def test_an_attribute_that_a_method_reads_counts(load: Load, body: str) -> None:
    module = load(COUNTED.replace("return self.n\n", f"cls = Counted\n        {body}\n"))
    tracker = tracked(module.f)
    before = tracker()
    module.Counted.made += 1
    assert tracker() != before


def test_a_registry_of_classes_leads_to_their_code(load: Load) -> None:
    source = """
        class Base:
            known = {{}}
            def __init_subclass__(cls):
                Base.known[cls.__name__] = cls
        class One(Base):
            def run(self):
                return {}
        def f(x):
            return Base.known["One"]().run()
    """
    one, two = (load(source.format(n)).f for n in (1, 2))
    assert code_key(one) != code_key(two)
    assert "bench.One" in parts_of(two)


if sys.version_info >= (3, 12):  # for the `type` statement

    def test_the_value_of_a_type_alias_counts(load: Load) -> None:
        aliases = "type A = {}\ntype B = list[B]\ntype C = nowhere\n"
        source = f"{aliases}def f(x):\n    return isinstance(x, A.__value__), B, C\n"
        one, same, two = (code_key(load(source.format(meant)).f) for meant in ("int", "int", "str"))
        assert one == same
        assert one != two


@pytest.mark.parametrize(
    "make",
    [
        lambda unit: dataclasses.make_dataclass(
            "Made", [("x", int, 1)], namespace={"unit": lambda self: unit}
        ),
        lambda unit: types.new_class("Made", (), {}, lambda namespace: namespace.update(unit=unit)),
    ],
    ids=["make_dataclass", "new_class"],
)
def test_a_class_that_the_standard_library_makes_for_the_user_counts_with_its_code(make: Any) -> None:
    assert key_of(make("m")) == key_of(make("m"))
    assert key_of(make("m")) != key_of(make("s"))
    assert key_of(make("m")()) != key_of(make("s")())
