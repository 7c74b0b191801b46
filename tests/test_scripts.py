"""Scripts that are also imported: each copy of the file gets objects of its own classes, and no job runs again."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.environment import unmeasured

SCRIPT = """
    import dataclasses, enum, os, sys
    from bencher_job import Executors, Job, FutureCache, cached_job

    class Color(enum.Enum):
        RED = 1

    @dataclasses.dataclass
    class Point:
        x: object

    class Outer:
        class Inner(Point):
            pass

    def helper():
        pass

    VALUES = {
        "enum": lambda: Color.RED,
        "dataclass": lambda: Point(1),
        "class": lambda: Color,
        "function": lambda: helper,
        "inner": lambda: Outer.Inner(Color.RED),
        "nested": lambda: [{"a": (Color.RED, Point({Color.RED}))}, "__main__", "colors"],
        "large": lambda: [Point(b"x" * 3_000_000), Color.RED],
        "plain": lambda: ["__main__", "colors", 1],
    }

    options = {}
    if os.environ.get("EXECUTOR"):
        options["executor"] = os.environ["EXECUTOR"]
    if os.environ.get("START_METHOD"):
        options["start_method"] = os.environ["START_METHOD"]

    @cached_job(**options)
    def make(kind):
        with open(os.environ["RUNS"], "a") as runs:
            print(kind, file=runs)
        return VALUES[kind]()

    @cached_job()
    def outer(kind):
        return type(make(kind)).__qualname__, make(kind) == VALUES[kind]()

    def check():
        mine = {kind: value() for kind, value in VALUES.items()}
        for _ in range(4):  # computed or found, found in memory, known by its bytes
            assert {kind: make(kind) for kind in VALUES} == mine
        assert [make(kind) for kind in VALUES] == list(make.map(list(VALUES)))
        make.cache.close()
        assert {kind: make(kind) for kind in VALUES} == mine  # from the disk
        assert Color.RED in make("nested")[0]["a"]

    if __name__ == "__main__":
        for what in sys.argv[1:]:
            if what == "self":
                check()
            else:
                import colors
                assert colors.Color is not Color
                colors.check()
"""

OTHER = """
    import colors

    if __name__ == "__main__":
        colors.check()
"""


class Scripts:
    """A folder with a script, another one that imports it, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "colors.py").write_text(textwrap.dedent(SCRIPT))
        (folder / "other.py").write_text(textwrap.dedent(OTHER))

    def run(self, *command: str, **environment: str) -> None:
        run = subprocess.run(
            [sys.executable, "-W", "error", *command],
            cwd=self.folder,
            env={
                **unmeasured(),
                "RUNS": str(self.folder / "runs"),
                "BENCHER_JOB_CACHE_DIR": str(self.folder / "cachedir"),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr

    def runs(self) -> list[str]:
        return sorted((self.folder / "runs").read_text().split())


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


KINDS = sorted(["enum", "dataclass", "class", "function", "inner", "nested", "large", "plain"])
AS_PROGRAM = ("colors.py", "self")
IMPORTED = ("other.py",)
SERIAL: dict[str, str] = {}
SPAWNED = {"EXECUTOR": "multiprocessing"}
FORKED = {"EXECUTOR": "multiprocessing", "START_METHOD": "fork"}
THREADS = {"EXECUTOR": "threads"}


@pytest.mark.parametrize(
    ("first", "second", "executor"),
    [
        (AS_PROGRAM, IMPORTED, SERIAL),
        (IMPORTED, AS_PROGRAM, SERIAL),
        (("-m", "colors", "self"), IMPORTED, SERIAL),
        (AS_PROGRAM, ("colors.py", "import", "self"), SERIAL),
        (IMPORTED, ("colors.py", "self", "import"), SERIAL),
        *((AS_PROGRAM, ("colors.py", "import", "self"), executor) for executor in (SPAWNED, FORKED)),
        *((("colors.py", "import", "self"), AS_PROGRAM, executor) for executor in (SPAWNED, FORKED, THREADS)),
    ],
    ids=repr,
)
def test_each_copy_of_a_script_gets_its_own_classes_and_no_job_runs_twice(
    scripts: Scripts, first: tuple[str, ...], second: tuple[str, ...], executor: dict[str, str]
) -> None:
    scripts.run(*first, **executor)
    scripts.run(*second, **executor)
    assert scripts.runs() == KINDS


def test_a_renamed_script_runs_its_jobs_anew(scripts: Scripts) -> None:
    scripts.run(*AS_PROGRAM)
    (scripts.folder / "colors.py").rename(scripts.folder / "hues.py")
    scripts.run("hues.py", "self")
    assert scripts.runs() == sorted(KINDS * 2)


def test_a_job_in_a_worker_that_calls_another_gets_the_classes_of_the_program(scripts: Scripts) -> None:
    path = scripts.folder / "colors.py"
    path.write_text(path.read_text().replace("@cached_job()", '@cached_job(executor="multiprocessing")'))
    path.write_text(path.read_text() + "    assert outer('enum') == ('Color', True)\n")
    scripts.run(*IMPORTED)
    scripts.run(*AS_PROGRAM)
    assert scripts.runs() == KINDS


def test_a_module_of_the_name_of_the_program_in_another_folder_is_another_one(scripts: Scripts) -> None:
    (scripts.folder / "elsewhere").mkdir()
    (scripts.folder / "elsewhere" / "colors.py").write_text(
        textwrap.dedent("""
            import sys
            sys.path.remove(sys.path[0])
            sys.path.insert(0, ".")
            class Color:
                pass
            import colors
            colors.check()
        """)
    )
    scripts.run(*AS_PROGRAM)
    scripts.run("elsewhere/colors.py")
    assert scripts.runs() == KINDS
