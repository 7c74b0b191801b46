"""For those who test code that uses this library, or who write a store or an executor for it.

`temporary_cache` and `CallCounter` serve any test, `assert_stable_key` those of a class whose objects are arguments.
`StoreContract`, `ExecutorContract` and `LostWorkerContract` are the test suites that each store and each executor must
pass: subclass one in a pytest module, and give it the fixture that it names.
"""

from __future__ import annotations

import sys

from .executors import ExecutorContract, LostWorkerContract
from .stability import assert_stable_key
from .stores import StoreContract
from .tools import CallCounter, temporary_cache

__all__ = [
    "CallCounter",
    "ExecutorContract",
    "LostWorkerContract",
    "StoreContract",
    "assert_stable_key",
    "temporary_cache",
]

for _name in __all__:
    getattr(
        sys.modules[__name__], _name
    ).__module__ = __name__  # where it is looked for, whichever file it stands in
del _name
