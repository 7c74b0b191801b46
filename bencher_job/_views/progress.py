"""Knows the bar that a sweep shows while it runs: done, hits, failed, time left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from .._errors import BencherJobError

__all__ = ["Progress", "progress_bar"]


class Progress(Protocol):
    """Is told of each job that is done."""

    def advance(self, *, hit: bool, failed: bool) -> None:
        """Count a job."""


class _Silent:
    def advance(self, *, hit: bool, failed: bool) -> None:
        """Show nothing."""


@contextmanager
def progress_bar(name: str, total: int, *, show: bool | None) -> Iterator[Progress]:
    """Show a bar meanwhile, by default where somebody watches: on a terminal and in a notebook.

    Raises:
        BencherJobError: when a bar is asked for and rich, which draws it, is not installed.
    """
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    if not (watched if show is None else show):
        yield _Silent()
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
    except ImportError as error:
        if show is None:
            yield _Silent()
            return
        raise BencherJobError(
            "progress=True needs rich, which is not installed. Run: pip install 'bencher_job[progress]'"
        ) from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[hits]} hits, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as drawn:
        task = drawn.add_task(name, total=total, hits=0, failed=0)

        class Bar:
            hits = failures = 0

            def advance(self, *, hit: bool, failed: bool) -> None:
                self.hits += hit
                self.failures += failed
                drawn.update(task, advance=1, hits=self.hits, failed=self.failures)

        yield Bar()
