"""Making a key raises only `UnkeyableArgument`, whatever the class of a value does, and the error names the place."""

import collections
import copyreg
import re
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bencher_job import UnkeyableArgument, cached_job

from .keys import arguments, key_of


class Odd(Exception):
    def __str__(self):
        raise RuntimeError("not even a text")


ERRORS = (
    *(ValueError, AttributeError, TypeError, KeyError, RuntimeError, StopIteration, RecursionError, OSError),
    *(ImportError, NotImplementedError, AssertionError, UnicodeError, UnkeyableArgument, Odd),
)


def raising(error):
    def method(*_args, **_kwargs):
        raise error("a", "b", "c") if error is UnkeyableArgument else error("hostile")

    return method


def returning(value):
    return lambda *_args, **_kwargs: value


JUNK = st.sampled_from(
    [
        None,
        0,
        -1,
        3.5,
        "",
        "text",
        b"b",
        (),
        (1,),
        (1, 2),
        (None, None),
        [],
        {},
        {1},
        object,
        len,
        ...,
        NotImplemented,
        10**30,
    ]
)
BEHAVIOUR = st.one_of(st.sampled_from(ERRORS).map(raising), JUNK.map(returning))
METHODS = [
    f"__{name}__"
    for name in re.findall(
        r"\w+",
        """
        reduce_ex reduce getstate getattr getattribute eq ne hash len iter bool getitem contains next call repr str
        format index int float lt dir copy deepcopy array sizeof instancecheck subclasscheck fspath get set
        """,
    )
]
PROPERTIES = re.findall(
    r"\w+",
    """
    __class__ __module__ __dict__ __qualname__ __name__ __wrapped__ __self__ __func__ __reduce_ex__ __code__ __doc__
    dtype shape _fields __dataclass_fields__ __pydantic_extra__ __slots__
    """,
)
BASES = st.sampled_from(
    [
        (),
        *((base,) for base in (dict, list, tuple, set, frozenset, str, bytes, int, float, Exception)),
        *((base,) for base in (np.ndarray, collections.OrderedDict, collections.deque)),
        *((base,) for base in (types.SimpleNamespace, types.ModuleType)),
    ]
)


def made(cls):
    """An object of a hostile class, if the class can be instantiated."""
    base = next((base for base in cls.__mro__ if not base.__flags__ & (1 << 9)), object)
    args = {np.ndarray: ((2,),), types.ModuleType: ("hostile",)}.get(base, ())
    try:
        value = base.__new__(cls, *args)
        if base is types.ModuleType:
            base.__init__(value, "hostile")
        return value
    except Exception:
        return None


@st.composite
def hostile(draw):
    metas = draw(st.dictionaries(st.sampled_from(METHODS), BEHAVIOUR, max_size=2))
    metas = {
        name: method
        for name, method in metas.items()
        if name not in {"__getattribute__", "__call__", "__set__"}
    }
    members = draw(st.dictionaries(st.sampled_from(METHODS), BEHAVIOUR, max_size=4))
    for name, get in draw(st.dictionaries(st.sampled_from(PROPERTIES), BEHAVIOUR, max_size=3)).items():
        members[name] = property(get)
    members |= draw(st.dictionaries(st.sampled_from(["__module__", "__doc__", "_fields"]), JUNK, max_size=1))
    try:
        meta = type("Meta", (type,), metas) if metas else type
        cls = type.__new__(meta, "Hostile", draw(BASES), members)
    except Exception:
        return lambda: None
    value = made(cls)
    if draw(st.booleans()):
        try:
            object.__setattr__(value, "attribute", draw(JUNK))
        except Exception:
            pass
    return lambda: value  # hypothesis would read the value


def places(value):
    yield value, "value"
    yield [1, value], "value[1]"
    yield {"a": (value,)}, "value['a'][0]"
    yield types.SimpleNamespace(a=value), "value.a"
    yield collections.deque([value]), "value"


SETTINGS = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def refusal(make, *args):
    """Return the key or the refusal; any other exception fails the test."""
    try:
        make(*args)
    except UnkeyableArgument as error:
        return error
    return None


def is_whole(error):
    return bool(error.path and error.reason and str(error)) and type(error.type_name) is str


@SETTINGS
@given(hostile())
def test_hostile_objects_are_keyed_or_refused(make):
    value = make()
    for wrapped, path in places(value):
        refused = refusal(key_of, wrapped)
        if refused is not None:
            assert is_whole(refused)
            assert refused.path.startswith(path) or "recursion" in refused.reason
        refused = refusal(arguments.sweep({"other": [1, 2], "cfg": [wrapped]}).plan)
        assert refused is None or refused.path.startswith("cfg")


@SETTINGS
@given(hostile())
def test_hostile_objects_in_what_a_function_reads_are_keyed_or_refused(make):
    value = holder = make()

    def closing():
        return holder

    def default(argument=value):
        return argument

    def keyed(function):
        return cached_job(function).key()

    refusal(keyed, closing)
    refusal(keyed, default)
    refusal(lambda: keyed(closing) == keyed(closing))


@SETTINGS
@given(
    st.one_of(
        JUNK,
        st.tuples(JUNK, JUNK),
        st.tuples(st.just(list), st.just(()), JUNK),
        st.tuples(st.just(list), st.just(()), JUNK, JUNK, JUNK),
        st.tuples(st.just(copyreg.__newobj__), JUNK, JUNK, JUNK, JUNK),
        st.tuples(JUNK, JUNK, JUNK, JUNK, JUNK, JUNK, JUNK),
    )
)
def test_malformed_reductions_are_keyed_or_refused(reduction):
    class Reducing:
        def __reduce_ex__(self, _protocol):
            return reduction

    for wrapped, _ in places(Reducing()):
        refusal(key_of, wrapped)


@pytest.mark.parametrize(
    "reduction", [None, 3, [], (), (list,), (list, None), (list, [1]), (list, (), 1, 2, 3, 4, 5)]
)
def test_a_reduction_that_pickle_rejects_is_refused(reduction):
    class Reducing:
        def __reduce_ex__(self, _protocol):
            return reduction

    with pytest.raises(UnkeyableArgument, match="__reduce_ex__") as caught:
        key_of({"a": [Reducing()]})
    assert caught.value.path == "value['a'][0]"
    assert caught.value.type_name.endswith("Reducing")


@pytest.mark.parametrize("module", [None, 3, ["unhashable"], b"bytes", property(lambda self: 1 / 0)])
def test_a_class_whose_module_is_not_a_str_has_a_key(module):
    class Placed:
        __module__ = module

        def __init__(self, x):
            self.x = x

    class Other:
        __module__ = module

        def __init__(self, x):
            self.x = x

    assert key_of(Placed(1)) == key_of(Placed(1))
    assert key_of(Placed(1)) != key_of(Placed(2))
    assert key_of(Placed(1)) != key_of(Other(1))
    assert key_of(Placed) != key_of(Other)


def test_the_code_of_a_class_without_a_module_counts():
    def make(method):
        return type("Placed", (), {"__module__": None, "method": method})()

    assert key_of(make(lambda self: 1)) == key_of(make(lambda self: 1))
    assert key_of(make(lambda self: 1)) != key_of(make(lambda self: 2))


class Raises:
    def __init__(self, error):
        self.error = error

    def __reduce_ex__(self, _protocol):
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), SystemExit(3)])
def test_an_interrupt_is_raised_unchanged(error):
    with pytest.raises(type(error)):
        key_of([Raises(error)])


class Keyed:
    def __init__(self, error):
        self.error = error

    def __job_key__(self):
        raise self.error from KeyError("its own cause")


@pytest.mark.parametrize(
    "error", [LookupError("mine"), TypeError("mine"), UnkeyableArgument("a", "b.C", "mine")]
)
def test_an_error_of_a_job_key_reaches_the_caller_with_a_note(error):
    with pytest.raises(type(error), match="mine") as caught:
        key_of({"a": [Keyed(error)]})
    assert caught.value is error
    assert isinstance(error.__cause__, KeyError)
    assert any("Keyed.__job_key__" in note for note in error.__notes__)


def test_recursion_is_refused():
    class Deep:
        def __reduce_ex__(self, _protocol):
            return list, (), None, None, [(1, Deep())]

    with pytest.raises(UnkeyableArgument, match="recursion limit"):
        key_of(Deep())


def test_recursion_in_what_a_function_reads_is_refused():
    nested = staticmethod(len)
    for _ in range(1000):
        nested = staticmethod(nested)

    def reads():
        return nested

    for make in (cached_job(reads).key, lambda: key_of([reads])):
        with pytest.raises(UnkeyableArgument, match=r"reads.*recursion limit"):
            make()


def test_an_error_of_a_job_key_in_what_a_function_reads_reaches_the_caller():
    value = [Keyed(LookupError("mine"))]
    with pytest.raises(LookupError, match="mine"):
        cached_job(lambda: value).key()
