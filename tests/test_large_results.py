"""Large results of worker processes: the worker writes the file, its submitter commits it, and nothing else changes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bencher_job import (
    BencherJobError,
    CacheWarning,
    Executors,
    FutureCache,
    Job,
    JobTimeout,
    WorkerLost,
    cached_job,
    gen_path,
)
from bencher_job.testing import CallCounter
from tests.programs import until

pytestmark = pytest.mark.usefixtures("shared_workers")

PATIENCE = 60.0
LARGE = 2 << 20
"""The size in bytes from which on a worker writes a result itself."""

NUMBERS = LARGE // 8
"""How many floats make a large array."""


def numbers(x):
    """Make a large array, and say which process did."""
    return os.getpid(), np.full(NUMBERS, float(x))


def _array_when_all_is_told(large, argument):
    """Give a job's array once what is wrong with keeping it has been told, which comes after the value."""
    _, array = large.submit(argument).result(PATIENCE)
    large.cache.wait()
    return array


def files_of(directory):
    """The value files of a store, whole or not, by the number of the process that has written each."""
    return {int(path.name.split(".")[1].split("-")[1]): path for path in Path(directory).glob("*/*/*.val*")}


def strays_of(function):
    """The files without an entry that a repair has found."""
    findings = function.cache.verify(repair=True).findings
    return [finding.name for finding in findings if finding.fault.name == "STRAY_FILE"]


def is_gone(process):
    """Whether there is no process of this number, a zombie not counted."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def pool_of(**options):
    """A cached function on a single worker."""
    return cached_job(executor="multiprocessing", max_workers=1, code="none", **options)(numbers)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("start_method", ["spawn", "forkserver", "fork"])
def test_the_worker_writes_the_file_and_the_submitter_its_row(start_method):
    large = pool_of(start_method=start_method)
    worker, array = large(1)
    directory = large.cache.directory

    assert worker != os.getpid()
    assert list(files_of(directory)) == [worker]
    assert np.array_equal(array, np.full(NUMBERS, 1.0))
    (record,) = large.cache.records()
    assert record.size == files_of(directory)[worker].stat().st_size
    assert record.pid == worker
    again, array_again = large(1)
    assert (again, large.cache.info().hits) == (worker, 1)
    assert np.array_equal(array, array_again)
    assert large.cache.verify().is_clean
    large.cache.close()


def test_what_was_computed_may_be_changed_and_nobody_else_sees_it(tmp_path):
    counter = CallCounter(tmp_path / "calls")

    @cached_job(executor="multiprocessing", code="none")
    def large(x, gate, counter):
        counter.tick()
        until(Path(gate).exists)
        return {"array": np.full(NUMBERS, float(x)), "text": "t"}

    futures = [large.submit(1, tmp_path / "gate", counter) for _ in range(3)]
    (tmp_path / "gate").touch()
    values = [future.result(PATIENCE) for future in futures]
    for number, value in enumerate(values):
        value["array"] += number
    assert [value["array"][-1] for value in values] == [1.0, 2.0, 3.0]
    assert large(1, tmp_path / "gate", counter)["array"][0] == 1.0
    assert futures[0].result() is values[0]
    assert counter.count == 1
    large.cache.close()


def test_a_mapped_cache_gives_the_first_caller_what_may_be_changed_and_later_ones_a_map():
    large = pool_of(mmap=True)
    _, first = large(1)
    first += 1
    _, second = large(1)
    assert not second.flags.writeable
    assert (first[0], second[0]) == (2.0, 1.0)
    large.cache.close()


def test_a_coroutine_that_a_worker_runs_has_its_result_written_there():
    @cached_job(executor="multiprocessing", code="none")
    async def large(x):
        return numbers(x)

    worker, array = large.submit(1).result(PATIENCE)
    assert list(files_of(large.cache.directory)) == [worker]
    assert array[-1] == 1.0
    large.cache.close()


def test_what_nobody_reads_is_kept():
    large = pool_of()
    for x in range(3):
        large.submit(x)
    large.cache.close()
    assert [large.is_cached(x) for x in range(3)] == [True] * 3
    assert large.cache.verify().is_clean
    large.cache.close()


def test_a_job_that_runs_anew_replaces_the_file_and_the_media():
    def filmed(x):
        Path(gen_path("film", suffix=".dat")).write_bytes(b"x" * 1000)
        return numbers(x)

    with FutureCache(executor="multiprocessing", overwrite=True) as cache:
        for _ in range(2):
            worker, _ = cache.submit(Job("filmed", filmed, {"x": 1}, "key")).result(PATIENCE)
        directory = cache.directory
        assert list(files_of(directory)) == [worker]
        assert len(list(directory.glob("*/*/*.val"))) == len(list((directory / "media").iterdir())) == 1
        (record,) = cache.records()
        assert record.size == files_of(directory)[worker].stat().st_size + 1000
        assert cache.verify().is_clean


def test_a_secret_signs_what_a_worker_writes(monkeypatch):
    monkeypatch.setenv("BENCHER_JOB_SECRET", "of both")
    large = cached_job(executor=Executors.factory("multiprocessing"), code="none")(numbers)
    worker, array = large(1)
    path = files_of(large.cache.directory)[worker]
    assert path.read_bytes()[5] == 1  # signed
    assert array[0] == 1.0
    assert large.cache.verify().is_clean
    large.cache.close()
    large.cache.executor.shutdown()


def test_a_worker_signs_with_a_secret_that_was_set_after_its_start(monkeypatch):
    pool = Executors.factory("multiprocessing")
    assert pool.submit(int).result(PATIENCE) == 0  # so that there are workers before there is a secret
    monkeypatch.setenv("BENCHER_JOB_SECRET", "of the submitter")
    large = cached_job(executor=pool, code="none")(numbers)
    worker, array = large(1)
    assert list(files_of(large.cache.directory)) == [worker]
    assert array[0] == 1.0
    assert large.cache.verify().is_clean
    large.cache.close()
    pool.shutdown()


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_worker_compresses_what_it_writes(compression):
    large = pool_of(compression=compression)
    worker, array = large(1)
    path = files_of(large.cache.directory)[worker]
    assert path.stat().st_size < LARGE // 10
    array += 1
    assert np.array_equal(large(1)[1] + 1, array)
    assert large.cache.verify().is_clean
    large.cache.close()


def limit_files():
    """Let this process write no file beyond a megabyte, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_where_the_disk_refuses_the_worker_the_value_travels_and_the_submitter_writes_it():
    large = pool_of(initializer=limit_files)
    worker, array = large(1)
    assert list(files_of(large.cache.directory)) == [os.getpid()] != [worker]
    assert array[-1] == 1.0
    assert large.cache.verify().is_clean
    large.cache.close()


def test_where_the_folder_is_gone_the_value_travels_and_the_worker_makes_no_other():
    @cached_job(executor="multiprocessing", code="none")
    def large(x, directory):
        shutil.rmtree(directory)
        return numbers(x)

    large.cache.cache.has("key")
    directory = large.cache.directory
    _, array = large(1, directory)
    assert array[-1] == 1.0
    assert files_of(directory) == {}  # a new store has no lease of the job
    assert large.cache.verify().is_clean
    large.cache.close()


@pytest.mark.parametrize("off", ["cache_samples", "variable"])
def test_where_nothing_is_kept_no_file_is_written(off, monkeypatch, tmp_path):
    if off == "variable":
        monkeypatch.setenv("BENCHER_JOB", "off")
    with FutureCache(
        executor="multiprocessing", cache_samples=off == "variable", cache_dir=tmp_path / "cache"
    ) as cache:
        _, array = cache.submit(Job("large", numbers, {"x": 1}, "key")).result(PATIENCE)
    assert array[-1] == 1.0
    assert not (tmp_path / "cache").exists()


def test_workers_of_an_executor_that_was_passed_write_nothing():
    with ProcessPoolExecutor(1) as pool:
        large = cached_job(executor=pool, code="none")(numbers)
        _, array = large(1)
        assert list(files_of(large.cache.directory)) == [os.getpid()]
        assert array[-1] == 1.0
        large.cache.close()


class Gate:
    """What is unpickled in the submitter only once it may be, on the thread that receives results."""

    opened = threading.Event()

    def __reduce__(self):
        return _wait_at_gate, ()


def _wait_at_gate():
    assert Gate.opened.wait(PATIENCE)
    return Gate()


@pytest.mark.parametrize("mishap", ["removed", "cut off", "flipped"])
def test_a_file_that_is_lost_before_it_was_read_costs_another_run(mishap, tmp_path):
    """The thread that would read the file is kept busy until it is damaged."""
    Gate.opened.clear()
    counter = CallCounter(tmp_path / "calls")

    def job(x, counter):
        if x == "gate":
            return Gate()
        counter.tick()
        return numbers(1)

    with FutureCache(executor="multiprocessing", overwrite=False, max_workers=1) as cache:
        gate = cache.submit(Job("gate", job, {"x": "gate", "counter": counter}, "gate"))
        large = cache.submit(Job("large", job, {"x": "large", "counter": counter}, "large"))
        assert until(lambda: list(cache.directory.glob("*/*/*.val")))
        (path,) = cache.directory.glob("*/*/*.val")
        if mishap == "removed":
            path.unlink()
        elif mishap == "cut off":
            os.truncate(path, LARGE // 2)
        else:
            damaged = bytearray(path.read_bytes())
            damaged[LARGE // 2] ^= 1
            path.write_bytes(damaged)
        Gate.opened.set()
        assert gate.result(PATIENCE)
        _, array = large.result(PATIENCE)
        assert np.array_equal(array, np.full(NUMBERS, 1.0))
        assert counter.count == 2
        assert cache.info().retried == 1
        assert list(files_of(cache.directory)) == [os.getpid()]
        assert cache.verify().is_clean


class OnlyThere:
    """What can be pickled in a worker and not be unpickled in the process that submits."""

    def __init__(self):
        self.array = np.ones(NUMBERS)
        self.there = os.getpid()

    def __setstate__(self, state):
        raise ValueError("not here")


def test_what_can_not_be_unpickled_here_leaves_no_file():
    @cached_job(executor="multiprocessing", code="none")
    def large():
        return OnlyThere()

    with pytest.raises(BencherJobError, match="can't be unpickled here: ValueError: not here"):
        large()
    assert files_of(large.cache.directory) == {}
    assert large.cache.verify().is_clean
    large.cache.close()


def test_what_can_not_be_committed_arrives_and_leaves_no_file():
    """The database can't grow, so the row of a file that was written finds no place."""
    large = pool_of()
    large(1)
    log = large.cache.directory / "cache.db-wal"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))
    try:
        with pytest.warns(CacheWarning, match="can't be kept"):
            array = _array_when_all_is_told(large, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert array[-1] == 2.0
    assert len(list(large.cache.directory.glob("*/*/*.val*"))) == 1
    assert not large.is_cached(2)
    assert large.cache.verify().is_clean
    large.cache.close()


def test_a_result_that_counts_a_file_which_has_changed_leaves_no_file(tmp_path):
    @cached_job(executor="multiprocessing", code="none", by_content="path")
    def large(path):
        path.write_text("changed")
        return numbers(1)

    path = tmp_path / "input"
    path.write_text("as it was")
    with pytest.warns(CacheWarning, match="has changed since the call"):
        array = _array_when_all_is_told(large, path)
    assert array[-1] == 1.0
    assert files_of(large.cache.directory) == {}
    large.cache.close()


def die(*_):
    """End this process as the system does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_when_written():
    """Let this worker die when the bytes of its first file are written, before it has its name."""
    os.rename = die


def die_when_half_written():
    """Let this worker die when half of the bytes of its first file are written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE // 2, LARGE))


@pytest.mark.parametrize("initializer", [die_when_written, die_when_half_written])
def test_a_worker_that_is_killed_while_it_writes_leaves_a_stray_that_verify_finds(initializer):
    large = pool_of(initializer=initializer)
    with pytest.raises(WorkerLost):
        large(1)
    ((worker, path),) = files_of(large.cache.directory).items()
    assert path.name.endswith(".val.part")
    assert path.stat().st_size >= LARGE // 2
    assert is_gone(worker)
    assert strays_of(large) == [str(path.relative_to(large.cache.directory))]
    assert large.cache.verify().is_clean
    large.cache.close()


def die_once(marker):
    """Let the first of all workers die when the bytes of its first file are written."""
    if not Path(marker).exists():
        Path(marker).touch()
        die_when_written()


def test_a_job_whose_worker_was_killed_while_it_wrote_runs_again(tmp_path):
    large = pool_of(initializer=die_once, initargs=(tmp_path / "died",), retries=1)
    worker, array = large(1)
    assert array[-1] == 1.0
    assert (large.cache.info().retried, large.is_cached(1)) == (1, True)
    assert len(strays_of(large)) == 1
    assert list(files_of(large.cache.directory)) == [worker]
    large.cache.close()


def hang_when_written():
    """Let this worker go on for ever when the bytes of a file are written."""
    os.rename = lambda *_: threading.Event().wait()


def test_the_time_for_a_job_counts_until_its_file_is_written():
    large = pool_of(initializer=hang_when_written, timeout=2)
    with pytest.raises(JobTimeout):
        large(1)
    assert len(strays_of(large)) == 1
    assert files_of(large.cache.directory) == {}
    large.cache.close()
