"""Knows what becomes of a run that has ended: its outcome, and the entry that is made of it."""

from __future__ import annotations

import sys
import time
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ._executors import Outcome
from ._flights import Flight
from ._job import Job
from ._keys import qualified_name
from ._record import Record
from ._stores import Entry, Payload, Store, dump
from ._version import VERSION

__all__ = ["Landing", "outcome_of"]


@dataclass(slots=True, eq=False)
class Landing:
    """A run that has ended: what came of it, where it is kept, and who waits."""

    flight: Flight
    run: Job
    store: Store
    executor: str
    outcome: Outcome

    def payload(self) -> Payload:
        """Pickle the value, unless its worker has.

        Raises:
            Exception: whatever the pickling of the value raises.
        """
        return dump(self.outcome.value) if self.outcome.payload is None else self.outcome.payload

    def entry(self, payload: Payload) -> Entry:
        """Make the entry of a value's bytes."""
        run, outcome = self.run, self.outcome
        media = run.media_folder
        return Entry(
            payload,
            Record(
                key=run.job_key,
                function=qualified_name(run.function),
                tag=run.tag,
                arguments=run.arguments,
                created=datetime.fromtimestamp(outcome.started, UTC),
                seconds=outcome.seconds,
                media=media.name if media is not None and media.is_dir() else None,
                executor=self.executor,
                host=outcome.host,
                pid=outcome.pid,
                python=sys.version.partition(" ")[0],
                library=VERSION,
            ),
        )


def outcome_of(done: Future[Any]) -> Outcome:
    """Say how the job of any future that is done has ended."""
    if done.cancelled():
        return Outcome(error=CancelledError())
    error = done.exception()
    return Outcome(error=error) if error is not None else Outcome(value=done.result(), started=time.time())
