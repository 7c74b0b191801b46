import copy
import pickle

import pytest

from bencher_job import UnkeyableArgument

from .keys import key_of

torch = pytest.importorskip("torch")


def test_the_storage_of_a_tensor_does_not_count():
    whole = torch.arange(12.0).reshape(3, 4)
    assert key_of(whole[1]) == key_of(whole[1].clone())
    assert key_of(whole.T) == key_of(whole.T.contiguous())
    assert key_of(whole[:, ::2]) == key_of(whole[:, ::2].clone())
    assert key_of(whole[1].expand(2, 4)) == key_of(torch.stack([whole[1], whole[1]]))
    assert key_of(torch.view_as_complex(whole.reshape(-1, 2)).conj()) == key_of(
        torch.view_as_complex(whole.reshape(-1, 2)).conj().resolve_conj()
    )


def test_values_dtype_shape_and_gradient_count():
    values = [
        torch.zeros(4),
        torch.ones(4),
        torch.zeros(2, 2),
        torch.zeros(4, dtype=torch.float64),
        torch.zeros(4, dtype=torch.bfloat16),
        torch.zeros(4, dtype=torch.float16),
        torch.zeros(4, requires_grad=True),
        torch.nn.Parameter(torch.zeros(4)),
        torch.zeros(4).numpy(),
        torch.zeros(()),
        torch.zeros(0),
        -torch.zeros(4),
        torch.float32,
        torch.device("cpu"),
        torch.Size([4]),
    ]
    assert len(set(map(key_of, values))) == len(values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_all_nans_are_equal(dtype):
    one = torch.tensor([1.0, float("nan")], dtype=dtype)
    assert key_of(one) == key_of(torch.tensor([1.0, -float("nan")], dtype=dtype))


def test_functions_of_torch_written_in_c_differ():
    assert key_of(torch.nn.functional.gelu) != key_of(torch.nn.functional.softplus)


def test_a_module_counts_by_its_parameters_and_its_state():
    layer = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    copied = copy.deepcopy(layer)
    assert key_of(copied) == key_of(layer) == key_of(pickle.loads(pickle.dumps(layer)))
    with torch.no_grad():
        copied[0].weight[0, 0] += 1
    assert key_of(copied) != key_of(layer)
    assert key_of(copy.deepcopy(layer).eval()) != key_of(layer)


def test_a_generator_counts_by_its_state():
    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert key_of(one) == key_of(other)
    torch.rand(1, generator=one)
    assert key_of(one) != key_of(other)


def noted(tensor, **attributes):
    for name, attribute in attributes.items():
        setattr(tensor, name, attribute)
    return tensor


@pytest.mark.parametrize("make", [torch.zeros, lambda size: torch.nn.Parameter(torch.zeros(size))])
def test_the_attributes_of_a_tensor_count(make):
    values = [
        make(2),
        noted(make(2), unit="m"),
        noted(make(2), unit="s"),
        noted(make(2), unit="m", axis="x"),
        noted(make(2), _private=1),
    ]
    assert len(set(map(key_of, values))) == len(values)
    for value in values:
        for copied in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            assert (key_of(copied) == key_of(value)) == (
                vars(copied) == vars(value)
            )  # a parameter loses them


NUMBERS = [
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.uint16, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_each_element_of_each_dtype_counts(dtype):
    values = [torch.tensor(elements).to(dtype) for elements in ([0, 1], [1, 0], [1, 1], [0, 0], [1], [])]
    values += [value.reshape(-1, 1) for value in values]
    assert len(set(map(key_of, values))) == len(values)
    assert len({key_of(torch.zeros(2).to(dtype)) for dtype in NUMBERS}) == len(NUMBERS)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors:UserWarning")
def test_a_tensor_that_keeps_its_elements_elsewhere_is_refused():
    masked = torch.masked.masked_tensor(torch.zeros(2), torch.tensor([True, False]))
    with pytest.raises(UnkeyableArgument):
        key_of(masked)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.empty(2, device="meta"),
        lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]),
        lambda: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)], layout=torch.jagged),
    ],
)
def test_a_tensor_without_plain_content_is_refused(make):
    with pytest.raises(UnkeyableArgument):
        key_of(make())
