"""Versions of code, running jobs and failed jobs on the page: what the server answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.shell import Shell
from tests.views.edited import edit, running
from tests.views.page.serving import Served, serving

SCORE = {"store": "fcache", "function": "study.score"}


@pytest.fixture
def edited(shell: Shell) -> Iterator[Served]:
    """The page over a study whose code was changed between two runs."""
    for factor in (1, 2):
        edit(shell, factor)
    with serving(shell.folder / "cachedir") as server:
        server.begin()
        yield server


def score(served: Served) -> dict[str, Any]:
    """What the overview says of the function that was changed."""
    (store,) = served.get("overview").json()["stores"]
    return next(each for each in store["functions"] if each["name"] == "study.score")


def test_rows_groups_points_and_csv_are_of_the_version_that_was_used_last(edited: Served) -> None:
    new, old = (each["label"] for each in score(edited)["versions"])
    assert [each["is_latest"] for each in score(edited)["versions"]] == [True, False]
    page = edited.get("rows", **SCORE).json()
    at = [each["id"] for each in page["columns"]].index("code")
    assert (page["total"], {row["cells"][at] for row in page["rows"]}) == (2, {new})
    assert edited.get("rows", **SCORE, code=old).json()["total"] == 2
    assert edited.get("rows", **SCORE, code="all").json()["total"] == 4
    assert edited.get("rows", **SCORE, code="none").json()["total"] == 0
    chosen = {**SCORE, "code": "all", "filters": f'{{"code": "={old}"}}'}
    assert edited.get("rows", **chosen).json()["total"] == 2
    assert edited.get("points", **SCORE, x="arguments.c", y="results.result").json()["total"] == 2
    by_code = edited.get("groups", **SCORE, code="all", by='["code"]', value="results.result").json()
    assert {tuple(each["cells"]): each["count"] for each in by_code["groups"]} == {(new,): 2, (old,): 2}
    assert edited.get("csv", **SCORE).body.decode().count(new) == 2


def test_all_that_are_found_are_of_the_version_that_is_shown(edited: Served) -> None:
    answered = edited.post("clear", **SCORE, filters={}, search="", sort="-created", count=2)
    assert answered.json() == {"removed": 2}
    (left,) = score(edited)["versions"]
    assert (left["entries"], left["is_latest"]) == (2, True)


def test_failed_jobs_come_with_errors_and_one_with_its_traceback(edited: Served) -> None:
    answer = edited.get("failed", **SCORE).json()
    (job,) = answer["jobs"]
    assert (job["call"], job["error"]) == ("model='bad', c=1.0", "ValueError: no model is called bad")
    assert (answer["hidden"], job["code"]) == (1, score(edited)["versions"][0]["label"])
    failed = score(edited)["failed"]
    assert (failed[""], failed["all"]) == (1, 2)
    for code, number in failed.items():
        assert len(edited.get("failed", **SCORE, code=code).json()["jobs"]) == number
    entry = edited.get("failed", store="fcache", key=job["key"]).json()
    assert 'raise ValueError(f"no model is called {model}")' in entry["traceback"]
    assert ["model", "bad"] in entry["arguments"]
    kept = edited.get("rows", **SCORE).json()["rows"][0]["key"]
    removed = edited.post("clear", store="fcache", failed=True, keys=[job["key"], kept]).json()
    assert removed == {"removed": 1}
    assert edited.get("failed", store="fcache", key=job["key"]).status == 404
    assert edited.get("rows", **SCORE).json()["total"] == 2


def test_failures_of_earlier_code_go_out_of_sight_once_the_new_code_has_succeeded(
    shell: Shell, edited: Served
) -> None:
    shell.program("import study\ntry: study.score('bad', 5)\nexcept ValueError: pass", "run")
    edit(shell, 3, runs=False)
    shell.program("import study\ntry: study.score('bad', 6)\nexcept ValueError: pass", "run")
    calls = [each["call"] for each in edited.get("failed", **SCORE).json()["jobs"]]
    assert calls == ["model='bad', c=6", "model='bad', c=5", "model='bad', c=1.0"]
    shell.program("import study\nstudy.score('svm', 5)", "run")
    assert [each["call"] for each in edited.get("failed", **SCORE).json()["jobs"]] == ["model='bad', c=6"]


def test_failed_jobs_show_the_fields_of_their_configs_that_differ(shell: Shell, edited: Served) -> None:
    shell.program("""
        from bencher_job import cached_job

        @cached_job
        def train(cfg, seed):
            raise ValueError(seed)

        train.sweep({"cfg.lr": [1, 2]}, cfg={"lr": 1, "layers": 3}, seed=1).run(progress=False)
    """)
    jobs = edited.get("failed", store="fcache", function="study.train", code="").json()["jobs"]
    assert sorted(each["call"] for each in jobs) == ["cfg.lr=1, seed=1", "cfg.lr=2, seed=1"]


def test_running_jobs_say_what_runs(shell: Shell, edited: Served) -> None:
    with running(shell) as pid:
        (job,) = edited.get("overview").json()["stores"][0]["running"]
        assert (job["function"], job["call"], job["pid"]) == ("study.score", "model='slow', c=1.0", pid)
        assert job["program"] == "run.py"
