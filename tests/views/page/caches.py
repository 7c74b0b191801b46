"""Caches for tests of the page: entries that no function is needed for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from bencher_job import Record, _media
from bencher_job._stores import Entry, dump
from bencher_job._stores.embedded import DiskStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000002000000020802000000fdd49a73000000164944415478da63fccfc0f09f8101"
    "088c0c0c0c4c0c0c0c00190b01036b9ed6500000000049454e44ae426082"
)
"""Begins as a PNG of two by two pixels does."""


def key_of(number: object) -> str:
    return sha256(str(number).encode()).hexdigest()


def entry(number: object, function: str, arguments: Mapping[str, Any], value: object, **known: Any) -> Entry:
    """An entry, by default of noon on a day."""
    fields = {"created": NOON, "host": "atlas", "python": "3.11.7", "commit": "a1b2c3", **known}
    return Entry(dump(value), Record(key=key_of(number), function=function, arguments=arguments, **fields))


def fill(folder: Path, *entries: Entry) -> None:
    """Put entries into the store of a folder."""
    with closing(DiskStore(folder, size_limit=10**12)) as store:
        store.put_many(entries)


def study(many: int = 60) -> list[Entry]:
    """The entries of two functions: a sweep with results of numbers, and one that returns texts."""
    models = ("svm", "forest", "boosting")
    return [
        *(
            entry(
                number,
                "study.train",
                {"model": models[number % 3], "c": 10.0 ** (number % 4 - 2), "seed": number},
                {"accuracy": number / many, "epochs": number % 7},
                tag="nightly" if number % 2 else "",
                created=NOON + timedelta(minutes=number),
                seconds=0.5 * number,
            )
            for number in range(many)
        ),
        *(
            entry(f"t{number}", "study.report.title", {"page": number}, f"Page {number}")
            for number in range(5)
        ),
    ]


def run_with_files(folder: Path, key: str, files: Mapping[str, bytes]) -> str:
    """Write the files of a run of a job, and give the name of its folder."""
    run = Path(_media.run_folder(folder, key))
    for name, content in files.items():
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return run.name
