"""The machine and the commit that a job ran with, read from real repositories."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bencher_job import _origin
from bencher_job._origin import GitState, git_state, git_state_of, platform_name
from tests.environment import unmeasured

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")


def git(folder: Path, *words: str) -> str:
    ended = subprocess.run([*GIT, *words], cwd=folder, check=True, capture_output=True, text=True)
    return ended.stdout.strip()


def new_repository(folder: Path, *options: str) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main", *options)
    (folder / "study.py").write_text("a = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start as a new process does."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    _origin._known.clear()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "project")


@pytest.fixture
def git_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders in which git is started."""
    runs: list[str] = []
    status = _origin._status
    monkeypatch.setattr(_origin, "_status", lambda worktree: (runs.append(worktree), status(worktree))[1])
    return runs


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still unless it is moved."""
    now = [1000.0]
    monkeypatch.setattr(_origin.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_the_platform_is_named_in_a_word() -> None:
    assert re.fullmatch(r"[A-Za-z]+-\d+(\.\d+)?-\w+", platform_name())
    assert platform_name() is platform_name()


def test_a_file_and_a_folder_in_a_repository_have_its_commit(repository: Path) -> None:
    deep = repository / "a" / "b"
    deep.mkdir(parents=True)
    expected = GitState(git(repository, "rev-parse", "HEAD"), False)
    assert [git_state(place) for place in (repository, repository / "study.py", deep, str(deep))] == [
        expected
    ] * 4


def test_without_a_place_the_current_folder_counts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    assert git_state() == git_state("study.py") == GitState(git(repository, "rev-parse", "HEAD"), False)


def test_a_folder_behind_a_link_is_looked_at_where_it_really_lies(repository: Path, tmp_path: Path) -> None:
    (repository / "inner").mkdir()
    (tmp_path / "link").symlink_to(repository / "inner")
    assert git_state(tmp_path / "link") == git_state(repository)
    assert git_state(repository) is not None


@pytest.mark.parametrize(
    ("change", "is_dirty"),
    [
        (lambda folder: (folder / "study.py").write_text("a = 2\n"), True),
        (lambda folder: (folder / "study.py").unlink(), True),
        (lambda folder: (folder / "new.py").write_text(""), False),
        (lambda folder: ((folder / "new.py").write_text(""), git(folder, "add", "new.py")), True),
    ],
    ids=["edited", "removed", "untracked", "added"],
)
def test_a_tree_is_dirty_when_files_that_git_knows_differ(
    repository: Path, change: Callable[[Path], object], is_dirty: bool
) -> None:
    change(repository)
    assert git_state(repository) == GitState(git(repository, "rev-parse", "HEAD"), is_dirty)


def linked(folder: Path) -> Path:
    git(folder, "worktree", "add", "-q", "-b", "feature", "../linked")
    git(folder.parent / "linked", "commit", "-qm", "second", "--allow-empty")
    return folder.parent / "linked"


def submodule(folder: Path) -> Path:
    inner = new_repository(folder.parent / "inner")
    git(inner, "commit", "-qm", "second", "--allow-empty")
    git(folder, "submodule", "--quiet", "add", str(inner), "inner")
    assert (folder / "inner/.git").is_file()
    return folder / "inner"


@pytest.mark.parametrize("arrange", [linked, submodule])
def test_the_commit_is_what_git_says_it_is(repository: Path, arrange: Callable[[Path], Path]) -> None:
    place = arrange(repository)
    assert git_state(place) == GitState(git(place, "rev-parse", "HEAD"), False)


def write_program(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_outside_of_a_repository_there_is_no_state_and_git_is_not_started(
    tmp_path: Path, git_runs: list[str]
) -> None:
    assert (git_state(tmp_path), git_runs) == (None, [])


def test_a_repository_without_a_commit_has_no_state(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "new")
    assert git_state(tmp_path / "new") is None


def test_a_function_goes_by_its_file_through_whatever_wraps_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = """
        import functools
        def plain(): ...
        @functools.wraps(plain)
        def wrapper(): ...
        class Model:
            def fit(self): ...
            def __call__(self): ...
    """
    space: dict[str, object] = {"__name__": "study"}
    exec(compile(textwrap.dedent(code), str(repository / "study.py"), "exec"), space)
    model = space["Model"]()  # type: ignore[operator]
    functions = [space["plain"], space["wrapper"], model.fit, model, functools.partial(model.fit)]
    outside = functools.wraps(space["plain"])(lambda: None)  # type: ignore[arg-type]
    expected = GitState(git(repository, "rev-parse", "HEAD"), False)
    assert [git_state_of(function) for function in [*functions, outside]] == [expected] * 6


@pytest.mark.parametrize("filename", ["<stdin>", "<ipython-input-1-2>", "/tmp/ipykernel_1/2.py"])
def test_a_function_without_a_file_goes_by_the_current_folder(
    repository: Path, monkeypatch: pytest.MonkeyPatch, filename: str
) -> None:
    monkeypatch.chdir(repository)
    space: dict[str, object] = {}
    exec(compile("def typed(): ...", filename, "exec"), space)
    expected = GitState(git(repository, "rev-parse", "HEAD"), False)
    assert [git_state_of(function) for function in (space["typed"], pow, dict)] == [expected] * 3


def test_a_function_that_wraps_itself_is_not_followed_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def snake() -> None: ...

    snake.__wrapped__ = snake  # type: ignore[attr-defined]
    assert git_state_of(snake) is None


def test_variables_of_another_repository_mislead_nobody(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new_repository(tmp_path / "other")
    (other / "study.py").write_text("a = 2\n")
    for name, value in {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / ".git/index",
        "GIT_COMMON_DIR": other / ".git",
    }.items():
        monkeypatch.setenv(name, str(value))
    state = git_state(repository)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"):
        monkeypatch.delenv(name)
    assert state == GitState(git(repository, "rev-parse", "HEAD"), False)


def test_the_index_is_not_written(repository: Path) -> None:
    os.utime(repository / "study.py", (1, 1))  # git would note the new time in its index
    index = repository / ".git/index"
    before = index.read_bytes()
    assert git_state(repository) == GitState(git(repository, "rev-parse", "HEAD"), False)
    assert index.read_bytes() == before
    git(repository, "status")
    assert index.read_bytes() != before  # git alone does write it


def test_git_is_told_to_write_nothing_and_to_look_no_further_up(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path / "bin/git", f"env > {tmp_path}/env", monkeypatch)
    git_state(repository)
    told = (tmp_path / "env").read_text().splitlines()
    assert {"GIT_OPTIONAL_LOCKS=0", f"GIT_CEILING_DIRECTORIES={tmp_path}", "GIT_NO_LAZY_FETCH=1"} <= set(told)


def test_a_monitor_that_a_repository_names_is_not_run(repository: Path, tmp_path: Path) -> None:
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    monitor.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(monitor))
    git(repository, "status")
    assert (tmp_path / "ran").exists()  # git alone does run it
    (tmp_path / "ran").unlink()
    assert git_state(repository) is not None
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository to another user")
def test_of_another_users_repository_git_says_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where nothing is a safe.directory
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for path in (repository, repository / ".git"):
        os.chown(path, 12345, 12345)
    assert git_state(repository) is None


def test_where_git_is_missing_there_is_no_state(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state(repository) is None


def test_a_git_that_is_too_slow_is_asked_once(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git_runs: list[str]
) -> None:
    monkeypatch.setattr(_origin, "GIT_SECONDS", 0.05)
    monkeypatch.setattr(_origin, "AGE", 0.0)
    write_program(tmp_path / "bin/git", "exec sleep 60", monkeypatch)
    assert [git_state(repository) for _ in range(3)] == [None] * 3
    assert len(git_runs) == 1


def test_of_a_tree_that_takes_long_to_look_at_the_commit_is_known(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, real = git(repository, "rev-parse", "HEAD"), shutil.which("git")
    write_program(
        tmp_path / "bin/git", f'case "$*" in *status*) exec sleep 600;; esac; exec {real} "$@"', monkeypatch
    )
    assert git_state(repository) == GitState(commit, None)


def test_git_is_asked_again_when_its_word_is_old(
    repository: Path, clock: Callable[[float], None], git_runs: list[str]
) -> None:
    first = git_state(repository)
    assert first == GitState(git(repository, "rev-parse", "HEAD"), False)
    (repository / "study.py").write_text("a = 2\n")
    git(repository, "commit", "-qm", "second", "--allow-empty")
    clock(4.0)
    assert git_state(repository) == first
    clock(1.5)
    assert git_state(repository / "study.py") == GitState(git(repository, "rev-parse", "HEAD"), True)
    assert git_runs == [str(repository)] * 2


def test_the_slower_git_is_the_less_often_it_is_asked(
    repository: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def slow(worktree: str) -> GitState:
        asked.append(worktree)
        clock(1.0)
        return GitState("", False)

    monkeypatch.setattr(_origin, "_status", slow)
    for _ in range(250):
        clock(1.0)
        git_state(repository)
    assert len(asked) == 3


def test_git_is_started_once_for_all_files_of_a_repository(repository: Path, git_runs: list[str]) -> None:
    for number in range(20):
        git_state(repository / f"file{number}.py")
    assert git_runs == [str(repository)]


def test_threads_that_ask_meanwhile_get_what_was_known(
    repository: Path, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = git_state(repository)
    looking, looked = threading.Event(), threading.Event()

    def held(worktree: str) -> GitState:
        looking.set()
        assert looked.wait(60)
        return GitState("", True)

    monkeypatch.setattr(_origin, "_status", held)
    clock(10.0)
    thread = threading.Thread(target=git_state, args=(repository,))
    thread.start()
    assert looking.wait(60)
    assert git_state(repository) == first
    looked.set()
    thread.join()


def no_head(folder: Path) -> None:
    (folder / ".git/HEAD").unlink()


def file_that_leads_nowhere(folder: Path) -> None:
    (folder / ".git").rename(folder / "moved")
    (folder / ".git").write_text("gitdir: /nowhere")


def file_of_another_kind(folder: Path) -> None:
    (folder / ".git").rename(folder / "moved")
    (folder / ".git").write_text("a note")


@pytest.mark.parametrize(
    "damage",
    [
        no_head,
        file_that_leads_nowhere,
        file_of_another_kind,
    ],
)
def test_a_damaged_repository_has_no_state(repository: Path, damage: Callable[[Path], None]) -> None:
    damage(repository)
    assert git_state(repository) is None


@pytest.mark.parametrize("place", ["a\x00b", "/nowhere/at/all", "\udcff"])
def test_a_place_that_is_none_has_no_state(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_state(place) is None


def test_a_current_folder_that_is_gone_has_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert git_state() is None


def test_places_are_forgotten_before_they_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_origin, "MOST_PLACES", 10)
    for number in range(100):
        git_state(tmp_path / str(number))
    assert len(_origin._known) <= 10


def test_importing_starts_nothing_and_imports_no_subprocess() -> None:
    code = (
        "import sys, bencher_job._origin; sys.exit('platform' in sys.modules or 'subprocess' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], env=unmeasured(), check=False)
    assert run.returncode == 0


def test_a_fork_beside_git_lets_nobody_wait_for_the_child(repository: Path) -> None:
    """A child that has the pipe by which a program tells that it has begun would keep its parent waiting."""
    program = """
        import os, signal, sys, threading, time
        from bencher_job._origin import _status

        sys.setswitchinterval(1e-6)
        asking = threading.Thread(target=lambda: [_status(sys.argv[1]) for _ in range(150)], daemon=True)
        asking.start()
        children = []
        while asking.is_alive() and len(children) < 1000:
            child = os.fork()
            if child == 0:
                time.sleep(600)
                os._exit(0)
            children.append(child)
            if len(children) > 20:
                time.sleep(0.005)
        asking.join(60)
        print(asking.is_alive())
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        """
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program), repository],
        env={**unmeasured(), "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.stdout == "False\n", run.stderr
