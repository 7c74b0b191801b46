"""Count the cores that this process may use, and divide them among workers.

    cores() -> InnerThreads.of(workers) -> a worker process: take(), before it loads any user code
                                        -> a thread: `with threads_limited(inner)` around each call

BLAS, OpenMP and similar libraries start one thread per core in every process. Environment variables limit a library
that is not loaded yet; threadpoolctl, if installed, limits one that is.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from ._errors import BencherJobError
from ._processes import renew_after_fork

_FOLLOWERS: Final = {
    "OPENBLAS_NUM_THREADS": "openblas",
    "MKL_NUM_THREADS": "mkl",
    "BLIS_NUM_THREADS": "blis",
    "NUMEXPR_NUM_THREADS": "",
}
"""Variables whose libraries fall back to `OMP_NUM_THREADS`, with threadpoolctl's names of the libraries."""

LIBRARIES: Final = {
    "OMP_NUM_THREADS": "openmp",
    **_FOLLOWERS,
    "VECLIB_MAXIMUM_THREADS": "",
    "NUMBA_NUM_THREADS": "",
    "POLARS_MAX_THREADS": "",
}
"""All variables that set a library's number of threads. torch and Arrow read those of OpenMP and MKL."""

_BRING_LIBRARIES: Final = frozenset({"numpy", "torch"})
"""Modules that load the libraries that threadpoolctl can limit."""


def cores() -> int:
    """Count the cores that this process may use: its CPU affinity, limited by the quota of its cgroup."""
    if sys.version_info >= (3, 13):
        usable = os.process_cpu_count()
    else:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, _quota() or sys.maxsize)


@functools.cache
def _quota() -> int | None:
    return quota_in(Path("/"))


def quota_in(root: Path) -> int | None:
    """Read how many cores the cgroups of this process grant it, rounded up; None without a quota."""
    mounts, groups = root / "sys/fs/cgroup", list[Path]()
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return None
    for membership in memberships:
        _, controllers, name = membership.split(":", 2)
        if not controllers:  # version 2, which may be mounted next to version 1
            hierarchies = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            hierarchies = [mounts / controllers, mounts / "cpu"]
        else:
            continue
        group = Path(name.lstrip("/"))
        # Limits of parent groups count too. In a container the group may be the root, whatever its name.
        groups += [each / level for each in hierarchies for level in (group, *group.parents)]
    quotas = [quota for group in groups if (quota := _quota_of(group)) is not None]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = map(int, (group / "cpu.max").read_text().split())
        else:
            quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):  # there is no such group, or its quota is "max"
        return None
    return quota / period if quota > 0 else None


class InnerThreads(NamedTuple):
    """How many threads each library in a worker may start.

    Attributes:
        number: the worker's share of the cores, or the number that the user asked for.
        variables: the environment variables that a worker process gets.
        is_wanted: whether the user asked for this number. A share never raises an existing limit.
    """

    number: int
    variables: Mapping[str, str]
    is_wanted: bool = False

    @classmethod
    def of(cls, workers: int, wanted: int | None = None) -> InnerThreads:
        """Divide the cores among workers; a worker process divides its own share.

        Variables that the user has set stay, as do libraries that follow them, unless a number is wanted.
        """
        if wanted is not None:
            return cls(wanted, dict.fromkeys(LIBRARIES, str(wanted)), True)
        number, ours = (cores(), {}) if _taken is None else _taken[:2]
        kept = {name for name in LIBRARIES if os.environ.get(name, "") not in {"", ours.get(name)}}
        if "OMP_NUM_THREADS" in kept:
            kept.update(_FOLLOWERS)
        share = max(1, number // workers)
        return cls(share, {name: str(share) for name in LIBRARIES if name not in kept})

    def take(self) -> None:
        """Limit this worker process to these threads from now on."""
        global _taken  # noqa: PLW0603 - state of the whole process
        _taken = self
        os.environ.update(self.variables)
        _limits.apply(self)


_taken: InnerThreads | None = None
"""The share of this process if it is a worker."""


@contextmanager
def threads_limited(inner: InnerThreads) -> Iterator[None]:
    """Limit the loaded libraries while this thread uses them.

    BLAS has one limit per process, which is restored when the last thread leaves this context.
    """
    _limits.begin(inner)
    try:
        yield
    finally:
        _limits.end()


def check_threads_can_be_limited(inner_threads: int | None, where: str) -> None:
    """Check that a requested number of threads can be enforced where libraries may be loaded already.

    Raises:
        BencherJobError: when threadpoolctl is not installed.
    """
    from importlib.util import find_spec  # slow to import

    if inner_threads is not None and find_spec("threadpoolctl") is None:
        raise BencherJobError(
            f"inner_threads={inner_threads} needs the package threadpoolctl {where}, and it is not installed. Run "
            f"pip install threadpoolctl, or leave the option out."
        )


class _Limits:
    """The limits of the libraries loaded in this process, and their numbers of threads before."""

    def __init__(self) -> None:
        self._libraries: list[Any] = []
        self._modules_seen = 0
        self._before: dict[str, int] = {}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock in a forked child, which has no other threads."""
        self._lock = threading.RLock()
        self._running = 0

    def begin(self, inner: InnerThreads) -> None:
        with self._lock:
            self._running += 1
            self.apply(inner)

    def end(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running:
                return
            if _taken is not None:
                self.apply(_taken)
                return
            for library in self._libraries:
                if library.filepath in self._before:
                    _set(library, self._before[library.filepath])
            self._before.clear()

    def apply(self, inner: InnerThreads) -> None:
        limited = {LIBRARIES[name] for name in inner.variables}
        with self._lock:
            self._find_libraries()
            for library in self._libraries:
                number = library.num_threads
                if library.internal_api in limited:
                    before = self._before.setdefault(library.filepath, number)
                    allowed = inner.number if inner.is_wanted else min(before, inner.number)
                else:
                    allowed = self._before.get(library.filepath, number)
                if number != allowed:
                    _set(library, allowed)

    def _find_libraries(self) -> None:
        """Find the loaded libraries. This takes milliseconds, so it is repeated only after modules were imported."""
        if self._modules_seen == len(sys.modules) or _BRING_LIBRARIES.isdisjoint(sys.modules):
            return
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            return
        self._libraries = ThreadpoolController().lib_controllers
        self._modules_seen = len(sys.modules)


def _set(library: Any, number: int) -> None:
    library.set_num_threads(number)
    # The thread that limits OpenBLAS excludes all others, including the one that will lift the limit.
    let_others = getattr(library, "clear_controlling_thread", None)
    if let_others is not None:
        let_others()


_limits: Final = _Limits()
