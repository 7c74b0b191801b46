from __future__ import annotations

import threading
import time
from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from bencher_job._executors import remote
from bencher_job._executors.durations import DurationEstimates
from bencher_job._executors.entry import RunResult, unpack_value
from bencher_job._executors.packing import FunctionBytes, SplitParcel, pack_call, split
from bencher_job._executors.remote import Grouping, RemoteTask, run_batch

FUNCTION = FunctionBytes(b"digest", b"function")
SHORT, LONG = 0.0, 1.0


def task_of(function=FUNCTION, rest=b"rest", **fields):
    return RemoteTask(
        Future(), SplitParcel(function, rest), "label", lambda run_result, label: run_result, **fields
    )


def grouping_of(tasks=0, seconds=None):
    durations = DurationEstimates()
    if seconds is not None:
        durations.note(FUNCTION.digest, seconds)
    grouping = Grouping(durations)
    for _ in range(tasks):
        grouping.add(task_of())
    return grouping, durations


def sizes(taken):
    return [len(batch) for batch in taken]


def test_a_few_jobs_of_a_new_function_go_alone_and_the_others_wait_a_moment():
    grouping, _ = grouping_of(20)
    assert sizes(grouping.take(0.0, places=3)) == [1] * 6
    assert grouping.take(0.01, places=3) == []
    assert grouping.patience() is not None
    assert sizes(grouping.take(remote.PATIENCE * 2, places=3)) == [1] * 14
    assert grouping.patience() is None


def test_when_they_were_short_the_others_go_together():
    grouping, durations = grouping_of(200)
    grouping.take(0.0, places=1)
    durations.note(FUNCTION.digest, SHORT)
    grouping.ended(FUNCTION.digest)
    grouping.ended(FUNCTION.digest)
    assert sizes(grouping.take(0.01, places=1)) == [remote.MOST_TOGETHER] * remote.BATCHES_PER_PLACE


def test_long_jobs_go_alone_and_at_once():
    grouping, _ = grouping_of(50, LONG)
    assert sizes(grouping.take(0.0, places=1)) == [1] * 50


def test_few_short_jobs_are_spread():
    grouping, _ = grouping_of(4, SHORT)
    assert sizes(grouping.take(0.0, places=2)) == [1] * 4


def test_a_batch_takes_no_longer_than_one_may():
    grouping, _ = grouping_of(1000, remote.TOGETHER_SECONDS / 4)
    assert set(sizes(grouping.take(0.0, places=1))) == {3}


def test_while_enough_batches_are_on_their_way_the_next_ones_grow():
    grouping, _ = grouping_of(3, SHORT)
    assert sizes(grouping.take(0.0, places=1)) == [1, 1, 1]
    for _ in range(10):
        grouping.add(task_of())
    assert grouping.take(0.0, places=1) == []
    grouping.ended(FUNCTION.digest)
    assert sizes(grouping.take(0.0, places=1)) == [10]


def test_in_the_end_all_go_at_once():
    for seconds in (None, SHORT, LONG):
        grouping, _ = grouping_of(100, seconds)
        assert sum(sizes(grouping.take(0.0, places=1, at_once=True))) == 100
        assert grouping.patience() is None


def test_large_jobs_do_not_go_together():
    grouping, _ = grouping_of(0, SHORT)
    for _ in range(6):
        grouping.add(task_of(rest=bytes(remote.MOST_BYTES_TOGETHER)))
    assert sizes(grouping.take(0.0, places=1)) == [1] * remote.BATCHES_PER_PLACE


def test_a_job_that_is_to_go_alone_does():
    grouping, _ = grouping_of(50, SHORT)
    grouping.add(alone := task_of(goes_alone=True))
    assert grouping.take(0.0, places=1)[0] == [alone]


@given(
    st.lists(
        st.tuples(st.integers(0, 90), st.sampled_from([None, SHORT, LONG]), st.integers(1, 4)), max_size=30
    )
)
def test_each_job_is_taken_once(rounds):
    grouping, durations = grouping_of()
    functions = [FunctionBytes(b"%d" % number, b"") for number in range(70)]
    added, taken, now = [], [], 0.0
    for number, seconds, places in rounds:
        new = [task_of(functions[(number * each) % 70]) for each in range(number)]
        added += new
        for task in new:
            grouping.add(task)
        if seconds is not None:
            durations.note(functions[number % 70].digest, seconds)
        for batch in grouping.take(now, places):
            assert len({task.digest for task in batch}) == 1
            assert 1 <= len(batch) <= remote.MOST_TOGETHER
            taken += batch
            grouping.ended(batch[0].digest)
        now += 0.1
    taken += [task for batch in grouping.take(now, 1, at_once=True) for task in batch]
    assert set(map(id, taken)) == set(map(id, added))
    assert len(taken) == len(added)


def packed(function, *calls):
    parcels = [split(pack_call(function, args, {}, local=False)) for args in calls]
    return [parcel.rest for parcel in parcels], parcels[0].function.blob


def values(ended):
    return {place: unpack_value(RunResult.of_parts(parts), "label") for place, parts in ended}


def never(ended, begun):
    raise AssertionError("nothing took long")


def test_a_batch_gives_what_each_job_ended_with():
    assert values(run_batch(*packed(abs, (-1,), (-2,), (-3,)), never)) == {0: 1, 1: 2, 2: 3}


def test_one_job_alone_may_take_as_long_as_it_likes():
    assert values(run_batch(*packed(time.sleep, (remote.STUCK_SECONDS * 3,)), never)) == {0: None}


def test_when_a_job_takes_long_what_has_ended_is_told_and_what_has_not_begun_never_runs():
    ran, reported, go = [], [], threading.Event()
    _of_here["work"] = lambda x: (ran.append(x), x == 1 and go.wait(20), x)[-1]

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
