from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy
import pytest

from bencher_job._keys.names import is_own_class, is_own_file, is_own_module, is_own_name


@pytest.mark.parametrize("module", ["json", "sys", "builtins", "_frozen_importlib", "math"])
def test_the_standard_library_is_foreign(module: str) -> None:
    assert not is_own_name(module)


def test_this_library_is_foreign() -> None:
    assert not is_own_name("bencher_job._errors")


def test_a_module_without_a_file_is_own() -> None:
    assert is_own_module(ModuleType("made"))
    assert is_own_name("a_name_that_nobody_knows")


def test_a_script_beside_an_environment_is_own(tmp_path: Path) -> None:
    assert is_own_file(str(tmp_path / "script.py"))
    assert not is_own_file(str(tmp_path / ".venv" / "lib" / "site-packages" / "thing.py"))
    assert not is_own_file(json.__file__)


def test_a_class_in_c_is_foreign() -> None:
    class Mine(dict[str, int]):
        __missing__ = dict.get

    assert is_own_class(Mine)
    assert not is_own_class(dict)
    assert not is_own_class(numpy.ndarray)
