"""A small entry that expands to much memory takes little of it wherever it is only looked at."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path

import pytest

from bencher_job import Record
from bencher_job._query import Query
from bencher_job._stores import Entry, Found, dump, export, import_, verify
from bencher_job._stores.codec import SealedEntry, seal, unseal
from bencher_job._stores.embedded import DiskStore
from bencher_job._stores.parts import DamagedEntry, LargeEntry, compression_named
from bencher_job._stores.schema import LARGEST_SOURCES
from bencher_job._stores.signature import UNSIGNED

EXPANDED = 1 << 29
MOST_TAKEN = 1 << 27
PIECE = bytes(1 << 20)


def compressed(name: str, pieces: Iterator[bytes]) -> bytes:
    """Compress what would take much memory at once."""
    if name == "zstd":
        zstandard = pytest.importorskip("zstandard")
        made = zstandard.ZstdCompressor(level=3).compressobj()
        return b"".join([*map(made.compress, pieces), made.flush()])
    frame = pytest.importorskip("lz4.frame")
    made = frame.LZ4FrameCompressor()
    return b"".join([made.begin(), *map(made.compress, pieces), made.flush()])


def sealed_bomb(key: str, compression: str) -> SealedEntry:
    """Seal the pickle of so many zeros under a key."""
    start = pickle.PROTO + b"\5" + pickle.BINBYTES8 + struct.pack("<Q", EXPANDED)

    def pieces() -> Iterator[bytes]:
        yield start
        yield from repeat(PIECE, EXPANDED // len(PIECE))
        yield pickle.STOP

    stream = compressed(compression, pieces())
    number = compression_named(compression).number  # type: ignore[union-attr]
    table = struct.pack("<BIQQ", number, 0, len(stream), len(start) + EXPANDED + 1)
    name = key.encode()
    whole = [name, table, stream]
    beginning = bytes(seal(dump(0), key))[:8]
    return SealedEntry(beginning, whole, 40 + sum(map(len, whole)), UNSIGNED)


@pytest.fixture(params=["zstd", "lz4"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskStore]:
    """A store with an entry that expands a hundredfold and more, and a good one."""
    store = DiskStore(tmp_path / "store", size_limit=10**10)
    sealed, now = sealed_bomb("bomb", request.param), datetime.now(UTC)
    assert sealed.size < EXPANDED / 100
    for key, payload in (("bomb", sealed), ("good", dump({"score": 1}))):
        store.put_many([Entry(payload, Record(key=key, function="f", created=now))])
    yield store
    store.close()


def peak_of(work: Callable[[], object]) -> int:
    """Do some work in a forked child; give the most memory that it had, in bytes."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(status)
    _, ended, used = os.wait4(pid, 0)
    assert ended == 0
    return used.ru_maxrss * 1024


def list_on_the_page(store: DiskStore, _: Path) -> None:
    listing = pytest.importorskip("bencher_job._page.listing").Listing(store, unpickles=False)
    columns = [each["id"] for each in listing.columns("f")]
    rows = listing.page(store.history.find(Query("f")), columns)
    assert {row["key"]: row["cells"][columns.index("results.score")] for row in rows} == {
        "bomb": None,
        "good": 1,
    }


def show_on_the_page(store: DiskStore, _: Path) -> None:
    entry_of = pytest.importorskip("bencher_job._page.entry").entry_of
    (info,) = store.history.infos(["bomb"])
    assert "more than" in entry_of(store, info, unpickles=True)["value"]["note"]


def show_in_the_shell(store: DiskStore, _: Path) -> None:
    from bencher_job._cli.output import described_by_key

    assert described_by_key(store, list(store.records())) == {"good": {"score": 1}}


def examine(store: DiskStore, _: Path) -> None:
    found = store.history.examine("bomb")
    assert isinstance(found, Found)
    assert not found.damage


def verify_all(store: DiskStore, _: Path) -> None:
    audit = verify(store, repair=True)
    assert (audit.is_clean, audit.entries) == (True, 2)


def move(store: DiskStore, folder: Path) -> None:
    assert export(store, folder / "archive.tar") == 2
    other = DiskStore(folder / "other", size_limit=10**10)
    assert import_(other, folder / "archive.tar").added == 2
    assert verify(other).is_clean
    small = DiskStore(folder / "small", size_limit=EXPANDED // 2)
    imported = import_(small, folder / "archive.tar")
    assert (imported.added, imported.refused) == (1, 1)


@pytest.mark.parametrize(
    "look", [list_on_the_page, show_on_the_page, show_in_the_shell, examine, verify_all, move]
)
def test_no_look_takes_the_memory_of_what_it_would_expand_to(
    store: DiskStore, look: Callable[[DiskStore, Path], None], tmp_path: Path
) -> None:
    store.close()
    before = peak_of(lambda: (store.open(), len(store)))
    assert peak_of(lambda: look(store, tmp_path)) - before < MOST_TAKEN


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_part_that_expands_to_another_length_is_damaged(compression: str, change: int) -> None:
    whole = bytes(seal(dump(bytes(1 << 22)), "key", compression=compression_named(compression)))
    at = 40 + len("key") + 1 + 4 + 8  # behind the header, the key, and what stands before the stream's length
    length = struct.unpack_from("<Q", whole, at)[0] + change
    body = whole[40:at] + struct.pack("<Q", length) + whole[at + 8 :]
    changed = bytes(SealedEntry(whole[:8], [body], len(whole), UNSIGNED))
    with pytest.raises(DamagedEntry, match="expand"):
        unseal(changed, "key")


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_limit_counts_what_parts_expand_to(compression: str) -> None:
    whole = bytes(seal(dump(bytes(1 << 22)), "key", compression=compression_named(compression)))
    assert len(whole) < 1 << 16
    with pytest.raises(LargeEntry, match="expands to 41943"):
        unseal(whole, "key", most_expanded=1 << 22)
    assert unseal(whole, "key", most_expanded=1 << 23).load() == bytes(1 << 22)
    plain = bytes(seal(dump(bytes(1 << 22)), "key"))
    assert unseal(plain, "key", most_expanded=0).load() == bytes(1 << 22)


def test_the_texts_of_a_function_are_expanded_to_a_limit(tmp_path: Path) -> None:
    import zlib

    from bencher_job._stores.schema import version_of_row
    from bencher_job._stores.signature import UNSIGNED, mac_of_version

    def row(sources: bytes) -> tuple[object, ...]:
        mac = mac_of_version(UNSIGNED, (b"p", "f", "", "", 3), ("[]", "{}"), sources)
        return b"p", 3, "", "", "[]", "{}", sources, "f", mac

    texts = zlib.compress(b'{"f": "%s"}' % (b"x" * 100))
    assert version_of_row(row(texts), UNSIGNED).sources == {"f": "x" * 100}
    expander = zlib.compressobj()
    bomb = b"".join([*(expander.compress(PIECE) for _ in range(2 * LARGEST_SOURCES >> 20)), expander.flush()])
    with pytest.raises(ValueError, match="more than"):
        version_of_row(row(bomb), UNSIGNED)
