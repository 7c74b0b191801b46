"""Who computes a key: one process at a time, and nobody waits for the dead."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import random
import select
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bencher_job import CacheWarning, Record
from bencher_job._processes import Process
from bencher_job._stores import Entry, Lease, LeasesUnavailable, dump, folder, leases
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.leases import LeaseOwner, StoreWait
from tests.leasing import acquired, is_waited_for, taken_over

DEADLINE = 20.0
KEY = hashlib.sha256(b"a key").hexdigest()


def keys(count: int, kind: str = "") -> list[str]:
    return [hashlib.sha256(f"{kind} {number}".encode()).hexdigest() for number in range(count)]


HELD: list[Lease] = []
"""A lease whose object is gone is given up."""


def acquire(store: DiskStore, key: str) -> Lease | None:
    lease = Lease(key)
    HELD.append(lease)
    return lease if acquired(store, lease) else None


def acquire_many(store: DiskStore, wanted: Iterable[str]) -> dict[str, Lease]:
    tried = [Lease(key) for key in wanted]
    store.leases.acquire(tried)
    return {lease.key: lease for lease in tried if lease.held}


def commit(store: DiskStore, mine: Iterable[Lease]) -> set[str]:
    """Commit a result under each of some leases, and give the keys of those that were lost."""
    now = datetime.now(UTC)
    return set(
        store.put_many(
            [Entry(dump(1), Record(key=each.key, function="f", created=now), lease=each) for each in mine]
        )
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(path: Path) -> DiskStore:
    return DiskStore(path, size_limit=10**9)


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[[], DiskStore]]:
    """Each call is another owner, as another process would be."""
    stores: list[DiskStore] = []

    def new() -> DiskStore:
        stores.append(opened(path))
        return stores[-1]

    yield new
    for one in stores:
        one.close()


@pytest.fixture(params=[leases._OpenFile, leases._ProcessFile])
def both_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks of Linux and those of all other systems."""
    monkeypatch.setattr(leases, "_KIND", request.param)


class Child:
    """A process that says lines and hears lines."""

    def __init__(self, pid: int, said: int, heard: int) -> None:
        self.pid, self._said, self._heard = pid, said, heard
        self._lines = b""

    def hear(self) -> str:
        deadline = time.monotonic() + DEADLINE
        while b"\n" not in self._lines:
            ready, _, _ = select.select([self._said], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the child says nothing"
            more = os.read(self._said, 65536)
            assert more, f"the child died after it said {self._lines!r}"
            self._lines += more
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode()

    def tell(self, line: str) -> None:
        os.write(self._heard, line.encode() + b"\n")

    def kill(self, blow: int = signal.SIGKILL) -> None:
        os.kill(self.pid, blow)
        if blow == signal.SIGKILL:
            os.waitpid(self.pid, 0)
            self.pid = 0

    def end(self) -> None:
        for descriptor in (self._said, self._heard):
            os.close(descriptor)
        if self.pid:
            self.kill()


Talk = Callable[[str], str]


@contextmanager
def forked(work: Callable[[Talk], None]) -> Iterator[Child]:
    """Run a function in a forked child; it says a line and hears one by `talk(line)`."""
    from_child, said = os.pipe()
    heard, to_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(from_child)
            os.close(to_child)
            lines = os.fdopen(heard, "r")

            def talk(line: str) -> str:
                os.write(said, line.encode() + b"\n")
                return lines.readline().strip()

            work(talk)
            code = 0
        except BaseException as error:
            os.write(2, f"child: {error!r}\n".encode())
        finally:
            os._exit(code)
    os.close(said)
    os.close(heard)
    child = Child(pid, from_child, to_child)
    try:
        yield child
    finally:
        child.end()


SCRIPT = """
import os, sys
from pathlib import Path
from tests.stores.test_leases import acquire, acquire_many, commit, opened
from tests.leasing import acquired, taken_over, is_waited_for
store = opened(Path(sys.argv[1]))
def talk(line):
    print(line, flush=True)
    return sys.stdin.readline().strip()
"""


@contextmanager
def program(path: Path, script: str) -> Iterator[Child]:
    """Run a script in a new interpreter; it has `store` and `talk`."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(script), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    child = Child(process.pid, os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()))
    try:
        yield child
    finally:
        child.end()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path / "cache.db")) as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_no_owner_is_on_disk_before_the_first_lease(path: Path, open_store) -> None:
    open_store().open()
    assert not (path / "owners").exists()


def test_the_file_is_owner_only(path: Path, open_store) -> None:
    acquire(open_store(), KEY)
    assert stat.S_IMODE((path / "owners").stat().st_mode) == 0o600


@pytest.mark.usefixtures("both_locks")
def test_a_key_has_one_owner_at_a_time(open_store) -> None:
    one, other = open_store(), open_store()
    lease = acquire(one, KEY)
    assert lease is not None
    assert (acquire(one, KEY), acquire(other, KEY)) == (None, None)
    one.leases.release([lease])
    assert not lease.held
    later = acquire(other, KEY)
    assert later is not None
    assert later.number != lease.number
    assert acquire(one, KEY) is None


def test_the_owner_is_described(open_store) -> None:
    one, other = open_store(), open_store()
    lease = acquire(one, KEY)
    owner = other.leases.owner_of(KEY)
    assert owner == one.leases.owner_of(KEY)
    process = owner.process
    assert (process.host, process.pid, owner.number) == (socket.gethostname(), os.getpid(), lease.number)
    assert process.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert process.started > 0
    assert other.leases.owner_of("another key") is None


@pytest.mark.parametrize("key", ["0" * 64, "f" * 64, "F" * 64, "", "a b", "ü" * 64, "ab " * 21 + "a"])
def test_any_text_that_can_be_a_key_has_a_lease(open_store, key: str) -> None:
    one, other = open_store(), open_store()
    lease = acquire(one, key)
    assert lease.number == other.leases.owner_of(key).number
    assert acquire(other, key) is None
    one.leases.release([lease])
    assert other.leases.owner_of(key) is None


def test_keys_that_differ_in_case_differ(open_store) -> None:
    assert len(acquire_many(open_store(), [KEY, KEY.upper(), KEY])) == 2


@pytest.mark.parametrize("count", [3, 1000])
def test_many_are_acquired_as_far_as_they_are_free(open_store, count: int) -> None:
    one, other = open_store(), open_store()
    wanted = keys(count)
    first = acquire_many(one, wanted[::2])
    second = acquire_many(other, wanted)
    assert first.keys() == set(wanted[::2])
    assert second.keys() == set(wanted[1::2])
    numbers = [lease.number for lease in [*first.values(), *second.values()]]
    assert sorted(numbers) == sorted(set(numbers))
    one.leases.release(first.values())
    assert acquire_many(other, wanted).keys() == first.keys()


def test_what_is_not_ours_is_not_released(open_store) -> None:
    """So a lease may be released that an interrupt has kept from being acquired, or from being noted as such."""
    one, other = open_store(), open_store()
    lease = acquire(one, KEY)
    acquire(other, "joined")
    other.leases.release([Lease(KEY), Lease("unknown")])
    one.leases.release([Lease(KEY)])
    assert one.leases.owner_of(KEY).number == lease.number


def test_a_lease_whose_acquisition_was_not_noted_is_released_all_the_same(open_store) -> None:
    one, other = open_store(), open_store()
    lease = acquire(one, KEY)
    lease.held = False
    one.leases.release([lease])
    assert acquire(other, KEY)


@pytest.mark.usefixtures("both_locks")
def test_closing_frees_all_and_the_next_use_opens_again(open_store) -> None:
    one, other = open_store(), open_store()
    acquire_many(one, keys(100))
    one.close()
    assert other.leases.owner_of(keys(100)[0]) is None
    assert len(acquire_many(other, keys(100))) == 100
    assert acquire(one, KEY) is not None
    assert acquire(other, KEY) is None


def test_what_is_forgotten_without_closing_is_free(path: Path, open_store) -> None:
    acquire(opened(path), KEY)
    assert acquire(open_store(), KEY) is not None


def test_a_waiter_is_noticed(open_store) -> None:
    one, other = open_store(), open_store()
    lease = acquire(one, KEY)
    assert not is_waited_for(one, lease)
    other.leases.tell_of_waiter(KEY, lease.number + 1)
    assert not is_waited_for(one, lease)
    other.leases.tell_of_waiter(KEY, lease.number)
    other.leases.tell_of_waiter(KEY, lease.number)
    assert is_waited_for(one, lease)
    one.leases.release([lease])
    other.leases.tell_of_waiter(KEY, lease.number)
    assert not is_waited_for(one, acquire(one, KEY))


@pytest.mark.parametrize("number", [1, 3])
def test_the_keys_that_others_have_are_taken(open_store, number: int) -> None:
    one, other = open_store(), open_store()
    wanted = keys(number)
    acquire_many(one, [*wanted, *keys(2, "more")])
    acquire(other, "the other's")
    assert other.leases.taken(["the other's", "free"]) == other.leases.taken(["free"]) == set()
    assert other.leases.taken(wanted) == set(wanted)
    assert one.leases.taken(wanted) == set()
    one.close()
    assert other.leases.taken(wanted) == set()


@pytest.mark.usefixtures("both_locks")
def test_the_leases_of_a_killed_process_are_free(path: Path, open_store) -> None:
    ours = open_store()

    def work(talk: Talk) -> None:
        talk(str(len(acquire_many(theirs, keys(200)))))

    theirs = opened(path)
    with forked(work) as child:
        assert child.hear() == "200"
        assert ours.leases.owner_of(keys(200)[7]).process.pid == child.pid
        assert acquire_many(ours, keys(200)) == {}
        child.kill()
        assert ours.leases.owner_of(keys(200)[7]) is None
        assert len(acquire_many(ours, keys(200))) == 200


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "os._exit(0)", "sys.exit(0)", "store.close()"])
def test_the_leases_of_a_program_end_with_it(path: Path, open_store, ending: str) -> None:
    ours = open_store()
    with program(path, f"talk(str(acquire(store, {KEY!r}).number))\n{ending}\ntalk('closed')") as child:
        number = int(child.hear())
        assert acquire(ours, KEY) is None
        assert (ours.leases.owner_of(KEY).process.pid, ours.leases.owner_of(KEY).number) == (
            child.pid,
            number,
        )
        child.tell("end")
        until(lambda: ours.leases.owner_of(KEY) is None)
        assert acquire(ours, KEY).number != number


@pytest.mark.usefixtures("both_locks")
def test_a_forked_child_is_another_owner(open_store) -> None:
    ours = open_store()
    lease = acquire(ours, KEY)

    def work(talk: Talk) -> None:
        assert acquire(ours, KEY) is None
        talk(str(acquire(ours, "the child's").number))
        ours.close()
        talk("closed")

    with forked(work) as child:
        child.hear()
        assert ours.leases.owner_of("the child's").process.pid == child.pid
        assert acquire(ours, "the child's") is None
        child.tell("go on")
        assert child.hear() == "closed"
        assert ours.leases.owner_of(KEY).number == lease.number
        assert acquire(ours, "the child's") is not None
    assert commit(ours, [lease]) == set()


@pytest.mark.usefixtures("both_locks")
def test_a_child_that_lives_on_keeps_no_lease_of_its_dead_parent(path: Path, open_store) -> None:
    ours = open_store()
    theirs = opened(path)

    def work(talk: Talk) -> None:
        acquire(theirs, KEY)
        grandchild = os.fork()
        if grandchild == 0:
            signal.pause()
        talk(str(grandchild))

    with forked(work) as child:
        grandchild = int(child.hear())
        try:
            assert ours.leases.owner_of(KEY).process.pid == child.pid
            child.kill()
            until(lambda: ours.leases.owner_of(KEY) is None)
            os.kill(grandchild, 0)  # still there
        finally:
            os.kill(grandchild, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_others_open_and_close_inherits_nothing(path: Path) -> None:
    """A descriptor that a child doesn't know of would keep its parent's leases alive."""
    stop = threading.Event()
    file = path / "owners"

    def open_and_close() -> None:
        store = opened(path)
        while not stop.is_set():
            acquire(store, KEY)
            store.close()

    acquire(opened(path), KEY)
    with ThreadPoolExecutor(2) as threads:
        busy = [threads.submit(open_and_close) for _ in range(2)]
        try:
            for _ in range(30):
                pid = os.fork()
                if pid == 0:
                    fds = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
                    os._exit(any(os.path.exists(fd) and os.path.samefile(fd, file) for fd in fds))
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        finally:
            stop.set()
        for one in busy:
            one.result()


KEPT: dict[Path, DiskStore] = {}


def keep(path: Path) -> None:
    KEPT[path] = opened(path)


def acquire_kept(path: Path, key: str) -> bool:
    while True:
        try:
            return acquire(KEPT[path], key) is not None
        except LeasesUnavailable:  # on a busy machine others may keep it locked for that long
            continue


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_each_worker_of_a_pool_is_an_owner(path: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    ours = opened(path)
    assert acquire(ours, "ours") is not None
    with context.Pool(3, initializer=keep, initargs=(path,)) as pool:
        won = pool.starmap(acquire_kept, [(path, key) for key in [*keys(50), *keys(50), "ours"]], chunksize=1)
        assert sum(won) == 50
    pool.join()
    ours.close()


@pytest.mark.usefixtures("both_locks")
def test_sixteen_processes_race_and_one_wins_each_key(path: Path) -> None:
    wanted = keys(200)
    theirs = opened(path)
    theirs.open()
    theirs.close()

    def work(talk: Talk) -> None:
        keep(path)
        order = random.Random(os.getpid()).sample(wanted, len(wanted))
        talk("ready")
        talk(" ".join(key for key in order if acquire_kept(path, key)))

    def race(running: list[Child]) -> None:
        if len(running) < 16:
            with forked(work) as child:
                race([*running, child])
            return
        for child in running:
            child.hear()
        for child in running:
            child.tell("go")
        winners = Counter(key for child in running for key in child.hear().split())
        assert winners == dict.fromkeys(wanted, 1)

    race([])


def test_a_process_may_be_killed_at_any_moment(path: Path, open_store, caplog) -> None:
    """Processes that acquire, wait and release are killed; the leases serve on, and none of the dead stays."""
    chance = random.Random(4)
    ours = open_store()
    mine = acquire_many(ours, keys(300, "mine"))
    assert len(mine) == 300
    theirs = opened(path)

    def work(talk: Talk) -> None:
        talk("ready")
        for turn in range(1_000_000):
            try:
                got = list(acquire_many(theirs, keys(5000 if turn % 4 == 1 else 40, f"{turn % 7}")).values())
                assert not acquire_many(theirs, mine)
                for lease in got[:20]:
                    theirs.leases.tell_of_waiter(lease.key, lease.number)
                theirs.leases.release(got)
            except LeasesUnavailable:
                continue

    for _ in range(8):
        with forked(work) as one, forked(work) as two, forked(work) as three:
            running = [one, two, three]
            for child in running:
                child.hear()
                child.tell("go")
            for child in running:
                time.sleep(chance.uniform(0.0, 0.03))  # a moment like any other
                child.kill()
        assert {ours.leases.owner_of(key).number for key in mine} == {lease.number for lease in mine.values()}
        free = acquire_many(ours, [key for turn in range(7) for key in keys(40, f"{turn}")])
        assert len(free) == 280
        ours.leases.release(free.values())
    assert not caplog.records


@pytest.mark.parametrize("removed", ["file", "folder", "moved"])
def test_a_removed_file_is_noticed(tmp_path: Path, removed: str) -> None:
    """Owners that hold bytes of different files would not see each other."""
    path = tmp_path / "store"
    one, other = opened(path), opened(path)
    lease = acquire(one, KEY)
    if removed == "file":
        (path / "owners").unlink()
    elif removed == "folder":
        shutil.rmtree(path)
    else:
        path.rename(tmp_path / "elsewhere")
    until(lambda: acquire(other, KEY))
    acquire(one, "another key")
    assert one.leases.owner_of(KEY).number != lease.number
    assert other.leases.owner_of("another key") is not None
    assert commit(one, [lease]) == {KEY}
    one.close()
    other.close()


def test_a_hundred_thousand_leases_fit(open_store) -> None:
    one, other = open_store(), open_store()
    wanted = keys(100_000)
    early = acquire_many(other, wanted[:500])
    first = acquire_many(one, wanted)
    assert len(first) == 99_500
    assert acquire_many(other, wanted[::10]).keys() == set()
    assert all(other.leases.owner_of(key).number == first[key].number for key in wanted[600::5000])
    one.leases.release(first.values())
    assert len(acquire_many(other, wanted[500:1500])) == 1000
    assert commit(other, early.values()) == set()


def test_the_dead_are_swept_from_the_tables(path: Path) -> None:
    for turn in range(10):
        one = opened(path)
        assert len(acquire_many(one, keys(50, f"{turn}"))) == 50
        one.close()
    assert (rows(path, "Lease"), rows(path, "Owner")) == (50, 1)


def test_a_stopped_owner_is_taken_over_from_and_fenced(
    path: Path, open_store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STOPPED_PATIENCE", 0.3)
    ours = open_store()
    script = f"""
        lease = acquire(store, {KEY!r})
        talk(str(lease.number))
        store.leases.release([lease])
        talk(repr(commit(store, [lease])))
    """
    with program(path, script) as child:
        number = int(child.hear())
        wait = ours.leases.wait(Lease(KEY))
        assert wait.look() == "running"
        child.kill(signal.SIGSTOP)
        until(lambda: wait.look() == "free")
        assert acquire(ours, KEY) is None
        lease, late = Lease(KEY), Lease(KEY)
        assert not taken_over(ours, late, number + 1)
        assert taken_over(ours, lease, number)
        assert not taken_over(ours, late, number)
        assert (lease.held, late.held) == (True, False)
        assert is_waited_for(ours, lease)
        child.kill(signal.SIGCONT)
        child.tell("go on")
        assert child.hear() == repr({KEY})
        assert commit(ours, [lease]) == set()


def test_only_a_stop_that_is_seen_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that was stopped itself, or saw the owner run in between, starts to count again."""
    now, stopped = 1000.0, True
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    monkeypatch.setattr(leases, "is_stopped", lambda process: stopped)
    stranger = Process("host", "boot", 1, 2, 0)
    wait, owner = StoreWait(leases, Lease(KEY)), LeaseOwner(3, stranger)  # type: ignore[arg-type]  # it asks none

    def after(seconds: float, number: int = 3) -> bool:
        nonlocal now
        now += seconds
        return wait.is_overdue(LeaseOwner(number, stranger))

    assert not wait.is_overdue(owner)
    assert not after(3600)
    assert [after(1) for _ in range(8)] == [False] * 7 + [True]
    assert not after(1, number=4)
    assert [after(1, number=4) for _ in range(10)] == [False] * 9 + [True]
    stopped = False
    assert not after(1, number=4)
    stopped = True
    assert not after(1, number=4)


def test_what_was_committed_is_released_in_the_same_breath(open_store) -> None:
    one, other = open_store(), open_store()
    mine = acquire_many(one, keys(200))
    taken = Lease(keys(200)[0])
    assert taken_over(other, taken, mine[taken.key].number)
    assert commit(one, mine.values()) == {taken.key}
    assert acquire_many(other, keys(200)).keys() == set(keys(200)[1:])
    assert other.leases.owner_of(taken.key).number == taken.number


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep the database locked, as a process that was stopped inside a commit does."""
    with closing(sqlite3.connect(path / "cache.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield


def test_a_locked_database_holds_nobody_up_for_long(path: Path, open_store) -> None:
    ours = open_store()
    before = acquire(ours, "before")
    assert before is not None
    with locked(path):
        start = time.monotonic()
        with pytest.raises(LeasesUnavailable, match="so jobs may be computed twice"):
            acquire(ours, KEY)
        with pytest.raises(LeasesUnavailable):
            acquire_many(ours, keys(10))
        assert 0.4 <= time.monotonic() - start < 30
        assert ours.leases.owner_of("before").process.pid == os.getpid()  # reading waits for nobody
        ours.leases.release([before])  # which needs no lock where it must
        assert ours.leases.owner_of("before") is None
    assert acquire(ours, "before") is not None
    assert acquire(ours, KEY) is not None
    assert len(acquire_many(ours, keys(10))) == 10


def test_leases_that_can_not_be_acquired_together_are_not_held(path: Path, open_store) -> None:
    ours = open_store()
    acquire(ours, KEY)
    tried = [Lease(key) for key in keys(10)]
    with locked(path), pytest.raises(LeasesUnavailable):
        ours.leases.acquire(tried)
    assert not any(lease.held for lease in tried)
    assert ours.leases.owner_of(tried[0].key) is None


def test_a_transaction_that_an_interrupt_has_left_open_keeps_no_lease_from_others(open_store) -> None:
    one, other = open_store(), open_store()
    acquire(one, "joined")
    one.open().execute("BEGIN IMMEDIATE")
    assert acquire(one, KEY)
    assert other.leases.owner_of(KEY) is not None
    assert acquire(other, "another key")


@pytest.mark.usefixtures("both_locks")
def test_threads_race_and_one_wins_each_key(open_store) -> None:
    shared, others = open_store(), open_store()
    start = threading.Barrier(8)

    def work(number: int) -> list[str]:
        ours = shared if number % 2 else others
        start.wait()
        won = [key for key in keys(200) if acquire(ours, key)]
        assert all(ours.leases.owner_of(key) for key in keys(200))
        return won

    with ThreadPoolExecutor(8) as threads:
        winners = Counter(key for won in threads.map(work, range(8)) for key in won)
    assert winners == dict.fromkeys(keys(200), 1)


def with_an_older_database(path: Path, store: DiskStore) -> None:
    """Release a lease of a store, and bring back the database that it was in."""
    lease = Lease(KEY)
    assert acquired(store, lease)
    with closing(sqlite3.connect(path / "cache.db")) as now, closing(sqlite3.connect(path / "old")) as old:
        now.backup(old)
    store.leases.release([lease])
    (path / "cache.db-wal").unlink(missing_ok=True)
    (path / "cache.db-shm").unlink(missing_ok=True)
    os.replace(path / "old", path / "cache.db")


def test_a_lease_that_damage_brings_back_stops_its_owner_no_more(open_store, path: Path) -> None:
    store = open_store()
    with_an_older_database(path, store)
    until(lambda: acquire(store, KEY) is not None)


def test_a_lease_that_damage_brings_back_stops_others_until_its_owner_acquires_one(
    open_store, path: Path
) -> None:
    store, others = open_store(), open_store()
    with_an_older_database(path, store)
    assert acquire(others, KEY) is None
    (other,) = keys(1)
    until(lambda: acquire(store, other) is not None)
    assert acquire(others, KEY) is not None


def test_a_transaction_that_waited_while_the_database_was_replaced_changes_the_new_one(
    open_store, path: Path
) -> None:
    store = open_store()
    lease = Lease(KEY)
    assert acquired(store, lease)
    with (
        closing(sqlite3.connect(path / "cache.db", isolation_level=None)) as damaged,
        ThreadPoolExecutor(1) as thread,
    ):
        damaged.execute("BEGIN IMMEDIATE")
        with closing(sqlite3.connect(path / "new")) as new:
            damaged.execute("COMMIT")
            damaged.backup(new)
            damaged.execute("BEGIN IMMEDIATE")
        released = thread.submit(store.leases.release, [lease])
        time.sleep(0.1)  # so that it waits for its turn, as far as can be seen from outside
        for name in ("cache.db", "cache.db-wal", "cache.db-shm"):
            if (path / name).exists():
                (path / name).rename(path / f"aside-{name}")
        os.replace(path / "new", path / "cache.db")
        damaged.execute("COMMIT")
        released.result(60)
    with closing(sqlite3.connect(path / "cache.db")) as new:
        assert new.execute("SELECT key FROM Lease").fetchall() == []


@pytest.mark.parametrize("obstacle", ["a folder", "a link", "a file in place of the store"])
def test_where_no_file_can_be_made_leases_are_unavailable(path: Path, obstacle: str) -> None:
    if obstacle == "a folder":
        (path / "owners").mkdir(parents=True)
    elif obstacle == "a link":
        path.mkdir()
        (path / "owners").symlink_to(path / "elsewhere")
    else:
        path.write_bytes(b"")
    store = opened(path)
    with pytest.raises(LeasesUnavailable, match="can't say who computes what"):
        acquire(store, KEY)
    store.leases.release([Lease(KEY)])
    store.close()


@pytest.mark.parametrize("count", [1, 3])
def test_a_row_that_is_in_the_way_and_can_not_be_found_is_damage(path: Path, open_store, count: int) -> None:
    store = open_store()
    before = acquire(store, KEY)
    assert before is not None
    commit(store, [before])
    # As an index does that leads to a row that is gone: an insert meets it, and no query finds it.
    with closing(sqlite3.connect(path / "cache.db")) as database:
        database.execute("CREATE TRIGGER ghost BEFORE INSERT ON Lease BEGIN SELECT RAISE(IGNORE); END")
    wanted = keys(count)
    with pytest.warns(CacheWarning, match="is damaged .*1 entry that can still be read was kept"):
        held = acquire_many(store, wanted)
    assert sorted(held) == sorted(wanted)
    assert store.tally.damaged == 1
    assert KEY in store.get_many([KEY])


def test_a_row_that_is_in_the_way_in_a_database_that_can_not_be_replaced_leaves_no_lease(
    path: Path, open_store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    assert acquire(store, KEY) is not None
    with closing(sqlite3.connect(path / "cache.db")) as database:
        database.execute("CREATE TRIGGER ghost BEFORE INSERT ON Lease BEGIN SELECT RAISE(IGNORE); END")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(folder, "recover", full)
    with pytest.raises(LeasesUnavailable, match="not for the next"):
        acquire(store, keys(1)[0])
