"""With a secret nobody else can change an entry or its record, and whatever was changed is refused."""

from __future__ import annotations

import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from bencher_job import CacheWarning, cached_job, gen_path
from bencher_job._stores import Found
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.signature import SECRET_VARIABLE

FORGED = {
    "key": "'another'",
    "store_time": "store_time + 1",
    "expire_time": "expire_time + 1",
    "tag": "'nightly'",
    "size": "size + 1",
    "mode": "2",
    "value": "CAST(substr(value, 1, length(value) - 1) || X'00' AS BLOB)",
    "filename": "'ab/cd/ef.val'",
    "seconds": "seconds + 1",
    "function": "'study.other'",
    "created": "created - 1",
    "arguments": "'{\"x\": 2}'",
    "bound": "CAST(bound || X'00' AS BLOB)",
    "attributes": "X'7B7D'",
    "files": "replace(files, '6', '7')",
    "media": "'0123456789abcdef' || substr(media, 17)",
    "mac": "CAST(substr(mac, 1, length(mac) - 1) || X'00' AS BLOB)",
}
"""Another value for each column; access times and counts, and numbers of rows, are not signed."""

NEEDED_FOR_A_HIT = {"key", "created", "value", "seconds", "files", "media", "mac"}

OTHER_TABLES = {
    "Origin": {"text": """replace(text, '"host": "', '"host": "x')"""},
    "Edition": {
        "function": "'study.other'",
        "key_version": "key_version + 1",
        "fingerprint": "'0' || fingerprint",
        "version": "'9'",
    },
}


@pytest.fixture(params=["with a secret", "without"])
def secret(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "with a secret":
        monkeypatch.setenv(SECRET_VARIABLE, "s" * 40)
    else:
        monkeypatch.delenv(SECRET_VARIABLE, raising=False)


def filled(cache_folder: Path) -> tuple[Path, str]:
    """Make a store with an entry that has files, and return its folder and the key."""

    @cached_job(code="none", ttl=3600)
    def job(x: int) -> str:
        path = gen_path("film")
        Path(path).write_text("abcdef")
        return path

    job(1)
    (record,) = job.cache.records()
    job.cache.close()
    return cache_folder / "fcache", record.key


def change(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / "cache.db", isolation_level=None)) as database:
        assert database.execute(statement).rowcount == 1


def records_of(store: DiskStore) -> list[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        return list(store.records())


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("column", FORGED)
def test_another_value_of_any_column_is_refused(cache_folder: Path, column: str) -> None:
    directory, key = filled(cache_folder)
    change(directory, f"UPDATE Cache SET {column} = {FORGED[column]}")
    now = "another" if column == "key" else key
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        known = store.history.examine(now)
        assert isinstance(known, Found)
        assert known.record is None or known.damage
        if column != "value":  # whose record is right
            assert records_of(store) == []
            assert store.history.infos([now]) == []
        if column in NEEDED_FOR_A_HIT:
            with pytest.warns(CacheWarning) as told:
                assert not store.get(now)
            assert len(told) == 1


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table, columns in OTHER_TABLES.items() for column in columns]
)
def test_another_origin_or_version_is_refused(cache_folder: Path, table: str, column: str) -> None:
    directory, _ = filled(cache_folder)
    change(directory, f"UPDATE {table} SET {column} = {OTHER_TABLES[table][column]}")
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        assert records_of(store) == []


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("length", [0, 40])
def test_a_signature_that_is_cut_off_is_damage(cache_folder: Path, length: int) -> None:
    directory, _ = filled(cache_folder)
    change(directory, f"UPDATE Cache SET mac = substr(mac, 1, {length})")
    store = DiskStore(directory, size_limit=10**9)
    with closing(store), pytest.warns(CacheWarning, match="is damaged and left out"):
        assert list(store.records()) == []


def test_a_plain_digest_is_no_signature(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who doesn't know the secret can only make what an unsigned store holds."""
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    directory, key = filled(cache_folder)
    monkeypatch.setenv(SECRET_VARIABLE, "s" * 40)
    with closing(DiskStore(directory, size_limit=10**9)) as store:
        with pytest.warns(CacheWarning, match="can't be verified"):
            assert list(store.records()) == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # one is enough
            assert not store.get(key)


def test_files_that_are_missing_or_shorter_make_a_miss(cache_folder: Path) -> None:
    runs = []

    @cached_job
    def film(x: int) -> str:
        runs.append(x)
        path = gen_path("film")
        Path(path).write_text("abcdef")
        return path

    def warned(damage: str) -> str:
        with pytest.warns(CacheWarning, match="media are missing") as told:
            again = film(1)
        assert len(told) == 1, damage
        return again

    Path(film(1)).unlink()
    again = warned("missing")
    Path(again).write_text("abc")
    (finding,) = film.cache.verify().findings
    assert finding.fault.name == "MEDIA_MISSING"
    assert Path(warned("shorter")).read_text() == "abcdef"
    assert len(runs) == 3
    Path(film(1)).write_text("fedcba")
    (finding,) = film.cache.verify().findings
    assert finding.fault.name == "MEDIA_ALTERED"
    assert len(runs) == 3
    with pytest.warns(CacheWarning, match="left out"):
        assert film.cache.export(cache_folder / "archive.tar") == 0
    assert film.cache.verify(repair=True).findings[0].mended
    assert film.cache.verify().is_clean


def test_a_path_is_found_in_the_store_that_is_read(cache_folder: Path) -> None:
    """Also where several stores have the same key, and whichever was opened last."""

    def film(x: int) -> list[str]:
        path = gen_path("film")
        Path(path).write_text("abcdef")
        return [path]

    first, second = (cached_job(film, cache_name=name) for name in ("first", "second"))
    paths = first(1), second(1)
    assert paths[0] != paths[1]
    for _ in range(2):
        assert (first(1), second(1)) == paths
        assert list(first.map([1])) == [paths[0]]
        first.cache.close()
        second.cache.close()
        second(1)
    assert first(1) == paths[0]
