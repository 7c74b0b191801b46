"""A cache that isn't there, isn't ours, is damaged or busy gets one sentence and an exit code, never a traceback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.shell import PATIENCE, PROGRAM, Shell

LOOKS = (
    ["ls"],
    ["show"],
    ["show", "score", "--json"],
    ["stats"],
    ["verify"],
    ["gc", "-n"],
    ["export", "x.tar"],
)
CHANGES = (["clear", "--all", "--yes"], ["gc", "--yes"], ["verify", "--repair"])

every_look = pytest.mark.parametrize("words", LOOKS, ids=" ".join)
every_command = pytest.mark.parametrize("words", [*LOOKS, *CHANGES], ids=" ".join)


def database(shell: Shell) -> Path:
    return shell.folder / "cachedir" / "fcache" / "cache.db"


@contextmanager
def locked(shell: Shell) -> Iterator[None]:
    """Keep the database to ourselves, reading included."""
    with closing(sqlite3.connect(database(shell), isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = exclusive")
        connection.execute("BEGIN EXCLUSIVE")
        yield


@every_command
def test_a_cache_that_is_not_there(shell: Shell, words: list[str]) -> None:
    code, sentence = shell.failure(*words)
    assert code == 3
    assert "cachedir is not a cache directory: No such file or directory" in sentence
    code, sentence = shell.failure(*words, "--cache-name", "other")
    assert code == 3
    assert list(shell.folder.iterdir()) == []


@every_command
def test_a_folder_that_holds_no_cache(shell: Shell, words: list[str]) -> None:
    (shell.folder / "cachedir" / "empty").mkdir(parents=True)
    code, sentence = shell.failure(*words)
    assert (code, f"{shell.folder}/cachedir holds no cache" in sentence) == (3, True)
    (shell.folder / "file").touch()
    code, sentence = shell.failure(*words, "--cache-dir", "file")
    assert (code, "file is not a cache directory: Not a directory" in sentence) == (3, True)


@every_command
def test_a_cache_that_others_can_write_to(study: Shell, words: list[str]) -> None:
    database(study).parent.chmod(0o777)
    code, sentence = study.failure(*words)
    assert code == 4
    assert sentence == (
        f"{database(study).parent} can be written to by others (mode 777). "
        "Add --trust if you trust all who could have written to it."
    )
    assert study.run(*words, "--trust").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_cache_of_another_user(study: Shell) -> None:
    os.chown(database(study).parent, 65534, 65534)
    code, sentence = study.failure("ls")
    assert code == 4
    assert "belongs to the user number 65534" in sentence


@every_look
@pytest.mark.parametrize("harm", ["overwritten", "cut off"])
def test_a_database_that_is_damaged(study: Shell, words: list[str], harm: str) -> None:
    if harm == "overwritten":
        database(study).write_bytes(b"no database" * 10_000)
    else:
        os.truncate(database(study), 12_288)
    before = study.files()
    code, sentence = study.failure(*words)
    assert code == 5
    assert sentence.startswith(f"{database(study).parent} is damaged: DatabaseError: ")
    assert "bencher-job verify --repair" in sentence
    assert study.files() == before


@pytest.mark.parametrize(
    ("words", "harm"),
    [*((words, "inside") for words in CHANGES), (CHANGES[0], "cut off"), (CHANGES[1], "overwritten")],
    ids=lambda given: given if isinstance(given, str) else " ".join(given),
)
def test_a_command_that_changes_mends_a_damaged_database(study: Shell, words: list[str], harm: str) -> None:
    if harm == "overwritten":
        database(study).write_bytes(b"no database" * 10_000)
    elif harm == "cut off":
        os.truncate(database(study), 12_288)
    else:
        destroy_all_but_the_first_page(study)
    ended = study.run(*words)
    assert ended.returncode in {0, 1}
    assert "set aside" in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
    assert study.run("verify").returncode == 0


def destroy_all_but_the_first_page(study: Shell) -> None:
    pages = database(study).stat().st_size // 4096
    with database(study).open("r+b") as file:
        for page in range(1, pages):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)


def test_a_database_that_is_damaged_inside_is_found_by_verify(study: Shell) -> None:
    pages = database(study).stat().st_size // 4096
    with database(study).open("r+b") as file:
        for page in range(2, pages):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    ended = study.run("verify")
    assert ended.returncode in {1, 5}
    assert "Traceback" not in ended.stderr
    assert "damaged" in ended.stdout + ended.stderr


def test_a_database_of_a_later_version(study: Shell) -> None:
    with closing(sqlite3.connect(database(study))) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")
    code, sentence = study.failure("ls")
    assert code == 5
    assert "written by a later version of this library" in sentence


def test_a_database_of_something_else(shell: Shell) -> None:
    database(shell).parent.mkdir(parents=True)
    with closing(sqlite3.connect(database(shell))) as connection:
        connection.execute("CREATE TABLE Mine (x)")
    code, sentence = shell.failure("ls")
    assert code == 3
    assert "has none of its tables" in sentence


@every_command
def test_a_cache_that_is_busy(study: Shell, words: list[str]) -> None:
    with locked(study):
        code, sentence = study.failure(*words, "--wait", "0.1")
    assert code == 6
    assert sentence.startswith(f"{database(study).parent} is busy: ")
    assert sentence.endswith("Try again when the other process is done.")


def test_a_command_waits_for_a_busy_cache(study: Shell) -> None:
    with locked(study):
        waiting = subprocess.Popen(
            [PROGRAM, "ls"], cwd=study.folder, env=study.environment, stdout=subprocess.PIPE, text=True
        )
        study.wait_until(lambda: study.has_open(waiting, "cache.db"))
    out, _ = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 0
    assert "study.score" in out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_a_cache_that_may_not_be_read(study: Shell, mode: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bencher_job-") as public:
        os.chmod(public, 0o755)
        shutil.copytree(study.folder / "cachedir", Path(public) / "cachedir")
        os.chmod(Path(public) / "cachedir", mode)
        study.out("ls")  # imports what another user may not be able to read
        ended = study.run("ls", "--cache-dir", f"{public}/cachedir", user=65534)
    assert ended.returncode == 5
    assert ended.stderr == f"bencher-job: {public}/cachedir can't be read: Permission denied\n"


def test_one_bad_cache_of_several_doesn_t_hide_the_others(study: Shell) -> None:
    bad = study.folder / "cachedir" / "bad"
    bad.mkdir()
    (bad / "cache.db").write_bytes(b"no database" * 1000)
    ended = study.run("ls")
    assert ended.returncode == 5
    assert ended.stderr.startswith(f"bencher-job: {bad} is damaged: ")
    assert "study.score" in ended.stdout


@pytest.mark.parametrize("words", [["ls"], ["gc", "--yes"]])
def test_ctrl_c_ends_a_command_that_waits_quietly(study: Shell, words: list[str]) -> None:
    with locked(study):
        waiting = subprocess.Popen(
            [PROGRAM, *words, "--wait", "50"],
            cwd=study.folder,
            env=study.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        study.wait_until(lambda: study.has_open(waiting, "cache.db"))
        waiting.send_signal(signal.SIGINT)
        out, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, out, errors) == (130, "", "")


@pytest.mark.parametrize("words", [["show", "--limit", "0"], ["ls", "--json"], ["--help"]])
def test_a_pipe_that_is_closed_is_no_error(study: Shell, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [PROGRAM, *words],
        cwd=study.folder,
        env=study.environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("words", [[], ["nothing"], ["ls", "more"]])
def test_words_that_make_no_command(shell: Shell, words: list[str]) -> None:
    ended = shell.run(*words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(
        "bencher-job: no command is called" if words == ["nothing"] else "usage: bencher-job"
    )


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["shwo"], "no command is called shwo. Did you mean show? --help lists them."),
        (["show", "--wehre", "c=1"], "show doesn't take --wehre. Did you mean --where? --help lists what it takes."),
        (["ls", "--srot=size"], "ls doesn't take --srot=size. Did you mean --sort? --help lists what it takes."),
        (["show", "scoer"], "no function is called scoer, and no key begins so. Did you mean score?"),
        (["show", "stduy.loss"], "no function is called stduy.loss, and no key begins so. Did you mean study.loss?"),
        (["show", "--where", "modle=svm"], "no entry has an argument called modle. Did you mean model?"),
        (["clear", "--tag", "nighty"], "no entry has the tag nighty. Did you mean nightly?"),
    ],
)  # fmt: skip
def test_a_misspelled_word_is_answered_with_what_may_be_meant(
    study: Shell, words: list[str], meant: str
) -> None:
    ended = study.run(*words)
    assert ended.returncode in {1, 2}
    assert ended.stderr.endswith(f"bencher-job: {meant}\n")


def test_all_commands_give_the_same_entries_the_same_size(study: Shell) -> None:
    sizes = [record["size"] for record in study.document("show", "score")["records"]]
    of_function = next(
        each["size"] for each in study.document("ls")["functions"] if each["name"] == "study.score"
    )
    assert of_function == sum(sizes)
    all_sizes = sum(record["size"] for record in study.document("show")["records"])
    assert study.document("stats")["caches"][0]["size"] == all_sizes
    (told,) = re.findall(r"4 entries, (\S+ \S*B)", study.out("clear", "score", "--dry-run"))
    assert told in study.out("ls")
