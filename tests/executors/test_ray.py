"""Tests with a real Ray cluster on this machine."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

from bencher_job import BencherJobError, FutureCache, Job, JobTimeout, Ray, WorkerLost, cached_job
from bencher_job._executors import engine_for, executor_name
from bencher_job.testing import CallCounter, ExecutorContract, LostWorkerContract

PATIENCE = 60.0

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@pytest.fixture(scope="module")
def ray():
    return pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def cluster(ray, request):
    """A cluster of two nodes with two cores each, to which this process is connected."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # for the workers
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Else Ray ends this process 60 s after the cluster if a thread of Ray's still has a request to it.
        patch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "86400")
        before = signal.getsignal(signal.SIGTERM)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        ray.init(address=cluster.address, logging_level="warning", log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()
        signal.signal(signal.SIGTERM, before)
    # Ray has removed the handlers of fatal signals, so that a crash of a later test would print nothing.
    faulthandler.disable()
    faulthandler.enable(request.config.stash[fault_handler_stderr_fd_key])


@pytest.fixture
def executor(cluster):
    engine = engine_for("ray")
    yield engine.executor
    engine.release()


def wait_for(path, value=None):
    """Wait in a job for a file, up to a limit."""
    end = time.monotonic() + PATIENCE
    while path.parent.exists() and not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return value


class TestRay(ExecutorContract, LostWorkerContract):
    @pytest.fixture
    def executor(self, cluster):
        return "ray"


class TestOptions(LostWorkerContract):
    @pytest.fixture
    def executor(self, cluster):
        return Ray(num_cpus=0.5)


def test_short_jobs_share_tasks_and_long_ones_do_not(ray, executor):
    def short():
        return __import__("ray").get_runtime_context().get_task_id()

    def long():
        time.sleep(0.05)
        return __import__("ray").get_runtime_context().get_task_id()

    for _ in range(20):  # then its duration is known, however busy the machine was at first
        executor.submit(short).result(PATIENCE)
    assert len({future.result(PATIENCE) for future in [executor.submit(short) for _ in range(300)]}) < 300
    assert len({future.result(PATIENCE) for future in [executor.submit(long) for _ in range(10)]}) == 10


def test_a_job_that_takes_long_after_all_keeps_no_other_one_waiting(executor, tmp_path):
    go, counter = tmp_path / "go", CallCounter(tmp_path / "calls")

    def work(x):
        counter.tick()
        return wait_for(go, x) if x == 150 else x

    futures = [executor.submit(work, x) for x in range(400)]
    long = futures.pop(150)
    done, pending = wait(futures, PATIENCE)
    assert (len(pending), long.done()) == (0, False)
    go.touch()

    assert long.result(PATIENCE) == 150
    assert sorted(future.result() for future in done) == [x for x in range(400) if x != 150]
    assert counter.count == 400


def test_a_job_that_takes_longer_than_its_timeout_is_ended(cluster, tmp_path):
    """Time counts from when it begins, and its worker is free again."""
    began = time.monotonic()
    with FutureCache("ray", cache_dir=tmp_path, timeout=1.0) as cache:
        jobs = [Job(f"{x}", time.sleep, {}, f"key {x}", positional=(0.6,)) for x in range(6)]
        long = [Job(f"long {x}", time.sleep, {}, f"long {x}", positional=(600,)) for x in range(4)]
        futures = [cache.submit(job) for job in [*long, *jobs]]
        errors = [future.exception(PATIENCE) for future in futures]

    assert [type(error) for error in errors[:4]] == [JobTimeout] * 4
    assert errors[4:] == [None] * 6
    assert time.monotonic() - began < PATIENCE


def test_a_running_job_that_is_cancelled_ends(cluster, tmp_path, until):
    def work(x):
        (tmp_path / f"begun {x}").touch()
        time.sleep(600)

    with FutureCache("ray", cache_dir=tmp_path) as cache:
        futures = [cache.submit(Job(f"{x}", work, {"x": x}, f"key {x}")) for x in range(6)]
        assert until(lambda: len(list(tmp_path.glob("begun *"))) == 2, PATIENCE)
        assert all(future.cancel() for future in futures)
        with pytest.raises(CancelledError):
            futures[0].result(PATIENCE)
        assert cache.submit(Job("power", pow, {"base": 2, "exp": 5}, "power")).result(PATIENCE) == 32


def test_a_job_whose_node_is_lost_is_told_of_it(cluster, tmp_path, until):
    node = cluster.add_node(num_cpus=1, resources={"doomed": 1})
    with FutureCache(Ray(resources={"doomed": 1}), cache_dir=tmp_path) as cache:

        def work():
            (tmp_path / "begun").touch()
            time.sleep(600)

        future = cache.submit(Job("lost", work, {}, "key"))
        assert until((tmp_path / "begun").exists, PATIENCE)
        cluster.remove_node(node, allow_graceful=False)
        error = future.exception(PATIENCE)
    assert type(error) is WorkerLost
    assert error.job is not None
    assert "lost" in error.job


def test_functions_and_classes_of_modules_that_the_cluster_lacks_travel(cluster, write_module, tmp_path):
    helping = write_module("helping_ray", "class Point:\n    def __init__(self, x):\n        self.x = x\n")
    study = write_module(
        "study_ray", "import helping_ray\ndef run(point): return helping_ray.Point(point.x + 80)"
    )
    function = cached_job(executor="ray", cache_dir=tmp_path)(study.run)
    value = function(helping.Point(1))
    function.cache.close()

    assert type(value) is helping.Point
    assert value.x == 81


class Loaded:
    """A large object that counts how often it is unpickled."""

    def __init__(self, path):
        self.path = path
        self.data = bytes(5_000_000)

    def __setstate__(self, state):
        self.__dict__.update(state)
        CallCounter(self.path).tick()


def test_a_large_function_is_put_on_the_cluster_once(ray, executor, tmp_path):
    held = Loaded(tmp_path / "loads")

    def length(x):
        time.sleep(0.01)
        return len(held.data) + x, os.getpid()

    results = [future.result(PATIENCE) for future in [executor.submit(length, x) for x in range(60)]]
    assert [number for number, _ in results] == list(range(5_000_000, 5_000_060))
    assert CallCounter(tmp_path / "loads").count == len({pid for _, pid in results})


@pytest.mark.parametrize("joins", [False, True])
def test_a_program_joins_a_running_cluster_or_starts_one(cluster, script, joins):
    environment = {"RAY_ADDRESS": cluster.address} if joins else {"RAY_ADDRESS": "local"}
    out = script.run(
        """
        import json, signal
        from bencher_job import cached_job
        before = signal.getsignal(signal.SIGTERM)

        @cached_job(executor="ray")
        def where(x):
            import ray
            return ray.get_runtime_context().gcs_address

        places = list(where.map(range(20)))  # without a guard
        json.dump([sorted(set(places)), signal.getsignal(signal.SIGTERM) is before], open("out.json", "w"))
        """,
        seconds=100,
        **environment,
    )
    (place,), is_kept = out
    assert (place == cluster.address) is joins
    assert is_kept


def test_nothing_is_imported_or_started_before_the_first_job():
    code = (
        "import sys; from bencher_job import Ray, cached_job; cached_job(executor=Ray(num_gpus=0.5))(abs);"
        "print('ray' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_without_ray_it_is_said_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[ray\]'"):
        cached_job(executor=Ray(num_cpus=7), cache_dir=tmp_path)(abs)(-1)


def test_options_that_there_are_not_are_refused_with_those_that_there_are(cluster, tmp_path):
    with pytest.raises(BencherJobError, match=r"Ray\(cpus=2\) can.t be used.*Valid ones are.*num_cpus"):
        cached_job(executor=Ray(cpus=2), cache_dir=tmp_path)(abs)(-1)


def test_equal_options_share_workers():
    assert Ray(num_cpus=2) == Ray(num_cpus=2) != Ray(num_cpus=1)
    assert hash(Ray(resources={"a": 1})) == hash(Ray(resources={"a": 1}))
    assert executor_name(Ray()) == executor_name("ray") == "RAY"


def test_the_study_of_the_documentation_runs(cluster, tmp_path):
    study = Path(__file__).parents[2] / "docs" / "how-to" / "ray_study.py"
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    command = [sys.executable, str(study)]
    out = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True, timeout=100)
    assert out.endswith("6 4\n12 6\n360 24\n"), out  # Ray may say before that a node was slow
