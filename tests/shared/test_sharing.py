"""Caches of several machines on one shared store: each is a program with a cache directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bencher_job._shared import init_remote
from bencher_job._stores.signature import Signature
from tests.programs import Programs

from .machines import Place
from .proxy import Proxy
from .servers import TwoMounts

SECRET = "s" * 32

F = """
    import json, warnings

    @cached_job(tag="shared", version="1")
    def work(x):
        count("run")
        time.sleep(SECONDS)
        return {"x": x, "bytes": bytes([x % 256]) * 1000}

    def expected(xs):
        return [{"x": x, "bytes": bytes([x % 256]) * 1000} for x in xs]
"""


def program(source: str, seconds: float = 0.0) -> str:
    return textwrap.dedent(F).replace("SECONDS", str(seconds)) + textwrap.dedent(source)


class Hosts(Programs):
    """Programs that share a store and nothing else."""

    shared = ""
    environment: dict[str, str]

    def on(self, host: str, source: str, *arguments: str, **environment: str):  # type: ignore[no-untyped-def]
        given = {
            "BENCHER_JOB_SHARED": self.shared,
            "BENCHER_JOB_CACHE_DIR": str(self.folder / host),
            "BENCHER_JOB_SECRET": SECRET,
            **self.environment,
            **environment,
        }
        return self.start(host, source, *arguments, **given)


def hosts_at(folder: Path, place: Place) -> Hosts:
    """Programs that use a place. On PostgreSQL it is a database of the test's own, with its tables."""
    each = Hosts(folder)
    each.shared, each.environment = place.url, dict(place.environment)
    if place.schema:
        import psycopg

        with psycopg.connect(place.url, autocommit=True) as connection:
            connection.execute(f"create database {place.schema}")
        each.shared = place.url.replace("/postgres", f"/{place.schema}")
        init_remote(each.shared, mark=Signature(SECRET.encode()).shared_mark)
    return each


@pytest.fixture
def everywhere(tmp_path: Path, place: Place) -> Iterator[Hosts]:
    each = hosts_at(tmp_path, place)
    yield each
    each.end()


@pytest.fixture
def hosts(tmp_path: Path, few: Place) -> Iterator[Hosts]:
    each = hosts_at(tmp_path, few)
    yield each
    each.end()


@pytest.fixture
def few_hosts(tmp_path: Path, few: Place) -> Iterator[Hosts]:
    """Programs on one engine of names and on one of rows: what is above the engines is the same for all."""
    each = hosts_at(tmp_path, few)
    yield each
    each.end()


def test_what_one_machine_has_computed_is_a_hit_on_the_others(everywhere: Hosts) -> None:
    hosts = everywhere
    compute = program("""
    assert list(work.map(range(20))) == expected(range(20))
    assert work(20) == expected([20])[0]
    work.cache.close()
    """)
    look = program("""
    assert work(20) == expected([20])[0]
    assert list(work.map(range(20))) == expected(range(20))
    (record,) = work.cache.records(where={"x": 3})
    assert (record.tag, record.seconds > 0) == ("shared", True)
    assert work.explain(3).is_hit
    info = work.cache.info()
    print(json.dumps([info.computed, info.hits, info.shared.hits, info.shared.outbox]))
    """)
    hosts.output(hosts.on("a", compute))
    assert hosts.count("run") == 21
    for host in ("b", "c"):
        assert json.loads(hosts.output(hosts.on(host, look))) == [0, 21, 21, 0]
    assert hosts.count("run") == 21


def test_peek_needs_no_local_store(few_hosts: Hosts) -> None:
    few_hosts.output(few_hosts.on("a", program("work(1); work.cache.close()")))
    look = program("print(work.peek(1) == expected([1])[0], work.peek(2))")
    assert few_hosts.output(few_hosts.on("b", look)) == "True None"


def test_one_computation_per_key_over_all_machines(everywhere: Hosts) -> None:
    hosts = everywhere
    share = program(
        """
    tell("is ready")
    wait_for("go")
    assert list(work.map(range(20))) == expected(range(20))
    print(work.cache.info().shared)
    """,
        seconds=0.1,  # short jobs are not shared
    )
    running = [hosts.on(f"h{number}", share) for number in range(3)]
    for number in range(3):
        hosts.wait_for(f"h{number}.is ready")
    hosts.tell("go")
    told = [hosts.output(each) for each in running]
    assert hosts.count("run") == 20, told


def test_jobs_of_workers_may_call_functions_that_are_shared_too(few_hosts: Hosts) -> None:
    """Each runs once, in a worker or in line, and is a hit on other machines."""
    source = """
    @cached_job(version="1")
    def part(x):
        count("part")
        time.sleep(0.06)
        return x * 10

    @cached_job(version="1", executor="multiprocessing", max_workers=2)
    def whole(x):
        count("whole")
        time.sleep(0.06)  # short jobs, as those whose parts are stored would be, may run twice
        return part(x // 2) + part(x // 3) + x

    if __name__ == "__main__":
        wait_for("go")
        assert list(whole.map(range(12))) == [x // 2 * 10 + x // 3 * 10 + x for x in range(12)]
        assert [part(x) for x in range(6)] == [x * 10 for x in range(6)]
        whole.cache.close()
    """
    running = [few_hosts.on(name, source) for name in ("a", "b")]
    few_hosts.tell("go")
    for each in running:
        few_hosts.output(each)
    counts = few_hosts.count("part"), few_hosts.count("whole")
    few_hosts.output(few_hosts.on("c", source))
    assert counts == (few_hosts.count("part"), few_hosts.count("whole")) == (6, 12)


def test_the_first_result_wins(few_hosts: Hosts) -> None:
    source = """
    import os, warnings

    @cached_job(version="1")
    def draw():
        return os.getpid()

    wait_for("go")
    first = draw()
    tell("has drawn")
    wait_for("all")
    draw.cache.close()
    print(first, draw())
    """
    running = [few_hosts.on(f"h{number}", source) for number in range(3)]
    few_hosts.tell("go")
    for number in range(3):
        few_hosts.wait_for(f"h{number}.has drawn")
    few_hosts.tell("all")
    drawn = {few_hosts.output(each).split()[1] for each in running}
    assert len(drawn) == 1


def test_what_is_shared_is_listed(few_hosts: Hosts) -> None:
    """As local entries are, but for what a shared store doesn't count."""
    few_hosts.output(few_hosts.on("a", program("work(1); work(2); work.cache.close()")))
    given = (
        os.environ
        | few_hosts.environment
        | {"BENCHER_JOB_SHARED": few_hosts.shared, "BENCHER_JOB_SECRET": SECRET}
    )
    listing = [
        sys.executable,
        "-m",
        "bencher_job",
        "ls",
        "--cache-dir",
        str(few_hosts.folder / "none"),
        "--shared",
    ]

    def listed(*arguments: str) -> str:
        return subprocess.run(
            [*listing, *arguments], check=True, env=given, capture_output=True, text=True
        ).stdout

    (function,) = json.loads(listed("--json"))["functions"]
    assert (function["name"], function["entries"], function["cache"]) == ("program.work", 2, few_hosts.shared)
    assert function["size"] > 2000
    del listing[-1]
    listing[-1] = str(few_hosts.folder / "a")
    (local,) = json.loads(listed("--json"))["functions"]
    assert (local.keys(), local["name"]) == (function.keys(), function["name"])
    listing.append("--shared")
    assert "1 function, 2 entries" in listed(few_hosts.shared)
    few_hosts.output(few_hosts.on("b", program("work(1); work(2); work.cache.close()")))
    listing[3:] = ["stats", "--cache-dir", str(few_hosts.folder / "b")]
    (figures,) = json.loads(listed("--json"))["caches"]
    assert figures["shared"] == [
        {"place": few_hosts.shared, "hits": 2, "superseded": 0, "outbox": 0, "problem": ""}
    ]


def test_removals_travel(hosts: Hosts) -> None:
    hosts.output(hosts.on("a", program("work(1); work(2); work.cache.close()")))
    hosts.output(hosts.on("b", program("work(1); work(2); work.cache.close()")))
    hosts.output(hosts.on("a", program("assert work.cache.clear_cache() == 2; work.cache.close()")))
    assert hosts.count("run") == 2
    hosts.output(hosts.on("c", program("work(1)")))
    assert hosts.count("run") == 3


def test_media_come_along(hosts: Hosts) -> None:
    source = """
    @cached_job(version="1")
    def draw(x):
        count("run")
        path = gen_path("picture", suffix=".txt")
        Path(path).write_text(f"picture {x}")
        return x

    draw(3)
    (record,) = draw.cache.records()
    (file,) = (draw.cache.directory / "media" / record.media).rglob("*.txt")
    assert file.read_text() == "picture 3"
    draw.cache.close()
    """
    hosts.output(hosts.on("a", source))
    hosts.output(hosts.on("b", source))
    assert hosts.count("run") == 1


def test_large_values_come_along(hosts: Hosts) -> None:
    source = """
    import numpy as np

    @cached_job(version="1")
    def table(x):
        count("run")
        return np.full(3_000_000, x, dtype="float64")

    assert (table(2) == np.full(3_000_000, 2.0)).all()
    table.cache.close()
    """
    hosts.output(hosts.on("a", source))
    hosts.output(hosts.on("b", source))
    assert hosts.count("run") == 1


def test_jobs_go_on_without_the_server_and_are_pushed_later(
    network: tuple[Place, Place, Proxy], tmp_path: Path
) -> None:
    direct, through, proxy = network
    hosts = hosts_at(tmp_path, direct)
    if direct.schema:
        server = direct.url.partition("@")[2].partition("/")[0]
        hosts.shared = hosts.shared.replace(server, f"127.0.0.1:{proxy.port}")
    hosts.environment = dict(through.environment)
    try:
        proxy.refuse()
        source = program("""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begin = time.monotonic()
        assert list(work.map(range(200))) == expected(range(200))
        seconds = time.monotonic() - begin
        info = work.cache.info().shared
        work.cache.close()
    told = [str(each.message) for each in caught if issubclass(each.category, CacheWarning)]
    print(json.dumps([info.outbox, bool(info.problem), len([text for text in told if "can't be reached" in text])]))
    """)
        assert json.loads(hosts.output(hosts.on("a", source))) == [200, True, 1]
        proxy.is_refusing = False
        source = program("work(0); work.cache.close(); print(work.cache.info().shared.outbox)")
        assert hosts.output(hosts.on("a", source)) == "0"
        hosts.output(hosts.on("b", program("assert list(work.map(range(200))) == expected(range(200))")))
        assert hosts.count("run") == 200
    finally:
        hosts.end()


@pytest.mark.parametrize(
    ("shared", "fact"),
    [
        ("ftp://somewhere/x", "unknown kind"),
        ("postgresql://me:secret@localhost/x", "password in its URL"),
        ("s3://", "names no bucket"),
        ("s3://bucket/x", "entries are not signed"),
        ("open", "entries are not signed"),
    ],
)
def test_a_wrong_configuration_is_an_error_at_once(tmp_path: Path, shared: str, fact: str) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    source = """
    @cached_job(shared=sys.argv[2])
    def work(x):
        return x

    try:
        work(1)
    except SharedStoreError as error:
        print(error)
        assert error.remedy
    """
    programs = Programs(tmp_path)
    try:
        assert fact in programs.output(programs.start("a", source, shared))
    finally:
        programs.end()


def test_forged_entries_are_refused(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    hosts.shared, hosts.environment = str(tmp_path / "team"), {}
    try:
        hosts.output(hosts.on("a", program("assert list(work.map(range(10))) == expected(range(10))")))
        entries = sorted((tmp_path / "team" / "e").rglob("*"))
        entries = [path for path in entries if path.is_file()]
        assert len(entries) == 10
        for number, path in enumerate(entries):
            content = bytearray(path.read_bytes())
            content[len(content) * number // 10] ^= 1
            path.write_bytes(content)
        source = program("""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(work.map(range(10))) == expected(range(10))
    print(len([each for each in caught if "can't be used" in str(each.message)]))
    """)
        assert int(hosts.output(hosts.on("b", source))) >= 1
        assert hosts.count("run") == 20
        assert [path.exists() for path in entries] == [True] * 10
    finally:
        hosts.end()


def test_a_cache_directory_on_a_network_file_system_is_shared(two_mounts: TwoMounts, tmp_path: Path) -> None:
    """Two hosts, each with its own mount, and no option; the second goes on when the first idles, or has ended."""
    first, second = (Path(mount) / "results" for mount in two_mounts.mounts)
    hosts = Hosts(tmp_path)
    share = program(
        """
    import logging
    logging.basicConfig(level=logging.INFO, filename=HERE / f"{NAME}.log")
    assert list(work.map(range(50))) == expected(range(50))
    tell("has begun")
    wait_for("go")
    assert [work(x) for x in range(200)] == expected(range(200))
    info = work.cache.info()
    assert info.entries == 200
    print(info.shared.place)
    """
    )
    try:
        a = hosts.start(
            "a", share, BENCHER_JOB_CACHE_DIR=str(first), BENCHER_JOB_LOCAL_DIR=str(tmp_path / "a")
        )
        hosts.wait_for("a.has begun")
        b = hosts.start(
            "b", share, BENCHER_JOB_CACHE_DIR=str(second), BENCHER_JOB_LOCAL_DIR=str(tmp_path / "b")
        )
        hosts.wait_for("b.has begun")
        hosts.tell("go")
        assert [hosts.output(a), hosts.output(b)] == [str(first / "fcache"), str(second / "fcache")]
        assert hosts.count("run") >= 200
        for mount in (first, second):
            assert not [path for path in mount.rglob("*") if "cache.db" in path.name]
            assert len([path for path in (mount / "fcache" / "e").rglob("*") if path.is_file()]) == 200
        said = (tmp_path / "a.log").read_text()
        assert said.count("network file system") == 1
    finally:
        hosts.end()
