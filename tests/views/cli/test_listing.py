"""`ls`, `stats` and `du` tell the figures of a cache whose code is gone, and leave no trace."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.shell import Shell


def test_functions_are_listed_with_their_figures(study: Shell) -> None:
    lines = study.out("ls").splitlines()
    assert lines[0].split() == ["function", "entries", "size", "hits", "time", "saved", "last", "used"]
    assert [line.split()[:2] for line in lines[1:3]] == [["study.loss", "1"], ["study.score", "4"]]
    assert lines[3].startswith("2 functions, 5 entries, ")


def test_the_document_of_ls_has_the_figures(study: Shell) -> None:
    document = study.document("ls", "--sort", "entries")
    assert (document["command"], document["version"]) == ("ls", 1)
    assert document["cache_dir"] == str(study.folder / "cachedir")
    score, loss = document["functions"]
    assert score.keys() == {
        "cache", "name", "entries", "size", "hits", "seconds_saved", "seconds", "last_used", "tags",
        "versions", "failed",
    }  # fmt: skip
    assert [score[name] for name in ("name", "cache", "entries", "hits", "tags")] == [
        "study.score",
        "fcache",
        4,
        1,
        ["nightly"],
    ]
    assert loss["last_used"].endswith("Z")


@pytest.mark.parametrize(
    ("order", "first"),
    [("name", "loss"), ("entries", "score"), ("hits", "score"), ("used", "loss"), ("size", "score")],
)
def test_functions_are_sorted_as_asked(study: Shell, order: str, first: str) -> None:
    assert study.document("ls", "--sort", order)["functions"][0]["name"] == f"study.{first}"


def test_all_caches_of_a_directory_are_listed_or_one(study: Shell) -> None:
    study.program(
        """
        from bencher_job import cached_job

        @cached_job(cache_name="other")
        def third(x):
            return x

        third(1)
        """
    )
    assert study.out("ls").splitlines()[0].startswith("cache ")
    assert [f["cache"] for f in study.document("ls")["functions"]] == ["fcache", "fcache", "other"]
    assert [f["name"] for f in study.document("ls", "--cache-name", "other")["functions"]] == ["study.third"]
    assert [f["name"] for f in study.document("ls", "--cache-dir", "cachedir/other")["functions"]] == [
        "study.third"
    ]
    moved = study.run("ls", "--json", BENCHER_JOB_CACHE_DIR=str(study.folder / "cachedir" / "other"))
    assert '"study.third"' in moved.stdout
    assert '"study.loss"' not in moved.stdout


@pytest.mark.parametrize("words", [["ls"], ["stats"], ["du"], ["show"], ["verify"], ["gc", "--dry-run"]])
def test_a_command_that_reads_makes_and_changes_no_file(study: Shell, words: list[str]) -> None:
    before = study.files()
    study.out(*words)
    assert study.files() == before


def test_an_empty_cache_is_told_as_such(study: Shell) -> None:
    study.out("clear", "--all", "--yes")
    assert study.out("ls") == "no entries\n"
    assert study.document("ls")["functions"] == []
    assert study.document("stats")["caches"][0]["removed"] == {"cleared": 5}


def test_the_figures_over_the_life_of_a_cache_are_told(study: Shell) -> None:
    (cache,) = study.document("stats")["caches"]
    assert cache["size"] == sum(f["size"] for f in study.document("ls")["functions"])
    assert {name: cache[name] for name in ("cache", "functions", "entries", "hits", "misses", "removed")} == {
        "cache": "fcache",
        "functions": 2,
        "entries": 5,
        "hits": 1,
        "misses": 5,
        "removed": {},
    }
    assert cache["hit_rate"] == pytest.approx(1 / 6)
    text = study.out("stats")
    assert "5 of 2 functions" in text
    assert "1 (17%)" in text


def test_the_place_on_the_disk_is_told_by_what_takes_it(shell: Shell) -> None:
    shell.program(
        """
        from bencher_job import cached_job, gen_path

        @cached_job
        def large(n):
            return b"x" * n

        @cached_job
        def film(n):
            with open(gen_path("film"), "wb") as file:
                file.write(b"x" * n)

        large(300_000)
        film(200_000)
        """
    )
    (cache,) = shell.document("du")["caches"]
    assert 300_000 <= cache["values"] < 400_000
    assert 200_000 <= cache["media"] < 300_000
    assert cache["damaged"] == 0
    assert cache["total"] == sum(cache[kind] for kind in ("database", "values", "media", "damaged", "other"))
    assert "values" in shell.out("du")


def test_without_a_cache_there_is_one_sentence_and_nothing_is_made(shell: Shell) -> None:
    code, sentence = shell.failure("ls")
    assert code == 3
    assert sentence.startswith(
        f"{shell.folder}/cachedir is not a cache directory: No such file or directory."
    )
    assert "--cache-dir" in sentence
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
