"""Make folders that only their owner can use."""

from __future__ import annotations

import os

__all__ = ["make_private"]


def make_private(folder: str | os.PathLike[str]) -> bool:
    """Make a folder and what is missing above it, all for the owner only; whether the folder was new.

    Raises:
        OSError: when one can't be made, or something else has its name.
    """
    try:
        os.mkdir(folder, 0o700)
    except FileNotFoundError:
        make_private(os.path.dirname(os.path.abspath(folder)))
        return make_private(folder)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise
        return False
    return True
