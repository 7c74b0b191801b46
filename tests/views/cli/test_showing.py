"""`show` gives the entries that are meant, by function, key, tag, argument and time, without importing their code."""

from __future__ import annotations

import json
import re

import pytest

from tests.shell import Shell


def arguments_of(study: Shell, *words: str) -> list[dict[str, object]]:
    return [record["arguments"] for record in study.document("show", *words)["records"]]


def test_entries_are_shown_with_whole_keys_in_a_pipe(study: Shell) -> None:
    header, *lines = study.out("show", "score").splitlines()
    assert header.split() == ["key", "cache", "function", "begun", "took", "size", "tag", "code", "arguments"]
    assert len(lines) == 4
    keys = [record["key"] for record in study.document("show", "score")["records"]]
    assert [line.split()[0] for line in lines] == keys
    assert re.search(r"nightly  [0-9a-f]{10}  model='svm', c=0\.1$", lines[0])


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ([], 5),
        (["study.score"], 4),
        (["score"], 4),
        (["score", "loss"], 5),
        (["--tag", "weekly"], 1),
        (["--where", "c=0.1"], 2),
        (["score", "--where", "c=0.1", "--where", "model=svm"], 1),
        (["--since", "1h"], 5),
        (["--until", "2030-01-31"], 5),
        (["--since", "2020-01-31", "--until", "2030-01-31T12:00+01:00"], 5),
        (["score", "--limit", "3"], 3),
        (["score", "--limit", "3", "loss"], 4),
        (["--tag", "weekly", "score", "--since", "1h", "loss"], 1),
    ],
)
def test_filters_choose(study: Shell, words: list[str], count: int) -> None:
    assert len(study.document("show", *words)["records"]) == count


@pytest.mark.parametrize("words", [["--tag", "none"], ["--where", "c=7"], ["--until", "1h"]])
def test_where_nothing_is_chosen_the_exit_code_says_so(study: Shell, words: list[str]) -> None:
    ended = study.run("show", *words)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "no entries\n", "")
    assert json.loads(study.run("show", *words, "--json").stdout)["records"] == []


def test_an_unknown_name_is_told_and_the_others_are_shown(study: Shell) -> None:
    ended = study.run("show", "loss", "nothing")
    assert ended.returncode == 1
    assert ended.stderr == "bencher-job: no function is called nothing, and no key begins so\n"
    assert "study.loss" in ended.stdout


def test_the_first_digits_of_a_key_are_enough(study: Shell) -> None:
    record = study.document("show", "score")["records"][2]
    assert arguments_of(study, record["key"][:12]) == [record["arguments"]]
    assert arguments_of(study, record["key"]) == [record["arguments"]]


def test_digits_that_begin_several_keys_are_refused_with_a_choice(shell: Shell) -> None:
    shell.program(
        """
        from bencher_job import FutureCache, Job

        with FutureCache() as cache:
            for key in ("abcdef01", "abcdef02", "any key"):
                cache.submit(Job("power", pow, {"base": 2, "exp": 5}, job_key=key)).result()
        """
    )
    code, sentence = shell.failure("show", "abcd")
    assert code == 2
    assert sentence == "abcd is the beginning of several keys: abcdef01, abcdef02. Give more digits."
    assert [r["key"] for r in shell.document("show", "abcdef01")["records"]] == ["abcdef01"]
    assert [r["key"] for r in shell.document("show", "any key")["records"]] == ["any key"]
    assert shell.run("show", "abc").returncode == 1  # too few digits to be the beginning of a key


def test_a_name_that_ends_several_functions_is_refused(study: Shell) -> None:
    study.program(
        """
        from bencher_job import cached_job

        class Model:
            @staticmethod
            @cached_job
            def loss(x):
                return x

        Model.loss(1)
        """,
        name="model",
    )
    code, sentence = study.failure("show", "loss")
    assert code == 2
    assert "model.Model.loss, study.loss" in sentence


def test_the_document_of_a_record_is_json_whatever_it_holds(shell: Shell) -> None:
    shell.program(
        """
        from bencher_job import cached_job

        @cached_job(tag="\\x1b[31m")
        def odd(*numbers, name, **rest):
            return numbers

        odd(float("nan"), float("inf"), name="line\\nbreak \\udcff", raw=b"\\0", more=-float("inf"))
        """
    )
    (record,) = shell.document("show")["records"]
    assert record["arguments"]["more"] == "-Infinity"
    assert record["arguments"]["name"] == "line\nbreak \udcff"
    assert record["created"].endswith("Z")
    text = shell.out("show")
    assert "\x1b" not in text
    assert "line\\nbreak" in text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--where", "c"], "'c' is not a filter"),
        (["--where", "c=1", "--where", "c=2"], "two filters for c"),
        (["--since", "1h", "--until", "2h"], "is not before until"),
        (["--cache-name", "../x"], "is not the name of a folder"),
    ],
)
def test_options_that_make_no_sense_are_told(study: Shell, words: list[str], told: str) -> None:
    code, sentence = study.failure("show", *words)
    assert code in {2, 5}
    assert told in sentence


@pytest.mark.parametrize("words", [["--since", "yesterday"], ["--limit", "-1"], ["--wait", "nan"], ["--tog"]])
def test_options_that_can_t_be_read_are_misuse(study: Shell, words: list[str]) -> None:
    ended = study.run("show", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: bencher-job ")
    assert "Traceback" not in ended.stderr


ENTRIES = """
    from dataclasses import dataclass
    from bencher_job import cached_job, gen_path

    SCALE = 3

    @dataclass
    class Point:
        x: int

    def scaled(x):
        return x * SCALE

    @cached_job(version="May", ttl=3600)
    def film(x):
        with open(gen_path("film", suffix=".txt"), "w") as file:
            file.write("frame")
        return {"x": scaled(x), "raw": b"\\0", "where": {1, 2}, "none": float("nan")}

    @cached_job
    def point(x):
        return Point(x)

    @cached_job
    def large(x):
        return "x" * 100_000

    film(2)
    film(2)
    point(1)
    large(1)
"""


@pytest.fixture
def keys(shell: Shell) -> dict[str, str]:
    """The keys of three entries, by the names of their functions; the code of one is still there."""
    shell.program(ENTRIES)
    return {record["function"].split(".")[-1]: record["key"] for record in shell.document("show")["records"]}


def test_of_a_key_everything_is_told(shell: Shell, keys: dict[str, str]) -> None:
    (record,) = shell.document("show", keys["film"][:10])["records"]
    (file,) = record["media_files"]
    assert file["path"].endswith("/generic/film-1.txt")
    assert file["size"] == 5
    known = {name: record[name] for name in ("key", "hits", "version", "parameters", "damage", "file")}
    assert known == {
        "key": keys["film"],
        "hits": 1,
        "version": "'May'",
        "parameters": ["x"],
        "damage": None,
        "file": None,
    }
    assert record["created"] < record["last_used"] < record["expires"]
    assert {"study.film", "study.scaled"} <= {*record["parts"]}
    text = shell.out("show", keys["film"][:10])
    assert text.startswith("study.film(x=2)\n")
    for told in (
        keys["film"],
        file["path"],
        "whole",
        "expires",
        "May",
        "study.scaled",
        record["fingerprint"],
    ):
        assert told in text


def test_of_a_result_is_told_what_can_be_without_unpickling_it(shell: Shell, keys: dict[str, str]) -> None:
    (film,) = shell.document("show", keys["film"])["records"]
    assert film["result"] == {"x": 6, "raw": "b'\\x00'", "where": "{1, 2}", "none": "NaN"}
    (point,) = shell.document("show", keys["point"])["records"]
    assert point["result"] == {"x": 1}
    assert "result     Point(x=1)" in shell.out("show", keys["point"])


def test_the_results_of_many_entries_are_told_when_they_are_asked_for(study: Shell) -> None:
    records = study.document("show", "score", "--results")["records"]
    assert [record["result"]["accuracy"] for record in records] == pytest.approx([0.3, 3.0, 0.6, 6.0])
    lines = study.out("show", "score", "--results").splitlines()
    assert lines[0].split()[-2:] == ["arguments", "result"]
    assert lines[2].endswith("accuracy=3")
    assert "result" not in study.document("show", "score")["records"][0]


def test_a_damaged_result_among_many_is_left_out_with_a_warning(shell: Shell, keys: dict[str, str]) -> None:
    (path,) = (shell.folder / "cachedir" / "fcache").glob("??/??/*.val")
    path.write_bytes(path.read_bytes()[:-1] + b"y")
    ended = shell.run("show", "large", "--results", "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["records"][0]["result"] is None
    assert ended.stderr.startswith(f"bencher-job: warning: The entry {keys['large']} in ")


def test_a_damaged_entry_is_told_as_such_and_stays(shell: Shell, keys: dict[str, str]) -> None:
    (path,) = (shell.folder / "cachedir" / "fcache").glob("??/??/*.val")
    path.write_bytes(path.read_bytes()[:-1] + b"y")
    before = shell.files()
    assert "damaged: " in shell.out("show", keys["large"])
    assert shell.document("show", keys["large"])["records"][0]["damage"]
    code, sentence = shell.failure("show", keys["large"], "--value")
    assert code == 5
    assert f"the result of {keys['large']} can't be shown" in sentence
    assert shell.files() == before


def test_a_result_is_shown_when_it_is_asked_for(shell: Shell, keys: dict[str, str]) -> None:
    value = shell.document("show", keys["film"], "--value")["records"][0]["value"]
    assert value == {"x": 6, "raw": {"base64": "AA=="}, "where": {"repr": "{1, 2}"}, "none": "NaN"}
    assert "result     {'x': 6, 'raw': b" in shell.out("show", keys["film"], "--value")


def test_a_result_whose_class_is_gone_is_told_and_its_record_shown(
    shell: Shell, keys: dict[str, str]
) -> None:
    assert shell.document("show", keys["point"])["records"][0]["key"] == keys["point"]
    code, sentence = shell.failure("show", keys["point"], "--value")
    assert code == 5
    assert sentence.startswith(f"the result of {keys['point']} can't be unpickled: ")


def test_a_result_is_never_unpickled_unasked(shell: Shell) -> None:
    shell.program(
        """
        import os
        from bencher_job import cached_job

        class Trap:
            def __reduce__(self):
                return os.mkdir, ("sprung",)

        @cached_job
        def trap():
            return Trap()

        trap()
        """
    )
    key = shell.document("show")["records"][0]["key"]
    for words in (
        ["show", key],
        ["show", key, "--json"],
        ["ls"],
        ["verify"],
        ["export", "x.tar"],
        ["import", "x.tar"],
    ):
        shell.out(*words)
    assert not (shell.folder / "sprung").exists()
    shell.run("show", key, "--value")
    assert (shell.folder / "sprung").exists()


def test_what_an_encoding_has_no_letters_for_is_written_as_an_escape(shell: Shell) -> None:
    shell.program("from bencher_job import cached_job\n\n@cached_job\ndef f(x):\n    return x\n\nf('\u00e9')")
    ended = shell.run("show", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("x='\\xe9'\n")


def test_results_of_whole_functions_are_refused(study: Shell) -> None:
    for words in (["--value"], ["score", "--value"]):
        code, sentence = study.failure("show", *words)
        assert code == 2
        assert sentence.startswith("--value shows the results of single entries")


def test_what_became_of_a_removed_entry_is_told(study: Shell) -> None:
    key = study.document("show", "score")["records"][0]["key"]
    study.out("clear", key, "--yes")
    ended = study.run("show", key[:10])
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"bencher-job: the entry {key} was cleared on 20")
