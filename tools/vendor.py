"""Fetch the libraries of the page from npm into `bencher_job/_page/static/vendor`, or check the files there.

    python tools/vendor.py            fetch, and replace the files
    python tools/vendor.py --check    compare the files with their digests; asks nobody

A new version is a new line here: `npm view NAME@VERSION dist.integrity` gives the digest of the archive.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Final, NamedTuple

FOLDER: Final = Path(__file__).parents[1] / "bencher_job" / "_page" / "static" / "vendor"
REGISTRY: Final = "https://registry.npmjs.org"
DIGESTS: Final = FOLDER / "SHA256SUMS"


class Library(NamedTuple):
    """An archive of npm, and which of its files become which of ours."""

    name: str
    version: str
    integrity: str
    files: dict[str, str]


LIBRARIES: Final = (
    Library(
        "tabulator-tables",
        "6.5.3",
        "sha512-nJ2QaqZzQvd9B4rf4LBnRxfb6sSqA/BX2OsXnSJ2d8k21oXDSTtFtOUrDap04a/6BDGivC/MByCxy43ugadJIg==",
        {
            "dist/js/tabulator_esm.min.mjs": "tabulator.js",
            "dist/css/tabulator.min.css": "tabulator.css",
            "LICENSE": "tabulator.LICENSE.txt",
        },
    ),
    Library(
        "@observablehq/plot",
        "0.6.17",
        "sha512-/qaXP/7mc4MUS0s4cPPFASDRjtsWp85/TbfsciqDgU1HwYixbSbbytNuInD8AcTYC3xaxACgVX06agdfQy9W+g==",
        {"dist/plot.umd.min.js": "plot.js", "LICENSE": "plot.LICENSE.txt"},
    ),
    Library(  # the version that Plot's own build names
        "d3",
        "7.9.0",
        "sha512-e1U46jVP+w7Iut8Jt8ri1YsPOvFpg46k+K8TpCb0P+zjCkjkPnV7WzfDJzMHy1LnA+wj5pLT1wjO901gLXeEhA==",
        {"dist/d3.min.js": "d3.js", "LICENSE": "d3.LICENSE.txt"},
    ),
)


def fetch() -> None:
    """Replace all files by those of the archives."""
    FOLDER.mkdir(exist_ok=True)
    for library in LIBRARIES:
        base = library.name.rpartition("/")[2]
        url = f"{REGISTRY}/{library.name}/-/{base}-{library.version}.tgz"
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - a constant
            archive = answer.read()
        digest = f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}"
        if digest != library.integrity:
            raise SystemExit(f"{library.name} {library.version} has the digest {digest}, not the pinned one.")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for member, name in library.files.items():
                with tar.extractfile(f"package/{member}") as file:  # type: ignore[union-attr]
                    lines = file.read().decode().splitlines()
                # Without the name of a map that isn't shipped.
                text = "\n".join(line for line in lines if "sourceMappingURL" not in line)
                (FOLDER / name).write_text(f"{text}\n")
    DIGESTS.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(digests().items())))


def digests() -> dict[str, str]:
    """Return the digests of the files as they are."""
    names = [name for library in LIBRARIES for name in library.files.values()]
    return {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in names}


def check() -> None:
    """Exit with a message unless the files are those that were fetched."""
    noted = dict(reversed(line.split("  ")) for line in DIGESTS.read_text().splitlines())  # type: ignore[misc]
    present = {path.name for path in FOLDER.iterdir()} - {DIGESTS.name}
    if noted != digests() or present != set(noted):
        raise SystemExit("Files in vendor/ differ from their digests. Run: python tools/vendor.py")


if __name__ == "__main__":
    check() if sys.argv[1:] == ["--check"] else fetch()
