import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest

from bencher_job._keys import names

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
