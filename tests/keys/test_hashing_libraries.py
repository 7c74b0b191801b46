"""Objects of other libraries have the same key before and after use, and making it doesn't change them."""

import copy
import functools
import importlib
import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from .keys import key_of

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
OBJECTS = importlib.import_module("library_objects").OBJECTS
sys.path.remove(str(HERE))

pytestmark = pytest.mark.filterwarnings("ignore")  # from the libraries

PRINT_DIGESTS = f"""
import json, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {str(HERE)!r})
from library_objects import OBJECTS
from tests.keys.keys import key_of
digests = {{}}
for name, (_, make, use, _) in OBJECTS.items():
    try:
        value = make()
    except ImportError:
        continue
    use(value)
    digests[name] = key_of(value)
print(json.dumps(digests))
"""

UNCOPIED = {
    "vectorized types",  # `copy.copy` loses the types
}


@pytest.fixture(params=OBJECTS)
def case(request):
    libraries, make, use, other = OBJECTS[request.param]
    for library in libraries.split():
        pytest.importorskip(library)
    return request.param, make, use, other


@functools.cache
def slots_of(cls):
    return [
        (name, slot)
        for each in cls.__mro__
        for name, slot in vars(each).items()
        if isinstance(slot, types.MemberDescriptorType) and not name.startswith("__")
    ]


def state_of(value, path="value", *, depth, found=None):
    """Return everything that an object refers to, by path and identity: attributes, slots and members."""
    found = {} if found is None else found
    found[path] = id(value), value  # keeps it alive, so that the id stays unique
    if depth == 0 or isinstance(
        value, type | types.ModuleType | types.FunctionType | str | bytes | np.ndarray
    ):
        return found
    held = getattr(value, "__dict__", None)
    parts = {f".{name}": part for name, part in held.items()} if type(held) is dict else {}
    for name, slot in slots_of(type(value)):
        try:
            parts[f".{name}"] = slot.__get__(value)
        except AttributeError:
            continue
    if isinstance(value, dict):
        parts |= {f"[{key!r}]": part for key, part in dict.items(value)}
    elif isinstance(value, list | tuple):
        parts |= {f"[{index}]": part for index, part in enumerate(value)}
    for step, part in parts.items():
        state_of(part, path + step, depth=depth - 1, found=found)
    return found


def identities(state):
    return {path: number for path, (number, _) in state.items()}


def test_making_a_key_changes_nothing(case):
    name, make, use, _ = case
    if name == "index of periods":
        pytest.skip("pandas keeps the dtype that a period array is asked for, which says nothing new")
    value = make()
    depth = 3 if name.startswith("compiled") else 5  # deeper, it refers to all of the compiler
    for act in (lambda: None, lambda: use(value)):
        act()
        before = state_of(value, depth=depth)
        key_of(value)
        assert identities(state_of(value, depth=depth)) == identities(before)


def test_the_key_stays_when_an_object_is_used(case):
    _, make, use, _ = case
    value = make()
    before = key_of(value)
    assert key_of(value) == before
    use(value)
    assert key_of(value) == before
    assert key_of(make()) == before


def test_copies_have_the_same_key_whether_they_were_used_or_not(case):
    name, make, use, _ = case
    value = make()
    before = key_of(value)
    for is_used in (False, True):
        if is_used:
            use(value)
        for copied in (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
            if copied is copy.copy and name in UNCOPIED:
                continue
            assert key_of(copied(value)) == before


def test_another_value_has_another_key(case):
    _, make, use, other = case
    one, another = make(), other()
    assert key_of(one) != key_of(another)
    use(one)
    use(another)
    assert key_of(one) != key_of(another)


def test_another_process_with_another_hash_seed_agrees():
    run = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS],
        env=os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    elsewhere = json.loads(run.stdout)
    assert elsewhere
    assert elsewhere == {name: key_of(OBJECTS[name][1]()) for name in elsewhere}


def noted(value, note):
    value.note = note
    return value


def tree_with_weights(weight):
    import scipy.spatial

    class Weighted(scipy.spatial.KDTree):
        pass

    tree = Weighted(np.eye(3))
    tree.weight = weight
    return tree


def implemented(step):
    from sympy import Symbol
    from sympy.utilities.lambdify import implemented_function

    made = (lambda x: x + 1) if step == 1 else (lambda x: x + 2)
    return implemented_function("f", made)(Symbol("x"))


def changed_colors(alpha):
    import matplotlib

    colors = matplotlib.colormaps["viridis"].copy()
    colors(0.5)
    colors._lut[:, -1] = alpha
    return colors


def of_units(note):
    import astropy.units

    return noted(np.arange(3.0) * astropy.units.m, note)


def described(text):
    import astropy.units

    made = np.arange(3.0) * astropy.units.m
    made.info.description = text
    return made


def matrix(note):
    import scipy.sparse

    return noted(scipy.sparse.csr_array(np.eye(2)), note)


def compiled(kind):
    import numba

    def plus(x):
        return x + 1

    made = {
        "njit": numba.njit,
        "vectorize": numba.vectorize(["float64(float64)"]),
        "cfunc": numba.cfunc("float64(float64)"),
    }
    return made[kind](plus)


WHOLE = {
    "KDTree": ("scipy", lambda: OBJECTS["KDTree"][1]()),
    "spline": ("scipy", lambda: OBJECTS["spline"][1]()),
    "BallTree": ("sklearn", lambda: OBJECTS["BallTree"][1]()),
    "table": ("astropy", lambda: OBJECTS["table"][1]()),
    "cosmology": ("astropy", lambda: OBJECTS["cosmology"][1]()),
    **{
        f"{kind} of numba": ("numba", lambda kind=kind: compiled(kind))
        for kind in ("njit", "vectorize", "cfunc")
    },
    "color map": ("matplotlib", lambda: OBJECTS["own color map"][1]()),
}


@pytest.mark.parametrize(("library", "make"), WHOLE.values(), ids=WHOLE)
def test_what_a_user_sets_on_an_object_of_a_class_of_a_library_counts(library, make):
    pytest.importorskip(library)
    plain = key_of(make())
    try:
        with_notes = [noted(make(), note) for note in (1, 1, 2, [np.eye(2)])]
    except AttributeError:
        pytest.skip("it takes no attributes")
    first, same, other, array = map(key_of, with_notes)
    assert first == same
    assert len({plain, first, other, array}) == 4
    del with_notes[0].note
    assert key_of(with_notes[0]) == plain


DIFFERENT = {
    "attribute of a subclass": ("scipy", tree_with_weights),
    "attribute of a matrix": ("scipy", matrix),
    "implementation of a function": ("sympy", implemented),
    "changed colours": ("matplotlib", changed_colors),
    "attribute of a quantity": ("astropy", of_units),
    "description of a quantity": ("astropy", described),
}


@pytest.mark.parametrize(("library", "make"), DIFFERENT.values(), ids=DIFFERENT)
def test_attributes_that_are_set_on_an_object_count(library, make):
    pytest.importorskip(library)
    assert key_of(make(1)) == key_of(make(1))
    assert key_of(make(1)) != key_of(make(2))


def test_a_spline_that_was_derived_has_a_key():
    interpolate = pytest.importorskip("scipy.interpolate")
    line = np.arange(9.0)
    one, other = (interpolate.UnivariateSpline(line, scale * line**2).derivative() for scale in (1, 2))
    assert key_of(one) != key_of(other)


def test_a_dataset_of_a_file_has_the_same_key_before_and_after_it_is_read(tmp_path):
    xarray = pytest.importorskip("xarray")
    keys = []
    for number in (1.0, 2.0):
        xarray.Dataset({"a": ("x", [0.0, number])}).to_netcdf(tmp_path / "a.nc", engine="scipy")
        with xarray.open_dataset(tmp_path / "a.nc", engine="scipy") as opened:
            keys.append(key_of(opened))
            assert key_of(opened.load()) == keys[-1]
    assert len(set(keys)) == 2
