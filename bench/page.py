"""Makes the documentation's tables of figures of what a run has saved, so that no number is typed by hand.

    python bench/run.py --save bench/figures.json
    python bench/page.py bench/figures.json > docs/explanation/figures.inc

Those of a library are given as multiples of ours, since only ratios carry over to another machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from measuring import OURS, Figure, in_words

PEERS = ("joblib", "diskcache", "checkpointer", "functools.lru_cache")


def tables(measured: list[Figure], conditions: dict[str, Any]) -> str:
    """Give the Markdown of all tables: a row for each work."""
    works: dict[str, dict[str, float]] = {}
    for figure in measured:
        works.setdefault(figure.work, {})[figure.library] = figure.seconds
    beside_peers = {work: times for work, times in works.items() if times.keys() & {*PEERS}}
    beside_others = {work: times for work, times in works.items() if times.keys() - {OURS, *PEERS}}
    versions = ", ".join(f"{library} {version}" for library, version in conditions["versions"].items())
    lines = [
        f"Measured on {conditions['date']} with Python {conditions['python']} on {conditions['cores']} cores, "
        f"beside {versions}.",
        "",
        f"| | {OURS} | {' | '.join(PEERS)} |",
        "|---|--:|" + "--:|" * len(PEERS),
        *(_row(work, times) for work, times in beside_peers.items()),
        "",
        f"| | {OURS} | beside |",
        "|---|--:|---|",
        *(_other_row(work, times) for work, times in beside_others.items()),
    ]
    return "\n".join(lines) + "\n"


def _row(work: str, times: dict[str, float]) -> str:
    ours = times[OURS]
    cells = [_multiple(times[peer] / ours) if peer in times else "" for peer in PEERS]
    return f"| {work} | {in_words(ours)} | {' | '.join(cells)} |"


def _multiple(ratio: float) -> str:
    """Write how many times as long a peer takes, in bold where it is faster."""
    text = f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
    return f"{text}x" if ratio >= 1 else f"**{text}x**"


def _other_row(work: str, times: dict[str, float]) -> str:
    others = [f"{name}: {in_words(times[name])}" for name in times if name not in {OURS, *PEERS}]
    return f"| {work} | {in_words(times[OURS])} | {', '.join(others)} |"


def main() -> None:
    """Print the tables of a file."""
    saved = json.loads(Path(sys.argv[1]).read_text())
    measured = [Figure(**figure) for figure in saved["measured"]]
    sys.stdout.write(tables(measured, saved["conditions"]))


if __name__ == "__main__":
    main()
