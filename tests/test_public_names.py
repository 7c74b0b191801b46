"""The package gives the names that it says it has, some of which it imports when they are asked for."""

import pickle
import subprocess
import sys
import textwrap

import pytest

import bencher_job
from bencher_job import Plan, SweepFailure

from .environment import unmeasured


def run(script: str) -> None:
    """Run a program in a new interpreter, where nothing has been asked for yet."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)], check=True, env=unmeasured()
    )


@pytest.mark.parametrize("name", bencher_job.__all__)
def test_each_name_is_there_and_is_the_package_s_own(name: str) -> None:
    assert getattr(bencher_job, name).__module__ == "bencher_job"


def test_names_that_were_not_asked_for_yet_are_listed_too() -> None:
    run("import bencher_job; assert set(bencher_job.__all__) <= set(dir(bencher_job))")


def test_a_name_that_there_is_not_is_refused() -> None:
    with pytest.raises(AttributeError, match="'bencher_job' has no attribute 'Sweeps'"):
        _ = bencher_job.Sweeps  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [Plan(1, 2, 3.0, 4), SweepFailure({"a": 1}, 0, None)])
def test_what_is_pickled_is_found_where_its_name_was_not_asked_for_yet(value: object) -> None:
    run(f"import pickle; assert repr(pickle.loads({pickle.dumps(value)!r})) == {repr(value)!r}")


@pytest.mark.parametrize("module", bencher_job._LATER)
def test_a_class_is_the_package_s_own_however_it_was_met_first(module: str) -> None:
    run(f"""
        import importlib
        module = importlib.import_module("bencher_job.{module}")
        import bencher_job
        public = [getattr(module, name) for name in bencher_job._LATER["{module}"]]
        assert public and all(each.__module__ == "bencher_job" for each in public)
    """)


def test_a_decorated_function_imports_what_runs_jobs_at_its_first_use() -> None:
    run("""
        import sys
        from bencher_job import cached_job
        @cached_job
        def f(x): return x
        later = "_cache _coordinator _executors _explain _job _keys _media _stores _sweeps _views".split()
        loaded = {f"bencher_job.{name}" for name in later} & set(sys.modules)
        assert not loaded, loaded
        slow = "blake3 diskcache hashlib json numbers pickle random shutil sqlite3 statistics".split()
        assert not {*slow} & set(sys.modules)
        assert f.key(1) == f.cache.keys.key((1,), {})
    """)
