from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy
import pytest

from bencher_job._keys.provenance import (
    distribution_of,
    is_own_class,
    is_own_file,
    is_own_module,
    is_own_name,
)


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions, whose names are not those of their packages."""
    folder = tmp_path / "site-packages"
    for package, metadata, version in (
        ("yamlish", "Py_Yamlish", "6.0"),
        ("spaced/one", "spaced_one", "1.0"),
        ("spaced/two", "spaced_two", "2.0"),
    ):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
        record = folder / f"{metadata}-{version}.dist-info" / "RECORD"
        record.parent.mkdir()
        record.write_text(f"{package}/__init__.py,,\n")
    (folder / "nobodys.py").touch()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("yamlish", ("py-yamlish", "6.0")),
        ("spaced.one", ("spaced-one", "1.0")),
        ("spaced.two", ("spaced-two", "2.0")),
        ("nobodys", ("nobodys", "unknown")),
    ],
)
def test_a_distribution_is_found_by_the_files_that_it_lists(
    site_packages: Path, monkeypatch: pytest.MonkeyPatch, module: str, expected: tuple[str, str]
) -> None:
    loaded = importlib.import_module(module)
    monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, module, loaded)
    assert distribution_of(module) == expected
    assert not is_own_module(loaded)


def test_a_distribution_is_found_by_its_own_name() -> None:
    assert distribution_of("numpy.linalg") == ("numpy", numpy.__version__)


@pytest.mark.parametrize("module", ["json", "sys", "builtins", "_frozen_importlib", "math"])
def test_the_standard_library_is_of_no_distribution_and_not_the_users(module: str) -> None:
    assert distribution_of(module) is None
    assert not is_own_name(module)


def test_this_library_is_not_the_users() -> None:
    assert not is_own_name("bencher_job._errors")
    assert distribution_of("bencher_job._errors") is None


def test_what_has_no_file_is_the_users() -> None:
    assert is_own_module(ModuleType("made"))
    assert is_own_name("a_name_that_nobody_knows")


def test_a_script_beside_an_environment_is_the_users(tmp_path: Path) -> None:
    assert is_own_file(str(tmp_path / "script.py"))
    assert not is_own_file(str(tmp_path / ".venv" / "lib" / "site-packages" / "thing.py"))
    assert not is_own_file(json.__file__)


def test_a_class_that_is_written_in_c_is_not_the_users() -> None:
    class Mine(dict[str, int]):
        __missing__ = dict.get

    assert is_own_class(Mine)
    assert not is_own_class(dict)
    assert not is_own_class(numpy.ndarray)
