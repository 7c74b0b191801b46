"""A real Slurm of two nodes on this machine, on the loopback interface, without cgroups, systemd or a database.

As root, `python -m tests.executors.slurm_lab FOLDER` starts one until it is interrupted, and prints the variable
that Slurm's commands need.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.environment import free_port

PATIENCE = 60.0
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel")

CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
DefMemPerCPU=256
KillWait=1
MinJobAge=300
OverTimeLimit=0
SlurmctldTimeout=10
SlurmdTimeout=20
InactiveLimit=0
ReturnToService=2
JobRequeue=1
MailProg=/bin/true
GresTypes=gpu
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
NODE = "NodeName={name} NodeAddr=127.0.0.1 NodeHostname={host} Port={port} CPUs=2 RealMemory={memory} Gres=gpu:2\n"


def reason_not_to_start() -> str | None:
    """Say why this machine can't run one, or None if it can."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"{', '.join(missing)} is not installed (Debian: slurmctld, slurmd, slurm-client, munge)"
    return None if os.geteuid() == 0 else "Slurm's daemons run as root"


class SlurmLab:
    """Slurm's daemons, and their files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._configure()
        self._start("munged", "--foreground", "--force", *self._munge_files())
        self._wait_for((folder / "munge.socket").exists)
        self._start("slurmctld", "-D", "-c")
        for name in ("c1", "c2"):
            self._start("slurmd", "-D", "-N", name)
        self._wait_for(lambda: self.command("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2")

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        first = free_port(1, 2)
        memory = self.memory_of_a_node()
        text = CONFIGURATION.format(host=host, port=first, folder=self.folder)
        for name, port in (("c1", first + 1), ("c2", first + 2)):
            text += NODE.format(name=name, host=host, port=port, memory=memory)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("NodeName=c[1-2] Name=gpu File=/dev/null,/dev/zero\n")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)

    def _munge_files(self) -> list[str]:
        names = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "seed-file": "seed",
        }
        return [f"--{option}={self.folder / name}" for option, name in names.items()]

    def _start(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.log", "ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **self.variables},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _wait_for(self, holds) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text() for path in self.folder.glob("*.log"))
                self.end()
                raise TimeoutError(f"Slurm does not start:\n{logs}")
            time.sleep(0.05)

    def command(self, *words: str) -> str:
        """Run one of Slurm's commands, and return its output."""
        variables = {**os.environ, **self.variables}
        return subprocess.run(words, env=variables, capture_output=True, text=True, check=False).stdout

    def jobs(self, *states: str) -> list[str]:
        """Return the numbers of the jobs in the queue, or of those in some states, such as "R"."""
        wanted = [f"--states={','.join(states)}"] if states else []
        return self.command("squeue", "-h", "-o", "%A", *wanted).split()

    def told_of(self, number: str) -> str:
        """Return the state of a job, and what the daemons wrote last."""
        logs = [path.read_text()[-3000:] for path in self.folder.glob("slurm*.log")]
        return "\n".join([self.command("scontrol", "show", "job", number), *logs])

    @staticmethod
    def memory_of_a_node() -> str:
        """Return the memory of each node, in megabytes."""
        return str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (2 << 20))

    def end(self) -> None:
        """Cancel all jobs and stop the daemons."""
        if self.jobs():
            self.command("scancel", "--user=root", "--signal=KILL")
            deadline = time.monotonic() + PATIENCE
            while self.jobs() and time.monotonic() < deadline:
                time.sleep(0.1)
        for daemon in reversed(self._daemons):
            os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


if __name__ == "__main__":
    lab = SlurmLab(Path(sys.argv[1]).absolute())
    print(*(f"export {name}={value}" for name, value in lab.variables.items()), flush=True)
    try:
        signal.pause()
    finally:
        lab.end()
