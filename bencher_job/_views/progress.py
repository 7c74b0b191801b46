"""The progress bar of a sweep, in a terminal or a notebook."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from .._errors import BencherJobError
from .._record import Plan
from .._text import counted, roughly

if TYPE_CHECKING:
    import rich.progress


_log = logging.getLogger(__name__)

NOTEBOOK_PAUSE: Final = 0.2
"""Seconds between two updates of the bar in a notebook, since each is a message to the browser."""


class Progress(Protocol):
    """A counter of finished jobs."""

    def advance(self, *, hit: bool, failed: bool) -> None:
        """Count a job."""


class Silent:
    """Shows nothing, and counts failures."""

    def __init__(self) -> None:
        self.failed = 0

    def advance(self, *, hit: bool, failed: bool) -> None:
        """Count a job."""
        self.failed += failed and not hit


def is_shown(show: bool | None = None) -> bool:
    """Whether a bar is shown: as asked, or by default in a terminal or a notebook."""
    return (sys.stderr.isatty() or _is_in_notebook()) if show is None else show


@contextmanager
def progress_bar(
    name: str, total: int, *, show: bool | None = None, plan: Callable[[], Plan | None] = lambda: None
) -> Iterator[Progress]:
    """Show a plan and a bar, by default in a terminal or a notebook. Elsewhere say if jobs have failed.

    The plan is only made if it is shown.

    Raises:
        BencherJobError: when `show` is true and rich, which draws the bar, is not installed.
    """
    in_notebook = _is_in_notebook()
    drawn = None
    try:
        drawn = _drawing(in_notebook=in_notebook) if is_shown(show) else None
    except ImportError as error:
        if show:
            raise BencherJobError(
                "progress=True needs rich, which is not installed. Run: pip install 'bencher_job[progress]'"
            ) from error
    if drawn is None:
        silent = Silent()
        yield silent
        if silent.failed:
            jobs = f"{silent.failed:,} of {counted(total, 'job')} of {name}"
            _log.warning("%s failed", jobs)
            if show is None:
                print(f"{jobs} failed; the sweep's `failures` has the errors", file=sys.stderr)
        return
    made = plan()
    if made is not None:
        drawn.console.print(str(made), highlight=False)
    bar = _Bar(drawn, name, total, made)
    with _shown_in_cell(drawn, bar) if in_notebook else drawn:
        yield bar
        bar.finish()


def _is_in_notebook() -> bool:
    """Whether this runs in a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def _drawing(*, in_notebook: bool) -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}", style="progress.download"),
        TextColumn("{task.fields[hits]}", style="green"),
        TextColumn("{task.fields[failed]}", style="red"),
        TextColumn("{task.fields[left]}", style="cyan"),
    )
    # In a notebook rich would draw with a widget, which needs another package. HTML output needs none.
    return Progress(*columns, console=Console(stderr=True), auto_refresh=not in_notebook)


class _Bar:
    """Counts jobs and estimates the remaining time."""

    def __init__(self, drawn: rich.progress.Progress, name: str, total: int, plan: Plan | None) -> None:
        self._drawn = drawn
        self._plan = plan
        self._total = total
        self._done = self._hits = self._failed = 0
        self._begun = time.monotonic()
        self._task = drawn.add_task(name, total=total, hits="", failed="", left="")
        self.redraw: Callable[[], None] = lambda: None

    def advance(self, *, hit: bool, failed: bool) -> None:
        """Count a job."""
        self._done += 1
        self._hits += hit
        self._failed += failed
        left = self._left()
        self._drawn.update(
            self._task,
            advance=1,
            hits=counted(self._hits, "hit"),
            failed=f"{self._failed:,} failed" if self._failed else "",
            left="" if left is None else f"{roughly(left)} left",
        )
        self.redraw()

    def finish(self) -> None:
        """Show the total time."""
        self._drawn.update(self._task, left=f"in {roughly(self._elapsed)}")

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _left(self) -> float | None:
        """Estimate the remaining seconds from the jobs that ran, or from the plan before the first has."""
        computed = self._done - self._hits
        planned = self._total - self._done if self._plan is None else self._plan.misses - computed
        if computed > 0:
            return max(0.0, self._elapsed / computed * min(planned, self._total - self._done))
        duration = None if self._plan is None else self._plan.duration
        return None if duration is None else max(0.0, duration - self._elapsed)


@contextmanager
def _shown_in_cell(drawn: rich.progress.Progress, bar: _Bar) -> Iterator[None]:
    """Show a bar in the output of a notebook's cell, replaced at each update."""
    from IPython.display import display

    handle = display(drawn, display_id=True)
    shown = time.monotonic()

    def redraw() -> None:
        nonlocal shown
        if time.monotonic() - shown >= NOTEBOOK_PAUSE:
            shown = time.monotonic()
            handle.update(drawn)

    bar.redraw = redraw
    try:
        yield
    finally:
        handle.update(drawn)
