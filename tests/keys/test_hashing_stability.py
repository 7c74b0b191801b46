"""Keys of values are the same in every process, under every hash seed, on every supported Python,
with every version of pandas from 2.2 and of polars from 1.20.

A change here invalidates every existing cache. If it is intended, raise `KEY_VERSION` and write the golden file
again: `python -m tests.keys.test_hashing_stability`.
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

from .keys import key_of

HERE = Path(__file__).parent
GOLDEN = HERE / "golden.json"

sys.path.insert(0, str(HERE))
VALUES = importlib.import_module("hashed_values").VALUES | importlib.import_module("hashed_frames").VALUES
sys.path.remove(str(HERE))

COPIED = [name for name in VALUES if name not in {"memoryview", "mapping proxy", "module"}]

PRINT_KEYS = f"""
import json, sys
sys.path.insert(0, {str(HERE)!r})
import hashed_frames, hashed_values
from tests.keys.keys import key_of
values = hashed_values.VALUES | hashed_frames.VALUES
print(json.dumps({{name: key_of(make()) for name, make in reversed(values.items())}}))
"""


def golden():
    return json.loads(GOLDEN.read_text())


def test_every_value_has_a_golden_key():
    assert golden().keys() == VALUES.keys()


@pytest.mark.parametrize("name", VALUES)
def test_the_key_is_golden(name):
    assert key_of(VALUES[name]()) == golden()[name]


def test_all_golden_values_differ():
    assert len(set(golden().values())) == len(VALUES)


@pytest.mark.parametrize("name", COPIED)
def test_a_pickle_round_trip_keeps_the_key(name):
    value = VALUES[name]()
    assert key_of(pickle.loads(pickle.dumps(value))) == key_of(value)


@pytest.mark.parametrize("name", COPIED)
def test_a_deep_copy_has_the_same_key(name):
    value = VALUES[name]()
    assert key_of(copy.deepcopy(value)) == key_of(value)


def test_another_process_with_another_hash_seed_agrees():
    run = subprocess.run(
        [sys.executable, "-c", PRINT_KEYS],
        env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == {name: key_of(make()) for name, make in VALUES.items()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: key_of(make()) for name, make in VALUES.items()}, indent=2) + "\n")
