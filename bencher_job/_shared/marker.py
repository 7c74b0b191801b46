"""What a shared store says of itself: format, version, and the mark of its secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from .._errors import SharedStoreError
from .base import STORE_FORMAT, STORE_VERSION

__all__ = ["MARKER", "check_store", "make_marker", "read_marker"]

MARKER: Final = "bencher_job.json"


def make_marker(mark: bytes) -> bytes:
    """Write what a new store of names says; it has refused to create something twice."""
    body = {"format": STORE_FORMAT, "version": STORE_VERSION, "secret": mark.hex(), "creates": True}
    return json.dumps(body).encode()


def read_marker(place: str, text: bytes) -> dict[str, object]:
    """Read what a shared store says of itself.

    Raises:
        SharedStoreError: when it is none.
    """
    try:
        marker = json.loads(text)
        if isinstance(marker, dict) and marker.get("format") == STORE_FORMAT:
            return marker
    except ValueError:
        pass
    raise SharedStoreError(
        place, f"is not a shared store: its {MARKER} is something else", "Choose another folder or prefix."
    )


def check_store(place: str, marker: Mapping[str, object], mark: bytes) -> None:
    """Refuse a store of another version or secret.

    Raises:
        SharedStoreError: naming the remedy.
    """
    version = marker.get("version")
    if version != STORE_VERSION:
        raise SharedStoreError(
            place,
            f"is a shared store of version {version}, and this library knows version {STORE_VERSION}",
            "Upgrade bencher_job, or use another place.",
        )
    if marker.get("secret") != mark.hex():
        fact = (
            "was made with another BENCHER_JOB_SECRET"
            if marker.get("secret")
            else "was made without a secret"
        )
        fact = fact if mark else "was made with a BENCHER_JOB_SECRET, and there is none here"
        raise SharedStoreError(place, fact, "Set the secret that its other users have, or use another place.")
