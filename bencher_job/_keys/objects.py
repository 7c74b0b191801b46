"""Canonical forms of objects: from their pickle reduction, and of objects of widely used libraries.

Two tables by the `rooted_name` of a class, so that none of these libraries is imported here:

    LIBRARIES   the canonical form of an object of the class, instead of its pickle reduction
    FILLED_IN   attributes that follow from the others, and are left out of the pickle reduction
"""

from __future__ import annotations

import copy
import copyreg
import functools
import gc
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any, Final

from .arrays import MASKED_INTERNAL, array_parts
from .canonical import Attributes, ByName, CanonicalForm, Parts, Refusal, error_text, refuse, rooted_name
from .names import module_name, module_of, words

_MISSING: Final = object()
_DERIVED: Final = frozenset({"_attrs_cached_hash"})
"""Attributes that an object computes from its other attributes at first use."""
_CACHED_PROPERTIES: Final = frozenset({"cached_property", "lazyproperty", "reify"})


def reduced(value: Any) -> object:
    """Reduce an object as `pickle` does, to a constructor with its arguments, state and items.

    The constructor counts by its name. The values of cached properties are left out, since they follow from the
    rest. The fields of a dataclass count even if only the class holds their values.
    """
    cls = type(value)
    reduction = _reduction(value, cls)
    if isinstance(reduction, str):
        return Parts({"global": f"{_home(value, cls)}.{reduction}"})
    if type(reduction) is not tuple or not 2 <= len(reduction) <= 6 or type(reduction[1]) is not tuple:
        raise refuse(cls, "its __reduce_ex__ must return a str or a tuple that pickle accepts")
    function, arguments, state, items, pairs = (*reduction, None, None, None)[:5]
    bare = function is copyreg.__newobj__ and len(arguments) == 1 and arguments[0] is cls  # type: ignore[attr-defined]
    if bare and items is None and pairs is None:
        return Attributes() if state is None else _attributes(value, cls, state)
    parts = Parts(
        {
            "function": _maker(function),
            "arguments": tuple(ByName(argument) if argument is cls else argument for argument in arguments),
        }
    )
    if state is not None:
        parts["state"] = _attributes(value, cls, state)
    if items is not None:
        parts["items"] = list(items)
    if pairs is not None:
        parts["pairs"] = dict(pairs)
    return parts


def own_attributes(value: Any, base: type, internal: frozenset[str] = frozenset()) -> object:
    """Return what an object has beyond an object of `base`: its attributes, or what its `__getstate__` returns.

    Attributes in `internal` are left out.
    """
    cls = type(value)
    if cls.__getstate__ is not base.__getstate__:
        return _attributes(value, cls, value.__getstate__())
    attributes = {name: content for name, content in dict_of(value).items() if name not in internal}
    for name in _slots(cls.__mro__[: cls.__mro__.index(base)]):
        if (content := getattr(value, name, _MISSING)) is not _MISSING:
            attributes[name] = content
    return _attributes(value, cls, attributes)


def dict_of(value: Any) -> dict[str, object]:
    """Return an object's own `__dict__`; empty if it has none."""
    wrapt: Any = sys.modules.get("wrapt")
    if wrapt is not None and issubclass(type(value), getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)):
        # Its `__dict__` is that of the wrapped object. Its own one is the first dict that it refers to.
        return next((held for held in gc.get_referents(value) if type(held) is dict), {})
    held: dict[str, object] = getattr(value, "__dict__", {})
    return held


def _reduction(value: Any, cls: type) -> Any:
    # Libraries such as tblib, which distributed imports, register reducers for all exceptions to keep tracebacks.
    reducer = None if issubclass(cls, BaseException) else copyreg.dispatch_table.get(cls)
    try:
        return value.__reduce_ex__(4) if reducer is None else reducer(value)
    except (Refusal, RecursionError, MemoryError):
        raise
    except Exception as error:
        raise refuse(cls, f"reducing it as pickle does raised {error_text(error)}") from error


def _home(value: Any, cls: type) -> str:
    return module_name(module_of(value) or module_of(cls))


def _maker(function: Any) -> object:
    """Return the form of a constructor: its name, unless it is a method that is bound to an object."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type):
        return Parts({"class": ByName(owner), "method": function.__name__})
    by_name = hasattr(function, "__qualname__") and (owner is None or isinstance(owner, ModuleType))
    return ByName(function) if by_name else function


def _attributes(value: Any, cls: type, state: Any) -> object:
    """Return an object's state as attributes by name, if its state has this shape."""
    fields: dict[str, Any] = getattr(cls, "__dataclass_fields__", {})
    match state:
        case (None | dict(), dict() as slots):
            state = {**(state[0] or {}), **slots}
        case list() if fields and len(state) == len(fields):
            state = dict(zip(fields, state, strict=True))
    if type(state) is not dict or not all(type(name) is str for name in state):
        return state
    filled_in = {name for names in _filled_in(cls) for name in names(state)}
    attributes = Attributes(
        {
            name: content
            for name, content in state.items()
            if name not in filled_in and not _is_derived(cls, name)
        }
    )
    for name in fields:
        if name not in attributes and (content := getattr(value, name, _MISSING)) is not _MISSING:
            attributes[name] = content
    return attributes


@functools.lru_cache(maxsize=1024)
def _filled_in(cls: type) -> list[Callable[[dict[str, Any]], Collection[str]]]:
    return [FILLED_IN[name] for name in map(rooted_name, cls.__mro__) if name in FILLED_IN]


def _is_derived(cls: type, name: str) -> bool:
    for base in cls.__mro__:
        if name in base.__dict__:
            return _is_cached_property(base.__dict__[name])
    return name in _DERIVED


def _is_cached_property(descriptor: Any) -> bool:
    """Whether a class's attribute is a cached property, of `functools` or of another library."""
    kind = type(descriptor)
    if issubclass(kind, cached_property):
        return True
    return kind.__name__ in _CACHED_PROPERTIES and getattr(descriptor, "fset", None) is None


def _slots(classes: Iterable[type]) -> Iterator[str]:
    for cls in classes:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                yield f"_{cls.__name__.lstrip('_')}{name}"
            elif name not in {"__dict__", "__weakref__"}:
                yield name


def _given(value: Any, internal: Collection[str]) -> Attributes:
    """Return the attributes that were set on an object, without those of its class."""
    return Attributes({name: held for name, held in vars(value).items() if name not in internal})


# scipy.sparse: index arrays are sorted and duplicates summed in place when a matrix is used.

_SPARSE: Final = words(
    "_shape shape _maxprint maxprint dtype data indices indptr coords row col offsets rows _dict"
    " _has_canonical_format _has_sorted_indices has_canonical_format"
)


def _sparse(matrix: Any, content: dict[str, object]) -> object:
    shared = {"shape": matrix.shape, "dtype": matrix.dtype, "attributes": _given(matrix, _SPARSE)}
    return Parts({**shared, **content})


def _compressed(matrix: Any) -> object:
    sparse: Any = sys.modules["scipy.sparse"]
    make = sparse.bsr_array if matrix.format == "bsr" else sparse.csr_array
    shape = matrix.shape[::-1] if matrix.format == "csc" else matrix.shape
    rows = make(
        (matrix.data, matrix.indices, matrix.indptr), shape=shape
    )  # `matrix` would cache the answer to the question below
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    indices, pointers = rows.indices.astype("int64"), rows.indptr.astype("int64")
    return _sparse(matrix, {"data": rows.data, "indices": indices, "indptr": pointers})


def _coordinates(matrix: Any) -> object:
    import numpy as np

    coords, data = getattr(matrix, "coords", None) or (matrix.row, matrix.col), matrix.data
    if not _is_sorted(coords):
        whole = sys.modules["scipy.sparse"].coo_array((data, coords), shape=matrix.shape, copy=True)
        whole.sum_duplicates()
        order = np.lexsort(whole.coords[::-1])
        coords, data = [axis[order] for axis in whole.coords], whole.data[order]
    return _sparse(matrix, {"data": data, "coords": [axis.astype("int64") for axis in coords]})


def _is_sorted(coords: Any) -> bool:
    """Whether coordinates are sorted and unique."""
    before, equal = False, True
    for axis in coords:
        before |= equal & (axis[:-1] < axis[1:])
        equal &= axis[:-1] == axis[1:]
    return bool(getattr(before, "all", bool)())


_OF_SPLINE: Final = frozenset({"_data", "_eval_args", "_spline_class", "ext"})


def _spline(spline: Any) -> object:
    """Return the used part of a spline's work arrays."""
    data = spline._data or ()  # noqa: SLF001
    return Attributes(curve=spline._eval_args, data=data[:7], residual=data[10:11], ext=spline.ext)  # noqa: SLF001


# xarray: `attrs` and `encoding` are created when they are read, and data from a file is cached.


def _described(value: Any) -> dict[str, object]:
    return {name: Attributes({name: getattr(value, f"_{name}") or {}}) for name in ("attrs", "encoding")}


def _variable(variable: Any) -> object:
    return Parts({"dims": variable.dims, "data": _duck_array(variable._data), **_described(variable)})  # noqa: SLF001


def _duck_array(data: Any) -> object:
    while type(data).__name__ in {"CopyOnWriteArray", "MemoryCachedArray"}:
        data = data.array  # they would cache the data
    if not type(data).__module__.startswith("xarray."):
        return data
    if hasattr(data, "level"):
        return Parts({"index": data.array, "level": data.level, "dtype": data.dtype})
    if type(data).__name__ == "PandasIndexingAdapter":
        return Parts({"index": data.array, "dtype": data.dtype})
    return data.get_duck_array()


def _dataset(dataset: Any) -> object:
    names = set(dataset._coord_names)  # noqa: SLF001
    parts = {"variables": dict(dataset._variables), "coords": names, "indexes": dict(dataset._indexes)}  # noqa: SLF001
    return Parts({**parts, **_described(dataset)})


def _data_array(array: Any) -> object:
    coords, indexes = dict(array._coords), dict(array._indexes)  # noqa: SLF001
    return Parts({"variable": array.variable, "name": array.name, "coords": coords, "indexes": indexes})


def _data_tree(tree: Any) -> object:
    dataset = tree.to_dataset(inherit=False)
    return Parts({"dataset": dataset, "children": dict(tree.children), "name": tree.name})


def _pandas_index(index: Any) -> object:
    dtypes = getattr(index, "level_coords_dtype", None)
    return Parts({"index": index.index, "dim": index.dim, "dtype": index.coord_dtype, "levels": dtypes})


_TABLE: Final = frozenset({"_isinit", "_lut"})


def _color_map(color_map: Any) -> object:
    """Return the table of colours, which is created at first use and may then be changed in place."""
    if not color_map._isinit:  # noqa: SLF001
        color_map = copy.copy(color_map)
        color_map._init()  # noqa: SLF001
    table = color_map._lut  # noqa: SLF001
    return Parts({"table": table, "attributes": _given(color_map, _TABLE)})


# astropy: `info` is created when it is read.


def _info(state: Mapping[str, Any]) -> dict[str, object]:
    attributes = dict(getattr(state.get("info"), "_attrs", None) or {})
    attributes.pop("serialize_method", None)  # always set
    return {name: held for name, held in attributes.items() if held is not None and held != []}


def _quantity(quantity: Any) -> object:
    parts = {"value": array_parts(quantity), "unit": quantity.unit, "info": _info(vars(quantity))}
    return Parts({**parts, "attributes": _given(quantity, {"_unit", "info"})})


def _column(column: Any) -> object:
    import numpy as np

    masked = isinstance(column, np.ma.MaskedArray)
    names = ("name", "unit", "format", "description", "meta")
    described = Attributes({name: getattr(column, name) for name in names if name != "meta"})
    described["meta"] = vars(column).get("_meta") or {}
    value = column.view(np.ma.MaskedArray) if masked else array_parts(column)
    return Parts({"value": value, "described": described})


_COLUMN: Final = words(
    "_parent_table parent_table indices _indices info _name _unit _format description _meta"
)
_OF_TABLE: Final = frozenset({"columns", "formatter", "primary_key"})


def _table(table: Any) -> object:
    columns = list(table.columns.items())
    return Parts({"columns": columns, "meta": vars(table).get("_meta") or {}})


def _cosmology(cosmology: Any) -> object:
    return Attributes(parameters=dict(cosmology.parameters), name=cosmology.name, meta=cosmology.meta)


_OF_DATA: Final = frozenset({"_cache", "predict_start", "predict_end", "predict_dates"})


def _model_data(data: Any) -> object:
    """Return the data of a statsmodels model; its names are computed when they are read, unless they were set."""
    asked = copy.copy(data)
    vars(asked)["_cache"] = dict(vars(data).get("_cache") or {})
    names = {name: getattr(asked, name, None) for name in ("xnames", "ynames")}
    state = {name: held for name, held in data.__getstate__().items() if name not in _OF_DATA}
    return Attributes(state, **names)


# numba: each call with new types adds a compiled version to the object.


_OF_COMPILED: Final = words(
    "doc func_code gufunc_builder kernel_ir locals options overloads py_func reorderable"
    " targetctx targetoptions typingctx ufunc id kws mode neighborhood"
)


def _dispatcher(compiled: Any) -> Attributes:
    pipeline = getattr(getattr(compiled, "_compiler", None), "pipeline_class", None)
    made = {"py_func": compiled.py_func, "options": compiled.targetoptions, "locals": compiled.locals}
    return Attributes(made, pipeline=None if pipeline is None else ByName(pipeline))


def _universal(function: Any) -> Attributes:
    made = getattr(function, "gufunc_builder", None) or function._dispatcher  # noqa: SLF001
    shared = {"py_func": made.py_func, "options": made.targetoptions, "identity": function.identity}
    types = list(function.types) if function._frozen else None  # noqa: SLF001 - else types are compiled on demand
    names = ("signature", "writable_args")
    layout = {name: getattr(made, name, None) for name in names}
    return Attributes({**shared, **layout, "types": types})


def _callback(callback: Any) -> Attributes:
    options = callback._compiler.targetoptions  # noqa: SLF001
    return Attributes(py_func=callback._pyfunc, signature=str(callback._sig), options=options)  # noqa: SLF001


def _stencil(stencil: Any) -> Attributes:
    return Attributes(py_func=stencil.kernel_ir.func_id.func, options=stencil.options, mode=stencil.mode)


_COMPILED: Final[dict[str, Callable[[Any], Attributes]]] = {
    "numba.CFunc": _callback,
    "numba.DUFunc": _universal,
    "numba.Dispatcher": _dispatcher,
    "numba.GUFunc": _universal,
    "numba.StencilFunc": _stencil,
}


def options_of(compiled: Any) -> Parts | None:
    """Return the options of a compiled function; None for other objects."""
    names = map(rooted_name, type(compiled).__mro__)
    take_apart = next((_COMPILED[name] for name in names if name in _COMPILED), None)
    if take_apart is None:
        return None
    return Parts({name: held for name, held in take_apart(compiled).items() if name != "py_func"})


def _typed(container: Any) -> object:
    kind = getattr(container, "_list_type", None) or getattr(container, "_dict_type", None)
    items = dict(container.items()) if hasattr(container, "items") else list(container)
    return Parts({"type": str(kind), "items": items if len(container) else None})


def _message(message: Any) -> object:
    descriptor = message.DESCRIPTOR
    content = message.SerializePartialToString(deterministic=True)
    return Parts({"type": descriptor.full_name, "schema": descriptor.file.serialized_pb, "content": content})


def _undefined_function(function: Any) -> object:
    return Attributes(name=function.__name__, given=function._kwargs, _imp_=getattr(function, "_imp_", None))  # noqa: SLF001


LIBRARIES: Final[dict[str, CanonicalForm]] = {
    **{f"scipy.{form}_{kind}": CanonicalForm(_compressed, internal=_SPARSE) for form in ("bsr", "csc", "csr")
       for kind in ("array", "matrix")},
    **{f"scipy.coo_{kind}": CanonicalForm(_coordinates, internal=_SPARSE) for kind in ("array", "matrix")},
    **{f"scipy.dok_{kind}": CanonicalForm(lambda matrix: _coordinates(matrix.tocoo(copy=True)), internal=_SPARSE)
       for kind in ("array", "matrix")},
    **{f"scipy.lil_{kind}": CanonicalForm(lambda matrix: _compressed(matrix.tocsr()), internal=_SPARSE)
       for kind in ("array", "matrix")},
    **{f"scipy.dia_{kind}": CanonicalForm(
        lambda matrix: _sparse(matrix, {"data": matrix.data, "offsets": matrix.offsets.astype("int64")}),
        internal=_SPARSE) for kind in ("array", "matrix")},
    **{f"scipy.{name}": CanonicalForm(
        lambda tree: Attributes(data=tree.data, leafsize=tree.leafsize, boxsize=tree.boxsize, indices=tree.indices),
        is_whole=True, is_open=True, internal=frozenset({"_tree"})) for name in ("KDTree", "cKDTree")},
    "scipy.UnivariateSpline": CanonicalForm(_spline, is_whole=True, is_open=True, internal=_OF_SPLINE),
    "xarray.DataArray": CanonicalForm(_data_array),
    "xarray.DataTree": CanonicalForm(_data_tree),
    "xarray.Dataset": CanonicalForm(_dataset),
    "xarray.IndexVariable": CanonicalForm(_variable),
    "xarray.PandasIndex": CanonicalForm(_pandas_index),
    "xarray.PandasMultiIndex": CanonicalForm(_pandas_index),
    "xarray.Variable": CanonicalForm(_variable),
    **{f"sklearn.BinaryTree{bits}": CanonicalForm(
        lambda tree: [part for place, part in enumerate(tree.__getstate__()) if not 7 <= place <= 10],
        is_whole=True, is_open=True)
       for bits in ("", "32", "64")},
    "matplotlib.BivarColormap": CanonicalForm(_color_map, internal=_TABLE, is_whole=True),
    "matplotlib.CallbackRegistry": CanonicalForm(lambda registry: (), is_whole=True),  # noqa: ARG005
    "matplotlib.Colormap": CanonicalForm(_color_map, internal=_TABLE, is_whole=True),
    "astropy.BaseColumn": CanonicalForm(_column, internal=_COLUMN | MASKED_INTERNAL),
    "astropy.Cosmology": CanonicalForm(_cosmology, is_whole=True, is_open=True, keeps_private=True),
    "astropy.Table": CanonicalForm(_table, is_whole=True, is_open=True, keeps_private=True, internal=_OF_TABLE),
    "astropy.Quantity": CanonicalForm(_quantity, internal=frozenset({"_unit", "info"})),
    "statsmodels.Bunch": CanonicalForm(lambda bunch: dict(bunch.items()), is_whole=True),
    "statsmodels.ModelData": CanonicalForm(_model_data, internal=_OF_DATA, is_whole=True),
    "numba.Dict": CanonicalForm(_typed),
    "numba.List": CanonicalForm(_typed),
    **{name: CanonicalForm(function, is_whole=True, is_open=True, keeps_private=True, internal=_OF_COMPILED)
       for name, function in _COMPILED.items()},
    "google.Message": CanonicalForm(_message, leaf=True, is_whole=True),
    "sympy.AppliedUndef": CanonicalForm(lambda applied: (applied.func, applied.args), is_whole=True),
    "sympy.UndefinedFunction": CanonicalForm(_undefined_function, is_whole=True),
}  # fmt: skip


def _names(names: str) -> Callable[[Mapping[str, Any]], Collection[str]]:
    return lambda state: words(names)  # noqa: ARG005


def _of_an_estimator(state: Mapping[str, Any]) -> Collection[str]:
    """Name the attributes in which an estimator of scikit-learn without `random_state` keeps the shared generator."""
    if state.get("random_state", ...) is not None:
        return ()
    fitted = {name for name in state if name.startswith("_") or name.endswith("_")}
    return {name for name in fitted if rooted_name(type(state[name])) == "numpy.RandomState"}


def _of_a_vectorizer(state: Mapping[str, Any]) -> Collection[str]:
    """Name what a text vectorizer of scikit-learn sets when it is used, including a copy of a given vocabulary."""
    given = state.get("vocabulary") is not None
    return {"_stop_words_id", *(("vocabulary_", "fixed_vocabulary_") if given else ())}


def _of_a_regression(state: Mapping[str, Any]) -> Collection[str]:
    """Name what a linear model of statsmodels computes when it is fitted; degrees of freedom that were set count."""
    rank, size = state.get("rank"), state.get("nobs")
    fitted = {"pinv_wexog", "normalized_cov_params", "rank", "wexog_singular_values", "Q", "R"}
    if rank is None:
        unset = {name for name in ("_df_model", "_df_resid") if state.get(name) is None}
    else:
        worked_out = {"_df_model": rank - state.get("k_constant", 0), "_df_resid": (size or 0) - rank}
        unset = {name for name, value in worked_out.items() if state.get(name) in (None, value)}
    return fitted | unset


FILLED_IN: Final[dict[str, Callable[[Mapping[str, Any]], Collection[str]]]] = {
    "astropy.Model": _names("_parameters _constraints_cache"),
    "astropy.Parameter": _names("_model"),
    "astropy.ShapedLikeNDArray": lambda state: () if _info(state) else {"info"},
    "astropy.UnitBase": _names("_hash _type_id _physical_type_id _decomposed_cache"),
    "matplotlib.CompositeAffine2D": _names("_mtx"),
    "matplotlib.TransformNode": _names("_parents _invalid _inverted _shorthand_name"),
    "scipy._QhullUser": _names(
        "_transform _vertex_to_simplex _vertex_neighbor_vertices _ridge_dict _vertices"
    ),
    "sklearn.BaseEstimator": _of_an_estimator,
    "sklearn._VectorizerMixin": _of_a_vectorizer,
    "statsmodels.GLM": _names("_tmp_like_exog"),
    "statsmodels.RegressionModel": _of_a_regression,
    "statsmodels.Representation": _names(
        "_kalman_filters _kalman_smoothers _simulation_smoothers _simulators _statespaces"
    ),
    "statsmodels.Results": _names(
        "_cache _data_in_cache _summary_cache _summary_statistics_cache _nobs_int diagn het_scale"
    ),
}
"""By class: a function that returns the names of attributes that follow from the rest of the state."""
