"""Versions of code, running jobs and failed jobs on the command line."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.programs import until
from tests.shell import Shell

STUDY = """
    import time
    from pathlib import Path

    from bencher_job import cached_job

    @cached_job
    def score(model, c=1.0):
        if model == "bad":
            raise ValueError(f"no model is called {model}")
        if model == "slow":
            Path("begun").touch()
            time.sleep(600)
        return c * FACTOR

    @cached_job
    def other(x):
        return x
"""
RUN = """
    from contextlib import suppress

    import study

    for c in (0.1, 0.2):
        study.score("svm", c)
    study.other(1)
    with suppress(ValueError):
        study.score("bad")
"""


@pytest.fixture
def edited(shell: Shell) -> Shell:
    """A study whose code was changed between two runs."""
    for factor in (1, 2):
        (shell.folder / "study.py").write_text(textwrap.dedent(STUDY.replace("FACTOR", str(factor))))
        shell.program(RUN, "run")
    return shell


def codes(shell: Shell) -> list[str]:
    """The versions of the code of `study.score`, the oldest first."""
    return [each["code"] for each in shell.document("versions", "score")["versions"]]


def test_entries_of_the_latest_code_are_shown_and_others_counted(edited: Shell) -> None:
    old, new = codes(edited)
    ended = edited.run("show", "score")
    assert (ended.stdout.count(new), ended.stdout.count(old)) == (2, 0)
    assert "2 entries of another version of the code are not shown. Add --all-versions" in ended.stderr
    document = edited.document("show", "score")
    assert len(document["records"]) == 2
    assert document["hidden"] == ["2 entries of another version of the code are not shown"]
    assert len(edited.document("show", "score", "--all-versions")["records"]) == 4
    earlier = edited.document("show", "score", "--code", old[:6])
    assert {each["fingerprint"][:10] for each in earlier["records"]} == {old}
    assert edited.document("show", earlier["records"][0]["key"][:10])["records"][0]["fingerprint"][:10] == old


def test_the_code_that_was_used_last_is_the_latest_though_it_is_older(edited: Shell) -> None:
    old, _ = codes(edited)
    (edited.folder / "study.py").write_text(textwrap.dedent(STUDY.replace("FACTOR", "1")))
    edited.program("import study; assert study.score('svm', 0.1) == 0.1", "run")
    (latest,) = [each for each in edited.document("versions", "score")["versions"] if each["current"]]
    assert latest["code"] == old
    assert {each["fingerprint"][:10] for each in edited.document("show", "score")["records"]} == {old}


def test_a_function_that_is_imported_goes_by_its_code_as_it_is_now(edited: Shell) -> None:
    old, new = codes(edited)
    (edited.folder / "study.py").write_text(textwrap.dedent(STUDY.replace("FACTOR", "1")))
    found = edited.document("show", "study:score")
    assert {each["fingerprint"][:10] for each in found["records"]} == {old}
    assert edited.out("clear", "study:score", "--stale", "--yes").splitlines()[-1] == "removed 2 entries"
    assert codes(edited) == [old]
    (edited.folder / "study.py").write_text(textwrap.dedent(STUDY.replace("FACTOR", "3")))
    assert "no entries" in edited.run("show", "study:score").stdout
    assert new not in edited.out("versions", "score")


def test_stale_entries_are_cleared_and_others_stay(edited: Shell) -> None:
    _, new = codes(edited)
    assert edited.out("clear", "--stale", "--dry-run").splitlines()[-1] == "would remove 2 entries"
    assert edited.out("clear", "score", "--stale", "--yes").splitlines()[-1] == "removed 2 entries"
    assert codes(edited) == [new]
    assert len(edited.document("show")["records"]) == 3
    assert edited.run("clear", "--stale", "--yes").stdout == "no entries\n"


def test_versions_tell_what_changed(edited: Shell) -> None:
    first, second = edited.document("versions", "study.score")["versions"]
    assert (first["changes"], second["changes"]) == ([], ["study.score: changed"])
    assert [each["entries"] for each in (first, second)] == [2, 2]
    assert "latest" in edited.out("versions", "score").splitlines()[2]
    diff = edited.out("versions", "score", first["code"][:5])
    assert "-    return c * 1\n+    return c * 2" in diff
    (changes,) = edited.document("versions", "score", second["code"], first["code"])["changes"]
    assert changes["code_changed"][0]["name"] == "study.score"
    ended = edited.run("versions", "score", "fffff", "00000")
    assert (ended.returncode, "means no version of the code. Name one of:" in ended.stderr) == (2, True)


def test_failed_jobs_are_listed_with_tracebacks_and_cleared(edited: Shell) -> None:
    found = edited.document("show", "score", "--failed")
    (failed,) = found["records"]
    assert (failed["arguments"]["model"], failed["error"]) == ("bad", "ValueError: no model is called bad")
    assert found["hidden"] == 1
    assert "bencher_job" not in failed["traceback"]
    shown = edited.out("show", failed["key"][:8], "--failed")
    assert "Traceback (most recent call last):" in shown
    assert 'raise ValueError(f"no model is called {model}")' in shown
    assert "2" in edited.out("ls").splitlines()[2].split()
    assert edited.out("clear", "--failed", "--where", "model=bad", "--yes").endswith(
        "removed 2 failed jobs\n"
    )
    assert edited.run("show", "--failed").stdout == "no failed jobs\n"
    assert len(edited.document("show", "--all-versions")["records"]) == 5


@contextmanager
def running(shell: Shell) -> Iterator[int]:
    with shell.start("import study; study.score('slow')", "run") as process:
        try:
            assert until((shell.folder / "begun").exists)
            yield process.pid
        finally:
            process.kill()


def test_running_jobs_say_what_runs_where_and_since_when(edited: Shell) -> None:
    with running(edited) as pid:
        (job,) = edited.document("show", "--running")["records"]
        assert (job["function"], job["arguments"]) == ("study.score", {"model": "slow", "c": 1.0})
        assert (job["pid"], job["host"]) == (pid, os.uname().nodename)
        assert edited.document("ls")["running"] == [job]
        assert "1 job running, the first since" in edited.out("ls")
        assert f"process {pid}" in edited.out("show", "score", "--running")
        assert edited.run("show", "other", "--running").stdout == "no running jobs\n"
    assert edited.document("ls")["running"] == []
