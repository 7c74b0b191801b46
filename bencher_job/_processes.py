"""Identify processes, and renew locks in forked children.

The name of a process is `0a1b2c3d-4242-31415926535`: machine, process number, start.
"""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from functools import cache, lru_cache
from typing import Final, NamedTuple, Protocol


class HasLocks(Protocol):
    """An object that owns locks or threads."""

    def renew(self) -> None:
        """Replace all locks, and drop work that only the parent's threads could finish."""


_owners: weakref.WeakSet[HasLocks] = weakref.WeakSet()


def renew_after_fork(owner: HasLocks) -> None:
    """Register an object whose `renew()` is called in each forked child, as long as the object lives."""
    _owners.add(owner)


def _renew() -> None:
    for owner in list(_owners):
        owner.renew()


os.register_at_fork(after_in_child=_renew)


class _StartLock:
    """A lock held while a process starts, for which a fork waits. It is reentrant for the fork that starts a worker.

    Otherwise a child would inherit locked locks of `multiprocessing`, which is not thread-safe there, or the pipe by
    which `subprocess` waits for its program to begin.
    """

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(before=self.acquire, after_in_parent=self.release, after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.RLock()

    def acquire(self) -> None:
        self.lock.acquire()

    def release(self) -> None:
        self.lock.release()


start_lock: Final = _StartLock()

PROCESS_NAME: Final = r"[0-9a-f]{8}-[0-9]+-[0-9]+"
"""A regular expression that matches the names of processes."""

_FIRST_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of a machine's initial namespace of process numbers."""

_BOOTS: Final = 100_000
"""Number of values that distinguish the boots of a machine."""

_IMPORTED: Final = time.time()


class Process(NamedTuple):
    """The identity of a process. Fields are 0 or empty where the system doesn't provide them.

    Attributes:
        boot: the id of the machine's boot.
        started: the start of the process, in clock ticks since the boot.
        namespace: the inode of the namespace of `pid`.
    """

    host: str
    boot: str
    pid: int
    started: int
    namespace: int


def this_process() -> Process:
    """Describe the current process."""
    return _describe(os.getpid())


@cache
def _describe(pid: int) -> Process:
    return Process(os.uname().nodename, _boot(), pid, _state_and_start("self")[1], _namespace())


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


@cache
def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_stopped(process: Process) -> bool:
    """Whether a process of this machine is stopped; False if that can't be determined."""
    ours = this_process()
    if (process.host, process.boot, process.namespace) != (ours.host, ours.boot, ours.namespace):
        return False
    state, started = _state_and_start(str(process.pid))
    return bool(ours.boot) and state in ("T", "t") and started == process.started


def _state_and_start(process: str) -> tuple[str, int]:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name may have spaces and brackets
    except OSError:
        return "", 0
    return fields[0].decode(), int(fields[19])


def process_name() -> str:
    """Return a name for this process that no other has, even if its number is used again."""
    return name_of(os.getpid())


@lru_cache(maxsize=1)
def name_of(pid: int) -> str:
    """Return the name of this process, whose number is `pid`; it is made once."""
    return f"{_machine()}-{pid}-{_start_of(pid)}"


def may_live(name: str) -> bool:
    """Whether the process of a name may be alive. True for another machine's, whose state is unknown here."""
    if not re.fullmatch(PROCESS_NAME, name):
        return False
    machine, pid, start = name.split("-")
    return machine != _machine() or start == _start_of(int(pid))


@cache
def _machine() -> str:
    namespace = _namespace()
    of_its_own = f" {namespace}" if namespace not in (0, _FIRST_NAMESPACE) else ""
    return _digest(f"{os.uname().nodename}{of_its_own}")


def _digest(text: str) -> str:
    from hashlib import sha256  # slow to import

    return sha256(text.encode()).hexdigest()[:8]


def _start_of(pid: int) -> str:
    """Return a number for the start of a process that doesn't depend on the clock; empty if there is no process."""
    if _boot():
        state, ticks = _state_and_start(str(pid))
        if state == "Z":  # it has ended, and its parent hasn't noticed
            return ""
        boot = int(_digest(_boot()), 16) % _BOOTS
        return str(ticks * _BOOTS + boot) if ticks else ""
    import psutil  # slow to import

    try:
        return str(int(psutil.Process(pid).create_time() * 100))
    except psutil.NoSuchProcess:
        return ""


def started_at() -> float:
    """Return the start of this process, in seconds since the epoch.

    A forked child has the modules of its parent, so it counts as started when the parent imported this module.
    """
    return min(_start(os.getpid()), _IMPORTED)


@lru_cache(maxsize=1)
def _start(pid: int) -> float:
    _, ticks = _state_and_start(str(pid))
    if ticks:  # psutil rounds the boot time to seconds
        since = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - since
    import psutil  # slow to import

    return float(psutil.Process(pid).create_time())
