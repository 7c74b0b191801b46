"""Which codec packs real text best for its time?

Sweeps codec x level x a dozen source files of the Python standard library that runs this, several repeats each, on all
cores. Run it again and all is remembered; stop it in the middle and it goes on where it stopped.

    python examples/compression.py
    python examples/compression.py --levels 1,9 --executor serial
    python examples/compression.py --clear compression
    python -m scoop -n 3 examples/compression.py --executor scoop
"""

from __future__ import annotations

import argparse
import bz2
import lzma
import statistics
import sys
import sysconfig
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bencher_job import Executors, cached_job

TAG = "compression"
FILES = (
    "_pydecimal.py",
    "argparse.py",
    "ast.py",
    "mailbox.py",
    "difflib.py",
    "doctest.py",
    "inspect.py",
    "pickletools.py",
    "shutil.py",
    "subprocess.py",
    "tarfile.py",
    "typing.py",
)
CODECS: dict[str, Callable[[bytes, int], bytes]] = {
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "lzma": lambda data, level: lzma.compress(data, preset=level),
}
LIBRARY = Path(sysconfig.get_path("stdlib"))
SHORTEST_MEASUREMENT = 0.02
"""Seconds for which a file is packed again and again, so that the clock's grain doesn't count."""


def pack(codec: str, level: int, file: str) -> dict[str, float]:
    """Pack one file; give the ratio of unpacked to packed size, and the speed in MB/s."""
    data = (LIBRARY / file).read_bytes()
    packed, rounds, start = b"", 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < SHORTEST_MEASUREMENT:
        packed = CODECS[codec](data, level)
        rounds += 1
    return {"ratio": len(data) / len(packed), "speed": rounds * len(data) / seconds / 1e6}


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join files and repeats: for each codec and level the median ratio and speed, the best packing first."""
    groups: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for row in rows:
        groups[row["codec"], row["level"]].append(row["result"])
    summary = [
        {
            "codec": codec,
            "level": level,
            "ratio": statistics.median(result["ratio"] for result in results),
            "speed": statistics.median(result["speed"] for result in results),
        }
        for (codec, level), results in groups.items()
    ]
    best = best_for_their_time(summary)
    return sorted(
        ({**row, "best": row in best} for row in summary), key=lambda row: (-row["ratio"], -row["speed"])
    )


def best_for_their_time(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the rows that no other row equals or beats in ratio and speed at once."""
    return [
        row
        for row in summary
        if not any(
            other is not row and other["ratio"] >= row["ratio"] and other["speed"] >= row["speed"]
            for other in summary
        )
    ]


def print_table(summary: list[dict[str, Any]]) -> None:
    """Print the summary; a star marks what nothing else equals in ratio and speed at once."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Packing Python source", caption="medians; * unbeaten in both")
    for name, justify in (
        ("codec", "left"),
        ("level", "right"),
        ("ratio", "right"),
        ("MB/s", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify=justify)
    for row in summary:
        star = "*" if row["best"] else ""
        table.add_row(row["codec"], str(row["level"]), f"{row['ratio']:.2f}", f"{row['speed']:.1f}", star)
    Console().print(table)


def draw(summary: list[dict[str, Any]], path: Path) -> None:
    """Draw ratio over speed, a line for each codec and a label for each level."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for codec in sorted({row["codec"] for row in summary}):
        rows = sorted((row for row in summary if row["codec"] == codec), key=lambda row: row["level"])
        axes.plot([row["speed"] for row in rows], [row["ratio"] for row in rows], "o-", label=codec)
    axes.set(xscale="log", xlabel="speed, MB/s", ylabel="ratio, unpacked / packed")
    labelled: list[Any] = []
    for row in sorted(summary, key=lambda row: row["level"]):
        place = axes.transData.transform((row["speed"], row["ratio"]))
        if all(abs(place - other).max() > 12 for other in labelled):  # pixels: labels don't cover each other
            axes.annotate(
                str(row["level"]),
                (row["speed"], row["ratio"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
            )
            labelled.append(place)
    axes.set_title("Packing Python source: up and to the right is better")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.legend(title="codec; labels are levels", loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Run the sweep as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--levels", default="1,3,5,7,9", help="levels to try, 1 to 9 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default: %(default)s)")
    parser.add_argument(
        "--executor", type=Executors, default=Executors.MULTIPROCESSING, help=f"one of {', '.join(Executors)}"
    )
    parser.add_argument(
        "--clear", metavar="TAG", help=f"forget the results of a tag, such as {TAG}, and stop"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "out", help="folder of the picture"
    )
    options = parser.parse_args(argv)
    levels = sorted({int(level) for level in options.levels.split(",")})
    if not all(1 <= level <= 9 for level in levels):
        parser.error(f"--levels {options.levels}: a level is a number from 1 to 9")

    measure = cached_job(executor=options.executor, tag=TAG)(pack)
    if options.clear is not None:
        print(f"forgot {measure.cache.clear_tag(options.clear)} results of {options.clear}")
        return

    sweep = measure.sweep({"codec": list(CODECS), "level": levels, "file": FILES}, repeats=options.repeats)
    start = time.perf_counter()
    try:
        sweep.run()
    except KeyboardInterrupt:
        print(
            f"\nStopped. {measure.cache.info().entries} results are kept; run again to go on.",
            file=sys.stderr,
        )
        raise
    info = measure.cache.info()
    print(f"{info.hits} remembered and {info.computed} computed in {time.perf_counter() - start:.1f} s")
    summary = summarize(sweep.results)
    print_table(summary)
    picture = options.out / "compression.png"
    draw(summary, picture)
    print(f"{measure.cache.stats()}\npicture: {picture}")


if __name__ == "__main__":
    main()
