"""Annotations that can't be evaluated at run time, which Python 3.14 leaves as they are until they are read."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from bencher_job import Job, JobFunctionCache, cached_job, run_job
from tests.conftest import WriteModule

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="before Python 3.14 the definition itself raises NameError"
)

DEFINITIONS = """
    import dataclasses, functools
    from typing import TYPE_CHECKING
    from bencher_job import cached_job
    if TYPE_CHECKING:
        from decimal import Decimal

    @dataclasses.dataclass
    class Point:
        x: int
        def scaled(self, by: Decimal) -> Decimal:
            return self.x * by

    class Model:
        size: Decimal = 2

    def forwarding(function):
        @functools.wraps(function)
        def inner(*args: Decimal, **kwargs: Decimal):
            return function(*args, **kwargs)
        return inner

    def plain(x: Decimal, of: object = None) -> Decimal:
        y: Decimal = x
        def inner(z: Decimal) -> Decimal:
            return z
        return inner(y), type(of).__name__

    async def coroutine(x: Decimal) -> Decimal:
        return plain(x)

    @cached_job(cache_dir="cache")
    def positional(x: Decimal, /) -> Decimal:
        return x

    decorated = forwarding(plain)
"""


@pytest.fixture
def module(write_module: WriteModule) -> ModuleType:
    return write_module("deferred", DEFINITIONS)


def test_any_function_can_be_decorated_and_asked(module: ModuleType) -> None:
    for function in (module.plain, module.decorated):
        cached = cached_job(function)
        assert cached(1) == cached(x=1) == (1, "NoneType")
        assert cached.is_cached(1)
        assert "a hit" in str(cached.explain(1))
        assert cached(1, module.Point(2)) == (1, "Point")
        assert cached(1, module.Model()) == (1, "Model")
        assert cached(1, module.plain) == (1, "function")
        assert len(cached.sweep({"x": [1, 2]}).run()) == 2
    assert asyncio.run(cached_job(module.coroutine)(1)) == (1, "NoneType")
    assert JobFunctionCache(module.Point(3).scaled).call(by=2).result() == 6
    assert run_job(Job("one", module.plain, {"x": 1})) == (1, "NoneType")


SCRIPT = """
    if __name__ == "__main__":
        from bencher_job import Executors, cached_job
        def run(function, *args):
            return cached_job(executor=Executors.MULTIPROCESSING)(function).submit(*args).result()
        print(run(plain, 1, Model()), run(decorated, 1, Point(2)), run(Point(3).scaled, 2), run(plain, 1, plain))
        print(plain.__annotate__ is not None, type(plain).__name__)
"""


def test_functions_of_a_script_travel_to_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(DEFINITIONS) + textwrap.dedent(SCRIPT))
    command = [sys.executable, "-W", "error", script]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "(1, 'Model') (1, 'Point') 6 (1, 'function')\nTrue function\n", run.stderr


def test_the_command_line_explains_a_call(module: ModuleType, tmp_path: Path) -> None:
    folder = Path(str(module.__file__)).parent
    command = [sys.executable, "-m", "bencher_job", "explain", "deferred:positional", "--arg", "x=1"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert "deferred.positional(x=1): a miss" in run.stdout, run.stderr
