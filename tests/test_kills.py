"""Processes are killed, interrupted, forked and started all at once: nothing is wrong, and what was done is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import Sample
from tests.environment import unmeasured
from tests.programs import Programs, until

CRASH_POINTS = Path(__file__).parent / "crash_points.py"


def test_a_kill_before_any_file_operation_or_statement_does_no_harm(tmp_path: Path, sample: Sample) -> None:
    """Every twentieth point of some six hundred; with --soak 60 three times as many."""
    first, step = sample(20)
    run = subprocess.run(
        [sys.executable, CRASH_POINTS, tmp_path, str(first), str(step)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**unmeasured(), "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=280,
        check=False,
    )
    *faults, last = run.stdout.splitlines()
    assert faults == []
    assert last.startswith("killed ")
    assert int(last.split()[1]) > 400 / step


WORK = """
    @cached_job(code="none", executor=os.environ.get("EXECUTOR", "serial"))
    def job(x):
        count(f"ran.{x}")
        tell(f"begun.{x}")
        if x == 3 and not (HERE / "go_on").exists():
            wait_for("go_on")
        return {"x": x}

    print([job(x)["x"] for x in range(6)])
"""


def test_a_program_that_was_killed_goes_on_where_it_stopped(programs: Programs) -> None:
    first = programs.start("first", WORK)
    programs.wait_for("first.begun.3")
    programs.kill(first)
    programs.tell("go_on")
    assert programs.output(programs.start("second", WORK)) == "[0, 1, 2, 3, 4, 5]"
    assert [programs.count(f"ran.{x}") for x in range(6)] == [1, 1, 1, 2, 1, 1]


def test_a_waiter_that_is_killed_harms_nobody(programs: Programs) -> None:
    owner = programs.start("owner", WORK)
    programs.wait_for("owner.begun.3")
    waiter = programs.start("waiter", WORK)
    assert until(lambda: programs.opens(waiter, "owners"))
    programs.kill(waiter)
    programs.tell("go_on")
    assert programs.output(owner) == "[0, 1, 2, 3, 4, 5]"
    assert programs.output(programs.start("next", WORK)) == "[0, 1, 2, 3, 4, 5]"
    assert [programs.count(f"ran.{x}") for x in range(6)] == [1] * 6


def test_a_pool_worker_that_is_killed_costs_its_job_and_leaves_no_lease(programs: Programs) -> None:
    source = """
    @cached_job(code="none", executor="multiprocessing")
    def job(x):
        count(f"ran.{x}")
        if x == 3 and not (HERE / "go_on").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    futures = [job.submit(x) for x in range(6)]
    print([type(future.exception()).__name__ for future in futures])
    (HERE / "go_on").touch()
    print(list(job.map(range(6))))
    """
    expected = str(["NoneType"] * 3 + ["WorkerLost"] + ["NoneType"] * 2)
    assert programs.output(programs.start("program", source)) == f"{expected}\n[0, 1, 2, 3, 4, 5]"
    assert [programs.count(f"ran.{x}") for x in range(6)] == [1, 1, 1, 2, 1, 1]


def test_a_parent_that_is_killed_leaves_no_worker_and_its_jobs_to_the_next(programs: Programs) -> None:
    source = """
    @cached_job(code="none", executor="multiprocessing")
    def job(x):
        count(f"ran.{x}")
        (HERE / f"pid.{os.getpid()}").touch()
        tell(f"begun.{x}")
        if NAME == "first":
            time.sleep(60)
        return x

    print(list(job.map(range(2))))
    """
    first = programs.start("first", source)
    for x in range(2):
        programs.wait_for(f"first.begun.{x}")
    workers = [int(path.suffix[1:]) for path in programs.folder.glob("pid.*")]
    programs.kill(first)
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert programs.output(programs.start("second", source)) == "[0, 1]"


def test_a_program_that_is_interrupted_keeps_what_is_done(programs: Programs) -> None:
    first = programs.start("first", WORK)
    programs.wait_for("first.begun.3")
    first.send_signal(signal.SIGINT)
    assert first.wait(60) != 0
    programs.tell("go_on")
    assert programs.output(programs.start("second", WORK)) == "[0, 1, 2, 3, 4, 5]"
    assert [programs.count(f"ran.{x}") for x in range(3)] == [1, 1, 1]


def test_eight_programs_that_open_a_new_cache_at_once(programs: Programs) -> None:
    source = """
    @cached_job(code="none")
    def job(x):
        count("runs")
        return x * 2

    tell("ready")
    wait_for("begin")
    print(sum(job(x) for x in range(20)))
    """
    together = [programs.start(f"p{number}", source) for number in range(8)]
    for number in range(8):
        programs.wait_for(f"p{number}.ready")
    programs.tell("begin")
    assert [programs.output(program) for program in together] == ["380"] * 8
    assert programs.count("runs") == 20


def test_forks_while_another_thread_writes(programs: Programs) -> None:
    source = """
    import threading

    @cached_job(code="none")
    def job(x):
        return x

    stop = threading.Event()

    def write():
        x = 0
        while not stop.is_set():
            job(x)
            x += 1

    writer = threading.Thread(target=write)
    writer.start()
    while not job.is_cached(10):
        time.sleep(0.001)
    children = []
    for number in range(20):
        child = os.fork()
        if child == 0:
            good = job(5) == 5 and job(f"child {number}") == f"child {number}"
            os._exit(0 if good else 1)
        children.append(child)
    print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    stop.set()
    writer.join()
    print(all(job.is_cached(f"child {number}") for number in range(20)))
    """
    run = programs.start("program", source, PYTHONWARNINGS="ignore::DeprecationWarning")
    assert programs.output(run) == f"{[0] * 20}\nTrue"


def test_a_clock_that_is_wrong_changes_no_value(programs: Programs) -> None:
    source = """
    import time
    offset = float(sys.argv[2])
    now = time.time
    time.time = lambda: now() + offset

    @cached_job(code="none")
    def job(x):
        count(x)
        return x

    @cached_job(code="none", ttl=3600)
    def fresh(x):
        count(f"fresh.{x}")
        return x

    print(job(1), fresh(1), len(list(job.cache.records())), job.explain(1).is_hit)
    """
    for offset in ("0", "-1e9", "1e9"):
        assert programs.output(programs.start("program", source, offset)) == "1 1 1 True"
    assert programs.count("1") == 1
    assert programs.count("fresh.1") == 3, "a result from long ago or far ahead of the clock has expired"


def test_a_program_lives_on_when_the_file_that_tells_of_changes_is_cut_off(programs: Programs) -> None:
    user = programs.start(
        "user",
        """
        @cached_job(code="none")
        def job(x):
            count("ran")
            return {"x": x}

        job(1)
        job(1)
        tell("ready")
        while not (HERE / "stop").exists():
            for _ in range(500):
                assert job(1) == {"x": 1}
        tell("stopped")
        wait_for("cleared")
        print(job(1))
        """,
    )
    programs.wait_for("user.ready")
    generation = programs.folder / "cachedir" / "fcache" / "generation"
    for turn in range(500):
        os.truncate(generation, (0, 0, 3, 17)[turn % 4])
    os.truncate(generation, 0)
    programs.tell("stop")
    programs.wait_for("user.stopped")
    assert programs.output(programs.start("other", "print(FutureCache().clear_cache())")) == "1"
    programs.tell("cleared")
    assert programs.output(user) == "{'x': 1}"
    assert programs.count("ran") == 2
