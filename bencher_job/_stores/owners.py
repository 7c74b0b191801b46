"""Knows how to tell people which process computes a key, and whether it is stopped."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from typing import Final

__all__ = ["Owner", "Process", "Wait", "this_process"]

STOPPED_PATIENCE: Final = 10.0
"""Seconds for which an owner is seen stopped before its claim is taken over."""

LOOK_EVERY: Final = 0.1
"""Seconds between two looks at an owner's state."""

LONGEST_GAP: Final = 2.0
"""Seconds that count at most between two looks: a waiter that was stopped itself has seen nothing meanwhile."""


@dataclass(frozen=True, slots=True)
class Process:
    """Tells people which process one is. A number is 0 and a text empty where the system doesn't tell.

    Attributes:
        boot: an id of the machine's start.
        started: when the process started, in clock ticks since the machine did.
        namespace: the inode of the namespace that `pid` counts in.
    """

    host: str
    boot: str
    pid: int
    started: int
    namespace: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Tells people who computes a key.

    Attributes:
        boot: an id of the machine's start.
        started: when the process started, in clock ticks since the machine did.
        number: the fencing number of its claim.
        since: when it claimed the key, in seconds since 1970.
        namespace: the inode of the namespace that `pid` counts in.
    """

    host: str
    boot: str
    pid: int
    started: int
    number: int
    since: float
    namespace: int = 0


class Wait:
    """Knows for how long one waiter has seen an owner stopped.

    wait = Wait()
    while owner := claims.owner(key):
        if wait.is_overdue(owner):
            claim = claims.take_over(key, owner.number)
    """

    def __init__(self) -> None:
        self._number = 0
        self._stopped = False
        self._looked = 0.0
        self._seconds = 0.0

    def is_overdue(self, owner: Owner) -> bool:
        """Whether the owner was stopped at each look for `STOPPED_PATIENCE` seconds. It costs little at every poll."""
        now = time.monotonic()
        if owner.number != self._number:
            self._number, self._stopped, self._seconds = owner.number, False, 0.0
        elif now - self._looked < LOOK_EVERY:
            return self._seconds >= STOPPED_PATIENCE
        before, self._stopped = self._stopped, _is_stopped(owner)
        if not self._stopped:
            self._seconds = 0.0
        elif before:
            self._seconds += min(now - self._looked, LONGEST_GAP)
        self._looked = now
        return self._seconds >= STOPPED_PATIENCE


def this_process() -> Process:
    """Describe the process that asks."""
    return _describe(os.getpid())


@cache
def _describe(pid: int) -> Process:
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    return Process(os.uname().nodename, boot, pid, _state_and_start("self")[1], namespace)


def _is_stopped(owner: Owner) -> bool:
    """Whether a process of our own machine is stopped; False where we can't know."""
    ours = this_process()
    if (owner.host, owner.boot, owner.namespace) != (ours.host, ours.boot, ours.namespace) or not ours.boot:
        return False
    state, started = _state_and_start(str(owner.pid))
    return state in ("T", "t") and started == owner.started


def _state_and_start(process: str) -> tuple[str, int]:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # a name may have spaces and brackets
    except OSError:
        return "", 0
    return fields[0].decode(), int(fields[19])
