from __future__ import annotations

import os
import threading

import pytest

from bencher_job._executors.worker import LEAVE, MOST_TOKENS, WorkTokenReader, WorkTokens


@pytest.fixture
def ends():
    """Both sides of a pipe of tokens, and a pipe through which jobs arrive."""
    reading, writing = os.pipe()
    inlet, outlet = os.pipe()
    received = []

    def receive():
        received.append(os.read(inlet, 1))

    tokens = WorkTokens(os.dup(reading), writing)
    reader = WorkTokenReader(reading, inlet, receive)
    yield tokens, reader, outlet, received
    for descriptor in (reading, inlet, outlet):
        os.close(descriptor)


def test_tokens_come_in_order(ends):
    tokens, reader, *_ = ends

    tokens.put([3, 4, 7])

    assert [reader.take() for _ in range(3)] == [3, 4, 7]
    tokens.close()


def test_what_was_taken_back_does_not_come(ends):
    tokens, reader, *_ = ends
    tokens.put(range(1, 11))

    taken = [reader.take(), reader.take()]
    back = tokens.take_back(5)
    rest = [reader.take() for _ in range(3)]

    assert (taken, back, rest) == ([1, 2], [3, 4, 5, 6, 7], [8, 9, 10])
    assert tokens.take_back() == []
    tokens.close()


def test_so_many_tokens_are_out_at_once(ends):
    tokens, *_ = ends

    tokens.put(range(1, MOST_TOKENS + 1))

    assert tokens.take_back() == list(range(1, MOST_TOKENS + 1))
    tokens.close()


def test_each_token_has_one_taker(ends):
    tokens, reader, *_ = ends
    taken = []

    def work():
        while (number := reader.take()) != LEAVE:
            taken.append(number)

    worker = threading.Thread(target=work)
    worker.start()
    back = []
    for start in range(1, 20_000, 100):
        while start - 1 - len(taken) - len(back) > 300:
            pass
        tokens.put(range(start, start + 100))
        back += tokens.take_back(30)
    tokens.put([LEAVE])
    worker.join(60)

    assert sorted(taken + back) == list(range(1, 20_001))
    assert taken == sorted(taken)
    tokens.close()


def test_jobs_are_received_while_there_is_no_token(ends):
    tokens, reader, outlet, received = ends
    os.write(outlet, b"ab")
    numbers = []
    waiting = threading.Thread(target=lambda: numbers.append(reader.take()))

    waiting.start()
    while len(received) < 2:
        pass
    tokens.put([5])
    waiting.join(60)

    assert (received, numbers) == ([b"a", b"b"], [5])
    tokens.close()


def test_a_worker_leaves_when_nobody_can_give_it_tokens(ends):
    tokens, reader, *_ = ends
    tokens.put([1])

    tokens.close()

    assert [reader.take(), reader.take()] == [1, LEAVE]
