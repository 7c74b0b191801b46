"""Knows what an audit tells: what can be wrong in a store, each thing that is, and all of them together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ..._words import visible

__all__ = ["Audit", "Fault", "Finding"]

LISTED: Final = 20
"""Findings of one kind that the text of an audit tells one by one."""


class Fault(Enum):
    """What can be wrong in a store, in words."""

    DATABASE = "the database is damaged"
    DAMAGED = "damaged entry"
    UNREADABLE = "entry that can't be read here"
    FILE_MISSING = "entry whose value file is missing"
    MEDIA_MISSING = "entry whose media are missing"
    RECORD_DAMAGED = "entry whose record is damaged"
    STRAY_FILE = "value file without an entry"
    STRAY_MEDIA = "media without an entry"
    DISCARDED_MEDIA = "media that were to be removed"
    MISCOUNTED = "wrong figure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: an entry by its key, a file or folder by its path in the store."""

    fault: Fault
    name: str
    detail: str = ""
    mended: bool = False

    def __str__(self) -> str:
        detail = f": {visible(self.detail)}" if self.detail else ""
        return f"{self.fault.value}: {visible(self.name)}{detail}{' (mended)' if self.mended else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What `verify` found in a store."""

    directory: Path
    entries: int
    """Entries whose bytes were read and verified, whether they are right or not."""
    findings: tuple[Finding, ...] = ()
    """What is wrong, or was before it was mended."""
    under_way: int = 0
    """Value files without an entry that are so new that a put may still be at them."""
    foreign: tuple[str, ...] = ()
    """What is not the store's own and lies among its files; it is left as it is."""
    set_aside: int = 0
    """Damaged things that were set aside, now or earlier."""
    set_aside_bytes: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong."""
        return not self.findings

    def names(self, fault: Fault) -> list[str]:
        """Name all that has a fault."""
        return [finding.name for finding in self.findings if finding.fault is fault]

    def __str__(self) -> str:
        return "\n  ".join([self._summary(), *self._lines()])

    def _summary(self) -> str:
        state = "clean"
        if self.findings:
            mended = sum(finding.mended for finding in self.findings)
            state = f"{len(self.findings)} found wrong{f', {mended} mended' if mended else ''}"
        return f"{self.directory}: {self.entries} entries verified, {state}"

    def _lines(self) -> Iterator[str]:
        for fault in Fault:
            of_fault = [finding for finding in self.findings if finding.fault is fault]
            yield from map(str, of_fault[:LISTED])
            if len(of_fault) > LISTED:
                yield f"{fault.value}: {len(of_fault) - LISTED} more"
        if any(finding.fault is Fault.DATABASE and not finding.mended for finding in self.findings):
            yield "verify --repair sets a damaged database aside, and keeps what can be read"
        if self.under_way:
            yield f"new value files that a put may be at: {self.under_way}"
        for name in self.foreign[:LISTED]:
            yield f"not the store's own, and left: {visible(name)}"
        if len(self.foreign) > LISTED:
            yield f"not the store's own, and left: {len(self.foreign) - LISTED} more"
        if self.set_aside:
            yield f"set aside in damaged/: {self.set_aside} files of {self.set_aside_bytes} bytes"
