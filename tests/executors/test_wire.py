from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bencher_job._executors.worker import Inlet, Outlet, encode_message

heads = st.tuples(st.integers(), st.binary(max_size=300))
buffers = st.lists(st.sampled_from([0, 1, 100, 40_000, 300_000]), max_size=3)


def sent(messages, *, waits):
    """Send messages from one thread, and return what arrives at the other end."""
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(waits)
    outlet, inlet = Outlet(here), Inlet(there)

    def send():
        for head, parts in messages:
            outlet.send(encode_message(head, parts))
        while not outlet.flush():
            pass

    sender = threading.Thread(target=send)
    sender.start()
    came = []
    while len(came) < len(messages):
        with suppress(BlockingIOError):
            came += inlet.read()
    sender.join()
    here.close()
    there.close()
    return [(head, [bytes(part) for part in parts]) for head, parts in came]


@settings(max_examples=50, deadline=None)
@given(messages=st.lists(st.tuples(heads, buffers), max_size=20), waits=st.booleans())
def test_messages_arrive_as_they_were_sent(messages, waits):
    messages = [(head, [os.urandom(size) for size in sizes]) for head, sizes in messages]

    assert sent(messages, waits=waits) == messages


def test_many_small_messages_come_in_few_calls():
    here, there = socket.socketpair()
    inlet = Inlet(there)
    here.sendall(b"".join(piece for number in range(100) for piece in encode_message((number,))))

    assert [head for head, _ in inlet.read()] == [(number,) for number in range(100)]
    here.close()
    there.close()


def test_a_buffer_is_the_receivers_to_keep():
    array = np.arange(1_000_000)
    here, there = socket.socketpair()
    inlet = Inlet(there)
    sender = threading.Thread(
        target=lambda: Outlet(here).send(encode_message(("array",), [array, b"", b"end"]))
    )
    sender.start()
    came = []
    while not came:
        came += inlet.read()
    sender.join()
    ((head, (first, empty, last)),) = came

    received = np.frombuffer(first, array.dtype)
    received[0] = 5

    assert (head, bytes(empty), bytes(last)) == (("array",), b"", b"end")
    np.testing.assert_array_equal(received[1:], array[1:])
    here.close()
    there.close()


@pytest.mark.parametrize("half", [b"", encode_message((1, b"x" * 100))[0][:50]])
def test_a_closed_end_is_told(half):
    here, there = socket.socketpair()
    here.sendall(half)
    here.close()

    with pytest.raises(EOFError):
        receive_twice(Inlet(there))
    there.close()


def receive_twice(inlet):
    return [*inlet.read(), *inlet.read()]
