"""Which model misreads the fewest handwritten digits, and how much do its settings matter?

Sweeps classifiers of scikit-learn and their settings over five folds of its digits data set, 1,797 scans of 8 x 8
pixels, on all cores. Each fit is a job: add a model or a setting, and only what is new runs.

    python examples/digits.py
    python examples/digits.py --folds 2 --models GaussianNB,DecisionTree
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from bencher_job import Executors, cached_job

GRIDS: dict[type, dict[str, list[Any]]] = {
    DecisionTreeClassifier: {"max_depth": [4, 6, 8, 12], "min_samples_leaf": [1, 3, 10], "random_state": [0]},
    GaussianNB: {"var_smoothing": [1e-9, 1e-4, 1e-3, 1e-2, 1e-1]},
    LogisticRegression: {"C": [0.001, 0.01, 0.1, 1.0, 10.0], "max_iter": [2000]},
    RandomForestClassifier: {"n_estimators": [10, 30, 100], "max_features": [2, 8, 32], "random_state": [0]},
    KNeighborsClassifier: {"n_neighbors": [1, 3, 5, 9, 17], "weights": ["uniform", "distance"]},
    SVC: {"C": [0.1, 1.0, 10.0, 100.0], "gamma": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]},
}
FOLDS = 5


def misread(model: type, fold: int, **settings: Any) -> float:
    """Train a model on all folds but one; give the share of that one that it misreads."""
    digits = load_digits()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    train, test = list(folds.split(digits.data, digits.target))[fold]
    pixels = digits.data / 16
    trained = model(**settings).fit(pixels[train], digits.target[train])
    return 1 - float(trained.score(pixels[test], digits.target[test]))


class Candidate(NamedTuple):
    """A model with its settings, and what it misread in each fold."""

    model: str
    settings: dict[str, Any]
    shares: list[float]

    @property
    def share(self) -> float:
        """The mean over the folds."""
        return statistics.mean(self.shares)

    @property
    def described(self) -> str:
        """The settings that were swept, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items())


def name_of(model: type) -> str:
    """Give a model's name as `--models` takes it."""
    return model.__name__.removesuffix("Classifier")


def candidates(model: type, rows: list[dict[str, Any]]) -> list[Candidate]:
    """Join the folds of each setting, the best first."""
    swept = [name for name, values in GRIDS[model].items() if len(values) > 1]
    shares: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        shares.setdefault(tuple(row[name] for name in swept), []).append(row["result"])
    joined = [
        Candidate(name_of(model), dict(zip(swept, values, strict=True)), shares[values]) for values in shares
    ]
    return sorted(joined, key=lambda candidate: candidate.share)


def print_table(ranked: list[list[Candidate]]) -> None:
    """Print each model's best settings, and its worst for comparison."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Misread digits", caption="means over the folds")
    table.add_column("model")
    table.add_column("best settings")
    table.add_column("best", justify="right")
    table.add_column("worst", justify="right")
    for best, *_, worst in ranked:
        table.add_row(best.model, best.described, f"{best.share:.1%}", f"{worst.share:.1%}")
    Console().print(table)


def draw(ranked: list[list[Candidate]], path: Path) -> None:
    """Draw a dot for each setting of each model, the best with its folds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for row, settings in enumerate(reversed(ranked)):
        best, *others = settings
        axes.plot(
            [other.share for other in others], [row] * len(others), "o", color="C0", alpha=0.3, markersize=7
        )
        axes.plot([min(best.shares), max(best.shares)], [row, row], color="C1", linewidth=2)
        axes.plot(best.share, row, "o", color="C1", markersize=10)
        axes.annotate(
            f"{best.share:.1%} with {best.described}",
            (best.share, row),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.set(xscale="log", xlabel="misread digits, mean over the folds", xlim=(0.003, 1))
    axes.set_ylim(-0.5, len(ranked) - 0.3)
    axes.set_yticks(range(len(ranked)), [settings[0].model for settings in reversed(ranked)])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", alpha=0.3)
    axes.set_title("Reading handwritten digits: each dot is a setting, to the left is better")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Run the sweeps as the command line says."""
    models = {name_of(model): model for model in GRIDS}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default=",".join(models), help="models to try (default: %(default)s)")
    parser.add_argument(
        "--folds",
        type=int,
        default=FOLDS,
        choices=range(1, FOLDS + 1),
        help="folds to run (default: %(default)s)",
    )
    parser.add_argument(
        "--executor", type=Executors, default=Executors.MULTIPROCESSING, help=f"one of {', '.join(Executors)}"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "out", help="folder of the picture"
    )
    options = parser.parse_args(argv)
    chosen = options.models.split(",")
    if unknown := [name for name in chosen if name not in models]:
        parser.error(f"--models {unknown[0]}: not one of {', '.join(models)}")

    measure = cached_job(executor=options.executor, tag="digits")(misread)
    start = time.perf_counter()
    ranked = []
    for name in chosen:
        print(name)
        grid = {"fold": range(options.folds), **GRIDS[models[name]]}
        sweep = measure.sweep(grid, model=models[name])
        ranked.append(candidates(models[name], sweep.run(on_error="raise").results))
    info = measure.cache.info()
    print(f"{info.hits} remembered and {info.computed} computed in {time.perf_counter() - start:.1f} s")
    ranked.sort(key=lambda settings: settings[0].share)
    print_table(ranked)
    picture = options.out / "digits.png"
    draw(ranked, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
