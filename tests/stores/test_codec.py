"""What is unsealed is what was sealed, or it is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._stores.codec import ALIGNMENT, OUT_OF_BAND_FROM, DamagedEntry, dump, seal, unseal

VALUES = [None, {"a": [1, 2.5, "x"]}, b"x" * (OUT_OF_BAND_FROM + 1), "é" * 100_000]


def sealed(value: object, key: str = "key") -> bytes:
    return b"".join(seal(dump(value), key))


@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_equal(value: object) -> None:
    assert unseal(sealed(value), "key").load() == value


@pytest.mark.parametrize("shape", [(0,), (10,), (300, 300), (3, 50, 1000)])
def test_an_array_comes_back_writable_and_equal(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=float).reshape(shape)
    back = unseal(sealed(array), "key").load()
    assert np.array_equal(back, array)
    assert back.flags.writeable


def test_a_large_array_is_aligned_in_the_entry_and_not_copied_into_the_stream() -> None:
    payload = dump({"a": np.ones(100_000), "b": np.zeros((200, 300), order="F")})
    assert len(payload.stream) < 1000
    entry = np.frombuffer(b"".join(seal(payload, "k" * 13)), np.uint8)
    start = entry.__array_interface__["data"][0]
    for buffer in unseal(entry.data, "k" * 13).buffers:
        assert (np.frombuffer(buffer, np.uint8).__array_interface__["data"][0] - start) % ALIGNMENT == 0


def test_an_array_that_is_not_contiguous_comes_back_equal() -> None:
    array = np.arange(200_000.0)[::2]
    assert np.array_equal(unseal(sealed(array), "key").load(), array)


def test_two_loads_share_no_memory() -> None:
    payload = unseal(sealed(np.zeros(100_000)), "key")
    first, second = payload.load(), payload.load()
    first[0] = 1
    assert second[0] == 0


@given(st.data())
def test_a_flipped_bit_is_damage_wherever_it_is(data: st.DataObject) -> None:
    entry = bytearray(sealed({"a": [1, 2, 3]}))
    bit = data.draw(st.integers(0, 8 * len(entry) - 1))
    entry[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedEntry):
        unseal(entry, "key")


@given(st.data())
def test_a_truncated_or_extended_entry_is_damage(data: st.DataObject) -> None:
    entry = sealed({"a": [1, 2, 3]})
    cut = data.draw(st.integers(0, len(entry) - 1))
    for damaged in (entry[:cut], entry + entry[:cut] + b"\0"):
        with pytest.raises(DamagedEntry):
            unseal(damaged, "key")


def test_a_flipped_bit_in_a_large_buffer_is_damage() -> None:
    entry = bytearray(sealed(np.zeros(300_000)))
    entry[-1] ^= 1
    with pytest.raises(DamagedEntry, match="don't match its digest"):
        unseal(entry, "key")


def test_an_entry_of_another_key_is_damage() -> None:
    with pytest.raises(DamagedEntry, match="belongs to the key other"):
        unseal(sealed(1, "other"), "key")


def test_a_key_and_what_follows_it_can_not_trade_bytes() -> None:
    """An entry whose header claims a longer key doesn't pass as the entry of that key."""
    entry = bytearray(sealed(1, "ab"))
    entry[37:39] = (3).to_bytes(2, "little")
    with pytest.raises(DamagedEntry, match="don't match its digest"):
        unseal(entry, "ab" + chr(entry[41]))


def test_a_foreign_pickle_is_never_unpickled() -> None:
    with pytest.raises(DamagedEntry, match="doesn't begin as an entry does"):
        unseal(pickle.dumps({"a": 1}) + bytes(100), "key")


def test_another_codec_version_is_named() -> None:
    entry = bytearray(sealed(1))
    entry[4] = 99
    with pytest.raises(DamagedEntry, match="codec version 99"):
        unseal(entry, "key")
