"""Knows how a store is verified as a whole, and how what is wrong is mended.

verify -> Inspection -> findings -> mended, if asked -> Audit
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import replace

from ... import _media
from ..._errors import BencherJobError, CacheWarning
from ..._names import DAMAGED_FOLDER
from ..base import StoreFailure
from ..disk import DiskStore
from ..entries.signature import SECRET_VARIABLE
from ..tables import COUNT_ALL
from .findings import Audit, Fault, Finding
from .footprint import bytes_of, files_under
from .inspection import Inspection, wrong_with

__all__ = ["Audit", "Fault", "Finding", "find_orphans", "remove_orphans", "verify"]

_log = logging.getLogger(__name__)


def verify(store: DiskStore, *, repair: bool = False) -> Audit:
    """Read and verify all that a store holds, without unpickling anything; other processes may use it meanwhile.

    With `repair` a damaged entry is set aside as a lookup does it, and so is an entry whose file or media are missing
    or whose record is damaged; what killed processes have left is removed. All of it is logged, and the job of an
    entry that was set aside runs again. A damaged database is set aside, and a new one has all that can be read of
    it. An entry that can't be read here is left as it is. What has expired is not looked at.

    Raises:
        BencherJobError: when it shall be repaired, and more signed entries don't match this process's
            `BENCHER_JOB_SECRET` than entries are right. Then the secret is wrong, and nothing is changed.
        UntrustedCache: when another user owns the store or can write to it.
        StoreFailure: when the store can't be opened.
    """
    store.open()
    inspection = Inspection(store.folder)
    inspection.run()
    findings = inspection.findings
    if repair:
        damage = [finding for finding in findings if finding.fault is Fault.DATABASE]
        if damage and _is_replaced(store, damage[0]):
            inspection = Inspection(store.folder)
            inspection.run()
            findings = [replace(finding, mended=True) for finding in damage] + inspection.findings
        if not any(finding.fault is Fault.DATABASE for finding in inspection.findings):
            _refuse_wrong_secret(store, inspection)
            findings = [finding if finding.mended else _mended(store, finding) for finding in findings]
    aside = [path.lstat().st_size for path in files_under(store.directory / DAMAGED_FOLDER)]
    return Audit(
        directory=store.directory,
        entries=inspection.entries,
        findings=tuple(findings),
        under_way=inspection.under_way,
        foreign=tuple(inspection.foreign),
        set_aside=len(aside),
        set_aside_bytes=sum(aside),
    )


def find_orphans(store: DiskStore) -> dict[Finding, int]:
    """Find the files and folders in a store that no entry owns, with their sizes in bytes; none is removed.

    What may belong to a put or a job that is under way is not among them.

    Raises:
        StoreFailure: when the store can't be read.
    """
    store.open()
    inspection = Inspection(store.folder)
    inspection.run_for_orphans()
    return {
        finding: bytes_of(store.directory / finding.name)
        for finding in inspection.findings
        if finding.fault is not Fault.DATABASE
    }


def remove_orphans(store: DiskStore, findings: Iterable[Finding]) -> list[Finding]:
    """Remove what `find_orphans` has found; give each as mended, if it is gone."""
    return [_mended(store, finding) for finding in findings]


def _is_replaced(store: DiskStore, damage: Finding) -> bool:
    """Replace a damaged database by a new one with all that can be read; whether that was done."""
    try:
        return store.folder.replace_database(damage.detail)
    except StoreFailure as error:
        _log.warning("%s: %s is not mended: %s", store.directory, damage, error)
        return False
    except CacheWarning:  # where warnings are errors: an audit tells all of it itself
        return True


def _refuse_wrong_secret(store: DiskStore, inspection: Inspection) -> None:
    """Refuse to take a cache for damaged whose signatures this process can't verify."""
    signature = store.folder.open().signature
    if inspection.missigned > inspection.good:
        raise BencherJobError(
            f"{inspection.missigned} of {inspection.entries} entries of {store.directory} are signed, and can't be "
            f"verified with {signature.source}. Nothing is repaired. Set {SECRET_VARIABLE} to "
            f"the secret that they were made with, or clear the cache if nobody knows it any more."
        )


def _mended(store: DiskStore, finding: Finding) -> Finding:
    try:
        mended = _mend(store, finding)
    except (OSError, StoreFailure, sqlite3.Error) as error:
        _log.warning("%s: %s is not mended: %s", store.directory, finding, error)
        return finding
    if mended:
        _log.warning("%s: %s is mended", store.directory, finding)
    return replace(finding, mended=mended)


def _mend(store: DiskStore, finding: Finding) -> bool:
    """Mend what was found; whether it is right now."""
    name, is_right = finding.name, True
    match finding.fault:
        case Fault.DAMAGED | Fault.FILE_MISSING:
            is_right = _mend_entry(store, finding)
        case Fault.RECORD_DAMAGED:
            is_right = _set_aside(store, name, f"its record is damaged: {finding.detail}")
        case Fault.MEDIA_MISSING:
            is_right = _set_aside(store, name, "its media are missing")
        case Fault.STRAY_FILE:
            store.open().disk.remove(name)
            is_right = not os.path.lexists(store.directory / name)
        case Fault.STRAY_MEDIA:
            _media.discard(store.directory / name)
        case Fault.DISCARDED_MEDIA:
            store.folder.changed(store.removals.remove_discarded)
        case Fault.MISCOUNTED:
            store.folder.changed(lambda database: database.execute(COUNT_ALL))
        case Fault.DATABASE | Fault.UNREADABLE:
            is_right = False
    return is_right


def _mend_entry(store: DiskStore, finding: Finding) -> bool:
    """Set an entry aside if its bytes still are what they were found to be; whether nothing is wrong with it now."""
    wrong = wrong_with(store.folder, finding.name)
    if wrong is None:
        return True
    if wrong.fault is not finding.fault:
        return False
    return _set_aside(store, finding.name, wrong.detail or "its value file is missing")


def _set_aside(store: DiskStore, key: str, reason: str) -> bool:
    """Set an entry aside; whether it is gone."""
    try:
        store.removals.set_aside(key, reason)
    except CacheWarning:  # where warnings are errors: an audit tells all of it itself
        pass
    return not store.has(key)
