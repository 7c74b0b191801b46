"""The audit of a store: it finds what is wrong and nothing else, mends it, and is never in anybody's way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import BencherJobError, CacheWarning, Record, _media
from bencher_job._processes import process_name
from bencher_job._stores import MISS, Entry, Gone, Hit, dump, verification
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.folder import Opened
from bencher_job._stores.lookups import check_row
from bencher_job._stores.parts import UnreadableEntry
from bencher_job._stores.signature import SECRET_VARIABLE
from bencher_job._stores.verification import UNDER_WAY, Fault, verify

LARGE = "x" * IN_ROW_BELOW

pytestmark = pytest.mark.filterwarnings("ignore::bencher_job.CacheWarning")


def entry(key: str, value: object, media: str | None = None) -> Entry:
    return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC), media=media))


def value_of(store: DiskStore, key: str) -> object:
    hit = store.get(key)
    return hit.load() if isinstance(hit, Hit) else MISS


def change(store: DiskStore, statement: str, *values: object) -> None:
    """Change the database behind the store's back."""
    with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as database:
        database.execute(statement, values)


def make_old(path: Path) -> None:
    past = time.time() - UNDER_WAY - 1
    os.utime(path, (past, past))


def dead_run(store: DiskStore, key: str) -> str:
    """Make the media folder of a run whose process is gone; give its name."""
    name = Path(_media.run_folder(store.directory, key)).name.replace(f"-{os.getpid()}-", f"-{2**22 + 1}-")
    (store.directory / "media" / name / "generic").mkdir(parents=True)
    (store.directory / "media" / name / "generic" / "film.dat").write_bytes(b"film")
    return name


def assert_clean(store: DiskStore) -> None:
    """Clean, by a look without repair."""
    now = verify(store)
    assert now.is_clean, str(now)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    store = DiskStore(tmp_path / "cachedir" / "fcache", size_limit=10**9)
    yield store
    store.close()


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "GRACE", 0.3)


def test_an_empty_store_is_clean(store: DiskStore) -> None:
    found = verify(store)
    assert (found.is_clean, found.entries) == (True, 0)
    assert str(found) == f"{store.directory}: 0 entries verified, clean"


def test_a_store_with_all_that_there_is_is_clean(store: DiskStore) -> None:
    name = dead_run(store, "film")
    store.put_many([entry("small", 1), entry("large", LARGE), entry("film", "path", media=name)])
    store.put_many([entry("large", LARGE + "y"), entry("gone", LARGE)])
    store.remove(["gone"])
    found = verify(store, repair=True)
    assert str(found) == f"{store.directory}: 3 entries verified, clean"
    assert (value_of(store, "small"), value_of(store, "large")) == (1, LARGE + "y")


def test_entries_of_every_step_are_verified(store: DiskStore) -> None:
    store.put_many([entry(f"key-{number}", number) for number in range(verification.ENTRIES_AT_ONCE * 2 + 1)])
    assert verify(store).entries == verification.ENTRIES_AT_ONCE * 2 + 1


def test_a_value_is_not_unpickled(store: DiskStore, tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "planted"),)

    store.put_many([entry("key", Planted())])
    assert verify(store, repair=True).is_clean
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("value", ["small", LARGE])
def test_a_flipped_bit_is_found_and_set_aside(store: DiskStore, value: str) -> None:
    store.put_many([entry("good", 1), entry("bad", value)])
    if value == LARGE:
        (path,) = store.directory.glob("*/*/*.val")
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    else:
        change(
            store,
            "UPDATE Cache SET value = CAST(substr(value, 1, length(value) - 1) || x'00' AS BLOB) WHERE key = 'bad'",
        )
    for _ in range(2):  # a look changes nothing
        found = verify(store)
        (finding,) = found.findings
        assert (finding.fault, finding.name, finding.mended) == (Fault.DAMAGED, "bad", False)
        assert len(store) == 2
    assert "damaged entry: bad: its bytes don't match its digest" in str(found)
    repaired = verify(store, repair=True)
    assert repaired.findings[0].mended
    assert "1 found wrong, 1 mended" in str(repaired)
    assert (repaired.set_aside, store.tally.damaged) == (1, 1)
    assert repaired.set_aside_bytes > 0
    assert "set aside in damaged/: 1 file of" in str(repaired)
    assert (value_of(store, "good"), store.get("bad")) == (1, MISS)
    gone = store.history.examine("bad")
    assert isinstance(gone, Gone)
    assert gone.reason == "damaged"
    assert_clean(store)


def test_a_repair_goes_on_where_warnings_are_errors(store: DiskStore) -> None:
    store.put_many([entry(f"key-{number}", number) for number in range(3)])
    change(store, "UPDATE Cache SET value = x'00'")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        found = verify(store, repair=True)
    assert found.names(Fault.DAMAGED) == ["key-0", "key-1", "key-2"]
    assert verify(store).is_clean


def test_a_row_without_its_file_is_found_and_removed(store: DiskStore) -> None:
    store.put_many([entry("good", LARGE), entry("bad", LARGE)])
    rows = store.files.query("SELECT filename FROM Cache WHERE key = 'bad'")
    (store.directory / rows[0][0]).unlink()
    assert verify(store, repair=True).names(Fault.FILE_MISSING) == ["bad"]
    assert_clean(store)
    assert value_of(store, "good") == LARGE


def test_a_file_that_others_could_have_written_is_left_to_its_owner(store: DiskStore) -> None:
    store.put_many([entry("key", LARGE)])
    (path,) = store.directory.glob("*/*/*.val")
    path.chmod(0o666)
    found = verify(store, repair=True)
    assert found.names(Fault.UNREADABLE) == ["key"]
    assert "can be written to by others" in str(found)
    assert "mended" not in str(found)
    assert path.exists()


def test_an_entry_that_this_machine_can_not_expand_is_kept(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_many([entry("key", 1)])

    def without_memory(row: object, opened: object) -> Hit:
        raise UnreadableEntry("it takes more memory than there is")

    with monkeypatch.context() as patched:
        patched.setattr(verification, "check_row", without_memory)
        assert verify(store, repair=True).names(Fault.UNREADABLE) == ["key"]
    assert value_of(store, "key") == 1


KILLED_PUT = """
    import os, signal, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from bencher_job import Record
    from bencher_job._stores import Entry, dump
    from bencher_job._stores import blobs as files
    from bencher_job._stores.embedded import Commits
    from bencher_job._stores.embedded import DiskStore
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "written":
        Commits._commit = die
    else:
        os.rename = die
    store = DiskStore(Path(sys.argv[1]), size_limit=10**9)
    store.put_many([Entry(dump("x" * 100_000), Record(key="killed", function="f", created=datetime.now(UTC)))])
"""


@pytest.mark.parametrize(("moment", "suffix"), [("written", ".val"), ("writing", ".val.part")])
def test_what_a_killed_put_has_left_is_removed_at_once(store: DiskStore, moment: str, suffix: str) -> None:
    store.put_many([entry("good", LARGE)])
    command = [sys.executable, "-c", textwrap.dedent(KILLED_PUT), str(store.directory), moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (left,) = (path for path in store.directory.glob("*/*/*") if path.stat().st_size > 90_000)
    assert left.name.endswith(suffix)
    assert verify(store).names(Fault.STRAY_FILE) == [str(left.relative_to(store.directory))]
    assert left.exists()
    assert verify(store, repair=True).findings[0].mended
    assert not left.exists()
    assert_clean(store)
    assert value_of(store, "good") == LARGE


@pytest.mark.parametrize(
    "process", [f".{process_name()}", ".00000000-1-1", ""], ids=["lives", "elsewhere", "none"]
)
def test_a_file_that_a_put_may_be_at_is_left_until_it_is_old(store: DiskStore, process: str) -> None:
    """One of a process that lives, one of another machine, and one of a version that named no process."""
    store.put_many([entry("good", LARGE)])
    left = next(store.directory.glob("*/*/*.val")).with_name(f"{'0' * 28}{process}.val")
    left.write_bytes(b"half an entry")
    found = verify(store, repair=True)
    assert (found.is_clean, found.under_way) == (True, 1)
    assert "new value files that a put may be at: 1" in str(found)
    make_old(left)
    assert verify(store, repair=True).names(Fault.STRAY_FILE) == [str(left.relative_to(store.directory))]
    assert not left.exists()
    assert_clean(store)


@pytest.mark.parametrize(
    ("column", "fault"), [("filename", Fault.DAMAGED), ("arguments", Fault.RECORD_DAMAGED)]
)
def test_an_undecodable_text_is_damage_of_its_entry(store: DiskStore, column: str, fault: Fault) -> None:
    store.put_many([entry("bad", LARGE), entry("good", LARGE)])
    change(store, f"UPDATE Cache SET {column} = CAST(X'61FF62' AS TEXT) WHERE key = 'bad'")
    found = verify(store, repair=True)
    assert found.names(fault) == ["bad"]
    assert all(finding.mended for finding in found.findings if finding.fault is fault)
    assert not store.has("bad")
    assert value_of(store, "good") == LARGE


def test_an_entry_with_an_undecodable_key_is_listed_and_left(store: DiskStore) -> None:
    store.put_many([entry(key, 1) for key in ("a", "b", "c")])
    change(store, "UPDATE Cache SET key = CAST(X'62FF' AS TEXT) WHERE key = 'b'")
    found = verify(store, repair=True)
    assert found.is_clean
    assert (found.entries, len(found.foreign)) == (2, 1)
    assert "b\\udcff" in found.foreign[0]
    str(found).encode()
    assert len(store) == 3


def test_an_old_file_with_a_row_is_no_stray(store: DiskStore) -> None:
    store.put_many([entry("key", LARGE)])
    for path in store.directory.glob("*/*/*.val"):
        make_old(path)
    assert verify(store, repair=True).is_clean
    assert value_of(store, "key") == LARGE


def test_foreign_files_are_listed_and_left(store: DiskStore) -> None:
    store.put_many([entry("key", LARGE)])
    folder = next(store.directory.glob("*/*/*.val")).parent
    foreign = [
        folder / "notes.txt",
        folder / "link.val",
        folder.parent / "readme",
        store.directory / "media" / "film",
    ]
    (store.directory / "media" / "mine").mkdir(parents=True)
    foreign[1].symlink_to(foreign[0])
    for path in (foreign[0], *foreign[2:]):
        path.write_text("mine")
    foreign.append(store.directory / "media" / "mine")
    found = verify(store, repair=True)
    assert sorted(found.foreign) == sorted(str(path.relative_to(store.directory)) for path in foreign)
    assert found.is_clean
    assert "not the store's own, and left: media/mine" in str(found)
    assert all(os.path.lexists(path) for path in foreign)


def test_media_without_an_entry_are_removed_but_not_those_of_a_job_that_runs(store: DiskStore) -> None:
    store.open()
    stray = dead_run(store, "stray")
    running = Path(_media.run_folder(store.directory, "running"))
    running.mkdir()
    owned = dead_run(store, "owned")
    store.put_many([entry("owned", 1, media=owned)])
    assert verify(store).names(Fault.STRAY_MEDIA) == [f"media/{stray}"]
    assert verify(store, repair=True).names(Fault.STRAY_MEDIA) == [f"media/{stray}"]
    assert sorted(path.name for path in running.parent.iterdir()) == sorted([running.name, owned])
    assert_clean(store)


def test_an_entry_whose_media_are_missing_is_removed(store: DiskStore) -> None:
    name = dead_run(store, "film")
    store.put_many([entry("film", "path", media=name), entry("other", 1)])
    _media.discard(store.directory / "media" / name)
    assert verify(store, repair=True).names(Fault.MEDIA_MISSING) == ["film"]
    assert not store.has("film")
    assert store.has("other")
    assert_clean(store)


def test_media_that_a_killed_clear_has_left_are_removed(store: DiskStore) -> None:
    name = dead_run(store, "film")
    change_after_open = "INSERT INTO Discarded (media) VALUES (?)"
    store.open()
    change(store, change_after_open, name)
    assert verify(store).names(Fault.DISCARDED_MEDIA) == [f"media/{name}"]
    assert verify(store, repair=True).findings[0].mended
    assert not (store.directory / "media" / name).exists()
    assert_clean(store)


@pytest.mark.parametrize("damage", ["arguments = '{'", "arguments = NULL", "created = 'noon'"])
def test_an_entry_whose_record_is_damaged_is_set_aside(store: DiskStore, damage: str) -> None:
    media = dead_run(store, "a")
    store.put_many([entry("a", 1, media=media), entry("b", 2)])
    change(store, f"UPDATE Cache SET {damage} WHERE key = 'a'")
    assert [finding.name for finding in verify(store).findings] == ["a"]
    assert verify(store, repair=True).findings[0].mended
    assert [record.key for record in store.records()] == ["b"]
    assert not (store.directory / "media" / media).exists()
    assert_clean(store)


def test_wrong_figures_are_found_and_mended(store: DiskStore) -> None:
    store.put_many([entry("key", LARGE)])
    size = store.figures().size
    change(store, "INSERT INTO Counted VALUES ('g', '', x'', 7, 7, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)")
    found = verify(store)
    assert found.names(Fault.MISCOUNTED) == ["entries", "size"]
    assert "8 are counted, and there are 1" in str(found)
    verify(store, repair=True)
    assert (len(store), store.figures().size) == (1, size)
    assert_clean(store)


def signed_store(folder: Path, secret: str | None, monkeypatch: pytest.MonkeyPatch) -> DiskStore:
    if secret is None:
        monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(SECRET_VARIABLE, secret)
    store = DiskStore(folder, size_limit=10**9)
    store.open()
    return store


@pytest.mark.parametrize("secret", [None, "theirs"])
def test_a_signed_cache_is_not_repaired_without_its_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str | None
) -> None:
    with closing(signed_store(tmp_path, "ours", monkeypatch)) as store:
        store.put_many([entry("small", 1), entry("large", LARGE), entry("array", bytes(1 << 17))])
    with closing(signed_store(tmp_path, secret, monkeypatch)) as store:
        assert verify(store).names(Fault.UNREADABLE) == ["array", "large", "small"]
        with pytest.raises(
            BencherJobError, match=f"3 of 3 entries of .* Set {SECRET_VARIABLE} to the secret"
        ):
            verify(store, repair=True)
        assert len(store) == 3
        assert store.tally.damaged == 0
    with closing(signed_store(tmp_path, "ours", monkeypatch)) as store:
        assert_clean(store)
        assert value_of(store, "large") == LARGE


def test_entries_that_are_whole_but_not_signed_are_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(signed_store(tmp_path, None, monkeypatch)) as store:
        store.put_many([entry("good", 1), entry("large", LARGE), entry("bad", 2)])
        change(store, "UPDATE Cache SET value = CAST(value || x'00' AS BLOB) WHERE key = 'bad'")
    with closing(signed_store(tmp_path, "ours", monkeypatch)) as store:
        found = verify(store, repair=True)
        assert found.names(Fault.UNREADABLE) == ["good", "large"]
        assert f"it is not signed, and {SECRET_VARIABLE} is set" in str(found)
        assert found.names(Fault.DAMAGED) == ["bad"]
        assert len(store) == 2


def test_a_few_entries_of_another_secret_are_told_from_those_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay as they are: nobody here can tell whether one is damaged."""
    with closing(signed_store(tmp_path, "theirs", monkeypatch)) as store:
        store.put_many([entry("theirs", 1)])
    with closing(signed_store(tmp_path, "ours", monkeypatch)) as store:
        store.put_many([entry("a", 1), entry("b", 2)])
        found = verify(store, repair=True)
        assert found.names(Fault.UNREADABLE) == ["theirs"]
        assert "made with another secret" in str(found)
        assert (found.set_aside, len(store)) == (0, 3)
    with closing(signed_store(tmp_path, None, monkeypatch)) as store:
        store.put_many([entry(str(number), number) for number in range(3)])
        assert verify(store, repair=True).names(Fault.UNREADABLE) == ["a", "b", "theirs"]
        assert len(store) == 6


def test_a_damaged_database_is_left_until_a_repair_keeps_what_can_be_read(store: DiskStore) -> None:
    """A page that is lost hides rows, whose files must not be taken for strays before that."""
    store.put_many([entry(f"key-{number}", LARGE + str(number)) for number in range(300)])
    for path in store.directory.glob("*/*/*.val"):
        make_old(path)
    ((page,),) = store.files.query("SELECT max(pageno) FROM (SELECT rootpage AS pageno FROM sqlite_master)")
    ((page_size,),) = store.files.query("PRAGMA page_size")
    store.files.query("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    with open(store.directory / "cache.db", "r+b") as file:
        file.seek((page + 8) * page_size)
        file.write(b"\xff" * 10 * page_size)
    found = verify(store)
    assert found.names(Fault.DATABASE)
    assert "verify --repair sets a damaged database aside" in str(found)
    assert len(list(store.directory.glob("*/*/*.val"))) == 300
    found = verify(store, repair=True)
    assert all(finding.mended for finding in found.findings)
    kept = [record.key for record in store.records()]
    assert len(kept) > 100
    for key in kept:
        assert value_of(store, key) == LARGE + key.removeprefix("key-")
    assert len(list(store.directory.glob("*/*/*.val"))) == len(kept)
    assert verify(store).is_clean


def test_many_findings_are_counted_in_the_text(store: DiskStore) -> None:
    store.put_many([entry(f"key-{number}", number) for number in range(50)])
    change(store, "UPDATE Cache SET value = x'00'")
    text = str(verify(store))
    assert "50 found wrong" in text
    assert "damaged entry: 30 more" in text
    assert text.count("\n") == verification.LISTED + 1


def test_rows_of_another_program_are_left(store: DiskStore) -> None:
    store.put_many([entry("key", 1)])
    change(
        store, "INSERT INTO Cache (key, raw, mode, value) VALUES (x'00', 1, 1, 'foreign'), ('p', 0, 4, x'80')"
    )
    found = verify(store, repair=True)
    assert (found.entries, len(found.foreign), found.is_clean) == (1, 2, True)


BUSY = """
    import os, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from bencher_job import Record, _media
    from bencher_job._record import Selection
    from bencher_job._stores import Entry, dump
    from bencher_job._stores.embedded import DiskStore
    directory = Path(sys.argv[1])
    store = DiskStore(directory, size_limit=3_000_000)  # so that it evicts, too
    def entry(key):
        folder = Path(_media.run_folder(directory, key))
        folder.mkdir(parents=True)
        (folder / "film").write_bytes(b"film")
        record = Record(key=key, function="f", tag=key[:1], created=datetime.now(UTC), media=folder.name)
        return Entry(dump(key if key[0] == "a" else key * 20_000), record)
    turn = 0
    while True:
        store.put_many([*(entry(f"{turn % 3}-{number}") for number in range(10)), entry("a small one")])
        store.remove([f"{turn % 3}-5"])
        if turn % 2:
            store.clear(Selection(tag=str(turn % 3)))
        turn += 1
        if turn == 3:
            print("busy", flush=True)
"""


def test_a_store_in_use_gives_no_false_alarm(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where every new file is suspected: the second look tells what is under way."""
    monkeypatch.setattr(verification, "UNDER_WAY", 0.0)
    store.open()
    command = [sys.executable, "-c", textwrap.dedent(BUSY), str(store.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout is not None
            busy.stdout.readline()
            audits = [verify(store) for _ in range(20)]
            assert busy.poll() is None
        finally:
            busy.kill()
    assert [str(found) for found in audits if not found.is_clean] == []
    assert sum(found.entries for found in audits) > 20


def test_after_a_kill_at_any_time_a_repair_leaves_a_clean_store(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "UNDER_WAY", 0.0)
    for turn in range(5):
        command = [sys.executable, "-c", textwrap.dedent(BUSY), str(store.directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
            assert busy.stdout is not None
            busy.stdout.readline()
            time.sleep(0.013 * turn)
            busy.kill()
        verify(store, repair=True)
        assert_clean(store)
        media = {record.media for record in store.records()}
        assert media == {path.name for path in (store.directory / "media").iterdir()}


def test_an_entry_that_is_replaced_while_it_is_read_is_no_finding(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_many([entry("key", LARGE)])
    turns = iter(range(3))

    def read_late(row: tuple[object, ...], opened: Opened) -> object:
        if next(turns, None) is not None:
            store.put_many([entry("key", LARGE + "new")])
        return check_row(row, opened)

    monkeypatch.setattr(verification, "check_row", read_late)
    assert verify(store).is_clean
    assert next(turns, None) is None


def test_an_audit_holds_up_no_checkpoint(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement is left open between steps, so that what others write doesn't pile up."""
    store.put_many([entry(f"key-{number}", number) for number in range(verification.ENTRIES_AT_ONCE + 1)])
    seen: list[int] = []

    def checkpoint(row: tuple[object, ...], opened: Opened) -> object:
        if len(seen) < 3:
            with closing(sqlite3.connect(store.directory / "cache.db", isolation_level=None)) as other:
                other.execute("UPDATE Cache SET access_count = access_count + 1")
                seen.append(other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        return check_row(row, opened)

    monkeypatch.setattr(verification, "check_row", checkpoint)
    verify(store)
    assert seen == [0, 0, 0]


def test_the_text_of_an_audit_moves_no_cursor(store: DiskStore) -> None:
    """Names and details come from rows and files, which may say anything."""
    evil = "\x1b[2J\x1b]0;title\x07\r\x9b1m\u202e"
    store.put_many([entry(f"key {evil}", 1), entry("key", 2)])
    change(store, "UPDATE Cache SET value = x'00'")
    (store.directory / "ab" / "cd").mkdir(parents=True)
    (store.directory / "ab" / "cd" / f"file {evil}").touch()
    text = str(verify(store))
    assert text.replace("\n", "").isprintable()
    assert r"key \x1b[2J" in text
    assert r"file \x1b[2J" in text
