"""Files of jobs whose worker may be on another machine, where the same path leads to another disk.

    submitter   Elsewhere.of(job) ---- with the job ----> worker: check_inputs, run, files_of
                write_files <--------- with the result ----

Files up to `LARGEST_SENT` bytes in all travel with the result. Larger ones need a file system that both mount.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from .. import _media
from .._errors import CodeMismatch
from .._folders import NameOf, make_private, owner_only, path_of
from .._job import Job
from .._keys.files import is_unchanged
from .._mounts import is_network
from .._processes import this_process

__all__ = ["LARGEST_SENT", "Elsewhere", "Files", "write_files"]

LARGEST_SENT: Final = 8_000_000
"""Size in bytes up to which the files of a job travel with its result."""

Files = tuple[tuple[str, bytes], ...] | None
"""Names in the run's folder, with their bytes; None for files that are too large to be sent."""

Disk = tuple[str, int, int]


class Elsewhere(NamedTuple):
    """What a worker needs to know of the submitter's disk.

    Attributes:
        disk: identifies the folder of the store; None if there is none.
        inputs: paths that count by content, each with what the key was made from.
    """

    disk: Disk | None
    inputs: tuple[tuple[object, object], ...]

    @classmethod
    def of(cls, job: Job) -> Elsewhere:
        """Describe the disk of this process for the worker of a job."""
        disk = None if job.media_folder is None else _disk_of(job.media_folder)
        return cls(disk, tuple((_texts(value), content) for value, content in job.files))

    def check_inputs(self, function: object) -> None:
        """Refuse to read other files than those that the key was made from.

        Raises:
            CodeMismatch: naming the path.
        """
        for value, content in self.inputs:
            if not is_unchanged(value, content):
                name = getattr(function, "__qualname__", str(function))
                raise CodeMismatch(
                    f"{name} counts {value} by content, and the worker on {os.uname().nodename} has other content "
                    "there than the submitter, or none. Copy it to the worker, or put it where both find it.",
                    function=name,
                )

    def is_other_disk(self, media_folder: str) -> bool:
        """Whether files written here are not where the submitter looks for them, as far as this process can tell."""
        return self.disk is None or _disk_of(media_folder) != self.disk


def files_of(media_folder: str) -> Files:
    """Read the files of a run, and remove them from this machine; leave those that are too large."""
    folder = Path(media_folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if sum(path.stat().st_size for path in paths) > LARGEST_SENT:
        return None
    files = tuple((path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths)
    if not is_network(folder):  # where they may be the submitter's
        with suppress(OSError):
            _media.discard(folder)
    return files


def write_files(folder: Path, files: tuple[tuple[str, bytes], ...]) -> None:
    """Write the files that a worker has sent, unless they are there.

    Raises:
        ValueError: when a name leads out of the folder.
        OSError: when they can't be written.
    """
    make_private(folder)
    for name, content in files:
        path = path_of(folder, NameOf.RUN_FILE, name)
        make_private(path.parent)
        with suppress(FileExistsError), open(path, "xb", opener=owner_only) as file:
            file.write(content)


def _texts(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_texts(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _disk_of(media_folder: str) -> Disk | None:
    try:
        status = os.stat(os.path.dirname(os.path.dirname(media_folder)))
    except OSError:
        return None
    return this_process().boot, status.st_dev, status.st_ino
