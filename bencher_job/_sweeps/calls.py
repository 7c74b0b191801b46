"""Knows where calls come from: an iterator, an endless one too, that is read as there is room for more."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsynchronousCalls", "Call", "Calls", "PlainCalls"]

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
