"""What the stack of an interrupted thread tells: whether it holds a lock of the library."""

from __future__ import annotations

import ast
from pathlib import Path

import bencher_job
from bencher_job._context import LOCKS

PACKAGE = Path(bencher_job.__file__).parent
LOCK_TYPES = {"Lock", "Condition", "Semaphore", "BoundedSemaphore"}

WAITED_FOR_BY_NO_CALL = {
    "_asleep",  # the places of sleepers, taken without waiting
    "forks",  # held while a process forks
    "_here",  # released by the thread that reads a file
    "_idle",  # as above, by a thread that has nothing to do
    "_pushing",  # of a shared store, whose requests another thread carries out
    "_socket_lock",  # as above
    "lock",  # of a session of a shared store, as above
    "until_finished",  # released by the thread that ends the last job
}


def test_every_lock_is_one_that_the_stack_tells_of() -> None:
    unknown = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Call):
                continue
            made = node.value.func
            if not (
                isinstance(made, ast.Attribute) and made.attr in LOCK_TYPES and "testing" not in path.parts
            ):
                continue
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
                if name not in LOCKS | WAITED_FOR_BY_NO_CALL:
                    unknown.append(f"{path}:{node.lineno} {name}")
    assert not unknown
