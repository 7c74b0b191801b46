"""An assertion counts as the running Python treats it, even if pytest rewrites the module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from bencher_job._keys.code import code_info_of

Load = Callable[..., ModuleType]


def checked(x: int) -> int:
    assert x > 0, "must be positive"
    return sum(number for number in range(x) if number)


def test_a_function_that_pytest_rewrote_counts_by_its_source(load: Load) -> None:
    info = code_info_of(checked.__code__, globals())
    assert info.source is not None
    plain = load(info.source).checked
    plain_info = code_info_of(plain.__code__, vars(sys.modules["bench"]))
    assert (info.digest, info.free_names) == (plain_info.digest, plain_info.free_names)


def test_unknown_rewriting_falls_back_to_the_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite = pytest.importorskip("_pytest.assertion.rewrite")
    if not isinstance(__loader__, rewrite.AssertionRewritingHook):  # type: ignore[name-defined]
        pytest.skip("assertions are not rewritten")
    monkeypatch.setattr("bencher_job._keys.code._files", {})
    monkeypatch.setattr("bencher_job._keys.code._infos", {})
    monkeypatch.setattr(rewrite, "rewrite_asserts", lambda tree: tree)
    info = code_info_of(checked.__code__, globals())
    assert info.source is None
    assert info.digest == info.bytecode
