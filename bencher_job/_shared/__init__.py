"""Shared stores: who else has it?

    open_remote(place) -> Remote: NamedRemote over a folder or a bucket, or RowRemote over PostgreSQL

A remote carries bytes by address. What these bytes are is fixed in `entry`.
"""

from __future__ import annotations

from .base import (
    Asked,
    Changes,
    Lease,
    Name,
    Owner,
    Remote,
    Unreachable,
    entry_address,
    function_folder,
    media_address,
    source_address,
)
from .opening import init_remote, open_remote

__all__ = [
    "Asked",
    "Changes",
    "Lease",
    "Name",
    "Owner",
    "Remote",
    "Unreachable",
    "entry_address",
    "function_folder",
    "init_remote",
    "media_address",
    "open_remote",
    "source_address",
]
