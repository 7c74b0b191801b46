"""Archives: what goes out comes in again, whatever is damaged is left, and nobody's bytes are run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bencher_job import BencherJobError, CacheWarning, Record, UntrustedCache, _media
from bencher_job._keys import JobKeys
from bencher_job._options import KeyOptions
from bencher_job._record import Selection
from bencher_job._stores import MISS, Entry, Hit, StoreFailure, archive, dump
from bencher_job._stores import archive as exporting
from bencher_job._stores.archive import export, to_json
from bencher_job._stores.codec import seal
from bencher_job._stores.database import IN_ROW_BELOW, Database
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.importing import Imported, import_
from bencher_job._stores.parts import compression_named
from bencher_job._stores.signature import SECRET_VARIABLE, UNSIGNED
from bencher_job._stores.verification import verify

LARGE = "x" * IN_ROW_BELOW
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def function(a: int) -> int:
    return a


def entry(
    key: str, value: object, media: str | None = None, *, name: str = "f", tag: str = "", hour: int = 0
) -> Entry:
    created = NOON + timedelta(hours=hour)
    return Entry(dump(value), Record(key=key, function=name, tag=tag, created=created, media=media))


def value_of(store: DiskStore, key: str) -> object:
    hit = store.get(key)
    return hit.load() if isinstance(hit, Hit) else MISS


def keys_of(store: DiskStore) -> list[str]:
    return sorted(record.key for record in store.records())


def new_store(folder: Path, name: str) -> Iterator[DiskStore]:
    store = DiskStore(folder / name, size_limit=10**9)
    yield store
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    yield from new_store(tmp_path, "store")


@pytest.fixture
def other(tmp_path: Path) -> Iterator[DiskStore]:
    yield from new_store(tmp_path, "other")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar"


def add_film(store: DiskStore, key: str = "film", content: bytes = b"film" * 1000) -> None:
    folder = Path(_media.run_folder(store.directory, key))
    (folder / "films" / ("deep" * 30)).mkdir(parents=True)
    (folder / "films" / "film-1.dat").write_bytes(content)
    (folder / "films" / ("deep" * 30) / "film-2.dat").write_bytes(content)
    store.put_many([entry(key, "path", media=folder.name)])


def media_files(store: DiskStore, key: str) -> dict[str, bytes]:
    (record,) = (record for record in store.records() if record.key == key)
    assert record.media is not None
    folder = store.directory / "media" / record.media
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def resealed(body: dict[str, object]) -> bytes:
    """Make the text of a changed object whose digest is right."""
    body.pop("digest", None)
    return to_json(body)


def forged(path: Path, change: dict[str, object]) -> None:
    """Replace members of an archive, by the end of their names."""
    with tarfile.open(path) as whole:
        members = [(info.name, whole.extractfile(info).read()) for info in whole]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as made:
        for name, text in members:
            for end, new in change.items():
                if name.endswith(end):
                    text = new(text) if callable(new) else new
            info = tarfile.TarInfo(name)
            info.size = len(text)
            made.addfile(info, io.BytesIO(text))
    path.chmod(0o600)


def test_what_goes_out_comes_in(store: DiskStore, other: DiskStore, path: Path) -> None:
    array = np.arange(100_000.0)
    store.put_many([entry("small", {"a": 1}, tag="nightly"), entry("large", LARGE), entry("array", array)])
    assert export(store, path) == 3
    assert import_(other, path) == Imported(added=3)
    assert (value_of(other, "small"), value_of(other, "large")) == ({"a": 1}, LARGE)
    np.testing.assert_array_equal(value_of(other, "array"), array)
    assert {record.key: record for record in other.records()} == {
        record.key: record for record in store.records()
    }
    assert verify(other).is_clean


def test_more_entries_than_are_read_or_committed_at_once(
    store: DiskStore, other: DiskStore, path: Path
) -> None:
    count = exporting.ENTRIES_AT_ONCE * 2 + 1
    store.put_many([entry(f"key-{number}", number) for number in range(count)])
    assert export(store, path) == count
    assert import_(other, path) == Imported(added=count)
    assert [value_of(other, f"key-{number}") for number in range(count)] == list(range(count))


def test_records_come_whole(store: DiskStore, other: DiskStore, path: Path) -> None:
    """All that is known of an entry, whichever fields a record has."""
    plain = {"str": "text", "int": 7, "float": 0.25, "bool": True}
    given = {each.name: plain[each.type] for each in fields(Record) if each.type in plain}
    record = Record(
        **{**given, "created": NOON, "arguments": {"a": 1, "b": None, "c": float("inf"), "d": "\udcff"}}
    )
    store.put_many([Entry(dump(1), record, b"bound\0")])
    export(store, path)
    import_(other, path)
    (before,), (after,) = store.records(), other.records()
    assert after == before
    assert after.arguments == record.arguments
    assert not [*other.history.of_version(record.function, bound=b"bound\0")]  # which has no edition
    assert other.files.query("SELECT bound FROM Cache") == [(b"bound\0",)]


def test_editions_come_along(store: DiskStore, other: DiskStore, path: Path) -> None:
    edition = JobKeys(function, KeyOptions(version="3")).function_version
    for key in ("a", "b"):
        record = replace(entry(key, 1).record, function=edition.function)
        store.put_many([Entry(dump(1), record, key.encode(), edition)])
    export(store, path)
    with tarfile.open(path) as whole:
        assert sum(name.startswith("editions/") for name in whole.getnames()) == 1
    import_(other, path)
    assert (
        other.history.versions(edition.function)
        == store.history.versions(edition.function)
        == [edition.as_stored()]
    )
    found = other.history.of_version(edition.function, prefix=edition.prefix)
    assert {(keyed.record.key, keyed.bound) for keyed in found} == {("a", b"a"), ("b", b"b")}
    assert {record.fingerprint for record in other.records()} == {edition.fingerprint.digest.hex()}


def test_an_entry_whose_edition_is_damaged_is_taken_without(
    store: DiskStore, other: DiskStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edition = JobKeys(function).function_version
    store.put_many([Entry(dump(1), entry("a", 1).record, b"a", edition)])
    export(store, path)
    content = path.read_bytes()
    at = content.index(b'"key_version"')
    path.write_bytes(content[:at] + b"X" + content[at + 1 :])
    assert import_(other, path) == Imported(added=1)
    assert "the code of imported entries is not known" in caplog.text
    assert value_of(other, "a") == 1


def test_media_come_along_in_a_folder_of_their_own(store: DiskStore, other: DiskStore, path: Path) -> None:
    add_film(store)
    (exported,) = store.records()
    export(store, path)
    assert import_(other, path) == Imported(added=1)
    assert media_files(other, "film") == media_files(store, "film")
    assert len(media_files(other, "film")) == 2
    (record,) = other.records()
    assert record.media != exported.media
    assert verify(other).is_clean
    other.remove(["film"])
    assert list((other.directory / "media").iterdir()) == []


def test_other_tools_can_read_an_archive(store: DiskStore, path: Path) -> None:
    add_film(store, content=b"content")
    store.put_many([entry("key", 1)])
    export(store, path)
    with tarfile.open(path, "r:") as whole:
        names = whole.getnames()
        film = whole.extractfile("entries/1/media/films/film-1.dat")
        known = json.load(whole.extractfile("entries/2/entry.json"))  # type: ignore[arg-type]
        head = json.load(whole.extractfile("bencher_job.json"))  # type: ignore[arg-type]
    assert film is not None
    assert names[0] == "bencher_job.json"
    assert (head["version"], head["entries"]) == (1, 2)
    assert known["record"]["key"] == "key"
    listed = subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True)
    assert listed.stdout.split() == names
    assert listed.stderr == ""


@pytest.mark.parametrize(
    ("selection", "named", "keys"),
    [
        ({"function": "g"}, None, ["c", "d"]),
        ({"tag": "x"}, None, ["b", "c"]),
        ({"tag": ""}, None, ["a", "d"]),
        ({"function": "g", "tag": "x"}, None, ["c"]),
        ({"since": NOON + timedelta(hours=1)}, None, ["b", "c", "d"]),
        ({"until": NOON + timedelta(hours=2)}, None, ["a", "b"]),
        (
            {"since": NOON + timedelta(hours=1), "until": NOON + timedelta(hours=3), "function": "g"},
            None,
            ["c"],
        ),
        ({"where": {"n": lambda n: n > 2}}, None, ["c", "d"]),
        ({"where": {"n": 2}, "tag": "x"}, None, ["b"]),
        ({"where": {"unknown": 2}}, None, []),
        ({}, ["d", "a", "a", "unknown"], ["a", "d"]),
        ({}, [], []),
        ({"tag": "x"}, iter(["a", "b"]), ["b"]),
        ({}, None, ["a", "b", "c", "d"]),
    ],
)
def test_what_is_chosen_goes_out(
    store: DiskStore, other: DiskStore, path: Path, selection: dict[str, Any], named: Any, keys: list[str]
) -> None:
    entries = [
        entry("a", 1, hour=0),
        entry("b", 2, hour=1, tag="x"),
        entry("c", 3, hour=2, tag="x", name="g"),
        entry("d", 4, hour=3, name="g"),
    ]
    numbered = (replace(each.record, arguments={"n": n}) for n, each in enumerate(entries, 1))
    store.put_many([each._replace(record=record) for each, record in zip(entries, numbered, strict=True)])
    assert export(store, path, Selection(**selection), keys=named) == len(keys)
    assert import_(other, path) == Imported(added=len(keys))
    assert keys_of(other) == keys


def test_the_time_when_an_entry_expires_comes_along(store: DiskStore, other: DiskStore, path: Path) -> None:
    ends = {"never": None, "later": time.time() + 2000, "expired": 1.0}
    for key, expires in ends.items():
        store.put_many([entry(key, 1)._replace(expires=expires)])
    assert export(store, path) == 3
    assert import_(other, path) == Imported(added=3)
    assert {info.record.key: info.expires for info in other.history.infos([*ends])} == ends


def test_an_imported_entry_is_no_miss(store: DiskStore, other: DiskStore, path: Path) -> None:
    store.put_many([entry("key", 1)])
    export(store, path)
    import_(other, path)
    assert (store.figures().total.misses, other.figures().total.misses) == (1, 0)


def test_an_entry_whose_record_is_damaged_is_left_out_and_replaced(
    store: DiskStore, other: DiskStore, path: Path
) -> None:
    for each in (store, other):
        each.put_many([entry("a", 1), entry("b", 2)])
    other.files.query("UPDATE Cache SET arguments = '{' WHERE key = 'a'")
    export(store, path)
    with pytest.warns(CacheWarning, match="1 entry of .* left out of"):
        assert export(other, path.with_name("other.tar")) == 1
    assert import_(other, path) == Imported(replaced=1, skipped=1)
    assert keys_of(other) == ["a", "b"]


def test_what_is_there_stays(store: DiskStore, other: DiskStore, path: Path) -> None:
    add_film(store, "both")
    store.put_many([entry("only", 1)])
    other.put_many([entry("both", "mine")])
    export(store, path)
    assert import_(other, path) == Imported(added=1, skipped=1)
    assert value_of(other, "both") == "mine"
    assert not (other.directory / "media").exists()
    assert import_(other, path) == Imported(skipped=2)


def test_what_is_there_damaged_is_replaced(store: DiskStore, other: DiskStore, path: Path) -> None:
    for each in (store, other):
        each.put_many([entry("key", LARGE)])
    (file,) = other.directory.glob("*/*/*.val")
    file.write_bytes(b"damaged")
    export(store, path)
    assert import_(other, path) == Imported(replaced=1)
    assert value_of(other, "key") == LARGE


def test_an_archive_appears_whole_and_for_its_owner_only(store: DiskStore, path: Path) -> None:
    store.put_many([entry("key", 1)])
    export(store, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == [path.name]


def test_a_file_that_is_there_is_not_overwritten_unasked(store: DiskStore, path: Path) -> None:
    store.put_many([entry("key", 1)])
    path.write_text("mine")
    with pytest.raises(BencherJobError, match="pass overwrite=True"):
        export(store, path)
    assert path.read_text() == "mine"
    assert export(store, path, overwrite=True) == 1
    assert tarfile.is_tarfile(path)


def test_an_archive_that_can_not_be_written_is_told(store: DiskStore, tmp_path: Path) -> None:
    with pytest.raises(StoreFailure, match=r"missing/archive\.tar can't be written"):
        export(store, tmp_path / "missing" / "archive.tar")


def test_a_killed_export_leaves_no_archive(store: DiskStore, path: Path) -> None:
    """It leaves a part of one until the next export."""
    store.put_many([entry(f"key-{number}", LARGE) for number in range(10)])
    script = """
        import os, signal, sys
        from pathlib import Path
        from bencher_job._stores import archive as exporting
        from bencher_job._stores.embedded import DiskStore
        exporting.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        exporting.export(DiskStore(Path(sys.argv[1]), size_limit=10**9), sys.argv[2])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(store.directory), str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(path.parent.glob(".*.part"))) == 1
    assert export(store, path) == 10
    assert list(path.parent.glob(".*.part")) == []


def test_damaged_entries_are_left_out_with_one_warning(
    store: DiskStore, other: DiskStore, path: Path
) -> None:
    store.put_many([entry(key, LARGE) for key in ("a", "b", "c", "d")])
    add_film(store, "z")
    for key in ("b", "d"):
        ((filename,),) = store.files.query("SELECT filename FROM Cache WHERE key = ?", (key,))
        (store.directory / filename).write_bytes(b"damaged")
    shutil.rmtree(store.directory / "media")
    with pytest.warns(CacheWarning, match="3 entries of .* left out of") as warned:
        assert export(store, path) == 2
    assert len(warned) == 1
    assert import_(other, path) == Imported(added=2)
    assert keys_of(other) == ["a", "c"]


def test_media_that_vanish_while_they_are_read_leave_no_half_entry(
    store: DiskStore, other: DiskStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_film(store)
    store.put_many([entry("a", 1), entry("z", 2)])
    copied: list[str] = []
    copy = archive.copy_member

    def forget_then_copy(file: BinaryIO, label: str, source: BinaryIO, size: int) -> str:
        if copied:
            store.remove(["film"])
            raise archive.Unwhole("gone")
        copied.append(label)
        return copy(file, label, source, size)

    monkeypatch.setattr(exporting, "copy_member", forget_then_copy)
    assert export(store, path) == 2  # and no warning: it was removed, not damaged
    assert import_(other, path) == Imported(added=2)
    with tarfile.open(path) as whole:
        assert not [name for name in whole.getnames() if "film" in name]


def test_an_entry_that_is_replaced_while_it_is_read_goes_out_as_it_is_then(
    store: DiskStore, other: DiskStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_many([entry("key", LARGE)])
    fetch, turns = Database.fetch, iter(range(3))

    def replace_then_fetch(self: Database, *columns: Any, **how: Any) -> Any:
        if next(turns, None) is not None:
            store.put_many([entry("key", LARGE + "new")])
        return fetch(self, *columns, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "fetch", replace_then_fetch)
        assert export(store, path) == 1  # and no warning
    assert import_(other, path) == Imported(added=1)
    assert value_of(other, "key") == LARGE + "new"


def filled(store: DiskStore) -> None:
    store.put_many([entry("a", 1), entry("b", LARGE), entry("c", [3] * 500)])
    add_film(store, "d")
    store.put_many([entry("e", 5)])


def test_a_truncated_archive_gives_what_is_whole(store: DiskStore, other: DiskStore, path: Path) -> None:
    filled(store)
    export(store, path)
    whole = path.read_bytes()
    for size in range(1024, len(whole), 1500):
        path.write_bytes(whole[:size])
        imported = import_(other, path)
        assert imported.added + imported.damaged + imported.skipped == 5, (size, imported)
        assert imported.refused == 0
        assert keys_of(other) == ["a", "b", "c", "d", "e"][: imported.added + imported.skipped]
    assert keys_of(other) == ["a", "b", "c", "d", "e"]
    assert verify(other).is_clean


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_gives_what_is_whole(
    store: DiskStore, path: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever byte is changed: at most the entry that it lies in is lost, and no wrong one comes in."""
    if not path.exists():
        filled(store)
        export(store, path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = tmp_path / "changed.tar"
    changed.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    changed.chmod(0o600)
    target = DiskStore(tmp_path / f"target-{os.urandom(8).hex()}", size_limit=10**9)
    imported = import_(target, changed)
    assert imported.added >= 4
    assert imported.added + imported.damaged == 5
    assert imported.refused == imported.skipped == 0
    for key in keys_of(target):
        assert pickle.dumps(value_of(target, key)) == pickle.dumps(value_of(store, key))
    if "d" in keys_of(target):
        assert media_files(target, "d") == media_files(store, "d")
    else:
        assert list(target.directory.glob("media/*")) == []
    target.close()


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 1000, bytes(10240)])
def test_a_file_that_is_no_archive_is_told(other: DiskStore, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BencherJobError, match=r"is not an archive\. Give the path of a file that export"):
        import_(other, path)


def test_a_foreign_tar_file_is_no_archive(other: DiskStore, path: Path) -> None:
    with tarfile.open(path, "w") as made:
        made.add(__file__, "test.py")
    path.chmod(0o600)
    with pytest.raises(BencherJobError, match="is not an archive"):
        import_(other, path)


def test_what_can_not_be_read_is_told(other: DiskStore, tmp_path: Path) -> None:
    with pytest.raises(BencherJobError, match="No such file"):
        import_(other, tmp_path / "missing.tar")
    with pytest.raises(BencherJobError, match="is not a file"):
        import_(other, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BencherJobError, match="is not a file"):
        import_(other, tmp_path / "pipe")


def test_an_archive_of_a_later_version_is_left(store: DiskStore, other: DiskStore, path: Path) -> None:
    store.put_many([entry("key", 1)])
    export(store, path)
    forged(path, {"bencher_job.json": resealed({"format": archive.FORMAT, "version": 2, "entries": 1})})
    with pytest.raises(BencherJobError, match="Upgrade bencher_job"):
        import_(other, path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_archive_that_others_can_write_to_needs_trust(
    store: DiskStore, other: DiskStore, path: Path, mode: int
) -> None:
    store.put_many([entry("key", 1)])
    export(store, path)
    path.chmod(mode)
    with pytest.raises(UntrustedCache, match="pass trusted=True") as raised:
        import_(other, path)
    assert raised.value.path == str(path)
    assert len(other) == 0
    assert import_(other, path, trusted=True) == Imported(added=1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_an_archive_of_another_user_needs_trust(store: DiskStore, other: DiskStore, path: Path) -> None:
    store.put_many([entry("key", 1)])
    export(store, path)
    os.chown(path, 12345, -1)
    with pytest.raises(UntrustedCache, match="belongs to the user number 12345"):
        import_(other, path)
    assert import_(other, path, trusted=True) == Imported(added=1)


def test_nothing_is_unpickled_on_the_way(
    store: DiskStore, other: DiskStore, path: Path, tmp_path: Path
) -> None:
    class Planted:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "planted"),)

    store.put_many([entry("key", Planted())])
    export(store, path)
    assert import_(other, path) == Imported(added=1)
    assert not (tmp_path / "planted").exists()


def store_with(secret: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> DiskStore:
    if secret is None:
        monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(SECRET_VARIABLE, secret)
    store = DiskStore(folder, size_limit=10**9)
    store.open()
    return store


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("ours", "ours", None),
        ("ours", "theirs", "another secret"),
        ("ours", None, f"{SECRET_VARIABLE} is not set"),
        (None, "ours", f"it is not signed, and {SECRET_VARIABLE} is set"),
    ],
)
def test_entries_of_another_secret_are_refused(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, reason: str | None
) -> None:
    source = store_with(before, tmp_path / "source", monkeypatch)
    source.put_many([entry("key", 1), entry("large", LARGE)])
    assert export(source, path) == 2
    target = store_with(after, tmp_path / "target", monkeypatch)
    imported = import_(target, path)
    if reason is None:
        assert imported == Imported(added=2)
        assert value_of(target, "key") == 1
    else:
        assert (imported.added, imported.damaged, imported.refused) == (0, 0, 2)
        assert reason in imported.problems[0]
        assert "entries/1 is refused" in str(imported)
        assert len(target) == 0
    source.close()
    target.close()


@pytest.mark.parametrize(
    "evil", ["../evil", "/tmp/evil", "films/../../evil", "..", ".", "", "films\0/evil", "x" * 300]
)
def test_a_path_that_leads_out_is_not_followed(
    store: DiskStore, other: DiskStore, path: Path, evil: str
) -> None:
    add_film(store)
    store.put_many([entry("good", 1)])
    export(store, path)

    def lead_out(text: bytes) -> bytes:
        body = json.loads(text)
        body["media"][0]["path"] = evil
        return resealed(body)

    forged(path, {"entries/1/entry.json": lead_out})
    imported = import_(other, path)
    assert (imported.added, imported.damaged) == (1, 1)
    assert list(path.parent.rglob("evil")) == []
    assert not Path("/tmp/evil").exists()
    assert list((other.directory / "media").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("record"),
        lambda body: body.pop("value"),
        lambda body: body.update(record=[]),
        lambda body: body.update(media=7),
        lambda body: body.update(bound="*"),
        lambda body: body["record"].pop("key"),
        lambda body: body["record"].update(key=["a"]),
        lambda body: body["record"].update(key="k" * 70_000),
        lambda body: body["record"].update(key="k" * (1 << 20)),
        lambda body: body["record"].update(key="a\0b"),
        lambda body: body["record"].update(function="\ud800"),
        lambda body: body["record"].update(pid=1 << 70),
        lambda body: body["record"].update(seconds="long"),
        lambda body: body["record"].update(created="yesterday"),
        lambda body: body["record"].update(created="2026-01-01"),
        lambda body: body["record"].update(arguments=[1]),
        lambda body: body["value"].update(size=-1),
        lambda body: body["record"].update(dirty="yes"),
        lambda body: body.update(edition=["ab"]),
        lambda body: body.update(expires="tomorrow"),
        lambda body: body.update(expires=float("nan")),
    ],
)
def test_a_forged_description_is_damage_and_no_exception(
    store: DiskStore, other: DiskStore, path: Path, change: object
) -> None:
    add_film(store)
    store.put_many([entry("good", 1)])
    export(store, path)

    def changed(text: bytes) -> bytes:
        body = json.loads(text)
        change(body)  # type: ignore[operator]
        return resealed(body)

    forged(path, {"entries/1/entry.json": changed})
    imported = import_(other, path)
    assert (imported.added, imported.damaged, len(imported.problems)) == (1, 1, 1)
    assert verify(other).is_clean
    assert list(other.directory.glob("media/*")) == []


def test_fields_of_other_versions_are_no_hindrance(store: DiskStore, other: DiskStore, path: Path) -> None:
    store.put_many([entry("key", 1)])
    export(store, path)

    def changed(text: bytes) -> bytes:
        body = json.loads(text)
        del body["record"]["library"]
        body["record"]["weather"] = "fine"
        return resealed(body)

    forged(path, {"entry.json": changed})
    assert import_(other, path) == Imported(added=1)


def test_an_entry_under_another_key_is_refused(store: DiskStore, other: DiskStore, path: Path) -> None:
    store.put_many([entry("key", 1)])
    export(store, path)

    def changed(text: bytes) -> bytes:
        body = json.loads(text)
        body["record"]["key"] = "mine"
        return resealed(body)

    forged(path, {"entry.json": changed})
    imported = import_(other, path)
    assert (imported.added, imported.refused) == (0, 1)
    assert "it belongs to the key key" in str(imported)


@pytest.mark.parametrize("size", [10**9 + 1, 1 << 62])
def test_an_entry_that_would_expand_beyond_the_store_is_refused(
    store: DiskStore, other: DiskStore, path: Path, size: int
) -> None:
    """Its declared size is looked at before anything is expanded."""
    pytest.importorskip("zstandard")
    store.put_many([entry("key", 1)])
    export(store, path)
    zeros = np.zeros(1 << 17)
    bomb = bytearray(bytes(seal(dump(zeros), "key", compression=compression_named("zstd"))))
    at = bomb.index(zeros.nbytes.to_bytes(8, "little"))
    bomb[at : at + 8] = size.to_bytes(8, "little")

    def changed(text: bytes) -> bytes:
        body = json.loads(text)
        body["value"] = {"size": len(bomb), "digest": UNSIGNED.hasher(bytes(bomb)).hexdigest()}
        return resealed(body)

    forged(path, {"entry.json": changed, "value": bytes(bomb)})
    started = time.monotonic()
    imported = import_(other, path)
    assert (imported.added, imported.refused) == (0, 1)
    assert "more than the whole store may" in str(imported)
    assert time.monotonic() - started < 10


def test_links_and_sparse_members_are_passed_over(store: DiskStore, other: DiskStore, path: Path) -> None:
    store.put_many([entry("key", 1)])
    export(store, path)
    link = tarfile.TarInfo("entries/1/value")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    sparse = tarfile.TarInfo("entries/2/value")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 1 << 40
    path.write_bytes(path.read_bytes() + link.tobuf(tarfile.GNU_FORMAT) + sparse.tobuf(tarfile.GNU_FORMAT))
    assert import_(other, path) == Imported(added=1)


def test_no_name_in_an_archive_leads_out(store: DiskStore, other: DiskStore, path: Path) -> None:
    """Names of members, of editions, and the folder that a record says it had."""
    add_film(store)
    export(store, path)
    evil = str(path.parent / "evil")

    def lead_out(text: bytes) -> bytes:
        body = json.loads(text)
        body["record"]["media"] = body["edition"] = evil
        return resealed(body)

    forged(path, {"entries/1/entry.json": lead_out})
    with tarfile.open(path, "a") as whole:
        for name in (
            evil,
            "../evil",
            "entries/1/../../../evil",
            "entries/2/media/../../../evil",
            "editions/../evil",
        ):
            member = tarfile.TarInfo(name)
            member.size = 4
            whole.addfile(member, io.BytesIO(b"evil"))
    before = {*path.parent.iterdir()}
    imported = import_(other, path)
    assert (imported.added, imported.damaged) == (1, 2)
    assert len(media_files(other, "film")) == 2  # in a folder that this store has named
    assert {*path.parent.rglob("*")} - {*other.directory.rglob("*")} - {
        *store.directory.rglob("*")
    } == before | {other.directory}
    assert not list(other.directory.rglob("*evil*"))


@pytest.mark.parametrize(("compression", "module"), [("zstd", "zstandard"), ("lz4", "lz4.frame")])
def test_a_compressed_entry_stays_so(
    store: DiskStore, other: DiskStore, path: Path, compression: str, module: str
) -> None:
    """It takes no more place in an archive, or in the store that it comes into, than where it was."""
    pytest.importorskip(module)
    store.put_many([entry("key", LARGE * 10)._replace(compression=compression)])
    export(store, path)
    assert path.stat().st_size < 20_000
    import_(other, path)
    assert value_of(other, "key") == LARGE * 10
    assert other.figures().size == store.figures().size < 20_000


def test_compressed_entries_come_in_where_the_package_is_missing(
    store: DiskStore, other: DiskStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zstandard")
    store.put_many([entry("smaller", LARGE)._replace(compression="zstd")])
    export(store, path)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "zstandard", None)  # type: ignore[arg-type]
        assert import_(other, path) == Imported(added=1)
    assert value_of(other, "smaller") == LARGE


def test_a_killed_import_leaves_a_store_that_can_be_repaired(
    store: DiskStore, other: DiskStore, path: Path
) -> None:
    for number in range(5):
        add_film(store, f"film-{number}")
    export(store, path)
    script = """
        import os, signal, sys
        from pathlib import Path
        from bencher_job._stores import importing
        from bencher_job._stores.embedded import DiskStore
        importing.ENTRIES_AT_ONCE = 2
        put, turns = DiskStore.put_many, []
        def put_once(self, entries):
            turns.append(0)
            if len(turns) > 1:
                os.kill(os.getpid(), signal.SIGKILL)
            put(self, entries)
        DiskStore.put_many = put_once
        importing.import_(DiskStore(Path(sys.argv[1]), size_limit=10**9), sys.argv[2])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(other.directory), str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(verify(other, repair=True).findings) == 2  # media of the two that were not committed
    assert verify(other).is_clean
    assert import_(other, path) == Imported(added=3, skipped=2)
    assert all(media_files(other, f"film-{number}") for number in range(5))


def test_a_full_disk_keeps_what_was_committed(store: DiskStore, other: DiskStore, path: Path) -> None:
    add_film(store)
    export(store, path)
    with pytest.MonkeyPatch.context() as patched:

        def fail(entries: object) -> None:
            raise StoreFailure("disk full")

        patched.setattr(other, "put_many", fail)
        with pytest.raises(StoreFailure, match="disk full"):
            import_(other, path)
    assert list((other.directory / "media").iterdir()) == []
    assert verify(other).is_clean
    assert import_(other, path) == Imported(added=1)


def test_an_archive_takes_little_memory(tmp_path: Path) -> None:
    """Neither way holds more than a few entries at once."""
    script = """
        import resource, sys
        from datetime import UTC, datetime
        from pathlib import Path
        from bencher_job import Record
        from bencher_job._stores import Entry, dump
        from bencher_job._stores.embedded import DiskStore
        from bencher_job._stores.archive import export
        from bencher_job._stores.importing import import_
        folder = Path(sys.argv[1])
        store, other = (DiskStore(folder / name, size_limit=10**10) for name in ("a", "b"))
        for number in range(60):
            record = Record(key=str(number), function="f", created=datetime.now(UTC))
            store.put_many([Entry(dump(bytes([number]) * 4_000_000), record)])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert export(store, folder / "archive") == 60
        assert import_(other, folder / "archive").added == 60
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 120_000  # kilobytes; all entries are 240,000
