"""Find out on which machine, and with which commit of the user's code, a job runs.

    function -> its file, or the current folder -> nearest .git -> HEAD -> ref or packed-refs -> commit
                                                             └---> git status --------------> dirty or not

The commit is read from git's own files, as `gitrepository-layout(5)` describes them. Only git can tell whether the tree
is dirty: it is started if there is a `.git` and a job runs, never for a lookup, and its answer is cached for a while.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any, Final, NamedTuple

from ._processes import renew_after_fork, start_lock

__all__ = ["GitState", "git_state", "git_state_of", "platform_name"]


COMMIT_AGE: Final = 1.0
"""Seconds for which a commit is cached; until then nothing is read from the disk."""

DIRTY_AGE: Final = 5.0
"""Seconds for which git's answer on the tree is cached, unless the commit changes."""

SHARE_OF_TIME: Final = 0.01
"""Maximum share of a process's time that git may take: the slower git is, the less often it is started."""

GIT_SECONDS: Final = 2.0
"""Timeout of git in seconds. After a timeout it isn't started again for the repository."""

MOST_PLACES: Final = 4096
"""Maximum number of files and folders whose repositories are cached."""

_DEEPEST_REF: Final = 5
_IN_REFTABLE: Final = "in a reftable"  # replaces a commit that only git can find, since its ref is not a file
_DIGITS: Final = frozenset("0123456789abcdef")
_KEPT_VARIABLES: Final = frozenset(
    {"GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH"}
)
_STATUS: Final = [
    "git",
    "-c",
    "core.fsmonitor=false",
    "status",
    "--porcelain=v2",
    "--branch",
    "--no-ahead-behind",
    "--untracked-files=no",
]


class GitState(NamedTuple):
    """A commit, and whether tracked files differ from it; None if git didn't answer."""

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
    known = None if code is None else _repositories.by_place.get(code.co_filename)
    if known is not None and time.monotonic() < known.until:
        return known.state
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

    The commit is at most a second old. `is_dirty` is at most 5 seconds old, or a hundred times the duration of
    `git status` if that is longer, and always belongs to the commit. Untracked files don't count. None if there is no
    repository or no commit yet. Never raises.

    For a repository of another user that isn't a `safe.directory`, git refuses and `is_dirty` is None. File system
    monitors are never run.
    """
    try:
        path = os.getcwd() if place is None else os.fspath(place)
        return _repositories.state(path if path.startswith("/") else os.path.abspath(path))
    except (OSError, ValueError):  # the current folder was removed, or the name is invalid
        return None


class _Repository:
    """A working tree with a `.git`, and its last known state."""

    def __init__(self, worktree: str) -> None:
        self.worktree = worktree
        self.head: str | None = None
        self.state: GitState | None = None
        self.ask_again = 0.0
        self.answers = True

    def look(self, now: float) -> GitState | None:
        """Read the commit, and run git if its answer is too old or is about another commit."""
        head = _head_commit(self.worktree)
        if head is None:
            return None
        if now >= self.ask_again or head != self.head:
            self.head, self.state = head, self._asked(head, now)
        return self.state

    def _asked(self, head: str, now: float) -> GitState | None:
        said = _status(self.worktree) if self.answers else None
        if said is None:
            self.answers, self.ask_again = False, math.inf
            return None if head == _IN_REFTABLE else GitState(head, None)
        seconds = time.monotonic() - now
        self.ask_again = now + max(DIRTY_AGE, seconds / SHARE_OF_TIME)
        if head == _IN_REFTABLE:
            return GitState(said.commit, said.is_dirty) if said.commit else None
        # A commit made in between leaves the state of the tree unknown.
        return GitState(head, said.is_dirty if said.commit == head else None)


class _Known(NamedTuple):
    until: float
    state: GitState | None


class _Repositories:
    """The repositories that this process uses. While one thread reads the disk, others get the last known state."""

    def __init__(self) -> None:
        self.by_place: dict[str, _Known] = {}
        self._by_worktree: dict[str, _Repository] = {}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock in a forked child, where the known states stay valid."""
        self._lock = threading.Lock()

    def state(self, place: str) -> GitState | None:
        """Return the state for a file or folder, reading the disk only if the cached state is too old."""
        known = self.by_place.get(place)
        if known is not None and time.monotonic() < known.until:
            return known.state
        lock = self._lock
        if not lock.acquire(blocking=known is None):
            return None if known is None else known.state
        try:
            return self._look(place)
        finally:
            lock.release()

    def _look(self, place: str) -> GitState | None:
        now = time.monotonic()
        worktree = _worktree_of(place)
        state = None
        if worktree is not None:
            state = self._by_worktree.setdefault(worktree, _Repository(worktree)).look(now)
        if len(self.by_place) >= MOST_PLACES:
            self.by_place.clear()
        self.by_place[place] = _Known(time.monotonic() + COMMIT_AGE, state)
        return state


_repositories: Final = _Repositories()


def _worktree_of(place: str) -> str | None:
    """Find the nearest parent folder with a `.git` folder or file."""
    folder = os.path.realpath(place)
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return folder


def _is_commit(text: str) -> bool:
    return len(text) in {40, 64} and _DIGITS.issuperset(text)


def _head_commit(worktree: str) -> str | None:
    """Read the commit of HEAD; None if there is no commit or no repository."""
    git_folder = os.path.join(worktree, ".git")
    if os.path.isfile(git_folder):  # in a linked working tree or a submodule it names the folder
        pointer = _read(git_folder)
        if not pointer.startswith("gitdir:"):
            return None
        git_folder = os.path.join(worktree, pointer.removeprefix("gitdir:").strip())
    common = os.path.join(git_folder, _read(os.path.join(git_folder, "commondir")).strip())
    text = _read(os.path.join(git_folder, "HEAD")).strip()
    for _ in range(_DEEPEST_REF):
        if not text.startswith("ref:"):
            break
        ref = text.removeprefix("ref:").strip()
        if ref == "refs/heads/.invalid":
            return _IN_REFTABLE
        if not ref.startswith("refs/") or ".." in ref:
            return None
        text = next(_values_of(ref, git_folder, common), "").strip()
    return text if _is_commit(text) else None


def _values_of(ref: str, git_folder: str, common: str) -> Iterator[str]:
    """Yield the values of a ref in git's order: loose refs first, then packed ones."""
    for folder in dict.fromkeys((git_folder, common)):
        if text := _read(os.path.join(folder, ref)):
            yield text
    packed = _read(os.path.join(common, "packed-refs"), most=None)
    if match := re.search(rf"^([0-9a-f]+) {re.escape(ref)}$", packed, re.MULTILINE):
        yield match[1]


def _read(path: str, *, most: int | None = 4096) -> str:
    """Read the beginning of a regular file; empty if there is none. Never blocks on a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(most) if stat.S_ISREG(os.fstat(descriptor).st_mode) else ""
    except OSError:
        return ""


def _status(worktree: str) -> GitState | None:
    """Ask git for the commit (empty if there is none) and whether the tree is dirty; None if git fails."""
    import subprocess  # slow to import, and many jobs are not in a repository

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
    try:
        with start_lock.lock:
            git = subprocess.Popen(  # noqa: S603 - the arguments are constants, and no shell is involved
                _STATUS,
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
    except (OSError, subprocess.SubprocessError):
        return None
    if git.returncode != 0:
        return None
    lines = output.decode("utf-8", "replace").splitlines()
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    return GitState(oid if _is_commit(oid) else "", any(not line.startswith("#") for line in lines))
