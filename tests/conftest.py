from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bencher_job.testing import CallCounter, temporary_cache


@pytest.fixture(autouse=True)
def cache_folder() -> Iterator[Path]:
    """A cache directory of the test's own, where a test doesn't name one."""
    with temporary_cache() as directory:
        yield directory


@pytest.fixture
def counter(tmp_path: Path) -> CallCounter:
    """Counts calls in all processes."""
    return CallCounter(tmp_path / "calls")
