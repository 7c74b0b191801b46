"""Canonical forms of values of pyarrow: their types and the content of their buffers.

Equal values have equal forms, independent of chunks, slices, and the memory behind missing values. The Python objects
of `to_pylist` would be slower and can't represent every value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from .arrays import array_parts
from .canonical import CanonicalForm, Content, Parts, refuse

__all__ = ["ARROW", "arrow_column", "arrow_text", "text_parts"]


def arrow_column(chunks: Sequence[Any], dtype: Any) -> object:
    """Return type and values of a column that consists of these arrays."""
    return Parts({"type": _type(dtype), "content": _content(chunks, dtype)})


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


def _type(dtype: Any) -> object:
    """Return the parameters of a type; a type without any is determined by its text: `timestamp[ns, tz=UTC]`."""
    names = [name for name in _PARTS_OF_TYPES if hasattr(dtype, name)]
    if not dtype.num_fields and not names:
        return str(dtype)
    parts = {name: getattr(dtype, name) for name in names}
    if "extension_name" in parts and hasattr(dtype, "__arrow_ext_serialize__"):
        parts["serialized"] = dtype.__arrow_ext_serialize__()
    elif "extension_name" in parts:
        parts["text"] = str(dtype)  # the text of Arrow's own types names all parameters
    fields = _fields([dtype.field(place) for place in range(dtype.num_fields)])
    return Parts({"class": type(dtype).__name__, "fields": fields, **parts})


_PARTS_OF_TYPES: Final = (
    "extension_name",
    "index_type",
    "keys_sorted",
    "list_size",
    "ordered",
    "storage_type",
    "type_codes",
    "value_type",
)


def _fields(fields: Sequence[Any]) -> object:
    return Parts(
        {
            "names": [field.name for field in fields],
            "types": [_type(field.type) for field in fields],
            "nullable": [field.nullable for field in fields],
            "metadata": [field.metadata for field in fields],
        }
    )


def _schema(schema: Any) -> object:
    return Parts({"fields": _fields(list(schema)), "metadata": schema.metadata})


def _table(table: Any) -> object:
    chunked = [column.chunks if hasattr(column, "chunks") else [column] for column in table.columns]
    columns = [_content(chunks, dtype) for chunks, dtype in zip(chunked, table.schema.types, strict=True)]
    return Parts({"schema": _schema(table.schema), "columns": columns, "rows": table.num_rows})


def _scalar(scalar: Any) -> object:
    return arrow_column([sys.modules["pyarrow"].repeat(scalar, 1)], scalar.type)


def _content(chunks: Sequence[Any], dtype: Any) -> object:
    types: Any = sys.modules["pyarrow"].types
    for is_of_kind, take_apart in _KINDS.items():
        if getattr(types, is_of_kind)(dtype):
            return take_apart(chunks, dtype)
    if hasattr(dtype, "extension_name"):
        return _content([chunk.storage for chunk in chunks], dtype.storage_type)
    return _fixed_width(chunks, dtype)


def _inner(chunks: Sequence[Any], dtype: Any) -> object:
    """Return the content of inner arrays; empty ones are dropped, since they may lack their dictionary."""
    return _content([chunk for chunk in chunks if len(chunk)], dtype)


def _null(chunks: Sequence[Any], _dtype: Any) -> object:
    return sum(map(len, chunks))


def _fixed_width(chunks: Sequence[Any], dtype: Any) -> object:
    """Return the bytes of numbers, times and the like, with zeros for missing ones."""
    try:
        width = dtype.bit_width
    except ValueError:
        raise refuse(type(dtype), f"arrays of the type {dtype} are not supported; cast it") from None
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
        indices = _content([chunk.indices for chunk in shown], dtype.index_type)
        return Parts({"indices": indices, "dictionary": _content(dictionaries[:1], dtype.value_type)})
    values = [chunk.dictionary.take(chunk.indices) for chunk in shown]
    return Parts({"values": _content(values, dtype.value_type)})


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


ARROW: Final = {
    "pyarrow.Array": CanonicalForm(lambda array: arrow_column([array], array.type), sealed=True),
    "pyarrow.ChunkedArray": CanonicalForm(lambda column: arrow_column(column.chunks, column.type)),
    "pyarrow.Table": CanonicalForm(_table),
    "pyarrow.RecordBatch": CanonicalForm(_table),
    "pyarrow.Scalar": CanonicalForm(_scalar, sealed=True),
    "pyarrow.Schema": CanonicalForm(_schema),
    "pyarrow.Field": CanonicalForm(lambda field: _fields([field])),
    "pyarrow.DataType": CanonicalForm(_type, sealed=True),
    "pyarrow.Buffer": CanonicalForm(
        lambda buffer: Content(buffer.size, (memoryview(buffer),)), leaf=True, sealed=True
    ),
}
"""Canonical forms by the `rooted_name` of a class."""
