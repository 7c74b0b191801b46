"""Find the installed distributions that code names, and their versions.

    sklearn.svm.SVC -> site-packages/sklearn/__init__.py -> scikit_learn-1.7.0.dist-info -> scikit-learn 1.7.0

The metadata folders are read here: a lookup takes a tenth of a millisecond, where
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

__all__ = ["distributions_of", "normalized", "other_versions", "version_of"]

_GRAIN: Final = 0.1
"""Seconds in which a process that has started has loaded no library yet: the clocks of files are coarse."""

_LOOK_AGAIN: Final = 0.5
"""Seconds after which the metadata of a distribution is looked at again."""

_METADATA: Final = re.compile(r"(.+?)-([^-]+)(?:-py[\d.]+)?\.(?:dist-info|egg-info)")
_folders: Final[dict[str, str]] = {}
"""The folder that each distribution was found in, by name."""


class _Metadata(NamedTuple):
    """The metadata folder of a distribution, or its only file."""

    name: str
    version: str
    path: str

    def file(self) -> str:
        """The file that has the version; the folder itself where it has none."""
        for name in ("METADATA", "PKG-INFO"):
            path = os.path.join(self.path, name)
            if os.path.exists(path):
                return path
        return self.path

    def changed(self) -> float:
        """When it was installed, in seconds since the epoch. Some installers keep the times of files."""
        return max(os.stat(self.path).st_mtime, os.stat(self.file()).st_mtime)

    def lists(self, file: str) -> bool | None:
        """Whether it lists a file; None where it lists none at all."""
        record = _record(self.path, _mtime(self.path))
        return None if record is None else f"\n{file},".encode() in record


def distributions_of(name: str) -> tuple[tuple[str, str], ...]:
    """Give name and version of each distribution that a module, or what it holds under a dotted name, belongs to.

    There is none for the standard library and for the user's own code. A file that several distributions list belongs
    to each. What isn't loaded is looked for, and not imported.
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
            break  # else a package that distributions share: what lies deeper belongs to one of them
    return found


def version_of(name: str) -> str | None:
    """Give the version of an installed distribution; None where it is not installed."""
    found = _metadata_of(name)
    if found is not None:
        return _version_in(found)
    import importlib.metadata  # takes long to import; it knows distributions that lie in no folder

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def other_versions(versions: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    """Give the distributions that have another version here: name, the version that was given, and the one here.

    One that was installed after this process started is another: nobody can tell which version the process has loaded.
    """
    return tuple(
        (name, version, here)
        for name, version in sorted(versions.items())
        if (here := _version_here(name)) != version
    )


def normalized(name: str) -> str:
    """Give the name of a distribution as it is compared: `scikit-learn` for `Scikit_Learn`."""
    return re.sub(r"[-_.]+", "-", name).lower()


_looked: Final[dict[str, tuple[float, str]]] = {}


def _version_here(name: str) -> str:
    """Say which version of a distribution this process has, as of half a second ago at most: quick jobs are many."""
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
    """Give the file of a module, loaded or not, and where its submodules lie; None where there is no such module."""
    loaded = sys.modules.get(module)
    try:
        if loaded is not None:
            file, inside = getattr(loaded, "__file__", None), getattr(loaded, "__path__", None)
            return file if isinstance(file, str) else None, inside
        for finder in sys.meta_path:
            if (spec := finder.find_spec(module, locations)) is not None:
                return (spec.origin if spec.has_location else None), spec.submodule_search_locations
    except Exception:  # noqa: BLE001 - modules and finders of others may raise anything, and are not found then
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
    """Find the distributions that a file in a folder belongs to, the one of the package's own name first."""
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
def _installed_in(folder: str, changed: int) -> dict[str, _Metadata]:  # noqa: ARG001 - listed anew after a change
    """List the distributions of a folder by name: the latest of one name, of which a failed upgrade leaves several."""
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
def _read_version(metadata: _Metadata, file: str, changed: int) -> str:  # noqa: ARG001 - read anew after a change
    version = metadata.version
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    break  # the description begins
                if line.lower().startswith("version:"):
                    version = line.partition(":")[2].strip()
                    break
    except OSError:
        pass  # its name has the version, too
    return version + _source_of(metadata.path)


def _source_of(metadata: str) -> str:
    """Say of what was not installed from an index which code it is: its version often stays when its code changes."""
    try:
        text = Path(metadata, "direct_url.json").read_bytes()
    except OSError:
        return ""
    import json  # the import of the package does without

    try:
        source = json.loads(text)
    except ValueError:
        return ""
    match source:
        case {"dir_info": {"editable": True}}:  # its code counts by itself
            return ""
        case {"vcs_info": {"vcs": str(system), "commit_id": str(commit)}}:
            return f" ({system} {commit[:16]})"
    if _lines_of(metadata, "INSTALLER") == ["conda"]:  # it builds each package in a folder
        return ""
    return f" (files {_digest_of_files(metadata)[:16]})"


def _digest_of_files(metadata: str) -> str:
    """Digest what a distribution has installed; what differs between machines that have the same is left out."""
    folder, own = os.path.split(metadata)
    record = _record(metadata, _mtime(metadata)) or b""
    digest = sha256()
    for line in sorted(record.decode("utf-8", "replace").split("\n")):
        file, _, rest = line.partition(",")
        if not file or file.startswith((own, "..", "/")) or file.endswith(".pyc"):
            continue
        digest.update(line.encode())
        if rest.startswith(","):  # it has no digest
            try:
                digest.update(Path(folder, file).read_bytes())
            except OSError:
                continue
    return digest.hexdigest()


@functools.lru_cache(maxsize=8)  # some are megabytes
def _record(metadata: str, changed: int) -> bytes | None:  # noqa: ARG001 - read anew after a change
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
