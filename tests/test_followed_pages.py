"""Who follows the pages on configs and on search literally gets what they say."""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.environment import unmeasured

PAGES = Path(__file__).parents[1] / "docs" / "how-to"


def blocks(page: str, kind: str) -> list[str]:
    text = (PAGES / page).read_text()
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[tuple[str, str]]:
    """The commands of a page with their outputs."""
    pairs = [
        re.match(r"(.*)\n((?s:.*))", part)
        for block in blocks(page, "console")
        for part in block.split("$ ")[1:]
    ]
    return [(pair[1], pair[2]) for pair in pairs if pair is not None]


@pytest.fixture
def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = {**unmeasured(), "PATH": path, "PYTHONPATH": str(PAGES.parents[1]), "PYTHONUNBUFFERED": "1"}
    known.pop("BENCHER_JOB_CACHE_DIR", None)
    return known


def test_a_study_with_configs(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "study.py").write_text(blocks("configs.md", "python")[0])
    followed = commands("configs.md")
    assert [command.split()[0] for command, _ in followed] == ["python", "bencher-job", "bencher-job"]
    for command, expected in followed:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert doctest.OutputChecker().check_output(
            expected, done.stdout, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        ), done.stdout


@pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed")
@pytest.mark.parametrize("epochs", [1, 30, 50])
def test_a_search_goes_on_after_a_kill_with_all_hits(
    tmp_path: Path, environment: dict[str, str], epochs: int
) -> None:
    ((command, _),) = [each for each in commands("search.md") if each[0].startswith("python ")]
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "search.py").write_text(blocks("search.md", "python")[0])

    def run(folder: str) -> list[str]:
        return subprocess.run(
            command,
            shell=True,
            cwd=tmp_path / folder,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.splitlines()

    whole = run("whole")
    assert len(whole) > 60
    assert run("whole") == whole[-1:]
    with subprocess.Popen(
        f"exec {command}",
        shell=True,
        cwd=tmp_path / "killed",
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as killed:
        assert killed.stdout is not None
        begun = [killed.stdout.readline() for _ in range(epochs)]
        killed.send_signal(signal.SIGKILL)
        begun += killed.stdout.readlines()
    resumed = run("killed")
    assert resumed[-1] == whole[-1]
    lost = len(begun) + len(resumed) - len(whole)
    assert lost in {0, 1}, "only the epoch that was running has run again"
    assert [line.strip() for line in begun] + resumed[lost:] == whole
    assert run("killed") == whole[-1:]
