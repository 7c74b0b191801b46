"""Stores the entry of a store again, as another library would have stored it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from bencher_job._stores import Entry, Hit
from bencher_job._stores.embedded import DiskStore


def store_again(
    directory: Path, *, key: str = "", distributions: Mapping[str, str] | None = None, **changes: Any
) -> None:
    """Store the one entry of a store again, as another library would have stored it."""
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        (record,) = store.records()
        (version,) = store.history.versions(record.function)
        (keyed,) = store.history.of_version(record.function)
        hit = store.get(record.key)
        assert isinstance(hit, Hit)
        manifest = {**version.manifest, **(distributions or {})}
        version = version._replace(manifest=manifest, **changes)
        store.remove([record.key])
        for table in ("Edition", "Gone"):
            store.files.changed(
                lambda database, table=table: database.execute(f"DELETE FROM {table}").fetchall()
            )
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        record = dataclasses.replace(record, key=key or record.key)
        store.put_many([Entry(hit.payload, record, keyed.bound, version)])
