"""Small distributions that tests install, upgrade and remove as pip does: files, a metadata folder, a list of files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.environment import unmeasured


class Site:
    """A folder of installed distributions, and programs that find them there."""

    def __init__(self, folder: Path) -> None:
        self.home = folder
        self.folder = folder / "site-packages"
        self.folder.mkdir(parents=True)

    def install(
        self, name: str, version: str, *, direct_url: object = None, record: bool = True, **files: str
    ) -> Path:
        """Install a distribution in place of another version of it; files are named `package__module` for a path."""
        self.uninstall(name)
        lines = []
        metadata = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        contents = {path.replace("__", "/", 1) + ".py": text for path, text in files.items()}
        own = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText.\n",
            "INSTALLER": "pip\n",
        }
        if direct_url is not None:
            own["direct_url.json"] = json.dumps(direct_url)
        for path, text in {
            **contents,
            **{f"{metadata.name}/{each}": text for each, text in own.items()},
        }.items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
            digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")
            lines.append(f"{path},sha256={digest},{file.stat().st_size}\n")
        if record:
            (metadata / "RECORD").write_text("".join(lines) + f"{metadata.name}/RECORD,,\n")
        return metadata

    def uninstall(self, name: str) -> None:
        """Remove what is installed under a name, if anything is."""
        for metadata in self.folder.glob(f"{name.replace('-', '_')}-*.dist-info"):
            if (metadata / "RECORD").exists():
                for line in (metadata / "RECORD").read_text().splitlines():
                    (self.folder / line.split(",")[0]).unlink(missing_ok=True)
            shutil.rmtree(metadata)
        for cached in self.folder.rglob("__pycache__"):
            shutil.rmtree(cached)

    def environment(self, **more: str) -> dict[str, str]:
        """What a program runs with that has these distributions."""
        return {
            **unmeasured(),
            "PYTHONPATH": os.pathsep.join([str(self.folder), *filter(None, sys.path)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BENCHER_JOB_CACHE_DIR": str(self.home / "cachedir"),
            **more,
        }

    def run(self, source: str, *, arguments: tuple[str, ...] = (), **more: str) -> list[str]:
        """Run a program of one name, and give the lines that it prints; warnings are printed as lines of their own."""
        path = self.home / "study.py"
        path.write_text(textwrap.dedent(WARNINGS) + textwrap.dedent(source))
        ended = subprocess.run(
            [sys.executable, path, *arguments],
            cwd=self.home,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()


WARNINGS = """
    import builtins, sys, warnings
    # One write for each line: a thread may warn between the text of a print and its end of line.
    builtins.print = lambda *texts: sys.stdout.write(" ".join(map(str, texts)) + "\\n")
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: print(f"warning: {message}")
"""
