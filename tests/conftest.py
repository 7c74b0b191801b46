from __future__ import annotations

import compileall
import importlib
import random
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

import bencher_job
from bencher_job._executors import engine_for
from bencher_job._options import PoolOptions
from bencher_job.testing import CallCounter, temporary_cache
from tests.programs import Programs

WriteModule = Callable[[str, str], ModuleType]
Sample = Callable[[int], tuple[int, int]]

# How long an example takes says nothing on a busy machine. Each run draws other examples, and a soak many more.
for name, examples in (("some examples", 40), ("many examples", 500)):
    hypothesis.settings.register_profile(
        name, deadline=None, max_examples=examples, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )

# A shell has what it starts in the background ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


ORDER = {"test_browser.py": -1, "test_slurm.py": 1, "test_two_hosts.py": 2, "test_dask.py": 3}


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package, which each program of a test would do again where Python keeps no bytecode."""
    hypothesis.settings.load_profile("many examples" if config.getoption("--soak") >= 60 else "some examples")
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(bencher_job.__file__).parent, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run Dask's tests last: its threads stay in the process, and no later test can fork safely beside them.

    The longest of those files comes first, so that another process runs the others beside it.
    The browser's run first: it gives up what it loads when a network interface comes or goes, as those of hosts do.
    """
    items.sort(key=lambda item: ORDER.get(item.path.name, 0))


@pytest.fixture(autouse=True)
def cache_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A cache directory of the test's own; with the mark `given_folders` only where a test doesn't name one."""
    if "tmp_path" in request.fixturenames:
        # It goes last: jobs may write to it until their stores end.
        request.getfixturevalue("tmp_path")
    if request.node.get_closest_marker("given_folders"):
        directory = request.getfixturevalue("tmp_path") / "cachedir"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BENCHER_JOB_CACHE_DIR", str(directory))
            yield directory
    else:
        with temporary_cache() as directory:
            yield directory


@pytest.fixture
def counter(tmp_path: Path) -> CallCounter:
    """Counts calls in all processes."""
    return CallCounter(tmp_path / "calls")


@pytest.fixture(scope="module")
def shared_workers() -> Iterator[None]:
    """Keep the worker processes of `executor="multiprocessing"` for all tests of a file.

    Otherwise they end with the last cache that uses them. Workers with any option but `max_workers=1` are not kept.
    """
    engines = [
        engine_for("multiprocessing", settings) for settings in (PoolOptions(), PoolOptions(max_workers=1))
    ]
    for engine in engines:
        assert engine.executor is not None  # a pool that starts a worker with the first job
    yield
    for engine in engines:
        engine.release()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Programs that end with the test."""
    programs = Programs(tmp_path)
    yield programs
    programs.end()


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Sample:
    """Choose at which points a test interrupts a program: a random first one, and a step, smaller with --soak 60."""

    def choose(step: int) -> tuple[int, int]:
        if request.config.getoption("--soak") >= 60:
            step = -(-step // 3)
        first = random.randint(1, step)
        print("first", first, "step", step)
        return first, step

    return choose


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Write a module where all processes can import it, and import it, or reload it if it was there."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv(
        "PYTHONDONTWRITEBYTECODE", "1"
    )  # for a file is not compiled again in the second that it changes
    written: dict[str, ModuleType] = {}

    def write(name: str, code: str) -> ModuleType:
        (folder / f"{name}.py").write_text(textwrap.dedent(code))
        importlib.invalidate_caches()
        if name not in written:
            sys.modules.pop(name, None)  # another test's
        module = importlib.reload(written[name]) if name in written else importlib.import_module(name)
        written[name] = module
        return module

    yield write
    for name in written:
        sys.modules.pop(name, None)
