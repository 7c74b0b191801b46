"""Tells how the error of pi falls with the number of points, for three ways to draw them: the tutorial's program."""

import math
import random

from bencher_job import cached_job


def random_points(n, generator):
    return [(generator.random(), generator.random()) for _ in range(n)]


def grid_points(n, generator):
    side = math.isqrt(n)
    ticks = [(i + 0.5) / side for i in range(side)]
    return [(x, y) for x in ticks for y in ticks]


def jittered_points(n, generator):
    side = math.isqrt(n)
    return [
        ((i + generator.random()) / side, (j + generator.random()) / side)
        for i in range(side)
        for j in range(side)
    ]


METHODS = {"random": random_points, "grid": grid_points, "jittered": jittered_points}


@cached_job(executor="multiprocessing", tag="pi")
def pi_error(method: str, n: int = 10_000, seed: int = 0) -> float:
    points = METHODS[method](n, random.Random(seed))
    inside = sum(x * x + y * y < 1 for x, y in points)
    return abs(4 * inside / n - math.pi)


sizes = [100, 400, 1_600, 6_400, 25_600]
sweep = pi_error.sweep({"method": list(METHODS), "n": sizes, "seed": range(9)})
labels = {"n": "points", "result": "error of pi"}
axes = sweep.run().plot(x="n", by="method", labels=labels)
axes.set_yscale("log")
axes.figure.savefig("pi.png", dpi=130)
