"""Objects of widely used libraries, made by functions: `{name: (libraries, make, use, other)}`.

`use` makes the object fill its caches, and `other` makes an object with another value. The libraries are imported where
an object is made, so the tests run for those that are installed.
"""

import numpy as np

POINTS = np.random.RandomState(0).rand(60, 2)
LABELS = np.arange(60) % 3
LINE = np.arange(10.0)


def sparse(form, kind="array", content=((1, 0, 2), (0, 3, 0), (0, 3, 0))):
    import scipy.sparse

    return getattr(scipy.sparse, f"{form}_{kind}")(np.array(content, float))


def use_matrix(matrix):
    return (
        matrix.sum(0),
        matrix @ matrix.T,
        matrix.tocsr()[0],
        matrix.nnz,
        getattr(matrix, "max", int)(),
    )


def unsorted(form, last=4.0):
    import scipy.sparse

    if form == "coo":
        return scipy.sparse.coo_array(([1.0, 2.0, 3.0, last], ([1, 0, 1, 1], [2, 0, 1, 1])), shape=(2, 3))
    parts = np.array([1.0, 2.0, 3.0, last]), np.array([2, 0, 1, 1]), np.array([0, 2, 4])
    return getattr(scipy.sparse, f"{form}_array")(parts, shape=(2, 3) if form == "csr" else (3, 2))


def spatial(name, points=POINTS, **options):
    import scipy.spatial

    return getattr(scipy.spatial, name)(points, **options)


def use_spatial(made):
    query = getattr(made, "query", None) or getattr(made, "find_simplex", len)
    names = ("transform", "vertex_to_simplex", "vertex_neighbor_vertices", "ridge_dict", "tree", "vertices")
    return query([[0.1, 0.2]]), [getattr(made, name, None) for name in names]


def interpolator(scale=1):
    import scipy.interpolate

    return scipy.interpolate.LinearNDInterpolator(POINTS, scale * LINE.repeat(6))


def spline(scale=1):
    import scipy.interpolate

    return scipy.interpolate.UnivariateSpline(LINE, scale * LINE**2, s=1)


def dataset(first=1, **attrs):
    import xarray

    coords = {"x": [first, 2], "y": list("abc")}
    return xarray.Dataset({"a": (("x", "y"), np.ones((2, 3)))}, coords=coords, attrs=attrs)


def use_dataset(data):
    return data.mean(), data.sel(x=2), data.x.values, data.indexes, data.x.attrs, data.attrs, repr(data)


def series(unit="ns"):
    import xarray

    times = np.array(["2020-01-01", "2020-01-02"], f"M8[{unit}]")
    return xarray.DataArray(np.ones(2), dims="x", coords={"x": times}, name="series")


def use_series(array):
    return array.sel(x="2020-01-01"), array.x.dt.year, array.indexes["x"].is_unique, array.attrs, repr(array)


def stacked(first=1):
    return dataset(first).a.stack(z=("x", "y"))


def variable(value=1.0):
    import xarray

    return xarray.Variable("x", [value])


def tree(first=1):
    import xarray

    return xarray.DataTree.from_dict({"/": dataset(first), "/child": dataset(3).rename(x="u", y="v")})


def estimator(path, *args, data=POINTS, target=LABELS, **options):
    import importlib

    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"sklearn.{module}"), name)(*args, **options).fit(data, target)


def use_estimator(model):
    data = getattr(model, "_used_with", POINTS)
    for name in ("predict", "transform", "decision_function", "score_samples", "kneighbors"):
        if hasattr(model, name):
            getattr(model, name)(data)
    return repr(model), model.get_params()


def neighbours(name, leaf_size=5):
    import sklearn.neighbors

    return getattr(sklearn.neighbors, name)(POINTS, leaf_size=leaf_size)


def vectorizer(name="HashingVectorizer", **options):
    import sklearn.feature_extraction.text

    return getattr(sklearn.feature_extraction.text, name)(**options)


def color_map(name="viridis"):
    import matplotlib

    return matplotlib.colormaps[name]


def own_color_map(last="blue"):
    import matplotlib.colors

    return matplotlib.colors.LinearSegmentedColormap.from_list("own", ["red", last])


def norm(top=10):
    import matplotlib.colors

    return matplotlib.colors.LogNorm(1, top)


def transform(angle=1):
    import matplotlib.transforms

    affine = matplotlib.transforms.Affine2D
    return affine().rotate(angle) + affine().scale(2)


def quantity(unit="m"):
    import astropy.units

    return np.arange(3.0) * astropy.units.Unit(unit)


def unit(name="m / s"):
    import astropy.units

    return astropy.units.Unit(name) * astropy.units.kg


def table(last=2, **meta):
    import astropy.table

    return astropy.table.Table({"a": [1, last], "b": ["x", "y"]}, meta=meta)


def masked_table(mask=False):
    import astropy.table

    return astropy.table.Table({"a": np.ma.MaskedArray([1, 2], mask=[True, mask])})


def moment(day=1):
    import astropy.time

    return astropy.time.Time(f"2020-01-0{day}T00:00:00")


def position(ra=1):
    import astropy.coordinates

    return astropy.coordinates.SkyCoord([ra, 2], [3, 4], unit="deg")


def cosmology(h0=70):
    import astropy.cosmology

    return astropy.cosmology.FlatLambdaCDM(H0=h0, Om0=0.3)


def gaussian(mean=2):
    import astropy.modeling.models

    return astropy.modeling.models.Gaussian1D(1, mean, 3)


def regression(scale=1):
    import statsmodels.api

    return statsmodels.api.OLS(scale * LINE**2, statsmodels.api.add_constant(LINE))


def binomial(shift=0):
    import statsmodels.api

    family = statsmodels.api.families.Binomial()
    return statsmodels.api.GLM((LINE + shift) % 2, statsmodels.api.add_constant(LINE), family=family).fit()


def use_fit(result):
    return (
        result.params,
        result.bse,
        result.pvalues,
        result.resid_response if hasattr(result, "mu") else result.resid,
    )


def compiled(**options):
    import numba

    @numba.njit(**options)
    def plus(x):
        return x + 1

    return plus


def other_compiled():
    import numba

    @numba.njit
    def plus(x):
        return x + 2

    return plus


def vectorized(*types, step=1):
    import numba

    @numba.vectorize(*types)
    def plus(x):
        return x + step

    return plus


def generalized(step=1):
    import numba

    @numba.guvectorize(["(float64[:],float64[:])"], "(n)->(n)")
    def plus(x, y):
        for i in range(len(x)):
            y[i] = x[i] + step

    return plus


def message(value=1):
    import google.protobuf.struct_pb2

    made = google.protobuf.struct_pb2.Struct()
    made.update({"a": value, "b": {"c": [1]}, "d": "text"})
    return made


def unset_message(name="x"):
    import google.protobuf.descriptor_pb2

    return google.protobuf.descriptor_pb2.FileDescriptorProto(name=name)


def equation(order=2, **assumptions):
    import sympy

    t, f = sympy.Symbol("t"), sympy.Function("f", **assumptions)
    return sympy.Eq(f(t).diff(t, order) + f(t), 0)


def symbols(**assumptions):
    import sympy

    return sympy.sin(sympy.Symbol("x", **assumptions)) ** 2


def frame(first=1):
    import pandas

    return pandas.DataFrame({"a": [first, 2], "b": ["x", "y"]})


def labels(kind, first):
    import pandas

    days = pandas.to_datetime(["2020-01-01", f"2020-01-0{first}"])
    made = {
        "plain": lambda: pandas.Index([first, 7, 8]),
        "range": lambda: pandas.RangeIndex(first, 9),
        "several": lambda: pandas.MultiIndex.from_tuples([(1, first), (3, 4)], names=["a", "b"]),
        "times": lambda: pandas.DatetimeIndex(days),
        "periods": lambda: pandas.PeriodIndex(days, freq="D"),
        "categories": lambda: pandas.CategoricalIndex(["a", str(first)]),
        "intervals": lambda: pandas.IntervalIndex.from_breaks([0, first, 9]),
    }
    return made[kind]()


def use_labels(index):
    return (
        index.is_unique,
        index.nlevels > 1 or index.array,
        index.values,
        index.get_loc(index[1]),
        index.is_monotonic_increasing,
    )


OBJECTS = {
    "frame": (
        "pandas",
        frame,
        lambda made: (made.a, made.index.array, made.columns.get_loc("a")),
        lambda: frame(3),
    ),
    **{
        f"index of {kind}": (
            "pandas",
            lambda kind=kind: labels(kind, 3),
            use_labels,
            lambda kind=kind: labels(kind, 5),
        )
        for kind in ("plain", "range", "several", "times", "periods", "categories", "intervals")
    },
    **{
        f"{form} {kind}": (
            "scipy",
            lambda form=form, kind=kind: sparse(form, kind),
            use_matrix,
            lambda form=form, kind=kind: sparse(form, kind, ((1, 0, 2), (0, 3, 0), (0, 4, 0))),
        )
        for form in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
        for kind in ("array", "matrix")
    },
    **{
        f"unsorted {form}": (
            "scipy",
            lambda form=form: unsorted(form),
            lambda matrix: (matrix.sum(0), matrix.sum_duplicates()),
            lambda form=form: unsorted(form, 5.0),
        )
        for form in ("coo", "csc", "csr")
    },
    **{
        name: (
            "scipy",
            lambda name=name: spatial(name),
            use_spatial,
            lambda name=name: spatial(name, POINTS[1:]),
        )
        for name in ("ConvexHull", "Delaunay", "KDTree", "Voronoi", "cKDTree")
    },
    "KDTree options": (
        "scipy",
        lambda: spatial("KDTree"),
        use_spatial,
        lambda: spatial("KDTree", leafsize=3),
    ),
    "interpolator": ("scipy", interpolator, lambda made: made(POINTS[:2]), lambda: interpolator(2)),
    "spline": ("scipy", spline, lambda made: (made(0.5), made.derivative()), lambda: spline(2)),
    "dataset": ("xarray", dataset, use_dataset, lambda: dataset(0)),
    "dataset attrs": ("xarray", lambda: dataset(unit="m"), use_dataset, lambda: dataset(unit="km")),
    "data array": ("xarray", series, use_series, lambda: series()[:1]),
    "stacked": (
        "xarray pandas",
        stacked,
        lambda array: (array.unstack(), array.sel(y="a"), repr(array)),
        lambda: stacked(0),
    ),
    "variable": (
        "xarray",
        variable,
        lambda made: (made.mean(), made.attrs, made.encoding),
        lambda: variable(2.0),
    ),
    "data tree": ("xarray", tree, repr, lambda: tree(0)),
    "KNeighborsClassifier": (
        "sklearn",
        lambda: estimator("neighbors.KNeighborsClassifier", 3),
        use_estimator,
        lambda: estimator("neighbors.KNeighborsClassifier", 3, data=POINTS[::-1]),
    ),
    "LocalOutlierFactor": (
        "sklearn",
        lambda: estimator("neighbors.LocalOutlierFactor", novelty=True),
        use_estimator,
        lambda: estimator("neighbors.LocalOutlierFactor", 5, novelty=True),
    ),
    "KernelDensity": (
        "sklearn",
        lambda: estimator("neighbors.KernelDensity"),
        use_estimator,
        lambda: estimator("neighbors.KernelDensity", bandwidth=2),
    ),
    "RandomForestClassifier": (
        "sklearn",
        lambda: estimator("ensemble.RandomForestClassifier", 3, random_state=0),
        use_estimator,
        lambda: estimator("ensemble.RandomForestClassifier", 3, random_state=1),
    ),
    "GaussianProcessRegressor": (
        "sklearn",
        lambda: estimator("gaussian_process.GaussianProcessRegressor"),
        use_estimator,
        lambda: estimator("gaussian_process.GaussianProcessRegressor", alpha=1),
    ),
    "BallTree": (
        "sklearn",
        lambda: neighbours("BallTree"),
        lambda made: made.query(POINTS),
        lambda: neighbours("BallTree", 6),
    ),
    "HashingVectorizer": (
        "sklearn",
        lambda: vectorizer(stop_words=["b"]),
        lambda made: made.transform(["a b"]),
        lambda: vectorizer(stop_words=["c"]),
    ),
    "CountVectorizer": (
        "sklearn",
        lambda: vectorizer("CountVectorizer", vocabulary=["a", "b"]),
        lambda made: made.transform(["a b"]),
        lambda: vectorizer("CountVectorizer", vocabulary=["a", "c"]),
    ),
    "color map": (
        "matplotlib",
        color_map,
        lambda made: (made(0.3), made.reversed()),
        lambda: color_map("magma"),
    ),
    "own color map": ("matplotlib", own_color_map, lambda made: made(0.3), lambda: own_color_map("green")),
    "norm": ("matplotlib", norm, lambda made: made(3.0), lambda: norm(20)),
    "transform": (
        "matplotlib",
        transform,
        lambda made: (made.transform([[0, 1]]), made.inverted()),
        lambda: transform(2),
    ),
    "quantity": (
        "astropy",
        quantity,
        lambda made: (made.to("km"), made.info, made.si, made.unit.decompose(), hash(made.unit)),
        lambda: quantity("km"),
    ),
    "unit": (
        "astropy",
        unit,
        lambda made: (hash(made), made.decompose(), made.si, made.physical_type),
        lambda: unit("m / min"),
    ),
    "table": ("astropy", table, lambda made: (made["a"].info, repr(made), made.meta), lambda: table(3)),
    "table meta": ("astropy", lambda: table(a=1), lambda made: made.meta, lambda: table(a=2)),
    "masked table": (
        "astropy",
        masked_table,
        lambda made: (made["a"].info, repr(made)),
        lambda: masked_table(True),
    ),
    "time": ("astropy", moment, lambda made: (made.jd, made.iso, made.tai, made.info), lambda: moment(2)),
    "position": ("astropy", position, lambda made: (made.ra, made.galactic, made.info), lambda: position(3)),
    "cosmology": ("astropy", cosmology, lambda made: (made.age(0), made.H0), lambda: cosmology(60)),
    "gaussian": (
        "astropy",
        gaussian,
        lambda made: (made(1.0), made.parameters, made.bounding_box),
        lambda: gaussian(3),
    ),
    "regression": (
        "statsmodels",
        regression,
        lambda made: (made.fit().params, made.df_model, made.exog_names),
        lambda: regression(2),
    ),
    "fit": ("statsmodels", lambda: regression().fit(), use_fit, lambda: regression(2).fit()),
    "generalized fit": ("statsmodels", binomial, use_fit, lambda: binomial(1)),
    "compiled": ("numba", compiled, lambda made: (made(1), made(2.0)), other_compiled),
    "compiled options": ("numba", compiled, lambda made: made(1), lambda: compiled(fastmath=True)),
    "vectorized": ("numba", vectorized, lambda made: (made(1), made(LINE)), lambda: vectorized(step=2)),
    "vectorized types": (
        "numba",
        lambda: vectorized(["float64(float64)"]),
        lambda made: made(LINE),
        lambda: vectorized(["float64(float64)", "int64(int64)"]),
    ),
    "generalized ufunc": ("numba", generalized, lambda made: made(LINE), lambda: generalized(2)),
    "message": (
        "google.protobuf",
        message,
        lambda made: (made["a"], made.fields["b"], made.ByteSize(), str(made)),
        lambda: message(2),
    ),
    "unset message": (
        "google.protobuf",
        unset_message,
        lambda made: (made.options, str(made)),
        lambda: unset_message("y"),
    ),
    "equation": (
        "sympy",
        equation,
        lambda made: (hash(made), made.lhs.is_real, made.free_symbols),
        lambda: equation(3),
    ),
    "assumptions of a function": ("sympy", equation, hash, lambda: equation(real=True)),
    "symbols": ("sympy", symbols, lambda made: (hash(made), made.is_real), lambda: symbols(positive=True)),
}
