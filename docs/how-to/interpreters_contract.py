import pytest
from interpreters import Interpreters

from bencher_job.testing import ExecutorContract, LostWorkerContract


class TestInterpreters(ExecutorContract, LostWorkerContract):
    @pytest.fixture
    def executor(self):
        with Interpreters(2) as executor:
            yield executor
