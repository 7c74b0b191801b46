"""A cached function stays one when somebody else's cloudpickle carries it: joblib's, Dask's, or plain cloudpickle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.environment import unmeasured

LIBRARY = """
    SCALE = 2

    def helper(x):  # its source is in the key
        return x * SCALE
"""

PROGRAM = """
    import json

    import cloudpickle

    from bencher_job import cached_job
    import local_library

    class Point:
        def __init__(self, x):
            self.x = x

    OFFSET = 3

    def shifted(x):
        "A docstring, which is not in the key."
        return x + OFFSET  # nor is a comment

    @cached_job
    def inner(x):
        return shifted(x)

    @cached_job
    def outer(point: Point, depth: int):
        assert isinstance(point, Point)
        return inner(point.x) + (outer(point, depth - 1) if depth else 0)

    @cached_job
    def imported(x):
        return local_library.helper(x)

    @cached_job
    async def later(x):
        return x + 1

    def closure(y):
        @cached_job
        def added(x):
            return x + y
        return added

    class Model:
        def __init__(self, rate):
            self.rate = rate

        @cached_job
        def score(self, x):
            return self.rate * x

        @cached_job
        @staticmethod
        def static(x):
            return -x

        @cached_job
        @classmethod
        def of_class(cls, x):
            return cls.__name__, x

        @classmethod
        @cached_job
        def below(cls, x):  # called like any other, though Python 3.13 gives it no methods
            return cls.__name__, x

    def kind_and_key(function, *args):
        return type(function).__name__, function.key(*args)

    def awaited(function, *args):
        import asyncio
        return asyncio.run(function(*args))

    if __name__ == "__main__":
        cloudpickle.register_pickle_by_value(local_library)
        {engine}
        model = Model(2)
        calls = [
            (inner, (1,)), (outer, (Point(1), 2)), (imported, (5,)), (closure(1), (2,)),
            (Model.score, (model, 3)), (model.score, (4,)), (Model.static, (6,)), (Model.of_class, (7,)),
        ]
        values = run([(function, *args) for function, args in calls])
        values += run([(awaited, later, 1)])
        assert run([(Model.below, 8)])[0] == Model.below(8) == ("Model", 8)
        assert Model.below.cache.info().computed == 0
        calls.append((later, (1,)))
        told = run([(kind_and_key, function, *args) for function, args in calls])
        print(json.dumps([
            [repr(function), value, "Cached" in kind, key == function.key(*args), function.is_cached(*args)]
            for (function, args), value, (kind, key) in zip(calls, values, told)
        ]))
"""

ENGINES = {
    "joblib": """
        from joblib import Parallel, delayed
        def run(calls):
            with Parallel(n_jobs=2, backend="loky") as parallel:
                return parallel(delayed(function)(*args) for function, *args in calls)
    """,
    "loky": """
        from loky import get_reusable_executor
        def run(calls):
            executor = get_reusable_executor(2)
            return [future.result() for future in [executor.submit(*call) for call in calls]]
    """,
    "dask": """
        from distributed import Client
        client = Client(n_workers=2, threads_per_worker=1, dashboard_address=None)
        def run(calls):
            return client.gather([client.submit(*call, pure=False) for call in calls])
    """,
    "cloudpickle": """
        import pickle, subprocess, sys
        receive = "import pickle, sys; calls = pickle.load(sys.stdin.buffer);"
        receive += "pickle.dump([f(*a) for f, *a in calls], sys.stdout.buffer)"
        def run(calls):
            return pickle.loads(subprocess.run(
                [sys.executable, "-c", receive], input=cloudpickle.dumps(calls), capture_output=True, check=True
            ).stdout)
    """,
}


def outcome(folder: Path, program: str, *, is_a_script: bool = True) -> Any:
    """Run a program, as a script or as a notebook would: from a text that is no file."""
    (folder / "study.py").write_text(program)
    library = folder / "elsewhere"
    library.mkdir()
    (library / "local_library.py").write_text(textwrap.dedent(LIBRARY))
    begin = [] if is_a_script else ["-m", "IPython", "--quick", "--no-banner", "--colors=NoColor", "-c"]
    run = subprocess.run(
        [sys.executable, "-B", *begin, "study.py" if is_a_script else program],
        cwd=folder,
        env=unmeasured(
            {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(library), *filter(None, sys.path)]),
                "BENCHER_JOB_CACHE_DIR": str(folder / "cachedir"),
                "IPYTHONDIR": str(folder / "ipython"),
            }
        ),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def program(engine: str) -> str:
    """The program, with one of the engines."""
    return textwrap.dedent(PROGRAM).replace(
        "    {engine}\n", textwrap.indent(textwrap.dedent(ENGINES[engine]), "    ")
    )


EXPECTED = [4, 12, 10, 3, 6, 8, -6, ["Model", 7], 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_functions_of_a_script_arrive_as_cached_functions_with_the_same_keys(
    tmp_path: Path, engine: str
) -> None:
    found = outcome(tmp_path, program(engine))
    assert [value for _, value, *_ in found] == EXPECTED
    assert [facts for facts in found if facts[2:] != [True, True, True]] == []


@pytest.mark.parametrize("engine", ["joblib", "cloudpickle"])
def test_functions_of_a_notebook_arrive_as_cached_functions_with_the_same_keys(
    tmp_path: Path, engine: str
) -> None:
    found = outcome(tmp_path, program(engine), is_a_script=False)
    assert [value for _, value, *_ in found] == EXPECTED
    assert [facts for facts in found if facts[2:] != [True, True, True]] == []
