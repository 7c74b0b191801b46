"""What is unsealed is what was sealed, or it is refused."""

from __future__ import annotations

import io
import itertools
import pickle
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._stores import codec
from bencher_job._stores.codec import (
    ALIGNMENT,
    OUT_OF_BAND_FROM,
    PARALLEL_FROM,
    dump,
    plain_reader,
    seal,
    unseal,
)
from bencher_job._stores.parts import DamagedEntry, MissignedEntry, compression_named
from bencher_job._stores.signature import UNSIGNED, Signature

VALUES = [None, {"a": [1, 2.5, "x"]}, b"x" * (OUT_OF_BAND_FROM + 1), "é" * 100_000]
SIGNATURES = [UNSIGNED, Signature(b"a secret")]
SETTINGS = list(itertools.product(SIGNATURES, [None, "zstd", "lz4"]))
HEADER = 40

each_setting = pytest.mark.parametrize(("signature", "compression"), SETTINGS)


def sealed(
    value: object, key: str = "key", signature: Signature = UNSIGNED, compression: str | None = None
) -> bytes:
    return bytes(seal(dump(value), key, signature=signature, compression=compression_named(compression)))


def forged(entry: bytes, place: int, new: bytes) -> bytes:
    """Put other bytes into an unsigned entry, and make its digest right again, as anybody can."""
    entry = entry[:place] + new + entry[place + len(new) :]
    return entry[:8] + blake3(entry[:8] + entry[HEADER:]).digest() + entry[HEADER:]


@each_setting
@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_equal(value: object, signature: Signature, compression: str | None) -> None:
    entry = sealed(value, "key", signature, compression)
    payload = unseal(entry, "key", signature=signature)
    assert payload.load() == value
    is_plain = compression is None and not payload.buffers
    assert plain_reader(signature)(entry, "key") == (payload.stream if is_plain else None)
    assert plain_reader(signature)(entry, "another") is None


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("shape", [(0,), (10,), (300, 300), (3, 50, 1000), (1000, 1000)])
def test_an_array_comes_back_writable_and_equal(shape: tuple[int, ...], compression: str | None) -> None:
    array = np.arange(np.prod(shape), dtype=float).reshape(shape)
    back = unseal(bytearray(sealed(array, compression=compression)), "key").load_in_place()
    assert np.array_equal(back, array)
    assert back.flags.writeable


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_large_array_is_aligned_in_the_entry_and_not_copied_into_the_stream(
    compression: str | None,
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 100_000), np.uint8)
    payload = dump({"a": noise[0], "b": np.zeros((200, 300), order="F"), "c": noise[1]})
    assert len(payload.stream) < 1000
    key = "k" * 13
    entry = np.frombuffer(bytes(seal(payload, key, compression=compression_named(compression))), np.uint8)
    start = entry.__array_interface__["data"][0]
    buffers = unseal(entry.data, key).buffers
    for buffer in buffers if compression is None else (buffers[0], buffers[2]):
        assert (np.frombuffer(buffer, np.uint8).__array_interface__["data"][0] - start) % ALIGNMENT == 0


def test_an_array_that_is_not_contiguous_comes_back_equal() -> None:
    array = np.arange(200_000.0)[::2]
    assert np.array_equal(unseal(sealed(array), "key").load(), array)


def test_two_loads_share_no_memory() -> None:
    payload = unseal(sealed(np.zeros(100_000)), "key")
    first, second = payload.load(), payload.load()
    first[0] = 1
    assert second[0] == 0


@each_setting
@pytest.mark.parametrize("size", [10, PARALLEL_FROM // 2, PARALLEL_FROM + 1])
def test_a_file_holds_the_same_bytes_as_a_row(
    signature: Signature, compression: str | None, size: int
) -> None:
    """Although the digest is written after what it covers."""
    array = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    entry = seal(dump(array), "key", signature=signature, compression=compression_named(compression))
    file = io.BytesIO()
    entry.write_to(file)
    assert file.getvalue() == bytes(entry)
    assert len(file.getvalue()) == entry.size


@each_setting
def test_each_flipped_bit_of_an_entry_is_damage(signature: Signature, compression: str | None) -> None:
    entry = sealed("ab" * 3000 if compression else {"a": [1, 2, 3]}, "key", signature, compression)
    assert len(entry) < 1000
    for place in range(len(entry)):
        for bit in range(8):
            flipped = bytearray(entry)
            flipped[place] ^= 1 << bit
            with pytest.raises((DamagedEntry, MissignedEntry)):
                unseal(flipped, "key", signature=signature)
            assert plain_reader(signature)(bytes(flipped), "key") is None


@each_setting
def test_each_truncated_or_extended_entry_is_damage(signature: Signature, compression: str | None) -> None:
    entry = sealed("ab" * 3000 if compression else {"a": [1, 2, 3]}, "key", signature, compression)
    for cut in range(len(entry)):
        for damaged in (entry[:cut], entry + entry[: cut + 1]):
            with pytest.raises((DamagedEntry, MissignedEntry)):
                unseal(damaged, "key", signature=signature)
            assert plain_reader(signature)(damaged, "key") is None


@given(st.binary(max_size=300), st.sampled_from(SIGNATURES))
def test_any_bytes_are_damage(noise: bytes, signature: Signature) -> None:
    for entry in (noise, sealed(1, "key", signature)[:4] + noise):
        with pytest.raises((DamagedEntry, MissignedEntry)):
            unseal(entry, "key", signature=signature)
        assert plain_reader(signature)(entry, "key") is None


@given(st.binary(min_size=1, max_size=30), st.data())
def test_a_forged_table_is_damage_or_read_within_the_entry(new: bytes, data: st.DataObject) -> None:
    """Who knows no secret can make an unsigned entry; it is refused in words, whatever its lengths claim."""
    entry = sealed([1, 2, 3])
    table = HEADER + len("key")
    place = data.draw(st.integers(table, table + 20))
    try:
        payload = unseal(forged(entry, place, new[: len(entry) - place]), "key")
    except DamagedEntry:
        return
    assert payload.nbytes <= len(entry)


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (1 << 64) - 1])
def test_parts_that_do_not_fill_the_entry_are_damage(length: int) -> None:
    stored = HEADER + len("key") + 1 + 4
    with pytest.raises(DamagedEntry, match="its parts end at"):
        unseal(forged(sealed([1, 2, 3]), stored, struct.pack("<Q", length)), "key")


@each_setting
def test_nothing_is_unpickled_or_expanded_before_the_check(
    signature: Signature, compression: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = bytearray(sealed(["x" * 10_000], "key", signature, compression))
    entry[-1] ^= 1

    def used(*_: object, **__: object) -> None:
        pytest.fail("bytes were used that are not verified")

    monkeypatch.setattr(pickle, "loads", used)
    monkeypatch.setattr(codec, "expand", used)
    with pytest.raises((DamagedEntry, MissignedEntry), match="don't match its"):
        unseal(entry, "key", signature=signature)


def test_a_flipped_bit_in_a_large_buffer_is_damage() -> None:
    entry = bytearray(sealed(np.zeros(3_000_000)))
    entry[-1] ^= 1
    with pytest.raises(DamagedEntry, match="don't match its digest"):
        unseal(entry, "key")


@pytest.mark.parametrize("signature", SIGNATURES)
def test_an_entry_of_another_key_is_damage(signature: Signature) -> None:
    with pytest.raises(DamagedEntry, match="belongs to the key other"):
        unseal(sealed(1, "other", signature), "key", signature=signature)


@pytest.mark.parametrize("length", [0xFFFF + 1, 70_000, 1 << 20])
@given(noise=st.binary(max_size=200))
def test_a_key_that_no_entry_has_room_for_is_damage(length: int, noise: bytes) -> None:
    sealed = bytes(seal(dump(1), "key"))
    for entry in (sealed, noise, bytes(200)):
        with pytest.raises(DamagedEntry):
            unseal(entry, "k" * length)


def test_a_key_and_what_follows_it_can_not_trade_bytes() -> None:
    """An entry whose header claims a longer key doesn't pass as the entry of that key."""
    entry = bytearray(sealed(1, "ab"))
    assert entry[6:8] == struct.pack("<H", 2)
    entry[6:8] = struct.pack("<H", 3)
    with pytest.raises(DamagedEntry):
        unseal(entry, "ab" + chr(entry[HEADER + 2]))


def test_a_foreign_pickle_is_never_unpickled() -> None:
    with pytest.raises(DamagedEntry, match="doesn't begin as an entry does"):
        unseal(pickle.dumps({"a": 1}) + bytes(100), "key")


def test_another_codec_version_is_named() -> None:
    with pytest.raises(DamagedEntry, match="codec version 99"):
        unseal(forged(sealed(1), 4, bytes([99])), "key")


def test_a_child_digests_large_entries_after_its_parent_did() -> None:
    """The threads that help with a digest are gone in a forked child, which must not wait for them."""
    program = """
        import os, signal
        from bencher_job._stores.codec import PARALLEL_FROM, Payload, seal, unseal

        entry = bytes(seal(Payload(bytes(2 * PARALLEL_FROM)), "key"))
        unseal(entry, "key")
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            unseal(bytes(seal(Payload(bytes(2 * PARALLEL_FROM)), "key")), "key")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, "the child hangs"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
