"""System calls fail on the files of a cache: each caller gets the right value, and what is kept is sound."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.programs import Programs

SOURCE = Path(__file__).parent / "failing_calls.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")

CALLS = [
    ("open", errno.EMFILE),
    ("open", errno.EACCES),
    ("open", errno.ENOSPC),
    ("write", errno.ENOSPC),
    ("write", errno.EIO),
    ("read", errno.EIO),
    ("fsync", errno.EIO),
    ("ftruncate", errno.ENOSPC),
    ("flock", errno.ENOLCK),
    ("lock", errno.EIO),
    ("lock", errno.ENOLCK),
    ("seek", errno.EIO),
    ("stat", errno.ESTALE),
    ("rename", errno.EIO),
    ("link", errno.EPERM),
    ("unlink", errno.EIO),
    ("mkdir", errno.ENOSPC),
]

WORK = """
    import warnings
    warnings.simplefilter("ignore")

    @cached_job(code="none", executor=os.environ.get("EXECUTOR", "serial"))
    def small(x):
        count("ran")
        return {"x": x}

    @cached_job(code="none")
    def large(x):
        count("ran")
        return bytes([x]) * 200_000

    @cached_job(code="none")
    def picture(x):
        count("ran")
        try:
            path = gen_path("picture", suffix=".txt")
            Path(path).write_text(str(x))
        except OSError:  # the job's own files fail as well
            return None
        return path

    def work():
        assert [small(x) for x in range(8)] == [{"x": x} for x in range(8)]
        assert list(small.map(range(10))) == [{"x": x} for x in range(10)]
        assert [large(x) for x in range(4)] == [bytes([x]) * 200_000 for x in range(4)]
        for x in range(2):
            path = picture(x)
            try:
                assert path is None or Path(path).read_text() in {"", str(x)}
            except OSError:
                pass
        assert [small.refresh(x) for x in range(2)] == [{"x": x} for x in range(2)]
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets system calls fail."""
    made = tmp_path_factory.mktemp("shim") / "failing_calls.so"
    assert COMPILER is not None
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", made, SOURCE, "-ldl"], check=True)
    return made


def test_calls_on_a_file_of_the_folder_fail(programs: Programs, shim: Path) -> None:
    """So that the tests below test something."""
    (programs.folder / "cachedir").mkdir()
    (programs.folder / "cachedir" / "file").write_text("content")
    (programs.folder / "failing").touch()
    source = """
    import fcntl
    path = os.environ["FAIL_UNDER"] + "/file"
    del os.environ["FAIL_CALL"]
    file = os.open(path, os.O_RDWR)
    calls = {
        "open": lambda: os.open(path, os.O_RDONLY),
        "write": lambda: os.write(file, b"x"),
        "read": lambda: os.read(file, 1),
        "fsync": lambda: os.fsync(file),
        "ftruncate": lambda: os.ftruncate(file, 1),
        "flock": lambda: fcntl.flock(file, fcntl.LOCK_EX),
        "seek": lambda: os.lseek(file, 0, os.SEEK_END),
        "stat": lambda: os.stat(path),
        "lock": lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
        "rename": lambda: os.rename(path, path + "2"),
        "link": lambda: os.link(path, path + "2"),
        "unlink": lambda: os.unlink(path),
        "mkdir": lambda: os.mkdir(path + "2"),
    }
    for name, number in zip(sys.argv[2::2], sys.argv[3::2]):
        os.environ.update(FAIL_CALL=name, FAIL_ERRNO=number)
        try:
            calls[name]()
        except OSError as error:
            print(name, error.errno)
    """
    words = [str(word) for call in CALLS for word in call]
    program = programs.start("program", source, *words, **failing(programs, shim, "open", 1, 1))
    assert programs.output(program).split() == words


def failing(programs: Programs, shim: Path, call: str, number: int, every: int) -> dict[str, str]:
    """Give the environment of a program one of whose system calls fails."""
    return {
        "LD_PRELOAD": str(shim),
        "FAIL_UNDER": str(programs.folder / "cachedir"),
        "FAIL_CALL": call,
        "FAIL_ERRNO": str(number),
        "FAIL_EVERY": str(every),
        "FAIL_WHILE": str(programs.folder / "failing"),
    }


@pytest.mark.parametrize(("call", "number"), CALLS, ids=[f"{call} {errno.errorcode[n]}" for call, n in CALLS])
def test_a_value_always_arrives_and_what_is_kept_is_sound(
    programs: Programs, shim: Path, call: str, number: int
) -> None:
    """Each third call fails in a new cache, and then each one in the cache with its entries."""
    source = f"""{WORK}
    def meet_failures(every):
        os.environ["FAIL_EVERY"] = str(every)
        (HERE / "failing").touch()
        work()
        (HERE / "failing").unlink()
        work()

    def look_after(every):
        work()
        small.cache.verify(repair=True)
        again = small.cache.verify()
        assert again.is_clean, str(again)
        before = [Path(HERE / "count.ran").stat().st_size, small.cache.info().damaged]
        assert [small(x) for x in range(8)] == [{{"x": x}} for x in range(8)]
        assert [large(x) for x in range(4)] == [bytes([x]) * 200_000 for x in range(4)]
        assert before == [Path(HERE / "count.ran").stat().st_size, 0]

    for every in (3, 1):
        for act in (meet_failures, look_after):
            child = os.fork()
            if child == 0:
                act(every)
                sys.exit()
            assert os.waitpid(child, 0)[1] == 0, (act, every)
    """
    programs.output(programs.start("program", source, **failing(programs, shim, call, number, 1)))


SMALL_FILES = [
    "generation",
    "owners",
    "cache.db",
    "cache.db-wal",
    ".gitignore",
    "CACHEDIR.TAG",
    "damaged",
    "media",
]


@pytest.mark.parametrize("name", SMALL_FILES)
def test_a_link_that_leads_nowhere_stops_nobody(programs: Programs, name: str) -> None:
    store = programs.folder / "cachedir" / "fcache"
    store.mkdir(parents=True, mode=0o700)
    (store / name).symlink_to("/nowhere/to/be/found")
    programs.output(
        programs.start("program", f"{WORK}\n    work()\n    small.cache.info()\n    small.cache.close()")
    )


@pytest.mark.parametrize(
    ("call", "number"), [("seek", errno.EIO), ("stat", errno.ESTALE), ("read", errno.EIO)]
)
def test_whatever_a_cache_is_asked_it_answers_in_its_own_words(
    programs: Programs, shim: Path, call: str, number: int
) -> None:
    """Calls of functions never fail; questions may, with an error of this library."""
    programs.output(programs.start("before", f"{WORK}\n    work()"))
    (programs.folder / "failing").touch()
    source = f"""{WORK}
    from bencher_job import BencherJobError
    cache = small.cache
    small(1)
    for ask in (
        cache.info, cache.stats, cache.functions, cache.call_info, lambda: list(cache.records()), cache.verify,
        lambda: small.is_cached(1), lambda: small.explain(1), lambda: small.forget(1), lambda: small.explain(1),
        lambda: cache.clear_tag("none"), lambda: cache.prefetch(["a"]), lambda: small.map.plan(range(3)), cache.close,
        lambda: cache.export(HERE / "file.tar"), cache.clear_cache, cache.verify, cache.close,
    ):
        try:
            ask()
        except (BencherJobError, AttributeError):
            pass
    """
    programs.output(programs.start("asking", source, **failing(programs, shim, call, number, 2)))
