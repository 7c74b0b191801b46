"""Imports inside a function are followed before it runs, even if the modules fail or make keys themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from .keys import code_key, parts_of, tracked

Load = Callable[..., ModuleType]


@pytest.mark.parametrize("name", ["fast", "slow"])
def test_all_imports_of_one_name_count(load: Load, name: str) -> None:
    source = """
        def f(x):
            try:
                from fast import impl
            except ImportError:
                from slow import impl
            return impl(x)
    """
    modules = {"fast": "def impl(x): return 1\n", "slow": "def impl(x): return 2\n"}
    one = code_key(load(source, **modules).f)
    modules[name] = "def impl(x): return 3\n"
    assert code_key(load(source, **modules).f) != one


def test_an_alias_in_a_nested_function_hides_no_global(load: Load) -> None:
    module = load("""
        def helper(x):
            return 1
        def f(x):
            def g():
                from os import path as helper
                return helper
            return helper(x)
    """)
    tracker = tracked(module.f)
    before = tracker()
    module.helper = lambda x: 2
    assert tracker() != before


def test_a_class_that_renames_a_global_reads_it(load: Load) -> None:
    module = load("G = 1\ndef f(x):\n    class L:\n        G = G\n    return L\n")
    tracker = tracked(module.f)
    before = tracker()
    module.G = 2
    assert tracker() != before


@pytest.mark.parametrize(
    "imported", ["sys.exit(3)", "raise ValueError", "raise KeyError", "import no_such_thing"]
)
@pytest.mark.parametrize("statement", ["import broken", "from broken import x", "from package import broken"])
def test_a_module_that_cannot_be_imported_is_missing(load: Load, imported: str, statement: str) -> None:
    module = load(f"def f(x):\n    {statement}\n    return broken\n")
    folder = Path(module.__file__ or "").parent
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    for path in (folder / "broken.py", folder / "package" / "broken.py"):
        path.write_text(f"import sys\n{imported}\n")
    assert code_key(module.f)


def test_a_module_that_a_function_imports_again_counts_again(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was edited is removed from `sys.modules`, and the next call of the function imports it again."""
    module = load("def f(x):\n    from tools import g\n    return g(x)\n", tools="def g(x): return 1\n")
    tracker = tracked(module.f)
    before = tracker()
    Path(sys.modules["tools"].__file__ or "").write_text("def g(x): return 22\n")
    monkeypatch.delitem(sys.modules, "tools")
    after = tracker()
    assert module.f(0) == 22
    assert after != before
    assert tracker() == after


def test_a_module_that_appears_later_counts(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was missing at the first key."""
    module = load("def f(x):\n    import made_later\n    return made_later.g(x)\n")
    tracker = tracked(module.f)
    before = tracker()
    monkeypatch.setitem(sys.modules, "made_later", load("def g(x): return 1\n", name="made_later"))
    assert tracker() != before


def test_the_getattr_of_a_module_counts(load: Load) -> None:
    """The module's `__getattr__` provides names that it lacks."""
    tools = "SIZE = 1\ndef __getattr__(name):\n    return {'size': SIZE}[name]\n"
    module = load("import tools\ndef f(x):\n    return tools.size\n", tools=tools)
    tracker = tracked(module.f)
    before = tracker()
    sys.modules["tools"].SIZE = 2
    assert tracker() != before
    assert "tools.__getattr__" in parts_of(module.f)


def test_a_relative_import_outside_of_a_package_is_missing(load: Load) -> None:
    module = load("""
        def f(x):
            try:
                from .tools import g
            except ImportError:
                return -1
            return g(x)
    """)
    module.__package__ = None
    assert code_key(module.f)


def test_a_module_may_ask_for_the_same_key_while_it_is_imported(load: Load) -> None:
    module = load("""
        from bencher_job import cached_job
        def f(x):
            from lazy import V
            return V
        CACHED = cached_job(f)
    """)
    folder = Path(module.__file__ or "").parent
    (folder / "lazy.py").write_text("import bench\nbench.CACHED.key(1)\nV = 1\n")
    key = module.CACHED.key([])
    assert module.CACHED.key([]) == key == code_key(module.f)


def test_two_threads_that_import_and_ask_for_a_key_do_not_wait_for_each_other(load: Load) -> None:
    module = load("""
        import threading
        from bencher_job import cached_job
        IMPORTING, ASKING = threading.Event(), threading.Event()
        def f(x):
            from lazy import V
            return V
        CACHED = cached_job(f)
    """)
    folder = Path(module.__file__ or "").parent
    (folder / "lazy.py").write_text(
        "import bench\nbench.IMPORTING.set()\nbench.ASKING.wait(0.3)\nV = bench.CACHED.key(1)\n"
    )
    program = folder / "program.py"
    program.write_text(
        "import bench, importlib, threading\n"
        "thread = threading.Thread(target=importlib.import_module, args=('lazy',))\n"
        "thread.start()\n"
        "bench.IMPORTING.wait()\n"
        "bench.CACHED.key(1)\n"
        "thread.join()\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
