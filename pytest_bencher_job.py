"""The pytest plugin of bencher_job: the fixture `job_cache` and the option `--job-cache`.

It stands beside the package and imports it when a test first needs a cache, because pytest imports the plugins of all
installed packages whenever it starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["job_cache", "pytest_addoption", "pytest_collection_modifyitems"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--job-cache`."""
    parser.getgroup("bencher_job").addoption(
        "--job-cache",
        choices=("off", "fresh", "keep"),
        help="what functions of bencher_job remember in all tests: nothing, what the same test has computed, or what "
        "earlier runs of pytest have computed too (default: fresh in tests with the fixture job_cache, others use "
        "their own caches)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give all tests the fixture if the option is given."""
    if config.getoption("job_cache") is not None:
        for item in items:
            names = getattr(item, "fixturenames", None)
            if names is not None and "job_cache" not in names:
                names.insert(0, "job_cache")


@pytest.fixture
def job_cache(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of all caches in this test: empty, unless `--job-cache` says otherwise."""
    from bencher_job.testing import kept_cache, temporary_cache

    mode = pytestconfig.getoption("job_cache") or "fresh"
    if mode == "keep":
        if getattr(pytestconfig, "cache", None) is None:
            raise pytest.UsageError(
                "--job-cache=keep keeps results in pytest's cache. Leave out -p no:cacheprovider."
            )
        with kept_cache(pytestconfig.cache.mkdir("job_cache")) as directory:
            yield directory
        return
    if mode == "off":
        monkeypatch.setenv("BENCHER_JOB", "off")
    with temporary_cache() as directory:
        yield directory
