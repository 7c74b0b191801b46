"""Counts divisors in the workers of a SCOOP program: python -m scoop -n 3 scoop_study.py."""

from bencher_job import cached_job


@cached_job(executor="scoop")
def divisors(n: int) -> int:
    """Count the divisors of a number."""
    return sum(n % d == 0 for d in range(1, n + 1))


if __name__ == "__main__":
    for row in divisors.sweep({"n": [6, 12, 360]}).run().results:
        print(row["n"], row["result"])
