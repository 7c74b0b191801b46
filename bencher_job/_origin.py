"""Find out on which machine, and with which commit of the user's code, a job runs.

    function -> its file, or the current folder -> nearest .git -> git status -> commit, dirty or not

Git is started only if there is a `.git` and a job runs, never for a lookup, and its answer is cached for a while.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple

from ._processes import start_lock

AGE: Final = 5.0
"""Seconds for which git's answer is cached."""

SHARE_OF_TIME: Final = 0.01
"""Maximum share of a process's time that git may take: the slower git is, the less often it is started."""

GIT_SECONDS: Final = 2.0
"""Timeout of git in seconds."""

MOST_PLACES: Final = 4096
"""Maximum number of files and folders whose repositories are cached."""

_KEPT_VARIABLES: Final = frozenset(
    {"GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH"}
)
_STATUS: Final = "status", "--porcelain=v2", "--branch", "--no-ahead-behind", "--untracked-files=no"
_COMMIT: Final = "rev-parse", "--verify", "HEAD"


class GitState(NamedTuple):
    """A commit, and whether tracked files differ from it; None if it takes git too long to tell."""

    commit: str
    is_dirty: bool | None


@functools.cache
def platform_name() -> str:
    """Return the system, kernel version and processor, such as `Linux-6.1-x86_64`."""
    known = os.uname()
    version = re.match(r"\d+(?:\.\d+)?", known.release)
    return f"{known.sysname}-{version[0] if version else known.release}-{known.machine}"


def git_state_of(function: Callable[..., Any]) -> GitState | None:
    """Return the state of the repository of a function's file, or of the current folder if there is no file."""
    is_plain = type(function) is FunctionType and "__wrapped__" not in function.__dict__
    code = function.__code__ if is_plain else _code_of(function)
    file = None if code is None or code.co_filename.startswith("<") else code.co_filename
    if file is not None and "ipykernel_" in file and not os.path.exists(file):
        file = None  # a notebook's cell has the name of a file that is never written
    return git_state(file)


def _code_of(function: Any) -> CodeType | None:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        function = inspect.unwrap(function)
    except ValueError:  # it wraps itself
        return None
    for candidate in (function, getattr(type(function), "__call__", None)):  # noqa: B004 - for its code
        code = getattr(candidate, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None


def git_state(place: str | os.PathLike[str] | None = None) -> GitState | None:
    """Return the state of the repository of a file or folder, by default the current folder.

    It is at most 5 seconds old, or a hundred times the duration of `git status` if that is longer. Untracked files
    don't count. None if there is no repository or no commit yet, or if git doesn't answer: it isn't installed, or
    refuses a repository of another user that isn't a `safe.directory`. Never raises. File system monitors are never
    run.
    """
    try:
        path = os.getcwd() if place is None else os.fspath(place)
        path = path if path.startswith("/") else os.path.abspath(path)
        now, known = time.monotonic(), _known.get(path)
        return known.state if known is not None and now < known.until else _look_up(path, now, known)
    except (OSError, ValueError):  # the current folder was removed, or the name is invalid
        return None


class _Known(NamedTuple):
    until: float
    state: GitState | None


_known: Final[dict[str, _Known]] = {}
"""The states of recent files, folders and working trees."""


def _look_up(place: str, now: float, known: _Known | None) -> GitState | None:
    """Find out the state of a file, a folder or a working tree that was `known`, and keep it for a while."""
    if known is not None:
        _known[place] = known._replace(until=now + GIT_SECONDS)  # other threads use it while this one asks
    worktree = _worktree_of(place)
    if worktree is None:
        found = _Known(now + AGE, None)
    elif worktree == place:
        state = _status(worktree)
        spent = time.monotonic() - now
        age = math.inf if state is None else max(AGE, spent / SHARE_OF_TIME)
        found = _Known(now + age, state if state is not None and state.commit else None)
    else:
        state = git_state(worktree)
        found = _known.get(worktree, _Known(now + AGE, state))
    if len(_known) >= MOST_PLACES:
        _known.clear()
    _known[place] = found
    return found.state


def _worktree_of(place: str) -> str | None:
    """Find the nearest parent folder with a `.git` folder or file."""
    folder = os.path.realpath(place)
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return folder


def _status(worktree: str) -> GitState | None:
    """Ask git for the commit (empty if there is none) and whether the tree is dirty; None if git fails."""
    import subprocess  # slow to import, and many jobs are not in a repository

    try:
        try:
            lines = _answer(worktree, _STATUS).splitlines()
        except subprocess.TimeoutExpired:  # a large tree that is looked at for the first time
            return GitState(_answer(worktree, _COMMIT).strip(), None)
    except (OSError, subprocess.SubprocessError):
        return None
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    return GitState(oid if oid != "(initial)" else "", any(not line.startswith("#") for line in lines))


def _answer(worktree: str, words: Sequence[str]) -> str:
    """Return what git answers.

    Raises:
        OSError: when git can't be started.
        subprocess.SubprocessError: when it fails, or takes longer than `GIT_SECONDS`.
    """
    import subprocess

    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name in _KEPT_VARIABLES
    }
    variables |= {
        "GIT_CEILING_DIRECTORIES": os.path.dirname(worktree),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    with start_lock.lock:
        git = subprocess.Popen(  # noqa: S603 - the arguments are constants, and no shell is involved
            ["git", "-c", "core.fsmonitor=false", *words],  # noqa: S607 - from the PATH, as users run it
            cwd=worktree,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    with git:
        try:
            output, _ = git.communicate(timeout=GIT_SECONDS)
        except BaseException:
            git.kill()
            raise
    if git.returncode != 0:
        raise subprocess.CalledProcessError(git.returncode, git.args)
    return output.decode("utf-8", "replace")
