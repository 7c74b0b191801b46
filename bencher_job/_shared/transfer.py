"""Move entries between a local store and the form in which machines share them.

    pack    row, value file and media of an entry -> bytes of the shared format
    take    such bytes, verified -> an entry of the local store; its media get a folder there
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .. import _media
from .._folders import make_private, owner_only
from .._names import NameOf, path_of
from .._stores.base import Entry, StoreFailure
from .._stores.codec import DamagedEntry, UnreadableEntry, resealed
from .base import media_address
from .entry import LARGEST_INLINE, MediaFile, SharedEntry, opened, packed

if TYPE_CHECKING:
    from .._stores.embedded import DiskStore
    from .._stores.signature import Signature

__all__ = ["Packed", "pack", "take"]
