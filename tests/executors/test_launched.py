"""Tests of SCOOP and MPI, whose executors exist only in programs that their launchers start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.environment import needs_scoop

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).with_name("contract_inside.py")
SCOOP = ("-m", "scoop", "-q", "-n", "3")

RUN_CONTRACT = f"""
    import contextlib, io, json, sys

    if __name__ == "__main__":
        import pytest
        sys.path.insert(0, {str(ROOT)!r})

        class Outcomes:
            def __init__(self):
                self.found = {{}}

            def pytest_runtest_logreport(self, report):
                if report.when == "call" or report.failed:
                    self.found[report.nodeid.rpartition("::")[2]] = "" if report.passed else report.longreprtext

        outcomes = Outcomes()
        options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", {str(ROOT)!r}]
        pytest.main([*options, {str(INSIDE)!r}], plugins=[outcomes])
        json.dump(outcomes.found, open("out.json", "w"))
"""


def failures(out):
    assert len(out) > 15
    return {name: text for name, text in out.items() if text}


@needs_scoop
def test_scoop_passes_the_contract_of_executors(script):
    assert failures(script.run(RUN_CONTRACT, *SCOOP, CONTRACT_OF="SCOOP")) == {}


@pytest.fixture
def mpi(monkeypatch):
    """The command that starts a program under MPI with a root and two workers."""
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        pytest.skip("mpiexec is not installed: Debian's package is openmpi-bin")
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMPI_MCA_rmaps_base_oversubscribe", "1")  # on machines with fewer cores, too
    monkeypatch.setenv("OMPI_MCA_btl", "self,vader")  # no network
    return mpiexec, "-n", "3"


def test_mpi_passes_the_contract_of_executors(script, mpi):
    out = script.run(RUN_CONTRACT, "-m", "mpi4py.futures", before=mpi, CONTRACT_OF="MPI")
    assert failures(out) == {}


def test_functions_of_a_script_run_under_mpi_and_nothing_is_left_behind(script, mpi):
    out = script.run(
        """
        import json, os
        from bencher_job import cached_job
        from mpi4py.futures import MPIPoolExecutor

        class Point:
            def __init__(self, x): self.x = x

        def moved(x): return Point(x + 1), os.getpid()

        if __name__ == "__main__":
            with MPIPoolExecutor() as executor:
                study = cached_job(executor=executor)(moved)
                found = list(study.map(range(200)))
                study.cache.close()
            same = all(type(point) is Point for point, _ in found)
            pids = {pid for _, pid in found}
            json.dump([[point.x for point, _ in found], same, os.getpid() in pids], open("out.json", "w"))
        """,
        "-m",
        "mpi4py.futures",
        before=mpi,
    )

    assert out == [list(range(1, 201)), True, False]
    assert script.processes() == []


def test_what_was_kept_stays_when_a_rank_is_killed_and_mpi_ends_the_program(script, mpi):
    """MPI ends the whole program. The next run continues from the stored results."""
    source = """
        import json, os, signal
        from concurrent.futures import wait
        from bencher_job import cached_job
        from mpi4py.futures import MPIPoolExecutor

        def work(x):
            if x == 9 and not os.path.exists("died"):
                open("died", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return x

        if __name__ == "__main__":
            with MPIPoolExecutor() as executor:
                study = cached_job(executor=executor)(work)
                before = [study.is_cached(x) for x in range(9)]
                wait([study.submit(x) for x in range(9)])
                values = [study(9)]
                json.dump([before, values], open("out.json", "w"))
    """
    first = script.start(source, "-m", "mpi4py.futures", before=mpi)
    first.communicate(timeout=60)
    assert first.returncode != 0

    assert script.run(source, "-m", "mpi4py.futures", before=mpi) == [[True] * 9, [9]]
