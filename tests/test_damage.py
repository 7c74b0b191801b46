"""Files of a cache are damaged at random while three programs use it: no value is wrong, none fails, and it heals."""

from __future__ import annotations

import glob
import os
import random
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bencher_job import CacheWarning, cached_job
from tests.programs import Programs, until

ROUNDS = 6
"""For each kind of file; with --soak 60 four times as many."""

WORK = """
    import random, warnings
    warnings.simplefilter("ignore")
    chance = random.Random(NAME)

    def expected(x):
        return {"x": x, "bytes": bytes([x % 256]) * (100_000 if x % 5 == 0 else 1000)}

    @cached_job(code="none")
    def job(x):
        return expected(x)

    @cached_job(code="none")
    def picture(x):
        path = gen_path("picture")
        Path(path).write_text(str(x))
        return path
"""

USE = f"""{WORK}
    while not (HERE / "stop").exists():
        some = [chance.randrange(300) for _ in range(20)]
        assert [job(x) for x in some] == [expected(x) for x in some]
        assert list(job.map(some)) == [expected(x) for x in some]
        picture(chance.randrange(30))
        try:
            job.explain(some[0])
        except BencherJobError:  # which a question may raise of a store that can't be read
            pass
        if chance.random() < 0.1:
            job.cache.close()
        if chance.random() < 0.05:
            job.refresh(some[0])
        count(NAME)
"""

CHECK = f"""{WORK}
    assert [job(x) for x in range(300)] == [expected(x) for x in range(300)]
    job.cache.verify(repair=True)
    assert [job(x) for x in range(300)] == [expected(x) for x in range(300)]
    again = job.cache.verify()
    assert again.is_clean, str(again)
    job.cache.close()
    damaged = job.cache.info().damaged
    assert [job(x) for x in range(300)] == [expected(x) for x in range(300)]
    print(job.cache.info().damaged - damaged, all(job.is_cached(x) for x in range(300)))
"""


def write_noise(path: Path, chance: random.Random) -> None:
    """Write over some places; SQLite's first page names the version of our tables, which is left as it is."""
    size = path.stat().st_size
    first = 4096 if path.name == "cache.db" else 0
    if size <= first:
        return
    with open(path, "r+b") as file:
        for _ in range(chance.choice([1, 5, 40])):
            file.seek(chance.randrange(first, size))
            file.write(chance.randbytes(chance.choice([1, 8, 300])))


def cut_off(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.choice([0, path.stat().st_size // 2]))


def empty(path: Path, _: random.Random) -> None:
    os.truncate(path, 0)


def remove(path: Path, _: random.Random) -> None:
    path.unlink()


Harm = Callable[[Path, random.Random], None]

# Not cut off: SQLite maps its log's index, and the kernel ends a program that reads behind the end of a map.
FILES: dict[str, tuple[Harm, ...]] = {
    "cache.db": (write_noise, write_noise, empty, remove),
    "cache.db-wal": (write_noise, cut_off),
    "cache.db-shm": (write_noise,),
    "generation": (write_noise, cut_off, remove),
    "owners": (write_noise, cut_off, remove),
    "*/*/*.val": (write_noise, cut_off, remove),
    "media/*/*": (remove,),
    "*": (write_noise,),
}


def reverse_index_of_keys(database: Path) -> None:
    """Leave the index of keys in the wrong order, so that SQLite finds other rows than those that it looks for."""
    name = "Cache_key_raw"
    with closing(sqlite3.connect(database, isolation_level=None)) as con:
        ((statement,),) = con.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchall()
        con.execute(f"DROP INDEX {name}")
        con.execute(statement.replace("(key,", "(key DESC,"))
        con.execute("PRAGMA writable_schema = ON")
        con.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (statement, name))


def test_an_index_that_leads_to_other_rows_gives_no_wrong_value(cache_folder: Path) -> None:
    @cached_job(code="none")
    def job(x: int) -> dict[str, int]:
        return {"x": x}

    for x in range(20):
        job(x)
    job.cache.close()
    reverse_index_of_keys(cache_folder / "fcache" / "cache.db")

    with pytest.warns(CacheWarning, match="index of keys leads to the row of another key"):
        values = [job(x) for x in range(20)]
    assert values == [{"x": x} for x in range(20)]
    job.cache.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [job(x) for x in range(20)] == values


def test_verify_finds_and_mends_an_index_that_leads_to_other_rows(cache_folder: Path) -> None:
    @cached_job(code="none")
    def job(x: int) -> int:
        return x

    for x in range(20):
        job(x)
    job.cache.close()
    reverse_index_of_keys(cache_folder / "fcache" / "cache.db")

    assert not job.cache.verify().is_clean
    with pytest.warns(CacheWarning, match="database of .* is damaged"):
        job.cache.verify(repair=True)
    assert job.cache.verify().is_clean
    assert all(job.is_cached(x) for x in range(20))


def test_an_emptied_database_is_made_again_while_another_program_reads_on(programs: Programs) -> None:
    """What it reads lies in SQLite's memory, so that it would not find out, and keep others from making the tables."""
    source = """
        @cached_job(code="none")
        def job(x):
            return x

        assert [job(x) for x in range(50)] == list(range(50))
    """
    reads = """
        from contextlib import suppress
        from bencher_job._stores import LeasesUnavailable
        from bencher_job._stores.embedded import DiskStore

        leases = DiskStore(HERE / "cachedir" / "fcache", size_limit=10**9).leases
        while not (HERE / "stop").exists():
            with suppress(LeasesUnavailable):
                leases.running()
            count("looks")
            time.sleep(0.002)
    """
    programs.output(programs.start("first", source))
    reader = programs.start("reader", reads)
    assert until(lambda: programs.count("looks") > 10)
    os.truncate(programs.folder / "cachedir" / "fcache" / "cache.db", 0)

    programs.output(programs.start("writer", source))
    programs.tell("stop")
    programs.output(reader)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("is_database", [True, False], ids=["database", "other files"])
def test_random_damage_under_three_programs(
    programs: Programs, is_database: bool, request: pytest.FixtureRequest
) -> None:
    rounds = ROUNDS * (4 if request.config.getoption("--soak") >= 60 else 1)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    kinds = [kind for kind in FILES if kind.startswith("cache.db") == is_database] * rounds
    chance.shuffle(kinds)
    names = [f"p{number}" for number in range(3)]
    running = [programs.start(name, USE) for name in names]
    store = programs.folder / "cachedir" / "fcache"
    for kind in kinds:
        before = [programs.count(name) for name in names]

        def have_gone_on(before: list[int] = before) -> bool:
            assert all(program.poll() is None for program in running), programs.errors()
            return all(programs.count(name) > was for name, was in zip(names, before, strict=True))

        assert until(have_gone_on, seconds=60)
        found = [path for path in map(Path, glob.glob(f"{store}/{kind}")) if path.is_file()]
        if found:
            harm = chance.choice(FILES[kind])
            try:
                harm(chance.choice(found), chance)
            except FileNotFoundError:  # replaced just now
                pass
    programs.tell("stop")
    for program in running:
        programs.output(program)
    assert programs.output(programs.start("check", CHECK)) == "0 True"
