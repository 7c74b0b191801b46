"""What interrupts a thread inside of the library and calls it gets an answer or an error at once, and never waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import bencher_job
from tests.conftest import Sample
from tests.environment import unmeasured

PACKAGE = Path(bencher_job.__file__).parent
PROGRAM = Path(__file__).parent / "reentry_points.py"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a Python program with the library, for a minute or two at most."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**unmeasured(), "PYTHONPATH": str(PACKAGE.parent)},
        timeout=240,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    ("executor", "operation", "call", "step"),
    [
        ("SERIAL", "miss", "call", 10),
        ("SERIAL", "miss", "same", 10),
        ("SERIAL", "miss", "close", 10),
        ("SERIAL", "hit", "other", 18),
        ("SERIAL", "open", "call", 26),
        ("SERIAL", "close", "close", 10),
        ("THREADS", "wait", "call", 10),
        ("THREADS", "close", "same", 14),
        ("MULTIPROCESSING", "miss", "call", 22),
        ("MULTIPROCESSING", "miss", "close", 22),
        ("MULTIPROCESSING", "map", "same", 46),
        ("MULTIPROCESSING", "wait", "close", 18),
        ("MULTIPROCESSING", "close", "map", 18),
        ("MULTIPROCESSING", "map", "info", 46),
        ("MULTIPROCESSING", "miss", "wait", 22),
    ],
)
def test_a_call_at_any_line_of_the_library_ends(
    tmp_path: Path, sample: Sample, executor: str, operation: str, call: str, step: int
) -> None:
    ran = run(PROGRAM, tmp_path, executor, operation, call, *sample(step))
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 20  # points, or the operation was none


@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
def test_a_signal_handler_may_call_submit_and_close_at_any_time(tmp_path: Path, executor: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
            import faulthandler, itertools, signal, time, warnings
            from bencher_job import CacheWarning, cached_job

            warnings.simplefilter("ignore", CacheWarning)
            function = cached_job(executor={executor!r}, cache_dir={str(tmp_path)!r})(abs)
            numbers = itertools.count(1)
            handled = 0

            def handle(*_):
                global handled
                handled += 1
                value = next(numbers)
                assert function(-value) == value
                assert function.submit(-value).result() == value
                if handled % 20 == 0:
                    function.cache.close()
                signal.setitimer(signal.ITIMER_REAL, 0.0203)  # not before, or slow handlers would pile up

            if __name__ == "__main__":
                faulthandler.dump_traceback_later(90, exit=True)
                signal.signal(signal.SIGALRM, handle)
                signal.setitimer(signal.ITIMER_REAL, 0.0203)
                until = time.monotonic() + 1
                while handled < 50 or time.monotonic() < until:
                    value = next(numbers)
                    assert function(-value) == value
                signal.signal(signal.SIGALRM, signal.SIG_IGN)
                function.cache.close()
                print("ended")
        """)
    )
    ran = run(program)
    assert (ran.stdout, ran.returncode) == ("ended\n", 0), ran.stderr


@pytest.mark.parametrize("kind", ["__del__", "weakref"])
@pytest.mark.parametrize("executor", ["serial", "multiprocessing"])
def test_what_the_garbage_collector_calls_may_call_a_function(
    tmp_path: Path, executor: str, kind: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
            import faulthandler, gc, itertools, warnings, weakref
            from bencher_job import BencherJobError, CacheWarning, cached_job

            warnings.simplefilter("ignore", CacheWarning)
            function = cached_job(executor={executor!r}, cache_dir={str(tmp_path)!r})(abs)
            numbers = itertools.count(1)
            called, failed = [], []
            references = set()

            def call(*_):
                try:
                    value = next(numbers)
                    assert function.submit(-value).result() == value
                    called.append(value)
                except BencherJobError as error:  # on a thread that resolves futures
                    if "a callback of a future" not in str(error):
                        failed.append(error)
                except BaseException as error:
                    failed.append(error)

            class Cyclic:
                def __init__(self):
                    self.cycle = self
                    if {kind!r} == "weakref":
                        references.add(weakref.ref(self, call))

            if {kind!r} == "__del__":
                Cyclic.__del__ = call

            if __name__ == "__main__":
                faulthandler.dump_traceback_later(90, exit=True)
                for step in range(150):
                    Cyclic()
                    gc.set_threshold(1 + step * 3)  # collected somewhere else each time
                    value = next(numbers)
                    assert function(-value) == value
                function.cache.close()
                Cyclic()  # is left for the end of the program
                print(len(called) > 50, failed)
        """)
    )
    ran = run(program)
    assert (ran.stdout, ran.returncode) == ("True []\n", 0), ran.stderr


SIGTERM_PROGRAM = """
    import faulthandler, itertools, signal, sys
    from bencher_job import cached_job

    def square(x):
        return x * x

    function = cached_job(executor={executor!r}, cache_dir={folder!r})(square)

    def end(*_):
        function.cache.close()
        sys.exit(3)

    if __name__ == "__main__":
        faulthandler.dump_traceback_later(60, exit=True)
        signal.signal(signal.SIGTERM, end)
        pending = []
        for number in itertools.count({first}):
            if {executor!r} == "serial":
                function(number)
            else:
                pending = [future for future in pending if not future.done()] + [function.submit(number)]
                if number % 10 == 0:
                    pending[0].result()
            if number == {first} + 5:
                print("runs", flush=True)
"""


@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
def test_close_in_a_handler_of_sigterm_ends_the_program_in_order(tmp_path: Path, executor: str) -> None:
    program = tmp_path / "program.py"
    for attempt in range(3):
        program.write_text(
            textwrap.dedent(
                SIGTERM_PROGRAM.format(executor=executor, folder=str(tmp_path), first=attempt * 10**6)
            )
        )
        with subprocess.Popen(
            [sys.executable, program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**unmeasured(), "PYTHONPATH": str(PACKAGE.parent)},
        ) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == "runs\n"
            for _ in range(attempt * 5000):  # another moment each time
                os.getpid()
            running.send_signal(signal.SIGTERM)
            _, said = running.communicate(timeout=90)
        assert (running.returncode, said) == (3, "")
    function = bencher_job.cached_job(cache_dir=tmp_path)(abs)
    with function.cache as cache:
        assert cache.verify().is_clean
