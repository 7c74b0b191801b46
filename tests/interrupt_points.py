"""A program that is interrupted at each step of the library, and checks each time that nothing is left behind.

    python interrupt_points.py FOLDER EXECUTOR OPERATION FIRST STEP

For each n from FIRST on, in steps: `KeyboardInterrupt` is raised at the n-th call or return of one of the library's
functions, or of those that it waits with, in the main thread while it does an operation. Then another thread must be
answered, both for the same keys and for other ones, and must be able to fork; no lease may be left, no job may be
waited for, and no figure may be negative. The program ends with the first n that isn't reached, and prints it.
Otherwise it prints what was left.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import itertools
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import bencher_job
from bencher_job import CacheWarning, cached_job

FOLLOWED = (str(Path(bencher_job.__file__).parent), concurrent.futures.__path__[0], threading.__file__)
PATIENCE = 60.0
MANY = 3

numbers = itertools.count(1, 2)


def positive(x: int) -> int:
    """Return a number without its sign; slowly enough for another caller to join, if it is even."""
    if x % 2 == 0:
        time.sleep(0.01)
    return abs(x)


def interrupted(work: Callable[[], object], at: int) -> str | None:
    """Do some work, interrupt it at one of its calls and returns, and say at which; None if there were fewer."""
    events = 0
    place = None

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal events, place
        if event in {"call", "return"} and frame.f_code.co_filename.startswith(FOLLOWED):
            events += 1
            if events == at:
                sys.setprofile(None)
                code = frame.f_code
                place = f"{at}: {event} of {code.co_name}, {code.co_filename}:{frame.f_lineno}"
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


def is_true_in_time(holds: Callable[[], bool]) -> bool:
    """Whether something becomes true."""
    until = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def ends(work: Callable[[], object]) -> bool:
    """Whether another thread comes to the end of some work."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


def fork() -> None:
    """Fork a child that ends at once."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


class Operations:
    """What is interrupted, and what is checked afterwards.

    Attributes:
        now: the arguments that the operation asks for.
    """

    def __init__(self, folder: str, executor: str) -> None:
        options: dict[str, Any] = {} if executor == "SERIAL" else {"max_workers": 1}
        self.function: Any = cached_job(executor=executor, cache_dir=folder, **options)(positive)
        self.now: list[int] = []
        self.joining: threading.Thread | None = None
        self.is_over = False
        self.all: dict[str, tuple[Callable[[], list[int]], Callable[[], object]]] = {
            "miss": (self.fresh, lambda: self.function(self.now[0])),
            "joined": (self.joined, lambda: self.function(self.now[0])),
            "submit": (self.fresh, lambda: self.function.submit(self.now[0]).result()),
            "hit": (self.stored, lambda: [self.function(self.now[0]) for _ in range(4)]),
            "reopen": (self.reopened, lambda: self.function(self.now[0])),
            "map": (self.several, lambda: list(self.function.map(self.now))),
            "sweep": (self.several, lambda: self.function.sweep({"x": self.now}).run(progress=False)),
            "refresh": (self.stored, lambda: self.function.refresh(self.now[0])),
            "close": (self.submitted, lambda: self.function.cache.close()),
            "wait": (self.submitted, lambda: self.function.cache.wait()),
            "explain": (
                self.stored,
                lambda: [str(self.function.explain(x)) for x in (self.now[0], -next(numbers))],
            ),
            "clear": (self.stored, lambda: self.function.cache.clear_cache()),
            "forget": (self.stored, lambda: self.function.forget(self.now[0])),
            "info": (self.stored, lambda: self.function.cache.info()),
        }

    def fresh(self) -> list[int]:
        return [-next(numbers)]

    def joined(self) -> list[int]:
        """Let another thread join the job as soon as it runs."""
        argument = -1 - next(numbers)
        key = self.function.key(argument)
        self.is_over = False

        def join() -> None:
            while not self.function.cache.is_in_flight(key):
                if self.is_over:
                    return
            with contextlib.suppress(KeyboardInterrupt):  # of the thread that ran the job
                self.function(argument)

        self.joining = threading.Thread(target=join, daemon=True)
        self.joining.start()
        return [argument]

    def several(self) -> list[int]:
        return [-next(numbers) for _ in range(MANY)]

    def stored(self) -> list[int]:
        arguments = self.fresh()
        self.function(arguments[0])
        return arguments

    def reopened(self) -> list[int]:
        arguments = self.stored()
        self.function.cache.close()
        return arguments

    def submitted(self) -> list[int]:
        arguments = self.several()
        for argument in arguments:
            self.function.submit(argument)
        return arguments

    def what_is_left(self, *, in_line: bool) -> str:
        """Say what an interrupt has left behind; empty if nothing."""
        self.is_over = True
        if self.joining is not None:
            self.joining.join(PATIENCE)
            if self.joining.is_alive():
                return "a caller that has joined gets no answer"
        keys = [self.function.key(argument) for argument in self.now]

        def is_leased() -> bool:
            leases = self.function.cache.cache.leases
            return any(leases.owner_of(key) is not None for key in keys)

        if in_line and is_leased():  # elsewhere the job may go on until it has ended
            return "a lease is left"
        if not ends(lambda: [self.function(argument) for argument in (*self.now, -next(numbers))]):
            return "no answer"
        if not is_true_in_time(lambda: not is_leased()):
            return "a lease is left"
        if not ends(self.function.cache.wait):
            return "a job is waited for"
        if not ends(fork):
            return "a fork waits"
        info = self.function.cache.info()
        self.function.cache.clear_cache()  # so that the operation takes as many steps the next time
        figures = info.submitted, info.computed, info.failed, info.joined, info.hits
        return f"negative figures: {info}" if min(figures) < 0 else ""


def main(folder: str, executor: str, operation: str, first: int, step: int) -> None:
    """Interrupt an operation at each of its events."""
    warnings.simplefilter("ignore", CacheWarning)
    operations = Operations(folder, executor)
    operations.function(-next(numbers))  # what is opened and started once
    prepare, act = operations.all[operation]
    at = first
    while True:
        operations.now = prepare()
        place = interrupted(act, at)
        if place is None:
            break
        left = operations.what_is_left(in_line=executor == "SERIAL")
        if left:
            print(left, "after", place, flush=True)
            faulthandler.dump_traceback()
            os._exit(1)
        at += step
    operations.function.cache.close()
    print(at)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
