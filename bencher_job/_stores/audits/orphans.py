"""Knows which media folders no entry owns: what killed processes have left."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ... import _media, _settings
from ..database import DATABASE_NAME
from ..disk import DiskStore

__all__ = ["clean_orphaned_media"]


def clean_orphaned_media(
    cache_dir: str | os.PathLike[str] | None = None, dry_run: bool = True
) -> dict[Path, int]:
    """Find the media folders that no entry of any cache owns, with their sizes in bytes.

    Only a run that was killed leaves such a folder. The folder of a job that may still run is never among them: one
    whose process lives on this machine, or that another machine has made. Nor is one that somebody else has put there,
    which has no run's name. Nothing is removed unless `dry_run` is False.

    holobench's function of this name returns a pair: `list(orphans), sum(orphans.values())` of this one's dict.

    Raises:
        UntrustedCache: when another user owns a cache or can write to it.
    """
    orphans = {}
    for database in sorted(_settings.cache_directory(cache_dir).glob(f"*/{DATABASE_NAME}")):
        media = database.parent / _media.MEDIA_FOLDER
        if not media.is_dir():
            continue
        folders = [each for each in media.iterdir() if _media.is_run_folder(each.name) and each.is_dir()]
        store = DiskStore(database.parent, size_limit=sys.maxsize)
        # Also of entries whose records are damaged or have expired: what they own goes with them.
        owned = {name for (name,) in store.folder.query("SELECT DISTINCT media FROM Cache")}
        store.close()
        for folder in folders:
            if folder.name not in owned and not _media.may_be_running(folder.name):
                orphans[folder] = _media.size_of(folder)
                if not dry_run:
                    _media.discard(folder)
    return orphans
