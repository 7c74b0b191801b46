"""Ctrl-C at any moment leaves nothing behind that somebody would wait for."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import Sample
from tests.environment import unmeasured

PROGRAM = Path(__file__).parent / "interrupt_points.py"


@pytest.mark.parametrize(
    ("executor", "operation", "step"),
    [
        ("SERIAL", "miss", 4),
        ("SERIAL", "joined", 6),
        ("SERIAL", "submit", 14),
        ("SERIAL", "hit", 4),
        ("SERIAL", "reopen", 22),
        ("SERIAL", "map", 58),
        ("SERIAL", "sweep", 122),
        ("SERIAL", "refresh", 22),
        ("SERIAL", "close", 10),
        ("SERIAL", "explain", 62),
        ("SERIAL", "clear", 22),
        ("SERIAL", "forget", 22),
        ("SERIAL", "info", 14),
        ("THREADS", "miss", 14),
        ("THREADS", "map", 58),
        ("THREADS", "wait", 2),
        ("THREADS", "close", 10),
        ("MULTIPROCESSING", "miss", 10),
        ("MULTIPROCESSING", "map", 62),
        ("MULTIPROCESSING", "wait", 4),
        ("MULTIPROCESSING", "close", 14),
    ],
)
def test_an_interrupt_at_any_call_or_return_leaves_nothing_behind(
    tmp_path: Path, sample: Sample, executor: str, operation: str, step: int
) -> None:
    """Neither a lock, nor a lease, nor a running job stays with the thread that was interrupted."""
    run = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, executor, operation, *map(str, sample(step))],
        capture_output=True,
        text=True,
        env={**unmeasured(), "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_an_interrupt_of_one_who_waits_in_a_map_keeps_no_lock(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
            import sys, threading
            from concurrent.futures import _base
            from bencher_job import cached_job

            go_on = threading.Event()
            entered = _base._AcquireFutures.__enter__.__code__

            @cached_job(executor="threads", code="none")
            def slow(x):
                return go_on.wait(60)

            def interrupt(frame, event, _arg):
                if event == "return" and frame.f_code is entered:
                    raise KeyboardInterrupt
                return interrupt

            values = slow.map([1, 2])
            threading.Timer(0.5, go_on.set).start()
            sys.settrace(interrupt)
            try:
                next(values)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            go_on.set()
            slow.cache.close()
            print(slow(1))
        """)
    )
    run = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**unmeasured(), "PYTHONPATH": str(Path(__file__).parents[1])},
        timeout=20,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "True\n"), run.stderr


def test_an_interrupt_before_the_first_job_of_a_group_is_given_out_leaves_nothing_to_wait_for(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
            import os, sys, threading
            from bencher_job import cached_job
            from bencher_job._coordinator.engines import finish_at_exit

            @cached_job(executor="threads", code="none")
            def same(x):
                return x

            def interrupt(frame, event, _arg):
                if event == "return" and frame.f_code is finish_at_exit.__code__:
                    raise KeyboardInterrupt
                return interrupt

            sys.settrace(interrupt)
            try:
                same(1)
            except KeyboardInterrupt:
                sys.settrace(None)
                print("interrupted")
            print(same(1))
            ended = threading.Thread(target=same.cache.wait, daemon=True)
            ended.start()
            ended.join(60)
            print("waits" if ended.is_alive() else "done", flush=True)
            os._exit(0)  # as the end of the program would wait, too
        """)
    )
    run = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        env={
            **unmeasured(),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "BENCHER_JOB_CACHE_DIR": str(tmp_path),
        },
        timeout=60,
        check=False,
    )
    assert (run.stdout, run.returncode) == ("interrupted\n1\ndone\n", 0), run.stderr
