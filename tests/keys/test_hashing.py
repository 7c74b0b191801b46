import copy
import math
import pickle
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bencher_job import UnkeyableArgument, cached_job, register_hasher
from bencher_job._keys import hashing

from .keys import argument, arguments, key_of

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary()
)
HASHABLE = st.recursive(
    PLAIN, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)), max_leaves=6
)
NESTED = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.sets(HASHABLE),
    ),
    max_leaves=12,
)
PLAIN_FEW = st.sampled_from([0, -1, True, "", "a", b"a", math.nan, None])
FEW = st.recursive(
    st.sampled_from(
        [None, False, True, 0, 1, -1, 0.0, -0.0, 1.0, math.nan, -math.nan, 1j, "", "a", b"", b"a", 2**40]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.tuples(inner), st.dictionaries(PLAIN_FEW, inner, max_size=2)
    ),
    max_leaves=4,
)
"""Values of which many are equal or nearly equal."""


def spelled(value):
    """Return a text that is the same exactly for values that must have the same digest; slow and obvious."""
    match value:
        case dict():
            return f"dict{sorted((spelled(key), spelled(member)) for key, member in value.items())}"
        case set() | frozenset():
            return f"{type(value).__name__}{sorted(map(spelled, value))}"
        case list() | tuple():
            return f"{type(value).__name__}{list(map(spelled, value))}"
        case complex():
            return f"complex({value.real!r}, {value.imag!r})"
    return f"{type(value).__name__}({value!r})"


@given(NESTED)
def test_a_deep_copy_has_the_same_digest(value):
    assert key_of(copy.deepcopy(value)) == key_of(value)


@given(NESTED)
def test_a_pickle_round_trip_keeps_the_digest(value):
    assert key_of(pickle.loads(pickle.dumps(value))) == key_of(value)


@given(st.dictionaries(HASHABLE, NESTED, max_size=5))
def test_the_order_of_a_dict_does_not_matter(value):
    assert key_of(dict(reversed(value.items()))) == key_of(value)


@settings(max_examples=200)
@given(FEW, FEW)
def test_two_values_have_the_same_digest_exactly_when_they_are_spelled_the_same(one, other):
    assert (key_of(one) == key_of(other)) == (spelled(one) == spelled(other))


@given(NESTED)
def test_a_value_differs_from_a_container_of_it(value):
    digests = [key_of(value), key_of([value]), key_of((value,)), key_of({"a": value}), key_of([[value]])]
    assert len(set(digests)) == 5


@given(st.lists(NESTED, max_size=4), st.integers(min_value=0, max_value=4))
def test_nesting_part_of_a_list_makes_another_list(values, position):
    nested = [*values[:position], values[position:]]
    assert key_of(nested) != key_of(values)


@pytest.mark.parametrize(
    "wrap", [lambda value: value, lambda value: [value], lambda value: {"key": [value, []]}]
)
def test_values_that_compare_equal_but_are_of_different_types_differ(wrap):
    values = [1, 1.0, True, 1 + 0j, "1", b"1", (1,), [1], {1}, frozenset({1}), {1: 1}, None, "None"]
    assert len({key_of(wrap(value)) for value in values}) == len(values)


def test_signed_zeros_differ():
    assert key_of(0.0) != key_of(-0.0)
    assert key_of([0.0]) != key_of([-0.0])
    assert key_of(complex(0.0, 0.0)) != key_of(complex(0.0, -0.0))


@pytest.mark.parametrize(
    "wrap", [lambda nan: nan, lambda nan: [nan], lambda nan: {"a": [nan, {}]}, lambda nan: {nan}]
)
@pytest.mark.parametrize(
    "bits", [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000000000001, 0xFFFFFFFFFFFFFFFF]
)
def test_all_nans_are_equal(wrap, bits):
    nan = struct.unpack("<d", struct.pack("<Q", bits))[0]
    assert key_of(wrap(nan)) == key_of(wrap(math.nan))


def test_the_parts_of_a_complex_nan_differ():
    assert key_of(complex(math.nan, 1)) == key_of(complex(-math.nan, 1))
    assert key_of(complex(math.nan, 1)) != key_of(complex(math.nan, 2))


def test_sharing_a_member_is_the_same_as_repeating_it():
    member = [1, [2]]
    assert key_of([member, member]) == key_of([member, copy.deepcopy(member)])


@pytest.mark.parametrize(
    "member",
    [{1: [2], "a": 3}, {"b": 1, "a": [2]}, {(1, 2), "a"}, frozenset({(1, 2), None}), [1]],
    ids=["dict", "names", "set", "frozenset", "list"],
)
def test_a_shared_container_is_the_same_as_its_copies(member):
    assert key_of([member, (member,)]) == key_of([member, (copy.copy(member),)])
    assert key_of([member, member]) != key_of([member, []])


def test_sharing_takes_no_time():
    doubled = [object.__new__(_Node)]
    for _ in range(200):
        doubled = [doubled, doubled]
    assert len(key_of(doubled)) == 64


class _Node:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def ring(*, size):
    nodes = [_Node(name=index) for index in range(size)]
    for index, node in enumerate(nodes):
        node.next = nodes[(index + 1) % size]
    return nodes


def test_a_cycle_ends_and_survives_a_copy():
    nodes = ring(size=3)
    assert key_of(copy.deepcopy(nodes)) == key_of(nodes)
    assert key_of(ring(size=3)) != key_of(ring(size=4))


def test_a_cycle_has_the_same_digest_from_each_place():
    nodes = ring(size=3)
    apart = [nodes[0], copy.deepcopy(nodes)[1], copy.deepcopy(nodes)[2], copy.deepcopy(nodes)[0]]
    assert key_of([*nodes, nodes[0]]) == key_of(apart)


def test_a_set_of_objects_that_refer_to_each_other_has_no_order():
    nodes = ring(size=4)
    for node in nodes:
        node.peers = set(nodes)
    assert len({key_of(copy.deepcopy(nodes[0])) for _ in range(20)}) == 1


def test_a_large_component_of_references_is_encoded_quickly():
    nodes = [_Node(name=index) for index in range(60)]
    for node in nodes:
        node.peers = nodes
    assert key_of(copy.deepcopy(nodes)) == key_of(nodes)


def test_sets_in_which_everything_refers_to_everything_are_refused(monkeypatch):
    monkeypatch.setattr(hashing, "_MOST_FORGOTTEN", 2000)  # the real limit takes seconds to reach
    nodes = [_Node(name=index) for index in range(12)]
    for node in nodes:
        node.peers = set(nodes)
    with pytest.raises(UnkeyableArgument, match="too many ways"):
        key_of(nodes)


def test_a_value_that_is_nested_too_deeply_is_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnkeyableArgument, match="nested deeper") as caught:
        key_of(deep)
    assert caught.value.path == "value"
    while deep:  # freed from the outside, since freeing it at once recurses as well
        deep = deep.pop()


def test_large_bytes_differ_in_their_last_byte():
    large = bytes(2 << 20)
    assert key_of(large) != key_of(large[:-1] + b"\x01")
    assert key_of([large]) == key_of([bytes(2 << 20)])
    assert key_of((large, b"a")) != key_of((large + b"a", b""))


@settings(max_examples=30)
@given(st.tuples(NESTED, NESTED))
def test_several_arguments_are_unambiguous(values):
    key = arguments.key(*values)
    assert key == arguments.key(*copy.deepcopy(values))
    assert key not in {
        argument.key(values),
        arguments.key(values, None),
        arguments.key([values[0]], [values[1]]),
    }
    assert len(bytes.fromhex(key)) == 32


def test_the_version_counts():
    def f(x):
        return x

    keys = [cached_job(version=version)(f).key(1) for version in (None, 1, 2, "1", [1])]
    assert len(set(keys)) == 5
    assert keys[1] == cached_job(version=1)(f).key(1)


@pytest.mark.parametrize("one", [1, [1], _Node(a=1), math.nan])
def test_an_argument_does_not_depend_on_the_others(one):
    assert arguments.key(one, math.nan) == arguments.key(copy.deepcopy(one), -math.nan)


def test_a_value_that_changed_has_another_key():
    value = [[_Node()]]
    before = key_of(value)
    value[0].append(1)
    assert key_of(value) != before


class _Keyed:
    def __init__(self, key, noise):
        self.key = key
        self.noise = noise

    def __job_key__(self):
        return self.key


class _KeyedToo(_Keyed):
    pass


def test_a_job_key_identifies_an_object():
    assert key_of(_Keyed([1], object())) == key_of(_Keyed([1], object()))
    assert key_of(_Keyed([1], None)) != key_of(_Keyed([2], None))
    assert key_of(_Keyed([1], None)) != key_of(_KeyedToo([1], None))
    assert key_of(_Keyed([1], None)) != key_of([1])


def test_a_job_key_that_is_added_after_a_refusal_is_used():
    class Late:
        def __init__(self):
            self.handle = object()

    with pytest.raises(UnkeyableArgument):
        key_of(Late())
    Late.__job_key__ = lambda self: "late"
    assert key_of(Late()) == key_of(Late())


class _Foreign:
    def __init__(self, name):
        self.name = name
        self.handle = object()


class _ForeignToo(_Foreign):
    pass


class _ForeignKeyed(_Foreign):
    def __job_key__(self):
        return "own"


def test_a_registered_hasher_applies_to_a_class_and_its_subclasses():
    register_hasher(_Foreign, lambda value: value.name)
    assert key_of(_Foreign("a")) == key_of(_Foreign("a"))
    assert key_of(_Foreign("a")) != key_of(_Foreign("b"))
    assert key_of(_ForeignToo("a")) == key_of(_ForeignToo("a"))
    assert key_of(_ForeignToo("a")) != key_of(_Foreign("a"))
    assert key_of(_ForeignKeyed("a")) == key_of(_ForeignKeyed("b"))


def test_a_hasher_is_registered_for_a_class_that_is_not_a_builtin():
    with pytest.raises(ValueError, match="int is always keyed by value"):
        register_hasher(int, str)
    with pytest.raises(TypeError, match="type_ must be a class, not "):
        register_hasher(len, str)
