"""What can be seen of runs from inside only: errors of a store, and a wait for the next run that takes long."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

from bencher_job import CacheWarning, cached_job
from bencher_job._stores import StoreFailure
from tests.running.test_runs import PATIENCE, is_leased, until


@pytest.mark.parametrize("executor", ["threads", "multiprocessing"])
def test_a_job_that_waits_for_its_next_run_can_be_cancelled(executor, counter, monkeypatch):
    monkeypatch.setattr("bencher_job._options.FIRST_PAUSE", 60.0)
    monkeypatch.setattr("bencher_job._options.LONGEST_PAUSE", 60.0)

    @cached_job(executor=executor, retries=1)
    def failing(x):
        counter.tick()
        raise ValueError(x)

    future = failing.submit(1)
    assert until(lambda: failing.cache.info().retried == 1)

    assert until(future.cancel)

    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    failing.cache.wait()
    assert not is_leased(failing, 1)
    assert counter.count == 1


class Broken(ValueError):
    pass


@pytest.mark.parametrize(
    "error", [Broken("odd"), RuntimeError("odd"), MemoryError("odd"), StoreFailure("odd")]
)
@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
def test_whatever_a_store_raises_the_values_arrive(monkeypatch, error, executor):
    @cached_job(executor=executor)
    def double(x):
        return x * 2

    store = double.cache.cache
    put_many = store.put_many

    def fail(entries):
        if any(entry.record.arguments["x"] == 2 for entry in entries):
            raise error
        return put_many(entries)

    def values():
        futures = [double.submit(x) for x in range(5)]
        found = [future.result(PATIENCE) for future in futures]
        double.cache.wait()
        return found

    monkeypatch.setattr(store, "put_many", fail)
    with pytest.warns(CacheWarning, match=r"can't be kept in .*odd"):
        assert values() == [0, 2, 4, 6, 8]
    monkeypatch.undo()
    assert [double.is_cached(x) for x in range(5)] == [True, True, False, True, True]
    assert double(2) == 4
    assert double.is_cached(2)
