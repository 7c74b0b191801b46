"""A program that is killed at each point where it touches its cache, and looks after each kill what is left.

    python crash_points.py FOLDER FIRST STEP

For each number n from FIRST on, in steps: a forked child does the work in a new cache and kills itself with SIGKILL
just before its n-th file operation or SQL statement. Another child then checks the cache: it opens, no value is wrong,
what had been told as done is there, what is missing is computed once, and a repair leaves it clean. It ends with the
first n that the work doesn't reach, and prints how many kills there were; each fault is printed on a line of its own.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

# What the children would each import for themselves.
import bencher_job._origin
import bencher_job._stores.embedded
import bencher_job._stores.memory  # noqa: F401
from bencher_job import CacheWarning, FutureCache, Job, cached_job, gen_path

FILE_EVENTS = {
    "open",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
    "fcntl.flock",
}
LARGE = 100_000


@cached_job(code="none", tag="t")
def small(x: int) -> dict[str, int]:
    return {"x": x}


@cached_job(code="none", tag="t")
def large(x: int) -> bytes:
    return bytes([x]) * LARGE


@cached_job(code="none")
def picture(x: int) -> str:
    path = gen_path("picture", suffix=".txt")
    Path(path).write_text(f"picture {x}")
    return path


def identity(x: int) -> int:
    return x


def work(tell: Callable[[str], None]) -> None:
    """Do all that changes a cache, and tell of each thing that is done."""
    for x in range(3):
        small(x)
        tell(f"small {x}")
        large(x)
        tell(f"large {x}")
    picture(1)
    tell("picture 1")
    small.refresh(1)
    large.refresh(1)
    picture.refresh(1)
    with FutureCache(overwrite=False, executor="serial") as cache:
        for future in [cache.submit(Job(str(x), identity, {"x": x}, f"given {x}")) for x in range(3)]:
            future.result()
    tell("begin small")
    tell("begin large")
    small.cache.clear_tag("t")
    large.cache.clear_tag("t")
    for x in range(3, 5):
        small(x)
        tell(f"small {x}")
    picture.forget(1)
    disk = small.cache.cache.behind  # type: ignore[attr-defined]
    disk.size_limit = 1
    large(7)
    large(8)


def killed_at(n: int, folder: Path) -> bool:
    """Do the work in a folder and be killed at its n-th operation; whether it came to that."""
    child = os.fork()
    if child == 0:
        os.environ["BENCHER_JOB_CACHE_DIR"] = str(folder)
        done = os.open(folder / "done", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        count = 0
        inside = str(folder / "fcache")

        def step() -> None:
            nonlocal count
            count += 1
            if count == n:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_event(event: str, arguments: tuple[object, ...]) -> None:
            if event in FILE_EVENTS and any(inside in str(each) for each in arguments[:2]):
                step()

        connect = sqlite3.connect

        def connect_and_trace(*args: object, **kwargs: object) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)  # type: ignore[call-overload]
            connection.set_trace_callback(lambda _: step())
            return connection  # type: ignore[no-any-return]

        sqlite3.connect = connect_and_trace  # type: ignore[assignment]
        sys.addaudithook(on_event)
        try:
            work(lambda what: os.write(done, f"{what}\n".encode()) and None)
            os._exit(0)
        except BaseException:
            print(f"{n}: the work itself failed\n{traceback.format_exc()}", flush=True)
            os._exit(3)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in {0, 3}:
        print(f"{n}: the work ended with exit code {os.WEXITSTATUS(status)}", flush=True)
    return os.WIFSIGNALED(status)


def check(folder: Path) -> None:
    """Look at what a kill has left.

    Raises:
        AssertionError: when that is not what it must be.
    """
    os.environ["BENCHER_JOB_CACHE_DIR"] = str(folder)
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", CacheWarning)
    told = (folder / "done").read_text().split("\n")[:-1]
    for name, function in (("small", small), ("large", large)):
        since_clear = told[told.index(f"begin {name}") + 1 :] if f"begin {name}" in told else told
        for what in since_clear:
            kind, _, x = what.partition(" ")
            if kind == name and f"begin {name}" not in told:
                assert function.is_cached(int(x)), f"{what} was told as done, and is lost"
    assert [small(x) for x in range(6)] == [{"x": x} for x in range(6)]
    assert [large(x) for x in range(6)] == [bytes([x]) * LARGE for x in range(6)]
    assert Path(picture(1)).read_text() == "picture 1"
    info = small.cache.info()
    assert info.damaged == 0, f"{info.damaged} entries were damaged"
    assert [small.is_cached(x) for x in range(6)] == [True] * 6
    with FutureCache(overwrite=False) as cache:
        audit = cache.verify(repair=True)
        assert audit is not None
        again = cache.verify()
        assert again.is_clean, str(again)


def main(folder: Path, first: int, step: int) -> None:
    n = first
    while killed_at(n, made(folder / str(n))):
        child = os.fork()
        if child == 0:
            try:
                check(folder / str(n))
                os._exit(0)
            except BaseException:
                print(f"{n}: {traceback.format_exc()}", flush=True)
                os._exit(3)
        os.waitpid(child, 0)
        n += step
    print(f"killed {(n - first) // step} times", flush=True)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
