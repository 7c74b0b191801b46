"""What the page asks for is answered from records and bytes alone: rows, points, entries, files, and changes."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.views.page.caches import PIXEL, entry, fill, key_of, run_with_files
from tests.views.page.serving import Served, serving

LONGEST_TEXT = 3_000

TRAIN = {"store": "fcache", "function": "study.train"}


def column(answer: dict[str, Any], name: str) -> list[Any]:
    """The cells of a column on a page."""
    at = [each["id"] for each in answer["columns"]].index(name)
    return [plain(row["cells"][at]) for row in answer["rows"]]


def plain(cell: Any) -> Any:
    """The value of a cell. A whole float comes with its text, since JavaScript can't tell it from an int."""
    return cell["n"] if isinstance(cell, dict) and "n" in cell else cell


def test_functions_come_with_their_figures(shared: Served) -> None:
    overview = shared.get("overview").json()
    (store,) = overview["stores"]
    assert [(each["name"], each["entries"], each["hits"]) for each in store["functions"]] == [
        ("study.report.title", 5, 0),
        ("study.train", 60, 0),
    ]
    assert overview["stamp"] == shared.get("stamp").json()["stamp"]


def test_columns_are_arguments_fields_of_results_and_what_the_record_knows(shared: Served) -> None:
    columns = shared.get("columns", **TRAIN).json()["columns"]
    assert [(each["id"], each["group"], each["kind"]) for each in columns] == [
        ("arguments.model", "argument", "text"),
        ("arguments.c", "argument", "number"),
        ("arguments.seed", "argument", "number"),
        ("results.accuracy", "result", "number"),
        ("results.epochs", "result", "number"),
        ("created", "record", "time"),
        ("seconds", "record", "number"),
        ("size", "record", "number"),
        ("hits", "record", "number"),
        ("tag", "record", "text"),
        ("code", "record", "text"),
    ]


def test_rows_are_sorted_and_cut_into_pages(shared: Served) -> None:
    page = shared.get("rows", **TRAIN, sort="results.accuracy", first=10, size=5).json()
    assert (page["total"], page["first"]) == (60, 10)
    assert column(page, "arguments.seed") == [10, 11, 12, 13, 14]
    page = shared.get("rows", **TRAIN, sort="-arguments.seed", first=10**6, size=25).json()
    assert (page["first"], column(page, "arguments.seed")) == (50, list(range(9, -1, -1)))


@pytest.mark.parametrize(
    ("asked", "seeds"),
    [
        (
            {"filters": '{"arguments.model": "svm", "arguments.c": ">=10", "tag": "night"}'},
            [3, 15, 27, 39, 51],
        ),
        ({"filters": '{"results.accuracy": ">0.95"}'}, [58, 59]),
        ({"filters": '{"results.epochs": "6", "arguments.seed": "0..20"}'}, [6, 13, 20]),
        ({"filters": '{"created": ">2026-03-01T12:57Z"}'}, [58, 59]),
        ({"search": key_of(7)[:12]}, [7]),
        ({"search": "no such"}, []),
    ],
)
def test_rows_are_filtered(shared: Served, asked: dict[str, str], seeds: list[int]) -> None:
    page = shared.get("rows", **TRAIN, sort="arguments.seed", **asked).json()
    assert column(page, "arguments.seed") == seeds


@pytest.mark.parametrize(
    ("name", "asked", "status"),
    [
        ("rows", {**TRAIN, "filters": '{"arguments.c": ">"}'}, 422),
        ("rows", {**TRAIN, "filters": "{broken"}, 400),
        ("rows", {**TRAIN, "filters": "[1]"}, 400),
        ("rows", {**TRAIN, "filters": "[" * 20_000}, 400),
        ("rows", {**TRAIN, "filters": '{"a":' * 8_000}, 400),
        ("rows", {**TRAIN, "search": "x" * 60_000}, 422),
        ("rows", {**TRAIN, "sort": "x" * 60_000}, 422),
        ("rows", {**TRAIN, "filters": json.dumps({"tag": "x" * 50_000})}, 422),
        ("rows", {**TRAIN, "filters": json.dumps({"arguments." + "x" * 50_000: "1"})}, 422),
        ("rows", {**TRAIN, "filters": '{"tag": "\\ud800"}'}, 422),
        ("rows", {"store": "fcache"}, 400),
        ("rows", {"store": "absent", "function": "f"}, 404),
        ("rows", {"store": "../x", "function": "f"}, 404),
        ("entry", {"store": "fcache", "key": "absent"}, 404),
        ("points", {**TRAIN, "x": "seconds"}, 400),
    ],
)
def test_what_can_not_be_answered_says_why(
    shared: Served, name: str, asked: dict[str, str], status: int
) -> None:
    answered = shared.get(name, **asked)
    assert answered.status == status
    assert answered.json()["error"]


@pytest.mark.parametrize("letter", ["x", "%", "_", "\\", "é", "\U0001f600"])
def test_the_longest_search_is_answered(shared: Served, letter: str) -> None:
    assert shared.get("rows", **TRAIN, search=letter * LONGEST_TEXT).status == 200
    assert shared.get("rows", **TRAIN, filters=json.dumps({"tag": letter * LONGEST_TEXT})).status == 200


@pytest.mark.parametrize(
    "number", [str(2**63), str(-(2**63) - 1), "9" * 40, ">" + "9" * 2000, "1e400", "<1e308"]
)
@pytest.mark.parametrize("column", ["seconds", "arguments.c", "size", "tag", "created"])
def test_a_filter_by_any_number_is_answered(shared: Served, number: str, column: str) -> None:
    assert shared.get("rows", **TRAIN, filters=json.dumps({column: number})).status in {200, 422}


@pytest.mark.parametrize("name", ["clear", "export"])
@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 100_000, b"1", b"", b"\xff", b'{"store": 1}'])
def test_a_change_that_is_not_understood_says_so(shared: Served, name: str, body: bytes) -> None:
    answered = shared.post_bytes(name, body)
    assert answered.status in {400, 404, 422}
    assert answered.json()["error"]


def test_points_are_columns_of_cells(shared: Served) -> None:
    asked = {**TRAIN, "x": "arguments.seed", "y": "results.accuracy", "color": "arguments.model"}
    points = shared.get("points", **asked, filters='{"arguments.seed": "<3"}').json()
    cells = [[plain(cell) for cell in column] for column in points["cells"]]
    assert cells == [[0, 1, 2], [0, 1 / 60, 2 / 60], ["svm", "forest", "boosting"]]
    assert (points["total"], points["every"], len(points["keys"])) == (3, 1, 3)


def test_all_that_is_known_of_an_entry_is_told(shared: Served) -> None:
    told = shared.get("entry", store="fcache", key=key_of(7)).json()
    assert told["arguments"] == [["model", "forest"], ["c", {"t": "10.0", "n": 10.0}], ["seed", 7]]
    assert (told["function"], told["tag"], told["seconds"], told["hits"]) == (
        "study.train",
        "nightly",
        3.5,
        0,
    )
    assert ["host", "atlas"] in told["run"]
    assert ["commit", "a1b2c3"] in told["run"]
    assert told["value"]["outline"]["items"] == [
        ["accuracy", {"kind": "number", "text": "0.11666666666666667"}],
        ["epochs", {"kind": "number", "text": "0"}],
    ]


def test_looking_counts_no_hit_and_changes_no_file(served: Served, cache: Path) -> None:
    files = [
        path for path in cache.rglob("*") if path.is_file() and path.suffix not in {".db-shm", ".db-wal"}
    ]
    before = {path: path.stat().st_mtime_ns for path in files}
    served.get("rows", **TRAIN)
    served.get("entry", store="fcache", key=key_of(7))
    served.end()
    assert before
    assert {path: path.stat().st_mtime_ns for path in before} == before


class Boom:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@dataclass(slots=True, frozen=True)
class Slotted:
    accuracy: float


@pytest.mark.parametrize("trust", [False, True])
def test_only_a_trusted_cache_is_unpickled(tmp_path: Path, trust: bool) -> None:
    target = tmp_path / "made"
    fill(tmp_path / "c" / "fcache", entry(1, "f", {}, Boom(target)), entry(2, "f", {"x": 1}, np.arange(4)))
    with serving(tmp_path / "c", *(["--trust"] if trust else [])) as server:
        server.begin()
        server.get("rows", store="fcache", function="f", sort="results.result")
        told = server.get("entry", store="fcache", key=key_of(1)).json()["value"]
        points = server.get(
            "points", store="fcache", function="f", x="arguments.x", y="results.result"
        ).json()
    assert target.exists() is trust
    assert ("text" in told or "can't be unpickled" in told["note"]) is trust
    assert "ndarray 4 int64" in points["cells"][1]


def test_values_whose_class_is_gone_are_told_of_all_the_same(tmp_path: Path) -> None:
    stream = pickle.dumps(Slotted(0.5), protocol=5).replace(b"Slotted", b"Removed")
    gone = entry(1, "f", {}, None)
    fill(tmp_path / "c" / "fcache", type(gone)(type(gone.payload)(stream), gone.record))
    for options in ([], ["--trust"]):
        with serving(tmp_path / "c", *options) as server:
            server.begin()
            value = server.get("entry", store="fcache", key=key_of(1)).json()["value"]
            assert value["outline"]["text"].endswith(".Removed")
            assert ("can't be unpickled here" in value["note"]) is bool(options)


def test_with_trust_fields_are_named_that_only_the_class_knows(tmp_path: Path) -> None:
    fill(tmp_path / "c" / "fcache", entry(1, "f", {}, Slotted(0.5)))
    with serving(tmp_path / "c", "--trust") as server:
        server.begin()
        page = server.get("rows", store="fcache", function="f").json()
    assert column(page, "results.accuracy") == [0.5]


def test_damaged_entries_are_told_of_and_left_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "c" / "fcache"
    fill(folder, entry(1, "f", {"x": 1}, "a" * 100_000))
    path = next(folder.glob("??/??/*.val"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with serving(tmp_path / "c") as server:
        server.begin()
        assert server.get("rows", store="fcache", function="f").json()["total"] == 1
        assert "can't be read" in server.get("entry", store="fcache", key=key_of(1)).json()["value"]["note"]
    assert path.exists()
    assert not (folder / "damaged").exists()


def test_a_store_that_others_can_write_to_is_not_shown_unless_trusted(cache: Path) -> None:
    (cache / "fcache").chmod(0o777)
    with serving(cache) as server:
        server.begin()
        (store,) = server.get("overview").json()["stores"]
        assert "can be written to by others" in store["error"]
        assert server.get("rows", **TRAIN).status == 403
    with serving(cache, "--trust") as server:
        server.begin()
        assert server.get("rows", **TRAIN).json()["total"] == 60


def test_what_is_stored_later_is_shown_also_in_a_directory_that_was_not_there(tmp_path: Path) -> None:
    with serving(tmp_path / "c") as server:
        server.begin()
        first = server.get("overview").json()
        assert first["stores"] == []
        fill(tmp_path / "c" / "fcache", entry(1, "f", {}, 1))
        second = server.get("overview").json()
        assert [each["name"] for each in second["stores"][0]["functions"]] == ["f"]
        assert second["stamp"] != first["stamp"]
        fill(tmp_path / "c" / "fcache", entry(2, "f", {}, 1))
        assert server.get("stamp").json()["stamp"] != second["stamp"]
        assert server.get("rows", store="fcache", function="f").json()["total"] == 2


def test_an_entry_that_is_replaced_is_read_again(served: Served, cache: Path) -> None:
    asked = {**TRAIN, "filters": '{"arguments.seed": "=7"}'}
    assert column(served.get("rows", **asked).json(), "results.accuracy") == [7 / 60]
    fill(cache / "fcache", entry(7, "study.train", {"seed": 7}, {"accuracy": 2.0}))
    assert column(served.get("rows", **asked).json(), "results.accuracy") == [2.0]


def test_all_that_passes_a_filter_is_cleared_unless_it_is_more_than_was_asked_about(served: Served) -> None:
    given = {**TRAIN, "filters": {"arguments.model": "svm"}, "search": ""}
    refused = served.post("clear", **given, count=19)
    assert (refused.status, refused.json()["error"]) == (
        409,
        "There are 20 entries now, and you were asked about 19.",
    )
    assert served.post("clear", **given, count=20).json() == {"removed": 20}
    assert served.get("rows", **TRAIN).json()["total"] == 40


@pytest.mark.parametrize("body", [{"store": "fcache"}, {"store": "fcache", "keys": 1}, {"keys": []}])
def test_a_change_of_nothing_clear_changes_nothing(served: Served, body: dict[str, Any]) -> None:
    assert served.post("clear", **body).status == 400
    assert served.get("rows", **TRAIN).json()["total"] == 60


def test_entries_are_exported_to_an_archive_that_import_takes(served: Served) -> None:
    archive = served.post("export", store="fcache", keys=[key_of(1), key_of(2), "gone"])
    assert (archive.headers["content-type"], archive.headers["x-entries"]) == ("application/x-tar", "2")
    with tarfile.open(fileobj=BytesIO(archive.body)) as tar:
        assert sum(name.endswith("entry.json") for name in tar.getnames()) == 2


def test_exporting_what_passes_a_filter_changes_nothing(served: Served) -> None:
    given = {**TRAIN, "filters": {"arguments.model": "svm"}, "count": 20}
    assert served.post("export", **given).headers["x-entries"] == "20"
    assert served.get("rows", **TRAIN).json()["total"] == 60


FILES = {
    "generic/plot-1.png": PIXEL,
    "generic/drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "generic/page.html": b"<script>alert(1)</script>",
    "generic/film.mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
    "generic/noname-2.dat": PIXEL,
    "generic/words-3.dat": "größer".encode(),
    "generic/binary-4.dat": b"\0\1\2",
    "größe #1?.txt": b"named oddly",
    "run.py": b"print()",
}


@pytest.fixture(scope="module")
def with_files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("files")
    folder = directory / "fcache"
    name = run_with_files(folder, key_of(1), FILES)
    (folder / "media" / name / "link.txt").symlink_to("/etc/passwd")
    (folder / "media" / name / "linked").symlink_to("/etc")
    fill(folder, entry(1, "f", {}, 1, media=name), entry(2, "f", {}, 1))
    with serving(directory) as server:
        server.begin()
        yield server


def file(server: Served, path: str, key: str = key_of(1), **headers: str) -> Any:
    return server.ask(
        f"{server.view}/media/fcache/{key}/{path}", headers={"cookie": server.cookie, **headers}
    )


def test_files_are_told_of_by_kind(with_files: Served) -> None:
    files = with_files.get("entry", store="fcache", key=key_of(1)).json()["media"]
    assert {each["name"]: each["kind"] for each in files} == {
        "generic/plot-1.png": "image",
        "generic/drawing.svg": "image",
        "generic/page.html": "text",
        "generic/film.mp4": "video",
        "generic/noname-2.dat": "image",
        "generic/words-3.dat": "text",
        "generic/binary-4.dat": "other",
        "größe #1?.txt": "text",
        "run.py": "text",
    }


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("generic/plot-1.png", "image/png"),
        ("generic/noname-2.dat", "image/png"),
        ("generic/drawing.svg", "image/svg+xml"),
        ("generic/page.html", "text/plain; charset=utf-8"),
        ("generic/film.mp4", "video/mp4"),
        ("generic/binary-4.dat", "application/octet-stream"),
        ("gr%C3%B6%C3%9Fe%20%231%3F.txt", "text/plain; charset=utf-8"),
    ],
)
def test_a_file_is_of_a_fixed_type_and_can_run_nothing(with_files: Served, path: str, kind: str) -> None:
    answered = file(with_files, path)
    assert (answered.status, answered.headers["content-type"]) == (200, kind)
    assert answered.headers["content-security-policy"].endswith("sandbox")
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert ("attachment" in answered.headers.get("content-disposition", "")) is (
        kind == "application/octet-stream"
    )
    assert file(with_files, f"{path}?download").headers["content-disposition"].startswith("attachment")


def test_a_part_of_a_film_can_be_asked_for(with_files: Served) -> None:
    answered = file(with_files, "generic/film.mp4", range="bytes=4-7")
    assert (answered.status, answered.body) == (206, b"ftyp")


@pytest.mark.parametrize(
    "path",
    [
        "../../cache.db",
        "..%2f..%2fcache.db",
        "%2e%2e/%2e%2e/cache.db",
        "/etc/passwd",
        "%2fetc/passwd",
        "link.txt",
        "linked/passwd",
        "generic",
        "",
        "absent.png",
        "a%00b",
        "generic/plot-1.png/x",
    ],
)
def test_nothing_outside_of_a_runs_folder_is_served(with_files: Served, path: str) -> None:
    assert file(with_files, path).status == 404


def test_files_of_an_entry_without_files_are_none(with_files: Served) -> None:
    assert file(with_files, "generic/plot-1.png", key=key_of(2)).status == 404
    assert file(with_files, "generic/plot-1.png", key="absent").status == 404
