"""Caches, sweeps and tables work on a store without a folder as they do on the embedded one."""

from __future__ import annotations

import pytest

from bencher_job import _stores
from tests import test_adopt, test_cache, test_explain
from tests.dict_store import DictStore
from tests.sweeps import test_grid, test_results, test_stream, test_sweep
from tests.views import test_dataset, test_table

NEEDS_A_FOLDER: set[str] = set()
"""Tests that look at files, at other processes, or at what only a folder has."""


@pytest.fixture(autouse=True)
def _dict_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every cache of this process keep its results in a dict."""
    monkeypatch.setattr(_stores._open_stores, "make", lambda _: DictStore())


_CACHES = test_cache, test_adopt, test_explain
_SWEEPS = test_grid, test_results, test_stream, test_sweep
for _module in (*_CACHES, *_SWEEPS, test_dataset, test_table):
    for _name, _value in list(vars(_module).items()):
        _is_fixture = hasattr(_value, "_pytestfixturefunction") or hasattr(_value, "_fixture_function_marker")
        if _is_fixture or (_name.startswith("test_") and _name not in NEEDS_A_FOLDER):
            globals()[_name] = _value
