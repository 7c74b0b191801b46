"""Counts divisors on a Ray cluster."""

from bencher_job import cached_job


@cached_job(executor="ray")
def divisors(n: int) -> int:
    """Count the divisors of a number."""
    return sum(n % d == 0 for d in range(1, n + 1))


for row in divisors.sweep({"n": [6, 12, 360]}).run().results:
    print(row["n"], row["result"])
