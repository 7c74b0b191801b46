"""What is compressed comes back as it was, into as much memory as was declared, or is refused."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from bencher_job import BencherJobError
from bencher_job._stores.codec import dump, seal, unseal
from bencher_job._stores.parts import (
    COMPRESS_FROM,
    LARGE_FROM,
    DamagedEntry,
    Lz4,
    UnreadableEntry,
    Zstd,
    compression_named,
    expand,
    shrink,
)

COMPRESSIONS = [Zstd, Lz4]
TABLE = 43
"""Where the table of parts begins in an entry of the key "key"."""

each = pytest.mark.parametrize("kind", COMPRESSIONS)


def with_length(entry: bytes, length: int) -> bytes:
    """Declare another length of an entry's stream, and make the digest right again."""
    place = TABLE + 1 + 4 + 8
    entry = entry[:place] + struct.pack("<Q", length) + entry[place + 8 :]
    return entry[:8] + blake3(entry[:8] + entry[40:]).digest() + entry[40:]


@each
@given(st.binary(max_size=100), st.integers(1, 3000))
def test_bytes_come_back_equal(kind: type[Zstd | Lz4], piece: bytes, times: int) -> None:
    part = piece * times
    compressed = kind().compress(part)
    back = expand(memoryview(compressed), kind.number, len(part))
    assert back == part
    assert not back.readonly


@each
@pytest.mark.parametrize("size", [LARGE_FROM - 1, LARGE_FROM, 10_000_000])
def test_large_parts_come_back_equal(kind: type[Zstd | Lz4], size: int) -> None:
    part = np.random.default_rng(0).integers(0, 3, size, np.uint8).data
    assert expand(memoryview(kind().compress(part)), kind.number, size) == part


@each
def test_an_entry_of_large_equal_parts_is_small(kind: type[Zstd | Lz4]) -> None:
    array = np.zeros(1_000_000)
    entry = seal(dump([array, "x" * 100_000]), "key", compression=kind())
    assert entry.size < 50_000
    back = unseal(bytes(entry), "key").load_in_place()
    assert np.array_equal(back[0], array)
    assert back[0].flags.writeable


@each
def test_a_part_that_hardly_shrinks_stays_as_it_is(kind: type[Zstd | Lz4]) -> None:
    """So that its pages can be mapped."""
    noise = np.random.default_rng(0).integers(0, 255, 100_000, np.uint8)
    noise[-8000:] = 0
    assert len(kind().compress(noise.data)) < 95_000
    entry = bytes(seal(dump(noise), "key", compression=kind()))
    (buffer,) = unseal(entry, "key").buffers
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), np.frombuffer(entry, np.uint8))


@each
def test_a_small_part_stays_as_it_is(kind: type[Zstd | Lz4]) -> None:
    small, larger = bytes(COMPRESS_FROM - 1), bytes(COMPRESS_FROM)
    assert shrink(small, kind()) is small
    assert len(shrink(larger, kind())) < 100


@each
@pytest.mark.parametrize("size", [50_000, 20_000_000])
@pytest.mark.parametrize("declared", [0.0001, 0.999, 1.001, 2])
def test_a_part_that_expands_to_another_length_is_damage(
    kind: type[Zstd | Lz4], size: int, declared: float
) -> None:
    entry = bytes(seal(dump(bytes(size)), "key", compression=kind()))
    with pytest.raises(DamagedEntry, match="doesn't expand to the"):
        unseal(with_length(entry, int(size * declared)), "key")


@each
def test_a_part_never_takes_more_memory_than_declared(kind: type[Zstd | Lz4]) -> None:
    bomb = memoryview(kind().compress(bytes(50_000_000)))
    room = np.full(10_000, 7, np.uint8)
    assert not kind().expand_into(room.data[:5000], bomb)
    assert (room[5000:] == 7).all()


@each
@given(st.binary(max_size=200))
def test_what_is_no_frame_is_damage(kind: type[Zstd | Lz4], noise: bytes) -> None:
    frame = kind().compress(bytes(10_000))
    for part in (noise, frame[:-1], frame[:10] + noise):
        if part != frame:
            with pytest.raises(DamagedEntry, match="expand"):
                expand(memoryview(part), kind.number, 10_001)


@each
def test_more_memory_than_there_is_is_not_damage(kind: type[Zstd | Lz4]) -> None:
    """The entry is good, and another machine may have the memory."""
    with pytest.raises(UnreadableEntry, match="bytes of memory"):
        expand(memoryview(kind().compress(bytes(10_000))), kind.number, 1 << 60)


def test_an_unknown_compression_in_an_entry_is_damage() -> None:
    with pytest.raises(DamagedEntry, match="in a way, 99, that this library doesn't know"):
        expand(memoryview(b"x"), 99, 2)


@each
def test_a_missing_package_is_named_when_it_is_chosen(
    kind: type[Zstd | Lz4], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(
        BencherJobError, match=rf"{kind.package}, which is not installed.*bencher_job\[compression\]"
    ):
        compression_named(kind.name)


@each
def test_a_missing_package_makes_a_good_entry_unreadable_and_not_damaged(
    kind: type[Zstd | Lz4], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = bytes(seal(dump("x" * 10_000), "key", compression=kind()))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    with pytest.raises(UnreadableEntry, match=f"the package {kind.package} is not installed"):
        unseal(entry, "key")


def test_an_entry_without_large_parts_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = bytes(seal(dump("x"), "key", compression=Zstd()))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert unseal(entry, "key").load() == "x"


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BencherJobError, match=r"'gzip' is not known\. Use 'zstd', 'lz4' or None"):
        compression_named("gzip")
    assert compression_named(None) is None
