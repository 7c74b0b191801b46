"""Tests with a real scheduler and two real workers on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import CancelledError, wait

import pytest

from bencher_job import BencherJobError, CacheWarning, FutureCache, Job, JobTimeout, WorkerLost, cached_job
from bencher_job._executors import engine_for
from bencher_job._executors.dask import DaskExecutor
from bencher_job.testing import CallCounter, ExecutorContract, LostWorkerContract
from tests.executors.dask_cluster import DaskCluster

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
dask = pytest.importorskip("dask")

PATIENCE = 60.0

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster shared by all tests that do not damage it."""
    cluster = DaskCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.end()


@pytest.fixture(scope="module")
def client(cluster):
    with cluster.client() as client:
        yield client


@pytest.fixture
def executor(client):
    executor = DaskExecutor(client)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def doomed(tmp_path):
    """Make clusters that a test may kill."""
    made = []

    def make(workers=2, **options):
        folder = tmp_path / f"cluster {len(made)}"
        folder.mkdir()
        made.append(DaskCluster(folder, workers, **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.end()


def wait_for(path, value=None):
    """Wait in a job for a file, up to a limit."""
    end = time.monotonic() + PATIENCE
    while path.parent.exists() and not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return value


class TestClient(ExecutorContract, LostWorkerContract):
    @pytest.fixture
    def executor(self, client):
        return client


class TestAddress(ExecutorContract):
    @pytest.fixture
    def executor(self, cluster, client):
        return cluster.address


def test_a_client_that_was_given_stays_open_and_one_made_from_an_address_is_closed(cluster, client):
    given, made = engine_for(client), engine_for(cluster.address)
    own = made.executor._client
    assert own is not given.executor._client is client

    for engine in (given, made):
        assert engine.executor.submit(abs, -1).result(PATIENCE) == 1
        engine.release()

    assert client.submit(abs, -2).result(PATIENCE) == 2
    assert own.status == "closed"


def test_who_uses_the_same_address_shares_a_client_until_the_last_releases_it(cluster, client):
    one, other = engine_for(cluster.address), engine_for(cluster.address)
    assert one.executor is other.executor

    one.release()
    assert other.executor.submit(abs, -1).result(PATIENCE) == 1
    other.release()


def test_the_executor_of_a_client_is_taken_for_the_client(client):
    """It keeps its options, such as the workers on which its jobs may run."""
    (address, *_) = client.scheduler_info()["workers"]
    engine = engine_for(client.get_executor(workers=[address], pure=False))
    pids = {engine.executor.submit(os.getpid).result(PATIENCE) for _ in range(20)}
    engine.release()

    assert pids == {client.run(os.getpid, workers=[address])[address]}


def test_an_address_is_known_without_asking_anybody():
    code = (
        "import sys; from bencher_job._executors import executor_name, engine_for;"
        "engine_for('tcp://127.0.0.1:1'); print(executor_name('tls://host:8786'), 'distributed' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "Client False\n"


def test_an_address_where_nobody_answers_says_how_to_start():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}),
        pytest.raises(BencherJobError, match=r"no Dask scheduler answers there.*dask scheduler") as caught,
    ):
        engine_for("tcp://127.0.0.1:1").submit(Job("a", abs, {}, "key", positional=(1,)))
    assert isinstance(caught.value.__cause__, OSError)


def test_an_asynchronous_client_is_refused(cluster):
    async def submit():
        async with distributed.Client(cluster.address, asynchronous=True, set_as_default=False) as client:
            engine_for(client).submit(Job("a", abs, {}, "key", positional=(1,)))

    with pytest.raises(BencherJobError, match="asynchronous"):
        asyncio.run(submit())


def test_without_distributed_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[dask\]'"):
        engine_for("tcp://127.0.0.1:1").submit(Job("a", abs, {}, "key", positional=(1,)))


def test_functions_and_classes_of_modules_that_the_cluster_lacks_travel(
    cluster, client, write_module, tmp_path
):
    """Classes of the function's module and of others. A returned instance is of the original class."""
    write_module(
        "helping",
        """
        OFFSET = 40

        class Point:
            def __init__(self, x):
                self.x = x

        def moved(point):
            return Point(point.x + OFFSET)
        """,
    )
    study = write_module(
        "study",
        """
        import helping
        from helping import moved

        def run(point):
            return helping.moved(moved(point))
        """,
    )
    helping = sys.modules["helping"]
    with pytest.raises(RuntimeError, match="deserialization"):
        client.submit(study.run, helping.Point(1)).result(PATIENCE)

    function = cached_job(executor=client, cache_dir=tmp_path)(study.run)
    value = function(helping.Point(1))
    function.cache.close()

    assert type(value) is helping.Point
    assert value.x == 81


def test_a_module_that_cannot_travel_whole_goes_by_name_where_the_function_itself_can(
    client, write_module, tmp_path
):
    """Its own module goes by value, without the objects that the function does not need."""
    write_module("locked", "import threading; LOCK = threading.Lock()\ndef double(x): return 2 * x")
    study = write_module(
        "single",
        "import json\nimport locked\ndef run(x): return json.loads(str(x))\ndef other(): return locked",
    )

    with FutureCache(client, cache_dir=tmp_path) as cache:
        assert cache.submit(Job("a", study.run, {}, "key", positional=(3,))).result(PATIENCE) == 3
        error = cache.submit(Job("b", study.other, {}, "key 2")).exception(PATIENCE)
    assert isinstance(error, BencherJobError)


def test_functions_of_a_script_travel(cluster, script):
    out = script.run(
        f"""
        import json
        from bencher_job import cached_job

        class Point:
            def __init__(self, x): self.x = x

        def moved(point): return Point(point.x + 1)

        @cached_job(executor={cluster.address!r})
        def study(x):
            return moved(Point(x))

        futures = [study.submit(x) for x in range(100)]  # without a guard: no worker imports this script
        same = all(type(future.result(60)) is Point for future in futures)
        json.dump([same, [future.result().x for future in futures]], open("out.json", "w"))
        """
    )
    assert out == [True, list(range(1, 101))]


class Loaded:
    """A large object that counts how often it is unpickled."""

    def __init__(self, path):
        self.path = path
        self.data = bytes(5_000_000)

    def __setstate__(self, state):
        self.__dict__.update(state)
        CallCounter(self.path).tick()


def test_a_large_function_is_put_on_the_cluster_once(client, executor, tmp_path):
    held = Loaded(tmp_path / "loads")

    def length(x):
        return len(held.data) + x

    futures = [executor.submit(length, x) for x in range(60)]

    assert [future.result(PATIENCE) for future in futures] == list(range(5_000_000, 5_000_060))
    assert CallCounter(tmp_path / "loads").count <= 2  # once per worker


def stored_on(client):
    return client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])


def test_nothing_of_a_job_stays_on_the_cluster(client, executor, until):
    before = set(stored_on(client))

    wait([executor.submit(bytes, 1000 * x) for x in range(100)], PATIENCE)
    executor.submit(len, bytes(9_000_000)).result(PATIENCE)

    assert until(lambda: set(stored_on(client)) <= before)


def test_short_jobs_share_tasks_and_long_ones_do_not(executor, tmp_path):
    """Few batches of short jobs are pending at a time, and later jobs are grouped."""
    go = tmp_path / "go"

    def task_of_short():
        return distributed.get_worker().get_current_task()

    def task_of_long():
        time.sleep(0.03)
        return distributed.get_worker().get_current_task()

    for _ in range(5):  # then its duration is known
        executor.submit(task_of_short).result(PATIENCE)
    gates = [executor.submit(wait_for, go) for _ in range(2)]  # as many as the workers run at once
    short = [executor.submit(task_of_short) for _ in range(200)]
    long = [executor.submit(task_of_long) for _ in range(20)]
    go.touch()

    wait(gates, PATIENCE)
    assert len({future.result(PATIENCE) for future in short}) < 50
    assert len({future.result(PATIENCE) for future in long}) == 20


def test_a_job_that_takes_long_after_all_keeps_no_other_one_waiting(executor, tmp_path):
    """Jobs that ended before it in its batch resolve at once. Jobs behind it run elsewhere, once."""
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


def test_jobs_go_on_without_waiting_for_one_of_a_new_function_that_takes_long(executor, tmp_path):
    """The estimate is raised after a moment."""
    go = tmp_path / "go"

    def work(x):
        return wait_for(go, x)

    futures = [executor.submit(work, 1) for _ in range(10)]
    deadline = time.monotonic() + PATIENCE
    while len(executor._scheduler._lanes) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(executor._scheduler._lanes) == 10
    go.touch()
    wait(futures, PATIENCE)


def test_a_job_that_waits_can_be_cancelled_and_is_taken_off_the_cluster(client, executor, tmp_path, until):
    go = tmp_path / "go"

    def work():
        return wait_for(go)

    futures = [executor.submit(work) for _ in range(6)]
    assert until(lambda: sum("work-" in key for key in stored_on(client)) == 6)
    assert all(future.cancel() for future in futures[2:])

    assert until(lambda: sum("work-" in key for key in stored_on(client)) == 2)
    go.touch()
    assert [future.result(PATIENCE) for future in futures[:2]] == [None, None]
    with pytest.raises(CancelledError):
        futures[2].result(PATIENCE)


def test_time_counts_from_when_a_worker_begins(client, tmp_path):
    """A job in Dask's queue does not time out, and a long one does."""
    with FutureCache(client, cache_dir=tmp_path, timeout=1.0) as cache:
        jobs = [Job(f"{x}", time.sleep, {}, f"key {x}", positional=(0.6,)) for x in range(6)]
        futures = [cache.submit(job) for job in [*jobs, Job("long", time.sleep, {}, "long", positional=(4,))]]
        errors = [future.exception(PATIENCE) for future in futures]

    assert errors[:-1] == [None] * 6
    assert isinstance(errors[-1], JobTimeout)


def test_a_module_that_no_worker_has_is_told(executor):
    def work():
        import a_module_that_nobody_has  # noqa: F401

    error = executor.submit(work).exception(PATIENCE)
    assert type(error) is ModuleNotFoundError  # the function's own exception


def test_a_worker_that_is_killed_costs_nothing(doomed, tmp_path):
    """Its jobs run again on the other worker, and stored results stay."""
    with doomed(nanny=False, failures=3).client() as client, FutureCache(client, cache_dir=tmp_path) as cache:
        pids = client.run(os.getpid)
        (victim, *_) = pids.values()
        killed = tmp_path / "killed"

        def work(x):
            time.sleep(0.05)
            while x >= 30 and not killed.exists():
                time.sleep(0.01)
            return x, os.getpid()

        futures = [cache.submit(Job(f"{x}", work, {"x": x}, f"key {x}")) for x in range(60)]
        wait(futures[:10], PATIENCE)
        kept = {record.arguments["x"] for record in cache.records()}
        os.kill(victim, signal.SIGKILL)
        killed.touch()
        values = [future.result(PATIENCE) for future in futures]
        kept_in_the_end = {record.arguments["x"] for record in cache.records()}

    assert [x for x, _ in values] == list(range(60))
    assert {pid for _, pid in values[30:]} == set(pids.values()) - {victim}
    assert kept
    assert kept <= kept_in_the_end == set(range(60))


def test_a_job_that_kills_its_worker_is_lost_and_those_of_its_batch_run_again(doomed):
    def work(x):
        if x == 150:
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    with doomed(failures=2).client() as client:
        executor = DaskExecutor(client)
        futures = [executor.submit(work, x) for x in range(200)]
        error = futures[150].exception(PATIENCE)
        rest = [future.result(PATIENCE) for future in futures[:150] + futures[151:]]
        executor.shutdown()

    assert type(error) is WorkerLost
    assert isinstance(error.__cause__, distributed.KilledWorker)
    assert error.job.endswith("work")
    assert rest == [*range(150), *range(151, 200)]


def test_a_scheduler_that_is_killed_loses_what_is_pending_at_once_and_nothing_that_was_kept(doomed, tmp_path):
    cluster = doomed(1, nanny=False)
    client = cluster.client()
    cache = FutureCache(client, cache_dir=tmp_path / "cache")
    assert cache.submit(Job("kept", abs, {}, "kept", positional=(-1,))).result(PATIENCE) == 1
    futures = [cache.submit(Job(f"{x}", time.sleep, {}, f"{x}", positional=(600,))) for x in range(3)]

    cluster.scheduler.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    errors = [future.exception(PATIENCE) for future in futures]
    seconds = time.monotonic() - begun
    client.close()
    cache.close()

    assert [type(error) for error in errors] == [WorkerLost] * 3
    assert "the scheduler is gone" in str(errors[0])
    assert seconds < PATIENCE / 2
    with FutureCache(overwrite=False, cache_dir=tmp_path / "cache") as after:
        assert after.submit(Job("kept", abs, {}, "kept", positional=(-1,))).cached


def test_a_function_that_has_gone_with_its_worker_is_sent_again(doomed, tmp_path):
    cluster = doomed(1, nanny=False, failures=3)
    with cluster.client() as client:
        executor = DaskExecutor(client)
        data, go = bytes(1_000_000), tmp_path / "go"

        def work(x):
            if x:
                wait_for(go)
            return len(data) + x

        assert executor.submit(work, 0).result(PATIENCE) == 1_000_000
        futures = [executor.submit(work, 1) for _ in range(5)]
        pids = client.run(os.getpid)
        cluster.add_worker()
        client.wait_for_workers(2, timeout=PATIENCE)
        go.touch()
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        assert [future.result(PATIENCE) for future in futures] == [1_000_001] * 5
        assert executor.submit(work, 2).result(PATIENCE) == 1_000_002
        executor.shutdown()


def test_a_closed_client_takes_no_jobs(cluster, tmp_path):
    client = cluster.client()
    executor = DaskExecutor(client)
    client.close()

    assert isinstance(executor.submit(abs, -1).exception(PATIENCE), BencherJobError)


def test_a_cluster_without_workers_gets_jobs_that_run_when_one_comes(doomed):
    cluster = doomed(0)
    with cluster.client() as client:
        executor = DaskExecutor(client)
        data = bytes(200_000)
        futures = [executor.submit(lambda x: len(data) + x, x) for x in range(20)]
        cluster.add_worker()
        assert [future.result(PATIENCE) for future in futures] == list(range(200_000, 200_020))
        executor.shutdown()


def test_a_forked_child_is_told_that_the_client_is_its_parents(executor):
    assert executor.submit(abs, -1).result(PATIENCE) == 1
    executor.pid = -1  # as in a forked child

    with pytest.raises(RuntimeError, match="belongs to the parent"):
        executor.submit(abs, -1)
    executor.pid = os.getpid()


def test_after_shutdown_nothing_is_taken_and_what_was_pending_has_ended(client):
    executor = DaskExecutor(client)
    futures = [executor.submit(abs, -x) for x in range(100)]
    executor.shutdown()

    assert [future.result(0) for future in futures] == list(range(100))
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, -1)
    assert not any(
        thread.name == "bencher_job-dask"
        for thread in threading.enumerate()
        if thread is executor._scheduler._thread
    )


@pytest.fixture
def quick_to_warn(monkeypatch):
    monkeypatch.setattr("bencher_job._executors.remote.LOOK_SECONDS", 0.2)
    monkeypatch.setattr("bencher_job._executors.remote.WARN_SECONDS", 1.0)


def test_jobs_that_no_worker_can_run_warn_once_and_run_when_one_comes(doomed, tmp_path, quick_to_warn, until):
    cluster = doomed(0)
    with (
        cluster.client() as client,
        FutureCache(client, cache_dir=tmp_path) as cache,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", CacheWarning)
        future = cache.submit(Job("a", abs, {}, "key", positional=(-1,)))
        assert until(lambda: len(caught) == 1)
        assert not until(lambda: len(caught) > 1, 2)
        cluster.add_worker()
        assert future.result(PATIENCE) == 1
    assert "Dask: no worker has run any of 1 jobs for" in str(caught[0].message)
    assert "Start workers with dask worker" in str(caught[0].message)


def test_closing_ends_the_jobs_that_no_worker_can_run(doomed, tmp_path, quick_to_warn, until):
    """Of this cache only: another one with the same client waits for a worker."""
    cluster = doomed(0)
    with cluster.client() as client, warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        with FutureCache(client, cache_dir=tmp_path) as other:
            waits = other.submit(Job("b", abs, {}, "other", positional=(-2,)))
            with FutureCache(client, cache_dir=tmp_path, cache_name="closed") as cache:
                futures = [cache.submit(Job("a", abs, {}, f"{x}", positional=(x,))) for x in range(300)]
            errors = [future.exception(0) for future in futures]
            cluster.add_worker()
            assert waits.result(PATIENCE) == 2
    assert {type(error) for error in errors} == {WorkerLost}
    assert "no worker has run any of" in str(errors[0])
    assert "Start workers with dask worker" in str(errors[0])


def test_a_program_ends_although_no_worker_can_run_its_jobs(doomed, script):
    cluster = doomed(0)
    program = f"""
        import bencher_job._executors.remote as remote
        from bencher_job import cached_job
        remote.LOOK_SECONDS, remote.WARN_SECONDS = 0.2, 1.0
        cached_job(executor={cluster.address!r}, cache_dir="c")(abs).submit(-1)
    """
    process = script.start(program)
    assert "no worker has run any of 1 jobs" in process.communicate(timeout=PATIENCE)[1]


@pytest.mark.parametrize("why", ["no worker", "a resource that no worker has", "all workers are killed"])
def test_after_patience_jobs_that_no_worker_can_run_are_lost(doomed, tmp_path, why):
    cluster = doomed(0 if why == "no worker" else 1, nanny=False)
    with cluster.client() as client:
        executor = client.get_executor(resources={"GPU": 1}, pure=False) if "resource" in why else client
        with FutureCache(executor, cache_dir=tmp_path, patience=1) as cache:

            def work(x):
                (tmp_path / "begun").touch()
                time.sleep(600)

            jobs = [Job(f"{x}", work, {"x": x}, f"key {x}") for x in range(5)]
            futures = [cache.submit(job) for job in jobs]
            if "killed" in why:
                wait_for(tmp_path / "begun")
                for pid in client.run(os.getpid).values():
                    os.kill(pid, signal.SIGKILL)
            errors = [future.exception(PATIENCE) for future in futures]
    assert [type(error) for error in errors] == [WorkerLost] * 5
    assert any("no worker has run any of" in str(error) for error in errors)


def test_jobs_that_run_for_long_are_not_lost(client, tmp_path):
    with FutureCache(client, cache_dir=tmp_path, patience=1) as cache:
        assert cache.submit(Job("a", time.sleep, {}, "key", positional=(2.5,))).exception(PATIENCE) is None


class Link:
    """A connection to a scheduler that can be cut and mended. While it is cut, nothing is answered."""

    def __init__(self, address):
        self._target = address.rpartition("://")[2].rsplit(":", 1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends = []
        self._is_whole = threading.Event()
        self._is_whole.set()
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._is_whole.wait()
                far = socket.create_connection((self._target[0], int(self._target[1])))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)

    def cut(self):
        self._is_whole.clear()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def mend(self):
        self._is_whole.set()

    def end(self):
        self.cut()
        self._listener.close()


@pytest.fixture
def link(cluster):
    link = Link(cluster.address)
    yield link
    link.mend()
    link.end()


def test_a_connection_that_was_cut_costs_nothing(link, tmp_path, until):
    """Running jobs run again, and waiting ones and later ones run."""

    def work(x):
        (tmp_path / f"begun {x}").touch()
        return wait_for(tmp_path / "go", x)

    with FutureCache(link.address, cache_dir=tmp_path) as cache:
        futures = [cache.submit(Job(f"{x}", work, {"x": x}, f"key {x}")) for x in range(6)]
        assert until(lambda: len(list(tmp_path.glob("begun *"))) >= 2)
        link.cut()
        time.sleep(2)
        assert not any(future.done() for future in futures)
        link.mend()
        (tmp_path / "go").touch()
        assert [future.result(PATIENCE) for future in futures] == list(range(6))
        assert cache.submit(Job("later", abs, {}, "later", positional=(-1,))).result(PATIENCE) == 1


def test_a_connection_that_stays_cut_ends_the_jobs_after_patience(link, tmp_path):
    with FutureCache(link.address, cache_dir=tmp_path, patience=2) as cache:
        assert cache.submit(Job("a", abs, {}, "a", positional=(-1,))).result(PATIENCE) == 1
        futures = [cache.submit(Job(f"{x}", time.sleep, {}, f"{x}", positional=(600,))) for x in range(3)]
        link.cut()
        errors = [future.exception(PATIENCE) for future in futures]
    assert [type(error) for error in errors] == [WorkerLost] * 3
