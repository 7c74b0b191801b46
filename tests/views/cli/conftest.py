from __future__ import annotations

from pathlib import Path

import pytest

from tests.shell import STUDY, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in an empty folder."""
    return Shell(tmp_path)


@pytest.fixture
def study(shell: Shell) -> Shell:
    """A shell in a folder with the cache of a study."""
    shell.program(STUDY)
    return shell
