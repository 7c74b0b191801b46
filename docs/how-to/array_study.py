"""Computes one part of a study: python array_study.py PART PARTS."""

import sys

from bencher_job import cached_job


@cached_job
def divisors(n: int) -> int:
    """Count the divisors of a number."""
    return sum(n % d == 0 for d in range(1, n + 1))


part, parts = map(int, sys.argv[1:])
for n in range(1, 41)[part::parts]:
    divisors(n)
