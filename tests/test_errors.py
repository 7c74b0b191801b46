from __future__ import annotations

import threading
import warnings

import pytest

from bencher_job import CacheWarning
from bencher_job._errors import warn_caller


def test_a_warning_that_is_an_error_reaches_the_caller():
    with pytest.raises(CacheWarning, match=r"^the store is slow$"):
        warn_caller("the store is slow")


def test_a_warning_that_is_an_error_ends_no_thread_of_the_package(caplog):
    """Nobody could catch it there."""
    thread = threading.Thread(target=warn_caller, args=("the store is slow",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread.start()
        thread.join()

    assert [record.getMessage() for record in caplog.records] == ["the store is slow"]
