"""A name from `lazy import` of Python 3.15 counts like a name from `import`."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from .keys import code_key, tracked

pytestmark = pytest.mark.skipif(sys.version_info < (3, 15), reason="lazy imports are new in Python 3.15")

Load = Callable[..., ModuleType]

OWN = {
    "from helpers import data": "data",
    "from helpers import data as d": "d",
    "import helpers": "helpers.data",
    "import helpers as h": "h.data",
    "from helpers import double": "double(1)",
    "from helpers import Model": "Model()",
    "import middle": "middle.data",
    "from middle import later": "later.data",
    "import middle as whole": "dir(whole)",
}
FOREIGN = {
    "import colorsys": "colorsys.rgb_to_hsv",
    "import colorsys as c": "c.rgb_to_hsv",
    "from colorsys import rgb_to_hsv": "rgb_to_hsv",
    "import xml.dom": "xml.dom.Node",
    "import xml.dom.minidom as m": "m.parse",
    "import os.path": "os.path.join",
    "from os import path": "path.join",
    "import no_such_module": "no_such_module.f",
    "from helpers import no_such_name": "no_such_name",
    "import broken": "broken.x",
}
HELPERS = """
    data = {0}
    def double(x):
        return x * {0}
    class Model:
        size = {0}
"""


def loaded(load: Load, statement: str, expression: str, value: int = 1) -> ModuleType:
    helpers = textwrap.dedent(HELPERS.format(value))
    module = load(
        f"{statement}\ndef f(x):\n    return {expression}\n",
        helpers=helpers,
        middle="lazy from helpers import data\nlazy import helpers as later\n",
    )
    (Path(str(module.__file__)).parent / "broken.py").write_text("raise SystemExit(3)\n")
    for name in ("bench", "helpers", "middle"):  # nothing is loaded yet
        sys.modules.pop(name)
    return __import__("bench")


@pytest.mark.parametrize(("statement", "expression"), (OWN | FOREIGN).items(), ids=OWN | FOREIGN)
def test_a_lazy_import_counts_as_an_eager_one_before_and_after_it_is_read(
    load: Load, statement: str, expression: str
) -> None:
    lazy = loaded(load, f"lazy {statement}", expression)
    tracker = tracked(lazy.f)
    before = tracker()
    try:
        lazy.f(1)
    except (ImportError, SystemExit):
        return
    assert tracker() == before
    eager = loaded(load, statement, expression)
    assert code_key(eager.f) == before


@pytest.mark.parametrize(("statement", "expression"), OWN.items(), ids=OWN)
def test_a_change_behind_a_lazy_import_counts(load: Load, statement: str, expression: str) -> None:
    one = code_key(loaded(load, f"lazy {statement}", expression).f)
    assert code_key(loaded(load, f"lazy {statement}", expression, 2).f) != one


def test_a_foreign_module_is_not_loaded(load: Load) -> None:
    module = loaded(load, "lazy import colorsys as c", "c.rgb_to_hsv")
    sys.modules.pop("colorsys", None)
    code_key(module.f)
    assert "colorsys" not in sys.modules


SCRIPT = """
    from bencher_job import cached_job
    lazy from helpers import data, double
    lazy import helpers
    lazy import colorsys
    lazy from xml.dom import minidom

    def f(x):
        return x, data, double(x), helpers.data, colorsys.rgb_to_hsv.__name__, minidom.Node.__name__

    here = cached_job(f)
    there = cached_job(executor="multiprocessing", cache_name="there")(f)
    forked = cached_job(executor="multiprocessing", cache_name="forked", start_method="fork")(f)

    if __name__ == "__main__":
        print([function.is_cached(1) for function in (here, there, forked)])
        futures = [function.submit(1) for function in (there, forked)]
        print(here(1), *(future.result() for future in futures), sep="\\n")
"""


@pytest.mark.parametrize("options", [(), ("-X", "lazy_imports=all")], ids=["statements", "all"])
def test_jobs_run_with_lazy_imports_in_each_process(tmp_path: Path, options: tuple[str, ...]) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    known = []
    for value in (1, 1, 2):
        (tmp_path / "helpers.py").write_text(f"data = {value}\ndef double(x): return x * data\n")
        command = [sys.executable, "-B", *options, script]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        before, *values = run.stdout.splitlines() or [""]
        assert values == [repr((1, value, value, value, "rgb_to_hsv", "Node"))] * 3, run.stderr
        known.append(before)
    assert known == [str([is_known] * 3) for is_known in (False, True, False)]
