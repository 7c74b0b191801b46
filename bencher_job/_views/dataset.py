"""Knows a sweep as arrays with named dimensions: one for each swept argument and one for the repeats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .._errors import BencherJobError
from .._record import short_form
from .table import result_fields

if TYPE_CHECKING:
    import xarray

__all__ = ["to_dataset"]

_PLAIN: Final = {int, float, complex}


def to_dataset(
    axes: Mapping[str, Sequence[Any]],
    repeats: int,
    cells: Iterable[tuple[tuple[int, ...], object]],
    attributes: Mapping[str, Any],
) -> xarray.Dataset:
    """Make a dataset of values by their places in the axes, the place among the repeats last.

    Its dimensions are the axes and `repeat`; its variables are the fields of the values, or `result`. What is missing
    is NaN, or None among objects that are neither numbers nor texts. An array that a field holds adds dimensions of its
    own, `field_0` and so on, where all are of one shape.

    Raises:
        BencherJobError: when xarray is not installed.
    """
    try:
        import numpy
        import xarray
    except ImportError as error:
        raise BencherJobError(
            "An array with named dimensions needs xarray, which is not installed. "
            "Run: pip install 'bencher_job[table]'"
        ) from error
    dimensions = [*axes, "repeat"]
    shape = (*map(len, axes.values()), repeats)
    found: dict[str, dict[tuple[int, ...], Any]] = {}
    for place, value in cells:
        for name, part in result_fields(value).items():
            found.setdefault(name, {})[place] = part
    variables = {}
    for name, parts in found.items():
        array = _array(numpy, parts, shape)
        extra = [f"{name}_{number}" for number in range(array.ndim - len(shape))]
        variables[f"result.{name}" if name in dimensions else name] = ([*dimensions, *extra], array)
    coordinates = {name: _coordinate(numpy, values) for name, values in axes.items()}
    attrs = {name: short_form(value) for name, value in attributes.items()}
    return xarray.Dataset(variables, coords={**coordinates, "repeat": numpy.arange(repeats)}, attrs=attrs)


def _array(numpy: Any, parts: Mapping[tuple[int, ...], Any], shape: tuple[int, ...]) -> Any:
    """Put parts in their places: as numbers where all are, as arrays where all are of one shape."""
    values = list(parts.values())
    is_complete = len(values) == math.prod(shape)
    if (
        all(isinstance(value, numpy.ndarray) for value in values)
        and len({value.shape for value in values}) == 1
    ):
        dtype = numpy.result_type(*{value.dtype for value in values})
        inner = values[0].shape
    else:
        dtype, inner = _type_of(numpy, values), ()
    if is_complete or dtype.hasobject:
        array = numpy.full((*shape, *inner), None if dtype.hasobject else numpy.zeros((), dtype), dtype=dtype)
    elif numpy.issubdtype(dtype, numpy.number):
        dtype = numpy.result_type(dtype, numpy.float64)
        array = numpy.full((*shape, *inner), numpy.nan, dtype=dtype)
    else:
        array = numpy.full((*shape, *inner), None, dtype=object)
    for place, value in parts.items():
        array[place] = value
    return array


def _type_of(numpy: Any, values: Sequence[Any]) -> Any:
    kinds = set(map(type, values))
    for allowed, dtype in (
        ({bool}, "bool"),
        ({int}, "int64"),
        ({int, float}, "float64"),
        (_PLAIN, "complex128"),
    ):
        if kinds <= allowed:
            fits = dtype != "int64" or all(-(2**63) <= value < 2**63 for value in values)
            return numpy.dtype(dtype if fits else object)
    if all(isinstance(value, numpy.generic) for value in values):
        return numpy.result_type(*{value.dtype for value in values})
    return numpy.dtype(object)


def _coordinate(numpy: Any, values: Sequence[Any]) -> Any:
    """Label an axis by its values: numbers and texts as they are, anything else as records show it."""
    dtype = _type_of(numpy, values)
    if not dtype.hasobject:
        return numpy.array(values, dtype=dtype)
    labels = numpy.empty(len(values), dtype=object)
    labels[:] = [value if isinstance(value, str) else str(short_form(value)) for value in values]
    return labels
