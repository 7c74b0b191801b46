"""The files that a job writes: one folder per run, kept and removed with the job's entry."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from . import _options
from ._folders import make_private
from ._names import MEDIA_FOLDER, NameOf
from ._processes import may_live, process_name

__all__ = [
    "MEDIA_FOLDER",
    "RUNNING",
    "RunningJob",
    "current_job_key",
    "discard",
    "gen_path",
    "is_run_folder",
    "may_be_running",
    "run_folder",
    "run_folders",
    "running",
    "running_as",
    "running_keys",
    "size_of",
]


class RunningJob(NamedTuple):
    """A job while its function runs: its key, where its media go, and the keys of the jobs that called it."""

    key: str
    folder: str | None
    callers: frozenset[str]
    numbers: Iterator[int]

    def may_have_files(self) -> bool:
        """Whether somebody has asked for a path in its folder, or may have; to be asked once, when it has run."""
        return next(self.numbers) > 1


_run_numbers = itertools.count()
RUNNING: Final[ContextVar[RunningJob | None]] = ContextVar("bencher_job_running", default=None)
"""The job that runs in this thread or task."""


@contextmanager
def running(key: str, folder: str | None) -> Iterator[RunningJob]:
    """Make a job the current one of this task while its function runs."""
    job = running_as(key, folder)
    token = RUNNING.set(job)
    try:
        yield job
    finally:
        RUNNING.reset(token)


def running_as(key: str, folder: str | None) -> RunningJob:
    """Give a job that is to be the current one, called from the one that is."""
    return RunningJob(key, folder, running_keys(), itertools.count(1))


def _expect_paths_of_child() -> None:
    """Take a number for the job that forks here, since nobody hears of it when the child asks for a path."""
    job = RUNNING.get()
    if job is not None:
        next(job.numbers)


os.register_at_fork(before=_expect_paths_of_child)


def running_keys() -> frozenset[str]:
    """Give the keys of the job that runs here and of all jobs that it was called from."""
    job = RUNNING.get()
    return frozenset() if job is None else job.callers | {job.key}


def current_job_key() -> str | None:
    """Give the key of the job that runs in this thread or task, or None outside a job.

    >>> current_job_key() is None
    True
    """
    job = RUNNING.get()
    return None if job is None else job.key


def gen_path(filename: str, folder: str = "generic", suffix: str = ".dat") -> str:
    """Give an absolute path for a file to write, a new one at each call; its folder is made, the file is not.

    Inside a job the path lies in a folder of this run's own. The folder is kept with the job's entry, and is removed
    with it or when the job fails. Outside a job the name is unique and the file is the caller's own. A thread that a
    job starts is outside of it, unless it is run in a copy of the job's `contextvars` context.

    Raises:
        ValueError: when filename, folder or suffix would lead out of the media folder.
    """
    for name, part in (("filename", filename), ("folder", folder), ("suffix", suffix)):
        if ".." in PurePath(part).parts or PurePath(part).is_absolute() or "\0" in part:
            raise ValueError(
                f"{name}={part!r} leads out of the media folder. Use a relative name without '..'."
            )
    job = RUNNING.get()
    if job is None or job.folder is None:
        path = (
            _options.cache_directory() / MEDIA_FOLDER / folder / f"{filename}-{os.urandom(16).hex()}{suffix}"
        )
    else:
        path = Path(job.folder, folder, f"{filename}-{next(job.numbers)}{suffix}")
    make_private(path.parent)
    return os.fspath(path)


def run_folder(store: str | Path, key: str) -> str:
    """Name the folder of a new run of a job; `gen_path` makes it when the job first asks for a path.

    The name begins with a digest of the key, which may be any text, and tells which process the run belongs to, so that
    a folder without an entry can be told from that of a job that still runs.
    """
    return run_folders(store, [key])[0]


def run_folders(store: str | os.PathLike[str], keys: Iterable[str]) -> list[str]:
    """Name the folders of new runs of jobs that begin together, as `run_folder` does."""
    before, process = f"{store!s}/{MEDIA_FOLDER}/", process_name()
    return [f"{before}{_digest_of(key)}.{process}.{next(_run_numbers)}" for key in keys]


def _digest_of(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_run_folder(name: str) -> bool:
    """Whether a name is one that `run_folder` gives."""
    return NameOf.RUN_FOLDER.match(name) is not None


def may_be_running(name: str) -> bool:
    """Whether the process that a run's folder belongs to may still live.

    It may when it lives, and when it runs on another machine, where nobody here can tell.
    """
    parts = NameOf.RUN_FOLDER.match(name)
    return parts is not None and may_live(parts["process"])


def size_of(folder: Path) -> int:
    """Add up the sizes of the files in a folder, in bytes; 0 where there is no folder."""
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())


def discard(folder: str | os.PathLike[str]) -> None:
    """Remove a run's folder and all that is in it; that it is gone already is no error, and a link is not followed."""
    import shutil  # takes long to import, and few jobs write files

    if os.path.islink(folder):
        os.unlink(folder)
        return
    shutil.rmtree(folder, onerror=_ignore_missing)


def _ignore_missing(
    _function: object, _path: str, info: tuple[type[BaseException], BaseException, object]
) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]
