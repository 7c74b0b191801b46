"""In a real Jupyter kernel a cell that runs again hits, what is edited runs, a restarted kernel hits, all is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed: pip install --group test")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install --group test")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


class Notebook:
    """A notebook whose cells are run one at a time, in a kernel that can be started again."""

    def __init__(self, folder: Path) -> None:
        self.book = nbformat.v4.new_notebook()
        self.folder = folder
        self.client = self._started()

    def _started(self) -> Any:
        client = nbclient.NotebookClient(
            self.book, timeout=60, resources={"metadata": {"path": str(self.folder)}}
        )
        client.km = client.create_kernel_manager()
        client.km.kernel_spec.argv[0] = sys.executable
        client.start_new_kernel(env=os.environ | {"BENCHER_JOB_CACHE_DIR": str(self.folder / "cachedir")})
        client.start_new_kernel_client()
        return client

    def run(self, source: str) -> list[Any]:
        """Run a cell and give its outputs."""
        cell = nbformat.v4.new_code_cell(source)
        self.book.cells.append(cell)
        self.client.execute_cell(cell, len(self.book.cells) - 1)
        return list(cell.outputs)

    def printed(self, source: str) -> str:
        """Run a cell and give what it printed."""
        return "".join(output["text"] for output in self.run(source) if output["output_type"] == "stream")

    def restart(self) -> None:
        """Start the kernel again, which then knows nothing."""
        self.end()
        self.client = self._started()

    def end(self) -> None:
        """End the kernel."""
        self.client._cleanup_kernel()


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    """A notebook in a folder of its own."""
    notebook = Notebook(tmp_path)
    yield notebook
    notebook.end()


IMPORTS = "from bencher_job import cached_job"
HELPER = "def scale(x):\n    return 2 * x"
FUNCTION = "@cached_job\ndef f(x):\n    print('running', x)\n    return scale(x)"
CALL = "print(f(3))"


def test_cells_that_run_again_hit_and_an_edit_of_a_cell_or_a_helper_runs(notebook: Notebook) -> None:
    for cell in (IMPORTS, HELPER, FUNCTION):
        notebook.run(cell)
    assert notebook.printed(CALL) == "running 3\n6\n"
    assert notebook.printed(CALL) == "6\n"
    for cell in (HELPER, FUNCTION):  # as they were
        notebook.run(cell)
    assert notebook.printed(CALL) == "6\n"
    notebook.run(HELPER.replace("2", "5"))
    assert notebook.printed(CALL) == "running 3\n15\n"
    notebook.run(FUNCTION.replace("scale(x)", "scale(x) + 1"))
    assert notebook.printed(CALL) == "running 3\n16\n"
    notebook.run(HELPER)
    notebook.run(FUNCTION)
    assert notebook.printed(CALL) == "6\n"


def test_a_restarted_kernel_hits(notebook: Notebook) -> None:
    for cell in (IMPORTS, HELPER, FUNCTION):
        notebook.run(cell)
    assert notebook.printed(CALL) == "running 3\n6\n"
    notebook.restart()
    for cell in (IMPORTS, HELPER, FUNCTION):
        notebook.run(cell)
    assert notebook.printed(CALL) == "6\n"


def test_the_process_pool_runs_functions_of_a_notebook(notebook: Notebook) -> None:
    notebook.run(IMPORTS)
    notebook.run(HELPER)
    notebook.run(
        "import os\n"
        "@cached_job(executor='multiprocessing', max_workers=2)\n"
        "def g(x):\n    return scale(x), os.getpid()"
    )
    shown = notebook.printed(
        "values = list(g.map(range(4)))\n"
        "print([value for value, _ in values], os.getpid() in {pid for _, pid in values})\n"
        "g.cache.close()"
    )
    assert shown == "[0, 2, 4, 6] False\n"


def test_a_coroutine_function_is_awaited_in_a_cell(notebook: Notebook) -> None:
    notebook.run(f"import asyncio\n{IMPORTS}")
    notebook.run("@cached_job\nasync def h(x):\n    await asyncio.sleep(0)\n    return x")
    assert notebook.printed(
        "print(await h(1), await h.submit(2), len((await h.sweep({'x': [1, 2, 3]})).results))"
    ) == ("1 2 3\n")


def test_the_progress_bar_and_tables_are_shown(notebook: Notebook) -> None:
    notebook.run(IMPORTS)
    notebook.run("@cached_job\ndef f(x):\n    if x == 2:\n        raise ValueError('<two>')\n    return x")
    outputs = notebook.run("sweep = f.sweep({'x': [1, 2, 3]}).run()")
    text = "".join(
        str(output.get("data", {}).get("text/html", "")) + str(output.get("text", "")) for output in outputs
    )
    for part in ("0 hits, 3 to run", "3/3", "1 failed"):
        assert part in text
    for shown in (
        "sweep",
        "sweep.results",
        "sweep.failures",
        "sweep.plan()",
        "f.cache.info()",
        "f.cache.records()",
    ):
        (output,) = notebook.run(shown)
        assert output["output_type"] == "execute_result"
        assert "<div>" in output["data"]["text/html"] or "<table>" in output["data"]["text/html"]
    assert "&lt;two&gt;" in notebook.run("sweep.failures")[0]["data"]["text/html"]
    assert notebook.run("f.sweep({'x': [1, 2]}).run(progress=False);") == []
