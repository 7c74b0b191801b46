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
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from bencher_job._processes import Process
from bencher_job._stores import lease_table
from bencher_job._stores import lease_table as ledger
from bencher_job._stores import leases as claims
from bencher_job._stores.leases import Claim, Claims, ClaimsUnavailable, Owner, Wait

DEADLINE = 20.0
KEY = hashlib.sha256(b"a key").hexdigest()


def keys(count: int, kind: str = "") -> list[str]:
    return [hashlib.sha256(f"{kind} {number}".encode()).hexdigest() for number in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "claims"


@pytest.fixture
def open_claims(path: Path) -> Iterator[Callable[[], Claims]]:
    """Each call is another owner, as another process would be."""
    opened: list[Claims] = []

    def new() -> Claims:
        opened.append(Claims(path))
        return opened[-1]

    yield new
    for one in opened:
        one.close()


@pytest.fixture(params=[lease_table._OpenFile, lease_table._ProcessFile])
def both_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks of Linux and those of all other systems."""
    monkeypatch.setattr(lease_table, "_KIND", request.param)


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
from bencher_job._stores.leases import *
claims = Claims(Path(sys.argv[1]))
def talk(line):
    print(line, flush=True)
    return sys.stdin.readline().strip()
"""


@contextmanager
def program(path: Path, script: str) -> Iterator[Child]:
    """Run a script in a new interpreter; it has `claims` and `talk`."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(script), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
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


def works_again(open_claims: Callable[[], Claims], first: Claims) -> None:
    """Two owners exclude each other, and a release frees."""
    second = open_claims()
    claim = first.claim("works again")
    assert claim is not None
    assert second.claim("works again") is None
    first.release([claim])
    taken = second.claim("works again")
    assert taken is not None
    second.release([taken])


def test_nothing_is_on_disk_before_the_first_use(path: Path) -> None:
    Claims(path).close()
    assert not path.exists()


def test_the_file_is_owner_only(path: Path, open_claims: Callable[[], Claims]) -> None:
    open_claims().claim(KEY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("both_locks")
def test_a_key_has_one_owner_at_a_time(open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    claim = one.claim(KEY)
    assert claim is not None
    assert (one.claim(KEY), other.claim(KEY)) == (None, None)
    one.release([claim])
    later = other.claim(KEY)
    assert later is not None
    assert later.number > claim.number
    assert one.claim(KEY) is None


def test_the_owner_is_described(open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    claim = one.claim(KEY)
    owner = other.owner(KEY)
    assert owner == one.owner(KEY)
    process = owner.process
    assert (process.host, process.pid, owner.number) == (socket.gethostname(), os.getpid(), claim.number)
    assert process.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert process.started > 0
    assert time.time() - 60 < owner.since <= time.time()
    assert other.owner("another key") is None


@pytest.mark.parametrize(
    "key", ["0" * 64, "f" * 64, "F" * 64, "", "a b", "ü" * 64, "\udc80", "ab " * 21 + "a"]
)
def test_any_text_is_a_key(open_claims: Callable[[], Claims], key: str) -> None:
    one, other = open_claims(), open_claims()
    claim = one.claim(key)
    assert claim == Claim(key, other.owner(key).number)
    assert other.claim(key) is None
    one.release([claim])
    assert other.owner(key) is None


def test_keys_that_differ_in_case_differ(open_claims: Callable[[], Claims]) -> None:
    assert len(open_claims().claim_many([KEY, KEY.upper(), KEY])) == 2


@pytest.mark.parametrize("count", [3, 1000])
def test_many_are_claimed_as_far_as_they_are_free(open_claims: Callable[[], Claims], count: int) -> None:
    one, other = open_claims(), open_claims()
    wanted = keys(count)
    first = one.claim_many(wanted[::2])
    second = other.claim_many(wanted)
    assert first.keys() == set(wanted[::2])
    assert second.keys() == set(wanted[1::2])
    numbers = [claim.number for claim in [*first.values(), *second.values()]]
    assert sorted(numbers) == sorted(set(numbers))
    one.release(list(first.values()))
    assert other.claim_many(wanted).keys() == first.keys()


def test_what_is_not_ours_is_not_released(open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    claim = one.claim(KEY)
    other.release([claim, Claim(KEY, claim.number + 1), Claim("unknown", 7)])
    one.release([Claim(KEY, claim.number + 1)])
    assert one.owner(KEY).number == claim.number


@pytest.mark.usefixtures("both_locks")
def test_closing_frees_all_and_the_next_use_opens_again(open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    one.claim_many(keys(100))
    one.close()
    assert other.owner(keys(100)[0]) is None
    assert len(other.claim_many(keys(100))) == 100
    assert one.claim(KEY) is not None
    assert other.claim(KEY) is None


def test_what_is_forgotten_without_closing_is_free(path: Path, open_claims: Callable[[], Claims]) -> None:
    Claims(path).claim(KEY)
    assert open_claims().claim(KEY) is not None


def test_a_waiter_is_noticed(open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    claim = one.claim(KEY)
    assert not one.is_waited_for(claim)
    assert not other.wait_for(KEY, claim.number + 1)
    assert not one.is_waited_for(claim)
    assert other.wait_for(KEY, claim.number)
    assert other.wait_for(KEY, claim.number)
    assert one.is_waited_for(claim)
    one.release([claim])
    assert not other.wait_for(KEY, claim.number)
    assert not one.is_waited_for(one.claim(KEY))


@pytest.mark.usefixtures("both_locks")
def test_the_claims_of_a_killed_process_are_free(path: Path, open_claims: Callable[[], Claims]) -> None:
    ours = open_claims()

    def work(talk: Talk) -> None:
        talk(str(len(theirs.claim_many(keys(200)))))

    theirs = Claims(path)
    with forked(work) as child:
        assert child.hear() == "200"
        assert ours.owner(keys(200)[7]).process.pid == child.pid
        assert ours.claim_many(keys(200)) == {}
        child.kill()
        assert ours.owner(keys(200)[7]) is None
        assert len(ours.claim_many(keys(200))) == 200


@pytest.mark.parametrize(
    "ending", ["os.kill(os.getpid(), 9)", "os._exit(0)", "sys.exit(0)", "claims.close()"]
)
def test_the_claims_of_a_program_end_with_it(
    path: Path, open_claims: Callable[[], Claims], ending: str
) -> None:
    ours = open_claims()
    with program(path, f"talk(str(claims.claim({KEY!r}).number))\n{ending}\ntalk('closed')") as child:
        number = int(child.hear())
        assert ours.claim(KEY) is None
        assert (ours.owner(KEY).process.pid, ours.owner(KEY).number) == (child.pid, number)
        child.tell("end")
        until(lambda: ours.owner(KEY) is None)
        assert ours.claim(KEY).number > number


@pytest.mark.usefixtures("both_locks")
def test_a_forked_child_is_another_owner(open_claims: Callable[[], Claims]) -> None:
    ours = open_claims()
    claim = ours.claim(KEY)

    def work(talk: Talk) -> None:
        ours.release([claim])
        with ours.turn, ours.holding([claim]) as held:
            assert not held.keys
        assert ours.claim(KEY) is None
        talk(str(ours.claim("the child's").number))
        ours.close()
        talk("closed")

    with forked(work) as child:
        child.hear()
        assert ours.owner("the child's").process.pid == child.pid
        assert ours.claim("the child's") is None
        child.tell("go on")
        assert child.hear() == "closed"
        assert ours.owner(KEY).number == claim.number
        assert ours.claim("the child's") is not None


@pytest.mark.usefixtures("both_locks")
def test_a_child_that_lives_on_keeps_no_claim_of_its_dead_parent(
    path: Path, open_claims: Callable[[], Claims]
) -> None:
    ours = open_claims()
    theirs = Claims(path)

    def work(talk: Talk) -> None:
        theirs.claim(KEY)
        grandchild = os.fork()
        if grandchild == 0:
            signal.pause()
        talk(str(grandchild))

    with forked(work) as child:
        grandchild = int(child.hear())
        try:
            assert ours.owner(KEY).process.pid == child.pid
            child.kill()
            until(lambda: ours.owner(KEY) is None)
            os.kill(grandchild, 0)  # still there
        finally:
            os.kill(grandchild, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_others_open_and_close_inherits_nothing(path: Path) -> None:
    """A descriptor that a child doesn't know of would keep its parent's claims alive."""
    stop = threading.Event()

    def open_and_close() -> None:
        claims = Claims(path)
        while not stop.is_set():
            claims.claim(KEY)
            claims.close()

    with ThreadPoolExecutor(2) as threads:
        busy = [threads.submit(open_and_close) for _ in range(2)]
        try:
            for _ in range(100):
                pid = os.fork()
                if pid == 0:
                    opened = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
                    os._exit(any(os.path.exists(fd) and os.path.samefile(fd, path) for fd in opened))
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        finally:
            stop.set()
        for one in busy:
            one.result()


KEPT: dict[Path, Claims] = {}


def keep(path: Path) -> None:
    KEPT[path] = Claims(path)


def claim_kept(path: Path, key: str) -> bool:
    return KEPT[path].claim(key) is not None


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_each_worker_of_a_pool_is_an_owner(path: Path, method: str) -> None:
    context = multiprocessing.get_context(method)
    ours = Claims(path)
    assert ours.claim("ours") is not None
    with context.Pool(3, initializer=keep, initargs=(path,)) as pool:
        won = pool.starmap(claim_kept, [(path, key) for key in [*keys(50), *keys(50), "ours"]], chunksize=1)
        assert sum(won) == 50
    pool.join()
    ours.close()


@pytest.mark.usefixtures("both_locks")
def test_sixteen_processes_race_and_one_wins_each_key(path: Path) -> None:
    wanted = keys(200)
    theirs = Claims(path)

    def work(talk: Talk) -> None:
        order = random.Random(os.getpid()).sample(wanted, len(wanted))
        talk("ready")
        won = [key for key in order[:100] if theirs.claim(key)]
        won += theirs.claim_many(order[100:])
        talk(" ".join(won))

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


def test_programs_race_and_one_wins_each_key(path: Path) -> None:
    script = f"talk('ready')\ntalk(' '.join(key for key in {keys(200)!r} if claims.claim(key)))"
    with program(path, script) as one, program(path, script) as two, program(path, script) as three:
        running = [one, two, three]
        for child in running:
            child.hear()
        for child in running:
            child.tell("go")
        winners = Counter(key for child in running for key in child.hear().split())
    assert winners == dict.fromkeys(keys(200), 1)


def test_a_process_may_be_killed_at_any_moment(path: Path, open_claims: Callable[[], Claims], caplog) -> None:
    """Sixty processes that claim, grow the table, wait and release are killed; the file serves on, undamaged."""
    chance = random.Random(4)
    ours = open_claims()
    mine = ours.claim_many(keys(300, "mine"))
    assert len(mine) == 300
    theirs = Claims(path)

    def work(talk: Talk) -> None:
        talk("ready")
        for turn in range(1_000_000):
            got = list(theirs.claim_many(keys(5000 if turn % 4 == 1 else 40, f"{turn % 7}")).values())
            assert not theirs.claim_many(mine)
            for claim in got[:20]:
                theirs.wait_for(claim.key, claim.number)
                theirs.release([claim])
            with theirs.turn, theirs.holding(got) as held:
                held.release()

    for _ in range(20):
        with forked(work) as one, forked(work) as two, forked(work) as three:
            running = [one, two, three]
            for child in running:
                child.hear()
                child.tell("go")
            for child in running:
                time.sleep(chance.uniform(0.0, 0.03))  # a moment like any other
                child.kill()
        with ours.turn, ours.holding(list(mine.values())) as held:
            assert held.keys == mine.keys()
        free = ours.claim_many([key for turn in range(7) for key in keys(40, f"{turn}")])
        assert len(free) == 280
        ours.release(list(free.values()))
    assert not caplog.records


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: os.truncate(path, 0),
    "cut off in the header": lambda path: os.truncate(path, 20),
    "cut off after the header": lambda path: os.truncate(path, 200),
    "cut off in the table": lambda path: os.truncate(path, path.stat().st_size - 4096 * 64 + 64),
    "another's": lambda path: path.write_bytes(b"something else altogether\n" * 100_000),
    "noise": lambda path: path.write_bytes(random.Random(1).randbytes(path.stat().st_size)),
    "a header of noise": lambda path: overwrite(path, 0, random.Random(2).randbytes(64)),
    "a table of noise": lambda path: overwrite(
        path, ledger._TABLE_AT, random.Random(3).randbytes(ledger.MIN_CAPACITY * 64)
    ),
    "seats of noise": lambda path: overwrite(
        path, ledger._SEATS_AT, random.Random(4).randbytes(ledger.SEATS * 256)
    ),
    "seats that are gone": lambda path: overwrite(path, ledger._SEATS_AT, bytes(ledger.SEATS * 256)),
}


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_started_anew(
    path: Path, open_claims: Callable[[], Claims], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = open_claims(), open_claims()
    claim = one.claim(KEY)
    every = one.claim_many(keys(1000))
    assert other.claim("other's")
    DAMAGES[damage](path)
    other.claim_many(keys(1000))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is started anew" in caplog.text
    with one.turn, one.holding([claim, *every.values()]) as held:
        assert not held.keys
    one.release([claim])
    works_again(open_claims, one)
    works_again(open_claims, other)
    assert one.claim_many(keys(1000)) == {}
    assert len(caplog.records) == 1


def test_any_flipped_bits_leave_claims_that_work(
    path: Path, open_claims: Callable[[], Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two owners never get the same key, whatever a few hundred bytes of the file have become."""
    monkeypatch.setattr(ledger, "SEATS", 8)
    chance = random.Random(5)
    one, other = open_claims(), open_claims()
    for _ in range(100):
        one.claim_many(keys(100))
        size = path.stat().st_size
        for _ in range(20):
            place = chance.choice(
                [chance.randrange(64), 4096 + chance.randrange(2048), chance.randrange(size)]
            )
            overwrite(path, place, chance.randbytes(chance.choice([1, 16])))
        fresh = keys(100, str(chance.random()))
        mine, theirs = one.claim_many(fresh), other.claim_many(fresh)
        assert one.owner(KEY) is None
        assert len(mine) == 100 or len(theirs) == 100
        one.release(list(mine.values()))
        other.release(list(theirs.values()))


@pytest.mark.parametrize("removed", ["file", "folder", "replaced", "moved"])
def test_a_removed_file_is_noticed(tmp_path: Path, removed: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "store" / "claims"
    path.parent.mkdir()
    one, other = Claims(path), Claims(path)
    claim = one.claim(KEY)
    if removed == "file":
        path.unlink()
    elif removed == "replaced":
        path.rename(path.with_name("old"))
        path.write_bytes(b"")
    elif removed == "folder":
        shutil.rmtree(path.parent)
        path.parent.mkdir()
    else:
        path.parent.rename(tmp_path / "elsewhere")
        path.parent.mkdir()
    until(lambda: other.claim(KEY))
    until(lambda: one.owner(KEY) is not None and one.owner(KEY).number != claim.number)
    with one.turn, one.holding([claim]) as held:
        assert not held.keys
    assert "was removed or replaced" in caplog.text
    one.close()
    assert other.claim_many(keys(10)).keys() == set(keys(10))
    other.close()


def test_a_hundred_thousand_claims_fit(path: Path, open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    wanted = keys(100_000)
    early = other.claim_many(wanted[:500])
    first = one.claim_many(wanted)
    assert len(first) == 99_500
    assert other.claim_many(wanted[::10]) == {}
    assert all(other.owner(key).number == first[key].number for key in wanted[600::5000])
    with other.turn, other.holding(list(early.values())) as held:
        assert held.keys == early.keys()
    one.release(list(first.values()))
    assert len(other.claim_many(wanted[500:1500])) == 1000


def test_the_table_shrinks_when_its_claims_are_gone(path: Path, open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    small = len(one.claim_many(keys(10))) and path.stat().st_size
    one.claim_many(keys(20_000))
    large = path.stat().st_size
    one.close()
    for turn in range(60):
        other.release(list(other.claim_many(keys(1000, f"{turn}")).values()))
    assert path.stat().st_size < large / 2
    assert path.stat().st_size <= 2 * small


def test_the_dead_are_swept_from_the_table(path: Path, open_claims: Callable[[], Claims]) -> None:
    for turn in range(30):
        one = Claims(path)
        assert len(one.claim_many(keys(500, f"{turn}"))) == 500
        one.close()
    assert path.stat().st_size <= ledger._TABLE_AT + 4 * ledger.MIN_CAPACITY * 64


def test_who_takes_a_dead_owner_s_seat_takes_none_of_its_claims(open_claims: Callable[[], Claims]) -> None:
    one, other, third = open_claims(), open_claims(), open_claims()
    one.claim(KEY)
    one.close()
    other.claim("another key")
    assert one._ledger is None
    assert third.owner("another key") is not None
    assert third.owner(KEY) is None
    assert third.claim(KEY) is not None


def test_a_key_s_numbers_grow_whoever_claims_it(open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    one.claim("takes numbers in stock")
    numbers = []
    for owner in (other, one, other, other, one):
        claim = owner.claim(KEY)
        numbers.append(claim.number)
        owner.release([claim])
    assert numbers == sorted(set(numbers))


def test_many_owners_with_few_claims_each_fill_no_table(
    open_claims: Callable[[], Claims], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger, "MIN_CAPACITY", 256)
    every = [open_claims() for _ in range(20)]
    for turn in range(30):
        for number, one in enumerate(every):
            assert one.claim(f"{turn} {number}") is not None
    assert all(every[0].owner(f"{turn} {number}") for turn in range(30) for number in range(20))
    assert not caplog.records


def test_all_seats_taken_is_told(open_claims: Callable[[], Claims], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SEATS", 2)
    one, other, third = open_claims(), open_claims(), open_claims()
    assert one.claim("1")
    assert other.claim("2")
    with pytest.raises(ClaimsUnavailable, match="more than 2 processes"):
        third.claim("3")
    one.close()
    assert third.claim("3")
    assert third.claim("1")


def test_a_stopped_owner_is_taken_over_from_and_fenced(
    path: Path, open_claims: Callable[[], Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_table, "STOPPED_PATIENCE", 0.3)
    ours = open_claims()
    script = f"""
        claim = claims.claim({KEY!r})
        talk(str(claim.number))
        claims.release([claim])
        with claims.turn, claims.holding([claim]) as held:
            held.release()
        talk(repr(set(held.keys)))
    """
    with program(path, script) as child:
        number = int(child.hear())
        wait = Wait()
        assert not wait.is_overdue(ours.owner(KEY))
        child.kill(signal.SIGSTOP)
        until(lambda: wait.is_overdue(ours.owner(KEY)))
        assert ours.wait_for(KEY, number)
        assert ours.claim(KEY) is None
        assert ours.take_over(KEY, number + 1) is None
        claim = ours.take_over(KEY, number)
        assert claim.number > number
        assert ours.take_over(KEY, number) is None
        assert ours.is_waited_for(claim)
        child.kill(signal.SIGCONT)
        child.tell("go on")
        assert child.hear() == "set()"
        with ours.turn, ours.holding([claim]) as held:
            assert held.keys == {KEY}


def test_only_a_stop_that_is_seen_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that was stopped itself, or saw the owner run in between, starts to count again."""
    now, stopped = 1000.0, True
    monkeypatch.setattr(lease_table.time, "monotonic", lambda: now)
    monkeypatch.setattr(lease_table, "is_stopped", lambda process: stopped)
    stranger = Process("host", "boot", 1, 2, 0)
    wait, owner = Wait(), Owner(stranger, 3, 4.0)

    def after(seconds: float, number: int = 3) -> bool:
        nonlocal now
        now += seconds
        return wait.is_overdue(Owner(stranger, number, 4.0))

    assert not wait.is_overdue(owner)
    assert not after(3600)
    assert [after(1) for _ in range(8)] == [False] * 7 + [True]
    assert not after(1, number=4)
    assert [after(1, number=4) for _ in range(10)] == [False] * 9 + [True]
    stopped = False
    assert not after(1, number=4)
    stopped = True
    assert not after(1, number=4)


@pytest.mark.usefixtures("both_locks")
def test_nobody_claims_while_a_commit_is_under_way(
    path: Path, open_claims: Callable[[], Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.05)
    ours, theirs = open_claims(), Claims(path)
    mine = ours.claim_many(keys(3))

    def work(talk: Talk) -> None:
        while True:
            try:
                talk(repr(theirs.take_over(keys(3)[0], mine[keys(3)[0]].number)))
            except ClaimsUnavailable:
                talk("unavailable")

    with ours.turn, ours.holding(list(mine.values())) as held, forked(work) as child:
        assert held.keys == set(keys(3))
        assert child.hear() == "unavailable"
        child.tell("again")
        assert child.hear() == "unavailable"
        child.kill()
    with ours.turn, ours.holding(list(mine.values())) as held:
        assert held.keys == set(keys(3))


def test_what_was_committed_is_released_in_the_same_breath(open_claims: Callable[[], Claims]) -> None:
    one, other = open_claims(), open_claims()
    mine = one.claim_many(keys(200))
    taken = other.take_over(keys(200)[0], mine[keys(200)[0]].number)
    with one.turn, one.holding(list(mine.values())) as held:
        assert held.keys == set(keys(200)[1:])
        held.release()
    assert other.claim_many(keys(200)).keys() == set(keys(200)[1:])
    assert other.owner(taken.key).number == taken.number


@pytest.mark.parametrize("in_bulk", [False, True])
def test_a_full_disk_leaves_nothing_claimed(
    open_claims: Callable[[], Claims], monkeypatch: pytest.MonkeyPatch, in_bulk: bool
) -> None:
    one, other = open_claims(), open_claims()
    assert one.claim_many(keys(10, "before"))
    assert other.claim_many(keys(10, "other's"))
    write, written = os.pwrite, []

    def nearly_full(descriptor: int, content: bytes, offset: int) -> int:
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "no space left")
        written.append(offset)
        return write(descriptor, content, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", nearly_full)
        with pytest.raises(ClaimsUnavailable, match="no space left"):
            one.claim_many(keys(1000)) if in_bulk else [one.claim(key) for key in keys(1000)]
    assert len(written) == 3
    assert len(other.claim_many([*keys(1000), *keys(10, "before")])) == 1010


def test_a_commit_that_fails_raises_its_own_error(open_claims: Callable[[], Claims]) -> None:
    one = open_claims()
    claim = one.claim(KEY)
    with pytest.raises(OSError, match="disk full") as raised, one.turn, one.holding([claim]):
        raise OSError("disk full")
    assert type(raised.value) is OSError
    works_again(open_claims, one)


def test_inside_a_commit_the_same_thread_is_refused(open_claims: Callable[[], Claims]) -> None:
    """It would wait for itself."""
    one = open_claims()
    claim = one.claim(KEY)
    with one.turn, one.holding([claim]):
        with pytest.raises(ClaimsUnavailable, match="this thread is using it already"):
            one.release([claim])
        with pytest.raises(ClaimsUnavailable, match="this thread is using it already"):
            one.owner(KEY)
    works_again(open_claims, one)


def test_a_child_forked_inside_a_commit_writes_nothing(path: Path, open_claims: Callable[[], Claims]) -> None:
    ours = open_claims()
    claim = ours.claim(KEY)
    others = [path.with_name(f"other-{number}") for number in range(20)]

    def work(talk: Talk) -> None:
        for other in others:  # one of which has the number that the claims had
            os.open(other, os.O_RDWR | os.O_CREAT)
        with pytest.raises(ClaimsUnavailable):
            held.release()
        talk("refused")

    with ours.turn, ours.holding([claim]) as held, forked(work) as child:
        assert child.hear() == "refused"
    assert [other.read_bytes() for other in others] == [b""] * 20
    assert ours.owner(KEY).number == claim.number


@pytest.mark.usefixtures("both_locks")
def test_a_process_stopped_with_the_lock_holds_nobody_up_for_long(
    path: Path, open_claims: Callable[[], Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.2)
    ours, theirs = open_claims(), Claims(path)
    before = ours.claim("before")
    assert before is not None

    def work(talk: Talk) -> None:
        with theirs.turn, theirs.holding([]):
            talk("inside")
        talk("outside")

    with forked(work) as child:
        assert child.hear() == "inside"
        child.kill(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(ClaimsUnavailable, match="so jobs may be computed twice"):
            ours.claim(KEY)
        assert time.monotonic() - start >= 0.2
        assert ours.owner("before").process.pid == os.getpid()  # reading waits for nobody
        for _ in range(5):
            with pytest.raises(ClaimsUnavailable):
                ours.claim(KEY)
        ours.release([before])  # which needs no lock where it must
        child.kill(signal.SIGCONT)
        child.tell("go on")
        assert child.hear() == "outside"
        assert ours.claim("before") is not None
        assert ours.claim(KEY) is not None


@pytest.mark.usefixtures("both_locks")
def test_threads_race_and_one_wins_each_key(path: Path, open_claims: Callable[[], Claims]) -> None:
    shared, others = open_claims(), open_claims()
    start = threading.Barrier(8)

    def work(number: int) -> list[str]:
        ours = shared if number % 2 else others
        start.wait()
        won = [key for key in keys(200) if ours.claim(key)]
        assert all(ours.owner(key) for key in keys(200))
        return won

    with ThreadPoolExecutor(8) as threads:
        winners = Counter(key for won in threads.map(work, range(8)) for key in won)
    assert winners == dict.fromkeys(keys(200), 1)


def test_who_looks_sees_whole_claims_while_others_write(
    path: Path, open_claims: Callable[[], Claims]
) -> None:
    """A reader takes no lock, and yet never sees a claim that nobody made, nor takes the file for damaged."""
    ours, theirs = open_claims(), Claims(path)
    kept = ours.claim("kept")

    def work(talk: Talk) -> None:
        talk("ready")
        while True:
            for turn in range(5):
                theirs.release([theirs.claim("hot")])
                theirs.release(list(theirs.claim_many(keys(2500, f"{turn}")).values()))

    with forked(work) as child:
        child.hear()
        child.tell("go")
        seen: set[int] = set()
        deadline = time.monotonic() + DEADLINE
        while len(seen) < 8 and time.monotonic() < deadline:
            owner = ours.owner("hot") or ours.owner(keys(1, "3")[0])
            if owner is not None:
                assert owner.process.pid == child.pid
                seen.add(owner.number)
            assert ours.owner("kept").number == kept.number
        assert len(seen) >= 8


@pytest.mark.parametrize("obstacle", ["a folder", "no folder", "a link"])
def test_where_no_file_can_be_made_claims_are_unavailable(path: Path, obstacle: str) -> None:
    if obstacle == "a folder":
        path.mkdir()
    elif obstacle == "a link":
        path.symlink_to(path.with_name("elsewhere"))
    else:
        path = path / "deeper"
    claims = Claims(path)
    with pytest.raises(ClaimsUnavailable, match="can't say who computes what"):
        claims.claim(KEY)
    with pytest.raises(ClaimsUnavailable):
        claims.owner(KEY)
    claims.release([])
    claims.close()
