"""Names of modules, functions and classes, and whether they are the user's own."""

from __future__ import annotations

import json
import os.path
import random
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest

from bencher_job._keys import names
from bencher_job._keys.names import exported_name, is_own_class, is_own_file, is_own_module, is_own_name

ROOT = Path(__file__).parents[2]
PRINT_NAME = (
    "from bencher_job._keys.names import qualified_name\nclass Config: pass\nprint(qualified_name(Config))\n"
)


@pytest.fixture
def nothing_adopted(monkeypatch):
    monkeypatch.setattr(names, "_adopted", [])


def printed(*command, cwd):
    command = [sys.executable, *command]
    environment = {"PYTHONPATH": f"{ROOT}:{cwd}"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_classes_and_functions_have_module_and_qualified_name():
    assert names.qualified_name(OrderedDict) == "collections.OrderedDict"
    assert names.qualified_name(OrderedDict.fromkeys) == "OrderedDict.fromkeys"
    assert names.qualified_name(dict) == "dict"


@pytest.mark.parametrize("command", [["script.py"], ["-m", "script"], ["-c", "import script"]])
def test_a_script_has_the_name_under_which_it_is_imported(tmp_path, command):
    (tmp_path / "script.py").write_text(PRINT_NAME)
    assert printed(*command, cwd=tmp_path) == "script.Config"


def test_a_module_of_a_package_has_its_full_name_when_it_is_run(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(PRINT_NAME)
    assert printed("-m", "package.module", cwd=tmp_path) == "package.module.Config"


def test_code_without_a_file_stays_main(tmp_path):
    assert printed("-c", PRINT_NAME, cwd=tmp_path) == "__main__.Config"


@pytest.mark.usefixtures("nothing_adopted")
def test_a_worker_adopts_its_parents_name():
    names.adopt_main_name("script")
    assert names.main_name() == "script"
    assert names.module_name("__main__") == names.module_name("__mp_main__") == "script"
    assert names.module_name("json") == "json"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (open, "io.open"),
        (len, "builtins.len"),
        (os.path.normpath, "os.path.normpath"),
        (os.path.lexists, "os.path.lexists"),
        (os.getcwd, "os.getcwd"),
        (re.error, "re.error"),
        (threading.Lock, "threading.Lock"),
        (random.choice, "random.choice"),
        (random.random, "random.random"),
        (dict.fromkeys, "builtins.dict.fromkeys"),
    ],
)
def test_an_export_has_its_shortest_public_name(value: object, expected: str) -> None:
    exported = exported_name(value)
    assert exported is not None
    assert exported[1] == expected


@pytest.mark.parametrize("value", [random.Random(1).choice, "text".upper, 1, object()])
def test_an_object_in_no_foreign_module_is_not_an_export(value: object) -> None:
    assert exported_name(value) is None


def test_a_proxy_that_raises_on_every_access_is_not_an_export() -> None:
    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert exported_name(Proxy()) is None


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
