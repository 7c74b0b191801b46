"""The reference tells every error, every environment variable and what lies on the disk, as the code has them."""

from __future__ import annotations

import ast
import re
import sqlite3
import struct
import tarfile
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import loads

import blake3
import numpy as np
import pytest

import bencher_job
from bencher_job import cached_job, gen_path

PUBLIC = {name: getattr(bencher_job, name) for name in bencher_job.__all__}
ERROR_NAMES = [
    name for name, each in PUBLIC.items() if isinstance(each, type) and issubclass(each, BaseException)
]

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
SOURCES = sorted((ROOT / "bencher_job").rglob("*.py"))

ELSEWHERE = {
    "UnkeyableArgument",
    "UntrustedCache",
    "SharedStoreError",
    "Unreachable",
    "WorkerLost",
    "JobTimeout",
    "CodeMismatch",
}
"""Errors with a section of their own, which tells the remedy for all of them, and one that no caller gets."""


def section(page: str, title: str) -> str:
    text = (REFERENCE / page).read_text()
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def code_in(text: str) -> set[str]:
    return {*re.findall(r"`([^`]+)`", text)}


def first_cells(text: str) -> list[str]:
    """What stands in the first column of the tables of a text."""
    rows = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return [row for row in rows if row not in {"the message says", "table", "column", "part", "member"}]


# What the code says


@dataclass(frozen=True)
class Message:
    """A text in the code, with `…` for what is put into it, and what it is given to."""

    given_to: str
    text: str
    place: str


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in SOURCES}


@cache
def constants() -> dict[str, str]:
    """Constants that hold a text, by name."""
    found = {}
    for tree in trees().values():
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                value = node.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found[node.target.id] = value.value
    return found


def text_of(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(text_of, parts))
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
        case ast.FormattedValue(value=ast.Name(id=name)) | ast.Name(id=name):
            return constants().get(name, "…")
    return "…"


def error_classes() -> set[str]:
    """The names of all our errors, public or not."""
    found = {"BencherJobError"}
    classes = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while (
        new := {
            each.name
            for each in classes
            if any(isinstance(base, ast.Name) and base.id in found for base in each.bases)
        }
        - found
    ):
        found |= new
    return found


@cache
def messages() -> list[Message]:
    """The texts that errors of ours and warnings are given."""
    wanted = error_classes() - ELSEWHERE | {"warn_caller"}
    return [
        Message(node.func.id, text, f"{path.name}:{node.lineno}")
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in wanted
        for text in map(text_of, node.args[:1])
    ]


@cache
def all_texts() -> set[str]:
    """All texts of the code."""
    return {
        text_of(node)
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr | ast.Constant) and isinstance(node, ast.expr)
    }


def says(row: str, text: str) -> bool:
    """Whether a text says what a row of the reference has, which may be one of several things."""
    return any(has_in_order(text, one.split("...")) for one in row.split("; "))


def has_in_order(text: str, parts: list[str]) -> bool:
    at = 0
    for part in parts:
        at = text.find(part.strip(), at)
        if at < 0:
            return False
        at += len(part.strip())
    return True


# Errors

ERRORS = section("errors.md", "BencherJobError")
WARNINGS = section("errors.md", "CacheWarning")


def test_there_is_something_to_compare() -> None:
    assert len(messages()) > 50
    assert {"StoreFailure", "StoreBusy", *ELSEWHERE} <= error_classes()


def test_each_error_that_the_code_raises_stands_in_the_reference_with_a_remedy() -> None:
    untold = [
        message
        for message in messages()
        if re.search(r"[a-z]{3}", message.text)
        and not any(
            says(row, message.text)
            for row in first_cells(WARNINGS if message.given_to == "warn_caller" else ERRORS)
        )
    ]
    assert [
        each for each in untold if each.text != "…. The caller gets it, and the next call computes it again."
    ] == []


def test_each_message_in_the_reference_is_one_of_the_code() -> None:
    told = [one for row in first_cells(ERRORS) + first_cells(WARNINGS) for one in row.split("; ")]
    assert [one for one in told if not any(says(one, text) for text in all_texts())] == []


@pytest.mark.parametrize("name", sorted(set(ERROR_NAMES) - {"BencherJobError", "CacheWarning"}))
def test_each_public_error_has_a_section_with_a_remedy(name: str) -> None:
    assert "Remedy: " in section("errors.md", name)


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    page = (REFERENCE / "errors.md").read_text()
    drawn = re.search(r"```text\n(.*?)```", page, re.DOTALL)[1]
    for name in ERROR_NAMES:
        error = getattr(bencher_job, name, None)
        if error is not None:
            assert re.search(rf"\b{name}\b", drawn)
            bases = {base.__name__ for base in error.__bases__} - {
                "Exception",
                "BencherJobError",
                "UserWarning",
            }
            assert all(f"{name} ({base})" in drawn for base in bases)


# Environment variables


def variables_that_are_read() -> set[str]:
    """The names that the code looks up in the environment."""
    found = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Attribute(attr="environ" | "environb"), attr="get" | "pop"),
                    args=[name, *_],
                ):
                    found.add(text_of(name.func.value if isinstance(name, ast.Call) else name))
                case ast.Call(func=ast.Attribute(attr="getenv"), args=[name, *_]):
                    found.add(text_of(name))
                case ast.Subscript(value=ast.Attribute(attr="environ" | "environb"), slice=name):
                    found.add(text_of(name))
                case ast.Compare(left=name, comparators=[ast.Attribute(attr="environ" | "environb")]):
                    found.add(text_of(name))
    return found


def test_each_variable_that_the_code_reads_stands_in_the_reference() -> None:
    told = code_in(section("settings.md", "Environment variables"))
    read = variables_that_are_read()
    assert {"BENCHER_JOB", "BENCHER_JOB_CACHE_DIR", "BENCHER_JOB_SECRET", "_ARGCOMPLETE"} <= read
    in_a_loop = {"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"}
    assert (read - {"…"}) | in_a_loop <= told


def test_each_variable_of_ours_in_the_reference_is_read() -> None:
    told = code_in(section("settings.md", "Environment variables"))
    assert {name for name in told if name.startswith("BENCHER_JOB")} <= variables_that_are_read()


# What lies on the disk


@cached_job
def keep(array: object, small: bool) -> object:
    """Write a file, and give a value that lies in a file or in a row."""
    Path(gen_path("film")).write_text("frame")
    return {"small": 1} if small else {"array": array, "text": "x" * 100_000}


@pytest.fixture
def store() -> Path:
    """The folder of a store that was used: an entry in a row, one in a file, media, a lease, and a damaged one."""
    array = np.arange(10_000)
    keep(array, True)
    keep(array, False)
    keep(array + 1, False)
    directory = keep.cache.cache.directory
    keep.cache.close()
    path, *_ = sorted(directory.glob("??/??/*.val"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(bencher_job.CacheWarning):
        keep(array, False), keep(array + 1, False)
    keep.cache.close()
    return directory


def test_each_file_of_a_store_stands_in_the_reference(store: Path) -> None:
    tree = re.search(r"```text\n(.*?)```", (REFERENCE / "on-disk.md").read_text(), re.DOTALL)[1]
    told = {*re.findall(r"^ +([\w.]+)", tree, re.MULTILINE)}
    there = {path.name for path in (*store.iterdir(), *store.parent.iterdir())}
    assert {"damaged", "media", "generation", "owners"} <= there
    assert {name for name in there if not re.fullmatch(r"[0-9a-f]{2}", name)} <= told
    assert told - there <= {"CACHEDIR.TAG", ".gitignore", "ab"}


def test_each_table_and_column_of_the_database_stands_in_the_reference(store: Path) -> None:
    text = section("on-disk.md", "cache.db")
    told = {name for cell in first_cells(text) for name in code_in(cell)}
    with closing(sqlite3.connect(store / "cache.db")) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        columns = {row[1] for row in database.execute("PRAGMA table_info(Cache)")}
    assert tables | columns == told


def read_entry(entry: bytes) -> tuple[str, object]:
    """Read an entry that is neither signed nor compressed, by what the reference says of its bytes."""
    magic, version, kind, length, digest = struct.unpack_from("<4sBBH32s", entry)
    page = (REFERENCE / "on-disk.md").read_text()
    assert (magic, kind) == (b"BJe\0", 0)
    assert f"| version of this format, {version} |" in page
    assert digest == blake3.blake3(entry[:8] + entry[40:]).digest()
    key = entry[40 : 40 + length].decode()
    compression, count = struct.unpack_from("<BI", entry, 40 + length)
    assert compression == 0
    at = 40 + length + 5
    sizes = struct.unpack_from(f"<{2 * (count + 1)}Q", entry, at)
    assert sizes[::2] == sizes[1::2]
    at += 16 * (count + 1)
    stream, at = entry[at : at + sizes[0]], at + sizes[0]
    buffers = []
    for size in sizes[2::2]:
        at += -at % 64
        buffers.append(entry[at : at + size])
        at += size
    assert at == len(entry)
    return key, loads(stream, buffers=buffers)


def test_an_entry_is_read_by_what_the_reference_says(store: Path) -> None:
    with closing(sqlite3.connect(store / "cache.db")) as database:
        rows = database.execute("SELECT key, mode, filename, value FROM Cache").fetchall()
    assert {mode for _, mode, _, _ in rows} == {1, 2}
    for key, mode, filename, value in rows:
        read_key, read_value = read_entry(value if mode == 1 else (store / filename).read_bytes())
        assert read_key == key
        assert read_value == {"small": 1} or len(read_value["array"]) == 10_000


def test_the_members_of_an_archive_are_those_of_the_reference(store: Path, tmp_path: Path) -> None:
    keep.cache.export(tmp_path / "all.tar")
    keep.cache.close()
    with tarfile.open(tmp_path / "all.tar") as archive:
        there = {re.sub(r"(?<=editions/)\w+|(?<=entries/)\d+", "X", name) for name in archive.getnames()}
    told = code_in("".join(f"`{cell}`" for cell in first_cells(section("on-disk.md", "An archive"))))
    patterns = {re.sub(r"<\w+>", "X", name.strip("`")) for name in told}
    assert {name for name in patterns if not name.endswith("...")} <= there
    for name in there:
        assert any(name == p or (p.endswith("...") and name.startswith(p[:-3])) for p in patterns), name
