"""Knows the files in which large functions wait for the workers of this machine."""

from __future__ import annotations

import atexit
import os
import pickle
import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from .._forks import renew_after_fork
from .._stores.entries.codec import Payload

__all__ = ["function_files", "read_function"]

KEPT_FILES: Final = 8


class FunctionFile:
    """A function's bytes in a file, which goes when nothing that was sent refers to it any more."""

    def __init__(self, folder: str, digest: bytes, payload: Payload) -> None:
        self.path = os.path.join(folder, digest.hex())
        with open(f"{self.path}.part", "wb") as file:
            pickle.dump(payload.in_band(), file, protocol=5)
        os.replace(file.name, self.path)
        weakref.finalize(self, _in_this_process, os.getpid(), _unlink, self.path)


class FunctionFiles:
    """The files of the large functions that were sent last, in a folder of this process's own."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Have no files yet, as a forked child has none."""
        self._lock = threading.Lock()
        self._folder: str | None = None
        self._sent: weakref.WeakValueDictionary[bytes, FunctionFile] = weakref.WeakValueDictionary()
        self._last: OrderedDict[bytes, FunctionFile] = OrderedDict()

    def file_of(self, digest: bytes, payload: Payload) -> FunctionFile:
        """Write a function's bytes to a file, unless it is there."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix="bencher_job-")  # readable by this user only
                atexit.register(
                    _in_this_process, os.getpid(), shutil.rmtree, self._folder, ignore_errors=True
                )
            file = self._sent.get(digest)
            if file is None:
                file = self._sent[digest] = FunctionFile(self._folder, digest, payload)
            self._last[digest] = file
            self._last.move_to_end(digest)
            if len(self._last) > KEPT_FILES:
                self._last.popitem(last=False)
            return file


def read_function(path: str) -> Payload:
    """Read the bytes of a function from its file."""
    with open(path, "rb") as file:
        return Payload(*pickle.load(file))


def _in_this_process(pid: int, act: Callable[..., object], *args: object, **kwargs: object) -> None:
    if os.getpid() == pid:  # a forked child has its parent's exit hooks, but not its files
        act(*args, **kwargs)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


function_files: Final = FunctionFiles()
