"""Tools for testing code that uses this library, and contracts for stores, remotes and executors.

`temporary_cache` and `CallCounter` are for any test, `assert_stable_key` is for classes whose objects are arguments.
`StoreContract`, `RemoteContract`, `ExecutorContract` and `LostWorkerContract` are the test suites that every store,
remote and executor must pass: subclass one in a pytest module, and provide the fixture that it names.
"""

from __future__ import annotations

import sys

from .executors import ExecutorContract, LostWorkerContract
from .remotes import RemoteContract
from .stability import assert_stable_key
from .stores import StoreContract
from .tools import CallCounter, kept_cache, temporary_cache

__all__ = [
    "CallCounter",
    "ExecutorContract",
    "LostWorkerContract",
    "RemoteContract",
    "StoreContract",
    "assert_stable_key",
    "kept_cache",
    "temporary_cache",
]

for _name in __all__:
    getattr(sys.modules[__name__], _name).__module__ = __name__  # the public module, not the private file
del _name
