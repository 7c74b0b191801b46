from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.shell import STUDY, Shell


@pytest.fixture(scope="session")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a study has run."""
    folder = tmp_path_factory.mktemp("study")
    Shell(folder).program(STUDY)
    return folder


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    return Shell(tmp_path)


@pytest.fixture
def study(shell: Shell, studied: Path) -> Shell:
    """A shell in a folder with the cache of a study, whose code is gone."""
    shutil.copytree(studied, shell.folder, dirs_exist_ok=True)
    return shell
