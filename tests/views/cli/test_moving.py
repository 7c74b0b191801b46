"""`export` and `import` carry entries from one cache to another."""

from __future__ import annotations

import os
import subprocess

import pexpect
import pytest

from tests.shell import PROGRAM, Shell


def test_what_is_exported_is_there_after_an_import(study: Shell) -> None:
    said = study.out("export", "all.tar")
    assert said.startswith("wrote 5 entries to all.tar, ")
    assert study.out("import", "all.tar", "--cache-dir", "new").startswith("5 added, ")
    there, here = (study.document("show", "--cache-dir", name)["records"] for name in ("cachedir", "new"))
    assert here == there
    assert study.out("import", "all.tar", "--cache-dir", "new").startswith("0 added, 0 replaced, 5 skipped")
    assert study.out("verify", "--cache-dir", "new").endswith("5 entries verified, clean\n")


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["score"], 4),
        (["--tag", "weekly"], 1),
        (["score", "--where", "c=0.1"], 2),
        (["--tag", "nightly", "score"], 4),
    ],
)
def test_what_is_chosen_is_exported(study: Shell, words: list[str], count: int) -> None:
    study.out("export", "some.tar", *words)
    study.out("import", "some.tar", "--cache-dir", "new")
    assert len(study.document("show", "--cache-dir", "new")["records"]) == count


def test_where_nothing_is_chosen_no_file_is_made(study: Shell) -> None:
    ended = study.run("export", "none.tar", "--tag", "none")
    assert (ended.returncode, ended.stdout) == (1, "no entries\n")
    assert not (study.folder / "none.tar").exists()


def test_a_file_is_overwritten_only_when_it_is_asked_for(study: Shell) -> None:
    (study.folder / "mine.tar").write_text("mine")
    code, sentence = study.failure("export", "mine.tar")
    assert code == 5
    assert "mine.tar is there already" in sentence
    assert "--overwrite" in sentence
    assert (study.folder / "mine.tar").read_text() == "mine"
    study.out("export", "mine.tar", "--overwrite")


def test_an_export_changes_no_file_of_the_cache(study: Shell) -> None:
    before = study.files()
    study.out("export", "all.tar")
    assert {name: known for name, known in study.files().items() if name != "all.tar"} == before


@pytest.mark.parametrize("words", [["export", "x.tar"], ["import", "all.tar"]])
def test_of_several_caches_one_must_be_named(study: Shell, words: list[str]) -> None:
    study.out("export", "all.tar")
    study.out("import", "all.tar", "--cache-name", "other")
    code, sentence = study.failure(*words)
    assert (code, sentence) == (2, "there are 2 caches: fcache, other. Name one with --cache-name.")
    study.out(*words, "--cache-name", "other")


def test_a_file_that_is_no_archive_is_refused(study: Shell) -> None:
    (study.folder / "x.tar").write_text("no archive")
    code, sentence = study.failure("import", "x.tar")
    assert code == 5
    assert "x.tar is not an archive" in sentence
    code, sentence = study.failure("import", "absent.tar")
    assert code == 5
    assert "absent.tar can't be read: No such file" in sentence


def test_a_file_that_others_can_write_to_needs_trust(study: Shell) -> None:
    study.out("export", "all.tar")
    os.chmod(study.folder / "all.tar", 0o666)
    code, sentence = study.failure("import", "all.tar", "--cache-dir", "new")
    assert code == 4
    assert sentence.endswith("Add --trust if you trust all who could have written to it.")
    for name in ("./all.tar", str(study.folder / "all.tar")):
        assert study.failure("import", name, "--cache-dir", "new")[1].endswith(sentence[-30:])
    assert study.out("import", "all.tar", "--cache-dir", "new", "--trust").startswith("5 added")


def test_an_archive_that_was_cut_off_is_told_and_the_rest_is_taken(study: Shell) -> None:
    study.out("export", "all.tar")
    os.truncate(study.folder / "all.tar", 8_000)
    ended = study.run("import", "all.tar", "--cache-dir", "new")
    assert ended.returncode == 1
    assert "damaged" in ended.stdout


def test_archives_pass_through_pipes(study: Shell) -> None:
    exported, imported = (
        f"{PROGRAM} export - score --cache-dir cachedir",
        f"{PROGRAM} import - --cache-dir new",
    )
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{exported} | {imported}"],
        cwd=study.folder,
        env=study.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.startswith("4 added, ")
    assert ended.stderr.startswith("wrote 4 entries, ")
    assert study.document("show", "score") == {
        **study.document("show", "--cache-dir", "new"),
        "cache_dir": str(study.folder / "cachedir"),
    }


def test_a_pipe_that_brings_no_archive_is_refused(study: Shell) -> None:
    code, sentence = study.failure("import", "-", "--cache-dir", "new")
    assert code == 5
    assert sentence.startswith("what came through the pipe is not an archive")


def test_an_archive_is_not_written_to_a_terminal(study: Shell) -> None:
    terminal = pexpect.spawn(
        str(PROGRAM), ["export", "-"], cwd=str(study.folder), env=study.environment, encoding="utf-8"
    )
    said = terminal.read()
    terminal.close()
    assert terminal.exitstatus == 2
    assert said.strip().startswith("bencher-job: a terminal can't show an archive")
