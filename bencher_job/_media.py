"""Files written by a job: one folder per run, kept and removed with the job's entry."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Final

from . import _options
from ._context import CURRENT, Context
from ._folders import MEDIA_FOLDER, NameOf, make_private
from ._processes import may_live, name_of

_run_numbers = itertools.count()

Finder = Callable[[str, str], str | None]

FINDERS: Final[list[Finder]] = []
"""Functions that find a file of an entry by key and name, in the stores that this process has opened."""

_FINDER: Final[ContextVar[Finder | None]] = ContextVar("finder", default=None)
"""Finds files in the store whose entry is being unpickled."""


holds_paths: Final = re.compile(b"found_again").search
"""Finds out whether a pickle may hold a path that `gen_path` returned inside a job."""


@contextmanager
def finding_by(find: Finder) -> Iterator[None]:
    """Look for files of entries in one store first, while a value of it is unpickled."""
    token = _FINDER.set(find)
    try:
        yield
    finally:
        _FINDER.reset(token)


class MediaPath(str):
    """A path that `gen_path` returned inside a job, wherever the job's entry is.

    It pickles as the entry's key and the file's name, and is unpickled as the path of that file in the store that has
    the entry here: after the entry was fetched or imported, or its folder moved. As an argument it counts as key and
    name. Texts that are made of it are plain.
    """

    __slots__ = ("_key", "_name")
    _key: str
    _name: str

    @classmethod
    def of(cls, path: str, key: str, name: str) -> MediaPath:
        """Make the path of a file of an entry."""
        made = cls(path)
        made._key, made._name = key, name
        return made

    def __job_key__(self) -> tuple[str, str]:
        return self._key, self._name

    def __reduce__(self) -> tuple[Callable[..., str], tuple[str, str, str]]:
        return found_again, (str(self), self._key, self._name)


def found_again(path: str, key: str, name: str) -> MediaPath:
    """Return the path of a file of an entry, which was at `path` once."""
    first = _FINDER.get()
    finders = FINDERS if first is None else [first, *FINDERS]
    here = next((here for find in finders if (here := find(key, name)) is not None), path)
    return MediaPath.of(here, key, name)


def job_context(key: str, folder: str | None) -> Context:
    """Make the context in which the current job runs another one."""
    outer = CURRENT.get()
    return outer._replace(key=key, folder=folder, keys=outer.keys | {key}, numbers=itertools.count(1))


def _expect_paths_of_child() -> None:
    """Use up a number of the job that forks, since its parent can't see that a child requests a path."""
    next(CURRENT.get().numbers)


os.register_at_fork(before=_expect_paths_of_child)


def current_job_key() -> str | None:
    """Return the key of the job that runs in this thread or task, or None outside a job.

    >>> current_job_key() is None
    True
    """
    return CURRENT.get().key


current_job_key.__module__ = "bencher_job"  # the package imports it on first use


def gen_path(filename: str, folder: str = "generic", suffix: str = ".dat") -> str:
    """Return an absolute path for a file to write, a new one at each call. Makes the folder, not the file.

    Inside a job the path is in a folder of this run's own, which is kept with the job's entry and removed with it, or
    when the job fails. In a result it is a path to the same file wherever the result is read; texts that are made of it
    are plain. Outside a job the name is unique, and the caller owns the file. A thread started by a job is outside the
    job, unless it runs in a copy of the job's `contextvars` context.

    Raises:
        ValueError: when filename, folder or suffix points outside the media folder.
    """
    for name, part in (("filename", filename), ("folder", folder), ("suffix", suffix)):
        if ".." in PurePath(part).parts or PurePath(part).is_absolute() or "\0" in part:
            raise ValueError(
                f"{name}={part!r} points outside the media folder. Use a relative name without '..'."
            )
    current = CURRENT.get()
    name = ""
    if current.folder is None:
        path = (
            _options.cache_directory() / MEDIA_FOLDER / folder / f"{filename}-{os.urandom(16).hex()}{suffix}"
        )
    else:
        name = PurePath(folder, f"{filename}-{next(current.numbers)}{suffix}").as_posix()
        path = Path(current.folder, name)
    make_private(path.parent)
    return MediaPath.of(os.fspath(path), current.key, name) if name and current.key else os.fspath(path)


gen_path.__module__ = "bencher_job"  # the package imports it on first use


def run_folder(store: str | Path, key: str) -> str:
    """Return the path of the folder of a new run. `gen_path` makes it when the job first requests a path.

    The name has a digest of the key, which may be any str, and the name of the process, so that the folder of a running
    job can be distinguished from an orphan.
    """
    digest = sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{store!s}/{MEDIA_FOLDER}/{digest}.{name_of(os.getpid())}.{next(_run_numbers)}"


def is_run_folder(name: str) -> bool:
    """Whether a name is that of a run's folder."""
    return NameOf.RUN_FOLDER.match(name) is not None


def may_be_running(name: str) -> bool:
    """Whether the process that owns a run's folder may be alive.

    True for a process of another machine, whose state is unknown here.
    """
    parts = NameOf.RUN_FOLDER.match(name)
    return parts is not None and may_live(parts["process"])


def size_of(folder: Path) -> int:
    """Sum the sizes of the files in a folder, in bytes; 0 if there is no folder."""
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())


def discard(folder: str | os.PathLike[str]) -> None:
    """Remove a run's folder and its contents. A missing folder is ignored, and a link is not followed."""
    import shutil  # slow to import, and few jobs write files

    if os.path.islink(folder):
        os.unlink(folder)
        return
    shutil.rmtree(folder, onerror=_ignore_missing)


def _ignore_missing(
    _function: object, _path: str, info: tuple[type[BaseException], BaseException, object]
) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]
