"""Canonical forms of values of NumPy, torch and pyarrow, independent of their memory layout.

Values of pyarrow are taken apart into the content of their buffers, independent of chunks, slices, and the memory
behind missing values. The Python objects of `to_pylist` would be slower and can't represent every value.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Final

from .canonical import Attributes, ByName, CanonicalForm, Content, Parts, refuse
from .names import holder_of, is_own_module, qualified_name, words

_BLOCK: Final = 1 << 26
"""Largest block in bytes that is copied at a time, if an array is not in C order or contains a NaN."""

MASKED_INTERNAL: Final = words(
    "_mask _fill_value _hardmask _sharedmask _isfield _baseclass _optinfo _basedict"
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


def arrow_column(chunks: Sequence[Any], dtype: Any) -> object:
    """Return type and values of a column that consists of these arrays."""
    return Parts({"type": _arrow_type(dtype), "content": _arrow_content(chunks, dtype)})


def arrow_text(chunks: Sequence[Any]) -> object:
    """Return the present elements of arrays of text or bytes, as joined bytes and lengths."""
    lengths, texts = [], []
    for chunk in chunks:
        present = _present(chunk)
        _, offsets, text = present.buffers()
        if len(present):
            width = "i8" if str(present.type).startswith("large_") else "i4"
            bounds = _numbers(offsets, width, present.offset, len(present) + 1)
            lengths.append(bounds[1:] - bounds[:-1])
            texts.append(memoryview(text or b"")[bounds[0] : bounds[-1]])
    return text_parts(_long(lengths), texts)


def text_parts(lengths: Any, texts: Sequence[bytes | memoryview]) -> object:
    """Make the canonical form of texts from their lengths and their bytes."""
    content = Content(sum(map(len, texts)), texts)
    return Parts({"lengths": array_parts(lengths), "text": content})


def _arrow_type(dtype: Any) -> object:
    """Return the parameters of a type; a type without any is determined by its text: `timestamp[ns, tz=UTC]`."""
    names = [name for name in _PARTS_OF_TYPES if hasattr(dtype, name)]
    if not dtype.num_fields and not names:
        return str(dtype)
    parts = {name: getattr(dtype, name) for name in names}
    if "extension_name" in parts and hasattr(dtype, "__arrow_ext_serialize__"):
        parts["serialized"] = dtype.__arrow_ext_serialize__()
    elif "extension_name" in parts:
        parts["text"] = str(dtype)  # the text of Arrow's own types names all parameters
    fields = _arrow_fields([dtype.field(place) for place in range(dtype.num_fields)])
    return Parts({"class": type(dtype).__name__, "fields": fields, **parts})


_PARTS_OF_TYPES: Final = words(
    "extension_name index_type keys_sorted list_size ordered storage_type type_codes value_type"
)


def _arrow_fields(fields: Sequence[Any]) -> object:
    return Parts(
        {
            "names": [field.name for field in fields],
            "types": [_arrow_type(field.type) for field in fields],
            "nullable": [field.nullable for field in fields],
            "metadata": [field.metadata for field in fields],
        }
    )


def _arrow_schema(schema: Any) -> object:
    return Parts({"fields": _arrow_fields(list(schema)), "metadata": schema.metadata})


def _arrow_table(table: Any) -> object:
    chunked = [column.chunks if hasattr(column, "chunks") else [column] for column in table.columns]
    columns = [
        _arrow_content(chunks, dtype) for chunks, dtype in zip(chunked, table.schema.types, strict=True)
    ]
    return Parts({"schema": _arrow_schema(table.schema), "columns": columns, "rows": table.num_rows})


def _arrow_scalar(scalar: Any) -> object:
    return arrow_column([sys.modules["pyarrow"].repeat(scalar, 1)], scalar.type)


def _arrow_content(chunks: Sequence[Any], dtype: Any) -> object:
    types: Any = sys.modules["pyarrow"].types
    for is_of_kind, take_apart in _KINDS.items():
        if getattr(types, is_of_kind)(dtype):
            return take_apart(chunks, dtype)
    if hasattr(dtype, "extension_name"):
        return _arrow_content([chunk.storage for chunk in chunks], dtype.storage_type)
    return _fixed_width(chunks, dtype)


def _inner(chunks: Sequence[Any], dtype: Any) -> object:
    """Return the content of inner arrays; empty ones are dropped, since they may lack their dictionary."""
    return _arrow_content([chunk for chunk in chunks if len(chunk)], dtype)


def _null(chunks: Sequence[Any], _dtype: Any) -> object:
    return sum(map(len, chunks))


def _fixed_width(chunks: Sequence[Any], dtype: Any) -> object:
    """Return the bytes of numbers, times and the like, with zeros for missing ones."""
    width = dtype.bit_width
    number = f"u{width // 8}" if width in {8, 16, 32, 64} else f"({width // 8},)u1"
    kind = _KINDS_OF_NUMBERS.get(str(dtype), number)
    arrays = []
    for chunk in chunks:
        if kind == "?":
            numbers = chunk.fill_null(fill_value=False).to_numpy(zero_copy_only=False)
        else:
            numbers = _numbers(chunk.buffers()[1], kind, chunk.offset, len(chunk))
            if chunk.null_count:
                numbers = numbers.copy()
                numbers[_is_null(chunk)] = 0
        arrays.append(numbers)
    return Parts({"missing": _missing(chunks), "values": array_parts(_joined(arrays, kind))})


_KINDS_OF_NUMBERS: Final = {"bool": "?", "halffloat": "f2", "float": "f4", "double": "f8"}


def _text(chunks: Sequence[Any], _dtype: Any) -> object:
    return Parts({"missing": _missing(chunks), "text": arrow_text(chunks)})


def _views(chunks: Sequence[Any], dtype: Any) -> object:
    pa: Any = sys.modules["pyarrow"]
    plain = pa.large_binary()
    try:
        return _text([chunk.cast(plain) for chunk in chunks], dtype)
    except NotImplementedError:  # in older versions
        return _text([pa.array(chunk.to_pylist(), plain) for chunk in chunks], dtype)


def _lists(chunks: Sequence[Any], dtype: Any) -> object:
    lengths = [chunk.value_lengths().fill_null(0).to_numpy() for chunk in chunks]
    items = _inner([chunk.flatten() for chunk in chunks], dtype.value_type)
    return Parts({"missing": _missing(chunks), "lengths": array_parts(_long(lengths)), "items": items})


def _maps(chunks: Sequence[Any], dtype: Any) -> object:
    lengths, keys, items = [], [], []
    for chunk in filter(len, chunks):
        bounds = chunk.offsets.to_numpy()
        counts = bounds[1:] - bounds[:-1]
        inner = chunk.keys[bounds[0] : bounds[-1]], chunk.items[bounds[0] : bounds[-1]]
        if chunk.null_count and counts[missing := _is_null(chunk)].any():
            places = (~missing).repeat(counts).nonzero()[0]
            inner = _taken(inner[0], places), _taken(inner[1], places)
            counts = counts * ~missing
        lengths.append(counts)
        keys.append(inner[0])
        items.append(inner[1])
    parts = {"keys": _inner(keys, dtype.key_type), "items": _inner(items, dtype.item_type)}
    return Parts({"missing": _missing(chunks), "lengths": array_parts(_long(lengths)), **parts})


def _structures(chunks: Sequence[Any], dtype: Any) -> object:
    children = [chunk.flatten() for chunk in chunks]  # children are missing where the structure is
    fields = [
        _inner([child[place] for child in children], dtype.field(place).type)
        for place in range(dtype.num_fields)
    ]
    return Parts({"missing": _missing(chunks), "length": sum(map(len, chunks)), "fields": fields})


def _unions(chunks: Sequence[Any], dtype: Any) -> object:
    """Return the type codes of a union and, for each code, the elements that have it."""
    codes = [_numbers(chunk.buffers()[1], "i1", chunk.offset, len(chunk)) for chunk in chunks]
    fields = []
    for place, code in enumerate(dtype.type_codes):
        members = [_members(chunk, place, here == code) for chunk, here in zip(chunks, codes, strict=True)]
        fields.append(_inner(members, dtype.field(place).type))
    return Parts({"codes": array_parts(_joined(codes, "i1")), "fields": fields})


def _members(chunk: Any, place: int, is_member: Any) -> Any:
    places = is_member.nonzero()[0]
    if chunk.type.mode == "dense":
        places = _numbers(chunk.buffers()[2], "i4", chunk.offset, len(chunk))[places]
    return _taken(chunk.field(place), places)


def _dictionaries(chunks: Sequence[Any], dtype: Any) -> object:
    """Return indices and the dictionary, or the values if the chunks have different dictionaries."""
    shown = [chunk for chunk in chunks if len(chunk)] or chunks[:1]
    dictionaries = [chunk.dictionary for chunk in shown]
    if all(dictionary.equals(dictionaries[0]) for dictionary in dictionaries[1:]):
        indices = _arrow_content([chunk.indices for chunk in shown], dtype.index_type)
        return Parts({"indices": indices, "dictionary": _arrow_content(dictionaries[:1], dtype.value_type)})
    values = [chunk.dictionary.take(chunk.indices) for chunk in shown]
    return Parts({"values": _arrow_content(values, dtype.value_type)})


def _runs(chunks: Sequence[Any], dtype: Any) -> object:
    """Return the decoded values of a run-end encoding; how equal values are divided into runs doesn't count."""
    import numpy as np

    values = []
    for chunk in chunks:
        places = np.arange(chunk.offset, chunk.offset + len(chunk))
        runs = np.searchsorted(chunk.run_ends.to_numpy(), places, side="right")
        values.append(_taken(chunk.values, runs))
    return _inner(values, dtype.value_type)


_KINDS: Final[dict[str, Callable[[Sequence[Any], Any], object]]] = {
    "is_null": _null,
    "is_binary": _text,
    "is_large_binary": _text,
    "is_string": _text,
    "is_large_string": _text,
    "is_binary_view": _views,
    "is_string_view": _views,
    "is_map": _maps,
    "is_list": _lists,
    "is_large_list": _lists,
    "is_fixed_size_list": _lists,
    "is_list_view": _lists,
    "is_large_list_view": _lists,
    "is_struct": _structures,
    "is_union": _unions,
    "is_dictionary": _dictionaries,
    "is_run_end_encoded": _runs,
}
"""The content of arrays, by the test in `pyarrow.types` that their type passes."""


def _present(chunk: Any) -> Any:
    return chunk.drop_null() if chunk.null_count else chunk


def _taken(array: Any, places: Any) -> Any:
    pa: Any = sys.modules["pyarrow"]
    try:
        return array.take(pa.array(places))
    except NotImplementedError:  # not implemented for views of text
        return pa.concat_arrays([array[:0], *(array[place : place + 1] for place in places.tolist())])


def _is_null(chunk: Any) -> Any:
    return chunk.is_null().to_numpy(zero_copy_only=False)


def _missing(chunks: Sequence[Any]) -> object:
    if not any(chunk.null_count for chunk in chunks):
        return None
    return array_parts(_joined([_is_null(chunk) for chunk in chunks], "?"))


def _numbers(buffer: Any, kind: str, start: int, length: int) -> Any:
    """View a buffer as numbers; an empty array may have no buffer."""
    import numpy as np

    dtype = np.dtype(kind)
    if buffer is None or not length or not dtype.itemsize:
        return np.zeros(length, dtype)
    return np.frombuffer(buffer, dtype, length, start * dtype.itemsize)


def _long(lengths: Sequence[Any]) -> Any:
    return _joined(lengths, "i8").astype("i8", copy=False)


def _joined(arrays: Sequence[Any], kind: str) -> Any:
    import numpy as np

    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.zeros(0, kind)


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
    "pyarrow.Array": CanonicalForm(lambda array: arrow_column([array], array.type), sealed=True),
    "pyarrow.ChunkedArray": CanonicalForm(lambda column: arrow_column(column.chunks, column.type)),
    "pyarrow.Table": CanonicalForm(_arrow_table),
    "pyarrow.RecordBatch": CanonicalForm(_arrow_table),
    "pyarrow.Scalar": CanonicalForm(_arrow_scalar, sealed=True),
    "pyarrow.Schema": CanonicalForm(_arrow_schema),
    "pyarrow.Field": CanonicalForm(lambda field: _arrow_fields([field])),
    "pyarrow.DataType": CanonicalForm(_arrow_type, sealed=True),
    "pyarrow.Buffer": CanonicalForm(
        lambda buffer: Content(buffer.size, (memoryview(buffer),)), leaf=True, sealed=True
    ),
}
"""Canonical forms by the `rooted_name` of a class."""
