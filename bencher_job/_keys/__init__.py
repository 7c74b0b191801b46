"""Make the keys of jobs: the same job has the same key.

function, arguments -> Binder -> values ─┐
function -> CodeTracker -> Fingerprint ──┴-> JobKeys -> key
"""

from __future__ import annotations

from .arguments import ArgsAndKwargs, signature_of
from .fingerprint import StoredFunctionVersion
from .hashers import register_hasher
from .hashing import KEY_VERSION, UNCHANGEABLE, Known, digest
from .key import (
    FunctionVersion,
    Identity,
    JobKeys,
    anchored_call,
    function_version_of,
    identity_of,
)
from .names import qualified_name

__all__ = [
    "KEY_VERSION",
    "UNCHANGEABLE",
    "ArgsAndKwargs",
    "FunctionVersion",
    "Identity",
    "JobKeys",
    "Known",
    "StoredFunctionVersion",
    "anchored_call",
    "digest",
    "function_version_of",
    "identity_of",
    "qualified_name",
    "register_hasher",
    "signature_of",
]
