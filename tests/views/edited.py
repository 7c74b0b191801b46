"""A study whose code changes between runs, for tests of what shows a cache."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from tests.programs import until
from tests.shell import Shell

STUDY = """
    import time
    from pathlib import Path

    from bencher_job import cached_job

    @cached_job
    def score(model, c=1.0):
        if model == "bad":
            raise ValueError(f"no model is called {model}")
        if model == "slow":
            Path("begun").touch()
            time.sleep(600)
        return c * FACTOR

    @cached_job
    def other(x):
        return x
"""
RUN = """
    from contextlib import suppress

    import study

    for c in (0.1, 0.2):
        study.score("svm", c)
    study.other(1)
    with suppress(ValueError):
        study.score("bad")
"""


def edit(shell: Shell, factor: int, *, runs: bool = True) -> None:
    """Write the study with a factor of its results, and run it."""
    (shell.folder / "study.py").write_text(textwrap.dedent(STUDY.replace("FACTOR", str(factor))))
    if runs:
        shell.program(RUN, "run")


@contextmanager
def running(shell: Shell) -> Iterator[int]:
    with shell.start("import study; study.score('slow')", "run") as process:
        try:
            assert until((shell.folder / "begun").exists)
            yield process.pid
        finally:
            process.kill()
