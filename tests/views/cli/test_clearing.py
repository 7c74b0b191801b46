"""`clear` and `gc` remove what is meant and nothing else, and only when somebody has agreed."""

from __future__ import annotations

import pytest

from tests.shell import Shell


def left(study: Shell) -> int:
    return len(study.document("show")["records"]) if "no entries" not in study.run("show").stdout else 0


@pytest.mark.parametrize(
    ("words", "removed"),
    [
        (["score"], 4),
        (["study.score", "--where", "model=svm"], 2),
        (["--tag", "weekly"], 1),
        (["--where", "c=0.1"], 2),
        (["--since", "1h"], 5),
        (["--all"], 5),
    ],
)
def test_what_is_meant_is_removed(study: Shell, words: list[str], removed: int) -> None:
    said = study.out("clear", *words, "--yes").splitlines()
    assert said[-1] == f"removed {removed} {'entry' if removed == 1 else 'entries'}"
    assert left(study) == 5 - removed


def test_an_entry_is_removed_by_the_first_digits_of_its_key(study: Shell) -> None:
    first, *others = study.document("show", "score")["records"]
    study.out("clear", first["key"][:10], "--yes")
    assert study.document("show", "score")["records"] == others


def test_old_entries_are_removed_and_new_ones_stay(study: Shell) -> None:
    ended = study.run("clear", "--older-than", "1h", "--yes")
    assert (ended.returncode, ended.stdout) == (1, "no entries\n")
    study.out("clear", "--older-than", "0s", "score", "--yes")
    assert left(study) == 1


def test_a_dry_run_says_what_would_go_and_removes_nothing(study: Shell) -> None:
    before = study.files()
    said = study.out("clear", "--all", "--dry-run").splitlines()
    assert said[0].startswith("study.loss: 1 entry, ")
    assert said[-1] == "would remove 5 entries"
    assert study.files() == before


def test_where_nobody_can_be_asked_nothing_is_removed(study: Shell) -> None:
    ended = study.run("clear", "--all")
    assert ended.returncode == 2
    assert "Add --yes" in ended.stderr
    assert left(study) == 5


@pytest.mark.parametrize("words", [[], ["--yes"], ["--older-than", "1h", "--until", "2h"]])
def test_words_that_don_t_say_what_to_clear_are_refused(study: Shell, words: list[str]) -> None:
    code, _ = study.failure("clear", *words)
    assert code == 2
    assert left(study) == 5


def test_a_name_that_is_unknown_clears_nothing_in_its_stead(study: Shell) -> None:
    ended = study.run("clear", "scores", "--yes")
    assert ended.returncode == 1
    assert left(study) == 5


def test_media_go_with_their_entries(shell: Shell) -> None:
    shell.program(
        """
        from bencher_job import cached_job, gen_path

        @cached_job
        def film(n):
            path = gen_path("film")
            open(path, "w").close()
            return path

        film(1)
        """
    )
    assert list((shell.folder / "cachedir" / "fcache" / "media").iterdir())
    shell.out("clear", "--all", "--yes")
    assert not list((shell.folder / "cachedir" / "fcache" / "media").iterdir())


WASTEFUL = """
    import os
    from bencher_job import cached_job, gen_path

    @cached_job(ttl=0.2)
    def short_lived(x):
        return x

    @cached_job
    def killed(x):
        with open(gen_path("film"), "w") as file:
            file.write("x" * 1000)
        os.kill(os.getpid(), 9)

    short_lived(1)
    killed(1)
"""


@pytest.fixture
def wasteful(shell: Shell) -> Shell:
    shell.program(WASTEFUL, expected=-9)
    return shell


def test_what_a_killed_process_has_left_is_told_and_removed(wasteful: Shell) -> None:
    (folder,) = (wasteful.folder / "cachedir" / "fcache" / "media").iterdir()
    said = wasteful.out("gc", "--dry-run").splitlines()
    assert f"fcache/media/{folder.name}: media without an entry, 1.00 kB" in said
    assert folder.exists()
    assert "removed 1 orphan" in wasteful.out("gc", "--yes")
    assert not folder.exists()
    assert "media without an entry" not in wasteful.out("gc", "--dry-run")


def test_entries_whose_time_is_over_are_removed_by_gc(wasteful: Shell) -> None:
    wasteful.wait_until(lambda: "1 entry whose time is over" in wasteful.out("gc", "--dry-run"))
    assert "1 expired entry" in wasteful.out("gc", "--yes")
    assert wasteful.document("stats")["caches"][0]["removed"] == {"expired": 1}


def test_gc_removes_the_least_recently_used_entries_beyond_limits(shell: Shell) -> None:
    shell.program("""
    from bencher_job import cached_job

    @cached_job
    def job(x):
        return x

    for x in range(6):
        job(x)
    """)
    assert "would remove 2 entries beyond the limits" in shell.out("gc", "--dry-run", "--entries", "4")
    assert "3 entries beyond the limits" in shell.out("gc", "--yes", "--entries", "3")
    assert "2 entries beyond the limits" in shell.out("gc", "--yes", "--size", "1kB", "--unused-for", "1h")
    assert shell.out("gc", "--yes", "--unused-for", "1h") == "nothing to remove\n"
    (entry,) = shell.document("show", "job")["records"]
    assert entry["arguments"] == {"x": 5}
    assert "is not a size" in shell.run("gc", "--size", "much").stderr
    assert "entries=-1 is below 0" in shell.run("gc", "--entries", "-1").stderr


def test_gc_removes_nothing_unasked(wasteful: Shell) -> None:
    wasteful.out("ls")  # SQLite takes what a killed process has left in its log into the database
    before = wasteful.files()
    ended = wasteful.run("gc")
    assert ended.returncode == 2
    assert wasteful.files() == before


def test_gc_leaves_alone_what_a_job_may_still_write(shell: Shell) -> None:
    program = shell.start(
        """
        import sys
        from bencher_job import cached_job, gen_path

        @cached_job
        def film(n):
            open(gen_path("film"), "w").close()
            print("writing", flush=True)
            return sys.stdin.readline()

        film(1)
        """
    )
    assert program.stdout.readline() == "writing\n"
    assert shell.out("gc", "--yes") == "nothing to remove\n"
    program.communicate("done\n", timeout=60)
    assert program.returncode == 0
    assert shell.out("verify").endswith("1 entry verified, clean\n")
