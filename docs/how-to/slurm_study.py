"""Counts divisors in workers that Slurm starts."""

from bencher_job import cached_job


@cached_job(executor="slurm", cache_dir="results")
def divisors(n: int) -> int:
    """Count the divisors of a number."""
    return sum(n % d == 0 for d in range(1, n + 1))


for row in divisors.sweep({"n": [6, 12, 360]}).run().results:
    print(row["n"], row["result"])
