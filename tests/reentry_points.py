"""A program that calls the library at each line of the library, as a signal handler or a `__del__` may.

    python reentry_points.py FOLDER EXECUTOR OPERATION CALL FIRST STEP

For each n from FIRST on, in steps: at the n-th line that the main thread executes of the library, or of what it waits
with, while it does an operation, it does a call as well, as if it had been interrupted there. Both must end, with the
right value or with an error of the library. It ends with the first n that isn't reached. Where nothing goes on any
more, the stacks of all threads are printed.
"""

from __future__ import annotations

import concurrent.futures
import faulthandler
import itertools
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import bencher_job
from bencher_job import BencherJobError, CacheWarning, cached_job

FOLLOWED = (str(Path(bencher_job.__file__).parent), concurrent.futures.__path__[0], threading.__file__)
PATIENCE = 60.0

numbers = itertools.count(1)


class Interruption:
    """Does something at the n-th line of an operation of the main thread."""

    def __init__(self, at: int, call: Callable[[], object]) -> None:
        self._left = at
        self._call = call
        self.place: str | None = None

    def __enter__(self) -> None:
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(FOLLOWED):
            return None
        if event == "exception":
            return self._trace
        self._left -= 1
        if not self._left:
            sys.settrace(None)
            self.place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            self._call()
            return None
        return self._trace


def main(folder: str, executor: str, operation: str, call: str, first: int, step: int) -> None:
    """Do a call at each line of an operation."""
    warnings.simplefilter("ignore", CacheWarning)
    options: dict[str, Any] = {} if executor == "SERIAL" else {"max_workers": 2}
    function = cached_job(executor=executor, cache_dir=folder, **options)(abs)
    other = cached_job(executor=executor, cache_dir=folder, tag="other", **options)(abs)
    now = 0  # what the operation asks for

    def fresh() -> int:
        return next(numbers)

    def known() -> int:
        """Have a value kept that memory does not hold."""
        value = fresh()
        function(-value)
        function.cache.close()
        return value

    def reopened() -> int:
        function.cache.close()
        return fresh()

    def hurried() -> int:
        value = fresh()
        function.submit(-value)
        return value

    def asked_twice() -> object:
        function(-now)
        return function(-now)

    operations: dict[str, tuple[Callable[[], int], Callable[[], object]]] = {
        "miss": (fresh, lambda: function(-now)),
        "hit": (known, asked_twice),
        "open": (reopened, lambda: function(-now)),
        "map": (fresh, lambda: min(function.map([-now, -next(numbers)]))),
        "wait": (hurried, lambda: concurrent.futures.wait([function.submit(-now)]) and now),
        "close": (hurried, lambda: function.cache.close() or now),
    }
    calls: dict[str, Callable[[], object]] = {
        "call": lambda: check(function(-(value := next(numbers))), value),
        "same": lambda: check(function(-now), now),
        "other": lambda: check(other.submit(-(value := next(numbers))).result(), value),
        "close": function.cache.close,
        "wait": function.cache.wait,
        "map": lambda: check(next(function.map([-(value := next(numbers))])), value),
        "info": function.cache.info,
    }

    def check(given: object, expected: int) -> None:
        assert given == expected, (given, expected)

    def do_call() -> None:
        try:
            calls[call]()
        except BencherJobError as refusal:
            if call == "close" or not ("interrupted" in str(refusal) or call == "same"):
                raise

    function(-next(numbers)), other(-next(numbers))  # what is opened and started once
    prepare, act = operations[operation]
    at = first
    while True:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        now = prepare()
        interruption = Interruption(at, do_call)
        with interruption:
            given = act()
        if interruption.place is None:
            break
        check(given, now)
        at += step
    function.cache.close()
    other.cache.close()
    faulthandler.cancel_dump_traceback_later()
    print(at)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
