"""A cached coroutine function is awaited: one run for all who wait, in the caller's loop, which never stands still."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import itertools
import os
import pickle
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from bencher_job import (
    BencherJobError,
    CachedFunction,
    CacheWarning,
    Executors,
    FutureCache,
    Job,
    JobFuture,
    JobTimeout,
    UnkeyableArgument,
    WorkerLost,
    cached_job,
    current_job_key,
    gen_path,
    run_job,
)
from bencher_job.testing import CallCounter
from tests.programs import Programs, until

PATIENCE = 60.0
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine, in time, and let no task of it be left over."""

    async def checked() -> T:
        value = await asyncio.wait_for(coroutine, PATIENCE)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left
        return value

    return asyncio.run(checked())


async def doubled(x: int) -> int:
    return 2 * x


class Gate:
    """A coroutine function whose runs tell of themselves and wait until they may end; for one loop at a time."""

    def __init__(self, **options: Any) -> None:
        self.log: list[str] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

        @cached_job(code="none", **options)
        async def passed(x: int) -> list[int]:
            self.log.append("begun")
            self.begun.set()
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.log.append("cancelled")
                await asyncio.sleep(0)
                self.log.append("cleaned up")
                raise
            self.log.append("ended")
            return [x]

        self.function = passed

    async def waiters(self, number: int) -> list[asyncio.Task[list[int]]]:
        """Have some wait for one run that has begun."""
        tasks = [asyncio.create_task(self.function(1)) for _ in range(number)]
        await self.begun.wait()
        await in_flight(self.function, joined=number - 1)
        return tasks


async def in_flight(function: CachedFunction[..., Any], *, joined: int) -> None:
    """Wait until so many have joined a run."""
    while function.cache.info().joined < joined:
        await asyncio.sleep(0.001)


# The value


def test_an_awaited_call_gives_the_value_and_then_the_remembered_one(counter: CallCounter) -> None:
    @cached_job
    async def counted(counter: CallCounter, x: int) -> int:
        counter.tick()
        await asyncio.sleep(0)
        return 2 * x

    async def main() -> list[int]:
        return [await counted(counter, 4), await counted(counter, 4), await counted(counter, x=4)]

    assert run(main()) == [8, 8, 8]
    assert counter.count == 1
    assert run(counted(counter, 4)) == 8  # in another loop
    info = counted.cache.info()
    assert (info.computed, info.hits) == (1, 3)
    assert [each.hits for each in counted.cache.functions()] == [3]  # as all processes see it


def test_none_is_a_value_and_every_hit_has_its_own() -> None:
    @cached_job
    async def listed(x: object) -> list[object]:
        return [x]

    async def main() -> tuple[list[object], list[object]]:
        first = await listed(None)
        first.append("changed")
        return first, await listed(None)

    assert run(main()) == ([None, "changed"], [None])


def test_it_runs_in_its_callers_own_loop_and_context() -> None:
    language = contextvars.ContextVar("language", default="?")
    seen: list[object] = []

    @cached_job
    async def asked() -> str:
        seen.append(asyncio.get_running_loop())
        return language.get()

    async def main() -> str:
        language.set("en")
        value = await asked()
        assert seen == [asyncio.get_running_loop()]
        return value

    assert run(main()) == "en"


def test_inside_a_run_the_job_is_known_and_its_files_are_its_own() -> None:
    @cached_job
    async def written(text: str) -> tuple[str | None, str]:
        path = gen_path("note", suffix=".txt")
        await asyncio.sleep(0)
        Path(path).write_text(text)
        return current_job_key(), path

    async def main() -> None:
        (key, path), (other, _) = await asyncio.gather(written("a"), written("b"))
        assert (key, other) == (written.key("a"), written.key("b"))
        assert current_job_key() is None
        (record,) = [record for record in written.cache.records() if record.key == key]
        assert record.media is not None
        assert record.media in path

    run(main())


def test_a_coroutine_that_is_not_awaited_does_nothing(counter: CallCounter) -> None:
    @cached_job
    async def counted(counter: CallCounter) -> None:
        counter.tick()

    made = counted(counter)
    assert inspect.iscoroutine(made)
    made.close()
    assert counter.count == 0
    assert not counted.is_cached(counter)


def test_large_arguments_are_keyed_as_small_ones_are() -> None:
    function = cached_job(doubled)
    sized = cached_job(lambda x: x)

    @cached_job
    async def size(data: object) -> int:
        return len(data)  # type: ignore[arg-type]

    async def main() -> None:
        assert await size("a" * 100_000) == 100_000
        assert await size(["a"]) == 1
        assert size.is_cached("a" * 100_000)
        assert size.is_cached(["a"])
        with pytest.raises(UnkeyableArgument, match="data has the type"):
            await size(threading.Lock())
        with pytest.raises(UnkeyableArgument, match="data has the type"):
            await size.submit(threading.Lock())

    run(main())
    assert function.key(1) != sized.key(1)


def test_a_call_that_does_not_fit_raises_when_it_is_made() -> None:
    function = cached_job(doubled)
    assert run(function(1)) == 2
    with pytest.raises(TypeError, match=r"takes 1 positional argument"):
        function(1, 2)
    with pytest.raises(TypeError):
        run(cached_job(doubled)())  # before the code was read, when it is awaited


def test_refresh_computes_anew_and_overwrite_always_does(counter: CallCounter) -> None:
    async def count(counter: CallCounter) -> int:
        counter.tick()
        return counter.count

    function = cached_job(count)

    async def main() -> list[int]:
        return [await function(counter), await function.refresh(counter), await function(counter)]

    assert run(main()) == [1, 2, 2]
    anew = cached_job(overwrite=True)(count)
    assert run(anew(counter)) == 3
    assert run(anew(counter)) == 4


def test_what_is_asked_of_the_index_is_asked_as_of_any_function() -> None:
    function = cached_job(doubled)
    assert run(function(1)) == 2
    assert function.is_cached(1)
    assert function.explain(1).is_hit
    assert not function.explain(2).is_hit
    assert function.key(1) == cached_job(doubled).key(x=1)
    assert function.forget(1)
    assert not function.is_cached(1)


def test_where_caching_is_off_it_runs_each_time(
    monkeypatch: pytest.MonkeyPatch, counter: CallCounter
) -> None:
    monkeypatch.setenv("BENCHER_JOB", "off")

    @cached_job
    async def counted(counter: CallCounter) -> None:
        counter.tick()

    async def main() -> None:
        await counted(counter)
        await counted(counter)

    run(main())
    assert counter.count == 2


# One run for all


@pytest.mark.parametrize("number", [1, 2, 30])
def test_concurrent_awaits_share_one_run_and_each_has_a_value_of_its_own(number: int) -> None:
    async def main() -> None:
        gate = Gate()
        tasks = await gate.waiters(number)
        gate.may_end.set()
        values = await asyncio.gather(*tasks)
        assert values == [[1]] * number
        assert len({id(value) for value in values}) == number
        assert gate.log == ["begun", "ended"]

    run(main())


def test_loops_of_several_threads_share_one_run(counter: CallCounter) -> None:
    begun, may_end = threading.Event(), threading.Event()

    @cached_job(code="none")
    async def slow(x: int) -> int:
        counter.tick()
        begun.set()
        while not may_end.is_set():
            await asyncio.sleep(0.001)
        return x

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(run, slow(7))
        assert begun.wait(PATIENCE)
        others = [threads.submit(run, slow(7)) for _ in range(3)]
        assert until(lambda: slow.cache.info().joined == 3)
        may_end.set()
        assert [each.result(PATIENCE) for each in (first, *others)] == [7] * 4
    assert counter.count == 1


AWAITING = """
    import asyncio

    @cached_job(code="none")
    async def slow(x):
        count(x)
        tell("begun")
        while not (HERE / "go_on").exists():
            await asyncio.sleep(0.005)
        if x < 0:
            raise LookupError(x)
        return NAME

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                if ticks == 20:
                    tell("ticking")
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        try:
            print(await slow(int(sys.argv[2])))
        except LookupError as error:
            print(repr(error))
        ticking.cancel()

    asyncio.run(main())
"""


def test_programs_share_one_run_and_the_loops_of_those_who_wait_go_on(programs: Programs) -> None:
    owner = programs.start("owner", AWAITING, "1")
    programs.wait_for("owner.begun")
    others = [programs.start(f"other{number}", AWAITING, "1") for number in range(2)]
    for number in range(2):
        programs.wait_for(f"other{number}.ticking")
    assert until(lambda: all(programs.opens(other, "owners") for other in others))
    programs.tell("go_on")
    assert [programs.output(program) for program in (owner, *others)] == ["owner"] * 3
    assert programs.count("1") == 1


def test_another_programs_exception_reaches_who_waits_in_a_loop(programs: Programs) -> None:
    owner = programs.start("owner", AWAITING, "-1")
    programs.wait_for("owner.begun")
    other = programs.start("other", AWAITING, "-1")
    programs.wait_for("other.ticking")
    assert until(lambda: programs.opens(other, "owners"))
    programs.tell("go_on")
    assert [programs.output(program) for program in (owner, other)] == ["LookupError(-1)"] * 2
    assert programs.count("-1") == 1


def test_a_loop_takes_over_from_a_program_that_dies(programs: Programs) -> None:
    owner = programs.start("owner", AWAITING, "1")
    programs.wait_for("owner.begun")
    other = programs.start("other", AWAITING, "1")
    programs.wait_for("other.ticking")
    assert until(lambda: programs.opens(other, "owners"))
    programs.kill(owner)
    programs.wait_for("other.begun")
    programs.tell("go_on")
    assert programs.output(other) == "other"
    assert programs.count("1") == 2


def test_a_job_that_awaits_its_own_result_is_refused() -> None:
    @cached_job
    async def endless(x: int) -> int:
        return await endless(x)  # type: ignore[no-any-return]

    with pytest.raises(BencherJobError, match="would wait for itself for ever"):
        run(endless(1))


def test_cached_coroutine_functions_await_each_other(counter: CallCounter) -> None:
    @cached_job
    async def fibonacci(counter: CallCounter, n: int) -> int:
        counter.tick()
        if n < 2:
            return n
        return sum(await asyncio.gather(fibonacci(counter, n - 1), fibonacci(counter, n - 2)))

    assert run(fibonacci(counter, 20)) == 6765
    assert counter.count == 21


# Exceptions and cancellation


def test_an_exception_reaches_all_who_wait_now_and_the_next_runs_it_again(counter: CallCounter) -> None:
    begun: list[asyncio.Event] = []

    @cached_job(code="none", ignore=("may_end",))
    async def failing(counter: CallCounter, may_end: asyncio.Event) -> None:
        counter.tick()
        begun[0].set()
        await may_end.wait()
        raise LookupError("none")

    async def main() -> None:
        begun.append(asyncio.Event())
        may_end = asyncio.Event()
        tasks = [asyncio.create_task(failing(counter, may_end)) for _ in range(3)]
        await begun[0].wait()
        await in_flight(failing, joined=2)
        may_end.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [LookupError] * 3
        assert counter.count == 1
        with pytest.raises(LookupError):
            await failing(counter, may_end)
        assert counter.count == 2
        assert not failing.is_cached(counter, may_end)

    run(main())


def test_who_is_cancelled_leaves_the_others(counter: CallCounter) -> None:
    async def main() -> None:
        gate = Gate()
        leader, second, third = await gate.waiters(3)
        for task in (leader, third):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.may_end.set()
        assert await second == [1]
        assert gate.log == ["begun", "ended"]

    run(main())


def test_the_last_one_takes_the_run_along_and_waits_until_it_has_ended() -> None:
    async def main() -> None:
        gate = Gate()
        tasks = await gate.waiters(2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert gate.log == ["begun", "cancelled", "cleaned up"]
        assert all(task.cancelled() for task in tasks)
        assert not gate.function.is_cached(1)
        gate.may_end.set()
        assert await gate.function(1) == [1]
        assert gate.log[3:] == ["begun", "ended"]

    run(main())


def test_who_is_cancelled_again_cancels_what_the_run_does_at_its_end() -> None:
    async def main() -> None:
        begun, cleaning = asyncio.Event(), asyncio.Event()
        log: list[str] = []

        @cached_job(code="none")
        async def slow_to_end() -> None:
            begun.set()
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                cleaning.set()
                try:
                    await asyncio.sleep(PATIENCE)
                finally:
                    log.append("interrupted")

        task = asyncio.create_task(slow_to_end())
        await begun.wait()
        task.cancel()
        await cleaning.wait()
        await asyncio.sleep(0.01)
        assert not task.done()  # it waits for the end, as any await would
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["interrupted"]

    run(main())


def test_a_key_that_is_asked_for_while_its_cancelled_run_cleans_up_stays_leased() -> None:
    """So no other process runs the job beside the second run, when the first has ended."""

    async def main() -> None:
        began, clean, finish = asyncio.Event(), asyncio.Event(), asyncio.Event()
        runs: list[int] = []

        @cached_job(code="none")
        async def tidy(x: int) -> int:
            runs.append(x)
            if len(runs) > 1:
                began.set()
                await finish.wait()
                return x
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                await clean.wait()
            return x

        def owner() -> object:
            return tidy.cache.cache.leases.owner_of(tidy.key(1))

        first = asyncio.create_task(tidy(1))
        await began.wait()
        began.clear()
        first.cancel()
        while tidy.cache.is_in_flight(tidy.key(1)):
            await asyncio.sleep(0.001)
        second = asyncio.create_task(tidy(1))
        await began.wait()
        clean.set()
        await asyncio.wait([first])
        assert owner() is not None
        finish.set()
        assert await second == 1
        assert owner() is None
        assert tidy.is_cached(1)

    run(main())


def test_a_timeout_around_a_call_ends_the_run() -> None:
    async def main() -> None:
        gate = Gate()

        async def is_over(limit: asyncio.Timeout) -> None:
            await gate.begun.wait()
            limit.reschedule(0)

        async def limited() -> None:
            async with asyncio.timeout(None) as limit:
                await asyncio.gather(is_over(limit), gate.function(2))

        with pytest.raises(TimeoutError):
            await limited()
        assert gate.log == ["begun", "cancelled", "cleaned up"]

    run(main())


def test_a_run_that_will_not_be_cancelled_is_kept() -> None:
    async def main() -> None:
        begun = asyncio.Event()

        @cached_job(code="none")
        async def stubborn() -> str:
            begun.set()
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                return "done all the same"
            return "never"

        task = asyncio.create_task(stubborn())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not stubborn.is_cached():
            await asyncio.sleep(0.001)
        assert await stubborn() == "done all the same"

    run(main())


def test_a_coroutine_that_raises_cancelled_error_cancels_who_waits() -> None:
    @cached_job
    async def gives_up() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await gives_up()
        future = gives_up.submit()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.cancelled()

    run(main())


def test_cancelled_before_anything_was_looked_up_nothing_runs(counter: CallCounter) -> None:
    @cached_job
    async def counted(counter: CallCounter) -> None:
        counter.tick()

    async def main() -> None:
        tasks = [asyncio.create_task(counted(counter)) for _ in range(5)]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(main())
    assert counter.count == 0


def test_a_lock_of_the_store_lets_the_loop_go_on_while_a_result_is_committed() -> None:
    function = cached_job(doubled)

    async def main() -> None:
        await function(0)
        database = sqlite3.connect(Path(function.cache.cache.directory, "cache.db"), isolation_level=None)
        database.execute("BEGIN IMMEDIATE")  # nobody else writes meanwhile
        task = asyncio.create_task(function(1))
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert not task.done()
        assert not function.is_cached(1)
        database.execute("ROLLBACK")
        database.close()
        assert await task == 2
        assert function.is_cached(1)

    run(main())


opened: list[tuple[str, int]] = []
"""Files that were opened, each with the thread that opened it."""


def note_files(event: str, arguments: tuple[Any, ...]) -> None:
    if event in {"open", "sqlite3.connect"}:
        opened.append((str(arguments[0]), threading.get_ident()))


def test_files_of_the_store_are_opened_on_threads_and_not_in_the_loop(cache_folder: Path) -> None:
    @cached_job
    async def large(x: int) -> bytes:
        return bytes([x]) * 200_000

    async def main() -> None:
        await large(1)
        await asyncio.gather(*(large(x) for x in range(5)))
        assert [len(value) async for value in large.map(range(10))] == [200_000] * 10
        await large.sweep({"x": range(15)})
        await large.submit(20)
        await large.refresh(1)

    sys.addaudithook(note_files)
    opened.clear()
    run(main())
    threads = {thread for name, thread in opened if name.startswith(str(cache_folder))}
    assert threads
    assert threading.get_ident() not in threads


def test_a_timeout_of_the_function_ends_its_coroutine() -> None:
    cleaned_up: list[bool] = []

    @cached_job(timeout=0.4)
    async def slow(x: int) -> int:
        try:
            await asyncio.sleep(PATIENCE if x else 0)
        finally:
            cleaned_up.append(True)
        return x

    async def main() -> None:
        with pytest.raises(JobTimeout, match=r"longer than its timeout of 0\.4 s") as caught:
            await slow(1)
        assert caught.value.seconds == 0.4
        assert await slow(0) == 0

    run(main())
    with pytest.raises(JobTimeout):
        slow.submit(2).result()  # in no loop as well
    assert len(cleaned_up) == 3


@pytest.mark.parametrize("which", ["threads", "ThreadPool", "ThreadPoolExecutor"])
def test_a_timeout_ends_a_coroutine_in_a_thread(which: str, counter: CallCounter) -> None:
    """It cleans up, its thread takes the next job, and it may run again."""
    log = []
    with ThreadPoolExecutor(1) as pool, cast("Executor", Executors.factory("threads")) as ours:
        executor = {"threads": "threads", "ThreadPool": ours, "ThreadPoolExecutor": pool}[which]

        @cached_job(executor=executor, timeout=0.2, retries=1, code="none")
        async def waits(seconds: float) -> float:
            counter.tick()
            try:
                await asyncio.sleep(seconds)
            finally:
                log.append(seconds)
            return seconds

        future = waits.submit(600)
        with pytest.raises(
            JobTimeout, match=r"waits\(seconds=600\) ran for longer than its timeout of 0\.2 s, and was"
        ):
            future.result(PATIENCE)
        assert log == [600, 600]
        assert not waits.is_cached(600)
        assert waits.submit(0).result(PATIENCE) == 0
        with pytest.raises(JobTimeout):
            run(waits(700))
        assert counter.count == 5
        waits.cache.close()


def test_a_timeout_error_of_the_functions_own_is_its_own() -> None:
    @cached_job(timeout=PATIENCE)
    async def raises() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own") as caught:
        run(raises())
    assert not isinstance(caught.value, JobTimeout)


def test_a_coroutine_that_fails_is_tried_again(counter: CallCounter) -> None:
    @cached_job(retries=2, code="none")
    async def flaky(counter: CallCounter) -> int:
        counter.tick()
        if counter.count < 3:
            raise ConnectionError
        return counter.count

    assert run(flaky(counter)) == 3


def test_keyboard_interrupt_in_a_coroutine_ends_the_program_as_it_does_otherwise() -> None:
    @cached_job
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted())


# Submit


def test_submit_in_a_loop_gives_a_future_at_once_that_is_awaited() -> None:
    async def main() -> None:
        gate = Gate()
        future = gate.function.submit(1)
        assert isinstance(future, JobFuture)
        assert not future.done()
        await gate.begun.wait()
        gate.may_end.set()
        assert await future == [1]
        assert (future.cached, future.job.arguments, future.result()) == (False, {"x": 1}, [1])
        again = gate.function.submit(1)
        assert await again == [1]
        assert again.cached

    run(main())


def test_submit_of_a_plain_function_in_a_loop_runs_in_a_thread_one_job_after_the_other() -> None:
    running: list[int] = []
    threads: set[int] = set()

    @cached_job(code="none")
    def alone(x: int) -> int:
        threads.add(threading.get_ident())
        running.append(x)
        assert running == [x]
        running.remove(x)
        return x

    async def main() -> None:
        assert await asyncio.gather(*(alone.submit(x) for x in range(20))) == list(range(20))
        assert threading.get_ident() not in threads
        assert len(threads) == 1
        assert alone(21) == 21  # a plain call runs here, as it always does
        assert threading.get_ident() in threads

    run(main())
    alone.cache.close()


def test_the_loop_goes_on_while_a_plain_function_runs() -> None:
    may_end = threading.Event()

    @cached_job(code="none")
    def slow() -> int:
        assert may_end.wait(PATIENCE)
        return 3

    async def main() -> int:
        future = slow.submit()
        await asyncio.sleep(0.02)
        assert not future.done()
        may_end.set()
        return await future

    assert run(main()) == 3
    slow.cache.close()


def test_a_plain_job_that_runs_a_loop_may_submit_to_its_own_function() -> None:
    @cached_job
    def countdown(n: int) -> int:
        if n == 0:
            return 0

        async def inner() -> int:
            return 1 + await countdown.submit(n - 1)

        return asyncio.run(inner())

    async def main() -> int:
        return await countdown.submit(3)

    assert run(main()) == 3
    countdown.cache.close()


def test_a_plain_function_that_raises_stop_iteration_does_not_hang_who_awaits() -> None:
    @cached_job
    def stops() -> None:
        raise StopIteration

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await stops.submit()

    run(main())
    stops.cache.close()


def test_a_future_of_a_coroutine_is_not_waited_for_in_its_own_loop_but_anywhere_else() -> None:
    async def main() -> None:
        gate = Gate()
        future = gate.function.submit(1)
        for wait in (future.result, future.exception):
            with pytest.raises(BencherJobError, match="Await the future"):
                wait()
        await gate.begun.wait()
        with pytest.raises(BencherJobError, match="Await the calls in flight first"):
            gate.function.cache.wait()
        elsewhere = asyncio.get_running_loop().run_in_executor(None, future.result)
        gate.may_end.set()
        assert await elsewhere == [1]

    run(main())


def test_a_future_of_a_loop_knows_whether_its_result_was_remembered(counter: CallCounter) -> None:
    """Also before it was awaited, as a cell of a notebook asks: a lookup takes no longer than a hit."""

    @cached_job(code="none")
    def plain(counter: CallCounter, x: list[int]) -> list[int]:
        counter.tick()
        return x

    plain(counter, [1])

    async def main() -> None:
        remembered, new = plain.submit(counter, [1]), plain.submit(counter, [2])
        assert remembered.cached
        assert remembered.done()
        assert not new.cached
        assert await new == [2]
        assert not new.cached
        assert plain.submit(counter, [2]).cached

    run(main())
    assert counter.count == 2


def test_cancelling_a_future_cancels_its_run() -> None:
    async def main() -> None:
        gate = Gate()
        future = gate.function.submit(1)
        await gate.begun.wait()
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await future
        while gate.log[-1] != "cleaned up":
            await asyncio.sleep(0)

    run(main())


def test_submit_in_no_loop_runs_it_to_its_end_here() -> None:
    function = cached_job(doubled)
    future = function.submit(4)
    assert (future.done(), future.result()) == (True, 8)
    assert function.submit(4).cached


def test_a_future_made_elsewhere_can_be_awaited_in_any_loop() -> None:
    function = cached_job(executor="threads")(lambda x: x)
    futures = [function.submit(x) for x in range(5)]

    async def main() -> list[int]:
        return await asyncio.gather(*futures)

    assert run(main()) == list(range(5))
    function.cache.close()


# Executors


@cached_job(executor="multiprocessing", max_workers=2)
async def in_a_worker(x: int) -> tuple[int, int, str | None]:
    await asyncio.sleep(0.001)
    if x < 0:
        raise LookupError(x)
    return x, os.getpid(), current_job_key()


def test_a_worker_process_runs_the_coroutine() -> None:
    async def main() -> None:
        values = await asyncio.gather(*(in_a_worker(x) for x in range(6)))
        assert [x for x, _, _ in values] == list(range(6))
        assert os.getpid() not in {pid for _, pid, _ in values}
        assert [key for _, _, key in values] == [in_a_worker.key(x) for x in range(6)]
        with pytest.raises(LookupError) as caught:
            await in_a_worker(-1)
        assert "in_a_worker" in str(caught.value.__cause__)  # the worker's traceback

    run(main())
    in_a_worker.cache.close()


@pytest.mark.parametrize("make", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_runs_the_coroutine(make: Callable[..., Any]) -> None:
    with make(max_workers=2) as executor:
        function = cached_job(executor=executor)(doubled)

        async def main() -> list[int]:
            return await asyncio.gather(*(function(x) for x in range(5)))

        assert run(main()) == [0, 2, 4, 6, 8]
        assert function.submit(7).result(PATIENCE) == 14
        function.cache.close()


def test_threads_run_coroutines_in_loops_of_their_own() -> None:
    loops: list[object] = []

    @cached_job(executor="threads", code="none")
    async def noted(x: int) -> int:
        loops.append(asyncio.get_running_loop())
        return x

    async def main() -> None:
        await asyncio.gather(noted(1), noted(2))
        assert asyncio.get_running_loop() not in loops

    run(main())
    assert len(loops) == 2
    noted.cache.close()


def test_the_last_one_who_is_cancelled_ends_the_run_of_a_worker_process(tmp_path: Path) -> None:
    @cached_job(executor="multiprocessing", max_workers=1, code="none")
    async def stuck(folder: str, name: str) -> str:
        Path(folder, name).touch()
        while name != "last":
            await asyncio.sleep(0.01)
        return name

    async def main() -> None:
        leader, other = (asyncio.create_task(stuck(str(tmp_path), "first")) for _ in range(2))
        while not (tmp_path / "first").exists():
            await asyncio.sleep(0.005)
        await in_flight(stuck, joined=1)
        leader.cancel()
        await asyncio.wait([leader])
        assert not other.done()
        other.cancel()
        await asyncio.wait([other])
        assert await stuck(str(tmp_path), "last") == "last"  # the only worker is free again

    run(main())
    stuck.cache.close()


def test_a_worker_that_dies_is_told_to_who_awaits() -> None:
    @cached_job(executor="multiprocessing", max_workers=1)
    async def dies() -> None:
        os._exit(3)

    async def main() -> None:
        with pytest.raises(WorkerLost) as caught:
            await dies()
        assert caught.value.exit_code == 3

    run(main())
    dies.cache.close()


def test_inside_a_worker_a_coroutine_runs_in_that_workers_loop() -> None:
    @cached_job(executor="multiprocessing", max_workers=1)
    async def inner(x: int) -> tuple[int, int]:
        return x, os.getpid()

    @cached_job(executor="multiprocessing", max_workers=1)
    async def outer(n: int) -> tuple[int, list[tuple[int, int]]]:
        return os.getpid(), await asyncio.gather(*(inner(x) for x in range(n)))

    async def main() -> None:
        pid, values = await outer(3)
        assert values == [(x, pid) for x in range(3)]
        assert inner.is_cached(2)

    run(main())
    inner.cache.close()
    outer.cache.close()


def test_a_job_of_a_coroutine_function_runs_by_itself_but_in_no_running_loop() -> None:
    job = Job("a", doubled, {"x": 3})
    assert run_job(job) == 6

    async def main() -> None:
        with pytest.raises(BencherJobError, match="Await the call instead"):
            run_job(job)

    run(main())


def test_the_cache_underneath_takes_coroutine_functions() -> None:
    with FutureCache(overwrite=False, cache_name="direct") as cache:
        assert cache.submit(Job("a", doubled, {"x": 3})).result() == 6

        async def main() -> list[int]:
            return [await cache.submit(Job("a", doubled, {"x": x})) for x in (3, 4)]

        assert run(main()) == [6, 8]


# Loops that end


def test_a_run_whose_loop_ends_goes_on_with_another_who_waits(counter: CallCounter) -> None:
    begun, may_end = threading.Event(), threading.Event()
    loops: list[object] = []

    @cached_job(code="none")
    async def slow(x: int) -> int:
        counter.tick()
        loops.append(asyncio.get_running_loop())
        begun.set()
        while not may_end.is_set():
            await asyncio.sleep(0.001)
        return x

    may_leave = threading.Event()

    async def leaving() -> None:
        task = asyncio.create_task(slow(1))
        while not may_leave.is_set():
            await asyncio.sleep(0.001)
        assert not task.done()  # asyncio.run cancels it

    async def staying() -> int:
        loops.append(asyncio.get_running_loop())
        return await slow(1)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(asyncio.run, leaving())
        assert begun.wait(PATIENCE)
        second = threads.submit(run, staying())
        assert until(lambda: slow.cache.info().joined == 1)
        may_leave.set()
        first.result(PATIENCE)
        assert until(lambda: counter.count == 2)
        may_end.set()
        assert second.result(PATIENCE) == 1
    assert loops[1] is loops[2] is not loops[0]


def test_who_waits_in_no_loop_gets_the_run_of_a_loop_that_ends(counter: CallCounter) -> None:
    begun, may_leave = threading.Event(), threading.Event()

    @cached_job(code="none")
    async def slow(x: int) -> int:
        counter.tick()
        begun.set()
        while counter.count == 1:
            await asyncio.sleep(0.001)
        return x

    async def leaving() -> None:
        task = asyncio.create_task(slow(1))
        while not may_leave.is_set():
            await asyncio.sleep(0.001)
        assert not task.done()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(asyncio.run, leaving())
        assert begun.wait(PATIENCE)
        waiting = slow.submit(1)  # joins, as it runs already
        may_leave.set()
        first.result(PATIENCE)
        assert waiting.result(PATIENCE) == 1
    assert counter.count == 2


@pytest.mark.parametrize("closed", [True, False])
def test_a_run_left_behind_in_a_loop_that_stopped_is_taken_by_the_next_who_asks(closed: bool) -> None:
    begun: list[object] = []

    @cached_job(code="none")
    async def slow(x: int) -> int:
        begun.append(asyncio.get_running_loop())
        if len(begun) == 1:
            await asyncio.get_running_loop().create_future()  # for ever
        return x

    left_behind = asyncio.new_event_loop()

    async def leave() -> asyncio.Task[int]:
        task = asyncio.create_task(slow(1))
        while not begun:
            await asyncio.sleep(0.001)
        return task

    task = left_behind.run_until_complete(leave())
    if closed:
        left_behind.close()
    assert run(slow(1)) == 1
    assert len(begun) == 2
    if not closed:
        assert left_behind.run_until_complete(asyncio.wait_for(task, PATIENCE)) == 1
        left_behind.close()
    else:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was meant to be


LEFT = """
    import asyncio

    @cached_job(code="none")
    async def endless():
        tell("begun")
        await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    task = loop.create_task(endless())

    async def until_it_has_begun():
        while not (HERE / f"{NAME}.begun").exists():
            await asyncio.sleep(0.001)

    loop.run_until_complete(until_it_has_begun())
    print("the end")
"""


def test_a_run_left_behind_does_not_keep_a_program_from_ending(programs: Programs) -> None:
    assert programs.output(programs.start("careless", LEFT)) == "the end"


INTERRUPTED = """
    import asyncio

    @cached_job(executor="multiprocessing", max_workers=2, code="none")
    async def step(n):
        count(n)
        tell(f"step{n}")
        await asyncio.sleep(0 if n < 2 else 600)
        return n

    async def main():
        await asyncio.gather(*(step(n) for n in range(20)))

    print(os.getpid(), flush=True)
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted", step.is_cached(0), step.is_cached(1), flush=True)
        raise
"""


def test_ctrl_c_under_asyncio_ends_the_workers_and_keeps_what_is_done(programs: Programs) -> None:
    import signal

    import psutil

    program = programs.start("study", INTERRUPTED)
    assert until(lambda: sum(programs.count(str(n)) for n in range(20)) == 4)
    workers = psutil.Process(program.pid).children(recursive=True)
    assert len(workers) >= 2
    program.send_signal(signal.SIGINT)
    out, errors = program.communicate(timeout=PATIENCE)
    assert out.splitlines()[1:] == ["interrupted True True"]
    assert "KeyboardInterrupt" in errors
    assert program.returncode in {130, -signal.SIGINT, 1}
    assert until(lambda: not any(worker.is_running() for worker in workers))
    assert sum(programs.count(str(n)) for n in range(20)) == 4


# Map and sweep


async def numbers(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        await asyncio.sleep(0)
        yield number


@pytest.mark.usefixtures("shared_workers")
@pytest.mark.parametrize("executor", ["serial", "threads", "multiprocessing"])
@pytest.mark.parametrize("ordered", [True, False])
def test_map_gives_the_values_of_all_calls(executor: str, ordered: bool) -> None:
    function = cached_job(executor=executor)(doubled)

    async def main() -> list[int]:
        for x in range(0, 100, 7):
            await function(x)
        return [value async for value in function.map(range(100), ordered=ordered)]

    values = run(main())
    assert (values if ordered else sorted(values)) == [2 * x for x in range(100)]
    assert function.cache.info().hits == len(range(0, 100, 7))
    function.cache.close()


def test_map_reads_asynchronous_iterables_beside_plain_ones() -> None:
    @cached_job
    async def product(x: int, y: int) -> int:
        return x * y

    async def main() -> list[list[int]]:
        return [
            [value async for value in product.map(numbers(4), itertools.count(10))],
            [value async for value in product.map([1, 2], numbers(9))],
            [value async for value in product.map(numbers(0), [1])],
        ]

    assert run(main()) == [[0, 11, 24, 39], [0, 2], []]


def test_map_gives_a_value_while_the_next_argument_is_not_there_yet() -> None:
    more: list[asyncio.Event] = []

    async def slowly() -> AsyncIterator[int]:
        yield 1
        await more[0].wait()
        yield 2

    async def main() -> None:
        more.append(asyncio.Event())
        values = cached_job(doubled).map(slowly())
        assert await anext(values) == 2
        more[0].set()
        assert [value async for value in values] == [4]

    run(main())


def test_map_runs_a_bounded_number_at_once_of_endless_calls() -> None:
    running = most = 0

    @cached_job(code="none")
    async def noted(x: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return x

    async def main() -> None:
        values = noted.map(itertools.count(), buffersize=5)
        assert [await anext(values) for _ in range(30)] == list(range(30))
        await values.aclose()  # type: ignore[attr-defined]

    run(main())
    assert 1 < most <= 5


def test_closing_a_map_cancels_what_runs() -> None:
    begun: set[int] = set()
    cancelled: set[int] = set()

    @cached_job(code="none")
    async def waits(x: int) -> int:
        begun.add(x)
        try:
            await asyncio.sleep(PATIENCE if x else 0)
        except asyncio.CancelledError:
            cancelled.add(x)
            raise
        return x

    async def main() -> None:
        values = waits.map(range(10), buffersize=4)
        assert await anext(values) == 0
        second = asyncio.ensure_future(anext(values))
        while len(begun) < 5:
            await asyncio.sleep(0.001)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert cancelled == begun - {0}
        assert [value async for value in values] == []

    run(main())


def test_an_exception_of_a_map_is_raised_at_its_place() -> None:
    @cached_job
    async def picky(x: int) -> int:
        if x == 2:
            raise LookupError(x)
        return x

    async def main() -> None:
        values = picky.map(range(50))
        assert [await anext(values), await anext(values)] == [0, 1]
        with pytest.raises(LookupError):
            await anext(values)
        assert [value async for value in values] == []
        broken = picky.map(fails_after(1))
        assert await anext(broken) == 0
        with pytest.raises(OSError, match="the tape ended"):
            await anext(broken)

    async def fails_after(stop: int) -> AsyncIterator[int]:
        async for number in numbers(stop):
            yield number
        raise OSError("the tape ended")

    run(main())


def test_a_sweep_of_coroutines_is_awaited_and_runs_them_together() -> None:
    meeting: list[asyncio.Barrier] = []

    @cached_job(code="none")
    async def meets(x: int) -> int:
        await meeting[0].wait()  # all of them run at once
        if x == 3:
            raise LookupError(x)
        return x

    async def main() -> None:
        meeting.append(asyncio.Barrier(4))
        sweep = await meets.sweep({"x": range(4)})
        assert [row["result"] for row in sweep.results] == [0, 1, 2]
        assert [failure.arguments["x"] for failure in sweep.failures] == [3]
        seen = {future.job.arguments["x"]: future.cached async for future in meets.sweep({"x": range(3)})}
        assert seen == {0: True, 1: True, 2: True}
        with pytest.raises(BencherJobError, match="await sweep"):
            sweep.run()
        with pytest.raises(BencherJobError, match="async for"):
            iter(sweep)

    run(main())


def test_a_sweep_of_coroutines_runs_in_a_loop_of_its_own_where_there_is_none() -> None:
    meeting: list[asyncio.Barrier] = []

    @cached_job(code="none")
    async def meets(x: int) -> int:
        if not meeting:
            meeting.append(asyncio.Barrier(3))
        await meeting[0].wait()
        return x

    sweep = meets.sweep({"x": range(3)})
    assert sweep.plan().misses == 3
    assert [row["result"] for row in sweep.run().results] == [0, 1, 2]
    assert sorted(future.result() for future in sweep) == [0, 1, 2]


def test_a_sweep_of_a_plain_function_is_awaited_and_the_loop_goes_on() -> None:
    may_end = threading.Event()

    @cached_job(code="none")
    def slow(x: int) -> int:
        assert may_end.wait(PATIENCE)
        return x

    async def main() -> None:
        task = asyncio.ensure_future(slow.sweep({"x": range(3)}).run_async(on_error="raise"))
        await asyncio.sleep(0.02)
        assert not task.done()
        may_end.set()
        assert [row["result"] for row in (await task).results] == [0, 1, 2]

    run(main())
    slow.cache.close()


def test_a_sweep_that_is_cancelled_keeps_what_is_done() -> None:
    @cached_job(code="none")
    async def some_wait(x: int) -> int:
        await asyncio.sleep(PATIENCE if x > 4 else 0)
        return x

    async def main() -> None:
        sweep = some_wait.sweep({"x": range(10)})
        task = asyncio.ensure_future(sweep.run_async())
        while len(sweep.results) < 5:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [row["result"] for row in sweep.results] == list(range(5))

    run(main())


# What is decorated


class Model:
    def __init__(self, size: int) -> None:
        self.size = size

    @cached_job
    async def score(self, x: int) -> int:
        return self.size * x

    @cached_job
    @classmethod
    async def name(cls, x: int) -> str:
        return f"{cls.__name__}{x}"

    @cached_job
    @staticmethod
    async def doubled(x: int) -> int:
        return 2 * x


def test_methods_class_methods_and_static_methods_are_awaited() -> None:
    async def main() -> None:
        model = Model(3)
        assert await model.score(2) == 6
        assert Model(3).score.is_cached(2)
        assert await Model.score(Model(4), 2) == 8
        assert await Model.name(1) == await model.name(1) == "Model1"
        assert await Model.doubled(4) == await model.doubled(4) == 8
        assert await model.score.submit(5) == 15
        assert await model.score.refresh(2) == 6
        assert [value async for value in model.score.map([1, 2])] == [3, 6]
        assert [row["result"] for row in (await model.score.sweep({"x": [1, 2]})).results] == [3, 6]

    run(main())


def test_it_stays_a_coroutine_function_for_who_asks() -> None:
    model = Model(1)
    functions: list[Any] = [
        cached_job(doubled),
        cached_job(tag="a")(doubled),
        model.score,
        Model.score,
        Model.name,
        model.name,
        Model.doubled,
        model.doubled,
        cached_job(functools.partial(doubled, 3)),
    ]
    for function in functions:
        assert inspect.iscoroutinefunction(function), function
    assert isinstance(functions[0], CachedFunction)
    assert functions[0].__name__ == "doubled"
    assert inspect.signature(functions[0]) == inspect.signature(doubled)
    assert not inspect.iscoroutinefunction(cached_job(lambda x: x))


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    async def __call__(self, x: int) -> int:
        return self.factor * x


def test_an_object_that_is_called_by_a_coroutine_function_is_one() -> None:
    function = cached_job(Scale(3))
    assert run(function(2)) == 6
    if sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(function)


def forwards(x: int) -> Awaitable[int]:
    return doubled(x)


def test_a_function_that_only_returns_an_awaitable_is_a_plain_one() -> None:
    """Nothing tells what it returns before it is called, so it is called as it is."""
    function = cached_job(forwards)
    assert not inspect.iscoroutinefunction(function)
    with pytest.warns(CacheWarning, match="can't be pickled"):
        awaitable = function(2)
    assert run(awaitable) == 4  # type: ignore[arg-type]
    assert not function.is_cached(2)


if sys.version_info >= (3, 12):  # functions can be marked from then on

    def test_a_function_that_is_marked_as_a_coroutine_function_is_one() -> None:
        @inspect.markcoroutinefunction
        def marked(x: int) -> Awaitable[int]:
            return doubled(x)

        function = cached_job(marked)
        assert inspect.iscoroutinefunction(function)
        assert run(function(2)) == 4
        assert function.submit(3).result() == 6


def test_an_asynchronous_generator_is_refused() -> None:
    with pytest.raises(TypeError, match="asynchronous generator numbers"):
        cached_job(numbers)


async def module_level(x: int) -> int:
    return x


def test_it_pickles_by_value_where_it_has_no_name() -> None:
    function = pickle.loads(pickle.dumps(cached_job(module_level)))
    assert run(function(2)) == 2
    assert inspect.iscoroutinefunction(function)


def test_an_edit_of_a_coroutine_function_is_another_job(write_module: Any) -> None:
    module = write_module(
        "study_async", "from bencher_job import cached_job\n@cached_job\nasync def f(x):\n    return x\n"
    )
    assert run(module.f(1)) == 1
    module = write_module(
        "study_async", "from bencher_job import cached_job\n@cached_job\nasync def f(x):\n    return x + 1\n"
    )
    assert run(module.f(1)) == 2


def test_decorating_a_coroutine_function_imports_no_asyncio(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys, wrapt\nbefore = set(sys.modules)\nfrom bencher_job import cached_job\n"
        "@cached_job\nasync def f(x):\n    return x\n"
        "f.sweep({'x': [1]}).plan()\n"
        "sys.exit('asyncio' in sys.modules.keys() - before)"  # wrapt 2 imports it
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


def test_cancelled_futures_of_concurrent_futures_stay_what_they_are() -> None:
    function = cached_job(executor="threads", max_workers=1)(lambda x: threading.Event().wait(0.05) or x)
    futures = [function.submit(x) for x in range(3)]
    assert futures[-1].cancel()
    with pytest.raises(CancelledError):
        futures[-1].result()
    assert [future.result(PATIENCE) for future in futures[:2]] == [0, 1]
    function.cache.close()
