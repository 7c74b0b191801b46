"""Each example does its job, is all hits when run again, and goes on where it was stopped."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bencher_job import FutureCache
from tests.environment import needs_scoop

pytestmark = pytest.mark.given_folders

EXAMPLES = Path(__file__).parents[1] / "examples"
DRAWN_IN_DOCS = Path(__file__).parents[1] / "docs" / "examples"
COMPRESSION = EXAMPLES / "compression.py"

OPTIONS = {
    "compression": (("--levels", "1,5,9", "--repeats", "1"), 108, "│ zlib", signal.SIGKILL),
    "digits": (("--folds", "3", "--models", "KNeighbors"), 30, "│ KNeighbors", signal.SIGKILL),
    "reaction": (("--size", "64", "--steps", "1500"), 36, "0.054", signal.SIGINT),
}
"""Options that make an example long enough to stop it, the number of its jobs then, a line of it, and a blow."""


ImportExample = Callable[[str], ModuleType]


@pytest.fixture
def import_example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImportExample]:
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module
    for name in OPTIONS:
        sys.modules.pop(name, None)


@pytest.fixture(params=sorted(OPTIONS))
def example(request: pytest.FixtureRequest) -> Path:
    if request.param == "digits":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install --group examples")
    return EXAMPLES / f"{request.param}.py"


def start(
    cache: Path, *arguments: str, example: Path = COMPRESSION, launcher: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, str(example), "--out", str(cache / "out"), *arguments]
    environment = os.environ | {"BENCHER_JOB_CACHE_DIR": str(cache / "cache"), "COLUMNS": "100"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def run(cache: Path, *arguments: str, **how: Any) -> str:
    process = start(cache, *arguments, **how)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return output


def counts(output: str) -> tuple[int, int]:
    """How many jobs were remembered and how many computed."""
    remembered, computed = re.search(r"(\d+) remembered and (\d+) computed", output).groups()
    return int(remembered), int(computed)


def stored(cache: Path) -> int:
    if not (cache / "cache" / "fcache" / "cache.db").exists():
        return 0
    with FutureCache(cache_dir=cache / "cache") as opened:
        return sum(1 for _ in opened.records())


def is_picture(path: Path) -> bool:
    return path.read_bytes()[:4] in {b"\x89PNG", b"RIFF"}


def test_the_documentation_shows_the_picture_that_it_makes(example: Path) -> None:
    (picture,) = DRAWN_IN_DOCS.glob(f"{example.stem}.*")
    assert is_picture(picture)
    assert picture.stat().st_size < 150_000
    assert picture.name in (DRAWN_IN_DOCS / "index.md").read_text()
    assert f'options.out / "{picture.name}"' in example.read_text()


def test_stopped_in_the_middle_it_goes_on_where_it_stopped(example: Path, tmp_path: Path) -> None:
    options, jobs, line, blow = OPTIONS[example.stem]
    process = start(tmp_path, *options, example=example)
    deadline = time.monotonic() + 60
    while stored(tmp_path) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(blow)
    process.communicate(timeout=60)
    assert process.returncode != 0
    kept = stored(tmp_path)
    assert kept >= 4
    output = run(tmp_path, *options, example=example)
    assert counts(output) == (kept, jobs - kept)
    assert line in output
    picture = Path(re.search(r"picture: (.+)", output).group(1))
    assert picture.parent == tmp_path / "out"
    assert is_picture(picture)
    assert counts(run(tmp_path, *options, "--executor", "serial", example=example)) == (jobs, 0)


def test_what_is_misread_is_what_scikit_learn_says(import_example: ImportExample) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install --group examples")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.naive_bayes import GaussianNB

    digits, data = import_example("digits"), load_digits()
    folds = StratifiedKFold(digits.FOLDS, shuffle=True, random_state=0)
    scores = cross_val_score(GaussianNB(var_smoothing=0.1), data.data / 16, data.target, cv=folds)
    ours = [digits.misread(GaussianNB, fold, var_smoothing=0.1) for fold in range(digits.FOLDS)]
    assert ours == pytest.approx(1 - scores)


def test_the_spacing_of_stripes_is_their_wavelength(import_example: ImportExample) -> None:
    spacing = import_example("reaction").spacing
    stripes = np.sin(2 * np.pi * np.arange(96) / 12) * np.ones((96, 1))
    assert spacing(stripes) == pytest.approx(12)
    assert spacing(np.ones((96, 96))) is None
    assert spacing(np.linspace(0, 1, 96) * np.ones((96, 1))) is None


def test_without_a_drop_of_v_nothing_reacts_and_with_one_v_feeds_on_u(import_example: ImportExample) -> None:
    grow = import_example("reaction").grow
    alive = grow(feed=0.038, kill=0.06, size=32, steps=2000)
    assert 0 < alive.min() < alive.max() < 1
    assert grow(feed=0.014, kill=0.066, size=32, steps=2000).max() < 0.001


def test_each_job_draws_a_file_of_its_own(tmp_path: Path) -> None:
    options = ("--size", "32", "--steps", "100", "--executor", "serial")
    run(tmp_path, *options, example=EXAMPLES / "reaction.py")
    drawn = list((tmp_path / "cache" / "fcache" / "media").rglob("*.png"))
    assert len(drawn) == 36
    assert all(is_picture(path) for path in drawn)


def test_it_says_what_was_saved_and_a_tag_is_cleared(tmp_path: Path) -> None:
    options = ("--levels", "1", "--repeats", "1", "--executor", "serial")
    run(tmp_path, *options)
    assert re.search(r"0 computed, \d+\.\d s saved", run(tmp_path, *options))
    assert run(tmp_path, "--clear", "another").strip() == "forgot 0 results of another"
    assert run(tmp_path, "--clear", "compression").strip() == "forgot 36 results of compression"


def test_a_level_that_is_none_is_told(tmp_path: Path) -> None:
    process = start(tmp_path, "--levels", "0")
    assert "a level is a number from 1 to 9" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


@needs_scoop
def test_it_runs_on_scoop(tmp_path: Path) -> None:
    pytest.importorskip("scoop", reason="SCOOP is not installed: pip install 'bencher_job[scoop]'")
    output = run(
        tmp_path,
        "--levels",
        "1",
        "--repeats",
        "1",
        "--executor",
        "scoop",
        launcher=("-m", "scoop", "-q", "-n", "2"),
    )
    assert counts(output) == (0, 36)
    assert counts(run(tmp_path, "--levels", "1", "--repeats", "1")) == (36, 0)


SCOOP_PROGRAM = """
import json, sys
from bencher_job import cached_job

@cached_job(executor="scoop", cache_dir=sys.argv[1])
def half(x):
    if x == 3:
        raise LookupError("no three")
    return {"half": x / 2}

if __name__ == "__main__":
    futures = [half.submit(x) for x in range(6)]
    told = {
        "values": [f.result(60) if f.exception(60) is None else repr(f.exception()) for f in futures],
        "sweep": [row["result"]["half"] for row in half.sweep({"x": [0, 2, 4]}).run().results],
        "hits": half.cache.info().hits,
        "computed": half.cache.info().computed,
    }
    open(sys.argv[2], "w").write(json.dumps(told))
"""


@needs_scoop
def test_a_cached_function_runs_on_scoop_and_remembers(tmp_path: Path) -> None:
    pytest.importorskip("scoop", reason="SCOOP is not installed: pip install 'bencher_job[scoop]'")
    program, told = tmp_path / "program.py", tmp_path / "told.json"
    program.write_text(SCOOP_PROGRAM)
    command = [
        sys.executable,
        "-m",
        "scoop",
        "-q",
        "-n",
        "2",
        str(program),
        str(tmp_path / "cache"),
        str(told),
    ]
    subprocess.run(command, check=True, timeout=100)
    seen = json.loads(told.read_text())
    assert seen["values"] == [{"half": x / 2} if x != 3 else "LookupError('no three')" for x in range(6)]
    assert seen["sweep"] == [0.0, 1.0, 2.0]
    assert (seen["hits"], seen["computed"]) == (3, 6)


def test_scoop_outside_of_scoop_says_how_to_start() -> None:
    pytest.importorskip("scoop", reason="SCOOP is not installed: pip install 'bencher_job[scoop]'")
    from bencher_job import BencherJobError, cached_job

    @cached_job(executor="scoop")
    def plain(x: int) -> int:
        return x

    with pytest.raises(BencherJobError, match=r"python -m scoop"):
        plain(1)
