"""Each importable name belongs to installed distributions, whatever installed them."""

from __future__ import annotations

import importlib
import json
import os
import sys
from types import ModuleType

import numpy
import pytest

from bencher_job._keys.libraries import distributions_of, version_of
from bencher_job._keys.names import is_own_module
from tests.distributions import Site


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


@pytest.mark.parametrize(
    ("direct_url", "counts"),
    [
        (None, False),
        ({"url": "file:///home/me/toolkit", "dir_info": {}}, True),
        ({"url": "file:///home/me/toolkit", "dir_info": {"editable": True}}, False),
        ({"url": "file:///tmp/toolkit-1.0-py3-none-any.whl", "archive_info": {}}, True),
    ],
)
def test_an_install_from_a_folder_or_a_file_counts_by_its_files(
    site: Site, direct_url: object, counts: bool
) -> None:
    found = []
    for number, text in enumerate(("x = 1", "x = 1", "x = 2")):
        metadata = site.install("toolkit", "1.0", direct_url=direct_url, toolkit=text)
        (metadata / "REQUESTED").touch()
        os.utime(metadata / "METADATA", (number, number))
        found.append(dict(distributions_of("toolkit"))["toolkit"])
    assert found[0] == found[1]
    assert (found[1] != found[2]) is counts
    assert (found[0] != "1.0") is counts


def test_a_conda_package_counts_by_its_version(site: Site) -> None:
    metadata = site.install(
        "toolkit", "1.0", direct_url={"url": "file:///feedstock", "dir_info": {}}, toolkit=""
    )
    (metadata / "INSTALLER").write_text("conda\n")
    assert distributions_of("toolkit") == (("toolkit", "1.0"),)


def test_a_repository_counts_by_its_commit(site: Site) -> None:
    url = {"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef0123"}}
    site.install("toolkit", "1.0", direct_url=url, toolkit="")
    assert distributions_of("toolkit") == (("toolkit", "1.0 (git 0123456789abcdef)"),)


def test_the_latest_version_after_a_failed_upgrade_counts(site: Site) -> None:
    old = site.install("toolkit", "2.0", toolkit="")
    kept = old.rename(site.folder / "kept")
    new = site.install("toolkit", "1.0", toolkit="")
    os.utime(kept, (1, 1))
    kept.rename(site.folder / "toolkit-2.0.dist-info")
    assert distributions_of("toolkit") == (("toolkit", "1.0"),)
    assert new.exists()


def test_invalid_json_in_metadata_is_ignored(site: Site) -> None:
    metadata = site.install("toolkit", "1.0", toolkit="")
    (metadata / "direct_url.json").write_text("{")
    assert distributions_of("toolkit") == (("toolkit", "1.0"),)
    (metadata / "direct_url.json").write_text(json.dumps([1]))
    os.utime(metadata / "METADATA", (1, 1))
    assert distributions_of("toolkit")[0][0] == "toolkit"


def test_finders_and_modules_that_raise_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
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
