"""Which patterns grow where two chemicals feed on each other?

Sweeps the feed rate and the kill rate of the Gray-Scott model (Pearson, "Complex patterns in a simple system", 1993) on
all cores. Each job draws the dish that it ends with into a file of its own; the files make one contact sheet.

    python examples/reaction.py
    python examples/reaction.py --size 64 --steps 2000
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from bencher_job import Executors, cached_job, gen_path

FEEDS = (0.054, 0.046, 0.038, 0.030, 0.022, 0.014)
KILLS = (0.051, 0.054, 0.057, 0.060, 0.063, 0.066)
SPREAD_U, SPREAD_V = 0.16, 0.08
"""How fast each chemical spreads, in cells squared a step."""
DROP = 8
"""Cells along the side of a drop; a smaller one dies before it spreads."""
BRIGHTEST = 0.4
"""Concentration of V that is drawn brightest; it stays below in all patterns."""


def spread(field: np.ndarray) -> np.ndarray:
    """Give what flows into each cell from its four neighbours; the edges are joined."""
    field[0], field[-1] = field[-2], field[1]
    field[:, 0], field[:, -1] = field[:, -2], field[:, 1]
    return field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:] - 4 * field[1:-1, 1:-1]


def grow(feed: float, kill: float, size: int, steps: int) -> np.ndarray:
    """Let U + 2V turn into 3V, from a few drops of V in a square dish full of U; give V."""
    u, v = np.ones((size + 2, size + 2), np.float32), np.zeros((size + 2, size + 2), np.float32)
    for row, column in np.random.default_rng(0).integers(1, size - DROP + 2, (12, 2)):
        u[row : row + DROP, column : column + DROP] = 0.5
        v[row : row + DROP, column : column + DROP] = 0.25
    inner_u, inner_v = u[1:-1, 1:-1], v[1:-1, 1:-1]
    for _ in range(steps):
        reacted = inner_u * inner_v * inner_v
        change_u = SPREAD_U * spread(u) - reacted + feed * (1 - inner_u)
        inner_v += SPREAD_V * spread(v) + reacted - (feed + kill) * inner_v
        inner_u += change_u
    return inner_v


def spacing(field: np.ndarray) -> float | None:
    """Measure how many cells lie between neighbours in a pattern, by the wavelength that is strongest in it.

    A dish that is all alike has none, nor has one that repeats fewer than three times.
    """
    if field.std() < 0.01:
        return None
    power = np.abs(np.fft.fft2(field - field.mean())) ** 2
    waves = np.fft.fftfreq(len(field), 1 / len(field))
    radius = np.rint(np.hypot(*np.meshgrid(waves, waves))).astype(int)
    strongest = int(np.bincount(radius.ravel(), power.ravel()).argmax())
    return len(field) / strongest if strongest > 2 else None


def react(feed: float, kill: float, size: int, steps: int) -> dict[str, Any]:
    """Grow one dish and draw it; give the picture's path, the share of cells with much V, and the spacing in cells."""
    from matplotlib.image import imsave

    field = grow(feed, kill, size, steps)
    picture = gen_path("dish", suffix=".png")
    imsave(picture, field, cmap="magma", vmin=0, vmax=BRIGHTEST)
    return {"picture": picture, "covered": float((field > BRIGHTEST / 2).mean()), "spacing": spacing(field)}


def describe(dish: dict[str, Any]) -> str:
    """Say in a word what became of a dish."""
    if dish["spacing"] is not None:
        return f"{dish['spacing']:.1f}"
    return "full" if dish["covered"] > 0.5 else "empty"


def print_table(dishes: dict[tuple[float, float], dict[str, Any]]) -> None:
    """Print the spacing for each feed and kill rate."""
    print("cells between neighbours, for each feed rate (rows) and kill rate (columns)")
    print(" " * 7 + "".join(f"{kill:8.3f}" for kill in KILLS))
    for feed in FEEDS:
        print(f"{feed:7.3f}" + "".join(f"{describe(dishes[feed, kill]):>8}" for kill in KILLS))


def draw(dishes: dict[tuple[float, float], dict[str, Any]], path: Path) -> None:
    """Lay the pictures of all dishes out by their rates."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(FEEDS), len(KILLS), figsize=(7, 7.28), layout="compressed")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for (feed, kill), dish in dishes.items():
        place = axes[FEEDS.index(feed), KILLS.index(kill)]
        place.imshow(plt.imread(dish["picture"]))
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
    for place, kill in zip(axes[-1], KILLS, strict=True):
        place.set_xlabel(f"{kill:.3f}")
    for place, feed in zip(axes[:, 0], FEEDS, strict=True):
        place.set_ylabel(f"{feed:.3f}")
    figure.supxlabel("kill rate", fontsize="medium")
    figure.supylabel("feed rate", fontsize="medium")
    figure.suptitle("What grows from a few drops of V in a dish full of U", fontsize="large")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=125, pil_kwargs={"quality": 82})
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Run the sweep as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=128, help="cells along a side (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10_000, help="steps of each dish (default: %(default)s)")
    parser.add_argument(
        "--executor", type=Executors, default=Executors.MULTIPROCESSING, help=f"one of {', '.join(Executors)}"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "out", help="folder of the picture"
    )
    options = parser.parse_args(argv)
    if options.size < 2 * DROP:
        parser.error(f"--size {options.size}: a dish has {2 * DROP} cells or more along a side")

    simulate = cached_job(executor=options.executor, tag="reaction")(react)
    sweep = simulate.sweep({"feed": FEEDS, "kill": KILLS}, size=options.size, steps=options.steps)
    start = time.perf_counter()
    sweep.run(on_error="raise")
    info = simulate.cache.info()
    print(f"{info.hits} remembered and {info.computed} computed in {time.perf_counter() - start:.1f} s")
    dishes = {(row["feed"], row["kill"]): row["result"] for row in sweep.results}
    print_table(dishes)
    sheet = options.out / "reaction.webp"
    draw(dishes, sheet)
    print(f"picture: {sheet}")


if __name__ == "__main__":
    main()
