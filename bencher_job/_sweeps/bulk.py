"""Many calls of one function: looked up in bulk, the rest run ahead of the reader.

    read: a call, its key -> look_up -> remembered ──────────────┐
                                     -> missing: a job in flight ┴-> ready: answers, by the numbers of the calls

What is in flight or waits to be taken is bounded, so that endless calls take bounded memory. Where jobs run in line,
each runs when its answer is taken.
"""

from __future__ import annotations

import itertools
import queue
import time
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
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from .._cache import Prefetched
from .._errors import BencherJobError
from .._function_cache import JobFunctionCache
from .._future import JobFuture
from .._job import Job, can_not_change
from .._keys import Edition, Identity, Known
from .._loops import Caller, caller, in_thread, is_coroutine_function
from .._stores import MISS

if TYPE_CHECKING:
    import asyncio
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = [
    "Answer",
    "AsynchronousCalls",
    "Bulk",
    "Call",
    "Calls",
    "PlainCalls",
    "answers",
    "answers_in_loop",
    "stream",
    "stream_in_loop",
]


LONGEST_READING: Final = 0.01
"""Seconds for which calls are read before those that have come are looked up."""

READ_AHEAD: Final = 256
"""How many calls of an asynchronous iterator are read ahead of those that are looked up."""


class Call(NamedTuple):
    """One call of the function: its arguments, and which of its repeats it is, from 0."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    repeat: int = 0


class Calls(Protocol):
    """Numbered calls that are read one after the other.

    Attributes:
        is_ended: whether there are no more.
        problem: what their iterator has raised, which has ended them.
    """

    is_ended: bool
    problem: Exception | None

    def some(self, wanted: int) -> list[tuple[int, Call]]:
        """Read as many as are wanted at most, without waiting for them."""

    async def close(self) -> None:
        """Read no more."""


class PlainCalls:
    """Calls of an iterator; one that makes the reader wait can't be read without waiting."""

    def __init__(self, calls: Iterator[tuple[int, Call]]) -> None:
        self._calls = calls
        self.is_ended = False
        self.problem: Exception | None = None

    def each(self, wanted: int) -> Iterator[tuple[int, Call]]:
        """Read as many as are wanted, unless that takes long."""
        if self.is_ended or not wanted:
            return
        until = time.monotonic() + LONGEST_READING
        try:
            for number, call in enumerate(itertools.islice(self._calls, wanted), 1):
                yield call
                if number == wanted or time.monotonic() > until:
                    return
        except Exception as problem:  # noqa: BLE001 - it is raised when all calls before it have been answered
            self.problem = problem
        self.is_ended = True

    def some(self, wanted: int) -> list[tuple[int, Call]]:
        """Read as many as are wanted, unless that takes long."""
        return list(self.each(wanted))

    async def close(self) -> None:
        """Do nothing: nothing is read unasked."""


class AsynchronousCalls:
    """Calls of an asynchronous iterator, read by a task of the event loop; `tell` is called when there is news."""

    def __init__(self, calls: AsyncGenerator[tuple[int, Call], None], tell: Callable[[], object]) -> None:
        import asyncio  # takes long to import, and is imported where loops run

        self.is_ended = False
        self.problem: Exception | None = None
        self._read: deque[tuple[int, Call]] = deque()
        self._is_read = False
        self._has_room = asyncio.Event()
        self._tell = tell
        self._task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._read_all(calls))

    async def _read_all(self, calls: AsyncGenerator[tuple[int, Call], None]) -> None:
        try:
            async for call in calls:
                self._read.append(call)
                self._tell()
                while len(self._read) >= READ_AHEAD:
                    self._has_room.clear()
                    await self._has_room.wait()
        except Exception as problem:  # noqa: BLE001 - it is raised when all calls before it have been answered
            self.problem = problem
        finally:
            await calls.aclose()
            self._is_read = True
            self._tell()

    def some(self, wanted: int) -> list[tuple[int, Call]]:
        """Give as many as are wanted of those that have been read."""
        some = [self._read.popleft() for _ in range(min(wanted, len(self._read)))]
        self._has_room.set()
        self.is_ended = self._is_read and not self._read
        return some

    async def close(self) -> None:
        """Read no more, and wait until the reader has ended."""
        import asyncio

        self._task.cancel()
        await asyncio.wait([self._task])


LARGEST_LOOKUP: Final = 256
"""How many keys are looked up together at most."""

ROOM: Final = 1024
"""How many answers are in flight or wait to be taken at most, unless it is said."""

ROOM_IN_LOOP: Final = 100
"""How many coroutines run in their caller's loop at once, unless it is said: as many as a server puts up with."""


@dataclass(slots=True)
class Answer:
    """What came of a call: it was remembered, or its job has ended, or it could not be made a job.

    Attributes:
        number: the number of the call.
        identity: the key of the call, with what it was made of; None where it has none.
        future: the future of the job that ran; None where nothing ran.
    """

    number: int
    identity: Identity | None
    future: JobFuture[Any] | None = None
    _value: Any = None
    _error: BaseException | None = None

    @property
    def is_hit(self) -> bool:
        """Whether it was remembered when it was asked for, or computed by somebody else meanwhile."""
        return self.future.cached if self.future is not None else self._error is None

    def value(self) -> Any:
        """Give the value.

        Raises:
            BaseException: what the function raised, or why the call is no job.
        """
        if self.future is not None:
            return self.future.result()
        if self._error is not None:
            raise self._error
        return self._value

    def error(self) -> BaseException | None:
        """Give what the function raised, or why the call is no job."""
        if self.future is not None:
            return self.future.exception()
        return self._error


@dataclass(slots=True)
class _Read:
    """A call that was read, with its key as it was then."""

    number: int
    call: Call
    identity: Identity


@dataclass(slots=True)
class _Prepared:
    """The job of a call that was not found, and what was asked."""

    read: _Read
    job: Job
    asked: Prefetched


@dataclass(slots=True)
class _Unstarted:
    """A job that runs in line when its answer is taken."""

    read: _Read
    asked: Prefetched


@dataclass(slots=True)
class Bulk:
    """Many calls of one function on their way, each under a number; used by one thread at a time.

    Answers come in the order of the calls, or as they complete. `room` is how many may be in flight or wait to be
    taken, 0 for as many as usual. An `asker` asks in an event loop. `tell` is called from any thread when a job ends.
    """

    cache: JobFunctionCache
    ordered: bool = True
    room: int = 0
    asker: Caller | None = None
    tell: Callable[[], object] | None = None
    _line: deque[Answer | _Unstarted] = field(default_factory=deque)
    """What is to be taken: in order, or what is done already."""
    _running: dict[int, Answer] = field(default_factory=dict)
    _done: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    _read: list[_Read | Answer] = field(default_factory=list)
    _known: Known = field(default_factory=dict)
    """The arguments that what was read shares, encoded; as long as nothing has run they are as they were."""
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
        """Whether all that was asked for has been taken."""
        return not self._line and not self._running

    def wanted(self) -> int:
        """Say how many calls there is room for; few at first, so that the first answer comes soon."""
        return max(0, min(self._size, self.room - len(self._line) - len(self._running)))

    def read(self, number: int, call: Call) -> None:
        """Take in a call and make its key, now: what its arguments are later may be something else."""
        keys = self.cache.keys
        try:
            if keys.reads_files:
                call = Call(*keys.anchored(call.args, call.kwargs), call.repeat)
            identity = keys.identity(call.args, call.kwargs, self._known)
        except Exception as error:  # noqa: BLE001 - a class's own __job_key__ can raise anything; it's this call's
            self._read.append(Answer(number, None, _error=error))
        else:
            if call.repeat:
                identity = keys.repeated(identity, call.repeat)
            self._read.append(_Read(number, call, identity))

    def take(self, calls: Iterable[tuple[int, Call]]) -> None:
        """Take in calls and look them up together."""
        for number, call in calls:
            self.read(number, call)
        self.look_up()

    def look_up(self) -> bool:
        """Look up together what was read, and start the jobs of what is missing; whether there was anything.

        Raises:
            BencherJobError: when the executor can't take jobs, or a job waits for itself.
        """
        group, self._read = self._read, []
        if not group:
            return False
        self._size = min(2 * self._size, LARGEST_LOOKUP)
        values, asked = self.cache.look_up([read.identity[0] for read in group if type(read) is _Read])
        found = iter(values)
        missing: list[_Read] = []
        given: list[Answer | _Read] = []
        for read in group:
            if type(read) is Answer:
                given.append(read)
            elif (value := next(found)) is not MISS:
                given.append(Answer(read.number, read.identity, _value=value))
            else:
                given.append(read)
                missing.append(read)  # type: ignore[arg-type]
        if self._in_line:
            self._line += [each if type(each) is Answer else _Unstarted(each, asked) for each in given]  # type: ignore[arg-type]
        else:
            started = iter(self._started(missing, asked))
            for each in given:
                self._take_in(each if type(each) is Answer else next(started))
        self._known.clear()
        return True

    def _take_in(self, answer: Answer) -> None:
        if self.ordered or answer.future is None:
            self._line.append(answer)
        else:
            self._running[answer.number] = answer
            answer.future.add_done_callback(lambda _: self._done.put(answer.number))
        if self.tell is not None and answer.future is not None:
            tell = self.tell
            answer.future.add_done_callback(lambda _: tell())

    def _started(self, reads: Sequence[_Read], asked: Prefetched) -> list[Answer]:
        """Start the jobs of calls with their arguments as they are now, together where none of them runs here."""
        keys = self.cache.keys
        edition = keys.edition if reads else None  # nothing of the user's runs before all are prepared
        lasts = keys.check_of(edition) is not None
        prepared = [self._prepared(read, asked, edition, lasts=lasts) for read in reads]
        if self._in_line or self.asker is not None:
            return [self._with_future(each) for each in prepared]
        jobs = [each.job for each in prepared if type(each) is _Prepared and each.asked is asked]
        futures = iter(self.cache.start_many(jobs, asked))
        return [
            Answer(each.read.number, each.read.identity, next(futures))
            if type(each) is _Prepared and each.asked is asked
            else self._with_future(each)
            for each in prepared
        ]

    def _with_future(self, prepared: Answer | _Prepared) -> Answer:
        if type(prepared) is Answer:
            return prepared
        read = prepared.read  # type: ignore[union-attr]
        future = self.cache.start(prepared.job, prepared.asked, self.asker)  # type: ignore[union-attr]
        return Answer(read.number, read.identity, future)

    def _prepared(
        self, read: _Read, asked: Prefetched, edition: Edition | None, *, lasts: bool = False
    ) -> Answer | _Prepared:
        """Make the job of a call with its arguments as they are now.

        What was read of it `lasts` where a key depends on the edition, and on arguments that can't change.
        """
        call = read.call
        if lasts and read.identity[2] is edition and can_not_change((*call.args, *call.kwargs.values())):
            identity = read.identity
        else:
            known = None if self._in_line else self._known  # a job that has run in line may have changed them
            identity = self.cache.keys.identity(call.args, call.kwargs, known, edition)
            identity = self.cache.keys.repeated(identity, call.repeat)
        job = self.cache.job(call.args, call.kwargs, identity, call.repeat)
        if job.bound != read.identity[1] and not job.files:
            changed = BencherJobError(
                f"An argument of {job!r} has changed since the call was read, and calls are read ahead. Give each "
                f"call objects of its own, and let no job change them."
            )
            return Answer(read.number, None, _error=changed)
        if job.job_key != read.identity[0]:  # the code has changed, or a file that counts by content
            (value,), asked = self.cache.look_up([job.job_key])
            if value is not MISS:
                return Answer(read.number, read.identity, _value=value)
        return _Prepared(read, job, asked)

    def ready(self) -> Iterator[Answer]:
        """Give what can be taken without waiting for another process or thread."""
        line = self._line
        while True:
            while line:
                first = line[0]
                if type(first) is _Unstarted:
                    line.popleft()
                    yield from self._started([first.read], first.asked)
                elif first.future is None or first.future.done():  # type: ignore[union-attr]
                    line.popleft()
                    yield first  # type: ignore[misc]
                else:
                    return
            try:
                line.append(self._running.pop(self._done.get_nowait()))
            except queue.Empty:
                return

    def wait(self) -> None:
        """Wait until something can be taken."""
        if self._line:  # in order, the first of them is in flight
            done: queue.SimpleQueue[object] = (
                queue.SimpleQueue()
            )  # an interrupt of `futures.wait` may keep a lock
            self._line[0].future.add_done_callback(done.put)  # type: ignore[union-attr]
            done.get()
        else:
            self._line.append(self._running.pop(self._done.get()))

    def drop(self) -> list[JobFuture[Any]]:
        """Forget what has not been taken, and give the futures of the jobs among it."""
        untaken = [*self._line, *self._running.values()]
        self._line.clear()
        self._running.clear()
        return [each.future for each in untaken if type(each) is Answer and each.future is not None]


def answers(bulk: Bulk, calls: Iterator[tuple[int, Call]]) -> Generator[Answer, None, None]:
    """Give the answers to calls, which are read as there is room; what has not begun when it is closed is cancelled.

    What the iterator of the calls raises comes after the answers to the calls before.
    """
    source = PlainCalls(calls)
    try:
        while True:
            yield from bulk.ready()
            for number, call in source.each(bulk.wanted()):
                bulk.read(number, call)
            if bulk.look_up():
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
    bulk: Bulk, calls: Iterator[tuple[int, Call]] | AsyncGenerator[tuple[int, Call], None]
) -> AsyncGenerator[Answer, None]:
    """Give the answers to calls in an event loop, which goes on meanwhile; when it is closed what runs is cancelled."""
    import asyncio  # takes long to import, and is imported where loops run

    loop, news = asyncio.get_running_loop(), asyncio.Event()
    bulk.tell = lambda: _call_in(loop, news.set)
    source: Calls = PlainCalls(calls) if isinstance(calls, Iterator) else AsynchronousCalls(calls, news.set)
    try:
        while True:
            for answer in bulk.ready():
                yield answer
            group = source.some(bulk.wanted())
            if group:
                await in_thread(bulk.take, group)
            elif not bulk.is_empty or not source.is_ended:
                await news.wait()
                news.clear()
            elif source.problem is not None:
                raise source.problem
            else:
                return
    finally:
        await source.close()
        await asyncio.gather(*(future.end() for future in bulk.drop()))


def _call_in(loop: AbstractEventLoop, callback: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop was closed, and nobody waits in it any more
        loop.call_soon_threadsafe(callback)


def stream(
    cache: JobFunctionCache,
    calls: Iterable[tuple[Any, ...]],
    *,
    ordered: bool = True,
    buffersize: int | None = None,
) -> Iterator[Any]:
    """Give the values of calls, a bounded number of which are looked up or run ahead.

    Raises:
        TypeError: when the buffer's size is no whole number.
        ValueError: when it is below 1.
    """
    return _values(cache, calls, ordered, _checked(buffersize))


def _values(
    cache: JobFunctionCache, calls: Iterable[tuple[Any, ...]], ordered: bool, room: int
) -> Iterator[Any]:
    numbered = enumerate(Call(args, {}) for args in calls)
    with closing(answers(Bulk(cache, ordered=ordered, room=room), numbered)) as given:
        for answer in given:
            yield answer.value()


def stream_in_loop(
    cache: JobFunctionCache,
    iterables: Sequence[Iterable[Any] | AsyncIterable[Any]],
    completed: Callable[[tuple[Any, ...]], tuple[Any, ...]],
    *,
    ordered: bool = True,
    buffersize: int | None = None,
) -> AsyncIterator[Any]:
    """Give the values of the calls of a coroutine function, whose arguments come from iterables of either kind.

    `completed` adds to a call's arguments what comes before them.

    Raises:
        TypeError: when the buffer's size is no whole number, or something can't be iterated.
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
        calls = enumerate(Call(completed(args), {}) for args in zip(*iterators, strict=False))
    async with aclosing(answers_in_loop(bulk, calls)) as given:
        async for answer in given:
            yield answer.value()


async def _zipped(
    iterators: Sequence[Any], completed: Callable[[tuple[Any, ...]], tuple[Any, ...]]
) -> AsyncGenerator[tuple[int, Call], None]:
    """Make calls of a value of each iterator at a time, until the first has no more."""
    for number in itertools.count():
        values = []
        for iterator in iterators:
            try:
                values.append(
                    await anext(iterator) if isinstance(iterator, AsyncIterator) else next(iterator)
                )
            except (StopIteration, StopAsyncIteration):
                return
        yield number, Call(completed(tuple(values)), {})


def _checked(buffersize: int | None) -> int:
    if buffersize is None:
        return 0
    if not isinstance(buffersize, int):
        raise TypeError(
            f"buffersize={buffersize!r} is no whole number. Give how many calls may be under way."
        )
    if buffersize < 1:
        raise ValueError(f"buffersize={buffersize} leaves no room for a call. Give 1 or more, or None.")
    return buffersize
