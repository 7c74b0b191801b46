"""Measures how long it takes to tell whether two calls are the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import OURS, Figure, figures, seconds_per_call

SCALE, OFFSET = 2.0, 1.0


def shifted(value: float) -> float:
    return value + OFFSET


def body(x: int, y: float = 2.0, name: str = "abc") -> dict[str, Any]:
    return {"result": x * y, "name": name}


def identity(value: Any) -> Any:
    return value


def three_globals(value: float) -> float:
    return shifted(value) * SCALE + OFFSET


def bench_keys(_folder: Path) -> Iterator[Figure]:
    """The key of a call, beside joblib's hash of the same arguments; and whether the code is still the same."""
    import joblib
    import wrapt

    import bencher_job
    from bencher_job._keys.fingerprint import CodeTracker
    from bencher_job._keys.key import JobKeys

    keys, tracker = JobKeys(body), CodeTracker(three_globals)
    calls = {
        OURS: lambda number: keys.key((number,), {"y": 2.5, "name": "abc"}),
        "joblib": lambda number: joblib.hash({"x": number, "y": 2.5, "name": "abc"}),
        "wrapt, an empty call": wrapt.decorator(lambda wrapped, instance, args, kwargs: None)(body),
    }
    yield from figures("key of three small arguments", seconds_per_call(calls, [range(300)] * 31))
    unchanged = {OURS: lambda _: tracker.current()}
    yield from figures(
        "unchanged? of a function with three globals", seconds_per_call(unchanged, [range(1000)] * 31)
    )

    key = bencher_job.cached_job(identity).key
    for work, value in _large_values():
        calls = {OURS: lambda _, value=value: key(value), "joblib": lambda _, value=value: joblib.hash(value)}
        yield from figures(f"key of {work}", seconds_per_call(calls, [range(1)] * 11))


def _large_values() -> Iterator[tuple[str, Any]]:
    import numpy as np
    import pandas as pd

    numbers = np.arange(100_000)
    yield "an 80 MB float array", np.random.default_rng(1).random(10_000_000)
    for dtype in ("object", "str"):
        texts = pd.Series([f"text {number % 5000}" for number in numbers], dtype=dtype)
        yield (
            f"a frame of 100,000 rows, text as {dtype}",
            pd.DataFrame({"number": numbers, "value": numbers * 0.5, "text": texts}),
        )
    yield "a list of 100,000 ints", list(range(100_000))
    yield "a list of 100,000 texts", [f"text {number}" for number in range(100_000)]
    yield "a dict of 10,000 items", {f"key {number}": number for number in range(10_000)}
