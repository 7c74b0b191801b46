"""Measures shared stores, on servers of this machine, beside cachier's core for the same engine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keys import body
from measuring import OURS, Figure, figures, seconds_per_call
from memoizing import LIMIT

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.shared.servers import BUCKET, Postgres, Seaweed, Server

ENGINES = ("folder", "PostgreSQL", "S3")
BULK = "10,000 hits of a shared store in bulk, PostgreSQL"
WITHOUT = "without one"
ROUNDS = [range(start, start + 20) for start in range(0, 200, 20)]
MANY = 10_000
MOST_SECONDS = 0.3


@contextmanager
def started(server: Server) -> Iterator[Any]:
    try:
        server.start()
        yield server
    finally:
        server.close()


def cached(shared: str, local: Path) -> Any:
    import bencher_job

    return bencher_job.cached_job(cache_dir=local, shared=shared)(body)


def bench_shared(folder: Path) -> Iterator[Figure]:
    """A job that nobody has computed, and then what another machine has: each key once."""
    from cachier import cachier

    os.environ["BENCHER_JOB_SECRET"] = "s" * 32
    (folder / "theirs").mkdir()
    (folder / "team").mkdir()
    on_disk = cachier(backend="pickle", cache_dir=folder / "theirs", separate_files=True)(body)
    yield from bench_engine("folder", str(folder / "team"), folder, on_disk)
    with started(Postgres()) as postgres:
        from bencher_job._shared import init_remote, shared_signature

        init_remote(postgres.url(), mark=shared_signature(postgres.url()).shared_mark)
        in_rows = cachier(backend="sql", sql_engine=postgres.url().replace("://", "+psycopg://"))(body)
        yield from bench_engine("PostgreSQL", postgres.url(), folder, in_rows)
        yield from bench_bulk(postgres.url(), folder)
    with started(Seaweed()) as seaweed:
        import boto3

        os.environ.update(seaweed.settings())
        client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
        in_bucket = cachier(backend="s3", s3_bucket=BUCKET, s3_client=client)(body)
        yield from bench_engine("S3", f"s3://{BUCKET}/ours", folder, in_bucket)


def bench_engine(name: str, shared: str, folder: Path, theirs: Callable[..., Any]) -> Iterator[Figure]:
    first, second = (cached(shared, folder / f"{name}-{number}") for number in (1, 2))
    theirs(-1), first(-1), second(-1)  # connects
    peers = {OURS: first, "cachier": theirs}
    yield from figures(f"computed job of a shared store, {name}", seconds_per_call(peers, ROUNDS))
    first.cache.close()
    peers = {OURS: second, "cachier": theirs}
    yield from figures(f"hit of a shared store, {name}", seconds_per_call(peers, ROUNDS))
    if name == "folder":
        alone = cached("", folder / "alone")
        for number in ROUNDS[0]:
            alone(number)
        peers = {OURS: second, WITHOUT: alone}
        yield from figures("local hit before a shared store", seconds_per_call(peers, [ROUNDS[0]] * 41))
    second.cache.close()


def bench_bulk(shared: str, folder: Path) -> Iterator[Figure]:
    alone = cached("", folder / "bulk-1")
    list(alone.map(range(MANY)))
    alone.cache.close()
    first, second = (cached(shared, folder / f"bulk-{number}") for number in (1, 2))
    first.cache.cache.behind.push_all()
    first.cache.close()
    second(-1)
    keys = [second.key(number) for number in range(MANY)]
    start = time.perf_counter()
    second.cache.prefetch(keys)
    yield from figures(BULK, {OURS: time.perf_counter() - start, LIMIT: MOST_SECONDS})
    second.cache.close()
