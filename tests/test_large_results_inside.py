"""Large results of worker processes, where the pipe, a lease or a commit has to be seen or stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from bencher_job import Executors, Job, cached_job
from bencher_job._executors import engine_for
from bencher_job._executors.entry import ResultKind
from bencher_job._stores import Lease, open_store, verify
from bencher_job._stores.verification import Fault
from tests.programs import Programs, until

from .test_large_results import LARGE, NUMBERS, PATIENCE, files_of, is_gone, numbers


@pytest.fixture
def programs(tmp_path):
    """Programs that end with the test."""
    programs = Programs(tmp_path)
    yield programs
    programs.end()


def test_no_byte_of_the_value_passes_the_pipe(cache_folder):
    """The report, as it comes out of the pipe, has a few bytes; that of a small value has the value."""
    store = open_store(cache_folder / "fcache", size_limit=10**9)
    engine = engine_for(Executors.MULTIPROCESSING)
    sizes, kinds = [], []
    for count in (NUMBERS, NUMBERS // 4):
        job = Job("array", np.ones, {"shape": count}).for_run(None, store.blob_writer(None))
        future = engine.submit(job)
        run_result = future.result(PATIENCE)
        sizes.append(run_result.payload.nbytes)
        kinds.append(run_result.kind)
        outcome = engine.receive(future)
        assert np.array_equal(outcome.value, np.ones(count))
    assert kinds == [ResultKind.DEPOSITED, ResultKind.PLAIN]
    assert sizes[0] < 1000
    assert sizes[1] >= LARGE // 4
    engine.release()


def test_a_result_whose_lease_is_lost_leaves_no_file(tmp_path):
    @cached_job(executor="multiprocessing", code="none")
    def large(x, gate):
        until(Path(gate).exists)
        return numbers(x)

    gate = tmp_path / "gate"
    future = large.submit(1, gate)
    leases, key = large.cache.cache.leases, large.key(1, gate)
    assert until(lambda: leases.owner_of(key))
    lease = Lease(key)
    lease.replaces = leases.owner_of(key).number
    leases.acquire([lease])
    assert lease.held
    gate.touch()
    _, array = future.result(PATIENCE)
    assert array[-1] == 1.0
    assert files_of(large.cache.directory) == {}
    assert not large.is_cached(1, gate)
    assert large.cache.verify().is_clean
    large.cache.close()


KILLED_BEFORE_ITS_ROW = """
    import numpy as np
    from bencher_job._stores.embedded import Commits

    @cached_job(code="none", executor="multiprocessing", max_workers=1)
    def job(x):
        count("ran")
        return np.full(1 << 20, float(x))

    if __name__ == "__main__":
        if NAME == "first":
            Commits._commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        print(job(3).sum())
"""


def test_what_a_killed_submitter_has_not_committed_is_a_stray_and_runs_again(programs):
    first = programs.start("first", KILLED_BEFORE_ITS_ROW)
    assert first.wait(PATIENCE) == -signal.SIGKILL
    store = programs.folder / "cachedir" / "fcache"
    ((worker, path),) = files_of(store).items()
    assert path.suffix == ".val"
    assert worker != first.pid
    assert until(lambda: is_gone(worker))
    assert programs.output(programs.start("second", KILLED_BEFORE_ITS_ROW)) == str(3.0 * (1 << 20))
    assert programs.count("ran") == 2
    opened = open_store(store, size_limit=10**9)
    assert verify(opened, repair=True).names(Fault.STRAY_FILE) == [str(path.relative_to(store))]
    assert verify(opened).is_clean
    opened.close()
