from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.shell import Shell
from tests.views.page.caches import fill, study
from tests.views.page.serving import Served, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("starlette", reason="starlette, of the extra web, is not installed")
pytest.importorskip("uvicorn", reason="uvicorn, of the extra web, is not installed")

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    return Shell(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache directory with the store of a study."""
    fill(tmp_path / "cachedir" / "fcache", *study())
    return tmp_path / "cachedir"


@pytest.fixture
def served(cache: Path) -> Iterator[Served]:
    """The page over the cache of a study, and a session with it."""
    with serving(cache) as server:
        server.begin()
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same for tests that change nothing, one for a module."""
    directory = tmp_path_factory.mktemp("shared") / "cachedir"
    fill(directory / "fcache", *study())
    with serving(directory) as server:
        server.begin()
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium without a window and with a new profile.

    It goes with its module: as long as it is there, Playwright's event loop counts as running in this thread.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = (
        os.environ.get("CHROMIUM") or next(filter(os.path.exists, CHROMIUM), None) or shutil.which("chromium")
    )
    if path is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=OPTIONS, headless=True)
        yield chromium
        chromium.close()
