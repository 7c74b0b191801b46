"""Name and version of each installed distribution that the user's code names are part of its fingerprint."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bencher_job import cached_job
from tests.distributions import Site

from .keys import code_key, explained, in_a_fork, parts_of

Load = Callable[..., ModuleType]
LEARN = """
def deco(f):
    def g(x):
        return f(x)
    return g
def fit(x):
    return x
class Model:
    scale = 2
    def fit(self, x):
        return x
"""


COUNTS = {
    "a module": "import learn\ndef f(x): return learn.fit(x)",
    "an alias": "import learn as l\ndef f(x): return l.fit(x)",
    "a function": "from learn import fit\ndef f(x): return fit(x)",
    "a class": "from learn import Model\ndef f(x): return Model().fit(x)",
    "a constant in a class": "from learn import Model\ndef f(x): return Model.scale",
    "a base class": "import learn\nclass Mine(learn.Model): pass\ndef f(x): return Mine()",
    "an object": "import learn\nMODEL = learn.Model()\ndef f(x): return MODEL.fit(x)",
    "an object in a table": "import learn\nMODELS = {'a': [learn.Model()]}\ndef f(x): return MODELS['a'][0].fit(x)",
    "a bound method": "import learn\nFIT = learn.Model().fit\ndef f(x): return FIT(x)",
    "a partial": "import functools, learn\nFIT = functools.partial(learn.fit, 1)\ndef f(x): return FIT()",
    "a default": "import learn\ndef f(x, model=learn.Model()): return model.fit(x)",
    "a closure": "import learn\ndef make(m):\n    def f(x): return m.fit(x)\n    return f\nf = make(learn.Model())",
    "an import inside": "def f(x):\n    import learn as l\n    return l.fit(x)",
    "a from inside": "def f(x):\n    from learn import fit\n    return fit(x)",
    "an import by call": "import importlib\ndef f(x):\n    return importlib.import_module('learn').fit(x)",
    "a helper": "import helpers\ndef f(x): return helpers.g(x)",
    "a nested function": "import learn\ndef f(x):\n    def g(): return learn.fit(x)\n    return g()",
    "a decorator": "import learn\n@learn.deco\ndef g(x): return x\ndef f(x): return g(x)",
    "an exception": "import learn\ndef f(x):\n    try: return 1\n    except learn.Model: return 2",
    "a submodule": "import learn.deep\ndef f(x): return learn.deep.g(x)",
    "a lazy attribute": "import learn\ndef f(x): return learn.lazy(x)",
}
DOES_NOT = {
    "nothing": "def f(x): return x",
    "a name that isn't reached": "import learn\ndef g(x): return learn.fit(x)\ndef f(x): return x",
    "an annotation": "import learn\ndef f(x: learn.Model) -> learn.Model: return x",
    "an annotation inside": "import learn\ndef f(x):\n    def g(y: learn.Model) -> learn.Model: pass\n    return g",
    "a variable's annotation": "import learn\ndef f(x):\n    y: learn.Model = x\n    return y",
    "a docstring": "import learn\ndef f(x):\n    'learn.fit'\n    return x",
    "what a library names": "import other\ndef f(x): return other.g(x)",
}


def with_version(site: Site, load: Load, source: str, version: str) -> Any:
    """Load a function that may name the library, which is installed in some version."""
    lazy = "def __getattr__(name):\n    if name == 'lazy': return len\n    raise AttributeError(name)\n"
    site.install("learn-it", version, learn____init__=LEARN + lazy, learn__deep="def g(x): return x")
    site.install("other", "1.0", other="import learn\ndef g(x): return learn.fit(x)")
    importlib.invalidate_caches()
    for name in ("learn", "learn.deep", "other"):
        sys.modules.pop(name, None)
    helpers = "import learn\ndef g(x): return learn.fit(x)\n"
    return load(source, helpers=helpers).f


def versions(site: Site, load: Load, source: str, version: str, **options: Any) -> str:
    return code_key(with_version(site, load, source, version), **options)


def libraries_of(function: Any, **options: Any) -> dict[str, str]:
    return {name: now for name, _, now in explained(function, **options).distributions_changed}


@pytest.mark.parametrize("source", COUNTS.values(), ids=COUNTS)
def test_the_version_of_a_library_that_code_names_counts(site: Site, load: Load, source: str) -> None:
    one, same, two = (versions(site, load, source, version) for version in ("1.0", "1.0", "1.0+local"))
    assert one == same != two
    assert libraries_of(with_version(site, load, source, "1.0"))["learn-it"] == "1.0"
    without = [versions(site, load, source, version, libraries=False) for version in ("1.0", "2.0")]
    assert without[0] == without[1]


@pytest.mark.parametrize("source", DOES_NOT.values(), ids=DOES_NOT)
def test_the_version_of_a_library_that_code_does_not_name_does_not_count(
    site: Site, load: Load, source: str
) -> None:
    one, two = (versions(site, load, source, version) for version in ("1.0", "2.0"))
    assert one == two
    assert "learn-it" not in libraries_of(with_version(site, load, source, "1.0"))


def test_the_option_chooses_the_libraries_that_count(site: Site, load: Load) -> None:
    both = "import learn, other\ndef f(x): return learn.fit(other.g(x))"
    for libraries, is_same in ((True, False), (False, True), (("other",), True), (("Learn_It",), False)):
        one, two = (versions(site, load, both, version, libraries=libraries) for version in ("1.0", "2.0"))
        assert (one == two) is is_same, libraries
    named = [versions(site, load, "def f(x): return x", v, libraries=("learn-it",)) for v in ("1.0", "2.0")]
    assert named[0] != named[1], "it counts although no code names it"


@pytest.mark.parametrize(
    ("name", "remedy"), [("no-such-thing", "Install it"), ("learn", "belongs to learn-it: name that")]
)
def test_a_library_that_is_not_installed_is_refused_by_name(
    site: Site, load: Load, name: str, remedy: str
) -> None:
    with pytest.raises(ValueError, match=f"libraries has '{name}', and no distribution.*{remedy}"):
        versions(site, load, "def f(x): return x", "1.0", libraries=(name,))


def test_the_option_holds_for_the_code_of_objects_in_arguments_too(site: Site, load: Load) -> None:
    source = "import learn\nclass Mine:\n    def run(self): return learn.fit(1)\ndef f(x): return Mine\n"

    def check() -> None:
        for libraries, is_same in ((True, False), (False, True), (("other",), True)):
            keys = []
            for version in ("1.0", "2.0"):
                mine = with_version(site, load, source, version)(1)
                keys.append(cached_job(libraries=libraries)(given).key([mine()]))
            assert (keys[0] == keys[1]) is is_same, libraries

    in_a_fork(check)  # since this process remembers what libraries the code of its arguments has named


def given(x: object) -> object:
    return x


def test_smaller_scopes_count_the_libraries_that_their_code_names(site: Site, load: Load) -> None:
    for source, code, counts in (
        (COUNTS["a module"], "own", True),
        (COUNTS["an import inside"], "own", True),
        (COUNTS["a helper"], "own", False),
        (COUNTS["a module"], "none", False),
    ):
        one, two = (versions(site, load, source, version, code=code) for version in ("1.0", "2.0"))
        assert (one != two) is counts, (source, code)


def test_a_function_of_an_installed_distribution_counts_by_its_version_and_the_libraries_that_it_names(
    site: Site, load: Load
) -> None:
    made = []
    for study, learn in (("1.0", "1.0"), ("2.0", "1.0"), ("2.0", "2.0"), ("2.0", "2.0")):
        site.install("study-kit", study, studykit="import learn\ndef f(x): return learn.fit(x)")
        sys.modules.pop("studykit", None)
        function = with_version(site, load, "from studykit import f", learn)
        made.append(code_key(function))
    assert len(set(made)) == 3
    assert libraries_of(function) == {"study-kit": "2.0"}


def test_a_ufunc_of_a_library_names_it(load: Load) -> None:
    numpy = pytest.importorskip("numpy")
    function = load("from numpy import add\ndef f(x): return add(x, 1)").f
    for code in ("deep", "own"):
        assert libraries_of(function, code=code) == {"numpy": numpy.__version__}


@pytest.mark.parametrize("kept", ["METADATA", "PKG-INFO", None])
def test_the_version_is_found_in_each_kind_of_metadata(site: Site, load: Load, kept: str | None) -> None:
    """Old tools write other files, and a folder's name has the version, too."""
    metadata = site.install("learn-it", "1.0", learn=LEARN)
    (metadata / "METADATA").unlink()
    if kept:
        (metadata / kept).write_text("Name: learn-it\nVersion: 1.0+local\n")
    function = load("import learn\ndef f(x): return learn.fit(x)").f
    assert libraries_of(function) == {"learn-it": "1.0+local" if kept else "1.0"}


def test_an_editable_install_counts_by_its_code(tmp_path: Path, load: Load) -> None:
    made = load("import helpers\ndef f(x): return helpers.g(x)", helpers="def g(x): return x")
    metadata = Path(made.__file__).parent / "helpers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: helpers\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("helpers.py,,\n")
    assert parts_of(made.f) == {"bench.f", "helpers.g"}


def test_a_part_and_a_distribution_may_have_the_same_name(site: Site, load: Load) -> None:
    site.install("helpers", "2024010112345678", learn=LEARN)
    source = "import helpers, learn\ndef f(x): return learn.fit(helpers)"
    function = load(source, helpers="N = 1").f
    assert libraries_of(function) == {"helpers#2": "version 2024010112345678"}
    assert "helpers" in parts_of(function)


def test_no_library_is_imported_to_be_named(site: Site, load: Load) -> None:
    site.install("unimported", "1.0", unimported="raise SystemExit('imported')")
    assert libraries_of(load("def f(x):\n    import unimported\n    return unimported.fit(x)").f) == {
        "unimported": "1.0"
    }
