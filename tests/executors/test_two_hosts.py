"""Dask on two hosts with disks of their own: network namespaces, behind a link that can be cut."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bencher_job import CodeMismatch, cached_job, gen_path
from tests.environment import unmeasured
from tests.executors.dask_cluster import QUIET

PATIENCE = 60.0
CONNECTIONS_LAST = (
    11  # seconds without an answer until both ends take a connection for broken, the least for Dask
)

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


class Hosts:
    """The scheduler and a worker on the first host, a worker on the second, this process on neither.

    Attributes:
        disk: a folder that is another disk on each of them.
        address: the scheduler's.
    """

    def __init__(self, disk: Path) -> None:
        number = os.getpid() % 250
        self.disk = disk
        self._bridge, self._own = f"bj{number}b", f"bj{number}o"
        self._spaces = [f"bj{number}h{host}" for host in (1, 2)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._network = f"10.77.{number}"
        self.address = f"tcp://{self._network}.11:8786"

    def start(self) -> None:
        ip("link", "add", self._bridge, "type", "bridge")
        ip("link", "set", self._bridge, "up")
        ip("link", "add", f"{self._own}x", "type", "veth", "peer", "name", self._own)
        ip("addr", "add", f"{self._network}.1/24", "dev", self._own)
        ip("link", "set", self._own, "up")
        ip("link", "set", f"{self._own}x", "master", self._bridge, "up")
        for host, space in enumerate(self._spaces, 1):
            ip("netns", "add", space)
            ip("link", "add", f"{space}v", "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", f"{space}v", "master", self._bridge, "up")
            ip("-n", space, "addr", "add", f"{self._network}.1{host}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        self._run(1, "dask_scheduler", "--host", f"{self._network}.11", "--port", "8786", "--no-show")
        for host in (1, 2):
            self._run(
                host, "dask_worker", self.address, "--host", f"{self._network}.1{host}", "--nthreads", "1"
            )

    def _run(self, host: int, program: str, *arguments: str) -> None:
        mounts = f"hostname host{host} && mount -t tmpfs none {self.disk} && cd / && exec"
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--no-dashboard", *arguments]
        space = ["ip", "netns", "exec", self._spaces[host - 1], "unshare", "--uts", "sh", "-c"]
        with open(f"{self.disk}.log", "ab") as log:
            process = subprocess.Popen(
                [*space, f'{mounts} "$@"', "sh", *command],
                env={
                    **unmeasured(),
                    **QUIET,
                    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{CONNECTIONS_LAST}s",
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)

    def link(self, state: str) -> None:
        """Cut or mend the link of this process. Nothing is told to either end of a connection."""
        ip("link", "set", f"{self._own}x", state)

    def end(self) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for space in self._spaces:
            ip("netns", "del", space, check=False)
        for name in (self._own, self._bridge):
            ip("link", "del", name, check=False)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("hosts are network namespaces, which need root and Debian's iproute2")
    made = Hosts(tmp_path_factory.mktemp("hosts") / "disk")
    made.disk.mkdir()
    try:
        made.start()
    except subprocess.CalledProcessError as refused:
        made.end()
        pytest.skip(f"no network namespaces can be made here: {refused.stderr}")
    import dask
    from distributed import Client

    with dask.config.set({"distributed.comm.timeouts.tcp": f"{CONNECTIONS_LAST}s"}):
        try:
            with Client(made.address, set_as_default=False, timeout=PATIENCE) as client:
                client.wait_for_workers(2, timeout=PATIENCE)
            yield made
        finally:
            made.end()


def written(x):
    path = gen_path("part", suffix=".txt")
    Path(path).write_text(f"{x} of {socket.gethostname()}")
    time.sleep(0.3)
    return path


def test_files_arrive_from_the_disks_of_both_hosts(hosts):
    function = cached_job(executor=hosts.address, cache_dir=hosts.disk / "cache")(written)
    texts = [Path(path).read_text() for path in function.map(range(12))]
    assert {text.partition(" ")[0] for text in texts} == {str(x) for x in range(12)}
    assert {text.partition(" of ")[2] for text in texts} == {"host1", "host2"}
    function.cache.close()


def content(path):
    return Path(path).read_text()


def test_other_content_on_a_host_is_refused(hosts):
    file = hosts.disk / "input.txt"
    file.write_text("ours")
    function = cached_job(executor=hosts.address, cache_dir=hosts.disk / "cache", by_content=["path"])(
        content
    )
    with pytest.raises(CodeMismatch, match=r"the worker on host[12] has other content"):
        function(str(file))
    function.cache.close()


def slow(x):
    time.sleep(0.3)
    return x


@pytest.mark.parametrize("seconds", [2, CONNECTIONS_LAST + 4])
def test_jobs_resume_after_a_cut(hosts, until, seconds):
    """One that ends before anybody takes the connection for broken, and one that breaks it."""
    function = cached_job(executor=hosts.address, cache_dir=hosts.disk / f"cache{seconds}")(slow)
    futures = [function.submit(x) for x in range(30)]
    assert until(futures[0].done)
    hosts.link("down")
    time.sleep(seconds)  # the time is what is tested
    assert not all(future.done() for future in futures)
    hosts.link("up")
    assert [future.result(2 * PATIENCE) for future in futures] == list(range(30))
    function.cache.close()
