import copy
import pickle
import struct

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bencher_job import UnkeyableArgument

from .keys import key_of

ARRAYS = arrays.arrays(
    dtype=st.one_of(
        arrays.scalar_dtypes(), arrays.unicode_string_dtypes(max_len=3), arrays.array_dtypes(max_size=3)
    ).filter(lambda dtype: dtype.itemsize),
    shape=arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@given(ARRAYS)
def test_the_memory_layout_does_not_matter(array):
    spread = np.zeros((*array.shape, 3), array.dtype)
    spread[..., 1] = array
    backwards = np.ascontiguousarray(array[..., ::-1])[..., ::-1] if array.ndim else array
    readonly = array.copy()
    readonly.flags.writeable = False
    for same in (np.asfortranarray(array).reshape(array.shape), spread[..., 1], backwards, readonly):
        assert key_of(same) == key_of(array)


@given(ARRAYS)
def test_a_copy_and_a_pickle_round_trip_keep_the_digest(array):
    assert key_of(copy.deepcopy(array)) == key_of(array)
    assert key_of(pickle.loads(pickle.dumps(array))) == key_of(array)


@given(arrays.arrays(dtype=st.sampled_from(["f8", "i4", "U2", "M8[s]"]), shape=(2, 3)), st.integers(0, 5))
def test_changing_one_element_changes_the_digest(array, position):
    changed = array.copy()
    changed.flat[position] = np.array(7, "i8").astype(array.dtype)
    same = changed.tobytes() == array.tobytes() or bool(np.isreal(array).all() and (changed != changed).all())
    assert (key_of(changed) == key_of(array)) == same


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_dtype_shape_and_class_count():
    values = [
        np.arange(6),
        np.arange(6).reshape(2, 3),
        np.arange(6).reshape(3, 2),
        np.arange(6).reshape(1, 6),
        np.arange(6, dtype="i4"),
        np.arange(6, dtype="u8"),
        np.arange(6, dtype="f8"),
        np.arange(6).astype("timedelta64[s]"),
        np.arange(6).astype("timedelta64[ms]"),
        np.arange(6).astype("datetime64[s]"),
        np.arange(6).astype("S1"),
        np.arange(6).astype("U1"),
        np.arange(6).astype(object),
        np.arange(6).view(np.dtype("V8")),
        np.arange(6).view(np.recarray),
        np.matrix(np.arange(6)),
        np.ma.MaskedArray(np.arange(6)),
        list(range(6)),
        np.arange(6).tobytes(),
    ]
    assert len(set(map(key_of, values))) == len(values)


def test_the_byte_order_does_not_matter_except_in_a_dtype_itself():
    for kind in ("i8", "f4", "c8", "U2", "M8[s]", "g"):
        array = np.arange(6).astype(kind)
        assert key_of(array.astype(array.dtype.newbyteorder(">"))) == key_of(array)
    fields = np.dtype([("a", "<i4"), ("b", "<U2", 2)])
    assert key_of(np.ones(2, fields)) == key_of(np.ones(2, fields.newbyteorder(">")))
    assert key_of(fields) != key_of(fields.newbyteorder(">"))


def test_names_of_one_dtype_are_the_same():
    assert key_of(np.array([1], np.longlong)) == key_of(np.array([1], np.int64))
    assert key_of(np.longlong(1)) == key_of(np.int64(1))


def test_an_array_without_elements_has_its_shape_and_dtype():
    values = [np.empty(0), np.empty((0, 2)), np.empty((2, 0)), np.empty(0, "i8"), np.empty((), "i8")]
    assert len(set(map(key_of, values))) == len(values)


def test_scalars_differ_from_arrays_and_from_python_numbers():
    values = [1, 1.0, True, np.int64(1), np.int32(1), np.float64(1), np.float32(1), np.bool(1), np.array(1)]
    values += [
        np.array(1.0),
        "1",
        np.str_("1"),
        b"1",
        np.bytes_(b"1"),
        np.datetime64(1, "s"),
        np.complex128(1),
    ]
    assert len(set(map(key_of, values))) == len(values)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "g", "c8", "c16", "G"])
def test_nans_are_equal_and_signed_zeros_differ(kind):
    array = np.zeros(3, kind)
    array[1] = np.nan
    negative = array.copy()
    negative[1] = -np.nan
    assert key_of(negative) == key_of(array)
    assert key_of(negative[1]) == key_of(array[1])
    signed = array.copy()
    signed[0] = -signed[0]
    assert key_of(signed) != key_of(array)


def test_the_payload_of_a_nan_does_not_count():
    odd = np.frombuffer(struct.pack("<3Q", 0, 0xFFF8000000000123, 0x7FF0000000000001), "f8")
    assert key_of(odd) == key_of(np.array([0.0, np.nan, np.nan]))
    assert key_of(odd[1]) == key_of(np.float64(np.nan))


def test_padding_between_fields_does_not_count():
    dtype = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    clean = np.zeros(2, dtype)
    dirty = np.frombuffer(b"\x00" + b"\xaa" * 7 + bytes(8) + b"\x00" + b"\xbb" * 7 + bytes(8), dtype)
    assert key_of(clean) == key_of(dirty)
    assert key_of(clean[0]) == key_of(dirty[1])


def test_fields_differ_by_name_place_and_type():
    values = [
        np.zeros(1, [("a", "i4"), ("b", "i4")]),
        np.zeros(1, [("b", "i4"), ("a", "i4")]),
        np.zeros(1, [("a", "i4"), ("b", "f4")]),
        np.zeros(1, [("a", "i4", 2)]),
        np.zeros(1, np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]})),
        np.zeros(1, [("a", [("b", "i4")]), ("c", "i4")]),
    ]
    assert len(set(map(key_of, values))) == len(values)


def test_objects_in_arrays_are_hashed_one_by_one():
    array = np.array([[1, "a"], [None, [2]]], dtype=object)
    assert key_of(array) == key_of(copy.deepcopy(array)) == key_of(np.asfortranarray(array))
    assert key_of(array) != key_of(array.T)
    array[1, 1].append(3)
    assert key_of(array) != key_of(np.array([[1, "a"], [None, [2, 4]]], dtype=object))


def test_objects_in_fields_are_hashed_one_by_one():
    dtype = [("a", object), ("b", "i4")]
    one, other = np.zeros(1, dtype), np.zeros(1, dtype)
    one["a"][0], other["a"][0] = [1, "x"], [1, "x"]
    assert key_of(one) == key_of(other)
    other["a"][0].append(2)
    assert key_of(one) != key_of(other)


def test_variable_text_is_hashed_by_element():
    dtype = np.dtypes.StringDType()
    one, other = np.array(["a", "b" * 100], dtype=dtype), np.array(["x", "b" * 100], dtype=dtype)
    assert key_of(one) != key_of(other)
    other[0] = "a"
    assert key_of(one) == key_of(other)
    assert key_of(one) != key_of(one.astype(np.dtypes.StringDType(na_object=None)))


def test_masked_elements_do_not_count():
    one = np.ma.MaskedArray([1.0, 2.0], mask=[False, True])
    other = np.ma.MaskedArray([1.0, 3.0], mask=[False, True])
    assert key_of(one) == key_of(other)
    assert key_of(np.ma.MaskedArray([1.0], mask=False)) == key_of(np.ma.MaskedArray([1.0]))
    assert key_of(pickle.loads(pickle.dumps(one))) == key_of(one)


def test_the_mask_the_data_and_the_fill_value_count():
    values = [
        np.ma.MaskedArray([1.0, 2.0]),
        np.ma.MaskedArray([1.0, 2.0], mask=[0, 1]),
        np.ma.MaskedArray([1.0, 2.0], mask=[1, 0]),
        np.ma.MaskedArray([1.0, 2.0], mask=[0, 1], fill_value=0),
        np.ma.MaskedArray([1, 2], mask=[0, 1]),
        np.ma.masked,
        np.ma.MaskedArray([(1, 2.0)], mask=[(0, 1)], dtype=[("a", "i4"), ("b", "f8")]),
    ]
    assert len(set(map(key_of, values))) == len(values)


def test_a_memory_map_equals_its_array(tmp_path):
    np.save(tmp_path / "array.npy", np.arange(5.0))
    assert key_of(np.load(tmp_path / "array.npy", mmap_mode="r")) == key_of(np.arange(5.0))


class Quantity(np.ndarray):
    unit = None


def test_a_subclass_counts_with_its_attributes():
    metres, seconds = np.arange(3.0).view(Quantity), np.arange(3.0).view(Quantity)
    metres.unit, seconds.unit = "m", "s"
    assert key_of(metres) != key_of(seconds)
    assert key_of(metres) != key_of(np.arange(3.0))


def test_the_key_does_not_depend_on_the_blocks_in_which_an_array_is_read():
    array = np.zeros((3, 5, 300, 4099), np.float32)  # 74 MB
    array[1, 2, 3, 4] = -np.nan
    array[2, 4, 299, 4098] = 1
    expected = key_of(array)
    assert key_of(np.asfortranarray(array)) == expected
    assert key_of(np.moveaxis(np.moveaxis(array, 0, 2).copy(), 2, 0)) == expected
    array[2, 4, 299, 4097] = 1
    assert key_of(array) != expected


def test_large_arrays_differ_in_one_element():
    large = np.zeros(1 << 20)
    changed = large.copy()
    changed[-1] = -0.0
    assert key_of(large) == key_of(large.copy())
    assert key_of(large) != key_of(changed)


@pytest.mark.parametrize(
    "make", [np.random.default_rng, np.random.RandomState, np.random.PCG64, np.random.SeedSequence]
)
def test_a_random_generator_counts_by_its_state(make):
    assert key_of(make(1)) == key_of(make(1))
    assert key_of(make(1)) != key_of(make(2))
    assert key_of(pickle.loads(pickle.dumps(make(1)))) == key_of(make(1))


def test_a_random_generator_that_has_spawned_differs():
    spawned = np.random.default_rng(1)
    spawned.spawn(1)
    assert key_of(spawned) != key_of(np.random.default_rng(1))


def test_dtypes_and_functions_of_numpy_are_values():
    values = [
        np.dtype("f8"),
        np.dtype("f4"),
        np.dtype(">f8"),
        np.dtype([("a", "f8")]),
        np.dtype("f8", metadata={"unit": "m"}),
        np.dtype("f8", metadata={"unit": "s"}),
        np.sin,
        np.cos,
        np.mean,
    ]
    assert len(set(map(key_of, values))) == len(values)
    assert key_of(np.dtype("f8")) == key_of(np.dtype(float))


def test_the_metadata_of_a_dtype_count_in_an_array():
    """Libraries such as h5py store the meaning of the elements there."""
    tagged = np.zeros(2, np.dtype("f8", metadata={"unit": "m"}))
    assert key_of(tagged) != key_of(np.zeros(2))
    assert key_of(tagged) == key_of(pickle.loads(pickle.dumps(tagged)))


def test_a_ufunc_of_a_python_function_is_refused():
    """Two with the same name may do different things."""
    with pytest.raises(UnkeyableArgument, match=r"numpy\.vectorize"):
        key_of(np.frompyfunc(lambda x: x + 1, 1, 1))


def test_a_compiled_function_that_hides_in_a_plain_ufunc_is_refused(monkeypatch):
    """Its name stays when its code changes, and what a module of the user's holds under it is no ufunc of a library."""
    numba = pytest.importorskip("numba")

    @numba.vectorize(["float64(float64)"], target="parallel")
    def plus(x):
        return x + 1

    assert type(plus) is np.ufunc
    with pytest.raises(UnkeyableArgument, match="no module holds it"):
        key_of(plus)
    monkeypatch.setitem(globals(), "plus", plus)
    with pytest.raises(UnkeyableArgument, match=r"numpy\.vectorize"):
        key_of(plus)


def test_a_ufunc_of_a_library_counts_wherever_else_it_is_imported(monkeypatch):
    before = key_of(scipy.special.exprel)
    monkeypatch.setitem(globals(), "exprel", scipy.special.exprel)
    assert key_of(scipy.special.exprel) == before


def test_the_error_has_the_path_of_an_object_in_an_array():
    with pytest.raises(UnkeyableArgument) as caught:
        key_of(np.array([1, object()], dtype=object))
    assert caught.value.path == "value[1]"
