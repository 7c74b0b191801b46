"""A store that can't be opened is tried again after growing pauses."""

from __future__ import annotations

import itertools

import pytest

from bencher_job import CacheWarning, FutureCache, Job
from bencher_job import _cache as _contents
from bencher_job._stores import StoreFailure
from bencher_job._stores.memory import MemoryTier


def test_a_store_that_can_not_be_opened_is_tried_again_after_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, attempts = 1000.0, list[float]()

    def refuse(*_: object, **__: object) -> MemoryTier:
        attempts.append(now)
        raise StoreFailure("no file descriptor is left")

    monkeypatch.setattr(_contents, "monotonic", lambda: now)
    with monkeypatch.context() as closed_off:
        closed_off.setattr(_contents, "open_store", refuse)
        cache = FutureCache(overwrite=False)
        with pytest.warns(CacheWarning, match="can't be opened, so nothing is remembered until it can"):
            assert not cache.has("key")
        for _ in range(40_000):
            now += 0.01
            assert not cache.has("key")
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert pauses == pytest.approx([0.1 * 2**n for n in range(10)] + [60] * (len(pauses) - 10), abs=0.02)
    now += 60
    assert cache.submit(Job("job", int, {}, job_key="key")).result() == 0
    assert cache.has("key")
    cache.close()
