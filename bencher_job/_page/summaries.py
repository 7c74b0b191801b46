"""Answer for many rows at once: groups with mean and spread, CSV, and the jobs that run now."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from .._processes import Process
from .._query import ARGUMENTS
from .._stores import Leases, LeasesUnavailable
from .._text import arguments_text
from .._views.summaries import Cell
from .listing import RESULTS, Listing, to_browser

__all__ = ["csv_lines", "groups_of", "running_jobs"]


MOST_GROUPS: Final = 2_000
ROWS_AT_ONCE: Final = 2_000
MOST_RUNNING: Final = 200


def groups_of(listing: Listing, keys: Sequence[str], by: Sequence[str], value: str) -> dict[str, Any]:
    """Group rows by the cells of some columns: `cells`, `count`, and of a value `mean`, `sd`, `low` and `high`.

    The spread `sd` is the sample standard deviation. Rows whose value isn't a finite number only count in `count`.

    Raises:
        StoreFailure: when the store can't be read.
    """
    found: dict[tuple[tuple[type, Cell], ...], list[Cell]] = {}
    for *cells, cell in listing.cells(keys, [*by, value]).values():
        found.setdefault(tuple((type(cell), cell) for cell in cells), []).append(cell)
    groups = [
        {"cells": [to_browser(cell) for _, cell in group], "count": len(values), **_figures(values)}
        for group, values in list(found.items())[:MOST_GROUPS]
    ]
    return {"groups": groups, "total": len(found), "entries": len(keys)}


def _figures(cells: Sequence[Cell]) -> dict[str, float | None]:
    numbers = [
        float(cell) for cell in cells if isinstance(cell, int | float) and abs(cell) <= sys.float_info.max
    ]
    if not numbers:
        return dict.fromkeys(("mean", "sd", "low", "high"))
    mean = math.fsum(number / len(numbers) for number in numbers)
    square = (
        math.fsum((number - mean) ** 2 / (len(numbers) - 1) for number in numbers) if numbers[1:] else None
    )
    sd = None if square is None or square > sys.float_info.max else math.sqrt(square)
    return {"mean": mean, "sd": sd, "low": min(numbers), "high": max(numbers)}


def csv_lines(listing: Listing, keys: Sequence[str], columns: Sequence[str]) -> Iterator[bytes]:
    """Write rows as CSV with a head, some at a time; gaps are empty.

    Raises:
        StoreFailure: when the store can't be read.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    names = [name.removeprefix(ARGUMENTS).removeprefix(RESULTS) for name in columns]
    writer.writerow(
        name if names.count(name) == 1 else column for name, column in zip(names, columns, strict=True)
    )
    for first in range(0, max(len(keys), 1), ROWS_AT_ONCE):
        writer.writerows(listing.cells(keys[first : first + ROWS_AT_ONCE], columns).values())
        yield text.getvalue().encode(errors="backslashreplace")  # half of a surrogate pair
        text.seek(0)
        text.truncate()


def running_jobs(leases: Leases) -> list[dict[str, Any]]:
    """Return what runs now: `key`, `function`, `call`, `host`, `pid`, `since`, and the `program` of this machine."""
    try:
        running = leases.running()[:MOST_RUNNING]
    except LeasesUnavailable:  # nobody has computed here, or the database is locked for a moment
        return []
    programs = {job.process: _program(job.process) for job in running}
    return [
        {
            "key": job.key,
            "function": job.function,
            "call": arguments_text(job.arguments),
            "host": job.process.host,
            "pid": job.process.pid,
            "since": job.since,
            "program": programs[job.process],
        }
        for job in running
    ]


def _program(process: Process) -> str:
    """Return the name of the script or module that a process of this machine runs, without its arguments."""
    if process.host != os.uname().nodename:
        return ""
    try:
        words = psutil.Process(process.pid).cmdline()[1:]
    except psutil.Error:
        return ""
    if words[:1] == ["-c"]:
        return ""
    if words[:1] == ["-m"]:
        return " ".join(words[:2])
    return next((Path(word).name for word in words if not word.startswith("-")), "")
