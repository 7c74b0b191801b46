"""A folder that all machines mount.

A file appears whole: it is written under a temporary name beside its place, synchronised, and linked, which fails if
there is one already. Leases are folders, since `mkdir` is exclusive on every file system. Network file systems lose
answers and serve stale handles; what was done is then found by looking.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from .._errors import SharedStoreError
from .base import Name, Unreachable

__all__ = ["FolderBytes"]

T = TypeVar("T")

PIECE: Final = 1 << 20
_PAGE: Final = 1000
_LIMIT: Final = 20.0
"""Seconds: a busy disk takes its time to synchronise a file."""
_ATTEMPTS: Final = 5
_REFUSALS: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderBytes:
    """Bytes by name in a folder, for `NamedRemote`."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.place = os.path.abspath(path)
        self.touch: Callable[[], None] = lambda: None
        self._mode = 0o700
        self._part = f".{os.uname().nodename[:32]}."
        if not read_only:
            self._make()
        if not os.path.isdir(self.place):
            raise SharedStoreError(
                self.place,
                "is a file" if os.path.exists(self.place) else "doesn't exist",
                "Mount the file system, or correct the path.",
            )

    def _make(self) -> None:
        """Make the folder itself, though not those above it: that of a file system that is not mounted is missing."""
        try:
            os.mkdir(self.place, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise SharedStoreError(
                self.place,
                f"can't be made: {error.strerror}",
                "Mount the file system, make the folder, or correct the path.",
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file."""
        content = _again(lambda: self._read(name))
        return _again(lambda: self._look_again(name)) if content is None else content

    def create(self, name: str, content: bytes) -> bool:
        """Store a file if none exists."""
        part = self._write_part(name, content)
        try:
            os.link(part, self._path(name))
        except FileExistsError:
            if _again(lambda: os.stat(part).st_nlink) != 2:  # else the answer to our own link was lost
                return False
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise SharedStoreError(
                    self.place,
                    f"is on a file system without hard links: {error.strerror}",
                    "Use a folder on another one.",
                ) from error
            raise
        finally:
            _remove(os.unlink, part)
        self._synchronise(name)
        return True

    def write(self, name: str, content: bytes) -> None:
        """Store a file, and replace an existing one."""
        part = self._write_part(name, content)
        try:
            os.replace(part, self._path(name))
        except FileNotFoundError:  # done, and the answer was lost
            if not os.path.exists(self._path(name)):
                raise
        finally:
            _remove(os.unlink, part)
        self._synchronise(name)

    def refresh(self, name: str, content: bytes) -> None:
        """Write a file in place. A file that is replaced may be cached under its name on other machines."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._mode = os.stat(self.place).st_mode
        descriptor = self._in(name, lambda: os.open(self._path(name), flags, 0o666 & self._mode))
        with open(descriptor, "wb", buffering=0) as file:
            file.write(content)

    def delete(self, names: Iterable[str]) -> None:
        """Remove files."""
        for name in names:
            _remove(os.unlink, self._path(name))
            self.touch()

    def listing(self, prefix: str) -> Iterator[list[Name]]:
        """List the files and leases below a folder."""
        page: list[Name] = []
        folders = [prefix.rstrip("/")]
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                name = f"{folder}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    is_lease = folder.startswith("c/")
                    if entry.is_dir() and not is_lease:
                        folders.append(name)
                    else:
                        status = entry.stat()
                        page.append(Name(name, status.st_size, status.st_mtime))
                if len(page) == _PAGE:
                    yield page
                    page = []
            self.touch()
        if page:
            yield page

    def take(self, name: str, holder: str) -> bool:
        """Take a lease: make a folder, and name its holder in it."""
        path = self._path(name)
        try:
            self._in(name, lambda: os.mkdir(path, 0o700))
        except FileExistsError:
            return False
        if (mode := os.stat(self.place).st_mode) & 0o077:  # others take it over, whatever the umask
            os.chmod(path, mode & 0o7777)
        self._make_file(os.path.join(path, holder))
        return True

    def taken(self, folder: str) -> list[str]:
        """Return the names of the leases in a folder."""
        return [f"{folder}{entry.name}" for entry in self._entries(folder.rstrip("/"))]

    def holder(self, name: str) -> str | None:
        """Return what a lease was taken with."""
        return next((entry.name for entry in self._entries(name)), None)

    def free(self, names: Iterable[str]) -> None:
        """Remove leases."""
        folder = None
        for name in names:
            for entry in self._entries(name):
                _remove(os.unlink, entry.path)
            _remove(os.rmdir, self._path(name))
            folder = name.rpartition("/")[0]
        if folder is not None:
            with contextlib.suppress(OSError):  # others have leases in it
                os.rmdir(self._path(folder))

    def tidy(self, before: float) -> int:
        """Remove temporary files of killed processes, by the clock of the file system."""
        removed = 0
        for folder, _, files in os.walk(self.place):
            for name in files:
                if name.startswith(".") and name.endswith(".part"):
                    path = os.path.join(folder, name)
                    with contextlib.suppress(FileNotFoundError):
                        if os.stat(path).st_mtime < before:
                            _remove(os.unlink, path)
                            removed += 1
            self.touch()
        return removed

    def failure(self, error: Exception) -> Unreachable | SharedStoreError | None:
        """Translate an error of the operating system."""
        if not isinstance(error, OSError):
            return None
        if error.errno in _REFUSALS:
            return SharedStoreError(
                self.place,
                f"can't be used: {error.strerror}",
                "Get the permission to write there, or set BENCHER_JOB_SHARED_MODE=read.",
            )
        return Unreachable(f"{self.place}: {error.strerror or error}")

    def limit(self, size: int) -> float:  # noqa: ARG002 - pieces are counted
        """Return how many seconds a request may take without progress."""
        return _LIMIT

    def _path(self, name: str) -> str:
        return f"{self.place}/{name}"

    def _read(self, name: str) -> bytes | None:
        try:
            with open(self._path(name), "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size <= PIECE:
                    return file.readall()
                pieces = []
                while piece := file.read(PIECE):
                    pieces.append(piece)
                    self.touch()
                return b"".join(pieces)
        except FileNotFoundError:
            return None

    def _look_again(self, name: str) -> bytes | None:
        """Read what may be there only since a short time: opening a folder ends what the system has cached of it."""
        try:
            os.close(os.open(os.path.dirname(self._path(name)), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            if not os.path.isdir(self.place):
                raise
            return None
        return self._read(name)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        def look() -> list[os.DirEntry[str]]:
            try:
                with os.scandir(self._path(folder)) as entries:
                    return list(entries)
            except FileNotFoundError:
                return []

        return _again(look)

    def _write_part(self, name: str, content: bytes) -> str:
        """Write a temporary file in the folder of a name: some file systems link within one folder only."""
        folder = os.path.dirname(self._path(name))
        part = f"{folder}/{self._part}{os.getpid()}.{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._mode = os.stat(self.place).st_mode
        descriptor = self._in(name, lambda: os.open(part, flags, 0o600))
        try:
            with open(descriptor, "wb", buffering=0) as file:
                view = memoryview(content)
                while view:
                    view = view[file.write(view[:PIECE]) :]
                    self.touch()
                if self._mode & 0o066:
                    os.fchmod(descriptor, self._mode & 0o666)
                os.fsync(descriptor)
        except BaseException:
            _remove(os.unlink, part)
            raise
        return part

    def _make_file(self, path: str) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666 & self._mode))

    def _in(self, name: str, act: Callable[[], T]) -> T:
        """Act in the folder of a name, which is made if it is missing, even while others remove it."""
        for _ in range(_ATTEMPTS):
            try:
                return act()
            except FileNotFoundError:
                self._make_folders(name)
        return act()

    def _make_folders(self, name: str) -> None:
        mode = os.stat(self.place).st_mode  # it isn't made again where its file system was unmounted
        path = self.place
        for part in name.split("/")[:-1]:
            path = f"{path}/{part}"
            try:
                os.mkdir(path, mode & 0o777)
                if mode & 0o077:
                    os.chmod(path, mode & 0o7777)
            except (FileExistsError, FileNotFoundError):
                pass

    def _synchronise(self, name: str) -> None:
        """Make the name of a file durable, where the file system can."""
        with contextlib.suppress(OSError):
            descriptor = os.open(os.path.dirname(self._path(name)), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _again(act: Callable[[], T]) -> T:
    """Act, and try again if another machine has replaced the file in between."""
    for attempt in range(_ATTEMPTS):
        try:
            return act()
        except OSError as error:
            if error.errno != errno.ESTALE or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.01 * attempt)
    raise AssertionError


def _remove(act: Callable[[str], None], path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _again(lambda: act(path))
