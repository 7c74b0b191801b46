"""Knows where caches lie and whether caching is on: environment variables, and what tests put in their place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ._errors import BencherJobError
from ._words import is_writable

__all__ = [
    "DEFAULT_CACHE_NAME",
    "cache_directory",
    "caching_is_on",
    "follow_override",
    "is_overridden",
    "override",
    "override_cache_directory",
    "store_directory",
]

DEFAULT_CACHE_NAME: Final = "fcache"

_NO_NAME: Final = frozenset("\0/")
_ON: Final = {"", "on", "1", "true", "yes"}
_OFF: Final = {"off", "0", "false", "no"}

_override: Path | None = None
epoch = 0
"""Grows whenever caches that are open may lie elsewhere from now on."""


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Resolve the folder that holds caches, as an absolute path; nothing is created.

    In this order: the argument, the variable `BENCHER_JOB_CACHE_DIR`, `cachedir` in the current folder.
    Inside `bencher_job.testing.temporary_cache()` it is always the temporary folder.
    """
    if _override is not None:
        return _override
    option = "cache_dir"
    if cache_dir is None:
        option, cache_dir = "BENCHER_JOB_CACHE_DIR", os.environ.get("BENCHER_JOB_CACHE_DIR") or "cachedir"
    try:
        chosen = Path(cache_dir)
        if b"\0" in os.fsencode(chosen):
            raise ValueError("it has a null character")  # noqa: TRY301 - what Python says of it comes late
        return chosen.expanduser().absolute()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            error.errno, "the current folder, in which it would lie, is gone", str(chosen)
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:  # the last one of an unknown user's home
        raise BencherJobError(f"{option}={cache_dir!r} is no path of a folder: {error}") from error


def store_directory(cache_name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Resolve the folder of one cache: `<cache_dir>/<cache_name>`.

    Raises:
        BencherJobError: when the name is no plain folder name.
    """
    is_text = isinstance(cache_name, str) and _NO_NAME.isdisjoint(cache_name) and is_writable(cache_name)
    if not is_text or cache_name in {"", ".", ".."}:
        raise BencherJobError(
            f"cache_name={cache_name!r} is not the name of a folder. "
            f"Use a plain name, and cache_dir= to say where the cache lies."
        )
    return cache_directory(cache_dir) / cache_name


def caching_is_on() -> bool:
    """Whether results are looked up and kept: the variable `BENCHER_JOB` turns it `off`.

    Raises:
        BencherJobError: when the variable holds neither `on` nor `off`.
    """
    word = os.environ.get("BENCHER_JOB", "").strip().lower()
    if word in _ON:
        return True
    if word in _OFF:
        return False
    raise BencherJobError(
        f"BENCHER_JOB={word!r} is neither on nor off. Set it to off to turn caching off, or unset it."
    )


def override() -> str | None:
    """Give the one directory that all caches lie in at present, or None."""
    return None if _override is None else os.fspath(_override)


def follow_override(directory: str | None) -> None:
    """Let the caches of a worker lie where those of the process lie whose job it runs.

    A worker may have begun under another override, or inherited one by a fork, whose folder is gone.
    """
    global _override, epoch  # noqa: PLW0603 - settings of the process
    if directory != override():
        _override = None if directory is None else Path(directory)
        epoch += 1


def is_overridden() -> bool:
    """Whether all caches lie in a temporary folder at present."""
    return _override is not None


@contextmanager
def override_cache_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Let all caches that are opened meanwhile lie in one directory, whatever they ask for."""
    global _override, epoch  # noqa: PLW0603 - settings of the process
    before, _override = _override, Path(directory).absolute()
    epoch += 1
    try:
        yield _override
    finally:
        _override = before
        epoch += 1
