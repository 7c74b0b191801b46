"""Remembers what expensive functions returned: on one core, on all cores, or on a cluster.

from bencher_job import cached_job

@cached_job(executor="multiprocessing", tag="nightly")
def accuracy(model: str, c: float = 1.0) -> dict: ...

accuracy("svm", c=2.0)      # computed once, then remembered
"""

from __future__ import annotations

import logging

from ._cache import FutureCache
from ._decorator import CachedFunction, cached_job
from ._errors import (
    BencherJobError,
    CacheWarning,
    CodeMismatch,
    JobTimeout,
    UnkeyableArgument,
    UntrustedCache,
    WorkerLost,
)
from ._executors import Executors
from ._explanation import Cause, Explanation
from ._function_cache import JobFunctionCache
from ._future import JobFuture
from ._job import Job, run_job
from ._keys import register_hasher
from ._media import current_job_key, gen_path
from ._record import CacheInfo, Record
from ._stores import clean_orphaned_media
from ._sweep import Plan, Sweep, SweepFailure

__all__ = [
    "BencherJobError",
    "CacheInfo",
    "CacheWarning",
    "CachedFunction",
    "Cause",
    "CodeMismatch",
    "Executors",
    "Explanation",
    "FutureCache",
    "Job",
    "JobFunctionCache",
    "JobFuture",
    "JobTimeout",
    "Plan",
    "Record",
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

logging.getLogger(__name__).addHandler(logging.NullHandler())  # whoever wants to read the log says so

for _name in __all__:  # so that pickles and error messages name this package, wherever a thing is defined
    globals()[_name].__module__ = __name__
del _name
