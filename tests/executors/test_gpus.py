"""Which GPU a worker of the pool sees, by the variable that CUDA reads."""

from __future__ import annotations

import os
import time

import pytest

from bencher_job import WorkerLost, cached_job


def seen(x):
    time.sleep(0.05)
    return os.environ.get("BENCHER_JOB_WORKER"), os.environ.get("CUDA_VISIBLE_DEVICES")


def seen_by_all(number, **options):
    """Run jobs until as many workers as there are have had one, and return what they have seen."""
    function = cached_job(executor="multiprocessing", **options)(seen)
    found = set()
    for turn in range(100):
        found |= set(function.map(range(10 * turn, 10 * turn + 10)))
        if len(found) >= number:
            break
    function.cache.close()
    return sorted(found)


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_workers_have_an_index_and_see_all_gpus_by_default():
    assert seen_by_all(2, max_workers=2) == [("0", None), ("1", None)]


def test_there_is_one_worker_per_gpu_and_each_sees_its_own():
    assert seen_by_all(2, gpus=2) == [("0", "0"), ("1", "1")]


def test_more_workers_share_the_gpus_in_turn():
    assert seen_by_all(3, gpus=["GPU-a", 5], max_workers=3) == [("0", "GPU-a"), ("1", "5"), ("2", "GPU-a")]


def test_a_number_takes_the_first_of_those_that_the_program_may_use(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7,9")
    assert seen_by_all(2, gpus=2) == [("0", "3"), ("1", "7")]


def test_a_worker_that_takes_the_place_of_a_lost_one_has_its_index_and_its_gpu():
    function = cached_job(executor="multiprocessing", gpus=[4])(lambda x: os._exit(3) if x else seen(x))
    for x in range(1, 4):
        with pytest.raises(WorkerLost):
            function(x)
    assert function(0) == ("0", "4")


def test_the_variable_is_there_before_the_initializer_runs(tmp_path):
    def initialize():
        (tmp_path / "seen").write_text(os.environ["CUDA_VISIBLE_DEVICES"])

    assert cached_job(executor="multiprocessing", gpus=["6"], initializer=initialize)(abs)(-1) == 1
    assert (tmp_path / "seen").read_text() == "6"


@pytest.mark.parametrize(
    ("gpus", "error", "told"),
    [
        (0, ValueError, "gpus=0 leaves workers no GPU. Give 1 or more, or None"),
        ([], ValueError, r"gpus=\[\] has no id"),
        (True, TypeError, "gpus must be an int or None, not bool"),
        (1.5, TypeError, "gpus must be an int, a sequence of ids or None, not float"),
        ([True], TypeError, "gpus must be an int, a sequence of ids or None, not of bool"),
        ([1.5], TypeError, "gpus must be an int, a sequence of ids or None, not of float"),
    ],
)
def test_what_is_no_gpu_is_refused(gpus, error, told):
    with pytest.raises(error, match=told):
        cached_job(executor="multiprocessing", gpus=gpus)(abs)


def test_other_executors_refuse_gpus():
    with pytest.raises(ValueError, match="gpus=2 has no effect on executor=THREADS"):
        cached_job(executor="threads", gpus=2)(abs)
