"""A shell completes commands, options, and the functions, tags and names of the cache that the line is about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pexpect
import pytest

from tests.shell import PATIENCE, PROGRAM, Shell

STARTS = {
    "bash": ("bash", ["--norc", "--noprofile", "-i"], 'PS1="ready> "; bind "set enable-bracketed-paste off"'),
    "zsh": (
        "zsh",
        ["-f", "-i"],
        'PS1="ready> "; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -u',
    ),
    "fish": ("fish", ["--no-config", "-i"], "function fish_prompt; echo 'ready> '; end"),
}

LOADS = {
    "bash": 'eval "$(bencher-job completion bash)"',
    "zsh": 'eval "$(bencher-job completion zsh)"',
    "fish": "bencher-job completion fish | source",
}


@pytest.fixture(params=STARTS)
def terminal(request: pytest.FixtureRequest, study: Shell) -> Iterator[pexpect.spawn]:
    """An interactive shell that has read the script of completions, in a folder with a cache."""
    program, arguments, setting = STARTS[request.param]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    spawned = pexpect.spawn(
        program,
        arguments,
        cwd=str(study.folder),
        env={
            **study.environment,
            "PATH": f"{PROGRAM.parent}:/usr/bin:/bin",
            "TERM": "dumb",
            "HOME": str(study.folder),
        },
        dimensions=(40, 200),
        encoding="utf-8",
        timeout=PATIENCE,
    )
    for line in (setting, LOADS[request.param], "echo loa''ded"):
        spawned.sendline(line)
    spawned.expect("loaded")
    yield spawned
    spawned.close(force=True)


def test_commands_options_functions_tags_and_names_are_completed(terminal: pexpect.spawn) -> None:
    for begun, completed in (
        ("bencher-job sta", "bencher-job stats"),
        ("bencher-job show study.sc", "study.score"),
        ("bencher-job show sco", "show score"),
        ("bencher-job clear --tag wee", "--tag weekly"),
        ("bencher-job ls --cache-n", "--cache-name"),
        ("bencher-job ls --cache-name fca", "--cache-name fcache"),
    ):
        terminal.send(begun + "\t")
        terminal.expect_exact(completed)
        terminal.send("\x15")  # forget the line


def complete(shell: Shell, line: str) -> list[str]:
    """Ask for completions as the scripts of shells do."""
    answer = shell.folder / "answer"
    ended = shell.run(
        _ARGCOMPLETE="1",
        _ARGCOMPLETE_STDOUT_FILENAME=str(answer),
        _ARGCOMPLETE_IFS="\n",
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
        COMP_TYPE="9",
    )
    assert ended.stderr == ""
    return [word.strip() for word in answer.read_text().split("\n") if word.strip()]


def test_keys_are_completed_from_their_first_digits(study: Shell) -> None:
    key = study.document("show", "score")["records"][0]["key"]
    assert complete(study, f"bencher-job show {key[:6]}") == [key]


def test_a_function_is_completed_without_its_module(study: Shell) -> None:
    assert complete(study, "bencher-job show sco") == ["score"]
    assert complete(study, "bencher-job clear l") == ["loss"]


def test_all_functions_are_offered(study: Shell) -> None:
    assert {"study.loss", "study.score"} <= {*complete(study, "bencher-job show ")}


def test_where_there_is_no_cache_nothing_is_offered_and_nothing_made(shell: Shell) -> None:
    assert complete(shell, "bencher-job show stu") == []
    assert complete(shell, "bencher-job ls --cache-name f") == []
    assert [path.name for path in shell.folder.iterdir()] == ["answer"]


def test_the_line_s_own_cache_directory_is_asked(study: Shell) -> None:
    (study.folder / "cachedir").rename(study.folder / "moved")
    assert complete(study, "bencher-job show study.l") == []
    assert complete(study, "bencher-job show --cache-dir moved study.l") == ["study.loss"]


def test_without_argcomplete_the_script_is_refused_with_the_remedy(study: Shell) -> None:
    (study.folder / "argcomplete").mkdir()
    (study.folder / "argcomplete" / "__init__.py").write_text("raise ImportError('hidden')")
    path = f"{study.folder}:{study.environment['PYTHONPATH']}"
    code, sentence = study.failure("completion", "bash", PYTHONPATH=path)
    assert code == 5
    assert "pip install 'bencher_job[cli]'" in sentence
