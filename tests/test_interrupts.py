"""Ctrl-C at any moment leaves nothing behind that somebody would wait for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import bencher_job
from bencher_job import CachedFunction, Executors, cached_job

# An interrupt inside a finalizer is printed by Python and raised to nobody.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OURS = str(Path(bencher_job.__file__).parent)
PATIENCE = 60.0


def interrupted(work: Callable[[], object], at: int) -> str | None:
    """Do some work, raise `KeyboardInterrupt` at one of the calls of our functions, and tell where that was."""
    calls = 0
    place = None

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls, place
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            calls += 1
            if calls == at:
                sys.setprofile(None)
                place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt

    sys.setprofile(count)
    try:
        work()
    except KeyboardInterrupt:
        if place is None:
            raise
    finally:
        sys.setprofile(None)
    return place


def answers(work: Callable[[], object]) -> bool:
    """Whether another thread gets an answer."""
    asking = threading.Thread(target=work, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return not asking.is_alive()


@pytest.mark.parametrize("executor", [Executors.SERIAL, Executors.MULTIPROCESSING])
def test_who_asks_after_an_interrupt_at_any_call_is_answered(executor: Executors, tmp_path: Path) -> None:
    """Neither a lock, nor a claim, nor a job in flight stays with the thread that was interrupted."""
    function: CachedFunction[[int], int] = cached_job(executor=executor, cache_dir=tmp_path)(abs)
    function(-1)  # what is opened and started once
    for at in range(1, 2000):
        place = interrupted(lambda: function(-at - 1), at)
        if place is None:
            break
        assert answers(lambda: function(-at - 1)), place
    else:
        pytest.fail("the work never came to its end")
    function.cache.close()


def test_a_bulk_of_jobs_that_was_interrupted_can_be_asked_for_again(tmp_path: Path) -> None:
    """What was claimed for jobs that were not begun is claimed no longer."""
    function: CachedFunction[[int], int] = cached_job(
        executor=Executors.MULTIPROCESSING, max_workers=1, cache_dir=tmp_path
    )(abs)
    function(-1)
    for at in range(1, 3000, 3):
        numbers = range(-10 * at - 3, -10 * at)
        place = interrupted(lambda: list(function.map(numbers)), at)
        if place is None:
            break
        assert answers(lambda: list(function.map(numbers))), place
    else:
        pytest.fail("the work never came to its end")
    function.cache.close()
