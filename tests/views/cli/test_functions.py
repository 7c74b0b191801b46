"""`explain` and `adopt` import a function and run nothing."""

from __future__ import annotations

import json
import os

import pytest

from tests.shell import Shell

MODULE = """
from bencher_job import cached_job

SCALE = 2

@cached_job
def score(model, /, c=1.0):
    return len(model) * c * SCALE

def plain(x):
    return x

class Model:
    @staticmethod
    @cached_job
    def loss(x):
        return x
"""


@pytest.fixture
def module(shell: Shell) -> Shell:
    (shell.folder / "model.py").write_text(MODULE)
    shell.program("from model import *\nscore('svm', 2)\nModel.loss([1, 2])")
    return shell


def test_a_hit_is_explained_and_leaves_no_trace(module: Shell) -> None:
    before = module.files()
    said = module.out("explain", "model:score", "--arg", "model=svm", "--arg", "c=2")
    assert said.startswith("model.score(model='svm', c=2): a hit, it is remembered\n")
    assert module.files() == before
    module.out("explain", "model:Model.loss", "--arg", "x=[1, 2]")


def test_fields_of_a_default_config_are_arguments(shell: Shell) -> None:
    (shell.folder / "model.py").write_text(
        "from bencher_job import cached_job\n@cached_job\n"
        "def train(cfg={'lr': 0.1, 'layers': 2}):\n    return 1\n"
    )
    shell.program("import model\nmodel.train({'lr': 0.2, 'layers': 2})")
    assert "a hit" in shell.out("explain", "model:train", "--arg", "cfg.lr=0.2")
    ended = shell.run("explain", "model:train", "--arg", "cfg.rate=1")
    assert (ended.returncode, ended.stderr) == (
        2,
        "bencher-job: cfg has no field rate. Its fields are lr, layers.\n",
    )
    assert "absent has no default" in shell.run("explain", "model:train", "--arg", "absent.x=1").stderr


def test_a_miss_is_told_by_its_exit_code_and_its_cause(module: Shell) -> None:
    ended = module.run("explain", "model:score", "--arg", "model=svm", "--arg", "c=3", "--json")
    assert (ended.returncode, ended.stderr) == (1, "")
    document = json.loads(ended.stdout)
    assert (document["hit"], document["cause"]) == (False, "arguments")
    assert document["arguments_changed"] == [{"name": "c", "before": 2, "now": 3}]
    assert document["record"]["function"] == "model.score"


def test_a_changed_global_is_named(module: Shell) -> None:
    (module.folder / "model.py").write_text(MODULE.replace("SCALE = 2", "SCALE = 3"))
    ended = module.run("explain", "model:score", "--arg", "model=svm", "--arg", "c=2")
    assert ended.returncode == 1
    assert "the code has changed" in ended.stdout
    assert "SCALE" in ended.stdout


def test_without_a_cache_it_is_a_first_call_and_none_is_made(shell: Shell) -> None:
    (shell.folder / "model.py").write_text(MODULE)
    ended = shell.run("explain", "model:score", "--arg", "model=svm")
    assert ended.returncode == 1
    assert "nothing of this function is remembered" in ended.stdout
    assert [path.name for path in shell.folder.iterdir()] == ["model.py"]


def test_another_cache_directory_is_looked_at_when_it_is_named(module: Shell) -> None:
    os.rename(module.folder / "cachedir", module.folder / "moved")
    call = ("explain", "model:score", "--arg", "model=svm", "--arg", "c=2")
    assert module.run(*call).returncode == 1
    module.out(*call, "--cache-dir", "moved")
    assert not (module.folder / "cachedir").exists()


def test_what_a_module_prints_is_no_part_of_the_document(module: Shell) -> None:
    """Also a module that the function imports itself."""
    (module.folder / "chatty.py").write_text("print('imported')\nSIZE = 1\n")
    (module.folder / "model.py").write_text(
        f"print('begun')\n{MODULE}\n@cached_job\ndef size(x):\n    import chatty\n    return chatty.SIZE\n"
    )
    ended = module.run("explain", "model:size", "--arg", "x=1", "--json")
    assert json.loads(ended.stdout)["function"] == "model.size"
    assert ended.stderr == "begun\nimported\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["model"], 2, "Write MODULE:FUNCTION"),
        (["model:plain"], 2, "has no plain that cached_job decorates"),
        (["model:nothing"], 2, "has no nothing that cached_job decorates"),
        (["absent:score"], 5, "absent can't be imported: ModuleNotFoundError"),
        (["broken:score"], 5, "broken can't be imported: ZeroDivisionError: division by zero"),
        (["leaving:score"], 5, "leaving can't be imported: SystemExit: 0"),
        (["model:score", "--arg", "model"], 2, "Write NAME=VALUE"),
        (["model:score", "--arg", "c=1", "--arg", "c=2"], 2, "--arg c is given twice"),
        (["model:score", "--arg", "z=1", "--arg", "model=svm"], 2, "has no parameter z"),
        (["model:score", "--arg", "model=a", "--cache-name", "x"], 2, "Leave out --cache-name"),
    ],
)
def test_what_can_t_be_asked_is_told(module: Shell, words: list[str], code: int, told: str) -> None:
    (module.folder / "broken.py").write_text("1 / 0\n")
    (module.folder / "leaving.py").write_text("raise SystemExit(0)\n")
    got, sentence = module.failure("explain", *words)
    assert got == code
    assert told in sentence


def test_the_results_of_earlier_code_are_adopted(module: Shell) -> None:
    (module.folder / "model.py").write_text(MODULE.replace("* SCALE", "* SCALE * 1"))
    call = ("explain", "model:score", "--arg", "model=svm", "--arg", "c=2")
    assert module.run(*call).returncode == 1
    assert module.out("adopt", "model:score") == "adopted 1 entry of model.score\n"
    module.out(*call)
    ended = module.run("adopt", "model:score")
    assert (ended.returncode, ended.stdout) == (1, "adopted 0 entries of model.score\n")


def test_what_can_t_be_adopted_is_told(module: Shell) -> None:
    code, sentence = module.failure("adopt", "model:score", "--fingerprint", "ffff")
    assert code == 5
    assert "no earlier version of model.score" in sentence
    code, sentence = module.failure("adopt", "model:score", "--cache-dir", "nowhere")
    assert code == 3
    assert not (module.folder / "nowhere").exists()


def test_a_dry_run_of_adopt_says_how_many_and_changes_nothing(module: Shell) -> None:
    (module.folder / "model.py").write_text(MODULE.replace("* SCALE", "* SCALE * 1"))
    before = module.files()
    assert module.out("adopt", "model:score", "--dry-run") == "would adopt 1 entry of model.score\n"
    assert module.files() == before
    assert module.out("adopt", "model:score", "-n") == "would adopt 1 entry of model.score\n"
    assert module.out("adopt", "model:score") == "adopted 1 entry of model.score\n"
    assert module.run("adopt", "model:score", "-n").returncode == 1


def test_a_misspelled_argument_is_named_with_what_may_be_meant(module: Shell) -> None:
    code, sentence = module.failure("explain", "model:score", "--arg", "modle=svm")
    assert (code, sentence) == (2, "model.score has no parameter modle. Did you mean model?")
