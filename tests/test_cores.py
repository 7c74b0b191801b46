"""Cores are counted as far as this process may use them, and divided among workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._cores import InnerThreads, cores, quota_in

V1 = "3:cpuset:/\n2:cpuacct,cpu:{}\n1:name=systemd:/\n"
MIXED = "1:cpu:{}\n0::/\n"
V2 = "0::{}\n"


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in InnerThreads.of(1, 1).variables:
        monkeypatch.delenv(name, raising=False)


def machine(root: Path, memberships: str, files: dict[str, str]) -> Path:
    """Lay out what a system tells of control groups."""
    for name, text in {"proc/self/cgroup": memberships, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def version_1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("memberships", "files", "quota"),
    [
        (V2.format("/"), {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (V2.format("/"), {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        (V2.format("/"), {"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        (V2.format("/"), {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        (V2.format("/"), {}, None),
        (V2.format("/a/b"), {"sys/fs/cgroup/a/b/cpu.max": "300000 100000\n"}, 3),
        (
            V2.format("/a/b"),
            {
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/other/cpu.max": "100000 100000\n",
            },
            4,
        ),
        (V2.format("/host/a"), {"sys/fs/cgroup/cpu.max": "200000 50000\n"}, 4),
        (V1.format("/"), version_1("sys/fs/cgroup/cpuacct,cpu", 300_000), 3),
        (V1.format("/docker/a"), version_1("sys/fs/cgroup/cpu", 250_000), 3),
        (V1.format("/a"), version_1("sys/fs/cgroup/cpu", -1), None),
        (MIXED.format("/a"), version_1("sys/fs/cgroup/cpu/a", 100_000, 50_000), 2),
        (MIXED.format("/"), {"sys/fs/cgroup/unified/cpu.max": "500000 100000\n"}, 5),
        ("nonsense: of:another kind\n", {}, None),
    ],
)
def test_a_quota_counts_where_a_group_or_one_above_has_it(
    tmp_path: Path, memberships: str, files: dict[str, str], quota: int | None
) -> None:
    assert quota_in(machine(tmp_path, memberships, files)) == quota


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert quota_in(tmp_path) is None


def counted(*before: str) -> int:
    """Count the cores in a new process that runs some lines first."""
    program = "\n".join(["import os", *before, "from bencher_job._cores import cores", "print(cores())"])
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return int(run.stdout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_the_affinity_counts() -> None:
    assert counted("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})") == 1


def test_the_quota_of_this_machine_counts() -> None:
    groups = Path("/sys/fs/cgroup/cpu")
    group = groups / f"bencher_job-{os.getpid()}"
    if not os.access(groups / "cpu.cfs_quota_us", os.W_OK) or cores() < 2:
        pytest.skip("no control group of version 1 can be made here, or there is one core")
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("50000")
        assert counted(f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))") == 1
    finally:
        group.rmdir()


@given(st.integers(1, 500))
def test_the_shares_are_no_more_than_the_cores_together(workers: int) -> None:
    share = InnerThreads.of(workers)
    assert share.number == 1 or share.number * workers <= cores()
    assert (share.number + 1) * workers > cores()
    assert set(share.variables.values()) == {str(share.number)}


@pytest.mark.parametrize("name", InnerThreads.of(1, 1).variables)
def test_a_variable_that_the_user_has_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = InnerThreads.of(1).variables.keys()
    monkeypatch.setenv(name, "3")
    left_out = everything - InnerThreads.of(1).variables.keys()
    follow = {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"}
    assert left_out == ({name} | follow if name == "OMP_NUM_THREADS" else {name})


def test_a_variable_that_is_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert "OMP_NUM_THREADS" in InnerThreads.of(1).variables


def test_a_number_that_is_wanted_goes_before_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    wanted = InnerThreads.of(4, 2)
    assert wanted.number == 2
    assert set(wanted.variables.values()) == {"2"}
    assert "OMP_NUM_THREADS" in wanted.variables
