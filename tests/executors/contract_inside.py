"""The contract of executors that exist only in programs started by a launcher. Such a program runs this file."""

from __future__ import annotations

import os

import pytest

from bencher_job.testing import ExecutorContract


class TestInside(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls):
        if os.environ["CONTRACT_OF"] == "SCOOP":
            yield "SCOOP"
            return
        from mpi4py.futures import MPIPoolExecutor

        with MPIPoolExecutor() as executor:
            yield executor
