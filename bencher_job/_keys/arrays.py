"""Canonical forms of values of NumPy and torch, independent of their memory layout."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from .canonical import Attributes, ByName, CanonicalForm, Content, Parts, refuse
from .names import holder_of, is_own_module, qualified_name

__all__ = ["ARRAYS", "MASKED_INTERNAL", "array_parts"]


_BLOCK: Final = 1 << 26
"""Largest block in bytes that is copied at a time, if an array is not in C order or contains a NaN."""

MASKED_INTERNAL: Final = frozenset(
    {"_mask", "_fill_value", "_hardmask", "_sharedmask", "_isfield", "_baseclass", "_optinfo", "_basedict"}
)


def array_parts(array: Any) -> object:
    """Return dtype, shape and content of a numpy array, independent of the byte order.

    The byte order is part of the memory layout: numpy's own pickle doesn't keep it.
    """
    import numpy as np

    array = np.asarray(array)
    return Parts({"dtype": _dtype(array.dtype), "shape": array.shape, "content": _content(array)})


def _dtype(dtype: Any) -> object:
    if (
        not dtype.metadata
    ):  # older versions of numpy replace None by an empty dict when they unpickle a datetime64
        return _plain_dtype(dtype)
    return Parts({"dtype": _plain_dtype(dtype), "metadata": Attributes(metadata=dict(dtype.metadata))})


def _plain_dtype(dtype: Any) -> object:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return "subarray", _dtype(base), shape
    if dtype.names is not None:
        fields = [(name, _dtype(field[0]), *field[1:]) for name, field in _fields(dtype)]
        return "structure", qualified_name(dtype.type), dtype.itemsize, dtype.isalignedstruct, fields
    if dtype.kind in "biufcmMOSU" or (dtype.kind == "V" and dtype.type.__module__ == "numpy"):
        return dtype.newbyteorder("<").str
    options = {name: getattr(dtype, name) for name in ("na_object", "coerce") if hasattr(dtype, name)}
    return dtype.str if dtype.kind != "T" else "|T", qualified_name(dtype.type), Parts(options)


def _fields(dtype: Any) -> list[tuple[str, tuple[Any, ...]]]:
    return [(name, dtype.fields[name]) for name in dtype.names]


def _content(array: Any) -> object:
    dtype = array.dtype
    if dtype.names is not None:
        return Attributes({name: _content(array[name]) for name in dtype.names})
    if dtype.hasobject or dtype.kind == "T":
        return array.ravel().tolist()
    return Content(array.nbytes, _blocks(array))


def _blocks(array: Any) -> Iterator[memoryview]:
    """Yield an array's bytes in C order, without a copy if it is C-contiguous, else block by block."""
    import numpy as np

    if array.nbytes == 0:
        return
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        length = max(1, _BLOCK // array.itemsize)
        for start in range(0, flat.size, length):
            yield _canonical(flat[start : start + length])
    elif array.nbytes <= _BLOCK:
        yield _canonical(np.ascontiguousarray(array).reshape(-1))
    else:
        rows = max(1, _BLOCK * len(array) // array.nbytes)
        for start in range(0, len(array), rows):
            yield from _blocks(array[start] if rows == 1 else array[start : start + rows])


def _canonical(block: Any) -> memoryview:
    """Return a flat block's bytes, little-endian, with one NaN and zeros in the padding of long doubles."""
    import numpy as np

    if block.dtype.str[0] == ">":
        block = block.astype(block.dtype.newbyteorder("<"))
    if block.dtype.kind in "fc":
        reals = block.view(block.real.dtype)
        with np.errstate(invalid="ignore"):
            has_nan = np.isnan(reals.min())  # `min` needs no memory for a mask
        extended = reals.dtype.itemsize > 8
        if extended or has_nan:
            reals = reals.copy()
            reals[np.isnan(reals)] = np.nan
        if extended and np.finfo(reals.dtype).nmant == 63:
            reals.view(np.uint8).reshape(-1, reals.dtype.itemsize)[:, 10:] = 0
        block = reals
    return memoryview(block.view(np.uint8))


def _scalar(scalar: Any) -> object:
    dtype = scalar.dtype
    short = dtype.kind in "biumMSU" or (dtype.kind == "f" and dtype.itemsize <= 8 and not math.isnan(scalar))
    if short and sys.byteorder == "little":
        return dtype.str, scalar.tobytes()
    if dtype.kind not in "biumMSUfc":
        return array_parts(scalar)
    import numpy as np

    return _dtype(dtype), b"".join(_blocks(np.asarray(scalar)))


def _dtype_itself(dtype: Any) -> object:
    return _dtype(dtype), _orders(dtype)


def _orders(dtype: Any) -> object:
    """Return the byte orders in a dtype: a dtype itself describes memory."""
    base = dtype.base
    if base.names is not None:
        return [_orders(field[0]) for _, field in _fields(base)]
    return base.str


def _masked(array: Any) -> object:
    """Return the visible elements, the mask, and the fill value; masked elements don't count."""
    import numpy as np

    base = np.ndarray if issubclass(array.baseclass, np.memmap) else array.baseclass
    return Parts(
        {
            "content": _shown(np.asarray(np.ma.getdata(array)), np.asarray(np.ma.getmaskarray(array))),
            "dtype": _dtype(array.dtype),
            "fill": array.view().fill_value,  # a view, since reading `fill_value` sets the default on the array
            "hard": array.hardmask,
            "base": ByName(base),
        }
    )


def _shown(data: Any, mask: Any) -> object:
    import numpy as np

    if data.dtype.names is not None:
        return Attributes({name: _shown(data[name], mask[name]) for name in data.dtype.names})
    data = np.array(data)
    data[mask] = None if data.dtype.kind == "O" else np.zeros((), data.dtype)
    return Parts({"data": array_parts(data), "mask": array_parts(mask)})


@functools.lru_cache(maxsize=1024)
def _ufunc(function: Any) -> object:
    """Return module and name of a ufunc, since NumPy and SciPy have different ones of the same name."""
    name = function.__name__
    module = holder_of(function, name, ("numpy", "scipy.special"))
    is_made = module is not None and _is_own_python(
        sys.modules[module]
    )  # as by numba, for the target "parallel"
    if is_made or name.endswith(" (vectorized)"):
        reason = "it hides its Python function; pass that, or use numpy.vectorize"
        raise refuse(type(function), reason)
    if module is None:
        raise refuse(type(function), f"no module holds it under its name {name!r}")
    return module, name


def _is_own_python(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None) or "__main__.py"
    return file.endswith((".py", ".pyc")) and is_own_module(module)


def _random_state(generator: Any) -> object:
    """Return the state of a generator; the shared one behind `numpy.random.rand` counts by name."""
    return "numpy.random" if generator is _shared() else generator.get_state(legacy=False)


def _shared() -> Any:
    return getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)


def _bit_generator(generator: Any) -> object:
    if generator is getattr(_shared(), "_bit_generator", None):
        return "numpy.random"
    return Attributes(state=generator.state, seed_seq=getattr(generator, "seed_seq", None))


def _torch_generator(generator: Any) -> object:
    shared = generator is sys.modules["torch"].default_generator
    return "torch.random" if shared else (str(generator.device), generator.get_state())


def _tensor(tensor: Any) -> object:
    torch: Any = sys.modules["torch"]
    odd = tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized
    if odd or tensor.device.type == "meta":
        reason = "sparse, nested, quantized and meta tensors are not supported; pass a dense one"
        raise refuse(type(tensor), reason)
    if not _has_memory(tensor):
        raise refuse(type(tensor), "its elements are in tensors inside it; pass those")
    dense = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    if (dense.is_floating_point() or dense.is_complex()) and bool((nans := torch.isnan(dense)).any()):
        parts = torch.view_as_real(dense) if dense.is_complex() else dense
        nans = torch.isnan(parts)
        dense = torch.where(nans, torch.full_like(parts, math.nan), parts)
    nbytes = dense.numel() * dense.element_size()
    return Parts(
        {
            "dtype": str(tensor.dtype),
            "shape": tuple(tensor.shape),
            "device": tensor.device.type,
            "requires_grad": tensor.requires_grad,
            "content": Content(nbytes, _memory(dense, nbytes)),
        }
    )


def _has_memory(tensor: Any) -> bool:
    try:
        return tensor.numel() == 0 or bool(tensor.data_ptr())
    except RuntimeError:
        return False


def _memory(tensor: Any, nbytes: int) -> Iterator[memoryview]:
    """Yield a tensor's bytes without a copy; numpy lacks some of torch's dtypes."""
    if nbytes:
        import ctypes  # slow to import, and only tensors need it

        yield memoryview((ctypes.c_ubyte * nbytes).from_address(tensor.data_ptr())).cast("B")


ARRAYS: Final = {
    "numpy.ndarray": CanonicalForm(array_parts),
    "numpy.memmap": CanonicalForm(array_parts, label="numpy.ndarray"),
    "numpy.MaskedArray": CanonicalForm(_masked, sealed=True, internal=MASKED_INTERNAL, is_open=True),
    "numpy.MaskedConstant": CanonicalForm(lambda constant: (), leaf=True),  # noqa: ARG005
    "numpy.generic": CanonicalForm(_scalar, leaf=True, sealed=True),
    "numpy.ufunc": CanonicalForm(_ufunc, leaf=True),
    "numpy.dtype": CanonicalForm(_dtype_itself, leaf=True, sealed=True),
    "numpy.Generator": CanonicalForm(lambda generator: Attributes(bit_generator=generator.bit_generator)),
    "numpy.BitGenerator": CanonicalForm(_bit_generator),
    "numpy.SeedSequence": CanonicalForm(lambda sequence: sequence.state),
    "numpy.RandomState": CanonicalForm(_random_state),
    "numpy.busdaycalendar": CanonicalForm(lambda days: (days.weekmask, days.holidays)),
    "torch.Tensor": CanonicalForm(_tensor, is_open=True),
    "torch.Generator": CanonicalForm(_torch_generator),
}
"""Canonical forms by the `rooted_name` of a class."""
