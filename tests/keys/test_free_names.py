from __future__ import annotations

import ast
import dis
import textwrap

import pytest

from bencher_job._keys import code as free_names
from bencher_job._keys.code import Import, free_names_of, uses_of


def function_of(body: str) -> ast.FunctionDef:
    tree = ast.parse("def f(x):\n" + textwrap.indent(textwrap.dedent(body), "    "))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    return function


def test_globals_are_read_with_their_attributes() -> None:
    namespace: dict[str, object] = {}
    source = """
        def f(x):
            class Inner:
                both = 1 + scale
            settings.limit = x
            settings.deep.limit = x
            return [np.linalg.norm(row) for row in rows], lambda: Inner
    """
    exec(textwrap.dedent(source), namespace)
    expected = {("scale",), ("settings", "deep"), ("np", "linalg", "norm"), ("rows",), ("__name__",)}
    assert set(free_names_of(namespace["f"].__code__).globals) == expected


def test_cells_are_read_by_nested_functions_too() -> None:
    def make(module: object, n: int) -> object:
        def f(x: object) -> object:
            return [module.g(i, n) for i in x], lambda: n  # type: ignore[attr-defined]

        return f

    assert free_names_of(make(None, 1).__code__).cells == (("module", "g"), ("n",))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ("import a.b; a.b.c(x)", [Import(0, "a", ("b", "c"))]),
        ("import a.b as ab; ab.c(x)", [Import(0, "a.b", ("c",))]),
        ("import a.b.c as abc; abc(x)", [Import(0, "a.b.c")]),
        ("import a; a(x); a.b(x)", [Import(0, "a"), Import(0, "a", ("b",))]),
        ("from a import b as c, d; c.e(x); d(x)", [Import(0, "a", ("b", "e")), Import(0, "a", ("d",))]),
        ("from . import a; a.b(x)", [Import(1, "", ("a", "b"))]),
        ("from ..a import b; (lambda: b.c)()", [Import(2, "a", ("b", "c"))]),
        (
            "import a, b; y = x; g(y, a.c); g(b.d, a.e)",
            [Import(0, "a", ("c",)), Import(0, "a", ("e",)), Import(0, "b", ("d",))],
        ),
        ("import a; y = 1; a.b", [Import(0, "a", ("b",))]),
        ("import a; [a.b for y in x if a.c]", [Import(0, "a", ("b",)), Import(0, "a", ("c",))]),
        ("import a", [Import(0, "a")]),
        ("from a import b", [Import(0, "a", ("b",))]),
        (
            "\n  try: from a import g\n  except ImportError: from b import g\n  g(x)",
            [Import(0, "a", ("g",)), Import(0, "b", ("g",))],
        ),
        (
            "\n  if x: import a as m\n  else: import b as m\n  (lambda: m.c)()",
            [Import(0, "a", ("c",)), Import(0, "b", ("c",))],
        ),
    ],
)
def test_imports_are_read_with_their_attributes(statements: str, expected: list[Import]) -> None:
    namespace: dict[str, object] = {}
    exec(f"def f(x): {statements}", namespace)
    assert list(free_names_of(namespace["f"].__code__).imports) == expected


def test_each_instruction_of_this_python_that_loads_a_name_is_known() -> None:
    loading = {name for name in dis.opmap if "LOAD" in name}
    named = {dis.opname[code] for code in {*dis.haslocal, *dis.hasname, *dis.hasfree}}
    others = {"LOAD_CLOSURE", "LOAD_FAST_AND_CLEAR"} | {name for name in loading if "SUPER" in name}
    known = free_names._GLOBAL | free_names._CELL | free_names._LOCAL | free_names._ATTRIBUTE | others
    assert loading & named <= known


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("def g():\n    from os import path as helper\nreturn helper(x)", {"helper"}),
        ("def g():\n    global helper\n    from os import path as helper\nreturn helper(x)", set()),
        ("class Inner:\n    helper = helper", {"helper"}),
        ("class Inner:\n    if x:\n        helper = 1\n    other = helper", {"helper"}),
        ("class Inner:\n    try:\n        helper = 1\n    except E: pass\n    b = helper", {"helper", "E"}),
        ("class Inner:\n    helper = 1\n    del helper\n    b = helper", {"helper"}),
    ],
)
def test_a_name_that_is_bound_somewhere_may_still_be_a_global(body: str, expected: set[str]) -> None:
    namespace: dict[str, object] = {}
    exec("def f(x):\n" + textwrap.indent(body, "    "), namespace)
    free_names = free_names_of(namespace["f"].__code__)  # type: ignore[attr-defined]
    assert {name for (name, *_) in free_names.globals} - {"__name__"} == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("calls.append(x)", {"calls"}),
        ("seen[x] = 1", {"seen"}),
        ("counts[x] += 1", {"counts"}),
        ("total += x", {"total"}),
        ("calls.append(x)\nreturn calls", set()),
        ("return calls.append(x)", set()),
        ("calls.append(len(calls))", set()),
        ("total += x\nprint(total)", set()),
        ("calls.pop()", set()),
        ("a.b.append(x)", set()),
    ],
)
def test_names_that_are_only_written_to(body: str, expected: set[str]) -> None:
    assert uses_of(function_of(body)).written_only == expected
