"""Files that a job writes lie in a folder of its run, which is kept with its entry and goes with it."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bencher_job import (
    FutureCache,
    Job,
    Record,
    cached_job,
    clean_orphaned_media,
    current_job_key,
    gen_path,
    run_job,
)


def test_outside_a_job_each_path_is_new_and_absolute(cache_folder: Path) -> None:
    paths = [Path(gen_path("film", "video", ".mp4")) for _ in range(10)]
    assert len(set(paths)) == 10
    assert all(path.is_absolute() and path.suffix == ".mp4" and path.parent.is_dir() for path in paths)
    assert not any(path.exists() for path in paths)


@pytest.mark.given_folders
def test_folders_on_the_way_are_for_their_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask says, and whether a path or a store is asked for first."""
    before = os.umask(0)
    try:
        monkeypatch.setenv("BENCHER_JOB_CACHE_DIR", str(tmp_path / "on" / "the" / "way"))
        gen_path("film", "video/raw", ".mp4")
        with FutureCache(cache_dir=tmp_path / "to" / "a" / "store") as cache:
            cache.submit(Job("job", lambda: Path(gen_path("film")).touch(), {}, job_key="key")).result()
        made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    finally:
        os.umask(before)
    assert len(made) > 10
    assert {oct(path.stat().st_mode & 0o777) for path in made} == {"0o700"}


def test_inside_a_job_paths_lie_in_a_folder_of_the_run() -> None:
    @cached_job
    def film() -> list[str]:
        return [gen_path("film"), gen_path("film"), gen_path("still", "images", ".png")]

    paths = [Path(path) for path in film()]
    assert len(set(paths)) == 3
    (record,) = film.cache.records()
    assert all(record.media in path.parts for path in paths)
    assert [path.parent.name for path in paths] == ["generic", "generic", "images"]


def test_files_of_a_process_that_a_job_forks_are_its_own() -> None:
    @cached_job
    def film() -> None:
        child = os.fork()
        if child == 0:
            Path(gen_path("film")).write_text("made by the child")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    film()
    (record,) = film.cache.records()
    assert record.media is not None
    (path,) = film.cache.directory.glob(f"media/{record.media}/generic/film*")
    assert path.read_text() == "made by the child"
    assert record.size > path.stat().st_size


def test_a_job_that_asks_for_no_path_has_no_media() -> None:
    @cached_job
    def number() -> int:
        return 1

    number()
    (record,) = number.cache.records()
    assert record.media is None


@pytest.mark.parametrize(
    "arguments", [("../up",), ("/etc/passwd",), ("a", "../../b"), ("a", "b", "/../../c"), ("nul\0",)]
)
def test_a_path_can_not_lead_out_of_the_folder(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="points outside the media folder"):
        gen_path(*arguments)


def test_current_job_key_is_the_key_while_the_function_runs() -> None:
    @cached_job
    def inner() -> str | None:
        return current_job_key()

    @cached_job
    def outer() -> tuple[str | None, str | None, str | None]:
        return current_job_key(), inner(), current_job_key()

    assert current_job_key() is None
    assert outer() == (outer.key(), inner.key(), outer.key())
    assert current_job_key() is None


def test_run_job_sets_the_key_and_keeps_nothing(cache_folder: Path) -> None:
    assert run_job(Job("job", current_job_key, {}, job_key="abc")) == "abc"
    assert list(cache_folder.iterdir()) == []


@pytest.mark.parametrize("executor", ["serial", "multiprocessing"])
def test_media_of_the_good_entry_outlive_a_failing_run(executor: str, tmp_path: Path) -> None:
    switch = tmp_path / "fail"

    @cached_job(executor=executor)
    def film() -> str:
        path = gen_path("film", suffix=".txt")
        Path(path).write_text("frames")
        if switch.exists():
            raise RuntimeError("projector")
        return path

    path = film()
    switch.touch()
    with pytest.raises(RuntimeError, match="projector"):
        film.refresh()
    assert film() == path
    assert Path(path).read_text() == "frames"
    media = film.cache.cache.directory / "media"
    assert len(list(media.iterdir())) == 1  # nothing is left of the run that failed
    film.forget()
    assert list(media.iterdir()) == []
    film.cache.close()


def test_a_new_run_replaces_the_media_of_the_old_one() -> None:
    @cached_job
    def film() -> str:
        path = gen_path("film", suffix=".txt")
        Path(path).write_text("frames")
        return path

    old, new = film(), film.refresh()
    assert old != new
    assert (Path(old).exists(), Path(new).exists()) == (False, True)


def test_orphans_are_what_kills_have_left_and_nothing_else(cache_folder: Path) -> None:
    script = """
        import os, signal
        from pathlib import Path
        from bencher_job import cached_job, gen_path

        @cached_job(cache_dir="CACHE")
        def film(kill):
            Path(gen_path("film")).write_bytes(b"x" * 1000)
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)

        film(False)
        film(True)
    """
    script = textwrap.dedent(script).replace("CACHE", str(cache_folder))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    seen_inside: list[dict[Path, int]] = []

    @cached_job
    def running() -> str:
        path = gen_path("film")
        Path(path).touch()
        seen_inside.append(clean_orphaned_media(cache_folder, dry_run=False))
        return path

    path = running()
    (orphans,) = seen_inside
    assert list(orphans.values()) == [1000]
    assert not any(folder.exists() for folder in orphans)
    assert Path(path).exists()
    assert clean_orphaned_media(cache_folder) == {}
    assert len(list((cache_folder / "fcache" / "media").iterdir())) == 2


def test_a_dry_run_removes_nothing(cache_folder: Path) -> None:
    @cached_job
    def film() -> None:
        Path(gen_path("film")).touch()

    film()
    media = cache_folder / "fcache" / "media"
    (run,) = media.iterdir()
    machine = run.name.split(".")[1].split("-")[0]
    elsewhere, orphan, by_hand = (
        media / name
        for name in ("0123456789abcdef.00000000-1-1.0", f"0123456789abcdef.{machine}-4194305-1.0", "my films")
    )
    for folder in (elsewhere, orphan, by_hand):
        folder.mkdir(parents=True)
    assert clean_orphaned_media(cache_folder) == {orphan: 0}
    assert orphan.exists()
    assert clean_orphaned_media(cache_folder, dry_run=False) == {orphan: 0}
    assert not orphan.exists()
    assert elsewhere.exists()  # of another machine, where it may still run
    assert by_hand.exists()  # of somebody who has put it there


KEYS = [
    "model/v1/3",
    "../../../../e",
    "/etc/passwd",
    ".",
    "..",
    "a.b.c",
    "two\nlines",
    " ",
    "\x1b[31mred",
    "ключ",
    "x" * 10_000,
    "f" * 64,
]


def files_of(cache: FutureCache, record: Record) -> list[Path]:
    assert record.media is not None
    return [path for path in (cache.directory / "media" / record.media).rglob("*") if path.is_file()]


def film_of(cache: FutureCache, key: str) -> Path:
    def film() -> str:
        path = Path(gen_path("film", "a/b", ".txt"))
        path.write_text(key)
        return str(path)

    return Path(cache.submit(Job("film", film, {}, job_key=key)).result())


@pytest.mark.given_folders
@pytest.mark.parametrize("key", KEYS)
def test_a_key_can_be_any_text_and_all_agree_on_where_its_media_are(tmp_path: Path, key: str) -> None:
    ground = tmp_path / "a" / "b" / "c" / "d" / "e"
    ground.mkdir(parents=True)
    beside = {tmp_path / "a", *(tmp_path / "a").rglob("*")}
    with (
        FutureCache(cache_dir=ground / "one", overwrite=False) as cache,
        FutureCache(cache_dir=ground / "other", overwrite=False) as other,
    ):
        path = film_of(cache, key)
        (record,) = cache.records()
        assert record.media is not None
        assert path.parent == cache.directory / "media" / record.media / "a" / "b"
        assert files_of(cache, record) == [path]
        assert cache.verify().is_clean
        assert clean_orphaned_media(ground / "one", dry_run=False) == {}
        assert path.exists()
        assert cache.export(ground / "archive.tar") == 1
        assert other.import_(ground / "archive.tar").added == 1
        (imported,) = other.records()
        assert imported.key == key
        (copy,) = files_of(other, imported)
        assert copy.read_text() == key
        assert other.verify().is_clean
        for each in (cache, other):
            assert each.clear_cache() == 1
            assert list((each.directory / "media").iterdir()) == []
    names = {"one", "other", "archive.tar"}
    made = {
        each for each in (tmp_path / "a").rglob("*") if names.isdisjoint(each.relative_to(tmp_path).parts)
    }
    assert made | {tmp_path / "a"} == beside


def test_the_folder_of_a_process_with_a_reused_number_is_an_orphan(cache_folder: Path) -> None:
    @cached_job
    def film() -> None:
        Path(gen_path("film")).touch()

    film()
    (folder,) = (cache_folder / "fcache" / "media").iterdir()
    _, process, number = folder.name.split(".")
    machine, pid, start = process.split("-")
    ours, earlier = (
        folder.with_name(f"{'0' * 16}.{machine}-{pid}-{begun}.{number}") for begun in (start, int(start) - 1)
    )
    ours.mkdir()
    earlier.mkdir()
    assert clean_orphaned_media(cache_folder) == {earlier: 0}


def drawing(cache_dir: Path) -> tuple[Any, Any, list[str]]:
    """Make two cached functions, one of which takes what the other returns, and the list of what has run."""
    ran: list[str] = []

    @cached_job(cache_dir=cache_dir, code="none")
    def draw(text: str) -> dict[str, Any]:
        ran.append("draw")
        path = gen_path("picture", suffix=".txt")
        Path(path).write_text(text)
        return {"paths": [path], "text": text}

    @cached_job(cache_dir=cache_dir, code="none")
    def read(drawn: dict[str, Any]) -> str:
        ran.append("read")
        return Path(drawn["paths"][0]).read_text()

    return draw, read, ran


@pytest.mark.given_folders
@pytest.mark.parametrize("move", [shutil.move, shutil.copytree], ids=["renamed", "copied"])
def test_paths_in_results_follow_the_cache(tmp_path: Path, move: Callable[..., object]) -> None:
    draw, read, _ = drawing(tmp_path / "a")
    assert read(draw("sun")) == "sun"
    draw.cache.close()
    move(tmp_path / "a", tmp_path / "b")

    draw, read, ran = drawing(tmp_path / "b")
    drawn = draw("sun")
    (path,) = drawn["paths"]
    assert Path(path).read_text() == "sun"
    assert Path(path).is_relative_to(tmp_path / "b")
    assert read(drawn) == "sun"
    assert ran == []


@pytest.mark.given_folders
def test_paths_that_the_user_has_pickled_follow_the_cache_that_is_open(tmp_path: Path) -> None:
    draw, _, _ = drawing(tmp_path / "a")
    kept = pickle.dumps(draw("sun"))
    draw.cache.close()
    shutil.move(tmp_path / "a", tmp_path / "b")

    draw, _, _ = drawing(tmp_path / "b")
    draw("sun")
    (path,) = pickle.loads(kept)["paths"]
    assert Path(path).is_relative_to(tmp_path / "b")
    assert Path(path).read_text() == "sun"


@pytest.mark.given_folders
def test_paths_in_results_are_those_of_imported_files(tmp_path: Path) -> None:
    draw, _, _ = drawing(tmp_path / "a")
    draw("sun")
    draw.cache.export(tmp_path / "all.tar")
    draw.cache.close()
    shutil.rmtree(tmp_path / "a")

    draw, _, ran = drawing(tmp_path / "b")
    draw.cache.import_(tmp_path / "all.tar")
    drawn = draw("sun")
    assert Path(drawn["paths"][0]).read_text() == "sun"
    assert ran == []


def test_a_path_is_a_str_and_what_is_made_of_it_is_plain() -> None:
    @cached_job(version="1")
    def draw() -> str:
        return gen_path("picture")

    path = draw()
    assert isinstance(path, str)
    assert type(path + ".png") is type(os.path.join(path, "x")) is type(f"{path}") is str
    assert pickle.loads(pickle.dumps(path)) == copy.copy(path) == path
