"""Name and version of each installed distribution that the user's code names are part of its fingerprint."""

from __future__ import annotations

import importlib
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy
import pytest

from bencher_job._keys.fingerprint import fingerprint
from bencher_job._keys.libraries import distributions_of, version_of
from bencher_job._keys.names import is_own_module
from tests.distributions import Site

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


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder on `sys.path`; its modules are unloaded after the test."""
    site = Site(tmp_path / "environment")
    monkeypatch.syspath_prepend(site.folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield site
    for name in [name for name, module in sys.modules.items() if lies_in(module, site.folder)]:
        del sys.modules[name]


def lies_in(module: ModuleType, folder: Path) -> bool:
    known = vars(module)  # a `__getattr__` of the module may raise anything
    places = [known.get("__file__") or "", *known.get("__path__", ())]
    return any(str(place).startswith(str(folder)) for place in places)


@pytest.mark.parametrize("is_loaded", [True, False])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("yamlish", [("py-yamlish", "6.0")]),
        ("yamlish.loader.Loader", [("py-yamlish", "6.0")]),
        ("spaced.one", [("spaced-one", "1.0")]),
        ("spaced.two.f", [("spaced-two", "2.0+cpu")]),
        ("spaced", []),
        ("legacy.one", [("legacy-one", "1.0")]),
        ("legacy.two", [("legacy-two", "2.0")]),
        ("shared", [("shared-full", "1.0"), ("shared-headless", "2.0")]),
        ("single", [("one-file", "3.0")]),
        ("dummy", [("real-thing", "1.5")]),
        ("namesake", [("namesake", "4.0")]),
        ("unlisted", [("other-name", "5.0")]),
        ("nobodys", []),
        ("no_such_module", []),
        ("json.decoder", []),
        ("sys", []),
        ("builtins.len", []),
        ("bencher_job._errors", []),
    ],
)
def test_a_distribution_is_found_for_each_name_and_installer(
    site: Site, name: str, expected: list[tuple[str, str]], is_loaded: bool
) -> None:
    site.install("Py-Yamlish", "6.0", yamlish____init__="", yamlish__loader="class Loader: pass")
    site.install("spaced-one", "1.0", spaced__one="")
    site.install("spaced-two", "2.0+cpu", spaced__two="def f(): pass")
    site.install("legacy-one", "1.0", legacy____init__="", legacy__one="")
    site.install("legacy-two", "2.0", legacy____init__="", legacy__two="")
    site.install("shared-full", "1.0", shared____init__="")
    site.install("shared-headless", "2.0", shared____init__="")
    site.install("one-file", "3.0", single="")
    site.install("dummy", "0.0")
    site.install("real-thing", "1.5", dummy____init__="")
    site.install("namesake", "4.0", record=False, namesake____init__="")
    (site.install("other-name", "5.0", record=False, unlisted="") / "top_level.txt").write_text("unlisted\n")
    (site.folder / "nobodys.py").touch()
    importlib.invalidate_caches()
    if is_loaded and name != "no_such_module":
        for length in range(1, name.count(".") + 2):
            try:
                module = importlib.import_module(".".join(name.split(".")[:length]))
            except ModuleNotFoundError:
                break
        assert not is_own_module(module)
    found = distributions_of(name)
    assert sorted(found) == expected
    assert is_loaded or not name.startswith(("yamlish", "spaced")) or name not in sys.modules


def test_a_distribution_is_found_by_its_own_name() -> None:
    assert distributions_of("numpy.linalg.norm") == (("numpy", numpy.__version__),)
    assert version_of("Scikit_Learn") == version_of("scikit-learn")
    assert version_of("no-such-thing") is None


@pytest.mark.parametrize("metadata", ["old_name-1.0.egg-info", "old_name-1.0-py3.11.egg-info"])
def test_metadata_of_older_installers_is_read(site: Site, metadata: str) -> None:
    (site.folder / "old_name.py").touch()
    (site.folder / metadata).mkdir()
    (site.folder / metadata / "PKG-INFO").write_text("Name: old_name\nVersion: 1.0.post1\n")
    assert distributions_of("old_name") == (("old-name", "1.0.post1"),)


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


def versions(site: Site, load: Load, source: str, version: str, **options: object) -> bytes:
    lazy = "def __getattr__(name):\n    if name == 'lazy': return len\n    raise AttributeError(name)\n"
    site.install("learn-it", version, learn____init__=LEARN + lazy, learn__deep="def g(x): return x")
    site.install("other", "1.0", other="import learn\ndef g(x): return learn.fit(x)")
    importlib.invalidate_caches()
    for name in ("learn", "learn.deep", "other"):
        sys.modules.pop(name, None)
    helpers = "import learn\ndef g(x): return learn.fit(x)\n"
    return fingerprint(load(source, helpers=helpers).f, **options)


@pytest.mark.parametrize("source", COUNTS.values(), ids=COUNTS)
def test_the_version_of_a_library_that_code_names_counts(site: Site, load: Load, source: str) -> None:
    one, same, two = (versions(site, load, source, version) for version in ("1.0", "1.0", "1.0+local"))
    assert one.digest == same.digest != two.digest
    assert one.code == two.code
    assert (one.manifest["learn-it"], two.manifest["learn-it"]) == ("1.0", "1.0+local")


@pytest.mark.parametrize("source", DOES_NOT.values(), ids=DOES_NOT)
def test_the_version_of_a_library_that_code_does_not_name_does_not_count(
    site: Site, load: Load, source: str
) -> None:
    one, two = (versions(site, load, source, version) for version in ("1.0", "2.0"))
    assert one == two
    assert "learn-it" not in one.libraries


def test_the_option_chooses_the_libraries_that_count(site: Site, load: Load) -> None:
    both = "import learn, other\ndef f(x): return learn.fit(other.g(x))"
    for libraries, is_same in ((True, False), (False, True), (("other",), True), (("Learn_It",), False)):
        one, two = (versions(site, load, both, version, libraries=libraries) for version in ("1.0", "2.0"))
        assert (one == two) is is_same, libraries
    named = versions(site, load, "def f(x): return x", "1.0", libraries=("learn-it",))
    assert dict(named.libraries) == {"learn-it": "1.0"}, "it counts although no code names it"


@pytest.mark.parametrize(
    ("name", "remedy"), [("no-such-thing", "Install it"), ("learn", "belongs to learn-it: name that")]
)
def test_a_library_that_is_not_installed_is_refused_by_name(
    site: Site, load: Load, name: str, remedy: str
) -> None:
    with pytest.raises(ValueError, match=f"libraries has '{name}', and no distribution.*{remedy}"):
        versions(site, load, "def f(x): return x", "1.0", libraries=(name,))


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
        made.append(versions(site, load, "from studykit import f", learn))
    assert len({each.digest for each in made}) == 3
    assert dict(made[-1].libraries) == {"learn-it": "2.0", "study-kit": "2.0"}


@pytest.mark.parametrize(
    ("direct_url", "counts"),
    [
        (None, False),
        ({"url": "file:///home/me/learn", "dir_info": {}}, True),
        ({"url": "file:///home/me/learn", "dir_info": {"editable": True}}, False),
        ({"url": "file:///tmp/learn-1.0-py3-none-any.whl", "archive_info": {}}, True),
    ],
)
def test_an_install_from_a_folder_or_a_file_counts_by_its_files(
    site: Site, direct_url: object, counts: bool
) -> None:
    found = []
    for number, text in enumerate(("x = 1", "x = 1", "x = 2")):
        metadata = site.install("learn", "1.0", direct_url=direct_url, learn=text)
        (metadata / "REQUESTED").touch()
        os.utime(metadata / "METADATA", (number, number))
        found.append(dict(distributions_of("learn"))["learn"])
    assert found[0] == found[1]
    assert (found[1] != found[2]) is counts
    assert (found[0] != "1.0") is counts


def test_files_without_digests_in_the_list_count_by_content(site: Site) -> None:
    found = set()
    for number, text in enumerate(("x = 1", "x = 2")):
        metadata = site.install(
            "learn", "1.0", direct_url={"url": "file:///learn", "dir_info": {}}, learn=text
        )
        (metadata / "RECORD").write_text("learn.py,,\n")
        os.utime(metadata / "METADATA", (number, number))
        found |= set(distributions_of("learn"))
    assert len(found) == 2


def test_a_conda_package_counts_by_its_version(site: Site) -> None:
    metadata = site.install("learn", "1.0", direct_url={"url": "file:///feedstock", "dir_info": {}}, learn="")
    (metadata / "INSTALLER").write_text("conda\n")
    assert distributions_of("learn") == (("learn", "1.0"),)


def test_a_repository_counts_by_its_commit(site: Site) -> None:
    url = {"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef0123"}}
    site.install("learn", "1.0", direct_url=url, learn="")
    assert distributions_of("learn") == (("learn", "1.0 (git 0123456789abcdef)"),)


def test_an_editable_install_counts_by_its_code(tmp_path: Path, load: Load) -> None:
    made = load("import helpers\ndef f(x): return helpers.g(x)", helpers="def g(x): return x")
    metadata = Path(made.__file__).parent / "helpers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: helpers\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("helpers.py,,\n")
    assert set(fingerprint(made.f).manifest) == {"bench.f", "helpers.g"}


def test_a_part_and_a_distribution_may_have_the_same_name(site: Site, load: Load) -> None:
    site.install("helpers", "2024010112345678", learn=LEARN)
    source = "import helpers, learn\ndef f(x): return learn.fit(helpers)"
    manifest = fingerprint(load(source, helpers="N = 1").f).manifest
    assert manifest["helpers#2"] == "version 2024010112345678"
    assert "helpers" in manifest


def test_the_latest_version_after_a_failed_upgrade_counts(site: Site) -> None:
    old = site.install("learn", "2.0", learn="")
    kept = old.rename(site.folder / "kept")
    new = site.install("learn", "1.0", learn="")
    os.utime(kept, (1, 1))
    kept.rename(site.folder / "learn-2.0.dist-info")
    assert distributions_of("learn") == (("learn", "1.0"),)
    assert new.exists()


def test_invalid_json_in_metadata_is_ignored(site: Site) -> None:
    metadata = site.install("learn", "1.0", learn="")
    (metadata / "direct_url.json").write_text("{")
    assert distributions_of("learn") == (("learn", "1.0"),)
    (metadata / "direct_url.json").write_text(json.dumps([1]))
    os.utime(metadata / "METADATA", (1, 1))
    assert distributions_of("learn")[0][0] == "learn"


def test_finders_and_modules_that_raise_are_ignored(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    class Loud(ModuleType):
        def __getattribute__(self, name: str) -> object:
            raise RuntimeError(name)

    class Finder:
        def find_spec(self, *_: object) -> None:
            raise RuntimeError("no")

    monkeypatch.setitem(sys.modules, "loud", Loud("loud"))
    assert distributions_of("loud.f") == ()
    monkeypatch.setattr(sys, "meta_path", [Finder()])
    assert distributions_of("never_imported") == ()


def test_no_library_is_imported_to_be_named(site: Site, load: Load) -> None:
    site.install("learn", "1.0", learn="raise SystemExit('imported')")
    made = fingerprint(load(textwrap.dedent("def f(x):\n    import learn\n    return learn.fit(x)")).f)
    assert dict(made.libraries) == {"learn": "1.0"}
