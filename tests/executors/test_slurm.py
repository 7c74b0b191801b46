"""Tests with a real Slurm of two nodes on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from bencher_job import BencherJobError, Slurm, WorkerLost, cached_job
from bencher_job._executors import engine_for, executor_name
from bencher_job._executors import slurm as slurm_executor
from bencher_job._executors.slurm import seconds_of
from bencher_job.testing import CallCounter, ExecutorContract, LostWorkerContract
from tests.executors.slurm_lab import SlurmLab, reason_not_to_start

PATIENCE = 60.0
QUIET = {"output": "/dev/null"}

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if find_spec("dask_jobqueue") is None:
        pytest.skip("the extra slurm is not installed")
    if reason := reason_not_to_start():
        pytest.skip(reason)
    lab = SlurmLab(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in lab.variables.items():
            patch.setenv(name, value)
        yield lab
    lab.end()


def hurried(patch, idle_counts):
    """Let schedulers that start from now on count their work four times a second."""
    constants = f"slurm_cluster.ADAPT_EVERY = 0.25; slurm_cluster.IDLE_COUNTS = {idle_counts}"
    program = f"from bencher_job._executors import slurm_cluster; {constants}; slurm_cluster.main()"
    given, _, _ = slurm_executor._PROGRAM.partition("from ")
    patch.setattr(slurm_executor, "_PROGRAM", given + program)


@pytest.fixture(scope="module", autouse=True)
def _hurried():
    """Let a worker that is not needed wait for 15 seconds, as elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        hurried(patch, 60)
        yield


@pytest.fixture(scope="module")
def workers(slurm):
    """Two workers, which the tests share that do not end them."""
    spec = Slurm(2, time="30:00", cpus=2, mem="1GB", interface="lo", sbatch=QUIET)
    engine = engine_for(spec)
    assert engine.executor.submit(abs, -1).result(PATIENCE) == 1
    yield spec
    engine.release()


def end_all(slurm, until):
    """End the workers, which would wait for work for a while."""
    slurm.command("scancel", "--quiet", *slurm.jobs())
    assert until(lambda: not slurm.jobs())


class TestSlurm(ExecutorContract, LostWorkerContract):
    @pytest.fixture
    def executor(self, workers):
        return workers


def seen_by_a_job():
    return dict(os.environ)


def test_options_are_those_of_the_call_then_of_the_variable_then_of_the_site(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__WALLTIME", "1:00:00")
    monkeypatch.setenv("DASK_JOBQUEUE__SLURM__JOB_SCRIPT_PROLOGUE", "['export SITE=ours']")
    monkeypatch.setenv("BENCHER_JOB_SLURM", "workers=1, cpus=2,time=8:00,interface=lo,gpus=2")
    spec = Slurm(
        gpus=1, setup=["export PREPARED='by setup'"], sbatch={"comment": "a b", "output": "/dev/null"}
    )
    function = cached_job(executor=spec, cache_dir=tmp_path)(seen_by_a_job)
    seen = function()
    detail = slurm.command("scontrol", "show", "job", seen["SLURM_JOB_ID"])
    function.cache.close()

    assert (seen["SLURM_CPUS_PER_TASK"], seen["OMP_NUM_THREADS"], seen["CUDA_VISIBLE_DEVICES"]) == (
        "2",
        "2",
        "0",
    )
    assert (seen["PREPARED"], seen["SITE"]) == ("by setup", "ours")
    assert "TimeLimit=00:08:00" in detail
    assert "Comment=a b" in detail
    assert function.cache.executor_type == "SLURM"


def test_a_name_is_enough(slurm, tmp_path, monkeypatch, until):
    monkeypatch.setenv("BENCHER_JOB_SLURM", "interface=lo,workers=2")
    monkeypatch.chdir(tmp_path)
    function = cached_job(executor="slurm", cache_dir=tmp_path)(abs)
    assert list(function.map(range(-20, 0))) == [*range(20, 0, -1)]
    function.cache.close()
    end_all(slurm, until)


def test_a_worker_runs_one_job_at_a_time(workers, tmp_path):
    def work(x):
        begun = time.time()
        time.sleep(0.1)
        return os.environ["SLURM_JOB_ID"], begun, time.time()

    function = cached_job(executor=workers, cache_dir=tmp_path)(work)
    with function.cache:
        runs = sorted(function.map(range(12)))
    assert all(one[0] != other[0] or one[2] <= other[1] for one, other in pairwise(runs)), runs


class TestLoss:
    """Workers that are ended from outside."""

    @pytest.fixture
    def spec(self, slurm, until):
        spec = Slurm(2, interface="lo", sbatch=QUIET)
        yield spec
        end_all(slurm, until)

    def test_a_cancelled_worker_costs_nothing(self, slurm, spec, tmp_path):
        counter = CallCounter(tmp_path / "calls")

        def work(x):
            counter.tick()
            time.sleep(0.3)
            return x

        function = cached_job(executor=spec, cache_dir=tmp_path)(work)
        futures = [function.submit(x) for x in range(16)]
        wait(futures[:4], PATIENCE)
        slurm.command("scancel", slurm.jobs("R")[0])
        assert [future.result(PATIENCE) for future in futures] == list(range(16))
        assert 16 <= counter.count <= 18
        function.cache.close()

    def test_a_sweep_survives_the_end_of_all_workers_and_nodes_are_released_by_themselves(
        self, slurm, tmp_path, until, monkeypatch
    ):
        """Those that wait in Slurm's queue too: the third one has no node."""
        hurried(monkeypatch, 12)
        spec = Slurm(3, interface="lo", mem=slurm.memory_of_a_node(), sbatch=QUIET)

        def work(x):
            time.sleep(0.3)
            return x

        function = cached_job(executor=spec, cache_dir=tmp_path)(work)
        futures = [function.submit(x) for x in range(30)]
        wait(futures[:4], PATIENCE)
        assert until(lambda: len(slurm.jobs("PD")) == 1)
        slurm.command("scancel", *slurm.jobs())
        assert [future.result(PATIENCE) for future in futures] == list(range(30))
        assert until(lambda: not slurm.jobs(), 2 * PATIENCE)
        assert function(30) == 30  # and come back
        function.cache.close()

    def test_a_job_that_was_running_when_its_worker_ended_twice_is_lost(self, slurm, spec, tmp_path, until):
        counter = CallCounter(tmp_path / "calls")

        def work(x):
            counter.tick()
            time.sleep(600)

        function = cached_job(executor=spec, cache_dir=tmp_path)(work)
        future = function.submit(1)
        for times in (1, 2):
            assert until(lambda times=times: counter.count == times, PATIENCE)
            slurm.command("scancel", *slurm.jobs("R"))
        error = future.exception(PATIENCE)
        assert type(error) is WorkerLost
        assert "work(x=1): it was running when its worker ended, twice. A worker has time='00:30:00'" in str(
            error
        )
        assert counter.count == 2
        function.cache.close()


def test_a_wall_time_that_ends_does_not_end_a_sweep(slurm, tmp_path, until):
    """Workers leave before it, and others follow. A job that is longer is lost, with a message that names it."""

    def work(seconds):
        ran = tmp_path / f"{seconds}"
        ran.write_text(f"{ran.read_text() if ran.exists() else ''}{os.environ['SLURM_JOB_ID']} ")
        time.sleep(seconds)
        return os.environ["SLURM_JOB_ID"]

    def workers_of(seconds):
        ran = tmp_path / f"{seconds}"
        return ran.read_text().split() if ran.exists() else []

    # Slurm takes it for a minute, and its workers leave after six seconds.
    spec = Slurm(2, time="0:08", interface="lo", sbatch=QUIET)
    function = cached_job(executor=spec, cache_dir=tmp_path)(work)
    seconds = iter(0.2 + x / 10000 for x in range(2000))
    workers = set()

    def sweep_until(holds):
        return until(lambda: workers.add(function(next(seconds))) or holds(), 2 * PATIENCE)

    def has_left(worker):
        return "JobState=COMPLETED" in slurm.told_of(worker)

    long = function.submit(3600)
    for times in (1, 2):
        assert sweep_until(lambda times=times: len(workers_of(3600)) == times)
        slurm.command("scancel", workers_of(3600)[-1])  # in place of a minute
    assert "time='0:08'" in str(long.exception(PATIENCE))
    assert sweep_until(lambda: any(map(has_left, workers))), workers
    assert not has_left(function(next(seconds)))
    function.cache.close()
    end_all(slurm, until)


PROGRAM = """
import time
from pathlib import Path
from bencher_job import Slurm, cached_job

function = cached_job(executor=Slurm(3, mem={mem!r}, interface="lo", sbatch={{"output": "/dev/null"}}))(time.sleep)
futures = [function.submit(600 + x) for x in range(6)]
Path("running").write_text("yes")
futures[0].result()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_ends_leaves_no_job(slurm, script, until, number):
    process = script.start(PROGRAM.format(mem=slurm.memory_of_a_node()))
    assert script.reported("running") == "yes"
    assert until(lambda: (len(slurm.jobs("R")), len(slurm.jobs("PD"))) == (2, 1))

    process.send_signal(number)
    process.wait(PATIENCE)
    assert until(lambda: not slurm.jobs())


def test_a_program_that_ends_early_gets_what_it_submitted(slurm, script):
    program = """
        import json
        from bencher_job import Slurm, cached_job
        executor = Slurm(2, interface="lo", sbatch={"output": "/dev/null"})
        function = cached_job(executor=executor, cache_dir="c")(lambda x: 2 * x)
        json.dump([function.submit(x).cached for x in range(10)], open("out.json", "w"))
    """
    assert script.run(program) == [False] * 10
    assert script.run(program) == [True] * 10


def test_a_program_keeps_its_handler_of_ctrl_c(slurm, workers, tmp_path):
    """dask_jobqueue replaces it where it is imported."""
    before = signal.getsignal(signal.SIGINT)
    function = cached_job(executor=workers, cache_dir=tmp_path)(abs)
    with function.cache:
        assert function(-1) == 1
    assert signal.getsignal(signal.SIGINT) is before
    assert "dask_jobqueue" not in sys.modules


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"partition": "nowhere"}, "refused to start a worker: .*invalid partition specified: nowhere"),
        ({"mem": "900T"}, "Memory specification can not be satisfied"),
        ({"sbatch": {"qqs": "high"}}, "sbatch has no option 'qqs'. Use .*qos"),
    ],
)
def test_what_slurm_does_not_take_is_told_at_once(slurm, tmp_path, options, told):
    function = cached_job(executor=Slurm(2, interface="lo", **options), cache_dir=tmp_path)(abs)
    with pytest.raises(BencherJobError, match=told):
        function(-1)
    function.cache.close()


def test_without_slurm_it_is_said_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BencherJobError, match=r"no sbatch on the PATH. Start the program on a machine"):
        cached_job(executor=Slurm(), cache_dir=tmp_path)(abs)(-1)


def test_without_dask_jobqueue_it_is_said_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BencherJobError, match=r"pip install 'bencher_job\[slurm\]'"):
        cached_job(executor="slurm", cache_dir=tmp_path)(abs)(-1)


def test_nothing_is_imported_or_asked_before_the_first_job():
    code = (
        "import sys; from bencher_job import Slurm, cached_job; cached_job(executor=Slurm(2, time='1-0'))(abs);"
        "print('distributed' in sys.modules, 'dask_jobqueue' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False False\n"


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        (
            {"ram": "8GB"},
            TypeError,
            "Slurm has no option 'ram'. Use workers, time, mem, cpus, gpus, partition",
        ),
        ({"workers": "2"}, TypeError, "workers must be an int, not str"),
        ({"workers": 0}, ValueError, "workers=0 is below 1"),
        ({"cpus": True}, TypeError, "cpus must be an int, not bool"),
        ({"time": "4h"}, ValueError, "time='4h' is not a time of sbatch's. Use minutes"),
        ({"time": 1.5}, TypeError, "time must be a str or an int, not float"),
        ({"mem": 8.5}, TypeError, "mem must be a str or an int, not float"),
        ({"partition": "gpu\n#SBATCH -n 9"}, ValueError, "can't stand in a line of a batch script"),
        ({"setup": 3}, TypeError, "setup must be a str or a sequence of str"),
        ({"sbatch": ["qos"]}, TypeError, "sbatch must be a mapping, not list"),
        ({"sbatch": {"q": "high"}}, ValueError, "'q', which is not a long name of sbatch's, such as 'qos'"),
        ({"sbatch": {"cpus-per-task": 2}}, ValueError, "sbatch has 'cpus-per-task'. Give it as cpus="),
    ],
)
def test_options_that_there_are_not_are_refused(options, error, told):
    with pytest.raises(error, match=told):
        Slurm(**options)


@pytest.mark.parametrize("text", ["ram=8GB", "gpu", "workers=many"])
def test_a_variable_that_cannot_be_used_is_refused(monkeypatch, tmp_path, text):
    monkeypatch.setenv("BENCHER_JOB_SLURM", text)
    with pytest.raises(BencherJobError, match=f"BENCHER_JOB_SLURM='{text}' can't be used"):
        Slurm().completed()


def test_equal_options_share_workers():
    assert Slurm(2, sbatch={"qos": "high"}) == Slurm(workers=2, sbatch={"qos": "high"})
    assert hash(Slurm(2)) == hash(Slurm(2))
    assert Slurm(2) != Slurm(3)
    assert executor_name(Slurm(2)) == executor_name("slurm") == "SLURM"


def test_times_are_read_as_sbatch_reads_them():
    times = ["90", "1:30", "4:00:00", "1-12", "1-12:30", "2-00:00:01", "UNLIMITED"]
    assert [seconds_of(time) for time in times] == [5400, 90, 14400, 129600, 131400, 172801, None]


DOCS = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.fixture
def folder(slurm, tmp_path, monkeypatch):
    """A folder with the files of the documentation, where its commands run as they stand there."""
    for path in DOCS.iterdir():
        if path.suffix in {".py", ".sh"}:
            shutil.copy(path, tmp_path)
    path = os.pathsep.join(filter(None, sys.path))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("BENCHER_JOB_SLURM", "workers=2,interface=lo")
    return tmp_path


def commands_of(section):
    """The shell commands in a section of the page."""
    text = (DOCS / "cluster.md").read_text().partition(f"\n{section}\n")[2].partition("\n#")[0]
    return re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def shell(folder, command):
    return subprocess.run(
        ["bash", "-ec", command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def test_the_study_of_the_documentation_runs(folder):
    assert shell(folder, "python slurm_study.py") == "6 4\n12 6\n360 24\n"


def test_a_driver_that_is_submitted_continues_after_a_requeue(folder, slurm, until):
    """Submit and leave, as the page says."""
    study = folder / "slurm_study.py"
    slow = "    import time; time.sleep(1)\n    return sum"
    study.write_text(study.read_text().replace("    return sum", slow).replace("360]", "360, *range(7, 20)]"))
    (command,) = commands_of("### Submit and leave")
    number = shell(folder, command).split()[-1]

    def results():
        told = shell(folder, "bencher-job stats --cache-dir results --json || true")
        return sum(cache["entries"] for cache in json.loads(told)["caches"]) if told else 0

    assert until(lambda: results() >= 2, PATIENCE)
    slurm.command("scontrol", "requeue", number)
    assert until(lambda: slurm.jobs() == slurm.jobs("PD") == [number], PATIENCE)  # the workers end too

    # Slurm starts it again when its last credential has expired. The node would refuse it before.
    log = folder / "study.log"
    assert until(lambda: "\n19 2\n" in log.read_text(), 2 * PATIENCE), slurm.told_of(number) + log.read_text()
    assert results() == 15
    assert until(lambda: not slurm.jobs())


def test_a_job_array_computes_the_parts_of_a_study(folder):
    (command,) = commands_of("### Job arrays")
    shell(folder, command)
    assert "40" in shell(folder, "bencher-job ls")
