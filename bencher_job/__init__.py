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

from . import _posix as _posix
from ._cache import FutureCache
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
from ._function_cache import JobFunctionCache
from ._future import JobFuture
from ._job import Job, run_job
from ._keys import register_hasher
from ._media import current_job_key, gen_path
from ._options import Executors
from ._record import Record
from ._version import VERSION

if TYPE_CHECKING:
    from ._executors.ray import Ray
    from ._executors.slurm import Slurm
    from ._explain import Cause, Explanation
    from ._record import CacheInfo, FunctionInfo, Plan
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

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a program that wants the log adds a handler

for _name in {*__all__} & {*globals()}:  # so that pickles and error messages name this package
    getattr(sys.modules[__name__], _name).__module__ = __name__
del _name


_LATER = {
    "CacheInfo": "_record",
    "Cause": "_explain",
    "Explanation": "_explain",
    "FunctionInfo": "_record",
    "Plan": "_record",
    "Ray": "_executors.ray",
    "Slurm": "_executors.slurm",
    "Sweep": "_sweeps.sweep",
    "SweepFailure": "_sweeps.grid",
    "clean_orphaned_media": "_stores.verification",
}


if not TYPE_CHECKING:  # else type checkers would take any name that is misspelled for one that there is

    def __getattr__(name: str) -> Any:
        """Import what takes long to import, and few programs need, when it is asked for."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
        value.__module__ = __name__
        return value


def __dir__() -> list[str]:
    """Name what is imported when it is asked for as well."""
    return sorted({*globals(), *__all__})
