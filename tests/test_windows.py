"""On Windows the import says at once where the library runs."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, importlib.util, multiprocessing, sys  # of this system, before it pretends to be another

class NotOnWindows:
    missing = {"fcntl", "grp", "pwd", "resource", "termios", "_posixsubprocess"}

    def find_spec(self, name, path=None, target=None):
        if name in self.missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in NotOnWindows.missing:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, NotOnWindows())
sys.platform = "win32"
import bencher_job
"""


def test_an_import_on_windows_fails_with_one_sentence_that_names_wsl() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    *_, message = ended.stderr.strip().splitlines()
    assert message.startswith("ImportError: bencher_job needs ")
    assert "run it in WSL" in message
    assert message.count(". ") == 0
