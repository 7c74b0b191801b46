"""`verify` finds damage, tells it by its exit code, and mends it when it is asked to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shell import Shell


@pytest.fixture
def damaged(study: Shell) -> Path:
    """The file of a damaged entry, in the cache of a study with one large entry more."""
    study.program(
        """
        from bencher_job import cached_job

        @cached_job
        def large(n):
            return b"x" * n

        large(100_000)
        """
    )
    (path,) = (study.folder / "cachedir" / "fcache").glob("??/??/*.val")
    path.write_bytes(path.read_bytes()[:-1] + b"y")
    return path


def test_a_whole_cache_is_clean(study: Shell) -> None:
    assert study.out("verify") == f"{study.folder}/cachedir/fcache: 5 entries verified, clean\n"
    (cache,) = study.document("verify")["caches"]
    assert (cache["clean"], cache["entries"], cache["findings"]) == (True, 5, [])


def test_damage_is_found_and_nothing_changed(study: Shell, damaged: Path) -> None:
    before = study.files()
    ended = study.run("verify", "--json")
    assert (ended.returncode, ended.stderr) == (1, "")
    (cache,) = json.loads(ended.stdout)["caches"]
    (finding,) = cache["findings"]
    assert (cache["clean"], finding["fault"], finding["mended"]) == (False, "damaged", False)
    assert "damaged entry" in study.run("verify").stdout
    assert study.files() == before


def test_damage_is_mended_when_it_is_asked_for(study: Shell, damaged: Path) -> None:
    said = study.out("verify", "--repair")
    assert "1 found wrong, 1 mended" in said
    assert not damaged.exists()
    assert "set aside in damaged/: 1 file of" in study.out("verify")
    assert len(study.document("show")["records"]) == 5
