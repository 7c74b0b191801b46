"""A folder that all machines mount.

A file appears whole: it is written under a temporary name beside its place, synchronised, and linked, which fails if
there is one already. Network file systems lose answers and serve stale handles; what was done is then found by looking.
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

T = TypeVar("T")

PIECE: Final = 1 << 20
_PAGE: Final = 1000
_LIMIT: Final = 20.0
"""Seconds: a busy disk takes its time to synchronise a file."""
_ATTEMPTS: Final = 5
_REFUSALS: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FolderBytes:
    """Bytes by name in a folder, for `NamedRemote`.

    Attributes:
        touch: is called whenever a long request makes progress.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.place = os.path.abspath(path)
        self.touch: Callable[[], None] = lambda: None
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

    def create(self, name: str, content: bytes, *, lasting: bool = True) -> bool:
        """Store a file if none exists."""
        part = self._write_part(name, content, lasting=lasting)
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
            _remove(part)
        if lasting:
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
            _remove(part)
        self._synchronise(name)

    def refresh(self, name: str, content: bytes) -> None:
        """Write a file in place. A file that is replaced may be cached under its name on other machines."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        mode = os.stat(self.place).st_mode & 0o666
        descriptor = self._in(name, lambda: os.open(self._path(name), flags, mode))
        with open(descriptor, "wb", buffering=0) as file:
            file.write(content)

    def delete(self, names: Iterable[str]) -> None:
        """Remove files."""
        for name in names:
            path = self._path(name)
            _remove(path)
            if name.startswith("c/"):
                with contextlib.suppress(OSError):  # others have leases of the key
                    os.rmdir(os.path.dirname(path))
            self.touch()

    def listing(self, prefix: str) -> Iterator[list[Name]]:
        """List the files below a folder."""
        page: list[Name] = []
        folders = [prefix.rstrip("/")]
        while folders:
            folder = folders.pop()
            for entry in self._entries(folder):
                name = f"{folder}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir():
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

    def tidy(self, before: float) -> int:
        """Remove temporary files of killed processes, by the clock of the file system."""
        removed = 0
        for folder, _, files in os.walk(self.place):
            for path in (os.path.join(folder, name) for name in files if name.endswith(".part")):
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(path).st_mtime < before:
                        _remove(path)
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
                if os.fstat(file.fileno()).st_size <= PIECE:
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

    def _write_part(self, name: str, content: bytes, *, lasting: bool = True) -> str:
        """Write a temporary file in the folder of a name: some file systems link within one folder only."""
        folder = os.path.dirname(self._path(name))
        part = f"{folder}/{self._part}{os.getpid()}.{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        mode = os.stat(self.place).st_mode & 0o666
        descriptor = self._in(name, lambda: os.open(part, flags, 0o600))
        try:
            with open(descriptor, "wb", buffering=0) as file:
                view = memoryview(content)
                while view:
                    view = view[file.write(view[:PIECE]) :]
                    self.touch()
                if mode & 0o066:
                    os.fchmod(descriptor, mode)
                if lasting:
                    os.fsync(descriptor)
        except BaseException:
            _remove(part)
            raise
        return part

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


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        _again(lambda: os.unlink(path))
