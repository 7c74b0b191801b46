"""Remember what expensive functions returned: on one core, on all cores, or on a cluster.

from bencher_job import cached_job

@cached_job(executor="multiprocessing", tag="nightly")
def accuracy(model: str, c: float = 1.0) -> dict: ...

accuracy("svm", c=2.0)      # computed once, then remembered
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError(
        "bencher_job needs the locks and processes of a POSIX system, which Windows lacks: run it in WSL, the Linux "
        "inside Windows (https://learn.microsoft.com/windows/wsl/install)."
    )

from ._cached_function import CachedFunction
from ._decorator import cached_job
from ._errors import (
    BencherJobError,
    CacheWarning,
    CodeMismatch,
    JobTimeout,
    SharedStoreError,
    UnkeyableArgument,
    UntrustedCache,
    WorkerLost,
)
from ._version import VERSION

if TYPE_CHECKING:
    from ._cache import FutureCache
    from ._executors import Executors
    from ._executors.ray import Ray
    from ._executors.slurm import Slurm
    from ._explain import Cause, Explanation
    from ._function_cache import JobFunctionCache
    from ._future import JobFuture
    from ._job import Job, run_job
    from ._keys import register_hasher
    from ._media import current_job_key, gen_path
    from ._record import CacheInfo, FunctionInfo, Plan, Record
    from ._stores.verification import clean_orphaned_media
    from ._sweeps.grid import SweepFailure
    from ._sweeps.sweep import Sweep

__all__ = [
    "BencherJobError",
    "CacheInfo",
    "CacheWarning",
    "CachedFunction",
    "Cause",
    "CodeMismatch",
    "Executors",
    "Explanation",
    "FunctionInfo",
    "FutureCache",
    "Job",
    "JobFunctionCache",
    "JobFuture",
    "JobTimeout",
    "Plan",
    "Ray",
    "Record",
    "SharedStoreError",
    "Slurm",
    "Sweep",
    "SweepFailure",
    "UnkeyableArgument",
    "UntrustedCache",
    "WorkerLost",
    "cached_job",
    "clean_orphaned_media",
    "current_job_key",
    "gen_path",
    "register_hasher",
    "run_job",
]

__version__ = VERSION

for _name in {*__all__} & {*globals()}:  # so that pickles and error messages name this package
    getattr(
        sys.modules[__name__], _name
    ).__module__ = __name__  # which makes lazy imports of Python 3.15 happen
del _name

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a program that wants the log adds a handler

_LATER = {
    "_cache": ["FutureCache"],
    "_executors": ["Executors"],
    "_executors.ray": ["Ray"],
    "_executors.slurm": ["Slurm"],
    "_explain": ["Cause", "Explanation"],
    "_function_cache": ["JobFunctionCache"],
    "_future": ["JobFuture"],
    "_job": ["Job", "run_job"],
    "_keys": ["register_hasher"],
    "_media": ["current_job_key", "gen_path"],
    "_record": ["CacheInfo", "FunctionInfo", "Plan", "Record"],
    "_stores.verification": ["clean_orphaned_media"],
    "_sweeps.grid": ["SweepFailure"],
    "_sweeps.sweep": ["Sweep"],
}
"""Modules that take long to import, and what is asked of them when it is first used."""

if not TYPE_CHECKING:  # else type checkers would take any name that is misspelled for one that there is

    def __getattr__(name: str) -> Any:
        for module, names in _LATER.items():
            if name in names:
                value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is imported when it is asked for as well."""
    return sorted({*globals(), *__all__})
