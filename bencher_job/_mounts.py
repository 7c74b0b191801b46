"""Detect network file systems, and find a local disk beside one.

Linux says in /proc/self/mountinfo what is mounted where; other systems have no such file, and all their folders count
as local.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

LOCAL_FOLDER_VARIABLE: Final = "BENCHER_JOB_LOCAL_DIR"

SHARED_MARKER: Final = "bencher_job.json"
"""The file that a shared store begins with."""

MOUNTS: Final = "/proc/self/mountinfo"

_NETWORK: Final = (
    "9p acfs afs beegfs beegfs_nodev ceph cifs coda daos davfs dfuse efs gfs2 glusterfs gpfs lizardfs lustre mfs mmfs"
    " moosefs ncpfs nfs nfs4 ocfs2 orangefs panfs prl_fs pvfs2 quobyte smb3 smbfs sshfs vboxsf virtiofs wekafs"
)
_LOCAL_FUSE: Final = (
    "fuse.bindfs fuse.encfs fuse.exfat fuse.fuse-overlayfs fuse.gocryptfs fuse.lxcfs fuse.mergerfs fuse.ntfs"
    " fuse.ntfs-3g fuse.portal fuse.zfs fuseblk fusectl"
)
"""Kinds of FUSE whose data lie on this machine's disks; all others may be shared."""

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def is_network(path: str | os.PathLike[str]) -> bool:
    """Whether several machines may share the file system of a path, or of its nearest parent that exists."""
    kind = file_system_of(path)
    return kind in _NETWORK.split() or (kind.startswith("fuse") and kind not in _LOCAL_FUSE.split())


def is_shared(folder: Path) -> bool:
    """Whether a store's folder is to be used as a shared store: it is one, or lies on a network file system."""
    return os.path.exists(folder / SHARED_MARKER) or is_network(folder)


def file_system_of(path: str | os.PathLike[str]) -> str:
    """Return the type of the file system of a path, as `mount` shows it; empty if it is unknown."""
    real = os.path.realpath(path)
    while not os.path.exists(real) and real != os.path.dirname(real):
        real = os.path.dirname(real)
    try:
        device = os.stat(real).st_dev
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    inside = [
        (its_number == number, len(point), at, kind)
        for at, (its_number, point, kind) in enumerate(_mounts(lines))
        if real == point or real.startswith(point.rstrip("/") + "/")
    ]
    return max(inside)[-1] if inside else ""


def _mounts(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Parse lines of the table: device number, mount point, type. A later mount hides an earlier one."""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()[:1]
        if len(fields) > 4 and kind:
            yield fields[2], _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4]), kind[0]


def local_folder(directory: Path) -> Path:
    """Return where the local store of a shared folder lies, on a local disk of this machine.

    That is `<disk>/bencher_job-<user>/<digest of the folder>`, where the disk is $BENCHER_JOB_LOCAL_DIR, or the first
    of $TMPDIR, /var/tmp and /tmp that is local. The folder of the user is made, and belongs to no one else.
    """
    from hashlib import sha256  # slow to import, and few caches lie on a network file system

    of_user = _folder_of_user(os.environ.get(LOCAL_FOLDER_VARIABLE, ""), os.environ.get("TMPDIR", ""))
    return of_user / sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:16]


@cache
def _folder_of_user(chosen: str, temporary: str) -> Path:
    import tempfile  # takes long to import, and few caches lie on a network file system

    disks = (temporary, "/var/tmp", "/tmp")  # noqa: S108 - a folder of the user's own is made there
    wanted = chosen or next((disk for disk in disks if disk and _may_serve(disk)), tempfile.gettempdir())
    of_user = Path(wanted, f"bencher_job-{os.getuid()}")
    with contextlib.suppress(OSError):
        of_user.mkdir(mode=0o700, parents=True, exist_ok=True)
    return of_user if is_own(of_user) else Path(tempfile.mkdtemp(prefix="bencher_job-", dir=wanted))


def _may_serve(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK) and not is_network(folder)


def is_own(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of this user's, which nobody else can write to."""
    try:
        status = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
