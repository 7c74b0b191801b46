"""Digests are the same in every process, under every hash seed, on every supported Python,
with every version of pandas from 2.2 and of polars from 1.20.

A change here invalidates every existing cache. If it is intended, raise `KEY_VERSION` and write the golden file
again: `python tests/keys/test_hashing_stability.py`.
"""

import copy
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from bencher_job._keys.hashing import KEY_VERSION, digest

HERE = Path(__file__).parent
GOLDEN = HERE / "golden.json"

sys.path.insert(0, str(HERE))
VALUES = importlib.import_module("hashed_values").VALUES | importlib.import_module("hashed_frames").VALUES
sys.path.remove(str(HERE))

COPIED = [name for name in VALUES if name not in {"memoryview", "mapping proxy", "module"}]

PRINT_DIGESTS = f"""
import json, sys
sys.path.insert(0, {str(HERE)!r})
import hashed_frames, hashed_values
from bencher_job._keys.hashing import digest
values = hashed_values.VALUES | hashed_frames.VALUES
print(json.dumps({{name: digest(make()).hex() for name, make in reversed(values.items())}}))
"""


def golden():
    return json.loads(GOLDEN.read_text())


def test_every_value_has_a_golden_digest_of_this_version():
    assert golden()["version"] == KEY_VERSION
    assert golden()["digests"].keys() == VALUES.keys()


@pytest.mark.parametrize("name", VALUES)
def test_the_digest_is_golden(name):
    assert digest(VALUES[name]()).hex() == golden()["digests"][name]


def test_all_golden_values_differ():
    assert len(set(golden()["digests"].values())) == len(VALUES)


@pytest.mark.parametrize("name", COPIED)
def test_a_pickle_round_trip_keeps_the_digest(name):
    value = VALUES[name]()
    assert digest(pickle.loads(pickle.dumps(value))) == digest(value)


@pytest.mark.parametrize("name", COPIED)
def test_a_deep_copy_has_the_same_digest(name):
    value = VALUES[name]()
    assert digest(copy.deepcopy(value)) == digest(value)


def test_another_process_with_another_hash_seed_agrees():
    run = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS],
        env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == {name: digest(make()).hex() for name, make in VALUES.items()}


if __name__ == "__main__":
    digests = {name: digest(make()).hex() for name, make in VALUES.items()}
    GOLDEN.write_text(json.dumps({"version": KEY_VERSION, "digests": digests}, indent=2) + "\n")
