"""`ls` shows the functions of a cache whose code is gone, and leaves no trace."""

from __future__ import annotations

import subprocess
import sys

from tests.shell import Shell


def test_functions_are_listed_with_their_figures(study: Shell) -> None:
    lines = study.out("ls").splitlines()
    assert lines[0].split() == ["function", "entries", "size", "hits", "time", "saved", "last", "used"]
    assert [line.split()[:2] for line in lines[1:3]] == [["study.loss", "1"], ["study.score", "4"]]
    assert lines[3].startswith("2 functions, 5 entries, ")


def test_the_document_has_the_figures(study: Shell) -> None:
    document = study.document("ls", "--sort", "entries")
    assert (document["command"], document["version"]) == ("ls", 1)
    score, loss = document["functions"]
    assert (score["name"], score["cache"], score["entries"], score["hits"], score["tags"]) == (
        "study.score",
        "fcache",
        4,
        1,
        ["nightly"],
    )
    assert loss["last_used"].endswith("Z")


def test_a_look_makes_and_changes_no_file(study: Shell) -> None:
    before = study.files()
    study.out("ls")
    assert study.files() == before


def test_without_a_cache_there_is_one_sentence_and_nothing_is_made(shell: Shell) -> None:
    code, sentence = shell.failure("ls")
    assert (code, sentence) == (
        3,
        f"{shell.folder}/cachedir is no cache directory: No such file or directory",
    )
    assert list(shell.folder.iterdir()) == []


def test_the_module_runs_as_the_console_script_does(study: Shell) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bencher_job", "ls"],
        cwd=study.folder,
        env=study.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == study.out("ls")
