"""Keys: are these the same job?

function, arguments -> Binder -> values ─┐
function -> CodeTracker -> Fingerprint ──┴-> JobKeys -> key
"""

from __future__ import annotations

from .arguments import Call, signature_of
from .fingerprint import PastEdition
from .hashing import KEY_VERSION, UNCHANGEABLE, Known, digest, register_hasher
from .key import CodeScope, Edition, Identity, JobKeys, anchored_call, edition_of, identity_of
from .names import qualified_name

__all__ = [
    "KEY_VERSION",
    "UNCHANGEABLE",
    "Call",
    "CodeScope",
    "Edition",
    "Identity",
    "JobKeys",
    "Known",
    "PastEdition",
    "anchored_call",
    "digest",
    "edition_of",
    "identity_of",
    "qualified_name",
    "register_hasher",
    "signature_of",
]
