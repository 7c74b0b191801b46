from __future__ import annotations

import threading
import time

from bencher_job._executors.entry import STUCK_SECONDS, RunResult, run_batch, unpack_value
from bencher_job._executors.packing import pack_call


def packed(function, *calls):
    parcels = [pack_call(function, args, {}, local=False) for args in calls]
    return [parcel.body.stream for parcel in parcels], [tuple(parcels[0].function.payload)]


def values(ended):
    return {place: unpack_value(RunResult.of_parts(parts), "label") for place, parts in ended}


def never(ended, begun):
    raise AssertionError("nothing took long")


def test_a_batch_gives_what_each_job_ended_with():
    assert values(run_batch(*packed(abs, (-1,), (-2,), (-3,)), never)) == {0: 1, 1: 2, 2: 3}


def test_one_job_alone_may_take_as_long_as_it_likes():
    assert values(run_batch(*packed(time.sleep, (STUCK_SECONDS * 3,)), never)) == {0: None}


def test_when_a_job_takes_long_what_has_ended_is_told_and_what_has_not_begun_never_runs():
    ran, reported, go = [], [], threading.Event()
    _of_here["work"] = lambda x: (ran.append(x), x == 1 and go.wait(60), x)[-1]

    def tell(ended, begun):
        reported.append((values(ended), begun))
        go.set()

    ended = run_batch(*packed(_work, (0,), (1,), (2,), (3,)), tell)

    assert reported == [({0: 0}, 1)]
    assert values(ended) == {0: 0, 1: 1}
    assert ran == [0, 1]


_of_here = {}


def _work(x):
    return _of_here["work"](x)
