"""Tests with real programs under `python -m scoop`. Its exit code is always 0, so they report through files."""

from __future__ import annotations

import json
import os
import signal
import textwrap

import psutil
import pytest

from tests.environment import needs_scoop

pytestmark = needs_scoop

SCOOP = ("-m", "scoop", "-q", "-n", "3")
PATIENCE = 60.0

TOOLS = """
    import concurrent.futures as cf, json, os, signal, threading, time
    from pathlib import Path
    from bencher_job import BencherJobError, Executors, Job, WorkerLost, cached_job
    from bencher_job.testing import CallCounter

    HERE = Path(__file__).parent

    def wait_for(name, seconds=60):
        end = time.monotonic() + seconds
        while not (HERE / name).exists():
            if time.monotonic() > end:
                raise TimeoutError(name)
            time.sleep(0.005)

    def meet(name):
        (HERE / f"{name} is there").touch()
        wait_for("a is there"), wait_for("b is there")
        return os.getpid()

    def tell(value, name="out.json"):
        (HERE / "part").write_text(json.dumps(value))
        (HERE / "part").rename(HERE / name)
"""


@pytest.fixture
def run(script):
    """Run a program under SCOOP to its end, and return its report."""

    def run(source, *launcher, **environment):
        source = textwrap.dedent(TOOLS) + textwrap.dedent(source)
        return script.run(source, *(launcher or SCOOP), **environment)

    return run


@pytest.fixture
def start(script):
    """Start a program under SCOOP."""
    return lambda source, *launcher: script.start(
        textwrap.dedent(TOOLS) + textwrap.dedent(source), *(launcher or SCOOP)
    )


@pytest.fixture
def patched(tmp_path):
    """Return an environment in which each process runs some lines first."""

    def patched(lines):
        folder = tmp_path / "patch"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(textwrap.dedent(lines))
        paths = [str(folder), os.environ.get("PYTHONPATH"), *filter(None, __import__("sys").path)]
        return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    return patched


def test_callbacks_fire_and_timeouts_count_while_the_root_does_other_things(run):
    out = run(
        """
        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            executor.submit(abs, -1).result(60)
            called = threading.Event()
            executor.submit(abs, -1).add_done_callback(lambda future: called.set())
            prompt = called.wait(60)
            slow = executor.submit(wait_for, "go")
            begun = time.monotonic()
            try:
                slow.result(0.3)
            except cf.TimeoutError:
                waited = time.monotonic() - begun
            (HERE / "go").touch()
            tell([prompt, waited, slow.exception(60)])
        """
    )

    prompt, waited, problem = out
    assert (prompt, problem) == (True, None)
    assert 0.3 <= waited < 30


def test_results_are_kept_as_they_complete(run):
    """Even if their futures are never read, and before all are done."""
    out = run(
        """
        @cached_job(executor="scoop")
        def work(name):
            if name == "last":
                wait_for("go")
            return name

        if __name__ == "__main__":
            last, *others = [work.submit(name) for name in ["last", *"abcdef"]]
            cf.wait(others, 60)
            kept = sorted(record.arguments["name"] for record in work.cache.records())
            pending = not last.done()
            (HERE / "go").touch()
            tell([kept, pending, last.result(60)])
        """
    )

    assert out == [list("abcdef"), True, "last"]


def test_keys_and_leases_are_the_same_at_the_root_and_in_workers(run):
    """A worker finds what the root has computed, and vice versa."""
    out = run(
        """
        @cached_job
        def inner(x):
            CallCounter(HERE / "calls").tick()
            return 2 * x

        @cached_job(executor="scoop")
        def outer(x):
            return inner(x), inner.key(x), os.getpid()

        if __name__ == "__main__":
            inner(1)
            values = [list(outer(x)) for x in (1, 2)]
            here = [inner.key(1), inner.key(2)]
            tell([values, here, inner.is_cached(2), inner(2), CallCounter(HERE / "calls").count, os.getpid()])
        """
    )

    values, keys, is_cached, value, calls, root = out
    assert [value[:2] for value in values] == [[2, keys[0]], [4, keys[1]]]
    assert root not in {value[2] for value in values}
    assert (is_cached, value, calls) == (True, 4, 2)


def test_two_programs_share_a_sweep(run):
    """A job in a program's queue keeps its key from no other program."""
    out = run(
        """
        import subprocess, sys

        @cached_job(executor="scoop", code="none")
        def work(x):
            CallCounter(HERE / "calls").tick()
            wait_for("both", 60)
            time.sleep(0.1)
            return os.getpid()

        if __name__ == "__main__":
            is_first = not (HERE / "first").exists()
            (HERE / "first").touch()
            if is_first:
                command = [sys.executable, "-m", "scoop", "-q", "-n", "2", str(HERE / "script.py")]
                other = subprocess.Popen(command)
            futures = [work.submit(x) for x in range(20)]
            if is_first:
                while CallCounter(HERE / "calls").count < 2:
                    time.sleep(0.01)
                (HERE / "both").touch()
            pids = [future.result(60) for future in futures]
            if is_first:
                other.wait(60)
                tell([len(set(pids)), CallCounter(HERE / "calls").count])
        """,
        *("-m", "scoop", "-q", "-n", "2"),
    )

    assert out == [2, 20]


def test_records_tell_the_worker(run):
    out = run(
        """
        @cached_job(executor="scoop")
        def where():
            return os.getpid()

        if __name__ == "__main__":
            pid = where()
            (record,) = where.cache.records()
            tell([pid, record.pid, record.executor, os.getpid()])
        """
    )

    pid, recorded, executor, root = out
    assert pid == recorded != root
    assert executor == "SCOOP"


DEATHS = {
    "exits": "os._exit(3)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "crashes": "__import__('ctypes').string_at(0)",
}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
def test_a_worker_that_dies_costs_the_job_that_it_ran(run, death):
    """The error comes at once, the others continue, and jobs that had not begun run again."""
    out = run(
        f"""
        def work(x):
            if x == 250:
                {death}
            return -x

        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            executor.submit(abs, -1).result(60)
            futures = [executor.submit(work, x) for x in range(500)]
            begun = time.monotonic()
            lost = futures[250].exception(60)
            seconds = time.monotonic() - begun
            rest = futures[:250] + futures[251:]
            values = [future.result(60) for future in rest] == [-x for x in range(500) if x != 250]
            tell([type(lost).__name__, str(lost), lost.job, seconds, values, executor.submit(abs, -1).result(60)])
        """
    )

    kind, message, label, seconds, others_are_right, after = out
    assert (kind, label) == ("WorkerLost", "work")
    assert "lost work: its worker" in message
    assert seconds < 30
    assert others_are_right
    assert after == 1


def test_an_idle_worker_that_is_killed_costs_nothing(run):
    out = run(
        """
        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            victim, other = [future.result(60) for future in [executor.submit(meet, name) for name in "ab"]]
            os.kill(victim, signal.SIGKILL)
            pids = {executor.submit(os.getpid).result(60) for _ in range(50)}
            tell([list(pids), other, victim])
        """
    )

    pids, other, victim = out
    assert pids == [other]
    assert victim != other


def test_a_cached_job_is_told_of_its_workers_death_by_name(run):
    out = run(
        """
        @cached_job(executor="scoop")
        def work(x):
            if x == 2:
                os._exit(1)
            return x

        if __name__ == "__main__":
            sweep = work.sweep({"x": [1, 2, 3]}).run()
            (failure,) = sweep.failures
            tell([[row["result"] for row in sweep.results], type(failure.error).__name__, failure.error.job])
        """
    )

    results, kind, label = out
    assert results == [1, 3]
    assert kind == "WorkerLost"
    assert label.startswith("job '")
    assert label.endswith("work(x=2)")


def test_without_workers_nothing_hangs(run):
    out = run(
        """
        def die():
            wait_for("go")
            os._exit(1)

        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            futures = [executor.submit(die), executor.submit(die), executor.submit(abs, -1)]
            (HERE / "go").touch()
            lost = [repr(future.exception(60)) for future in futures]
            try:
                executor.submit(abs, -1)
            except Exception as error:
                after = repr(error)
            tell([lost, after])
        """
    )

    lost, after = out
    assert all(error.startswith("WorkerLost('SCOOP lost") for error in lost)
    assert "all workers are gone" in lost[2]
    assert after == "WorkerLost('SCOOP takes no more jobs: all workers are gone')"


IMPATIENT = """
    import scoop, scoop._types
    scoop.TIME_BETWEEN_STATUS_REPORTS = 10**9
    scoop.TIME_BETWEEN_STATUS_PRUNING = 0.2
    scoop._types.POLLING_TIME = 100
"""
"""Make SCOOP lose track of jobs after a second, as it does after a minute."""


@pytest.mark.parametrize(
    ("wait", "is_once"),
    [('Executors.factory("scoop")', True), ("scoop.futures", False)],
    ids=["ours", "SCOOP's own"],
)
def test_long_jobs_run_once(run, patched, wait, is_once):
    """With SCOOP's own futures they run again, which the second case shows."""
    out = run(
        f"""
        import scoop.futures

        def work(x):
            CallCounter(HERE / "calls").tick()
            time.sleep(0.1 if scoop.IS_ORIGIN else 2)  # SCOOP's root runs jobs too, and must wait for the others

        if __name__ == "__main__":
            list({wait}.map(work, range(6)))
            tell(CallCounter(HERE / "calls").count)
        """,
        **patched(IMPATIENT),
    )

    assert (out == 6) is is_once


def test_jobs_behind_a_long_one_go_to_another_worker(run):
    """Short jobs are sent several at a time. If one takes long, the rest is recalled."""
    out = run(
        """
        def work(x):
            CallCounter(HERE / "calls").tick()
            if x == 230:
                wait_for("the others have ended")
            return x

        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            futures = [executor.submit(work, x) for x in range(400)]
            long = futures.pop(230)
            done, pending = cf.wait(futures, 60)
            (HERE / "the others have ended").touch()
            tell([len(done), long.result(60), CallCounter(HERE / "calls").count])
        """
    )

    assert out == [399, 230, 400]


FAKE_SSH = """#!/bin/bash
# Stands in for ssh on one machine: drops the options and the host, and runs the command here.
while [[ "$1" == -* ]]; do shift; done
shift
exec bash -c "$*"
"""


@pytest.fixture
def two_hosts(tmp_path):
    """Return the launcher of a program with its root on one host and two workers on another."""
    ssh = tmp_path / "ssh"
    ssh.write_text(FAKE_SSH)
    ssh.chmod(0o700)
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.2")
    return "-m", "scoop", "-q", "--ssh-executable", str(ssh), "--tunnel", "--host", *hosts, "-n", "3"


def test_two_hosts_work(run, script, two_hosts):
    """The death of a worker there is noticed, too, and all workers end with the program."""
    out = run(
        """
        @cached_job(executor="scoop")
        def work(x):
            if x == 30:
                os.kill(os.getpid(), signal.SIGKILL)
            return x, os.getppid()

        if __name__ == "__main__":
            sweep = work.sweep({"x": range(60)}).run()
            (failure,) = sweep.failures
            parents = {row["result"][1] for row in sweep.results}
            tell([len(sweep.results), repr(failure.error), list(parents), os.getppid()])
        """,
        *two_hosts,
    )

    results, lost, parents, parent_of_root = out
    assert results == 59
    assert lost.startswith("WorkerLost(")
    assert len(parents) == 1
    assert parents != [parent_of_root]
    assert script.processes() == []


NO_ROUTE = """
    from scoop._comm.scoopzmq import ZMQCommunicator
    ZMQCommunicator.addPeer = lambda self, peer: None
"""
"""Let SCOOP's processes reach only the broker, as through a tunnel."""


def test_workers_that_reach_the_broker_alone_get_their_jobs_by_it(run, patched):
    out = run(
        """
        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            large = executor.submit(bytes, 3_000_000)
            tell([list(executor.map(abs, range(-300, 0))), len(large.result(60))])
        """,
        **patched(NO_ROUTE),
    )

    assert out == [list(range(300, 0, -1)), 3_000_000]


def test_a_function_travels_to_each_worker_once(run):
    out = run(
        """
        class Loaded:
            def __init__(self):
                self.data = bytes(3_000_000)

            def __setstate__(self, state):
                CallCounter(HERE / "loads").tick()
                self.__dict__.update(state)

        if __name__ == "__main__":
            held = Loaded()
            executor = Executors.factory("scoop")
            lengths = set(executor.map(lambda x: len(held.data) + x % 2, range(100)))
            tell([sorted(lengths), CallCounter(HERE / "loads").count])
        """
    )

    lengths, loads = out
    assert lengths == [3_000_000, 3_000_001]
    assert 1 <= loads <= 2


def test_a_function_that_a_worker_has_not_kept_is_sent_again(run):
    """Its function could not be loaded at first."""
    out = run(
        """
        class Late:
            def __init__(self):
                self.ready = False

            def __setstate__(self, state):
                if not (HERE / "ready").exists():
                    raise LookupError("too early")

        if __name__ == "__main__":
            held = Late()
            executor = Executors.factory("scoop")
            function = lambda x: (held, x)[1]
            early = [str(executor.submit(function, x).exception(60)) for x in range(4)]
            (HERE / "ready").touch()
            tell([early, [executor.submit(function, x).result(60) for x in range(4)]])
        """
    )

    early, values = out
    assert all("LookupError: too early" in message for message in early)
    assert values == [0, 1, 2, 3]


def test_what_is_pending_when_the_script_ends_is_finished_and_kept(start, script):
    process = start(
        """
        @cached_job(executor="scoop")
        def late(x):
            wait_for("go")
            return x

        if __name__ == "__main__":
            for x in range(4):
                late.submit(x)
            tell("submitted", "ready")
        """
    )
    script.reported("ready")
    script.tell("go")
    process.communicate(timeout=PATIENCE)

    assert sorted(kept(script, "late")) == [0, 1, 2, 3]
    assert script.processes() == []


def kept(script, function):
    """Return the arguments `x` of the stored results of a function of the script."""
    return script.run(
        f"""
        import json
        from bencher_job import FutureCache

        with FutureCache(overwrite=False) as cache:
            found = [record.arguments["x"] for record in cache.records(function="script.{function}")]
        json.dump(found, open("out.json", "w"))
        """
    )


def test_what_was_done_when_the_root_is_killed_was_kept_and_nothing_is_left_behind(start, script, until):
    start(
        """
        @cached_job(executor="scoop")
        def work(x):
            if x < 0:
                wait_for("never")
            return x

        if __name__ == "__main__":
            endless = work.submit(-1)
            cf.wait([work.submit(x) for x in range(5)], 20)
            tell(os.getpid(), "ready")
            endless.result()
        """
    )
    root = json.loads(script.reported("ready"))

    os.kill(root, signal.SIGKILL)
    script.process.communicate(timeout=PATIENCE)

    assert until(lambda: script.processes() == [])
    assert sorted(kept(script, "work")) == [0, 1, 2, 3, 4]


def test_workers_on_another_host_leave_when_the_root_is_killed(start, script, until, two_hosts):
    """The launcher does not end them: it reaches only the processes that it has started."""
    start(
        """
        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            pids = [future.result(60) for future in [executor.submit(meet, name) for name in "ab"]]
            tell([os.getpid(), *pids], "ready")
            time.sleep(600)
        """,
        *two_hosts,
    )
    root, *workers = json.loads(script.reported("ready"))

    os.kill(root, signal.SIGKILL)

    assert until(lambda: not any(map(psutil.pid_exists, workers)))
    script.process.communicate(timeout=PATIENCE)
    assert script.processes() == []


def test_an_interrupt_leaves_nothing_behind(start, script, until):
    start(
        """
        @cached_job(executor="scoop")
        def work(x):
            if x > 0:
                wait_for("never")
            return x

        if __name__ == "__main__":
            futures = [work.submit(x) for x in range(20)]
            futures[0].result(60)
            tell("running", "ready")
            futures[1].result()
        """
    )
    script.reported("ready")

    os.killpg(script.process.pid, signal.SIGINT)
    script.process.communicate(timeout=PATIENCE)

    assert until(lambda: script.processes() == [])
    assert kept(script, "work") == [0]


def test_a_script_that_fails_ends(start):
    process = start(
        """
        if __name__ == "__main__":
            Executors.factory("scoop").submit(time.sleep, 600)
            raise ValueError("on purpose")
        """
    )

    output, errors = process.communicate(timeout=PATIENCE)

    assert "on purpose" in output + errors


def test_a_program_without_workers_is_refused(run):
    out = run(
        """
        if __name__ == "__main__":
            try:
                Executors.factory("scoop")
            except BencherJobError as error:
                tell(str(error))
        """,
        *SCOOP[:-1],
        "1",
    )

    assert out.startswith("executor=SCOOP has no worker with -n 1")


def test_scoops_own_futures_beside_it_end_the_program_rather_than_hang(start):
    process = start(
        """
        import scoop.futures
        if __name__ == "__main__":
            Executors.factory("scoop").submit(abs, -1).result(60)
            list(scoop.futures.map(abs, range(100)))
        """
    )

    output, errors = process.communicate(timeout=PATIENCE)

    assert "scoop.futures can't be used in a program whose jobs run by executor=SCOOP" in output + errors


def test_a_root_that_has_used_scoops_own_futures_before_is_none_of_the_workers(run):
    """It has asked the broker for tasks, which are passed on to workers."""
    out = run(
        """
        from scoop import futures

        def double(x):
            return 2 * x, os.getpid()

        if __name__ == "__main__":
            before = [value for value, _ in futures.map(double, range(300))]
            ours = cached_job(executor="scoop", cache_dir=HERE / "cache")(double)
            after = list(ours.map(range(1000, 1300)))
            tell({
                "before": before,
                "after": [value for value, _ in after],
                "in the root": os.getpid() in {pid for _, pid in after},
            })
            ours.cache.close()
        """
    )

    assert out == {
        "before": [2 * x for x in range(300)],
        "after": [2 * x for x in range(1000, 1300)],
        "in the root": False,
    }


def test_scoops_own_futures_inside_a_job_run_there(run):
    out = run(
        """
        import scoop.futures

        def nested(x):
            return sum(scoop.futures.map(abs, range(-x, 0)))

        if __name__ == "__main__":
            tell(list(Executors.factory("scoop").map(nested, [1, 2, 300])))
        """
    )

    assert out == [1, 3, 45150]


def test_a_forked_child_of_the_root_is_told_that_scoop_is_its_parents(run):
    out = run(
        """
        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            executor.submit(abs, -1).result(60)
            read, write = os.pipe()
            if os.fork() == 0:
                try:
                    executor.submit(abs, -1)
                except RuntimeError as error:
                    os.write(write, str(error).encode())
                os._exit(0)
            os.wait()
            tell([os.read(read, 1000).decode(), executor.submit(abs, -2).result(60)])
        """
    )

    assert out[0].startswith("This ScoopExecutor belongs to the parent of this process")
    assert out[1] == 2


def test_an_idle_pump_uses_no_time(run):
    out = run(
        """
        if __name__ == "__main__":
            executor = Executors.factory("scoop")
            executor.submit(abs, -1).result(60)
            before = time.process_time()
            executor.submit(time.sleep, 1.5).result(60)
            tell(time.process_time() - before)
        """
    )

    assert out < 0.2
