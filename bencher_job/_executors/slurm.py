"""Run jobs in workers that Slurm starts.

    Slurm(workers=16, time="4:00:00") -> SlurmExecutor: a Dask scheduler in this process
                                             |  one sbatch for each worker, as many as there is work for
    jobs ~~> Dask's scheduler ~~> a worker, one job at a time

A worker is a Slurm job that runs many jobs one after another, because Slurm starts about one per second.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Never

from .._cores import InnerThreads
from .._errors import BencherJobError, WorkerLost
from .._options import Executors
from .dask import DaskExecutor, DaskScheduler, client_of
from .engine import EngineSpec, describe

_VARIABLE: Final = "BENCHER_JOB_SLURM"
_WORKERS: Final = 16


class Slurm(EngineSpec):
    """Run jobs in workers that Slurm starts when there is work, and that end when there is none.

    An option that is not given is taken from the variable `BENCHER_JOB_SLURM`, such as `partition=gpu,time=1:00:00`,
    then from the site's configuration of dask-jobqueue, then from Slurm's defaults.

    Args:
        workers: the most workers at a time, by default 16. A worker is a Slurm job, and runs one job at a time.
        time: how long a worker may run, as for `sbatch --time`. It must be longer than the longest job.
        mem: the memory of a worker, as for `sbatch --mem`.
        cpus: the cores of a worker, by default 1. A library in it may start as many threads.
        gpus: the GPUs of a worker: a number, or a type and a number such as `"a100:1"`.
        partition: the partition.
        account: the account to charge.
        setup: shell commands that run before a worker starts, such as `["module load cuda"]`.
        sbatch: further options of sbatch by their long names, such as `{"qos": "high", "exclusive": True}`.
        interface: the network interface between this process and the workers, such as `"ib0"`.

    Raises:
        TypeError: if an option has the wrong type, or does not exist.
        ValueError: if a value can't be used.
    """

    name = Executors.SLURM

    def __init__(
        self,
        workers: int | None = None,
        *,
        time: str | int | None = None,
        mem: str | int | None = None,
        cpus: int | None = None,
        gpus: int | str | None = None,
        partition: str | None = None,
        account: str | None = None,
        setup: Sequence[str] | None = None,
        sbatch: Mapping[str, str | int | bool] | None = None,
        interface: str | None = None,
        **unknown: Never,
    ) -> None:
        given = {**locals(), **unknown}
        refuse_unknown("Slurm", unknown, _CHECKS, ", and for all else sbatch={'qos': 'high'}")
        super().__init__(
            {name: check(name, given[name]) for name, check in _CHECKS.items() if given[name] is not None}
        )

    def new_executor(self, patience: float | None) -> SlurmExecutor:
        """Start a Dask scheduler for the workers, which start with the first jobs."""
        return SlurmExecutor(self, patience)

    def completed(self) -> dict[str, Any]:
        """Return the options, with those of the environment variable.

        Raises:
            BencherJobError: if the variable can't be used.
        """
        text = os.environ.get(_VARIABLE, "")
        try:
            return {**_options_in(text), **self.options}
        except (TypeError, ValueError) as problem:
            raise BencherJobError(f"{_VARIABLE}={text!r} can't be used: {problem}") from problem


Slurm.__module__ = "bencher_job"  # the package imports it on first use


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str], more: str = "") -> None:
    """Refuse options that do not exist.

    Raises:
        TypeError: if there are any. It lists those that exist.
    """
    for name in set(given).difference(known):
        raise TypeError(f"{owner} has no option {name!r}. Use {', '.join(known)}{more}.")


def _options_in(text: str) -> dict[str, Any]:
    """Read options such as `partition=gpu,time=1:00:00`."""
    options: dict[str, Any] = {}
    for part in filter(None, re.split(r",(?=\s*\w+\s*=)", text.strip())):
        name, separator, value = map(str.strip, part.partition("="))
        if not separator:
            raise ValueError(f"{part!r} is not of the form name=value")
        options[name] = int(value) if re.fullmatch(r"\d+", value) else value
    return Slurm(**options).options


def _count(option: str, given: object) -> int:
    if not isinstance(given, int) or isinstance(given, bool):
        raise TypeError(f"{option} must be an int, not {type(given).__name__}")
    if given < 1:
        raise ValueError(f"{option}={given} is below 1. Give 1 or more.")
    return given


def _text(option: str, given: object, kinds: Any = str) -> str:
    if not isinstance(given, kinds) or isinstance(given, bool):
        wanted = "a str" if kinds is str else "a str or an int"
        raise TypeError(f"{option} must be {wanted}, not {type(given).__name__}")
    text = str(given)
    if not text or any(character in text for character in "\n\r\0"):
        raise ValueError(f"{option}={given!r} can't stand in a line of a batch script. Give a word.")
    return text


def _text_or_number(option: str, given: object) -> str:
    return _text(option, given, str | int)


def _time(option: str, given: object) -> str:
    text = _text_or_number(option, given)
    seconds_of(text)
    return text


def _lines(option: str, given: Any) -> tuple[str, ...]:
    lines = (given,) if isinstance(given, str) else given
    if not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
        raise TypeError(f"{option} must be a str or a sequence of str")
    return tuple(lines)


def _further(option: str, given: Any) -> dict[str, str | bool]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{option} must be a mapping, not {type(given).__name__}")
    found = {}
    for name, value in given.items():
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]+", name):
            raise ValueError(f"{option} has {name!r}, which is not a long name of sbatch's, such as 'qos'.")
        if name in _OWN_WORDS:
            raise ValueError(f"{option} has {name!r}. Give it as {_OWN_WORDS[name]}=.")
        found[name] = value if isinstance(value, bool) else _text_or_number(f"{option}[{name!r}]", value)
    return found


_OWN_WORDS: Final = {
    "time": "time",
    "mem": "mem",
    "cpus-per-task": "cpus",
    "gres": "gpus",
    "partition": "partition",
    "account": "account",
}
"""Options of sbatch that have a name of their own here."""

_CHECKS: Final = {
    "workers": _count,
    "time": _time,
    "mem": _text_or_number,
    "cpus": _count,
    "gpus": _text_or_number,
    "partition": _text,
    "account": _text,
    "setup": _lines,
    "sbatch": _further,
    "interface": _text,
}


def seconds_of(time: str) -> int | None:
    """Return the seconds of a time as sbatch reads it, or None for no limit.

    >>> [seconds_of(time) for time in ("90", "1:30", "4:00:00", "1-12", "UNLIMITED")]
    [5400, 90, 14400, 129600, None]

    Raises:
        ValueError: if sbatch does not read it.
    """
    if time.upper() in {"UNLIMITED", "INFINITE"}:
        return None
    days, has_days, rest = time.rpartition("-")
    parts = rest.split(":")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
        raise ValueError(
            f"time={time!r} is not a time of sbatch's. Use minutes, '4:00:00' for hours, or '2-00:00:00' for days."
        )
    units = (3600, 60, 1) if has_days or len(parts) == 3 else (60, 1)
    return int(days or 0) * 86400 + sum(int(part) * unit for part, unit in zip(parts, units, strict=False))


def cluster_options(options: Mapping[str, Any], site: Callable[[str], Any]) -> dict[str, Any]:
    """Translate options into those of `dask_jobqueue.SLURMCluster`. `site` reads its configuration.

    A worker has one thread, because a job has all of the worker's cores.
    """
    cpus = options.get("cpus") or site("job-cpu") or site("cores") or 1
    further = {
        **({"gres": f"gpu:{options['gpus']}"} if "gpus" in options else {}),
        **options.get("sbatch", {}),
    }
    variables = InnerThreads.of(1, cpus).variables
    translated = {
        "cores": 1,
        "processes": 1,
        "job_cpu": cpus,
        "walltime": options.get("time"),
        "queue": options.get("partition"),
        "account": options.get("account"),
        "interface": options.get("interface"),
        "job_extra_directives": [
            *site("job-extra-directives"),
            *(_directive(*each) for each in further.items() if each[1] is not False),
        ],
        "job_script_prologue": [
            *site("job-script-prologue"),
            *options.get("setup", ()),
            *(f"export {name}={value}" for name, value in variables.items()),
        ],
        "worker_extra_args": [
            *site("worker-extra-args"),
            *(
                "--memory-limit",
                "0",
            ),  # else a worker whose job needs most of its memory would take no more jobs
            *_lifetime(seconds_of(str(options.get("time") or site("walltime")))),
        ],
    }
    if "mem" in options or site("memory") is None:  # dask-jobqueue insists on a size
        translated |= {"memory": "0B", "job_mem": options.get("mem", "0")}
    if "mem" not in options and site("memory") is None:
        translated["job_directives_skip"] = [*site("job-directives-skip"), "--mem="]
    return translated


def _directive(name: str, value: str | bool) -> str:
    return f"--{name}" if value is True else f"--{name}={shlex.quote(str(value))}"


def _lifetime(seconds: int | None) -> list[str]:
    """End a worker shortly before its time limit, and not all workers at once."""
    if seconds is None:
        return []
    margin = min(60.0, seconds / 4)
    return ["--lifetime", f"{seconds - margin:g}s", "--lifetime-stagger", f"{margin / 3:g}s"]


TOPIC: Final = "bencher_job-slurm"
"""The topic of the events of the workers' scheduler: a batch's key and LEFT, or REFUSED and a reason."""

LEFT: Final = "left"
REFUSED: Final = "refused"


class SlurmScheduler(DaskScheduler):
    """The batches that workers of Slurm have."""

    title = "Slurm"
    has_a_queue = True
    remedy = "See squeue for when workers start, and what they wrote for why they end"

    def __init__(
        self,
        cluster: subprocess.Popen[str],
        address: str,
        spec: Slurm,
        most: int,
        time: str,
        patience: float | None,
    ) -> None:
        self._cluster = cluster
        self._spec = spec
        self._most = most
        self._time = time
        options = {"pure": False}
        super().__init__(client_of(address), options, patience, tells_begin=True, owns_client=True)

    def _close(self) -> None:
        super()._close()
        self._cluster.communicate()  # ends its input, and waits

    def _subscribe(self) -> None:
        super()._subscribe()
        self._client.subscribe_topic(TOPIC, self._receive_event)

    def _places_now(self) -> int:
        return self._most  # so that enough tasks are pending for all workers to be asked for

    def _progress(self, key: str, *details: Any) -> None:
        if key == REFUSED:
            self._end_refused(*details)
        elif details == (LEFT,):
            self._take_back(key)
        else:
            super()._progress(key, *details)

    def _take_back(self, key: str) -> None:
        """Count that a batch was running when its worker ended, and end a job after the second time."""
        lane = self._lanes.get(key)
        if lane is None or lane.begun is None:
            return
        lane.begun = None
        lane.losses += 1
        if len(lane.tasks) > 1 or lane.losses >= MOST_LOSSES:  # of several, each runs again alone
            self._stop(lane)
            name = describe(next(iter(lane.tasks.values())).label)
            self._fail_batch(lane, WorkerLost(_LOST.format(name=name, time=self._time), job=name))

    def _end_refused(self, reason: str) -> None:
        """End all jobs because Slurm starts no worker."""
        error = BencherJobError(
            f"Slurm refused to start a worker: {reason}. Check the options of executor={self._spec!r}, of "
            f"{_VARIABLE} and of the site's configuration of dask-jobqueue."
        )
        for lane in list(self._lanes.values()):
            self._stop(lane)
            self._finished += [(task, error) for task in self._closed(lane)]


class SlurmExecutor(DaskExecutor):
    """Run calls in workers that Slurm starts.

    Raises:
        BencherJobError: if dask-jobqueue or Slurm is not installed, or the options can't be used.
    """

    def __init__(self, spec: Slurm, patience: float | None = None) -> None:
        options = spec.completed()
        _check_installed()
        _check_further(options.get("sbatch", {}))
        most: int = options.pop("workers", _WORKERS)
        cluster = subprocess.Popen(  # noqa: S603 - it is this package's own
            [sys.executable, "-P", "-c", _PROGRAM, str(Path(__file__).parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the program that submits
            text=True,
        )
        print(json.dumps([options, most]), file=cluster.stdin, flush=True)
        answers: Any = cluster.stdout
        started: dict[str, str] = json.loads(answers.readline() or '{"error": "it ended"}')
        if "error" in started:
            cluster.communicate()
            raise BencherJobError(f"executor={spec!r} can't start a Dask scheduler: {started['error']}")
        scheduler = SlurmScheduler(cluster, started["address"], spec, most, started["time"], patience)
        super(DaskExecutor, self).__init__(scheduler)


MOST_LOSSES: Final = 2
"""How often a job may run when its worker ends."""

_LOST: Final = (
    "Slurm lost {name}: it was running when its worker ended, twice. A worker has time={time!r}, so a job that takes "
    "longer never completes: give more with Slurm(time=...). If it ran out of memory, give more with mem=."
)


_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from bencher_job._executors.slurm_cluster import main; main()"
)
"""The program that starts the workers, which finds this package where this process has found it."""


def _check_installed() -> None:
    """Check that dask-jobqueue and Slurm's commands are there.

    Raises:
        BencherJobError: if one is missing.
    """
    if importlib.util.find_spec("dask_jobqueue") is None:
        raise BencherJobError(
            "executor=SLURM needs the package dask-jobqueue, which is not installed. "
            "Run pip install 'bencher_job[slurm]'."
        )
    if shutil.which("sbatch") is None:
        raise BencherJobError(
            "executor=SLURM needs Slurm's commands, and there is no sbatch on the PATH. Start the program on a machine "
            "from which jobs are submitted, such as a login node."
        )


def _check_further(further: Mapping[str, object]) -> None:
    """Check that sbatch has the options.

    Raises:
        BencherJobError: if it does not. The message lists those that it has.
    """
    if further:
        ask = ["sbatch", "--help"]
        manual = subprocess.run(ask, capture_output=True, text=True, check=False).stdout  # noqa: S603 - no input in it
        try:
            refuse_unknown("sbatch", further, sorted({*re.findall(r"--([a-z][a-z0-9-]+)", manual)}))
        except TypeError as unknown:
            raise BencherJobError(str(unknown)) from None
