"""Knows what else a function is said to depend on: code, distributions by name, files by content."""

from __future__ import annotations

import os
import time
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Final

from .parts import Edge, Part

if TYPE_CHECKING:
    from .reach import Survey

__all__ = ["dependency"]

_SAME_TICK: Final = 0.1
"""Seconds within which a file can change twice and keep its time of modification."""


def dependency(survey: Survey, wanted: object) -> Edge:
    """Reach one entry of `depends_on`.

    Raises:
        ValueError: when a distribution isn't installed or a path doesn't exist.
    """
    if isinstance(wanted, str):
        return _distribution(survey, wanted)
    if isinstance(wanted, PurePath):
        return _files(survey, Path(wanted))
    if isinstance(wanted, ModuleType) and (found := survey.distribution(wanted.__name__)) is not None:
        return "distribution", *found
    return survey.walk(wanted, "depends_on")


def _distribution(survey: Survey, name: str) -> Edge:
    import importlib.metadata  # takes long to import, and few functions depend on a distribution

    name = name.removeprefix("dist:")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"depends_on has {name!r}, and no distribution of that name is installed. Install it, or pass "
            f"the module or the function itself, or pathlib.Path({name!r}) for a file."
        ) from None
    survey.distributions[name] = version
    return "distribution", name, version


def _files(survey: Survey, path: Path) -> Edge:
    path = Path(os.path.abspath(path))
    if not path.exists():
        raise ValueError(f"depends_on has {str(path)!r}, which doesn't exist. Create it, or leave it out.")
    looked = time.time()
    stamps = _stamps(path)
    content = _content(path)
    survey.parts.append(Part(str(path), path, content))
    settled = all(modified < (looked - _SAME_TICK) * 1e9 for _, modified, _ in stamps)
    survey.watch.condition(
        partial(_same_stamps, path, stamps) if settled else partial(_same_content, path, content)
    )
    return "files", content


def _stamps(path: Path) -> list[tuple[str, int, int]]:
    """List name, time of modification in nanoseconds and size in bytes of a file, or of all in a folder."""
    return [
        (name, status.st_mtime_ns, status.st_size)
        for name, status in ((str(file.relative_to(path)), file.stat()) for file in _walk(path))
    ]


def _content(path: Path) -> bytes:
    """Digest the bytes of a file, or names and bytes of all in a folder."""
    digest = sha256()
    for file in _walk(path):
        with file.open("rb") as stream:
            name = file.relative_to(path).as_posix().encode("utf-8", "surrogateescape")
            digest.update(b"%d:%b%d:" % (len(name), name, os.fstat(stream.fileno()).st_size))
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.digest()


def _walk(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _same_stamps(path: Path, stamps: list[tuple[str, int, int]]) -> bool:
    return _stamps(path) == stamps


def _same_content(path: Path, content: bytes) -> bool:
    return _content(path) == content
