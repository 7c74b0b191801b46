"""Modules that no worker can import travel by value: loaded by importlib's recipe, or made at run time."""

from __future__ import annotations

import textwrap

import cloudpickle
import pytest

from bencher_job._executors.pickling import by_value
from tests.executors import contract_inside

TOOLS = """
    FACTOR = 3

    class Point:
        def __init__(self, x):
            self.x = x

        def moved(self):
            return Point(self.x * FACTOR)

    def tripled(x):
        return x * FACTOR

    def moved(point):
        return point.moved()
"""

PROGRAM = """
    import importlib.util, json, sys, types
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    from bencher_job import cached_job

    {load}

    def indirectly(x):
        return tools.tripled(x)

    if __name__ == "__main__":
        if sys.argv[1] == "dask":
            from distributed import Client
            executor = client = Client(n_workers=1, threads_per_worker=1, dashboard_address=None)
        elif sys.argv[1] == "pool":
            executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        else:
            executor = sys.argv[1]
        found = []
        for each, argument in [
            (tools.tripled, 2), (indirectly, 3), (tools.moved, tools.Point(4)), (tools.Point.moved, tools.Point(5)),
        ]:
            function = cached_job(executor=executor, cache_dir="c")(each)
            value = function(argument)
            again = cached_job(executor="serial", cache_dir="c")(each)
            found.append([getattr(value, "x", value), type(value).__name__, again.is_cached(argument)])
            function.cache.close()
        json.dump(found, open("out.json", "w"))
"""

RECIPE = """
    spec = importlib.util.spec_from_file_location("tools", "elsewhere/tools.py")
    tools = importlib.util.module_from_spec(spec)
    {registered}
    spec.loader.exec_module(tools)
"""
MADE = """
    tools = types.ModuleType("tools")
    sys.modules["tools"] = tools
    exec(compile(open("elsewhere/tools.py").read(), "made", "exec"), vars(tools))
"""
REGISTERED = 'sys.modules["tools"] = tools'

WAYS = {
    "recipe": RECIPE.format(registered=REGISTERED),
    "recipe without sys.modules": RECIPE.format(registered=""),
    "made at run time": MADE,
}


@pytest.mark.parametrize(
    ("way", "executor"),
    [
        *((way, "multiprocessing") for way in WAYS),
        ("made at run time", "pool"),
        ("recipe without sys.modules", "dask"),
    ],
)
def test_functions_and_classes_of_made_modules_run_in_workers(script, way, executor):
    folder = script.folder / "elsewhere"
    folder.mkdir()
    (folder / "tools.py").write_text(textwrap.dedent(TOOLS))
    if way != "made at run time":  # an import would find another module of that name
        (script.folder / "tools.py").write_text("FACTOR = 100\n")
    load = textwrap.indent(textwrap.dedent(WAYS[way]), "    ")
    program = PROGRAM.replace("    {load}\n", load).replace("sys.argv[1]", repr(executor))
    is_stored = way != "recipe without sys.modules"  # else no import finds the class of a stored point
    assert script.run(program) == [
        [6, "int", True],
        [9, "int", True],
        [12, "Point", is_stored],
        [15, "Point", is_stored],
    ]


def test_modules_that_the_user_registers_stay_registered():
    cloudpickle.register_pickle_by_value(contract_inside)
    try:
        with by_value(contract_inside):
            pass
        assert contract_inside.__name__ in cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(contract_inside)
