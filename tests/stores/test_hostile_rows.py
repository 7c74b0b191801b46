"""Whoever can write to the database, but doesn't know the secret, can't reach anything outside of the store with it."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import (
    BencherJobError,
    CacheWarning,
    Record,
    _media,
    cached_job,
    clean_orphaned_media,
    gen_path,
)
from bencher_job._folders import ForeignName, NameOf, path_of
from bencher_job._query import Order, Query
from bencher_job._stores import (
    MISS,
    Entry,
    dump,
    export,
    find_orphans,
    media_files,
    remove_orphans,
    verification,
    verify,
)
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.signature import SECRET_VARIABLE
from bencher_job._stores.verification import Fault

TABLES = ("Cache", "Settings", "Origin", "Edition", "Totals", "Gone", "Failure", "Failed", "Discarded")
LARGE = "x" * 100_000

HOSTILE = (
    "../../outside",
    "../../outside/precious.val",
    "ab/cd/../../../../outside/precious.val",
    "{outside}/precious.val",
    b"../../outside",
    b"\xff/\xfe",
    -1,
    None,
)
"""What is put into each column; the folder of the files that are to stay stands in braces."""

pytestmark = pytest.mark.filterwarnings("ignore::bencher_job.CacheWarning")


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "GRACE", 0)
    monkeypatch.setenv(SECRET_VARIABLE, "what the attacker doesn't know")


def entry(key: str, value: object, media: str | None = None) -> Entry:
    return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC), media=media))


def tree(folder: Path) -> dict[str, object]:
    """All that is in a folder, with what files hold and how many names each has."""
    return {
        str(path.relative_to(folder)): path.read_bytes() + str(path.lstat().st_nlink).encode()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


class Ground:
    """A cache with entries of all kinds, beside a folder that nothing may touch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cachedir"
        self.directory = self.cache / "fcache"
        self.outside = folder / "outside"
        self.kept = folder / "kept"

    def fill(self) -> None:
        @cached_job(cache_dir=self.cache, executor="serial")
        def study(name: str, large: bool = False) -> object:
            path = gen_path(name, suffix=".txt")
            Path(path).write_text("film")
            return LARGE if large else {"score": 1.5, "path": path}

        study("small")
        study("large", large=True)
        study("gone")
        study.forget("gone")
        study.cache.close()
        store = self.store()
        store.put_many([entry("expiring", 1)._replace(expires=datetime.now(UTC).timestamp() + 1000)])
        store.put_many([entry("tagged", 1)])
        store.close()
        self.change("UPDATE Cache SET tag = 'nightly' WHERE key = 'tagged'")
        self.change("INSERT INTO Failure VALUES ('key', 1, ?, x'00')", datetime.now(UTC).timestamp())
        self.change("INSERT INTO Discarded VALUES (?)", Path(_media.run_folder(self.directory, "x")).name)
        (self.outside / "folder").mkdir(parents=True)
        (self.outside / "precious.val").write_text("treasure")
        (self.outside / "folder" / "file").write_text("treasure")
        shutil.copytree(self.cache, self.kept)

    def restore(self) -> None:
        while self.cache.exists():  # a connection that is collected just now takes its files along
            shutil.rmtree(self.cache, ignore_errors=True)
        shutil.copytree(self.kept, self.cache)

    def store(self) -> DiskStore:
        return DiskStore(self.directory, size_limit=10**9)

    def change(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.directory / "cache.db", isolation_level=None)) as database:
            database.execute(statement, values)

    def columns(self, table: str) -> list[str]:
        with closing(sqlite3.connect(self.directory / "cache.db")) as database:
            return [row[1] for row in database.execute(f"PRAGMA table_info({table})")]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET_VARIABLE, "what the attacker doesn't know")
        ground = Ground(tmp_path_factory.mktemp("ground"))
        ground.fill()
        yield ground


@pytest.fixture
def ground(filled: Ground) -> Ground:
    filled.restore()
    return filled


def look_at_rows(store: DiskStore) -> None:
    for function in [each.name for each in store.functions()]:
        keys = store.history.find(Query(function, order=Order("arguments.name")))
        store.history.infos(keys)
        store.history.columns(function)
        store.get_many(keys, mapped=True, largest=1 << 20)


def look_at_page(store: DiskStore) -> None:
    pages = types.SimpleNamespace(
        **{name: pytest.importorskip(f"bencher_job._page.{name}") for name in ("listing", "entry")}
    )
    listing = pages.listing.Listing(store, unpickles=False)
    for function in [each.name for each in store.functions()]:
        columns = [each["id"] for each in listing.columns(function)]
        keys = store.history.find(Query(function))
        listing.page(keys, columns)
        listing.points(keys, columns)
        for info in store.history.infos(keys):
            pages.entry.entry_of(store, info, unpickles=False)
            if info.record.media is not None:
                for name in ("precious.val", "../../../outside/precious.val", "folder/file"):
                    assert (
                        pages.entry.file_answer(store.directory, info.record, name, is_download=False) is None
                    )


def look_up(store: DiskStore) -> None:
    keys = [record.key for record in store.records()]
    for key in ["tagged", "expiring", *keys]:
        store.history.examine(key)
        for info in store.history.infos([key]):
            media_files(store.folder, info.record)
        hit = store.get(key)
        assert hit is MISS or hit.load() is not None  # type: ignore[union-attr]
    store.get_many([*keys, "expiring"])


def ask_history(store: DiskStore) -> None:
    store.history.removed()
    store.figures()
    list(store.records(latest=10))
    store.leases.failure("key", 1)


def pack(store: DiskStore) -> None:
    archive = store.directory.parent / "archive.tar"
    export(store, archive, overwrite=True)
    assert b"treasure" not in archive.read_bytes()


def replace_each(store: DiskStore) -> None:
    store.put_many(
        [entry(key, 2) for key in {"tagged", "expiring", *(record.key for record in store.records())}]
    )


OPERATIONS: tuple[Callable[[DiskStore], object], ...] = (
    look_at_rows,
    look_at_page,
    ask_history,
    pack,
    verify,
    find_orphans,
    look_up,
    replace_each,
    lambda store: clean_orphaned_media(store.directory.parent, dry_run=False),
    lambda store: remove_orphans(store, find_orphans(store)),
    lambda store: verify(store, repair=True),
    lambda store: store.removals.remove_expired(),
    lambda store: store.removals.keep_within(1000),
    lambda store: store.clear(),
)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("first", [0, len(OPERATIONS) - 1], ids=["look", "clear"])
def test_no_column_of_any_table_leads_out_of_the_store(ground: Ground, table: str, first: int) -> None:
    """Whichever operation comes first, since some remove what others would find."""
    before = tree(ground.outside)
    beside = set(os.listdir(ground.folder))
    for column, value in itertools.product(ground.columns(table), HOSTILE):
        ground.restore()
        hostile = value.format(outside=ground.outside) if isinstance(value, str) else value
        with suppress(sqlite3.IntegrityError):
            ground.change(f"UPDATE OR IGNORE {table} SET {column} = ?", hostile)
        store = ground.store()
        for operation in OPERATIONS[first:] + OPERATIONS[:first]:
            try:
                operation(store)
            except BencherJobError:
                continue
            except Exception as error:
                error.add_note(f"{table}.{column} = {hostile!r}, {operation}")
                raise
        store.close()
        assert tree(ground.outside) == before, (column, hostile)
        assert set(os.listdir(ground.folder)) == beside, (column, hostile)


def reported(work: Callable[[], object]) -> list[str]:
    """Do some work; give the warnings that came of it."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CacheWarning)
        work()
    return [str(each.message) for each in told]


LEADING_OUT = [text for text in HOSTILE if isinstance(text, str) and ".." in text]


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_file_name_that_leads_out_is_damage_of_its_entry(ground: Ground, name: str) -> None:
    """It is reported once, its file stays, and its job can be stored again."""
    before = tree(ground.outside)
    ground.change("UPDATE Cache SET mode = 2, value = NULL, filename = ? WHERE key = 'tagged'", name)
    with closing(ground.store()) as store:
        assert verify(store).names(Fault.DAMAGED) == ["tagged"]
        (told,) = reported(lambda: store.get("tagged"))
        assert "it names the value file" in told
        assert (store.tally.damaged, store.has("tagged")) == (1, False)
        assert reported(lambda: store.get("tagged")) == []
        store.put_many([entry("tagged", 2)])
        assert store.get("tagged").load() == 2  # type: ignore[union-attr]
    assert tree(ground.outside) == before
    assert not (ground.directory / "damaged").exists()


@pytest.mark.parametrize("name", LEADING_OUT)
def test_a_file_name_that_leads_out_is_counted_when_its_row_goes(
    ground: Ground, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = tree(ground.outside)
    ground.change("UPDATE Cache SET filename = ? WHERE key = 'tagged'", name)
    with closing(ground.store()) as store:
        store.clear()
        assert (len(store), store.tally.damaged) == (0, 1)
    assert caplog.text.count("what it names is left alone") == 1
    assert tree(ground.outside) == before


@pytest.mark.parametrize("name", [*LEADING_OUT, b"../../outside", b"\xff/\xfe"])
def test_media_that_lead_out_are_damage_and_stay(
    ground: Ground, name: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = tree(ground.outside)
    ground.change("UPDATE Cache SET media = ? WHERE key = 'tagged'", name)
    with closing(ground.store()) as store:
        assert verify(store).names(Fault.DAMAGED) == ["tagged"]
        assert "tagged" not in [record.key for record in store.records()]
        store.remove(["tagged"])
        assert (store.tally.damaged, store.files.query("SELECT * FROM Discarded")) == (1, [])
    assert caplog.text.count("what it names is left alone") == 1
    assert tree(ground.outside) == before


@pytest.mark.parametrize("name", [*LEADING_OUT, b"../../outside", b"\xff/\xfe"])
def test_what_is_to_be_discarded_outside_stays(
    ground: Ground, name: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    before = tree(ground.outside)
    ground.change("DELETE FROM Discarded")
    ground.change("INSERT INTO Discarded VALUES (?)", name)
    with closing(ground.store()) as store:
        assert verify(store).names(Fault.DISCARDED_MEDIA) == ["row of Discarded"]
        assert all(size == 0 for finding, size in find_orphans(store).items())
        repaired = verify(store, repair=True)
        assert all(finding.mended for finding in repaired.findings)
        assert verify(store).is_clean
    assert caplog.text.count("what it names is left alone") == 1
    assert tree(ground.outside) == before


def test_a_link_in_the_place_of_a_run_folder_is_removed_and_not_followed(ground: Ground) -> None:
    before = tree(ground.outside)
    run = Path(_media.run_folder(ground.directory, "tagged"))
    run.symlink_to(ground.outside)
    ground.change("INSERT OR REPLACE INTO Discarded VALUES (?)", run.name)
    with closing(ground.store()) as store:
        store.clear()
    assert not run.is_symlink()
    assert tree(ground.outside) == before


def test_a_link_in_the_place_of_an_entrys_run_folder_shows_and_packs_nothing(ground: Ground) -> None:
    pages = pytest.importorskip("bencher_job._page.entry")
    with closing(ground.store()) as store:
        (record, *_) = (record for record in store.records() if record.media is not None)
        run = ground.directory / "media" / str(record.media)
        shutil.rmtree(run)
        run.symlink_to(ground.outside)
        assert media_files(store.directory, record) == {}
        assert pages.files_of(store.directory, record) == []
        assert pages.file_answer(store.directory, record, "precious.val", is_download=False) is None
        pack(store)
        assert verify(store).names(Fault.MEDIA_MISSING) == [record.key]
        store.clear()
    assert (ground.outside / "precious.val").exists()


def test_a_link_in_the_place_of_the_generation_is_not_written_to(ground: Ground) -> None:
    before = tree(ground.outside)
    (ground.directory / "generation").unlink()
    (ground.directory / "generation").symlink_to(ground.outside / "precious.val")
    with closing(ground.store()) as store, suppress(BencherJobError):
        store.clear()
    assert tree(ground.outside) == before


def test_settings_that_are_planted_for_diskcache_are_not_read(ground: Ground) -> None:
    """A database of no version is made again, and diskcache would take its settings from there."""
    with closing(sqlite3.connect(ground.directory / "cache.db", isolation_level=None)) as database:
        for table in (
            "Cache",
            "Counted",
            "Edition",
            "Origin",
            "Totals",
            "Gone",
            "Failure",
            "Failed",
            "Discarded",
            "Lease",
            "Owner",
            "Outbox",
            "Remote",
        ):
            database.execute(f"DROP TABLE {table}")
        database.execute("DROP VIEW Figures")
        database.execute("PRAGMA user_version = 0")
        for name in ("_directory", "disk__directory", "sqlite_writable_schema", "execute"):
            database.execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (name, str(ground.outside)))
    before = tree(ground.outside)
    with closing(ground.store()) as store:
        store.put_many([entry("key", LARGE)])
        assert store.get("key").load() == LARGE  # type: ignore[union-attr]
        store.clear()
    assert tree(ground.outside) == before


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (NameOf.VALUE_FILE, "ab/cd/" + "0" * 28 + ".0a1b2c3d-42-31.val"),
        (NameOf.RUN_FOLDER, "0123456789abcdef.0a1b2c3d-42-31.7"),
        (NameOf.QUARANTINE, "1770000000000000000"),
        (NameOf.RUN_FILE, "generic/film-1.dat"),
    ],
)
def test_one_function_knows_all_names(kind: NameOf, good: str, tmp_path: Path) -> None:
    assert path_of(tmp_path, kind, good) == tmp_path / kind.folder / good
    bad = [
        f"../{good}",
        f"/{good}",
        f"{good}/..",
        f"{good}/",
        f"{good}\0",
        "",
        ".",
        "..",
        None,
        7,
        good.encode(),
    ]
    bad += [f"{good}/../../x", "a/../../x", "/", "//", f"./{good}"]
    for name in bad:
        with pytest.raises(ForeignName, match=r"no .* has such a name"):
            path_of(tmp_path, kind, name)
