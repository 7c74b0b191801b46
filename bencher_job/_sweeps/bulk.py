"""Run many calls of one function: look them up in bulk, and run the missing ones ahead of the reader.

    read: a call, its key -> look_up -> stored ────────────────┐
                                     -> missing: a running job ┴-> ready: answers, by the numbers of the calls

The number of running jobs and untaken answers is bounded, so endless calls take bounded memory. A job that runs in line
runs when its answer is taken.
"""

from __future__ import annotations

import itertools
import queue
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import CancelledError
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from .._cache import Prefetched
from .._errors import BencherJobError
from .._function_cache import JobFunctionCache
from .._future import JobFuture
from .._job import Job, can_not_change
from .._keys import FunctionVersion, Identity, Known
from .._loops import Caller, await_in_thread, caller, is_coroutine_function
from .._stores import MISS

if TYPE_CHECKING:
    import asyncio
    from asyncio import AbstractEventLoop


LONGEST_READING: Final = 0.01
"""Maximum time in seconds for which calls are read before they are looked up."""

READ_AHEAD: Final = 256
"""Maximum number of calls of an asynchronous iterator that are read but not looked up."""


@dataclass(slots=True)
class Call:
    """One call of the function, and its outcome: a stored value, the future of a job, or an error that prevented it.

    Attributes:
        number: its place among the calls, from 0.
        repeat: the number of its repeat, from 0.
        identity: its key with its inputs; None if no key could be made.
        future: the future of the job; None if no job was needed.
        asked: the lookup that missed, if the job runs in line when the answer is taken.
    """

    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    repeat: int = 0
    identity: Identity | None = None
    future: JobFuture[Any] | None = None
    asked: Prefetched | None = None
    _value: Any = None
    _error: BaseException | None = None

    @property
    def is_hit(self) -> bool:
        """Whether the value was stored when the call was looked up, or stored by another process since."""
        return self.future.cached if self.future is not None else self._error is None

    def value(self) -> Any:
        """Wait for the value and return it.

        Raises:
            BaseException: what the function raised, or the error that kept the call from becoming a job.
        """
        if self.future is not None:
            return self.future.result()
        if self._error is not None:
            raise self._error
        return self._value

    def error(self) -> BaseException | None:
        """Return what the function raised, or the error that kept the call from becoming a job, or None."""
        if self.future is None:
            return self._error
        try:
            return self.future.exception()
        except CancelledError as cancelled:
            return cancelled

    def fail(self, error: BaseException) -> None:
        """Settle the call by an error."""
        self.identity, self._error = None, error


class PlainCalls:
    """Calls of a plain iterator. If it blocks, so does the reader."""

    def __init__(self, calls: Iterator[Call]) -> None:
        self._calls = calls
        self.is_ended = False
        self.problem: Exception | None = None

    def each(self, wanted: int) -> Iterator[Call]:
        """Yield up to `wanted` calls, fewer if reading takes long."""
        if self.is_ended:
            return
        until = monotonic() + LONGEST_READING
        try:
            for call in itertools.islice(self._calls, wanted):
                yield call
                wanted -= 1
                if monotonic() > until:
                    return
        except Exception as problem:  # noqa: BLE001 - raised after the answers to the calls before it
            self.problem = problem
        self.is_ended = wanted > 0

    def some(self, wanted: int) -> list[Call]:
        """Return up to `wanted` calls, fewer if reading takes long."""
        return list(self.each(wanted))


class AsynchronousCalls:
    """Calls of an asynchronous iterator, read by a task of the event loop, which calls `notify` on changes."""

    def __init__(self, calls: AsyncGenerator[Call, None], notify: Callable[[], object]) -> None:
        import asyncio  # slow to import, and already imported where a loop runs

        self.is_ended = False
        self.problem: Exception | None = None
        self._read: deque[Call] = deque()
        self._is_read = False
        self._has_room = asyncio.Event()
        self._notify = notify
        self._task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._read_all(calls))

    async def _read_all(self, calls: AsyncGenerator[Call, None]) -> None:
        try:
            async for call in calls:
                self._read.append(call)
                self._notify()
                while len(self._read) >= READ_AHEAD:
                    self._has_room.clear()
                    await self._has_room.wait()
        except Exception as problem:  # noqa: BLE001 - raised after the answers to the calls before it
            self.problem = problem
        finally:
            await calls.aclose()
            self._is_read = True
            self._notify()

    def some(self, wanted: int) -> list[Call]:
        """Return up to `wanted` of the calls that have been read."""
        some = [self._read.popleft() for _ in range(min(wanted, len(self._read)))]
        self._has_room.set()
        self.is_ended = self._is_read and not self._read
        return some

    async def close(self) -> None:
        """Stop reading, and wait until the reader has ended."""
        import asyncio

        self._task.cancel()
        await asyncio.wait([self._task])


LARGEST_LOOKUP: Final = 256
"""Maximum number of keys that are looked up together."""

LARGEST_FETCH: Final = 800
"""The same, while they are fetched from a shared store: each time takes a round trip."""

ROOM: Final = 1024
"""Default limit on calls that run or whose answers are not taken yet."""

ROOM_IN_LOOP: Final = 100
"""Default limit on coroutines that run in their caller's loop at once, as many as a server can bear."""


@dataclass(slots=True)
class Bulk:
    """Numbered calls of one function that are looked up and run. Used by one thread at a time.

    Answers come in the order of the calls, or as they complete. `room` limits the calls that run or whose answers are
    not taken yet; 0 means the default. `asker` is the caller if this runs for an event loop. `notify` is called from
    any thread when a job ends.
    """

    cache: JobFunctionCache
    ordered: bool = True
    room: int = 0
    asker: Caller | None = None
    notify: Callable[[], object] | None = None
    _line: deque[Call] = field(default_factory=deque)
    """The answers to take next: in the order of the calls, or as they completed."""
    _running: dict[int, Call] = field(default_factory=dict)
    _done: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    _known: Known = field(default_factory=dict)
    """The encodings of arguments shared by the calls that were read, valid until a job runs."""
    _size: int = 1
    _in_line: bool = False

    def __post_init__(self) -> None:
        if not self.room:
            in_loop = (
                self.asker is not None
                and self.cache.runs_in_line
                and is_coroutine_function(self.cache.function)
            )
            self.room = ROOM_IN_LOOP if in_loop else ROOM
        self._in_line = self.asker is None and self.cache.runs_in_line

    @property
    def is_empty(self) -> bool:
        """Whether all answers have been taken."""
        return not self._line and not self._running

    def wanted(self) -> int:
        """Return how many calls to read next: few at first, so that the first answer comes soon."""
        return max(0, min(self._size, self.room - len(self._line) - len(self._running)))

    def take(self, calls: Iterable[Call]) -> bool:
        """Add calls, look them up together, and start the jobs of the missing ones. Return whether there were any.

        Each key is made as its call is read, because the arguments may change later.

        Raises:
            BencherJobError: when the executor can't take jobs, or a job waits for itself.
        """
        keys, group, keyed, wanted = self.cache.keys, [], [], []
        for call in calls:
            group.append(call)
            try:
                if keys.reads_files:
                    call.args, call.kwargs = keys.anchored(call.args, call.kwargs)
                identity = keys.identity(call.args, call.kwargs, self._known, None, call.repeat)
                call.identity = identity
            except Exception as error:  # noqa: BLE001 - a class's own __job_key__ can raise anything
                call.fail(error)
            else:
                keyed.append(call)
                wanted.append(identity[0])
        if not group:
            return False
        values, asked = self.cache.look_up(wanted)
        self._size = min(2 * self._size, LARGEST_FETCH if asked.fetched else LARGEST_LOOKUP)
        missing = []
        for call, value in zip(keyed, values, strict=True):
            if value is MISS:
                call.asked = asked
                missing.append(call)
            else:
                call._value = value  # noqa: SLF001 - its own module
        if not self._in_line:
            self._start(missing, asked)
            for call in missing:
                if call.future is not None:
                    self._watch(call, call.future)
        self._line.extend(group if self.ordered else [call for call in group if call.future is None])
        self._known.clear()
        return True

    def _watch(self, call: Call, future: JobFuture[Any]) -> None:
        if not self.ordered:
            self._running[call.number] = call
            future.add_done_callback(lambda _: self._done.put(call.number))
        if self.notify is not None:
            notify = self.notify
            future.add_done_callback(lambda _: notify())

    def _start(self, missing: Sequence[Call], asked: Prefetched) -> None:
        """Start the jobs of calls with their present arguments, together unless they run in this thread."""
        keys = self.cache.keys
        # No user code runs before all jobs are prepared.
        function_version = keys.function_version if missing else None
        lasts = keys.check_of(function_version) is not None
        jobs = [(each, self._job(each, function_version, lasts=lasts)) for each in missing]
        together: list[tuple[Call, Job]] = []
        for call, job in jobs:
            lookup, call.asked = call.asked, None
            if job is None or lookup is None:
                continue
            if self._in_line or self.asker is not None or lookup is not asked:
                call.future = self.cache.start(job, lookup, self.asker)
            else:
                together.append((call, job))
        futures = self.cache.start_many([job for _, job in together], asked)
        for (call, _), future in zip(together, futures, strict=True):
            call.future = future

    def _job(
        self, call: Call, function_version: FunctionVersion | None, *, lasts: bool = False
    ) -> Job | None:
        """Make the job of a call with its present arguments, or return None if it is settled without.

        With `lasts` the earlier key is still valid if the function version is the same and the arguments can't change.
        """
        before, keys = call.identity, self.cache.keys
        if before is None:
            return None
        identity = before
        if not (
            lasts and before[2] is function_version and can_not_change((*call.args, *call.kwargs.values()))
        ):
            known = None if self._in_line else self._known  # a job that ran in line may have changed them
            identity = keys.identity(call.args, call.kwargs, known, function_version, call.repeat)
        job = self.cache.job(call.args, call.kwargs, identity, call.repeat)
        if job.bound != before[1] and not job.files:
            call.fail(
                BencherJobError(
                    f"An argument of {job!r} has changed since the call was read, and calls are read ahead. Give each "
                    f"call objects of its own, and let no job change them."
                )
            )
            return None
        if job.job_key != before[0]:  # the code has changed, or a file that counts by content
            (value,), call.asked = self.cache.look_up([job.job_key])
            if value is not MISS:
                call._value = value  # noqa: SLF001 - its own module
                return None
        return job

    def ready(self) -> Iterator[Call]:
        """Yield the answers that are available without waiting for another process or thread."""
        line = self._line
        while True:
            while line:
                first = line[0]
                if first.future is not None and not first.future.done():
                    return
                line.popleft()
                if first.asked is not None:
                    self._start([first], first.asked)
                yield first
            try:
                line.append(self._running.pop(self._done.get_nowait()))
            except queue.Empty:
                return

    def wait(self) -> None:
        """Wait until an answer is available."""
        if self._line:  # in order, and the first of them is running
            # Not `futures.wait`, whose interruption may leave a lock held.
            done: queue.SimpleQueue[object] = queue.SimpleQueue()
            self._line[0].future.add_done_callback(done.put)  # type: ignore[union-attr]  # it runs
            done.get()
        else:
            self._line.append(self._running.pop(self._done.get()))

    def drop(self) -> list[JobFuture[Any]]:
        """Drop all untaken answers, and return the futures of their jobs."""
        untaken = [*self._line, *self._running.values()]
        self._line.clear()
        self._running.clear()
        return [each.future for each in untaken if each.future is not None]


def answers(bulk: Bulk, calls: Iterator[Call]) -> Generator[Call, None, None]:
    """Yield the answers to calls, which are read as there is room. Closing it cancels jobs that have not started.

    An exception of the iterator of calls is raised after the answers to the calls before it.
    """
    source = PlainCalls(calls)
    try:
        while True:
            yield from bulk.ready()
            if bulk.take(source.each(bulk.wanted())):
                continue
            if not bulk.is_empty:
                bulk.wait()
            elif source.problem is not None:
                raise source.problem
            else:
                return
    finally:
        for future in bulk.drop():
            future.cancel()


async def answers_in_loop(
    bulk: Bulk, calls: Iterator[Call] | AsyncGenerator[Call, None]
) -> AsyncGenerator[Call, None]:
    """Yield the answers to calls without blocking the event loop. Closing it cancels running jobs."""
    import asyncio  # slow to import, and already imported where a loop runs

    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    bulk.notify = lambda: _call_in(loop, changed.set)
    source = PlainCalls(calls) if isinstance(calls, Iterator) else AsynchronousCalls(calls, changed.set)
    try:
        while True:
            for call in bulk.ready():
                yield call
            group = source.some(bulk.wanted())
            if group:
                await await_in_thread(bulk.take, group)
            elif not bulk.is_empty or not source.is_ended:
                await changed.wait()
                changed.clear()
            elif source.problem is not None:
                raise source.problem
            else:
                return
    finally:
        if isinstance(source, AsynchronousCalls):
            await source.close()
        await asyncio.gather(*(future.end() for future in bulk.drop()))


def _call_in(loop: AbstractEventLoop, callback: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop was closed, so nothing waits in it
        loop.call_soon_threadsafe(callback)


def stream(
    cache: JobFunctionCache,
    calls: Iterable[tuple[Any, ...]],
    *,
    ordered: bool = True,
    buffersize: int | None = None,
) -> Iterator[Any]:
    """Return an iterator over the values of calls, which are looked up and run ahead within `buffersize`.

    Raises:
        TypeError: when `buffersize` is not an int.
        ValueError: when it is below 1.
    """
    return _values(cache, calls, ordered, _checked(buffersize))


def _values(
    cache: JobFunctionCache, calls: Iterable[tuple[Any, ...]], ordered: bool, room: int
) -> Iterator[Any]:
    numbered = (Call(number, args, {}) for number, args in enumerate(calls))
    with closing(answers(Bulk(cache, ordered=ordered, room=room), numbered)) as given:
        for call in given:
            yield call.value()


def stream_in_loop(
    cache: JobFunctionCache,
    iterables: Sequence[Iterable[Any] | AsyncIterable[Any]],
    completed: Callable[[tuple[Any, ...]], tuple[Any, ...]],
    *,
    ordered: bool = True,
    buffersize: int | None = None,
) -> AsyncIterator[Any]:
    """Return an asynchronous iterator over the values of calls, whose arguments come from iterables of either kind.

    `completed` puts a bound instance before a call's arguments.

    Raises:
        TypeError: when `buffersize` is not an int, or an argument can't be iterated.
        ValueError: when it is below 1.
    """
    room = _checked(buffersize)
    each: list[Any] = [
        iterable.__aiter__() if isinstance(iterable, AsyncIterable) else iter(iterable)
        for iterable in iterables
    ]
    return _values_in_loop(cache, each, completed, ordered, room)


async def _values_in_loop(
    cache: JobFunctionCache,
    iterators: Sequence[Any],
    completed: Callable[[tuple[Any, ...]], tuple[Any, ...]],
    ordered: bool,
    room: int,
) -> AsyncGenerator[Any, None]:
    bulk = Bulk(cache, ordered=ordered, room=room, asker=caller())
    calls: Any
    if any(isinstance(iterator, AsyncIterator) for iterator in iterators):
        calls = _zipped(iterators, completed)
    else:
        every = enumerate(zip(*iterators, strict=False))
        calls = (Call(number, completed(args), {}) for number, args in every)
    async with aclosing(answers_in_loop(bulk, calls)) as given:
        async for call in given:
            yield call.value()


async def _zipped(
    iterators: Sequence[Any], completed: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> AsyncGenerator[Call, None]:
    """Yield calls with one value of each iterator, until the shortest is exhausted."""
    for number in itertools.count():
        values = []
        for iterator in iterators:
            try:
                values.append(
                    await anext(iterator) if isinstance(iterator, AsyncIterator) else next(iterator)
                )
            except (StopIteration, StopAsyncIteration):
                return
        yield Call(number, completed(tuple(values)), {})


def _checked(buffersize: int | None) -> int:
    if buffersize is None:
        return 0
    if not isinstance(buffersize, int):
        raise TypeError(f"buffersize must be an int, not {type(buffersize).__name__}")
    if buffersize < 1:
        raise ValueError(f"buffersize={buffersize} leaves no room for a call. Give 1 or more, or None.")
    return buffersize
