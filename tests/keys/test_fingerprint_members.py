"""Only the members without a key are left out of an object that has no key as a whole."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from .keys import calls_of, code_key, explained, key_of, tracked

Load = Callable[..., ModuleType]

SOURCE = """
import threading
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from types import SimpleNamespace


LOCK = threading.Lock()

@dataclass(slots=True)
class Service:
    lock: object
    part: object
    def run(self, x):
        return x + 1

class Registry(dict):
    def run(self, x):
        return x + 1

class Rows(list):
    def run(self, x):
        return x + 1

def one(x):
    return x + 1

def two(x):
    return x - 1

THING = {}

def f(x):
    return THING
"""


@pytest.mark.parametrize(
    ("definition", "change"),
    [
        ("Service(LOCK, one)", "m.THING.part = m.two"),
        ("Service(LOCK, one)", "m.Service.run = m.two"),
        ("Registry(a=one, b=LOCK)", "m.THING['a'] = m.two"),
        ("Registry(a=one, b=LOCK)", "m.Registry.run = m.two"),
        ("Rows([one, LOCK])", "m.THING[0] = m.two"),
        ("Rows([one, LOCK])", "m.Rows.run = m.two"),
        ("{1: one, 2: LOCK}", "m.THING[1] = m.two"),
        ("{1: one, 2: LOCK}", "m.THING['1'] = m.THING.pop(1)"),
        ("{LOCK: one, 'a': 1}", "m.THING[m.LOCK] = m.two"),
        ("{one: LOCK, two: 1}", "m.THING[m.two] = 2"),
        ("defaultdict(one, a=1, b=LOCK)", "m.THING['a'] = 2"),
        ("defaultdict(one, a=1, b=LOCK)", "m.THING.default_factory = m.two"),
        ("OrderedDict(a=one, b=LOCK)", "m.THING['a'] = m.two"),
        ("deque([one, LOCK])", "m.THING[0] = m.two"),
        ("SimpleNamespace(a=one, b=LOCK)", "m.THING.a = m.two"),
        ("(one, LOCK, [1])", "m.THING[2].append(2)"),
        ("{one, LOCK}", "m.THING.add(m.two)"),
        ("Namespace(a=one, b=LOCK)", "m.THING.a = m.two"),
        ("Namespace(a=None, b=LOCK)", "m.THING.a = m.two"),
        ("Namespace(a=Namespace(a=one), b=LOCK)", "m.THING.a.a = m.two"),
        ("(lambda rows: rows.append(rows) or rows)([one, LOCK])", "m.THING[0] = m.two"),
    ],
)
def test_the_other_parts_count(load: Load, definition: str, change: str) -> None:
    source = SOURCE.format(definition)
    module = load(source)
    tracker = tracked(module.f)
    before = tracker()
    untracked = explained(module.f).untracked
    assert untracked
    assert all(name.startswith("bench.THING") for name in untracked)
    assert code_key(load(source).f) == before
    exec(change, {"m": module})
    assert tracker() != before


def test_a_wrapper_with_slots_counts_with_its_state(load: Load) -> None:
    source = """
        class Scaled:
            __slots__ = ("__wrapped__", "n", "never")
            def __init__(self, function, n):
                self.__wrapped__, self.n = function, n
            def __call__(self, x):
                return self.__wrapped__(x) * self.n
        def inner(x):
            return x + 1
        g = Scaled(inner, {})
        def f(x):
            return g(x)
    """
    module = load(source.format(1))
    tracker = tracked(module.f)
    before = tracker()
    tracker()
    assert calls_of(tracker) < calls_of(tracked(module.f)) / 5, "it is not walked again"
    assert code_key(load(source.format(2)).f) != before
    assert code_key(load(source.format(1).replace("x + 1", "x + 2")).f) != before
    module.g.n = 5
    changed = tracker()
    module.g.never = 1
    assert len({before, changed, tracker()}) == 3


@pytest.mark.parametrize(
    "definition",
    [
        "class W(wrapt.FunctionWrapper):\n    def __init__(self, n):\n        super().__init__(one, around)\n"
        "        self._self_n = n\ng = W({})",
        "class W(wrapt.FunctionWrapper):\n    def __init__(self, n):\n        super().__init__(one, self.run)\n"
        "        self._self_n = n\n    def run(self, wrapped, i, a, k): return self._self_n\ng = W({})",
        "class W(wrapt.FunctionWrapper): pass\ng = W(one, lambda wrapped, i, a, k: {})",
        "g = wrapt.FunctionWrapper(one, lambda wrapped, i, a, k: {})",
        "g = wrapt.FunctionWrapper(one, around, lambda: {})",
        "class W:\n    def __init__(self, n):\n        self.n, self.go = n, self.run\n"
        "        functools.update_wrapper(self, one)\n    def run(self, x): return self.n\n"
        "    def __call__(self, x): return self.go(x)\ng = W({})",
    ],
)
def test_what_a_decorator_was_given_counts(load: Load, definition: str) -> None:
    source = (
        "import functools, wrapt\ndef one(x): return x\ndef around(wrapped, i, a, k): return 1\n"
        f"{definition}\ndef f(x): return g(x)\n"
    )
    modules = [load(source.format(n)) for n in (1, 1, 2)]
    for key in (lambda module: code_key(module.f), lambda module: key_of([module.g])):
        before, same, other = map(key, modules)
        assert before == same != other
    if hasattr(modules[0].g, "_self_n"):
        tracker = tracked(modules[0].f)
        before = tracker()
        modules[0].g._self_n = 2
        assert tracker() != before


@pytest.mark.parametrize(
    "read", ["TABLE[0].weight", "alias().weight", "getattr(tagged, 'weight')", "vars(tagged)['weight']"]
)
def test_an_attribute_of_a_function_counts_from_whatever_it_is_read(load: Load, read: str) -> None:
    """Decorators set tags on functions, and other code looks for the tags in tables of functions."""
    module = load(f"""
        def tagged(x):
            return x
        def alias():
            here = tagged
            return here
        tagged.weight, tagged.unread = 1, 1
        TABLE = [tagged]
        def f(x):
            return {read}
    """)
    tracker = tracked(module.f)
    before = tracker()
    module.tagged.unread = 2
    assert tracker() == before
    module.tagged.weight = 2
    assert tracker() != before


def test_all_attributes_of_a_function_that_is_an_argument_count(load: Load) -> None:
    """Any of them may be read; those without a key are left out."""
    module = load("import threading\ndef f(x):\n    return x\nf.weight, f.lock = [1], threading.Lock()\n")
    before = key_of({"f": module.f})
    assert key_of({"f": module.f}) == before
    module.f.weight[0] = 2
    changed = key_of({"f": module.f})
    module.f.more = 1
    assert len({before, changed, key_of({"f": module.f})}) == 3
