"""Knows the folder that a store lies in: how it is set up, and when it is not to be trusted.

Checking a folder and opening what is in it are two steps, so who can rename a folder on the way can put another one in
its place in between. Where that can happen, entries are signed with the user's own key, see `signature.py`.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Final

from .._errors import UntrustedCache
from .._folders import make_private, owner_only

__all__ = ["is_replaceable", "refuse_untrusted", "set_up"]

TAG_NAME: Final = "CACHEDIR.TAG"
TAG_TEXT: Final = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder holds a cache that bencher_job made. Backup programs may leave it out: https://bford.info/cachedir/\n"
)
"""The text that the Cache Directory Tagging Specification asks for."""

MOST_LINKS: Final = 40
"""Links that are followed, as the kernel does."""

GITIGNORE_TEXT: Final = "# Made by bencher_job: nothing in a cache belongs in a repository.\n*\n"


def set_up(directory: Path) -> None:
    """Make a store's folder and what is missing above it, for the owner only and marked as a cache.

    The marks stand in the topmost folder that is new, or in the store's own where its parent was there before.

    Raises:
        OSError: when a folder can't be made.
    """
    if make_private(directory.parent):
        _mark(directory.parent)
        make_private(directory)
    elif make_private(directory):
        _mark(directory)


def _mark(directory: Path) -> None:
    for name, text in ((TAG_NAME, TAG_TEXT), (".gitignore", GITIGNORE_TEXT)):
        with suppress(FileExistsError), open(directory / name, "x", opener=owner_only) as file:
            file.write(text)


def refuse_untrusted(directory: Path) -> None:
    """Refuse a store whose folder or database another user owns or could write to.

    A database that the folder keeps from others may have any mode.

    Raises:
        UntrustedCache: naming the path and the remedy.
    """
    reach = stat.S_IWGRP | stat.S_IWOTH
    """Those who could write, as the bits of a mode: to the files, only who may search the folder."""
    for path in (directory, directory / "cache.db", directory / "cache.db-wal"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_uid != os.geteuid():
            raise UntrustedCache(
                os.fspath(path),
                f"belongs to the user number {status.st_uid}",
                "Choose a folder of your own with cache_dir= or BENCHER_JOB_CACHE_DIR, or say trusted=True.",
            )
        if status.st_mode & reach:
            raise UntrustedCache(
                os.fspath(path),
                f"can be written to by others (mode {stat.S_IMODE(status.st_mode):o})",
                f"If only you have written to it so far, run: chmod -R go-w {directory}",
            )
        if path == directory:
            reach &= (status.st_mode & (stat.S_IXGRP | stat.S_IXOTH)) << 1


def is_replaceable(directory: Path) -> bool:
    """Whether another user, root aside, can put another folder in the place of this one.

    That needs a folder on the way, from the root on, in which others can rename what belongs to this user. A link is
    followed, and the way that it leads is looked at as well.
    """
    way = [*reversed(directory.absolute().parts)]
    at = Path(way.pop())
    links = 0
    while way:
        name = way.pop()
        if name == "..":
            at = at.parent
            continue
        path = at / name
        try:
            status = path.lstat()
        except FileNotFoundError:
            return _others_can_rename_in(at, os.geteuid())
        if _others_can_rename_in(at, status.st_uid):
            return True
        if not stat.S_ISLNK(status.st_mode):
            at = path
            continue
        links += 1
        if links > MOST_LINKS:
            return True
        target = PurePath(os.readlink(path))
        parts = [*reversed(target.parts)]
        if target.is_absolute():
            at = Path(parts.pop())
        way += parts
    return False


def _others_can_rename_in(folder: Path, owner: int) -> bool:
    """Whether another user can rename what an owner has in a folder."""
    ours = {0, os.geteuid()}
    status = folder.stat()
    if status.st_uid not in ours:
        return True
    if status.st_mode & stat.S_ISVTX and owner in ours:
        return False
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and (_has_acl(folder) or _has_others(status.st_gid))


def _has_acl(folder: Path) -> bool:
    """Whether an access control list says who may write, of which the mode shows the sum only."""
    try:
        return bool(os.getxattr(folder, "system.posix_acl_access"))
    except (OSError, AttributeError):  # none; a system that has no such lists
        return False


def _has_others(group: int) -> bool:
    """Whether a group has, or may have, a member besides this user: its only member must be known by name."""
    import grp  # these two are needed where a group can write
    import pwd

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
        members = {*grp.getgrgid(group).gr_mem}
    except KeyError:
        return True
    if members - {name}:  # all users are asked for last, which may take long
        return True
    return members | {each.pw_name for each in pwd.getpwall() if each.pw_gid == group} != {name}
