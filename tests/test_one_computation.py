"""However many processes ask for a key at once, its function runs once, and nobody waits for the dead (promise 4)."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.programs import Programs, until

SLOW = """
    @cached_job(code="none", executor=os.environ.get("EXECUTOR", "serial"))
    def slow(x):
        count(x)
        tell("begun")
        wait_for("go_on")
        return {"x": x, "by": NAME}

    print(slow(1)["by"])
"""


def test_programs_that_ask_at_once_share_one_run(programs: Programs) -> None:
    owner = programs.start("owner", SLOW)
    programs.wait_for("owner.begun")
    others = [programs.start(f"other{number}", SLOW) for number in range(4)]
    assert until(lambda: all(programs.opens(other, "owners") for other in others))
    programs.tell("go_on")
    assert [programs.output(program) for program in (owner, *others)] == ["owner"] * 5
    assert programs.count("1") == 1


@pytest.mark.parametrize("executor", ["serial", "multiprocessing"])
def test_one_of_those_who_wait_takes_over_from_the_dead(programs: Programs, executor: str) -> None:
    owner = programs.start("owner", SLOW, EXECUTOR=executor)
    assert until(lambda: programs.count("1") == 1)
    others = [programs.start(f"other{number}", SLOW, EXECUTOR=executor) for number in range(3)]
    assert until(lambda: all(programs.opens(other, "owners") for other in others))
    programs.kill(owner)
    assert until(lambda: programs.count("1") == 2)
    programs.tell("go_on")
    names = [programs.output(other) for other in others]
    assert len(set(names)) == 1
    assert names[0] != "owner"
    assert programs.count("1") == 2


def is_asleep(pid: int) -> bool:
    """Whether a process sleeps at each of several looks, as one does that waits for another."""
    process = psutil.Process(pid)
    for _ in range(10):
        if process.status() != psutil.STATUS_SLEEPING:
            return False
        time.sleep(0.05)
    return True


def test_an_exception_reaches_those_who_wait_and_the_next_asker_runs_the_job_again(
    programs: Programs,
) -> None:
    source = """
    class Unlucky(Exception):
        def __init__(self, number, *, by):
            super().__init__(number)
            self.by = by

    @cached_job(code="none")
    def slow(x):
        count(x)
        tell("begun")
        wait_for("go_on")
        raise Unlucky(x, by=NAME)

    try:
        slow(1)
    except Unlucky as error:
        print(error.by, error.args)
    """
    owner = programs.start("owner", source)
    programs.wait_for("owner.begun")
    others = [programs.start(f"other{number}", source) for number in range(3)]
    assert until(lambda: all(programs.opens(other, "owners") and is_asleep(other.pid) for other in others))
    programs.tell("go_on")
    assert [programs.output(program) for program in (owner, *others)] == ["owner (1,)"] * 4
    assert programs.count("1") == 1
    assert programs.output(programs.start("next", source)) == "next (1,)"
    assert programs.count("1") == 2


def test_an_owner_that_is_interrupted_leaves_the_job_to_those_who_wait(programs: Programs) -> None:
    owner = programs.start("owner", SLOW)
    programs.wait_for("owner.begun")
    other = programs.start("other", SLOW)
    assert until(lambda: programs.opens(other, "owners"))
    owner.send_signal(signal.SIGINT)
    programs.wait_for("other.begun")
    programs.tell("go_on")
    assert programs.output(other) == "other"
    assert owner.wait(60) != 0


def test_futures_wait_without_a_thread_each_and_can_be_cancelled(programs: Programs) -> None:
    owner = programs.start("owner", SLOW)
    programs.wait_for("owner.begun")
    source = """
    import threading
    @cached_job(code="none", executor="multiprocessing")
    def slow(x):
        count(x)
        return {"x": x, "by": NAME}

    waiting = slow.submit(1)
    threads = threading.active_count()
    given_up = cached_job(code="none", executor="multiprocessing")(slow.__wrapped__).submit(1)
    assert given_up.cancel()
    assert waiting.running() is False and not waiting.done()
    tell("waits")
    print(waiting.result()["by"], waiting.cached, slow.cache.info().computed)
    """
    other = programs.start("other", source)
    programs.wait_for("other.waits")
    programs.tell("go_on")
    assert programs.output(owner) == "owner"
    assert programs.output(other) == "owner True 0"


def test_sweeps_of_several_programs_share_their_jobs(programs: Programs) -> None:
    source = """
    @cached_job(code="none", executor="multiprocessing")
    def job(x):
        count("runs")
        time.sleep(0.01)
        return x * x

    tell("ready")
    wait_for("begin")
    print(sum(row["result"] for row in job.sweep({"x": range(60)}).run(progress=False).results))
    """
    together = [programs.start(f"p{number}", source) for number in range(3)]
    for number in range(3):
        programs.wait_for(f"p{number}.ready")
    programs.tell("begin")
    assert [programs.output(program) for program in together] == [str(sum(x * x for x in range(60)))] * 3
    assert programs.count("runs") == 60


def test_a_job_that_calls_a_cached_function_that_is_queued_behind_it_does_not_wait_for_ever(
    programs: Programs,
) -> None:
    source = """
    @cached_job(code="none")
    def inner(x):
        count("inner")
        return x + 1

    @cached_job(code="none", executor="multiprocessing")
    def outer(x):
        return inner(x) * 2

    pool = Executors.factory("multiprocessing")
    one = type(pool)(1)
    outer = cached_job(code="none", executor=one)(outer.__wrapped__)
    queued = cached_job(code="none", executor=one)(inner.__wrapped__)
    results = [outer.submit(x) for x in range(4)] + [queued.submit(x) for x in range(4)]
    print([future.result(60) for future in results])
    one.shutdown()
    """
    assert programs.output(programs.start("nested", source)) == "[2, 4, 6, 8, 1, 2, 3, 4]"
    assert 4 <= programs.count("inner") <= 8


def test_waiting_is_cheap(programs: Programs) -> None:
    programs.start("owner", SLOW)
    programs.wait_for("owner.begun")
    others = [programs.start(f"other{number}", SLOW) for number in range(4)]
    assert until(lambda: all(programs.opens(other, "owners") for other in others))
    time.sleep(2)  # pauses get longer with the wait
    before = [_cpu_seconds(other.pid) for other in others]
    time.sleep(2)
    used = [after - early for after, early in zip(map(_cpu_seconds, (o.pid for o in others)), before)]
    assert max(used) / 2 < 0.05


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_callback_may_call_what_another_program_computes(programs: Programs) -> None:
    source = """
    import threading

    @cached_job(code="none", executor="threads")
    def slow(x):
        count(x)
        tell(f"begun{x}")
        wait_for(f"go_on{x}")
        return {"x": x, "by": NAME}

    futures = [slow.submit(x) for x in ((1, 2) if NAME == "owner" else (1,))]
    called = threading.Event()

    def callback(future):
        tell("called")
        print(slow(2)["by"], flush=True)
        called.set()

    if NAME != "owner":
        futures[0].add_done_callback(callback)
        tell("asked")
        assert called.wait(60)
    """
    owner = programs.start("owner", source)
    for event in ("owner.begun1", "owner.begun2"):
        programs.wait_for(event)
    other = programs.start("other", source)
    programs.wait_for("other.asked")
    programs.tell("go_on1")
    programs.wait_for("other.called")
    programs.tell("go_on2")
    assert programs.output(other) == "owner"
    programs.output(owner)
    assert programs.count("2") == 1


def test_programs_that_ask_for_the_same_keys_in_different_orders_do_not_stall(programs: Programs) -> None:
    """What a program has queued keeps no key from others: each has one worker, which asks for what the other queued."""
    source = """
    @cached_job(code="none")
    def inner(x):
        count(f"inner{x}")
        return x + 1

    @cached_job(code="none", executor="multiprocessing", max_workers=1)
    def outer(x):
        tell("begun")
        wait_for("go_on")
        return inner(x) * 2

    queued = cached_job(code="none", executor="multiprocessing", max_workers=1)(inner.__wrapped__)
    mine, other = (1, 2) if NAME == "one" else (2, 1)
    futures = [outer.submit(mine), queued.submit(other)]
    tell("asked")
    print([future.result(60) for future in futures])
    """
    both = [programs.start(name, source) for name in ("one", "two")]
    for name in ("one", "two"):
        programs.wait_for(f"{name}.asked")
        programs.wait_for(f"{name}.begun")
    programs.tell("go_on")
    assert [programs.output(program) for program in both] == ["[4, 3]", "[6, 2]"]
    assert (programs.count("inner1"), programs.count("inner2")) == (1, 1)


@pytest.mark.parametrize("executor", ["multiprocessing", "threads"])
def test_copies_of_a_program_share_a_sweep(programs: Programs, executor: str) -> None:
    """Each takes the next key that nobody computes, so that all have run a part of the sweep."""
    source = """
    @cached_job(code="none", executor=os.environ["EXECUTOR"], max_workers=1)
    def job(x):
        count("runs")
        count(f"runs of {NAME}")
        time.sleep(0.1)
        return x * x

    cached_job(code="none", executor=os.environ["EXECUTOR"], max_workers=1)(abs)(-int(NAME[1:]))  # starts the worker
    tell("ready")
    wait_for("begin")
    values = list(job.map(range(40)))
    print(values == [x * x for x in range(40)], job.cache.info().computed)
    """
    copies = [programs.start(f"p{number}", source, EXECUTOR=executor) for number in range(4)]
    for number in range(4):
        programs.wait_for(f"p{number}.ready")
    programs.tell("begin")
    ran = [int(programs.output(program).removeprefix("True ")) for program in copies]
    assert sum(ran) == programs.count("runs") == 40
    assert min(ran) >= 3


def test_who_waits_for_another_program_needs_no_worker_of_its_own(programs: Programs) -> None:
    """A value that another program computes is there when it is, however busy this one's workers are."""
    owner = programs.start("owner", SLOW)
    programs.wait_for("owner.begun")
    source = """
    @cached_job(code="none", executor="multiprocessing", max_workers=1)
    def slow(x):
        tell(f"begun{x}")
        wait_for("go_on" if x == 1 else "end")
        return {"x": x, "by": NAME}

    busy = [slow.submit(x) for x in (2, 3)]
    waiting = slow.submit(1)
    tell("asked")
    print(waiting.result(60)["by"])
    tell("answered")
    print([future.result(60)["x"] for future in busy])
    """
    other = programs.start("other", source)
    programs.wait_for("other.asked")
    programs.wait_for("other.begun2")
    programs.tell("go_on")
    assert programs.output(owner) == "owner"
    programs.wait_for("other.answered")
    programs.tell("end")
    assert programs.output(other) == "owner\n[2, 3]"


def test_what_waits_behind_a_long_job_of_one_program_is_free_for_others(programs: Programs) -> None:
    """Jobs of a function that has been quick so far go to a worker together, and are taken back when one is not."""
    source = """
    @cached_job(code="none", executor="multiprocessing", max_workers=1)
    def job(x):
        count(f"job{x}")
        if x == 100:
            tell("begun")
            wait_for("go_on")
        return x

    if NAME == "one":
        list(job.map(range(50)))
        futures = [job.submit(x) for x in range(100, 110)]
        print([future.result(60) for future in futures])
    else:
        print(list(job.map(range(101, 110))))
    """
    one = programs.start("one", source)
    programs.wait_for("one.begun")
    assert programs.output(programs.start("two", source)) == str(list(range(101, 110)))
    programs.tell("go_on")
    assert programs.output(one) == str(list(range(100, 110)))
    assert [programs.count(f"job{x}") for x in range(100, 110)] == [1] * 10
