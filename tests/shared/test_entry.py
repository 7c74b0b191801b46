"""An entry for other machines: nothing of it is believed before its signature is verified."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bencher_job._record import Record
from bencher_job._shared import entry_address
from bencher_job._shared.entry import (
    LARGEST_INLINE,
    MediaFile,
    SharedEntry,
    media_digest,
    opened,
    packed,
    read_entries,
)
from bencher_job._stores.codec import check, dump, seal, unseal
from bencher_job._stores.parts import DamagedEntry, MissignedEntry, UnreadableEntry, Zstd
from bencher_job._stores.signature import UNSIGNED, Signature

OURS, THEIRS = Signature(b"ours"), Signature(b"theirs")
RECORD = Record(
    key="key",
    function="module.f",
    tag="t",
    arguments={"x": 1, "y": "é"},
    created=datetime.now(UTC),
    seconds=1.5,
)
REFUSED = (DamagedEntry, UnreadableEntry)


def sealed(value: object, key: str = "key", signature: Signature = OURS, **options: Any) -> bytes:
    return bytes(seal(dump(value), key, signature=signature, **options))


def whole(value: object = ("a", 1), signature: Signature = OURS, **options: Any) -> bytes:
    files = [
        MediaFile.of("plot.png", b"picture"),
        MediaFile.of("data/table.csv", b"1,2\n"),
        MediaFile.of("empty", b""),
    ]
    return packed(RECORD, sealed(value, signature=signature), files, signature=signature, **options)


def verify(found: SharedEntry) -> None:
    """Verify all of an entry, as it is before it is stored."""
    found.details()
    check(found.value, found.key, signature=found.signature)
    found.check_media()


@pytest.mark.parametrize("signature", [UNSIGNED, OURS])
def test_what_was_packed_is_opened(signature: Signature) -> None:
    value = {"a": np.arange(100_000), "b": None}
    entry = whole(value, signature, bound=b"bound", prefix=b"\1\2", expires=1e9)
    found = opened(entry, signature=signature)
    assert (found.details(), found.prefix) == ((RECORD, b"bound", 1e9), b"\1\2")
    assert [(file.path, bytes(file.content or b"")) for file in found.media] == [
        ("plot.png", b"picture"),
        ("data/table.csv", b"1,2\n"),
        ("empty", b""),
    ]
    verify(found)
    loaded = unseal(found.value, "key", signature=signature).load()
    assert (loaded["a"] == value["a"]).all()


def test_a_compressed_value_stays_compressed() -> None:
    value = sealed(b"x" * 1_000_000, compression=Zstd())
    entry = packed(RECORD, value, signature=OURS)
    assert len(entry) < 10_000
    assert unseal(opened(entry, signature=OURS).value, "key", signature=OURS).load() == b"x" * 1_000_000


def test_a_large_file_is_named_only() -> None:
    content = bytes(LARGEST_INLINE + 1)
    file = MediaFile.of("large.bin", content)
    assert (file.content, file.size, file.digest) == (None, len(content), media_digest(content))
    entry = packed(RECORD, sealed(1), [file], signature=OURS)
    assert len(entry) < 2000
    assert opened(entry, signature=OURS).media == (file,)
    assert MediaFile.of("large.bin", content[:-1]).content is not None


def test_nothing_is_copied() -> None:
    entry = whole(b"x" * 100_000)
    found = opened(entry, signature=OURS)
    assert found.value.obj is entry  # type: ignore[union-attr]
    assert all(file.content.obj is entry for file in found.media)  # type: ignore[union-attr]


@pytest.mark.parametrize("signature", [UNSIGNED, OURS])
def test_every_changed_byte_is_noticed(signature: Signature) -> None:
    entry = whole(signature=signature)
    for at in range(len(entry)):
        for change in (1, 0x80):
            changed = bytearray(entry)
            changed[at] ^= change
            with pytest.raises(REFUSED):
                verify(opened(bytes(changed), signature=signature))


def test_every_missing_end_is_noticed() -> None:
    entry = whole()
    for size in range(len(entry)):
        with pytest.raises(REFUSED):
            verify(opened(entry[:size], signature=OURS))
    with pytest.raises(DamagedEntry, match="its parts end at"):
        opened(entry + b"\0", signature=OURS)


@pytest.mark.parametrize("signer", [UNSIGNED, THEIRS])
def test_what_others_have_signed_is_refused(signer: Signature) -> None:
    with pytest.raises(MissignedEntry) as refused:
        opened(whole(signature=signer), signature=OURS)
    assert refused.value.is_signed is (signer is THEIRS)
    with pytest.raises(MissignedEntry):
        opened(whole(), signature=UNSIGNED)


def test_the_entry_of_another_key_is_refused() -> None:
    elsewhere = entry_address("module.f", "other")
    entries, taken = read_entries({elsewhere: whole()}, OURS)
    assert not entries
    assert "another job" in taken.problems[elsewhere]
    foreign = packed(RECORD, sealed(1, "other"), signature=OURS)
    with pytest.raises(REFUSED):
        verify(opened(foreign, signature=OURS))


def test_parts_of_an_older_entry_are_refused() -> None:
    """Even if they were signed for this key with this secret."""
    old, new = sealed("old"), sealed("new")
    assert len(old) == len(new)
    entry = packed(RECORD, new, [MediaFile.of("f", b"new")], signature=OURS)
    with pytest.raises(DamagedEntry, match="its value is another"):
        opened(entry.replace(new, old), signature=OURS)
    with pytest.raises(DamagedEntry, match="its file f"):
        verify(opened(entry[:-3] + b"old", signature=OURS))


@pytest.mark.parametrize(
    "forged",
    [{"tag": "forged"}, {"seconds": 0.0}, {"arguments": {"x": 2}}, {"function": "g"}],
)
def test_a_forged_head_is_refused(forged: dict[str, Any]) -> None:
    """Whoever doesn't know the secret can't change what people see."""
    entry = whole(expires=1e9)
    length = struct.unpack_from("<I", entry, 8)[0]
    head = json.loads(entry[44 : 44 + length])
    head["record"] |= forged
    text = json.dumps(head, separators=(",", ":")).encode()
    start = entry[:8] + struct.pack("<I", len(text))
    for mac in (entry[12:44], UNSIGNED.digest(start + text), THEIRS.digest(start + text)):
        with pytest.raises(MissignedEntry):
            opened(start + mac + text + entry[44 + length :], signature=OURS)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "."])
def test_a_file_never_leads_out_of_its_folder(path: str) -> None:
    entry = packed(RECORD, sealed(1), [replace(MediaFile.of("x", b""), path=path)], signature=OURS)
    with pytest.raises(DamagedEntry):
        opened(entry, signature=OURS)


@given(st.binary(max_size=300))
def test_nonsense_is_refused(entry: bytes) -> None:
    for signature in (UNSIGNED, OURS):
        with pytest.raises(REFUSED):
            opened(entry, signature=signature)


NAMES = st.sampled_from(["record", "bound", "prefix", "expires", "value", "media", "size", "digest"])
PLAIN = st.none() | st.integers() | st.sampled_from(["", "é", "00"])


@given(
    st.recursive(
        PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner), max_leaves=9
    )
)
def test_a_signed_head_that_is_none_is_refused(head: object) -> None:
    """As one of another version could be."""
    text = json.dumps(head).encode()
    start = struct.pack("<4sBBHI", b"BJo\0", 1, OURS.kind, 0, len(text))
    with pytest.raises(REFUSED):
        opened(start + OURS.digest(start + text) + text, signature=OURS)


@pytest.mark.parametrize("expires", [10**400, 1e400, "soon", []])
def test_a_time_that_is_none_is_refused_before_the_entry_is_stored(expires: object) -> None:
    entry = opened(whole(expires=expires), signature=OURS)
    with pytest.raises(DamagedEntry, match="head is damaged"):
        entry.details()
