"""Log records of workers reach the handlers of the submitter."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from bencher_job import WorkerLost, cached_job

PATIENCE = 60.0

library = logging.getLogger("some_library_that_logs")
library.addHandler(logging.NullHandler())


@pytest.fixture(params=["threads", "multiprocessing", "fork", "ProcessPoolExecutor"])
def options(request, tmp_path):
    """Options of a cached function whose jobs run in one worker."""
    if request.param == "ProcessPoolExecutor":
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield {"executor": pool, "cache_dir": tmp_path}
    elif request.param == "fork":
        yield {"executor": "multiprocessing", "start_method": "fork", "max_workers": 1, "cache_dir": tmp_path}
    else:
        yield {"executor": request.param, "max_workers": 1, "cache_dir": tmp_path}


def study(x):
    log = logging.getLogger("study.part")
    log.debug("begin %d", x)
    log.info("at %s", [x], extra={"step": x, "lock": threading.Lock()})
    library.warning("careful")
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")
    return x


FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@FORKS
def test_records_arrive_before_the_result_as_the_levels_want(options, caplog):
    function = cached_job(**options)(study)
    assert function(1) == 1  # at the default level
    assert [(each.name, each.levelname) for each in caplog.records] == [
        ("some_library_that_logs", "WARNING"),
        ("study.part", "ERROR"),
    ]
    assert "ZeroDivisionError: division by zero" in caplog.text

    caplog.clear()
    with caplog.at_level(logging.INFO, "study"):
        library.setLevel(logging.ERROR)
        assert function(2) == 2
    assert [each.getMessage().partition("\n")[0] for each in caplog.records] == ["at [2]", "failed"]

    library.setLevel(logging.NOTSET)
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "study.part"):
        logging.disable(logging.INFO)
        try:
            assert function(3) == 3
        finally:
            logging.disable(logging.NOTSET)
    assert [each.levelname for each in caplog.records] == ["WARNING", "ERROR"]

    caplog.clear()
    assert function(4) == 4
    assert [each.levelname for each in caplog.records] == ["WARNING", "ERROR"]
    function.cache.close()


def test_the_last_records_of_a_worker_that_dies_arrive(tmp_path, caplog):
    def dying(x):
        logging.getLogger("study").error("about to die")
        os._exit(1)

    function = cached_job(executor="multiprocessing", max_workers=1, cache_dir=tmp_path)(dying)
    with pytest.raises(WorkerLost):
        function(1)
    assert "about to die" in caplog.messages
    function.cache.close()


def test_records_of_the_pool_arrive_while_the_job_runs(tmp_path, caplog, until):
    """Those of threads that the job starts, too; a child that it forks does not disturb the worker."""

    def long(x):
        threads = [
            threading.Thread(
                target=lambda: [logging.getLogger("study").error("n" * 1000) for _ in range(200)]
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if os.fork() == 0:
            logging.getLogger("study").info("child")
            os._exit(0)
        end = time.monotonic() + PATIENCE
        while not (tmp_path / "go").exists() and time.monotonic() < end:
            time.sleep(0.01)
        return x

    function = cached_job(executor="multiprocessing", max_workers=1, cache_dir=tmp_path)(long)
    future = function.submit(1)
    assert until(lambda: len(caplog.messages) == 800, PATIENCE)
    (tmp_path / "go").touch()
    assert future.result(PATIENCE) == 1
    function.cache.close()


def test_a_worker_whose_initializer_sets_handlers_keeps_its_records(tmp_path, caplog):
    def prepare():
        logging.basicConfig(filename=tmp_path / "log", level=logging.INFO)

    options = {"executor": "multiprocessing", "max_workers": 1, "initializer": prepare, "cache_dir": tmp_path}
    function = cached_job(**options)(study)
    assert function(1) == 1
    function.cache.close()
    assert "INFO:study.part:at [1]" in (tmp_path / "log").read_text()
    assert not caplog.records


def test_a_handler_that_raises_costs_no_result(options, capfd):
    class Strict(logging.Handler):
        def emit(self, record):
            raise AssertionError("no warnings, please")

    handler = Strict()
    logging.root.addHandler(handler)
    try:
        function = cached_job(**options)(chatty)
        if options["executor"] == "threads":
            with pytest.raises(AssertionError, match="please"):  # where logging raises it
                function(1)
        else:
            assert [function(1), function(2)] == [1, 2]
            assert "no warnings, please" in capfd.readouterr().err
        function.cache.close()
    finally:
        logging.root.removeHandler(handler)


def chatty(x):
    logging.getLogger("study").warning("careful")
    return x
