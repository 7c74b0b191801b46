"""A temporary cache and a call counter for tests of cached functions."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from .._options import override_cache_directory
from .._stores import end_stores

__all__ = ["CallCounter", "in_threads", "kept_cache", "temporary_cache"]


LONGEST_COMMIT: Final = 10.0
"""Seconds for which a commit may continue after its temporary cache has ended."""

R = TypeVar("R")


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """Put all caches in a temporary folder, which is removed at the end.

    >>> from bencher_job import cached_job
    >>> @cached_job
    ... def double(x):
    ...     return 2 * x
    >>> with temporary_cache():
    ...     before, _, after = double.is_cached(4), double(4), double.is_cached(4)
    >>> before, after
    (False, True)
    """
    folder = tempfile.mkdtemp(prefix="bencher_job-")
    try:
        with kept_cache(folder) as directory:
            yield directory
    finally:
        _remove(folder)


@contextmanager
def kept_cache(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Put all caches in one folder, whatever their options, and leave it there at the end.

    >>> import tempfile
    >>> from bencher_job import cached_job
    >>> with tempfile.TemporaryDirectory() as folder, kept_cache(folder) as directory:
    ...     cached_job(cache_dir="elsewhere")(abs)(-3), [path.name for path in directory.iterdir()]
    (3, ['fcache'])
    """
    with override_cache_directory(folder) as directory:
        try:
            yield directory
        finally:
            end_stores(directory)


def _remove(folder: str) -> None:
    """Remove a folder, retrying while a commit that had started still writes to it."""
    patience = time.monotonic() + LONGEST_COMMIT
    while True:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not os.path.lexists(folder):
                return
        except OSError:
            if time.monotonic() > patience:
                raise
        else:
            return
        time.sleep(0.01)


class CallCounter:
    """Counts calls across all threads and processes by the length of a file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     counter = CallCounter(folder + "/calls")
    ...     counter.tick()
    ...     counter.count
    1
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def tick(self) -> None:
        """Count one call."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)

    @property
    def count(self) -> int:
        """The number of calls."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0


def in_threads(number: int, function: Callable[[int], R]) -> list[R]:
    """Call a function with 0, 1, 2 and so on in as many threads. Return the results, or raise an error."""
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(function, range(number)))
