"""Knows what any test of cached functions can use: a cache of its own, and a counter of calls in all processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .._settings import override_cache_directory
from .._stores import close_stores

__all__ = ["CallCounter", "temporary_cache"]


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """Let all caches lie in a folder of their own meanwhile, which is removed in the end.

    >>> from bencher_job import cached_job
    >>> @cached_job
    ... def double(x):
    ...     return 2 * x
    >>> with temporary_cache():
    ...     before, _, after = double.is_cached(4), double(4), double.is_cached(4)
    >>> before, after
    (False, True)
    """
    with (
        tempfile.TemporaryDirectory(prefix="bencher_job-") as folder,
        override_cache_directory(folder) as directory,
    ):
        try:
            yield directory
        finally:
            close_stores(directory)


class CallCounter:
    """Counts calls in all threads and processes together, by the length of a file.

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
        """How many calls there were."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0
