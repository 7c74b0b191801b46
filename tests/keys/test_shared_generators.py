"""The global generators are keyed by name at any depth, all others by their state."""

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .keys import key_of

ROOT = Path(__file__).parents[2]


def own_random():
    return random.Random(1)


def shared_state():
    return np.random.mtrand._rand


def own_state():
    return np.random.RandomState(1)


class Holder:
    def __init__(self, generator):
        self.generator = generator


SHARED = {
    "random": lambda: random._inst,
    "method of random": lambda: random.choice,
    "function of random": lambda: random.random,
    "numpy": shared_state,
    "bits of numpy": lambda: shared_state()._bit_generator,
    "generator on the bits of numpy": lambda: np.random.Generator(shared_state()._bit_generator),
    "function of numpy": lambda: np.random.rand,
    "attribute": lambda: Holder(shared_state()),
    "unseeded estimator": lambda: pytest.importorskip("sklearn.neural_network").MLPClassifier(),
    "frozen distribution": lambda: pytest.importorskip("scipy.stats").norm(0, 2),
    "distribution": lambda: pytest.importorskip("scipy.stats").norm,
    "torch": lambda: pytest.importorskip("torch").default_generator,
}
OWN = {
    "random": own_random,
    "method of random": lambda: own_random().choice,
    "numpy": own_state,
    "bits of numpy": lambda: own_state()._bit_generator,
    "generator of numpy": lambda: np.random.default_rng(1),
    "attribute": lambda: Holder(own_state()),
}


def draw():
    random.random()
    np.random.rand()
    if "torch" in sys.modules:
        sys.modules["torch"].rand(1)


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_draws_do_not_change_the_key_of_an_object_with_a_shared_generator(make):
    value = make()
    before = key_of(value)
    draw()
    assert key_of(value) == before
    assert key_of(make()) == before


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_an_own_generator_counts_with_its_state(make):
    value = make()
    before = key_of(value)
    assert key_of(make()) == before
    assert key_of(pickle.loads(pickle.dumps(value))) == before
    owner = getattr(value, "__self__", getattr(value, "generator", value))
    draws = getattr(owner, "random", None) or owner.random_raw
    draws()
    assert key_of(value) != before


@pytest.mark.parametrize(("shared", "own"), [(shared_state, own_state), (lambda: random._inst, own_random)])
def test_a_shared_generator_differs_from_an_own_one(shared, own):
    own = own()
    getattr(own, "setstate", getattr(own, "set_state", None))(
        getattr(shared(), "getstate", getattr(shared(), "get_state", None))()
    )
    assert key_of(shared()) != key_of(own)


def test_all_unseeded_estimators_have_one_key():
    model = pytest.importorskip("sklearn.neural_network").MLPClassifier(max_iter=1, solver="sgd")
    model.partial_fit(np.eye(2), [0, 1], classes=[0, 1])
    before = key_of(model)
    np.random.rand()
    assert key_of(model) == before
    assert key_of(pickle.loads(pickle.dumps(model))) == before


def test_a_seeded_estimator_counts_with_its_generator():
    neural = pytest.importorskip("sklearn.neural_network")
    one, other = (neural.MLPClassifier(random_state=np.random.RandomState(seed)) for seed in (1, 2))
    assert key_of(one) != key_of(other)


def test_another_process_makes_the_same_key():
    pytest.importorskip("scipy.stats")
    code = (
        "import numpy, random, scipy.stats; from tests.keys.keys import key_of; numpy.random.rand();"
        "print(key_of([scipy.stats.norm(0, 2), numpy.random.mtrand._rand, random._inst]))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1
