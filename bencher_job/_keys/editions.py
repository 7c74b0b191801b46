"""Knows what is kept of a function as it stood when results of it were kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["PastEdition"]


class PastEdition(NamedTuple):
    """A function as it stood when results of it were kept.

    Attributes:
        prefix: what the keys of its calls share.
        key_version: the version of how keys are made.
        fingerprint: digest of its code, in hexadecimal.
        version: the user's version as text.
        parameters: names of the parameters that entered the key.
        manifest: what each part contributed, by its name.
        sources: the text of each part, where it was at hand.
    """

    prefix: bytes
    function: str
    key_version: int
    fingerprint: str
    version: str
    parameters: tuple[str, ...]
    manifest: Mapping[str, str]
    sources: Mapping[str, str]
