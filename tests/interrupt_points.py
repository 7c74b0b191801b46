"""A program that is interrupted at each call of the library's functions, and looks each time whether all goes on.

    python interrupt_points.py FOLDER EXECUTOR NUMBER STEP

For each n from 1 on, in steps: `KeyboardInterrupt` is raised at the n-th call that the main thread makes of one of the
library's functions while it asks for so many new jobs. Another thread then asks for the same ones and must be answered.
It ends with the first n that isn't reached. The place after which nobody was answered, or a lease was left, is printed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import bencher_job
from bencher_job import cached_job

OURS = str(Path(bencher_job.__file__).parent)
PATIENCE = 60.0


def interrupted(work: Callable[[], object], at: int) -> str | None:
    """Do some work, interrupt it at one of its calls, and tell which; None where there were fewer."""
    calls = 0
    place = None

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls, place
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            calls += 1
            if calls == at:
                sys.setprofile(None)
                place = f"{at}: {frame.f_code.co_filename}:{frame.f_lineno}"
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


def is_answered(work: Callable[[], object]) -> bool:
    """Whether another thread gets an answer."""
    asking = threading.Thread(target=work, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return not asking.is_alive()


def is_true_in_time(holds: Callable[[], bool]) -> bool:
    """Whether something becomes true."""
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def main(folder: str, executor: str, number: int, step: int) -> None:
    """Interrupt at each call, and print where nobody was answered afterwards."""
    options = {} if executor == "SERIAL" else {"max_workers": 1}
    function = cached_job(executor=executor, cache_dir=folder, **options)(abs)
    function(-1)  # what is opened and started once
    at = 1
    while True:
        first = -1 - at * number

        def ask(first: int = first) -> object:
            return (
                function(first) if number == 1 else list(function.map(range(first - number + 1, first + 1)))
            )

        place = interrupted(ask, at)
        if place is None:
            break
        # In line nothing goes on that a lease could be of; elsewhere its job may, until it has answered.
        leases, key = function.cache.cache.leases, function.key(first)
        is_leased = executor == "SERIAL" and leases.owner_of(key) is not None
        is_without_answer = not is_answered(ask)
        if is_leased or is_without_answer or not is_true_in_time(lambda: leases.owner_of(key) is None):
            print("no answer" if is_without_answer else "a lease is left", place)
            sys.stdout.flush()
            os._exit(1)
        at += step
    function.cache.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
