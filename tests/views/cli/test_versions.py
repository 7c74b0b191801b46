"""Versions of code, running jobs and failed jobs on the command line."""

from __future__ import annotations

import os

import pytest

from tests.shell import Shell
from tests.views.edited import edit, running


@pytest.fixture
def edited(shell: Shell) -> Shell:
    """A study whose code was changed between two runs."""
    for factor in (1, 2):
        edit(shell, factor)
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
    edit(edited, 1, runs=False)
    edited.program("import study; assert study.score('svm', 0.1) == 0.1", "run")
    (latest,) = [each for each in edited.document("versions", "score")["versions"] if each["current"]]
    assert latest["code"] == old
    assert {each["fingerprint"][:10] for each in edited.document("show", "score")["records"]} == {old}


def test_a_function_that_is_imported_goes_by_its_code_as_it_is_now(edited: Shell) -> None:
    old, new = codes(edited)
    edit(edited, 1, runs=False)
    found = edited.document("show", "study:score")
    assert {each["fingerprint"][:10] for each in found["records"]} == {old}
    assert edited.out("clear", "study:score", "--stale", "--yes").splitlines()[-1] == "removed 2 entries"
    assert codes(edited) == [old]
    edit(edited, 3, runs=False)
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
