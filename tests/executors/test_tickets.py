from __future__ import annotations

import os
import threading

import pytest

from bencher_job._executors.wire import LEAVE, MOST_TICKETS, TicketReader, Tickets


@pytest.fixture
def ends():
    """Both sides of a pipe, and a pipe by which jobs come in."""
    reading, writing = os.pipe()
    inlet, outlet = os.pipe()
    received = []

    def receive():
        received.append(os.read(inlet, 1))

    tickets = Tickets(os.dup(reading), writing)
    reader = TicketReader(reading, inlet, receive)
    yield tickets, reader, outlet, received
    for descriptor in (reading, inlet, outlet):
        os.close(descriptor)


def test_tickets_come_in_order(ends):
    tickets, reader, *_ = ends

    tickets.put([3, 4, 7])

    assert [reader.take() for _ in range(3)] == [3, 4, 7]
    tickets.close()


def test_what_was_taken_back_does_not_come(ends):
    tickets, reader, *_ = ends
    tickets.put(range(1, 11))

    taken = [reader.take(), reader.take()]
    back = tickets.take_back(5)
    rest = [reader.take() for _ in range(3)]

    assert (taken, back, rest) == ([1, 2], [3, 4, 5, 6, 7], [8, 9, 10])
    assert tickets.take_back() == []
    tickets.close()


def test_so_many_tickets_are_out_at_once(ends):
    tickets, *_ = ends

    tickets.put(range(1, MOST_TICKETS + 1))

    assert tickets.take_back() == list(range(1, MOST_TICKETS + 1))
    tickets.close()


def test_each_ticket_has_one_taker(ends):
    tickets, reader, *_ = ends
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
        tickets.put(range(start, start + 100))
        back += tickets.take_back(30)
    tickets.put([LEAVE])
    worker.join(20)

    assert sorted(taken + back) == list(range(1, 20_001))
    assert taken == sorted(taken)
    tickets.close()


def test_jobs_are_received_while_there_is_no_ticket(ends):
    tickets, reader, outlet, received = ends
    os.write(outlet, b"ab")
    numbers = []
    waiting = threading.Thread(target=lambda: numbers.append(reader.take()))

    waiting.start()
    while len(received) < 2:
        pass
    tickets.put([5])
    waiting.join(20)

    assert (received, numbers) == ([b"a", b"b"], [5])
    tickets.close()


def test_a_worker_leaves_when_nobody_can_give_it_tickets(ends):
    tickets, reader, *_ = ends
    tickets.put([1])

    tickets.close()

    assert [reader.take(), reader.take()] == [1, LEAVE]
