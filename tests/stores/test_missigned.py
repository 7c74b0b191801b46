"""Entries of another secret, or of none: they are misses, and they stay."""

from __future__ import annotations

import itertools
import warnings
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import CacheWarning, FutureCache, Job, Record
from bencher_job._stores import MISS, Entry, Found, Gone, dump, export, import_, verify
from bencher_job._stores.codec import seal, unseal
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.parts import DamagedEntry, MissignedEntry
from bencher_job._stores.signature import SECRET_VARIABLE
from tests.shell import Shell

SMALL, LARGE, ARRAY = ("5a" * 32, "1a" * 32, "aa" * 32)
VALUES = {SMALL: 1, LARGE: "x" * IN_ROW_BELOW, ARRAY: bytes(3 << 20)}
OURS, THEIRS = "ours", "theirs"

each_other_secret = pytest.mark.parametrize(
    ("writer", "reader"), [(OURS, None), (OURS, THEIRS), (None, OURS)], ids=["forgotten", "wrong", "new"]
)


class Stores:
    """Opens one folder with this secret or that, or with none."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch

    def use(self, secret: str | None) -> None:
        if secret is None:
            self._monkeypatch.delenv(SECRET_VARIABLE, raising=False)
        else:
            self._monkeypatch.setenv(SECRET_VARIABLE, secret)

    def open(self, secret: str | None, folder: Path | None = None) -> closing[DiskStore]:
        self.use(secret)
        store = DiskStore(folder or self.folder, size_limit=10**9)
        store.open()
        return closing(store)

    def fill(self, secret: str | None) -> None:
        with self.open(secret) as store:
            store.put_many([entry(key, value) for key, value in VALUES.items()])


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    return Stores(tmp_path / "store", monkeypatch)


def entry(key: str, value: object) -> Entry:
    record = Record(key=key, function="study.score", created=datetime(2026, 1, 31, tzinfo=UTC), seconds=2.0)
    return Entry(dump(value), record)


def assert_all_there(stores: Stores, secret: str | None) -> None:
    with stores.open(secret) as store:
        assert verify(store).is_clean
        for key, value in VALUES.items():
            assert store.get(key).load() == value  # type: ignore[union-attr]
    assert not (stores.folder / "damaged").exists()


@each_other_secret
@pytest.mark.parametrize("mapped", [False, True])
def test_each_is_a_miss_and_stays_with_one_warning_for_all(
    stores: Stores, writer: str | None, reader: str | None, mapped: bool
) -> None:
    stores.fill(writer)
    with stores.open(reader) as store:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = [*(store.get(key, mapped) for key in VALUES), *store.get_many(VALUES).values()]
        assert found == [MISS] * 3
        assert (len(store), store.tally.damaged) == (3, 0)
    assert [(each.category, each.filename) for each in told] == [(CacheWarning, __file__)]
    assert f"Set {SECRET_VARIABLE} as it was" in str(told[0].message)
    assert_all_there(stores, writer)


@each_other_secret
def test_a_result_replaces_it(stores: Stores, writer: str | None, reader: str | None) -> None:
    stores.fill(writer)
    with stores.open(reader) as store:
        with pytest.warns(CacheWarning, match="can't be verified"):
            assert not store.get(LARGE)
        store.put_many([entry(LARGE, "another")])
        assert store.get(LARGE).load() == "another"  # type: ignore[union-attr]
        assert len(store) == 3


@each_other_secret
def test_a_program_computes_and_goes_on(
    stores: Stores, writer: str | None, reader: str | None, tmp_path: Path
) -> None:
    """The value arrives, is kept with the program's own secret, and answers its next call."""
    numbers = itertools.count()

    def ask(secret: str | None, job_id: str) -> int:
        stores.use(secret)
        with FutureCache(cache_dir=tmp_path, cache_name="store", overwrite=False) as cache:
            return cache.submit(Job(job_id, lambda: next(numbers), {}, job_key=job_id)).result()  # type: ignore[no-any-return]

    assert [ask(writer, "a"), ask(writer, "b")] == [0, 1]
    with pytest.warns(CacheWarning, match="can't be verified"):
        assert ask(reader, "a") == 2
    assert [ask(reader, "a"), ask(writer, "b")] == [2, 1]


def flipped(bit: int, of: bytes) -> bytes:
    changed = bytearray(of)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bytes_of(store: DiskStore, key: str) -> bytes:
    ((value,),) = store.files.query("SELECT value FROM Cache WHERE key = ?", (key,))
    return bytes(value)


def put_bytes(store: DiskStore, key: str, content: bytes) -> None:
    store.files.changed(
        lambda database: database.execute(
            "UPDATE Cache SET value = ? WHERE key = ?", (content, key)
        ).fetchall()
    )


def is_set_aside(store: DiskStore, key: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        assert not store.get(key)
    return isinstance(store.history.examine(key), Gone)


def test_an_altered_plain_entry_is_damaged() -> None:
    """Each flipped bit, and each end that is cut off, is seen; one that says how it is signed is believed."""
    whole = bytes(seal(dump("value"), SMALL))
    altered = [flipped(bit, whole) for bit in range(8 * len(whole))]
    for content in [*altered, *(whole[:end] for end in range(len(whole))), whole + b"\0"]:
        with pytest.raises(MissignedEntry if content[5:6] not in {b"", b"\0"} else DamagedEntry):
            unseal(content, SMALL)


@pytest.mark.parametrize("reader", [None, OURS, THEIRS])
def test_a_signed_entry_that_is_cut_off_or_of_another_key_is_damaged(
    stores: Stores, reader: str | None
) -> None:
    stores.fill(OURS)
    with stores.open(reader) as store:
        whole = bytes_of(store, SMALL)
        for content in (whole[:-1], whole + b"\0", whole[:20], b"", whole.replace(SMALL.encode(), b"b" * 64)):
            put_bytes(store, SMALL, content)
            assert is_set_aside(store, SMALL)
            store.put_many([entry(SMALL, 1)])


@pytest.mark.parametrize("reader", [None, OURS, THEIRS])
def test_a_signed_entry_whose_bytes_are_others_stays(stores: Stores, reader: str | None) -> None:
    """Only who knows the secret can tell, and a secret can be the wrong one; the next result replaces it."""
    stores.fill(OURS)
    with stores.open(reader) as store:
        whole = bytes_of(store, SMALL)
        put_bytes(store, SMALL, flipped(8 * len(whole) - 1, whole))
        assert not is_set_aside(store, SMALL)
        store.put_many([entry(SMALL, 2)])
        assert store.get(SMALL).load() == 2  # type: ignore[union-attr]


@each_other_secret
def test_export_leaves_it_out_and_names_the_variable(
    stores: Stores, writer: str | None, reader: str | None, tmp_path: Path
) -> None:
    stores.fill(writer)
    with stores.open(reader) as store, pytest.warns(CacheWarning, match=f"3 entries of .*{SECRET_VARIABLE}"):
        assert export(store, tmp_path / "archive") == 0
    assert_all_there(stores, writer)


@each_other_secret
def test_import_takes_ours_in_its_place(
    stores: Stores, writer: str | None, reader: str | None, tmp_path: Path
) -> None:
    """What an archive holds of another secret is refused; ours replaces what nobody here can verify."""
    stores.fill(writer)
    with stores.open(reader, tmp_path / "ours") as store:
        store.put_many([entry(SMALL, 2)])
        export(store, tmp_path / "archive")
    with stores.open(writer) as store:
        export(store, tmp_path / "theirs")
    with stores.open(reader) as store:
        refused = import_(store, tmp_path / "theirs")
        assert (refused.added, refused.replaced, refused.refused) == (0, 0, 3)
        assert SECRET_VARIABLE in str(refused) or "another secret" in str(refused)
        taken = import_(store, tmp_path / "archive")
        assert (taken.replaced, taken.added) == (1, 0)
        assert store.get(SMALL).load() == 2  # type: ignore[union-attr]
        assert len(store) == 3


@each_other_secret
def test_what_is_told_of_it_calls_it_no_damage(
    stores: Stores, writer: str | None, reader: str | None
) -> None:
    stores.fill(writer)
    with stores.open(reader) as store:
        found = store.history.examine(LARGE)
        assert isinstance(found, Found)
        assert found.may_be_whole
        assert "secret" in found.damage.lower()
    shell = Shell(stores.folder.parent)
    place = ("--cache-dir", ".", "--cache-name", stores.folder.name)
    _, shown = shell.failure("show", LARGE, *place)
    assert "can't be shown: it" in shown
    assert "damaged, or made with another secret" in shown or "set" in shown
    verified = shell.run("verify", *place)
    assert (verified.returncode, verified.stdout.count("entry that can't be read here: ")) == (1, 3)
    assert_all_there(stores, writer)
