from __future__ import annotations

import functools
import importlib
import importlib.util
import linecache
import logging
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bencher_job import cached_job

from .keys import calls_of, code_key, explained, key_of, parts_of, tracked

Load = Callable[..., ModuleType]


def run_cell(source: str, namespace: dict[str, object]) -> None:
    """Run a notebook's cell, whose source is in no file."""
    exec(compile(textwrap.dedent(source), "<cell>", "exec"), namespace)


BASE = """
    import math
    import os.path
    from functools import wraps

    SCALE = 3
    TABLE = {"a": [1, 2], "b": 0.5}

    def helper(x):
        return x * SCALE

    def unused(x):
        return -x

    def traced(function):
        @wraps(function)
        def wrapper(*args):
            return function(*args)
        return wrapper

    @traced
    def decorated(x):
        return x + 1

    def odd(n):
        return n and even(n - 1)

    def even(n):
        return not n or odd(n - 1)

    OPERATIONS = {"helper": helper, "even": even}

    class Base:
        def start(self):
            return 1

    class Model(Base):
        rate = 0.5

        def __init__(self, c=1):
            self.c = c

        def fit(self):
            return super().start() + self.c

        @property
        def loss(self):
            return 2

        @staticmethod
        def seed():
            return 3

        @classmethod
        def make(cls):
            return cls(4)

    MODEL = Model()

    def f(x, y=2, *, z="t"):
        "Say what it does."
        rows = [helper(i) for i in range(3) if i in {1, 2}]
        first = lambda v: v + 10
        total: float = decorated(x) + odd(x) + first(y) + TABLE["b"]
        if MODEL.fit() > 2:
            return f"{total:>10}" "s"
        return OPERATIONS["even"](total), math.sqrt(2), os.path.join("a", z), rows
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('"Say what it does."', '"Say something else."', id="docstring"),
        pytest.param('        "Say what it does."\n', "", id="no-docstring"),
        pytest.param("rows = [", "# a comment\n        rows = [", id="comment"),
        pytest.param("x * SCALE", "(x  *  SCALE)", id="layout"),
        pytest.param("def helper(x):", "\n\n\n    def helper(x: int) -> float:", id="annotations-and-lines"),
        pytest.param("total: float = ", "total = ", id="local-annotation"),
        pytest.param("return -x", "return -x - 1", id="unrelated-function"),
        pytest.param("SCALE = 3", "SCALE = 3\n    OTHER = 4", id="unrelated-global"),
        pytest.param("rate = 0.5", "rate: float = 0.5", id="class-annotation"),
        pytest.param("class Base:", 'class Base:\n        "Start."', id="class-docstring"),
        pytest.param("SCALE = 3", "SCALE = 2 + 1", id="equal-global"),
    ],
)
def test_an_edit_without_effect_keeps_the_digest(load: Load, old: str, new: str) -> None:
    assert old in BASE
    before = code_key(load(BASE).f)
    assert code_key(load(BASE.replace(old, new)).f) == before


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        pytest.param("v + 10", "v + 11", "bench.f", id="lambda-inside"),
        pytest.param("{1, 2}", "{1, 3}", "bench.f", id="set-constant"),
        pytest.param(":>10}", ":>11}", "bench.f", id="format"),
        pytest.param("y=2", "y=2.0", "bench.f", id="default"),
        pytest.param('z="t"', 'z="u"', "bench.f", id="keyword-default"),
        pytest.param("x * SCALE", "x + SCALE", "bench.helper", id="helper"),
        pytest.param("SCALE = 3", "SCALE = 3.0", "bench.SCALE", id="type-of-global"),
        pytest.param("[1, 2]", "[2, 1]", "bench.TABLE", id="nested-data"),
        pytest.param(
            "return function(*args)",
            "return -function(*args)",
            "bench.traced.<locals>.wrapper",
            id="decorator",
        ),
        pytest.param("return x + 1", "return x + 2", "bench.decorated", id="decorated"),
        pytest.param("odd(n - 1)", "odd(n - 2)", "bench.even", id="mutual-recursion"),
        pytest.param("return 1", "return 2", "bench.Base.start", id="method-of-base"),
        pytest.param("+ self.c", "- self.c", "bench.Model.fit", id="method-of-global-instance"),
        pytest.param("c=1", "c=5", "bench.MODEL", id="state-of-global-instance"),
        pytest.param("rate = 0.5", "rate = 0.25", "bench.Model", id="class-attribute"),
        pytest.param("return 2", "return 7", "bench.Model.loss", id="property"),
        pytest.param("return 3", "return 7", "bench.Model.seed", id="static-method"),
        pytest.param("cls(4)", "cls(5)", "bench.Model.make", id="class-method"),
        pytest.param('"even": even', '"even": odd', "bench.OPERATIONS", id="table-of-functions"),
    ],
)
def test_an_edit_with_an_effect_changes_the_digest_and_is_named(
    load: Load, old: str, new: str, part: str
) -> None:
    assert old in BASE
    before, after = load(BASE).f, load(BASE.replace(old, new)).f
    assert code_key(after) != code_key(before)
    assert part in {change.name for change in explained(after, before).code_changed}


def test_an_edit_of_a_helper_is_blamed_on_the_helper_alone(load: Load) -> None:
    before, after = load(BASE).f, load(BASE.replace("x * SCALE", "x + SCALE")).f
    (change,) = explained(after, before).code_changed
    assert (change.name, change.kind) == ("bench.helper", "changed")
    assert "-    return x * SCALE\n+    return x + SCALE" in change.diff


GOLDEN = "c5999824275437b2"


def test_the_digest_is_the_same_on_each_python(load: Load) -> None:
    assert code_key(load(BASE).f)[:16] == GOLDEN


def test_the_digest_is_the_same_in_another_process_and_for_a_script(load: Load) -> None:
    module = load(BASE)
    script = Path(module.__file__).read_text() + textwrap.dedent("""
        import sys
        from tests.keys.keys import code_key
        sys.stdout.write(code_key(f))
    """)
    path = Path(module.__file__).with_name("bench.py")
    path.write_text(script)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": root},
    )
    assert (done.stderr, done.stdout) == ("", code_key(load(BASE).f))


def test_code_without_source_is_tracked() -> None:
    cells: dict[str, object] = {}
    run_cell("def helper(x): return x + 1\ndef f(x): return helper(x)", cells)
    tracker = tracked(cells["f"])
    before = tracker()
    run_cell("def helper(x): return x + 2", cells)
    after = tracker()
    run_cell("def helper(x):\n\n    return x + 1  # as before", cells)
    assert after != before
    assert tracker() == before


def test_a_source_that_is_newer_than_the_loaded_code_is_not_used(load: Load) -> None:
    source = "def f(x):\n    return x + 1\n"
    module = load(source)
    right = code_key(load(source).f)
    edited = code_key(load(source.replace("1", "2")).f)
    Path(module.__file__).write_text(source.replace("1", "2"))
    loaded = code_key(module.f)
    assert loaded not in {right, edited}
    unparsable = load(source)
    Path(unparsable.__file__).write_text("def f(:\n")
    assert code_key(unparsable.f) == loaded


def test_a_source_that_moved_in_its_file_is_still_found(load: Load) -> None:
    source = "def f(x):\n    return x + 1\n"
    before = code_key(load(source).f)
    module = load(source)
    Path(module.__file__).write_text("# a new comment\nOTHER = 1\n\n" + source)
    assert code_key(module.f) == before


def test_a_digest_survives_a_later_edit_of_the_file(load: Load) -> None:
    module = load("N = 1\ndef f(x):\n    return x + N\n")
    tracker = tracked(module.f)
    before = tracker()
    Path(module.__file__).write_text("def f(x): return 0")
    module.N = 2
    tracker()
    module.N = 1
    assert tracker() == before


def test_lambdas_on_one_line_differ(load: Load) -> None:
    module = load("a, b, c = lambda x: x + 1, lambda x: x + 2, lambda y=(lambda: 3): y()\n")
    digests = {code_key(function) for function in (module.a, module.b, module.c)}
    assert len(digests) == 3
    assert parts_of(module.b) == {"bench.<lambda>"}


def test_closures_differ_by_their_variables(load: Load) -> None:
    module = load("def make(n):\n    def inner(x):\n        return x + n\n    return inner\n")
    assert code_key(module.make(1)) == code_key(module.make(1))
    assert code_key(module.make(1)) != code_key(module.make(2))


def test_a_pair_of_closures_differs_from_the_swapped_pair(load: Load) -> None:
    source = """
        def make(n):
            def inner(x):
                return x + n
            return inner
        PAIR = (make({}), make({}))
        def f(x):
            return PAIR[0](x)
    """
    one = code_key(load(source.format(1, 2)).f)
    assert one == code_key(load(source.format(1, 2)).f)
    assert one != code_key(load(source.format(2, 1)).f)


def test_equal_functions_in_two_namespaces_differ() -> None:
    def make(k: int) -> object:
        namespace: dict[str, object] = {"__name__": "cell", "k": k}
        run_cell("def f(x): return x + k", namespace)
        return namespace["f"]

    def table(*functions: object) -> object:
        namespace: dict[str, object] = {"__name__": "cell", "functions": functions}
        run_cell("def call(i, x): return functions[i](x)", namespace)
        return namespace["call"]

    one, two = make(1), make(2)
    assert code_key(table(one, two)) != code_key(table(two, one))
    assert code_key(table(one, two)) == code_key(table(make(1), make(2)))


class TestChangesAtRunTime:
    """Each change is noticed at the next call, and each reverted change gives the old digest."""

    SOURCE = """
        import functools, settings
        SCALE, OFFSET, FLAG = 3, 1, True
        TABLE = {"rates": [1.0, 2.0]}
        def helper(x, base=1, *, deep=1):
            return x * SCALE + base
        class Model:
            rate = 1
        class Point:
            def __init__(self):
                self.at = [1, 2]
        POINT = Point()
        CALLS = [functools.partial(max, [1], key={}), Point().__init__]
        class Low: pass
        class High: pass
        class Child(Low): pass
        def make(n):
            def inner(x):
                return x + n
            return inner
        inner = make(1)
        def f(x):
            return helper(x) + OFFSET + len(TABLE) + settings.limit + Model.rate + inner(x) + POINT.at[0], Child, CALLS
    """

    @pytest.fixture
    def module(self, load: Load) -> ModuleType:
        return load(self.SOURCE, settings="limit = 5\nother = 6\n")

    def test_nothing_changes(self, module: ModuleType) -> None:
        tracker = tracked(module.f)
        before = tracker()
        module.unused = sys.modules["settings"].other = object()
        assert tracker() == before

    @pytest.mark.parametrize(
        ("change", "revert"),
        [
            pytest.param("SCALE = 4", "SCALE = 3", id="global-of-a-helper"),
            pytest.param("SCALE = 3.0", "SCALE = 3", id="equal-global-of-another-type"),
            pytest.param("del OFFSET", "OFFSET = 1", id="deleted-global"),
            pytest.param("TABLE['rates'].append(3.0)", "TABLE['rates'].pop()", id="data-in-place"),
            pytest.param("TABLE['rates'][0] = 1", "TABLE['rates'][0] = 1.0", id="type-in-place"),
            pytest.param("settings.limit = 6", "settings.limit = 5", id="attribute-of-a-module"),
            pytest.param("Model.rate = 2", "Model.rate = 1", id="class-attribute"),
            pytest.param("Model.new = 2", "del Model.new", id="new-class-attribute"),
            pytest.param("helper.__defaults__ = (2,)", "helper.__defaults__ = (1,)", id="default"),
            pytest.param(
                "helper.__kwdefaults__['deep'] = 2", "helper.__kwdefaults__['deep'] = 1", id="keyword-default"
            ),
            pytest.param("old, helper = helper, lambda x: x", "helper = old", id="rebound-helper"),
            pytest.param(
                "old, helper.__code__ = helper.__code__, (lambda x, base, *, deep: x).__code__",
                "helper.__code__ = old",
                id="swapped-code",
            ),
            pytest.param(
                "inner.__closure__[0].cell_contents = 2",
                "inner.__closure__[0].cell_contents = 1",
                id="closure",
            ),
            pytest.param("POINT.at[0] = True", "POINT.at[0] = 1", id="state-of-an-object"),
            pytest.param(
                "POINT.__dict__ = {'at': [3]}",
                "POINT.__dict__ = {'at': [1, 2]}",
                id="whole-state-of-an-object",
            ),
            pytest.param("Child.__bases__ = (High,)", "Child.__bases__ = (Low,)", id="base-of-a-class"),
            pytest.param("POINT.__class__ = Model", "POINT.__class__ = Point", id="class-of-an-object"),
            pytest.param("len = lambda x: 0", "del len", id="shadowed-builtin"),
            pytest.param("CALLS[0].args[0].append(2)", "CALLS[0].args[0].pop()", id="argument-of-a-partial"),
            pytest.param(
                "CALLS[0].keywords['key'][1] = 2",
                "del CALLS[0].keywords['key'][1]",
                id="keyword-of-a-partial",
            ),
            pytest.param(
                "CALLS[1].__self__.at[0] = 3", "CALLS[1].__self__.at[0] = 1", id="owner-of-a-bound-method"
            ),
        ],
    )
    def test_a_change_is_noticed_and_its_revert_hits(
        self, module: ModuleType, change: str, revert: str
    ) -> None:
        tracker = tracked(module.f)
        before = tracker()
        assert tracker() == before
        exec(change, vars(module))
        changed = tracker()
        assert changed != before
        assert tracker() == changed
        exec(revert, vars(module))
        assert tracker() == before

    def test_unchanged_code_is_not_read_again(self, module: ModuleType) -> None:
        tracker = tracked(module.f)
        first = calls_of(tracker)
        assert calls_of(tracker) < first / 20
        module.SCALE = 4
        assert calls_of(tracker) > first / 10
        assert calls_of(tracker) < first / 20

    def test_a_name_that_is_defined_later_is_noticed(self) -> None:
        cells: dict[str, object] = {}
        run_cell("def f(x): return later(x)", cells)
        tracker = tracked(cells["f"])
        before = tracker()
        run_cell("def later(x): return x", cells)
        assert tracker() != before

    def test_a_closure_variable_that_is_set_later_is_noticed(self) -> None:
        def make() -> Iterator[Any]:
            def f(x: int) -> int:
                return later(x)

            yield f

            def later(x: int) -> int:
                return x

            yield

        steps = make()
        tracker = tracked(next(steps))
        before = tracker()
        assert tracker() == before
        next(steps)
        assert tracker() != before

    def test_objects_are_digested_again(self) -> None:
        numpy = pytest.importorskip("numpy")
        cells: dict[str, object] = {"data": numpy.zeros(4)}
        run_cell("def f(x): return data + x", cells)
        tracker = tracked(cells["f"])
        before = tracker()
        assert tracker() == before
        cells["data"][2] = 1
        assert tracker() != before

    def test_threads_agree(self, module: ModuleType) -> None:
        tracker = tracked(module.f)
        found: list[object] = []
        threads = [threading.Thread(target=lambda: found.append(tracker())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(found) == {tracker()}


def test_a_global_that_a_function_only_writes_does_not_count(load: Load) -> None:
    module = load("""
        calls, seen, count = [], {}, 0
        def f(x):
            global count
            calls.append(x)
            seen[x] = 1
            count += 1
            return x
    """)
    calls: list[int] = []

    def closing(x: int) -> None:
        calls.append(x)

    for function in (module.f, closing):
        tracker = tracked(function)
        before = tracker()
        function(3)
        assert tracker() == before


def test_a_global_that_a_function_writes_and_reads_counts(load: Load) -> None:
    module = load("calls = []\ndef f(x):\n    calls.append(x)\n    return len(calls)\n")
    tracker = tracked(module.f)
    before = tracker()
    module.f(3)
    assert tracker() != before


def test_only_the_attributes_of_a_module_that_are_used_count(load: Load) -> None:
    source = "import helpers\ndef f(x):\n    return helpers.one(x)\n"
    helpers = "def one(x): return 1\ndef two(x): return 2\n"
    before = code_key(load(source, helpers=helpers).f)
    assert code_key(load(source, helpers=helpers.replace("return 2", "return 3")).f) == before
    assert code_key(load(source, helpers=helpers.replace("return 1", "return 3")).f) != before


def test_the_place_of_a_module_does_not_count(load: Load) -> None:
    source = "import helpers\ndef f(x): return __file__, helpers.__file__, helpers.__doc__\n"
    assert code_key(load(source, helpers="").f) == code_key(load(source, helpers="'A docstring.'").f)


@pytest.mark.parametrize(
    "body",
    [
        "import helpers; return helpers.one(x)",
        "import helpers as h; return [h.one(i) for i in x]",
        "from helpers import one; return one(x)",
        "from helpers import one as o; return lambda: o(x)",
        "import helpers; return call(helpers, x)",
    ],
)
def test_an_import_inside_a_function_is_followed(load: Load, body: str) -> None:
    source = f"def f(x):\n    {body}\n"
    before = code_key(load(source, helpers="def one(x): return 1").f)
    assert code_key(load(source, helpers="def one(x):\n    return 1  # the same").f) == before
    assert code_key(load(source, helpers="def one(x): return 2").f) != before


def test_a_failing_import_counts_as_missing(load: Load) -> None:
    module = load("def f(x):\n    import no_such_module\n    return no_such_module.g(x)\n")
    assert code_key(module.f) == code_key(module.f)


def test_installed_code_is_named_and_not_walked(load: Load) -> None:
    numpy = pytest.importorskip("numpy")
    module = load("import numpy as np, json\ndef f(x):\n    return np.linalg.norm(json.dumps(x))\n")
    explanation = explained(module.f)
    assert [change.name for change in explanation.code_changed] == ["bench.f"]
    assert explanation.distributions_changed == (("numpy", "not in the key", numpy.__version__),)


def test_a_global_without_a_key_is_listed_as_untracked(load: Load) -> None:
    source = """
        import threading
        LOCK = threading.Lock()
        CONFIG = {{"lock": LOCK, "rate": {}}}
        def f(x):
            with LOCK:
                return CONFIG["rate"]
    """
    one = load(source.format(1)).f
    assert explained(one).untracked == ("bench.CONFIG['lock']", "bench.LOCK")
    assert "bench.LOCK" in parts_of(one)
    assert code_key(load(source.format(2)).f) != code_key(one)


@pytest.mark.parametrize(
    "definition",
    [
        "g = functools.partial(h, y=1)",
        "g = functools.lru_cache(h)",
        "g = staticmethod(h)",
        "class C:\n    def __call__(self, x): return h(x)\ng = C()",
        "class C:\n    def m(self, x): return h(x)\ng = C().m",
        "g = functools.singledispatch(lambda x: x)\ng.register(int)(h)",
        "import contextlib\ng = contextlib.contextmanager(h)",
        "class Cached(wrapt.FunctionWrapper): _bencher_job_cached = True\ng = Cached(h, lambda *a: None)",
        "g = wrapt.FunctionWrapper(h, lambda wrapped, i, a, k: wrapped(*a))",
        "g = wrapt.FunctionWrapper(int, lambda wrapped, i, a, k: h(*a))",
        "class Retry:\n    def __init__(self, f): functools.update_wrapper(self, f)\ng = Retry(h)",
        "g = [{'deep': (h,)}]",
        "def g(x, inner=h): return inner(x)",
        "g = type('Made', (), {'m': h})",
        "class Meta(type):\n    def m(cls, x): return h(x)\nclass g(metaclass=Meta): pass",
        "import dataclasses as d\n@d.dataclass\nclass g:\n    x: object = d.field(default_factory=h)",
        "import enum\nclass g(enum.Enum):\n    ONE = 1\n    def m(self): return h(self)",
        "def h2(x): return h(x)\ng = [h2]",
    ],
)
def test_code_is_reached_through(load: Load, definition: str) -> None:
    source = (
        "import functools, wrapt\ndef h(x=0, y=0):\n    return x + 1\n"
        + definition
        + "\ndef f(x):\n    return g(x)\n"
    )
    function = load(source).f
    before = code_key(function)
    assert code_key(load(source).f) == before
    assert "bench.h" in parts_of(function)
    assert code_key(load(source.replace("x + 1", "x + 2")).f) != before


@pytest.mark.parametrize(
    "definition",
    [
        "@dataclass\nclass C:\n    a: int = {}\n    b: str = 's'",
        "@dataclass(frozen={} > 1)\nclass C:\n    a: int = 1",
        "class C(NamedTuple):\n    a: int = {}",
        "class C(Enum):\n    A = {}",
        "class C:\n    __slots__ = ('a', 'b{}')",
        "class C(ABC):\n    @abstractmethod\n    def m(self): return {}",
        "class C:\n    class Inner:\n        a = {}",
        "class C(dict):\n    def __missing__(self, key): return {}",
        "@functools.total_ordering\nclass C:\n    def __lt__(self, other): return {}\n",
        "class C(Protocol):\n    a = {}",
        "class C(Generic[TypeVar('T')]):\n    a = {}",
        "class C:\n    @functools.cached_property\n    def a(self): return {}",
    ],
)
def test_everything_in_a_class_body_counts(load: Load, definition: str) -> None:
    imports = (
        "import functools\nfrom abc import ABC, abstractmethod\nfrom dataclasses import dataclass\n"
        "from enum import Enum\nfrom typing import Generic, NamedTuple, Protocol, TypeVar\n"
    )
    source = imports + definition + "\ndef f(x):\n    return C\n"
    function = load(source.format(1)).f
    assert explained(function).untracked == ()
    one = code_key(function)
    assert one == code_key(load("\n\n" + source.format(1)).f)
    assert one != code_key(load(source.format(2)).f)


def test_generated_methods_are_the_same_on_each_python(load: Load) -> None:
    module = load("""
        from dataclasses import dataclass, field
        from typing import NamedTuple
        @dataclass(order=True)
        class Point:
            x: int
            y: list = field(default_factory=list)
        class Pair(NamedTuple):
            a: int = 1
        def f(x):
            return Point(1), Pair()
    """)
    assert code_key(module.f)[:16] == "573ccc705f6726db"


def test_a_decorated_function_counts_without_the_decorator_that_caches(load: Load) -> None:
    source = """
        import wrapt
        class Cached(wrapt.FunctionWrapper):
            _bencher_job_cached = True
        def cached(**options):
            return lambda function: Cached(function, lambda *call: None)
        @cached(tag={!r})
        def f(x):
            return f(x - 1) if x else 0
    """
    one, other = (load(source.format(tag)).f.__wrapped__ for tag in "ab")
    assert code_key(one) == code_key(other)
    assert parts_of(one) == {"bench.f"}


def test_a_method_counts_with_its_class(load: Load) -> None:
    source = """
        class C:
            def run(self, x):
                return self.step(x)
            def step(self, x):
                return {}
    """
    one, same, two = (code_key(load(source.format(n)).C.run) for n in ("1", "1  # comment", "2"))
    assert one == same
    assert one != two


def test_pickling_an_object_does_not_change_its_class(load: Load) -> None:
    module = load("class C:\n    pass\ndef f(x):\n    return C\n")
    before = code_key(module.f)
    pickle.dumps(module.C())
    assert code_key(module.f) == before


def test_a_decorator_may_enclose_itself(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "retrying.py").write_text(
        "def retry(function):\n    def wrapper(x):\n        return wrapper.log, function(x)\n    return wrapper\n"
    )
    monkeypatch.syspath_prepend(installed)
    source = "import retrying\n@retrying.retry\ndef g(x): return {}\ndef f(x): return g(x)\n"
    one, two = (code_key(load(source.format(n)).f) for n in (1, 2))
    sys.modules.pop("retrying")
    assert one != two


class TestScope:
    SOURCE = "N = {}\ndef helper(x):\n    return x + {}\ndef f(x):\n    return helper(x) + N + {}\n"

    def test_own_stops_at_the_function_itself(self, load: Load) -> None:
        one = code_key(load(self.SOURCE.format(1, 1, 1)).f, code="own")
        assert one == code_key(load(self.SOURCE.format(2, 2, 1)).f, code="own")
        assert one != code_key(load(self.SOURCE.format(1, 1, 2)).f, code="own")

    def test_none_counts_the_name_only(self, load: Load) -> None:
        one = code_key(load(self.SOURCE.format(1, 1, 1)).f, code="none")
        assert one == code_key(load(self.SOURCE.format(2, 2, 2)).f, code="none")
        assert one != code_key(load(self.SOURCE.format(1, 1, 1)).helper, code="none")

    def test_none_distinguishes_partials(self, load: Load) -> None:
        f = load(self.SOURCE.format(1, 1, 1)).f
        one, two = (code_key(functools.partial(f, x), code="none") for x in (1, 2))
        assert one != two

    def test_an_unknown_scope_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"code='all' is not a scope. Use one of 'deep'"):
            cached_job(code="all")  # type: ignore[call-overload]


class TestDependsOn:
    SOURCE = "def f(x):\n    return globals()['h'](x)\ndef h(x):\n    return {}\n"

    @pytest.mark.parametrize("scope", ["deep", "own", "none"])
    def test_a_function(self, load: Load, scope: str) -> None:
        one, same, two = (load(self.SOURCE.format(n)) for n in (1, 1, 2))
        made = [code_key(module.f, code=scope, depends_on=[module.h]) for module in (one, same, two)]
        assert made[0] == made[1] != made[2]
        assert "bench.h" in parts_of(one.h, code=scope)

    def test_a_module(self, load: Load) -> None:
        one, same, two = (load(self.SOURCE.format(n)) for n in ("1", "1  # comment", "2"))
        made = [code_key(one.f, depends_on=[module]) for module in (one, same, two)]
        assert made[0] == made[1] != made[2]

    def test_a_distribution(self) -> None:
        assert explained("pytest", code="own").distributions_changed == (
            ("pytest", "not in the key", pytest.__version__),
        )

    def test_a_distribution_that_is_not_installed(self) -> None:
        with pytest.raises(
            ValueError, match="'no-such-thing', and no distribution of that name is installed"
        ):
            code_key(len, depends_on=["no-such-thing"])

    def test_a_file_by_its_content(self, tmp_path: Path) -> None:
        file = tmp_path / "data.csv"
        file.write_text("1,2")
        tracker = tracked(len, depends_on=[file])
        before = tracker()
        assert tracker() == before
        file.write_text("1,3")
        assert tracker() != before
        file.write_text("1,2")
        assert tracker() == before

    def test_a_folder_by_names_and_content(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("1")
        tracker = tracked(len, depends_on=[tmp_path])
        before = tracker()
        (tmp_path / "a").rename(tmp_path / "b")
        assert tracker() != before

    def test_a_path_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="which doesn't exist"):
            code_key(len, depends_on=[tmp_path / "missing"])


def test_decorating_does_no_work() -> None:
    class Loud:
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(name)

    namespace: dict[str, object] = {"LOUD": Loud()}
    run_cell("def f(x, y=LOUD): return LOUD", namespace)
    cached_job(depends_on=["no-such-distribution"])(namespace["f"])


def test_the_sources_of_all_parts_are_kept(load: Load) -> None:
    module = load("def helper(x):\n    return x\n\n@staticmethod\ndef f(x):\n    return helper(x)\n")
    diffs = {change.name: change.diff.splitlines()[3:] for change in explained(module.f).code_changed}
    assert diffs == {
        "bench.f": ["+@staticmethod", "+def f(x):", "+    return helper(x)"],
        "bench.helper": ["+def helper(x):", "+    return x"],
    }


def test_a_sum_of_a_thousand_terms_has_a_digest(load: Load) -> None:
    terms = " + ".join(["x"] * 900)
    module = load(f"def f(x):\n    return {terms}\n")
    assert len(code_key(module.f)) == 64


def test_a_notebook_cell_has_its_source(load: Load) -> None:
    text = "def f(x):\n    return x + 1\n"
    name = "<ipython-input-1>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, object] = {"__name__": "bench"}
    exec(compile(text, name, "exec"), namespace)
    assert code_key(namespace["f"]) == code_key(load(text).f)


def test_a_function_in_an_argument_is_keyed_by_its_code(load: Load) -> None:
    source = "N = {}\ndef f(x):\n    return x + N\n"
    one, same, two = (load(source.format(n)).f for n in (1, 1, 2))
    assert key_of([one]) == key_of([same]) != key_of([two])


def test_loggers_stay_silent(caplog: pytest.LogCaptureFixture, load: Load) -> None:
    with caplog.at_level(logging.WARNING):
        code_key(load(BASE).f)
    assert caplog.records == []


class TestAModuleAsAWhole:
    """A module in a variable, a table or a class counts with its whole namespace."""

    HELPERS = """
        import threading
        import deeper
        LOCK = threading.Lock()
        K = 1
        class Odd:
            def __reduce_ex__(self, protocol):
                raise KeyError(protocol)
        class Worse(dict):
            def __getstate__(self):
                raise KeyError
        ODD, WORSE = Odd(), Worse()
        def h(x): return deeper.g(x) + K
    """
    DEEPER = "import helpers\ndef g(x): return x\n"

    @pytest.mark.parametrize(
        "reach",
        [
            pytest.param("def f(x):\n    m = helpers\n    return m.h(x)", id="local-variable"),
            pytest.param("T = {'a': [helpers]}\ndef f(x): return T['a'][0].h(x)", id="table"),
            pytest.param("class C: m = helpers\ndef f(x): return C.m.h(x)", id="class-attribute"),
            pytest.param("def f(x):\n    import helpers as h\n    m = h\n    return m.h(x)", id="import"),
            pytest.param("def f(x, m=helpers): return m.h(x)", id="default"),
        ],
    )
    @pytest.mark.parametrize(
        ("change", "revert"),
        [
            ("K = 2", "K = 1"),
            ("K = 1.0", "K = 1"),
            ("old, h = h, lambda x: x", "h = old; del old"),
            ("old, deeper.g = deeper.g, lambda x: -x", "deeper.g = old; del old"),
            ("new = 1", "del new"),
        ],
    )
    def test_a_change_is_noticed_and_its_revert_hits(
        self, load: Load, reach: str, change: str, revert: str
    ) -> None:
        f = load(f"import helpers\n{reach}\n", helpers=self.HELPERS, deeper=self.DEEPER).f
        tracker = tracked(f)
        before = tracker()
        assert tracker() == before
        exec(change, vars(sys.modules["helpers"]))
        assert tracker() != before
        exec(revert, vars(sys.modules["helpers"]))
        assert tracker() == before

    def test_a_global_without_a_key_is_listed_as_untracked(self, load: Load) -> None:
        source = "import helpers\ndef f(x):\n    m = helpers\n    return m.h(x)\n"
        function = load(source, helpers=self.HELPERS, deeper=self.DEEPER).f
        assert "helpers.LOCK" in explained(function).untracked
        assert {"helpers.h", "helpers.K", "deeper.g"} < parts_of(function)

    def test_it_counts_the_same_as_an_argument(self, load: Load) -> None:
        load("", helpers=self.HELPERS, deeper=self.DEEPER)
        helpers = sys.modules["helpers"]
        before = key_of([helpers])
        exec("K = 2", vars(helpers))
        assert key_of([helpers]) != before
        exec("K = 1", vars(helpers))
        assert key_of([helpers]) == before

    def test_a_reload_is_noticed(self, load: Load) -> None:
        helpers = load("def h(x): return x\n", name="helpers")
        namespace: dict[str, object] = {"helpers": helpers}
        run_cell("def f(x):\n    m = helpers\n    return m.h(x)", namespace)
        tracker = tracked(namespace["f"])
        before = tracker()
        Path(helpers.__file__).write_text("def h(x):\n    return x + 1\n")
        importlib.reload(helpers)
        assert tracker() != before

    def test_submodules_that_are_imported_at_run_time_count_from_the_first_key(
        self, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "lazily"
        package.mkdir()
        (package / "__init__.py").write_text("def h(x):\n    from lazily.inner import g\n    return g(x)\n")
        (package / "inner.py").write_text("def g(x): return x\n")
        monkeypatch.syspath_prepend(tmp_path)
        module = load("import lazily\ndef f(x):\n    m = lazily\n    return m.h(x)\n")
        tracker = tracked(module.f)
        before = tracker()
        module.f(1)
        assert tracker() == before

    def test_an_object_may_make_new_functions_whenever_it_is_read(self, load: Load) -> None:
        module = load("""
            class Fresh:
                def __reduce__(self):
                    return Fresh, (), {"f": [lambda: number for number in range(3)]}
            FRESH = Fresh()
            def f(x):
                return FRESH
        """)
        assert len(code_key(module.f)) == 64


@pytest.mark.parametrize(
    "definition",
    [
        pytest.param(
            "def make():\n    def g(x): return x * g.factor\n    def f(x): return g(x)\n"
            "    g.factor = 2\n    return f, g\nf, g = make()\n",
            id="closure",
        ),
        pytest.param("def g(x): return g.factor\ng.factor = 2\ndef f(x): return g(x)\n", id="global"),
        pytest.param(
            "import wrapt\nclass Cached(wrapt.FunctionWrapper): _bencher_job_cached = True\n"
            "@lambda g: Cached(g, None)\ndef g(x): return g.factor\ng.factor = 2\nf = g.__wrapped__\n",
            id="cached",
        ),
        pytest.param(
            "import wrapt\nclass Cached(wrapt.FunctionWrapper): _bencher_job_cached = True\n"
            "@lambda g: Cached(g, None)\ndef g(x): return g.__wrapped__.factor\n"
            "g.factor = 2\nf = g.__wrapped__\n",
            id="inside-cached",
        ),
    ],
)
def test_an_attribute_of_a_function_is_read(load: Load, definition: str) -> None:
    module = load(definition)
    tracker = tracked(module.f)
    before = tracker()
    assert tracker() == before
    module.g.factor = 3
    changed = tracker()
    assert changed != before
    del module.g.factor
    assert tracker() not in {before, changed}
    module.g.factor = 2
    assert tracker() == before


def test_an_optimized_away_assertion_changes_the_digest(tmp_path: Path) -> None:
    program = tmp_path / "bench.py"
    program.write_text(
        "from tests.keys.keys import code_key\n"
        "def f(x):\n    assert x > 0\n    return x\n"
        "def g(x):\n    return x\n"
        "print(code_key(f), code_key(g))\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    (f, g), (optimized_f, optimized_g) = (
        subprocess.check_output([sys.executable, *options, str(program)], env=environment, text=True).split()
        for options in ([], ["-O"])
    )
    assert f != optimized_f
    assert g == optimized_g
