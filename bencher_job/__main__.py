"""Run `bencher-job` as `python -m bencher_job`."""

from __future__ import annotations

from ._cli import main

if __name__ == "__main__":
    main()
