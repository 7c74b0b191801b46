"""Make folders that only their owner can use."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["make_private"]

ATTEMPTS: Final = 10
"""How often a folder is made whose parent others remove meanwhile."""


def make_private(folder: str | os.PathLike[str]) -> bool:
    """Make a folder and what is missing above it, all for the owner only; whether the folder was new.

    Raises:
        OSError: when one can't be made, or something else has its name.
    """
    for attempt in range(ATTEMPTS):
        try:
            os.mkdir(folder, 0o700)
        except FileNotFoundError:
            if attempt == ATTEMPTS - 1:
                raise
            make_private(os.path.dirname(os.path.abspath(folder)))
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
            return False
        else:
            return True
    raise AssertionError("the last attempt returns or raises")
