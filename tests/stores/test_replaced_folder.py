"""A cache under a folder in which another user can rename things: nothing that they put there is ever unpickled."""

from __future__ import annotations

import ctypes
import grp
import os
import pickle
import pwd
import random
import shutil
import signal
import stat
import struct
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import CacheWarning, FutureCache, Job, Record, UntrustedCache
from bencher_job._stores import MISS, Entry, StoreFailure, dump, export, import_, verify
from bencher_job._stores import folder as opening
from bencher_job._stores.blobs import write_blob
from bencher_job._stores.database import Database
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.folder import is_replaceable
from bencher_job._stores.signature import PERSONAL_KEY, SECRET_VARIABLE, personal_signature
from bencher_job._stores.verification import Fault

VICTIM, ATTACKER = 12_001, 12_002
LONGEST_PAUSE = 0.001
"""Seconds between two exchanges, so that all checks find one folder and all openings the other one, now and then."""

OPENINGS = int(os.environ.get("BENCHER_JOB_TEST_OPENINGS", "5000"))

needs_users = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


class Evil:
    """Tells by a folder that it was unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)


def entry(key: str, value: object) -> Entry:
    return Entry(dump(value), Record(key=key, function="f", created=datetime.now(UTC)))


def as_user(user: int, work: Callable[[], object]) -> int:
    """Start a process of another user; give its number. It ends with 0 when the work is done."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(status)
    return pid


def done_as(user: int, work: Callable[[], object]) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(as_user(user, work), 0)[1]) == 0


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that all users can reach, with a home for the victim; no test's secret is set."""
    folder = Path(tempfile.mkdtemp(prefix="bencher_job-", dir="/tmp"))
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir(mode=0o700)
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(home))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def victims_home(ground: Path) -> Path:
    """The home, as the victim's own."""
    home = ground / "home"
    os.chown(home, VICTIM, VICTIM)
    return home


@pytest.fixture
def project(ground: Path) -> Path:
    """A folder in which everybody can rename everything."""
    folder = ground / "project"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def swap(one: Path, other: Path) -> None:
    """Exchange two folders in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, exchange = -100, 2
    if libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Let the attacker exchange two folders again and again."""

    def forever() -> None:
        while True:
            swap(one, other)
            until = time.perf_counter() + random.random() * LONGEST_PAUSE
            while time.perf_counter() < until:  # more exactly than a sleep
                pass

    pid = as_user(ATTACKER, forever)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@needs_users
def test_no_opening_unpickles_what_another_user_put_in_its_place(
    ground: Path, victims_home: Path, project: Path
) -> None:
    ours, theirs = project / "cachedir", project / "theirs"
    marker, seen = victims_home / "unpickled", victims_home / "seen"

    def fill() -> None:
        store = DiskStore(ours / "fcache", size_limit=10**9)
        store.put_many([entry("key", "good")])
        store.close()

    def plant() -> None:
        store = DiskStore(theirs / "fcache", size_limit=10**9, trusted=True)
        store.put_many([entry("key", Evil(marker))])
        store.close()
        for path in [theirs, *theirs.rglob("*")]:
            path.chmod(0o777 if path.is_dir() else 0o666)

    def open_again_and_again() -> None:
        good = 0
        warnings.simplefilter("ignore", CacheWarning)
        for _ in range(OPENINGS):
            store = DiskStore(ours / "fcache", size_limit=10**9, only_looks=True, patience=0.1)
            try:
                hit = store.get("key")
                if hit is not MISS:
                    good += hit.load() == "good"  # type: ignore[union-attr]
            except (UntrustedCache, StoreFailure):
                continue
            finally:
                store.close()
        seen.write_text(str(good))

    done_as(VICTIM, fill)
    done_as(ATTACKER, plant)
    with swapping(ours, theirs):
        done_as(VICTIM, open_again_and_again)
    assert not marker.exists()
    assert int(seen.read_text()) > 0  # so the attack left time for what it is about


@needs_users
def test_what_is_in_its_place_for_good_is_missed(ground: Path, victims_home: Path, project: Path) -> None:
    """Also where it belongs to the victim, as on a disk whose users can give files away."""
    marker, theirs = victims_home / "unpickled", project / "cachedir"
    store = DiskStore(theirs / "fcache", size_limit=10**9, trusted=True)
    store.put_many([entry("key", Evil(marker)), entry("large", [Evil(marker), bytes(1 << 20)])])
    store.close()
    for path in [theirs, *theirs.rglob("*")]:
        os.chown(path, VICTIM, VICTIM)

    def look() -> None:
        ours = DiskStore(theirs / "fcache", size_limit=10**9)
        with pytest.warns(CacheWarning, match=f"can't be verified with your key {PERSONAL_KEY}"):
            assert [ours.get("key"), ours.get("large"), *ours.get_many(["key", "large"])] == [MISS, MISS]
        assert len(verify(ours).names(Fault.UNREADABLE)) == 2
        ours.close()

    done_as(VICTIM, look)
    assert not marker.exists()


def test_nothing_is_written_to_a_database_that_was_replaced_while_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ours", "other"):
        with closing(DiskStore(tmp_path / name, size_limit=10**9)) as store:
            store.put_many([entry("key", name)])
    read_version = opening._version

    def replaced_meanwhile(database: Database, directory: Path) -> int:
        monkeypatch.setattr(opening, "_version", read_version)
        version = read_version(database, directory)
        swap(tmp_path / "ours", tmp_path / "other")
        return version

    monkeypatch.setattr(opening, "_version", replaced_meanwhile)
    with closing(DiskStore(tmp_path / "ours", size_limit=10**9)) as store:
        store.put_many([entry("new", 1)])
    with closing(DiskStore(tmp_path / "ours", size_limit=10**9)) as now:
        assert now.get("new").load() == 1  # type: ignore[union-attr]
        assert now.get("key").load() == "other"  # type: ignore[union-attr]


def opened(folder: Path) -> DiskStore:
    store = DiskStore(folder, size_limit=10**9)
    store.open()
    return store


def signs(store: DiskStore) -> bool:
    return store.files.open().signature.is_personal


def test_a_folder_of_the_users_own_is_not_signed_and_needs_no_key(ground: Path) -> None:
    store = opened(ground / "home" / "cachedir" / "fcache")
    assert not signs(store)
    store.close()
    assert not (ground / "home" / ".config").exists()


def test_the_key_is_made_once_for_its_owner_only(ground: Path, project: Path) -> None:
    one, other = opened(project / "one"), opened(project / "other")
    assert signs(one)
    assert one.files.open().signature.mark == other.files.open().signature.mark
    key = Path(PERSONAL_KEY).expanduser()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert os.listdir(key.parent) == [key.name]
    one.put_many([entry("key", 1)])
    assert one.get("key").load() == 1  # type: ignore[union-attr]
    assert verify(one).is_clean
    one.close()
    other.close()


def test_processes_that_make_the_key_at_once_agree(ground: Path, project: Path) -> None:
    reading, writing = os.pipe()
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os.write(writing, personal_signature(project).mark)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
    marks = os.read(reading, 8 * 32)
    os.close(reading)
    os.close(writing)
    assert {marks[at : at + 32] for at in range(0, len(marks), 32)} == {personal_signature(project).mark}


def test_a_trusted_store_and_one_with_a_secret_take_no_key(
    ground: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = DiskStore(project / "trusted", size_limit=10**9, trusted=True)
    assert not signs(trusting)
    monkeypatch.setenv(SECRET_VARIABLE, "secret")
    secret = opened(project / "secret")
    assert secret.files.open().signature.kind == 1
    assert not signs(secret)
    trusting.close()
    secret.close()
    assert not (ground / "home" / ".config").exists()


@pytest.mark.parametrize("home", ["no folder", "a file's", "open", "empty", "text", "relative"])
def test_without_a_usable_key_it_is_refused_with_the_remedy(
    ground: Path, project: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    key = Path(PERSONAL_KEY).expanduser()
    if home == "no folder":
        monkeypatch.setenv("HOME", "/proc/none")
    elif home == "relative":
        monkeypatch.setenv("HOME", "none")
    elif home == "a file's":
        (ground / "home" / ".config").write_text("")
    else:
        key.parent.mkdir(parents=True)
        key.write_text({"empty": "", "text": "A key\n"}.get(home, "0" * 64 + "\n"))
        key.chmod(0o644 if home == "open" else 0o600)
    with pytest.raises(UntrustedCache, match="can be replaced by another user's folder") as refusal:
        opened(project / "cachedir")
    for remedy in ("cache_dir=", "HOME", SECRET_VARIABLE, "trusted=True"):
        assert remedy in str(refusal.value)


def test_entries_move_by_export_and_import(
    ground: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To another account, whose key is another one, and to a folder of one's own, and back."""
    values = {"small": 1, "large": "x" * 100_000}
    source, archive = opened(project / "cachedir"), ground / "home" / "archive.tar"
    source.put_many([entry(key, value) for key, value in values.items()])
    assert export(source, archive) == 2
    source.close()
    monkeypatch.setenv("HOME", str(ground / "home" / "another"))
    (ground / "home" / "another").mkdir()
    for folder, is_signed in ((project / "theirs", True), (ground / "home" / "own", False)):
        target = opened(folder)
        assert import_(target, archive).added == 2
        assert signs(target) is is_signed
        for key, value in values.items():
            assert target.get(key).load() == value  # type: ignore[union-attr]
        assert verify(target).is_clean
        target.close()


def test_what_was_kept_before_the_folder_was_opened_to_others_is_taken_back_by_an_archive(
    ground: Path, project: Path
) -> None:
    project.chmod(0o755)
    before = opened(project / "cachedir")
    before.put_many([entry("key", 1)])
    assert not signs(before)
    before.close()
    project.chmod(0o777)
    after = opened(project / "cachedir")
    with pytest.warns(CacheWarning, match="export it with trusted=True and import it here"):
        assert not after.get("key")
    trusting = DiskStore(project / "cachedir", size_limit=10**9, trusted=True)
    export(trusting, ground / "home" / "archive.tar")
    trusting.close()
    assert import_(after, ground / "home" / "archive.tar").replaced == 1
    assert after.get("key").load() == 1  # type: ignore[union-attr]
    after.close()


def test_workers_sign_with_the_same_key(ground: Path, project: Path) -> None:
    store = opened(project / "cachedir")
    writer = store.blob_writer(None)
    assert writer is not None
    blob = write_blob(writer.terms, dump("value"), "key")
    assert blob is not None
    store.put_many([entry("key", "value")._replace(payload=blob)])
    assert store.get("key").load() == "value"  # type: ignore[union-attr]
    terms = pickle.loads(writer.terms)
    assert write_blob(pickle.dumps((*terms[:-1], False)), dump("value"), "key") is None
    store.close()


def test_a_cache_of_a_user_goes_on_as_before(ground: Path, project: Path) -> None:
    for _ in range(2):
        with FutureCache(cache_dir=project / "cachedir", overwrite=False) as cache:
            assert cache.submit(Job("job", lambda: 7, {}, job_key="key")).result() == 7
            hits = cache.cache.figures().total.hits
    assert hits == 1


# Who can replace a folder


def folder_of(path: Path, user: int, mode: int, group: int = 0) -> Path:
    path.mkdir()
    os.chown(path, user, group)
    path.chmod(mode)
    return path


@needs_users
@pytest.mark.parametrize(
    ("owner", "mode", "inner", "expected"),
    [
        (VICTIM, 0o755, VICTIM, False),
        (VICTIM, 0o700, VICTIM, False),
        (0, 0o755, VICTIM, False),
        (VICTIM, 0o777, VICTIM, True),
        (VICTIM, 0o775, VICTIM, True),
        (ATTACKER, 0o755, VICTIM, True),
        (0, 0o1777, VICTIM, False),
        (0, 0o1777, ATTACKER, True),
        (ATTACKER, 0o1777, VICTIM, True),
        (VICTIM, 0o2755, VICTIM, False),
    ],
)
def test_who_can_rename_in_a_folder_on_the_way_can_replace_it(
    ground: Path, victims_home: Path, owner: int, mode: int, inner: int, expected: bool
) -> None:
    parent = folder_of(ground / "parent", owner, mode)
    child = folder_of(parent / "child", inner, 0o755)
    deep = child / "a" / "b"
    os.makedirs(deep)
    for path in (deep, deep.parent):
        os.chown(path, VICTIM, VICTIM)
    told = victims_home / "told"
    done_as(
        VICTIM, lambda: told.write_text(f"{is_replaceable(deep)} {is_replaceable(deep / 'not' / 'there')}")
    )
    assert told.read_text() == f"{expected} {expected}"


def test_each_link_on_the_way_is_followed(ground: Path, project: Path) -> None:
    """Neither the place of a link nor what it leads through may be others'."""
    home = ground / "home"
    (home / "own").mkdir()
    (project / "open").mkdir()
    (home / "link-out").symlink_to(project / "open")
    (project / "link-in").symlink_to(home / "own")
    (home / "link").symlink_to("own")
    (home / "relative-out").symlink_to("../project/open")
    (home / "loop").symlink_to("loop")
    found = {
        name: is_replaceable(path / "cachedir")
        for name, path in {
            "own": home / "own",
            "link": home / "link",
            "out": home / "link-out",
            "relative": home / "relative-out",
            "in": project / "link-in",
            "dots": home / "own" / ".." / ".." / "project" / "open",
            "loop": home / "loop",
        }.items()
    }
    assert {name for name, is_open in found.items() if not is_open} == {"own", "link"}


def test_a_group_whose_only_member_is_the_user_is_no_other(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own tables of users and groups can't be changed for a test, so others stand in for them."""
    me = pwd.getpwuid(os.geteuid())
    folder = ground / "home" / "folder"
    folder.mkdir()
    folder.chmod(0o775)
    group = folder.stat().st_gid

    def with_members(names: list[str], primary: list[pwd.struct_passwd]) -> bool:
        monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(("g", "x", group, names)))
        monkeypatch.setattr(pwd, "getpwall", lambda: primary)
        return is_replaceable(folder / "cachedir")

    mine = pwd.struct_passwd((me.pw_name, "x", me.pw_uid, group, "", "", ""))
    other = pwd.struct_passwd(("mallory", "x", me.pw_uid + 7, group, "", "", ""))
    assert not with_members([me.pw_name], [])
    assert not with_members([], [mine])
    assert with_members([], [])  # who is in it is not known here
    assert with_members([me.pw_name, "mallory"], [mine])
    assert with_members([], [mine, other])


def test_an_access_control_list_is_not_taken_for_a_group(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group(("g", "x", 0, [me])))
    monkeypatch.setattr(pwd, "getpwall", list)
    folder = ground / "home" / "folder"
    folder.mkdir()
    folder.chmod(0o775)
    assert not is_replaceable(folder / "cachedir")
    # As `setfacl -m u:12002:rwx` writes it: the owner, a user, the group, the mask, and others.
    listed = [(1, 7, -1), (2, 7, ATTACKER), (4, 5, -1), (16, 7, -1), (32, 5, -1)]
    content = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *each) for each in listed)
    try:
        os.setxattr(folder, "system.posix_acl_access", content)
    except OSError:
        pytest.skip("the file system has no access control lists")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o775
    assert is_replaceable(folder / "cachedir")
