"""A worker runs a function under the submitter's key only if it has the submitter's code (promise 11)."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest

from bencher_job import CachedFunction, CodeMismatch, Executors, cached_job
from bencher_job._executors.entry import execute
from bencher_job._executors.packing import pack
from bencher_job._executors.pool import SlotPool
from bencher_job._keys.code_check import code_check_for
from bencher_job._keys.fingerprint import CodeTracker
from tests.conftest import WriteModule

OnWorkers = Callable[..., CachedFunction]

CODE = """
    import helping
    SCALE = 2
    def scaled(x):
        return helping.double(x) * SCALE
"""
SHAPES = """
    class Square:
        def __init__(self, side):
            self.side = side
        def area(self):
            return self.side**2
"""
HELPER = """
    def double(x):
        return x + x
"""


@pytest.fixture
def on_workers() -> Iterator[Callable[..., CachedFunction]]:
    """Cache functions on a new pool, whose workers have imported nothing yet."""
    pools: list[Executor] = []

    def on_workers(function: Callable[..., object], **options: object) -> CachedFunction:
        if not pools or options.pop("anew", False):
            pools.append(Executors.factory("multiprocessing"))
        return cached_job(executor=pools[-1], **options)(function)

    yield on_workers
    for pool in pools:
        pool.shutdown()


def test_a_module_that_was_edited_on_disk_is_not_run_and_nothing_is_stored(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    write_module("helping", HELPER)
    module = write_module("edited", CODE)
    scaled = on_workers(module.scaled)
    scaled.key(1)
    Path(sys.modules["helping"].__file__).write_text("def double(x):\n    return 3 * x\n")
    with pytest.raises(CodeMismatch, match=r"edited\.scaled.*helping\.double") as caught:
        scaled(1)
    assert (caught.value.function, caught.value.differs) == ("edited.scaled", ("helping.double",))
    assert not scaled.is_cached(1)
    assert list(scaled.cache.records()) == []


def test_a_comment_that_was_edited_on_disk_changes_nothing(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    write_module("helping", HELPER)
    scaled = on_workers(write_module("commented", CODE).scaled)
    Path(sys.modules["helping"].__file__).write_text("# news\ndef double(x):\n    'doc'\n    return x + x\n")
    assert scaled(1) == 4


def test_a_global_of_a_helper_that_was_set_while_the_program_runs_is_missed(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    helping = write_module("helping", "FACTOR = 2\ndef double(x):\n    return FACTOR * x\n")
    scaled = on_workers(write_module("configured", CODE).scaled)
    helping.FACTOR = 10
    with pytest.raises(CodeMismatch, match=r"helping\.FACTOR"):
        scaled(1)
    assert not scaled.is_cached(1)


def test_the_globals_that_a_cached_function_reads_itself_travel_with_it(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    code = """
        import time, tempfile, bencher_job
        START, FOLDER, CONFIG = time.time(), tempfile.mkdtemp(), None
        def read():
            return START, FOLDER, CONFIG
        @bencher_job.cached_job
        def configured(x):
            return START, FOLDER, CONFIG, x
    """
    module = write_module("carried", code)
    module.CONFIG = "set by main"
    configured = on_workers(module.configured.__wrapped__)
    assert configured(1) == (module.START, module.FOLDER, "set by main", 1)


def test_state_that_main_has_set_is_missed_though_the_code_sets_it_too(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    code = """
        MODEL = None
        def get():
            global MODEL
            if MODEL is None:
                MODEL = "loaded"
            return MODEL
        def via(x):
            return get()
    """
    module = write_module("stateful", code)
    module.MODEL = "set by main"
    via = on_workers(module.via)
    with pytest.raises(CodeMismatch, match=r"stateful\.MODEL"):
        via(1)
    assert not via.is_cached(1)


def test_a_local_variable_with_the_name_of_a_helper_hides_no_difference(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    code = """
        def scale(x):
            return 2 * x
        def note(x):
            scale = {}
            scale["x"] = x
            return 0
        def job(x):
            return scale(x) + note(x)
    """
    module = write_module("shadowed", code)
    job = on_workers(module.job)
    job.key(1)
    path = Path(module.__file__)
    path.write_text(path.read_text().replace("2 * x", "99 * x"))
    with pytest.raises(CodeMismatch, match=r"shadowed\.scale"):
        job(1)


def test_a_registry_that_imports_fill_is_looked_at_when_all_are_imported(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    write_module(
        "plug",
        "REGISTRY = {}\ndef register(f):\n    REGISTRY[f.__name__] = f\n    return f\n"
        "def call(n, x):\n    return REGISTRY[n](x)\n",
    )
    for name in ("late", "early"):
        write_module(f"plug_{name}", f"import plug\n@plug.register\ndef {name}(x):\n    return x, {name!r}\n")
    jobs = write_module("plugged", "import plug\ndef run(n, x):\n    return plug.call(n, x)\n")
    run = on_workers(jobs.run)
    assert run("early", 1) == (1, "early")
    assert run("late", 1) == (1, "late")


def test_a_reloaded_module_gets_workers_that_load_it_too(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    write_module("helping", HELPER)
    module = write_module("reloaded", CODE)
    scaled = on_workers(module.scaled)
    other = on_workers(module.scaled)
    assert (scaled(1), other(2)) == (4, 8)
    Path(module.__file__).write_text(textwrap.dedent(CODE.replace("SCALE = 2", "SCALE = 300")))
    importlib.reload(module)
    again = on_workers(module.scaled)
    assert again(1) == 600


def test_many_jobs_of_a_reloaded_module_all_get_a_worker_that_loads_it(write_module: WriteModule) -> None:
    """A job that an older worker could not load does not wait behind those that follow it."""
    code = """
        import os, time
        def pid(number):
            time.sleep(0.5)
            return os.getpid()
        def twice(x):
            return {}
    """
    on_two_workers = cached_job(executor=Executors.MULTIPROCESSING, max_workers=2)
    pid = on_two_workers(write_module("many", code.format("x + x")).pid)
    assert len(set(pid.map(range(4)))) == 2  # both have loaded the old module
    twice = on_two_workers(write_module("many", code.format("[x, x]")).twice)
    assert twice(-1) == [-1, -1]  # one of them was replaced
    assert list(twice.map(range(500))) == [[x, x] for x in range(500)]
    pid.cache.close()
    twice.cache.close()


MEETING = """
import os, time

def job(folder, x):
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(os.listdir(folder)) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    return x, os.getpid()
"""
"""A job that waits until two workers run it."""


def test_a_worker_that_has_run_nothing_may_be_older_than_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Callable[..., bool]
) -> None:
    """It got its import path when it started, before the job was packed."""
    with SlotPool(2) as pool:
        first, second = pool.submit(abs, -1), pool.submit(abs, -2)
        assert until(lambda: len(pool._scheduler.workers) == 2)
        second.cancel()  # so that one worker is idle, unless it was ready before
        assert first.result() == 1
        assert until(lambda: all(slot.room() and not slot.tasks for slot in pool._scheduler.workers))
        (tmp_path / "appeared.py").write_text(MEETING)
        monkeypatch.syspath_prepend(tmp_path)
        job = importlib.import_module("appeared").job
        (tmp_path / "met").mkdir()
        results = [future.result() for future in [pool.submit(job, tmp_path / "met", x) for x in range(6)]]
        assert [x for x, _ in results] == [*range(6)]
        assert len({pid for _, pid in results}) == 2  # both run jobs


def test_a_function_that_is_new_in_a_module_gets_a_worker_that_finds_it(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    module = write_module("growing", "def first(x):\n    return x\n")
    first = on_workers(module.first)
    assert first(1) == 1
    write_module("later", "")
    with Path(module.__file__).open("a") as file:
        file.write("def second(x):\n    return later.__name__, x\nimport later\n")
    importlib.reload(module)
    second = on_workers(module.second)
    assert second(1) == ("later", 1)


def test_what_the_function_itself_remembers_in_a_global_is_no_difference(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    module = write_module(
        "lazy",
        """
        _model = None
        _known = {}
        def model():
            global _model
            if _model is None:
                _model = [2]
            return _model
        def scaled(x):
            _known[x] = x
            return model()[0] * len(_known) ** 0 * x
        def halved(x):
            return x / model()[0]
        """,
    )
    scaled, halved = on_workers(module.scaled), on_workers(module.halved)
    assert list(scaled.map(range(6))) == [0, 2, 4, 6, 8, 10]
    assert list(halved.map(range(6))) == [0, 0.5, 1, 1.5, 2, 2.5]


@pytest.mark.parametrize("code", ["own", "none"])
def test_what_does_not_count_is_not_compared(
    write_module: WriteModule, on_workers: OnWorkers, code: str
) -> None:
    write_module("helping", HELPER)
    module = write_module("uncounted", CODE)
    module.SCALE = 10
    scaled = on_workers(module.scaled, code=code)
    assert scaled(1) == 4


def test_a_function_that_travels_by_value_is_checked_for_what_it_imports(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    helping = write_module("helping", HELPER)

    def scaled(x: int) -> int:
        return int(helping.double(x))

    cached = on_workers(scaled)
    assert cached(1) == 2
    cached = on_workers(scaled, anew=True)
    Path(helping.__file__).write_text("def double(x):\n    return 3 * x\n")
    with pytest.raises(CodeMismatch, match=r"helping\.double"):
        cached(2)


def test_the_class_of_an_argument_that_was_edited_on_disk_is_missed(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    module = write_module("shapes", SHAPES)

    def area(shape: object) -> float:
        return shape.area()  # type: ignore[attr-defined, no-any-return]

    cached = on_workers(area)
    squares = {"one": [module.Square(2)]}
    assert on_workers(lambda shapes: shapes["one"][0].area())(squares) == 4
    path = Path(module.__file__)
    path.write_text(path.read_text().replace("self.side**2", "4 * self.side"))
    assert cached(module.Square(3)) == 9, "this worker has the old code, too"
    cached = on_workers(area, anew=True)
    with pytest.raises(CodeMismatch, match=r"shapes\.Square"):
        cached(module.Square(5))
    assert on_workers(area, code="own")(module.Square(5)) == 20


def test_a_closure_brings_the_globals_of_its_own_module_along(
    write_module: WriteModule, on_workers: OnWorkers
) -> None:
    module = write_module(
        "factory",
        """
        SCALE = 2
        def make():
            def scaled(x):
                return x * SCALE
            return scaled
        """,
    )
    module.SCALE = 10
    scaled = on_workers(module.make())
    assert scaled(1) == 10


def test_files_and_distributions_that_a_function_depends_on_are_compared(tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("1")
    agreement = code_check_for(CodeTracker(len, depends_on=[data, "pytest"]).current())
    assert agreement.differences() == ()
    data.write_text("2")
    assert agreement.differences() == (str(data),)
    data.unlink()
    assert agreement.differences() == (str(data),)


NOTEBOOK = """
    from bencher_job import Executors, cached_job

    def define(code, space):
        exec(compile(code, "<cell 1>", "exec"), space)

    {remember}
    define('''
    class Model:
        def fit(self, x):
            return helper(x) + self.bias()
        def bias(self):
            return BIAS
    BIAS = 1
    def helper(x):
        return x + 1
    def inner(x):
        return Model().fit(x)
    ''', globals())
    inner = cached_job(inner)

    @cached_job(executor=Executors.MULTIPROCESSING)
    def outer(x):
        return inner.key(x), inner(x)

    there, value = outer(1)
    assert value == 3
    assert there == inner.key(1), "the worker makes another key"
    assert inner.is_cached(1)
    print("same")
"""

WITH_SOURCE = """
    import linecache
    _define = define
    def define(code, space):
        lines = textwrap.dedent(code).splitlines(keepends=True)
        linecache.cache["<cell 1>"] = (len(code), None, lines, "<cell 1>")
        _define("".join(lines), space)
    import textwrap
"""


@pytest.mark.parametrize("remember", ["", WITH_SOURCE], ids=["exec", "notebook"])
def test_code_that_only_the_submitter_has_the_source_of_has_the_same_key_in_a_worker(
    remember: str, tmp_path: Path
) -> None:
    script = tmp_path / "cells.py"
    text = textwrap.dedent(NOTEBOOK).replace("{remember}", textwrap.dedent(remember))
    script.write_text(text)
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert (run.stdout, run.stderr) == ("same\n", "")


def test_the_code_check_costs_a_worker_nothing_once_the_function_is_loaded(write_module: WriteModule) -> None:
    write_module("helping", HELPER)
    scaled = cached_job(write_module("loaded", CODE).scaled)
    parcel = pack(scaled.cache.job((1,), {}))
    assert execute(parcel).kind.name == "PLAIN"
    sys.modules["loaded"].SCALE = 7  # as a job in this worker might
    assert execute(parcel).kind.name == "PLAIN"
