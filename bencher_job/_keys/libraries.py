"""Find the installed distributions that code names, and their versions.

    sklearn.svm.SVC -> site-packages/sklearn/__init__.py -> scikit_learn-1.7.0.dist-info -> scikit-learn 1.7.0

The metadata folders are read directly: a lookup takes a tenth of a millisecond,
`importlib.metadata.packages_distributions` takes hundreds.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from .._processes import started_at
from .names import site_folder

_GRAIN: Final = 0.1
"""Seconds after its start in which a process has loaded no library yet; file times are coarse."""

_LOOK_AGAIN: Final = 0.5
"""Seconds after which the metadata of a distribution is read again."""

_METADATA: Final = re.compile(r"(.+?)-([^-]+)(?:-py[\d.]+)?\.(?:dist-info|egg-info)")
_folders: Final[dict[str, str]] = {}
"""The folder that each distribution was found in, by name."""


class _Metadata(NamedTuple):
    """The metadata folder of a distribution, or its only file."""

    name: str
    version: str
    path: str

    def file(self) -> str:
        """Return the file with the version, or the folder if there is no such file."""
        for name in ("METADATA", "PKG-INFO"):
            path = os.path.join(self.path, name)
            if os.path.exists(path):
                return path
        return self.path

    def changed(self) -> float:
        """Return the time of installation in seconds since the epoch; some installers keep the times of files."""
        return max(os.stat(self.path).st_mtime, os.stat(self.file()).st_mtime)

    def lists(self, file: str) -> bool | None:
        """Return whether it lists a file; None if it has no list."""
        record = _record(self.path, _mtime(self.path))
        return None if record is None else f"\n{file},".encode() in record


def distributions_of(name: str) -> tuple[tuple[str, str], ...]:
    """Return name and version of each distribution that the module of a dotted name belongs to.

    The standard library and the user's own code belong to none. A file that several distributions list belongs to
    each. A module that isn't loaded is located, not imported.
    """
    found: tuple[tuple[str, str], ...] = ()
    locations: Any = None
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        place = _place_of(".".join(parts[:length]), locations)
        if place is None:
            break
        file, locations = place
        if file is not None:
            found = _distributions_of_file(os.path.abspath(file)) or found
        if locations is None or (file is not None and len(found) < 2):
            break  # else several distributions share the package, and a deeper module belongs to one of them
    return found


def version_of(name: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    found = _metadata_of(name)
    if found is not None:
        return _version_in(found)
    import importlib.metadata  # slow to import; it finds distributions that are in no folder

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def other_versions(versions: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """Return the distributions whose version differs here: name, the given version, and the version here.

    A distribution that was installed after this process started differs, since either version may be loaded.
    """
    return tuple(
        (name, version, here)
        for name, version in sorted(versions.items())
        if (here := _version_here(name)) != version
    )


def normalized(name: str) -> str:
    """Return the normalized name of a distribution: `scikit-learn` for `Scikit_Learn`."""
    return re.sub(r"[-_.]+", "-", name).lower()


_looked: Final[dict[str, tuple[float, str]]] = {}


def _version_here(name: str) -> str:
    """Return the version of a distribution in this process, cached for half a second for the sake of quick jobs."""
    now = time.monotonic()
    at, version = _looked.get(name, (-_LOOK_AGAIN, ""))
    if now - at >= _LOOK_AGAIN:
        found = _metadata_of(name)
        version = version_of(name) or "not installed"
        try:
            is_newer = found is not None and found.changed() > started_at() + _GRAIN
        except OSError:  # it is being removed
            is_newer = True
        if is_newer:
            version += ", installed after the process started"
        _looked[name] = now, version
    return version


def _place_of(module: str, locations: Any) -> tuple[str | None, Any] | None:
    """Return the file of a module and the locations of its submodules; None if there is no such module."""
    loaded = sys.modules.get(module)
    try:
        if loaded is not None:
            file, inside = getattr(loaded, "__file__", None), getattr(loaded, "__path__", None)
            return file if isinstance(file, str) else None, inside
        for finder in sys.meta_path:
            if (spec := finder.find_spec(module, locations)) is not None:
                return (spec.origin if spec.has_location else None), spec.submodule_search_locations
    except Exception:  # noqa: BLE001 - foreign modules and finders may raise anything
        return None
    return None


def _distributions_of_file(file: str) -> tuple[tuple[str, str], ...]:
    folder = site_folder(file)
    if folder is None:
        return ()
    owners = _owners(folder, os.path.relpath(file, folder), _mtime(folder))
    _folders.update((owner.name, folder) for owner in owners)
    return tuple((owner.name, _version_in(owner)) for owner in owners)


@functools.lru_cache(maxsize=4096)
def _owners(folder: str, file: str, changed: int) -> tuple[_Metadata, ...]:
    """Find the distributions that a file belongs to; the one with the name of the package is enough."""
    installed = _installed_in(folder, changed)
    top = file.partition(os.sep)[0].partition(".")[0]
    namesake = installed.get(normalized(top))
    if namesake is not None and namesake.lists(file):
        return (namesake,)
    listing = [each for each in installed.values() if each.lists(file)]
    if listing:
        return tuple(listing)
    # Debian and conda install some without a list.
    unlisted = [each for each in installed.values() if each.lists(file) is None]
    if namesake in unlisted:
        return (namesake,)
    return tuple(each for each in unlisted if top in _lines_of(each.path, "top_level.txt"))


@functools.lru_cache(maxsize=64)
def _installed_in(folder: str, changed: int) -> dict[str, _Metadata]:  # noqa: ARG001 - part of the cache's key
    """List the distributions of a folder by name; the latest, if a failed upgrade has left several of one name."""
    found: dict[str, _Metadata] = {}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return found
    for entry in entries:
        match = _METADATA.fullmatch(entry.name)
        if match:
            new = _Metadata(normalized(match[1]), match[2], entry.path)
            known = found.get(new.name)
            if known is None or _mtime(known.path) <= _mtime(new.path):
                found[new.name] = new
    return found


def _metadata_of(name: str) -> _Metadata | None:
    name = normalized(name)
    for folder in (_folders.get(name), *sys.path):
        if folder is not None and (
            found := _installed_in(folder or os.curdir, _mtime(folder or os.curdir)).get(name)
        ):
            return found
    return None


def _version_in(metadata: _Metadata) -> str:
    file = metadata.file()
    return _read_version(metadata, file, _mtime(file))


@functools.lru_cache(maxsize=1024)
def _read_version(metadata: _Metadata, file: str, changed: int) -> str:  # noqa: ARG001 - part of the cache's key
    version = metadata.version
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.lower().startswith("version:"):
                    version = line.partition(":")[2].strip()
                    break
    except OSError:
        pass  # the folder's name has the version, too
    return version + _source_of(metadata.path)


def _source_of(metadata: str) -> str:
    """Return the source of a distribution that is not from an index: its version often stays when its code changes."""
    try:
        text = Path(metadata, "direct_url.json").read_bytes()
    except OSError:
        return ""
    import json  # not needed at import time

    try:
        source = json.loads(text)
    except ValueError:
        return ""
    match source:
        case {"dir_info": {"editable": True}}:  # its code counts by itself
            return ""
        case {"vcs_info": {"vcs": str(system), "commit_id": str(commit)}}:
            return f" ({system} {commit[:16]})"
    if _lines_of(metadata, "INSTALLER") == ["conda"]:  # conda builds each package in a local folder
        return ""
    return f" (files {_digest_of_files(metadata)[:16]})"


def _digest_of_files(metadata: str) -> str:
    """Digest the installed files of a distribution, without those that differ between equal installations."""
    own = os.path.basename(metadata)
    record = _record(metadata, _mtime(metadata)) or b""
    digest = sha256()
    for line in sorted(record.decode("utf-8", "replace").split("\n")):
        file = line.partition(",")[0]
        if file and not file.startswith((own, "..", "/")) and not file.endswith(".pyc"):
            digest.update(line.encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=8)  # some are megabytes
def _record(metadata: str, changed: int) -> bytes | None:  # noqa: ARG001 - part of the cache's key
    try:
        return b"\n" + Path(metadata, "RECORD").read_bytes().replace(b"\r", b"")
    except OSError:
        return None


def _lines_of(metadata: str, name: str) -> list[str]:
    try:
        return Path(metadata, name).read_text("utf-8", "replace").split()
    except OSError:
        return []


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
